"""Removing channels, dropping blocks, folding batch norms: all exact."""

import copy

import pytest
import torch
from conftest import (
    CLASSES,
    MOBILENET,
    RESNET,
    VGG,
    inputs,
    logits,
    make_teacher,
    normal,
    randomise,
    same_state,
    state_of,
    uniform,
)
from torch import nn

from oefsmc_lib.compressors import importance, plans, surgery
from oefsmc_lib.errors import InputError
from oefsmc_lib.teacher import cost
from oefsmc_lib.teacher.networks import Architecture

R18 = Architecture("resnet18", CLASSES, 3, 1.0, 32)
R50 = Architecture("resnet50", CLASSES, 3, 1.0, 32)
EVERY = [VGG, RESNET, MOBILENET, R18]


def plan_of(architecture):
    return {"vgg16": "half", "resnet20": "all_inner", "resnet18": "all_inner"}.get(architecture.name, "inner_half")


def kept_by(teacher, plan=None):
    widths = plans.plan_widths(plan or plan_of(teacher.architecture), teacher.model, teacher.architecture)
    return {name: importance.top_channels(teacher.model.get_submodule(name).weight.abs().sum((1, 2, 3)), keep)
            for name, keep in widths.items()}


def masked(teacher, kept):
    """The same network with the removed filters silenced where the next layer reads them."""
    model = copy.deepcopy(teacher.model)
    layers = surgery.weight_layers(model, teacher.architecture)
    for name, channels in kept.items():
        reader = surgery.consumer(layers, model, name)
        mask = torch.zeros(model.get_submodule(name).out_channels)
        mask[channels] = 1
        model.get_submodule(reader).register_forward_pre_hook(
            lambda _m, x, mask=mask: (x[0] * mask.view(1, -1, *[1] * (x[0].dim() - 2)),))
    return model


@pytest.mark.parametrize("architecture", EVERY, ids=lambda a: a.name)
def test_slicing_equals_masking(architecture):
    teacher = make_teacher(architecture)
    kept, before, x = kept_by(teacher), state_of(teacher.model), inputs(4, architecture)
    student = surgery.pruned_copy(teacher, kept)
    assert torch.allclose(logits(student.model, x), logits(masked(teacher, kept), x), atol=1e-4)
    assert not torch.allclose(logits(student.model, x), logits(teacher.model, x), atol=1e-2)
    for name, channels in kept.items():
        assert student.model.get_submodule(name).out_channels == len(channels)
    assert cost.macs(student.model, architecture) < cost.macs(teacher.model, architecture)
    assert same_state(before, state_of(teacher.model))
    assert not any(p.requires_grad for p in student.model.parameters())
    assert (student.structure.architecture, student.structure.kept, student.structure.dropped) == (architecture, kept, [])


def test_keeping_everything_changes_nothing(teacher):
    student = surgery.pruned_copy(teacher, {})
    assert same_state(state_of(teacher.model), state_of(student.model))


def test_removing_channels_freezes_the_network_and_keeps_the_order(vgg):
    model = copy.deepcopy(vgg.model).requires_grad_(True)
    surgery.remove_channels(model, {"features.0": [7, 0]}, VGG)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model.features[0].weight, vgg.model.features[0].weight[[0, 7]])   # kept in the teacher's order


@pytest.mark.parametrize("channels", [[], [0, 0], [8], [10**6], [-1, 2]])
def test_channels_that_do_not_fit_are_refused(vgg, channels):
    with pytest.raises(InputError, match="do not fit its 8 outputs; the plan is for another network"):
        surgery.pruned_copy(vgg, {"features.0": channels})


def test_a_layer_that_nothing_reads_cannot_lose_channels(vgg):
    layers = surgery.weight_layers(vgg.model, VGG)
    assert surgery.consumer(layers, vgg.model, "features.40") == "classifier"
    with pytest.raises(InputError, match="No layer follows classifier"):
        surgery.consumer(layers, vgg.model, "classifier")


def test_the_reader_of_a_convolution_mixes_channels(mobilenet):
    layers = surgery.weight_layers(mobilenet.model, MOBILENET)
    # expansion -> (depthwise) -> projection
    assert surgery.consumer(layers, mobilenet.model, "features.2.conv.0.0") == "features.2.conv.2"


def test_a_layer_used_twice_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv(self.conv(x))
    with pytest.raises(InputError, match="runs the layer conv twice"):
        surgery.weight_layers(Twice(), VGG)


@pytest.mark.parametrize("architecture", [*EVERY, R50], ids=lambda a: a.name)
def test_every_convolution_here_is_followed_by_a_batch_norm(architecture):
    model = make_teacher(architecture).model
    found = surgery.trace(model, architecture)[1]
    assert set(found) == {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert set(found.values()) == {n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}


def test_a_batch_norm_before_its_convolution_is_not_taken_for_one_behind():
    architecture = Architecture("densenet121", CLASSES, 3, 1.0, 32)
    found = surgery.trace(architecture.build().eval(), architecture)[1]
    assert found["features.denseblock1.denselayer1.conv1"] == "features.denseblock1.denselayer1.norm2"
    assert "features.denseblock1.denselayer1.conv2" not in found


def test_a_batch_norm_with_an_activation_inside_is_none_to_merge_behind():
    class WithActivation(nn.BatchNorm2d):
        act = nn.ReLU()

        def forward(self, x):
            return self.act(super().forward(x))
    for norm, pairs in ((WithActivation(4), {}), (nn.BatchNorm2d(4), {"0": "1"})):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.Flatten(), nn.LazyLinear(2))
        assert surgery.trace(model, VGG) == (["0", "3"], pairs)


@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_merging_is_the_1x1_convolution_behind(batch_norm, bias, groups):
    """Invariant 3, with a negative, a zero and a large scale among the batch norm's."""
    conv = randomise(nn.Conv2d(6, 6, 3, bias=bias, groups=groups).requires_grad_(False), "conv", groups)
    norm = nn.BatchNorm2d(6).requires_grad_(False).eval() if batch_norm else nn.Identity()
    if batch_norm:
        norm.weight.copy_(torch.tensor([-1.0, 0.0, 30.0, 1e-3, 1.0, 2.0]))
        norm.bias.copy_(normal(6, "bias"))
        norm.running_mean.copy_(normal(6, "mean"))
        norm.running_var.copy_(uniform(6, "variance", low=0.1, high=1.1))
    q = normal(6, "q") if groups > 1 else torch.eye(6) + 0.3 * normal((6, 6), "q")
    x, before = normal((4, 6, 8, 8), "x"), copy.deepcopy(conv)
    y = norm(conv(x))
    expected = y * q.view(1, -1, 1, 1) if groups > 1 else nn.functional.conv2d(y, q[:, :, None, None])
    surgery.merge(q, conv, norm if batch_norm else None)
    assert float((norm(conv(x)) - expected).abs().max()) < 1e-5 * max(1, float(expected.abs().max()))
    if batch_norm:                                        # the step of a later gradient: rows as long as they were
        assert torch.allclose(conv.weight.flatten(1).norm(dim=1), before.weight.flatten(1).norm(dim=1), rtol=1e-4)


@pytest.mark.parametrize("zeros", ["a filter", "a row of Q", "both"])
def test_merging_is_exact_with_rows_of_zeros(zeros):
    """Q may give a filter of zeros what others see, and may silence a filter."""
    conv = randomise(nn.Conv2d(6, 6, 3).requires_grad_(False), "conv")
    norm = randomise(nn.BatchNorm2d(6).requires_grad_(False).eval(), "norm")
    norm.running_mean.copy_(normal(6, "mean"))
    norm.running_var[:] = 1e-5                            # as small as eps, which is added to it
    norm.weight[3] *= -1
    q = torch.eye(6) + 0.3 * normal((6, 6), "q")
    if zeros != "a row of Q":
        conv.weight[2:4] = 0
    if zeros != "a filter":
        q[3:5] = 0
    x = normal((4, 6, 8, 8), "x")
    expected = nn.functional.conv2d(norm(conv(x)), q[:, :, None, None])
    surgery.merge(q, conv, norm)
    assert float((norm(conv(x)) - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    if zeros != "a row of Q":                             # it had no length to get back, so its norm has scale 1
        assert float(norm.weight[2]) == pytest.approx((1e-5 + norm.eps) ** 0.5)
    assert all(tensor.isfinite().all() for module in (conv, norm) for tensor in module.state_dict().values())


def test_merging_the_identity_changes_nothing():
    conv, norm = nn.Conv2d(4, 5, 3).requires_grad_(False), nn.BatchNorm2d(5).requires_grad_(False).eval()
    for name, layer in (("conv", conv), ("norm", norm)):
        randomise(layer, name)
    norm.running_mean.copy_(normal(5, "mean"))
    norm.weight[1] *= -1
    before = [copy.deepcopy(m.state_dict()) for m in (conv, norm)]
    surgery.merge(torch.eye(5), conv, norm)
    for old, module in zip(before, (conv, norm)):
        assert all(torch.allclose(old[name], value, atol=1e-6) for name, value in module.state_dict().items())


def test_dropped_blocks_are_skipped(resnet):
    model, x = copy.deepcopy(resnet.model), inputs(3, RESNET)
    surgery.drop_units(model, ["layer1.1", "layer3.2"])
    with torch.no_grad():
        y = torch.relu(resnet.model.bn1(resnet.model.conv1(x)))
        for name in ("layer1.0", "layer1.2", "layer2.0", "layer2.1", "layer2.2", "layer3.0", "layer3.1"):
            y = resnet.model.get_submodule(name)(y)
        expected = resnet.model.fc(y.mean((2, 3)))
    assert torch.equal(logits(model, x), expected)


def test_a_dropped_unit_of_vgg_takes_its_batch_norm_and_relu_along(vgg):
    model = copy.deepcopy(vgg.model)
    surgery.drop_units(model, ["features.3"])
    assert [type(m) for m in model.features[3:6]] == [nn.Identity] * 3 and len(model.features) == len(vgg.model.features)


def test_a_unit_is_found_at_any_depth():
    model = nn.Sequential(nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), nn.Flatten()))
    surgery.drop_units(model, ["0.0.1"])
    assert [type(module) for module in model[0][0]] == [nn.Conv2d, nn.Identity] and type(model[0][1]) is nn.Flatten
