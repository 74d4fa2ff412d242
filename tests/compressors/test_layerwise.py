"""The walk from layer to layer: what each fit is shown, in which order, and what the layers behind it see."""

import pytest
import torch
from conftest import normal
from torch import nn

from oefsmc_lib.compressors import chunks, layerwise

IMAGES, WEIGHTS = normal((5, 3, 6, 6), "walked"), torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25])


class Noted:
    """A fit that keeps what it is shown and doubles its layer, so that every layer behind it sees twice as much."""

    def __init__(self, layer, channels=None):
        self.layer, self.channels, self.shown, self.ended = layer, channels, [], 0

    def add(self, student, teacher, weights):
        assert not torch.is_grad_enabled()
        self.shown.append((student.input.clone(), student.output.clone(), teacher.input.clone(), teacher.output.clone(), weights))

    def finish(self):
        self.ended += 1
        self.layer.weight.data *= 2
        return lambda x, y: (2 * y + nn.functional.conv2d(x, self.layer.weight, padding=self.layer.padding)) / 2

    def all(self):
        """What was shown in all chunks, joined."""
        return [torch.cat(parts) for parts in zip(*self.shown)]


def plain(*purpose):
    """Three convolutions without bias: the first and the last change in proportion to what goes in."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 6, 3, bias=False), nn.Conv2d(6, 2, 1, bias=False))
    for name, parameter in net.named_parameters():
        parameter.data.copy_(normal(parameter.shape, *purpose, name))
    return net.eval()


class Block(nn.Module):
    """A residual block as torchvision writes it, with a convolution on its shortcut."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(2))
        self.downsample = nn.Conv2d(3, 3, 1, bias=False)
        for name, parameter in self.named_parameters():
            parameter.data.copy_(normal(parameter.shape, "block", name))

    def forward(self, x):
        return self.conv2(self.conv1(x)) + self.downsample(x)


@pytest.fixture(params=["one pass", "chunks", "whole passes", "whole passes in chunks"])
def walked(request, monkeypatch):
    """(student before, teacher, fits) after a walk; the second layer has no fit, and the third asks for two channels."""
    ours, theirs = plain("ours"), plain("theirs")
    before = plain("ours")
    fits = {"0": Noted(ours[0]), "2": None, "3": Noted(ours[3], [1])}
    if "chunks" in request.param:
        monkeypatch.setattr(layerwise, "MAP_BYTES", 2 * layerwise.map_bytes(theirs, list(fits), IMAGES))
    if request.param == "one pass":
        monkeypatch.setattr(chunks, "walk", None)  # it is not called
    layerwise.walk(ours, theirs, fits, IMAGES, WEIGHTS, whole_passes="whole" in request.param)
    return request.param, before, ours, theirs, fits


@torch.no_grad()
def test_every_fit_sees_the_teacher_as_it_is_and_the_student_behind_what_was_fitted(walked):
    _, before, _, theirs, fits = walked
    x_s, y_s, x_t, y_t, weights = fits["0"].all()
    for found, expected in ((x_s, IMAGES), (y_s, before[0](IMAGES)), (x_t, IMAGES), (y_t, theirs[0](IMAGES)), (weights, WEIGHTS)):
        torch.testing.assert_close(found, expected)
    # Two doubled layers of three: the last one's input is twice what it was, and its own weight is not yet doubled.
    x_s, y_s, x_t, y_t, weights = fits["3"].all()
    torch.testing.assert_close(x_s, 2 * before[:3](IMAGES))
    torch.testing.assert_close(y_s, 2 * before(IMAGES))
    torch.testing.assert_close(x_t, theirs[:3](IMAGES))
    torch.testing.assert_close(y_t, theirs(IMAGES)[:, [1]])
    torch.testing.assert_close(weights, WEIGHTS)


@torch.no_grad()
def test_a_layer_is_finished_once_and_one_without_a_fit_stays(walked):
    _, before, ours, theirs, fits = walked
    assert [fits[name].ended for name in ("0", "3")] == [1, 1]
    assert torch.equal(ours[2].weight, before[2].weight) and torch.equal(theirs[0].weight, plain("theirs")[0].weight)
    torch.testing.assert_close(ours(IMAGES), 4 * before(IMAGES))


def test_chunks_hold_as_many_images_as_the_memory_allows(walked):
    kind, *_, fits = walked
    assert [len(shown[0]) for shown in fits["0"].shown] == ([2, 2, 1] if "chunks" in kind else [5])


@pytest.mark.parametrize("whole, passes", [(False, 0), (True, 2)])
def test_whole_passes_run_to_the_last_layer_for_each_fit(whole, passes, count_forwards, monkeypatch):
    """As batch norms in train mode need it, whose statistics move with every pass."""
    ours, theirs = plain("ours"), plain("theirs")
    fits = {"0": Noted(ours[0]), "2": Noted(ours[2])}
    monkeypatch.setattr(layerwise, "MAP_BYTES", 2 * layerwise.map_bytes(theirs, list(fits), IMAGES))
    with count_forwards(ours[3]) as last:
        layerwise.walk(ours, theirs, fits, IMAGES, WEIGHTS, whole_passes=whole)
    assert last.images == 5 * passes


def test_a_chunk_has_an_image_even_where_the_memory_holds_none(monkeypatch):
    ours, theirs = plain("ours"), plain("theirs")
    monkeypatch.setattr(layerwise, "MAP_BYTES", 1)
    fit = Noted(ours[0])
    layerwise.walk(ours, theirs, {"0": fit}, IMAGES, WEIGHTS)
    assert [len(shown[0]) for shown in fit.shown] == [1] * 5


def test_the_maps_of_layers_without_a_fit_count_for_the_size_of_chunks(monkeypatch):
    """So a layer that turns out to need no fit leaves the chunks, and with them the rounding, as they were."""
    ours, theirs = plain("ours"), plain("theirs")
    both = layerwise.map_bytes(theirs, ["0", "2"], IMAGES)
    monkeypatch.setattr(layerwise, "MAP_BYTES", 4 * both)
    alone, with_others = Noted(plain("ours")[0]), Noted(ours[0])
    layerwise.walk(plain("ours"), theirs, {"0": alone}, IMAGES, WEIGHTS)
    layerwise.walk(ours, theirs, {"0": with_others, "2": None}, IMAGES, WEIGHTS)
    assert [len(shown[0]) for shown in with_others.shown] == [4, 1] and len(alone.shown) == 1


def test_memory_that_is_just_enough_needs_no_chunks(monkeypatch):
    ours, theirs = plain("ours"), plain("theirs")
    monkeypatch.setattr(layerwise, "MAP_BYTES", 5 * layerwise.map_bytes(theirs, ["0"], IMAGES))
    monkeypatch.setattr(chunks, "walk", None)
    layerwise.walk(ours, theirs, {"0": Noted(ours[0])}, IMAGES, WEIGHTS)


@torch.no_grad()
@pytest.mark.parametrize("in_chunks", [False, True])
def test_the_layer_that_closes_a_block_is_shown_the_block_s_input_and_a_shortcut_is_fitted_once(in_chunks, monkeypatch):
    ours, theirs = nn.Sequential(Block()), nn.Sequential(Block())
    block, around = ours[0], []

    class Closing(Noted):
        def add(self, student, teacher, weights):
            around.append((student.around.clone(), teacher.around.clone()))
            # FSKD asks for the shortcut here. In one pass this fits it, and the block runs it once more behind this layer.
            block.downsample(student.around)
            super().add(student, teacher, weights)

    if in_chunks:
        monkeypatch.setattr(layerwise, "MAP_BYTES", 1)
    fits = {"0.conv1": Noted(block.conv1), "0.downsample": Noted(block.downsample), "0.conv2": Closing(block.conv2)}
    layerwise.walk(ours, theirs, fits, IMAGES, WEIGHTS)
    assert [fit.ended for fit in fits.values()] == [1, 1, 1]
    for side in (0, 1):
        torch.testing.assert_close(torch.cat([pair[side] for pair in around]), IMAGES)
    assert all(len(torch.cat([shown[0] for shown in fit.shown])) == 5 for fit in fits.values())


def test_map_bytes_counts_what_goes_in_and_out_of_one_image_and_leaves_the_mode(count_forwards):
    net = plain("ours").train()
    with count_forwards(net[0]) as seen:
        found = layerwise.map_bytes(net, ["0", "3"], IMAGES)
    assert found == 4 * ((3 * 36 + 4 * 16) + (6 * 4 + 2 * 4)) and seen.images == 1 and net.training
    assert layerwise.map_bytes(net.eval(), [], IMAGES) == 0 and not net.training


def test_map_bytes_runs_in_eval_mode_so_that_no_statistic_moves():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    layerwise.map_bytes(net, ["0"], IMAGES)
    assert int(net[1].num_batches_tracked) == 0 and net[1].training
