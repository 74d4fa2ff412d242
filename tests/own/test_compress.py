"""One function on tensors: any traceable network, the core's recipe, and what is refused before any work."""

import copy

import pytest
import torch
from conftest import inputs, normal, randomise, same_state, state_of, uniform
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import oefsmc_lib
from oefsmc_lib.compressors import chunks, surgery
from oefsmc_lib.errors import InputError
from oefsmc_lib.own import choose, network
from oefsmc_lib.own import compress as own
from oefsmc_lib.student import saved
from oefsmc_lib.teacher.networks import Architecture

SIDE = 32


def built(name, classes=3, size=SIDE):
    """A network of this name with numbers of the tests' own, whose batch norms fit real activations."""
    architecture = Architecture(name, classes, 3, 1.0, size)
    with torch.random.fork_rng(devices=[]):
        model = randomise(architecture.build(), name)
        model.train()
        with torch.no_grad():
            model(inputs(16, architecture))
    return model.eval(), architecture


def small(classes=3):
    """Convolution, batch norm, ReLU, convolution, head."""
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)
    return randomise(nn.Sequential(*layers, *head), "small").eval()


def images(count, *purpose, side=SIDE):
    return normal((count, 3, side, side), *purpose)


@torch.no_grad()
def kill_half(model, groups):
    """Channels that do nothing, in every layer that can be pruned: a plan of half removes exactly these."""
    norms = surgery.trace(model, Architecture("any", 3, 3, 1.0, SIDE))[1]
    modules = dict(model.named_modules())
    for name in groups:
        conv = modules[name]
        dead = torch.arange(conv.out_channels // 2)
        conv.weight[dead] = 0
        if conv.bias is not None:
            conv.bias[dead] = 0
        following = list(modules)[list(modules).index(name) + 1:]
        norm = modules.get(norms.get(name)) or next((modules[n] for n in following if isinstance(modules[n], nn.BatchNorm2d)), None)
        if norm is not None and norm.num_features == conv.out_channels:
            norm.running_mean[dead], norm.bias[dead], norm.weight[dead] = 0, 0, 0.5


@pytest.mark.parametrize("name", ["mobilenet_v2", "timm:resnet10t", "timm:mobilenetv2_035"])
def test_a_student_without_dead_channels_is_its_teacher(name):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    model, architecture = built(name)
    teacher = own.teacher_of(model, inputs(2, architecture), None)
    groups, sentence = network.prunable(teacher)
    assert groups and "keep all channels" in sentence
    kill_half(model, groups)
    before, x = state_of(model), inputs(8, architecture, seed=5)
    student = oefsmc_lib.compress(model, x[:3], inputs(10, architecture, seed=7), keep=0.5)
    assert same_state(before, state_of(model))                          # the teacher is not touched
    assert all(student.model.get_submodule(g).out_channels == model.get_submodule(g).out_channels // 2 for g in groups)
    with torch.no_grad():
        wanted, found = model(x), student.model(x)
    assert (wanted - found).abs().max() < 0.02 * wanted.abs().max()


@pytest.mark.parametrize("name", ["timm:resnet10t", "timm:mobilenetv2_035"])
def test_networks_of_timm_are_walked_piece_by_piece(name):
    pytest.importorskip("timm")
    model, architecture = built(name)
    assert len(chunks.chain(model, inputs(1, architecture))) >= 8       # else every layer would take a pass of the whole network


def test_recovery_on_images_from_elsewhere_brings_the_student_closer():
    model, architecture = built("resnet18")
    x = inputs(40, architecture, seed=3)
    student = oefsmc_lib.compress(model, x[:4], x[4:30], keep=0.5)
    unrecovered = surgery.pruned_copy(own.teacher_of(model, x, None), student.structure.kept).model
    with torch.no_grad():
        wanted = model(x[30:])
        errors = [float((net(x[30:]) - wanted).norm()) for net in (student.model, unrecovered)]
    assert errors[0] < 0.7 * errors[1]
    assert "finetune" not in student.notes                              # no labels, no fine-tuning


def test_tensors_loaders_and_data_sets_are_one():
    model, x, y, other = small(), images(6, "few"), torch.tensor([0, 0, 0, 1, 1, 2]), images(20, "other")
    data = TensorDataset(x, y)
    students = [oefsmc_lib.compress(model, few, elsewhere) for few, elsewhere in (
        ((x, y), other), (DataLoader(data, batch_size=4), DataLoader(TensorDataset(other, torch.zeros(20)), batch_size=6)), (data, other))]
    for student in students:
        assert len(student.notes["finetune"]["distances"]) > 1          # early stopping watched
        assert same_state(state_of(students[0].model), state_of(student.model))


def test_photographs_stand_in_where_no_ood_images_are_given():
    student = oefsmc_lib.compress(small(), (X, Y), keep={"0": 3}, normalise="0.5/0.25")
    assert student.model[0].out_channels == 3 and torch.isfinite(student.model(X)).all()


def test_cd_runs_on_an_own_network():
    student = oefsmc_lib.compress(small(), (images(5, "x"), torch.tensor([0, 1, 2, 0, 0])), images(20, "y"), method="cd")
    assert student.model[0].out_channels == 4


@pytest.mark.slow
def test_mir_runs_on_an_own_network():
    model, architecture = built("resnet18")
    few = inputs(5, architecture), torch.tensor([0, 1, 2, 0, 0])
    student = oefsmc_lib.compress(model, few, inputs(20, architecture, seed=9), method="mir")
    assert student.model.layer1[0].conv1.out_channels == 32 and student.notes["distances"]


def test_a_student_of_an_own_network_is_read_again(tmp_path):
    model, x = small(), images(6, "few")
    student = oefsmc_lib.compress(model, x, images(20, "other"))
    saved.save(student, tmp_path)
    again = saved.load(tmp_path, network=small())
    assert torch.equal(again.model(x), student.model.to(memory_format=torch.channels_last)(x))
    with pytest.raises(InputError, match="Unknown model|does not fit"):
        saved.load(tmp_path)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.conv(self.conv(x)).mean((2, 3)))


class Broken(Twice):
    def forward(self, x):
        return self.head(self.conv(x))


X = images(6, "few")
Y = torch.tensor([0, 0, 0, 1, 1, 2])
ELSE = images(20, "other")


@pytest.mark.parametrize("words, model, few, elsewhere, settings", [
    ("head has 3 outputs", small(), (X, Y + 1), ELSE, {}),
    ("a single|at least five", small(), X, ELSE[:4], {}),
    ("of shape", small(), X, images(20, "o", side=16), {}),
    ("keep=1.5", small(), X, ELSE, {"keep": 1.5}),
    ("keep asks for 9 channels of 0", small(), X, ELSE, {"keep": {"0": 9}}),
    ("keep removes no channel", small(), X, ELSE, {"keep": {"0": 8}}),
    ("no method 'fks'", small(), X, ELSE, {"method": "fks"}),
    ("something else than image tensors of one size", small(), [(X[0], 0), (X[1, :, :9], 1)], ELSE, {}),
    ("of equal height and width", small(), X[:, :, :16], ELSE, {}),
    ("Flatten has no weights", nn.Flatten(), X, ELSE, {}),
    ("say how to normalise", small(), X, None, {}),
    ("not finite", small(), X * torch.nan, ELSE, {}),
    ("normalised float images", small(), (X * 50).to(torch.uint8), ELSE, {}),
    ("give a tensor", small(), 7, ELSE, {}),
    ("runs the layer conv twice", Twice(), X, ELSE, {}),
    ("cannot read the few images", Broken(), X, ELSE, {}),
    ("no convolution", nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 3)), X, ELSE, {}),
    ("MiR and PRACTISE cannot run", small(), X, ELSE, {"method": "mir"}),
])
def test_what_cannot_be_is_said_in_one_sentence_before_any_work(words, model, few, elsewhere, settings, monkeypatch):
    monkeypatch.setattr(own, "student_of", lambda *_: pytest.fail("it began to work"))
    with pytest.raises(InputError, match=words) as refusal:
        oefsmc_lib.compress(copy.deepcopy(model), few, elsewhere, **settings)
    assert "\n" not in str(refusal.value)


def test_the_scan_knows_which_channels_can_be_given_back():
    a = normal((200, 4), "a").double()
    twins = torch.cat([a, a @ normal((4, 4), "mix").double()], 1)       # half of the channels follow from the others
    weight, score = uniform((5, 8, 1), "w").double(), torch.arange(8, 0, -1).float()
    found = choose.losses(twins, weight, score)
    assert found[3] < 1e-3 < 0.05 < found[5] <= found[6] <= 1 + 1e-6    # four are enough, two and one are not


def test_targets_are_met_and_no_smaller_network_is_taken():
    model = small()
    teacher = own.teacher_of(model, X, None)
    groups, _ = network.prunable(teacher)
    plans = choose.path(teacher, groups, choose.scan(teacher, groups, X))
    sizes = [choose.macs_of(teacher, widths) for widths in plans]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes)
    chosen = choose.first_fitting(plans, lambda w: choose.macs_of(teacher, w), sizes[3] + 1, "--target-macs")
    assert chosen == plans[3]
    with pytest.raises(InputError, match="cannot be reached"):
        choose.first_fitting(plans, lambda w: choose.macs_of(teacher, w), sizes[-1] - 1, "--target-macs")
    assert choose.smallest_within(plans, lambda w: plans.index(w), 2) == plans[2]
    with pytest.raises(InputError, match="allow a larger drop"):
        choose.smallest_within(plans, lambda w: 9, 2)
