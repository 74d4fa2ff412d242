"""Networks and their cost, to the digits that the specification prints."""

from dataclasses import replace

import pytest
import torch
from conftest import CLASSES, MOBILENET, RESNET, VGG, inputs, logits, make_teacher, normal
from torch import nn

from oefsmc_lib.compressors import inner, plans, surgery
from oefsmc_lib.errors import InputError
from oefsmc_lib.teacher import cost, networks
from oefsmc_lib.teacher.networks import Architecture


def shell(name, classes=10, image_size=32, width=1.0):
    """A network without numbers in it: shapes are enough to count."""
    architecture = Architecture(name, classes, 3, width, image_size)
    return architecture.build().eval(), architecture


def millions(model, architecture):
    return cost.macs(model, architecture) / 1e6, cost.parameters(model) / 1e6


@pytest.fixture(scope="module")
def vgg16():
    return shell("vgg16")


@pytest.fixture(scope="module")
def resnet32():
    return shell("resnet32", 100)


@pytest.fixture(scope="module")
def resnet34():
    return shell("resnet34", 1000, 224)


# name, classes, size -> MMAC and M parameters, as printed
@pytest.mark.parametrize("name, classes, size, mmac, params", [
    ("vgg16", 10, 32, "313.20", "14.72"), ("resnet32", 10, 32, "68.86", "0.464"), ("resnet32", 100, 32, "68.87", "0.470"),
    ("resnet56", 10, 32, "125.5", "0.853"), ("resnet34", 1000, 224, "3663.8", "21.80"),
])
def test_cost_of_networks(name, classes, size, mmac, params):
    model, architecture = shell(name, classes, size)
    found = millions(model, architecture)
    assert f"{found[0]:.{len(mmac.partition('.')[2])}f}" == mmac
    assert f"{found[1]:.{len(params.partition('.')[2])}f}" == params


def macs_by_convolution(model, architecture):
    found = cost.macs_by_layer(model, architecture)
    return {name: count / 1e6 for name, count in found.items() if isinstance(model.get_submodule(name), nn.Conv2d)}


def test_cost_of_every_vgg_convolution(vgg16):
    found = [f"{value:.2f}" for value in macs_by_convolution(*vgg16).values()]
    assert found == "1.77 37.75 18.87 37.75 18.87 37.75 37.75 18.87 37.75 37.75 9.44 9.44 9.44".split()


def blocks(model, architecture):
    found = {}
    for name, value in macs_by_convolution(model, architecture).items():
        block = ".".join(name.split(".")[:2]) if name.startswith("layer") else "stem"
        found[block] = found.get(block, 0) + value
    return found


def test_cost_of_every_resnet32_block(resnet32):
    found = blocks(*resnet32)
    assert f"{found.pop('stem'):.2f}" == "0.44" and len(found) == 15
    for name, value in found.items():
        assert f"{value:.2f}" == ("3.54" if name in ("layer2.0", "layer3.0") else "4.72"), name


def test_cost_of_every_resnet34_block(resnet34):
    found = blocks(*resnet34)
    found.pop("stem")
    assert len(found) == 16
    for name, value in found.items():
        assert f"{value:.1f}" == ("179.8" if name in ("layer2.0", "layer3.0", "layer4.0") else "231.2"), name


def pruned(whole, plan):
    """(student, MMAC, percent of MACs cut, percent of parameters cut)"""
    model, architecture = whole
    widths = plans.plan_widths(plan, model, architecture)
    student, kept = architecture.build().eval(), {name: list(range(keep)) for name, keep in widths.items()}
    surgery.remove_channels(student, kept, replace(architecture, image_size=32))    # tracing needs no large images
    (macs, params), (macs_whole, params_whole) = millions(student, architecture), millions(model, architecture)
    return student, macs, 100 * (1 - macs / macs_whole), 100 * (1 - params / params_whole)


# plan -> outputs of conv1..13, MMAC, percent of MACs and of parameters cut, with the linear head
VGG_ROWS = {
    # printed as 206.2 in the specification: 206.146 rounded twice
    "prune_a": ((32, 64, 128, 128, *[256] * 9), "206.1", "34.2", "64.3"),
    "cd_half": ((32, 32, 64, 64, 128, 128, 128, *[256] * 5, 512), "81.1", "74.1", "70.9"),
    "cfg_a": ((32, 64, 128, 128, *[256] * 8, 512), "208.5", "33.4", "60.2"),
    "cfg_b": ((26, 52, 103, 103, *[205] * 4, 256, 205, 205, 205, 512), "138.5", "55.8", "71.9"),
    "cfg_c": ((26, 32, 64, 64, *[128] * 5, 205, 205, 205, 512), "61.4", "80.4", "81.8"),
}


@pytest.mark.parametrize("plan", VGG_ROWS)
def test_pruned_vgg_figures(vgg16, plan):
    student, macs, macs_cut, params_cut = pruned(vgg16, plan)
    convolutions = [module for module in student.modules() if isinstance(module, nn.Conv2d)]
    widths = tuple(conv.out_channels for conv in convolutions)
    assert (widths, f"{macs:.1f}", f"{macs_cut:.1f}", f"{params_cut:.1f}") == VGG_ROWS[plan]


def test_prune_a_with_cds_head_has_the_published_64_percent(vgg16):
    def params(net, features):                            # Linear(C, 512) + BN1d + ReLU + Linear(512, 10)
        body = cost.parameters(net) - cost.parameters(net.classifier)
        return body + (features * 512 + 512) + 2 * 512 + (512 * 10 + 10)
    student = pruned(vgg16, "prune_a")[0]
    assert f"{params(vgg16[0], 512) / 1e6:.2f}" == "14.99"
    assert f"{100 * (1 - params(student, 256) / params(vgg16[0], 512)):.1f}" == "64.0"


@pytest.mark.parametrize("plan, mmac, macs_cut, params_cut", [
    ("all_inner", "34.7", "49.7", "49.1"), ("skip_ends", "47.6", "30.8", "31.0"),
    ("skip_first", "40.6", "41.1", "41.3"), ("cd_half", "44.9", "34.8", "31.9"),
])
def test_pruned_resnet32_figures(resnet32, plan, mmac, macs_cut, params_cut):
    _, macs, cut, cut_params = pruned(resnet32, plan)
    assert (f"{macs:.1f}", f"{cut:.1f}", f"{cut_params:.1f}") == (mmac, macs_cut, params_cut)


@pytest.mark.parametrize("plan, mmac, macs_cut, params_cut", [
    ("skip_ends", "2738.9", "25.2", "23.2"), ("all_inner", "1900.8", "48.1", "48.4"), ("cd_half", "2796.7", "23.7", "11.7"),
])
def test_pruned_resnet34_figures(resnet34, plan, mmac, macs_cut, params_cut):
    _, macs, cut, cut_params = pruned(resnet34, plan)
    assert (f"{macs:.1f}", f"{cut:.1f}", f"{cut_params:.1f}") == (mmac, macs_cut, params_cut)


def dropped(whole, names):
    model, architecture = whole
    student = architecture.build().eval()
    surgery.drop_units(student, names)
    (macs, params), (macs_whole, params_whole) = millions(student, architecture), millions(model, architecture)
    return macs, 100 * (1 - macs / macs_whole), 100 * (1 - params / params_whole)


@pytest.mark.parametrize("names, macs_cut, params_cut", [
    (["layer1.1"], "6.9", "1.0"), (["layer1.1", "layer1.2"], "13.7", "2.0"),
    (["layer1.1", "layer1.2", "layer2.1"], "20.6", "5.9"),
    (["layer1.1", "layer1.2", "layer2.1", "layer2.2"], "27.4", "9.9"),
])
def test_dropped_resnet32_blocks(resnet32, names, macs_cut, params_cut):
    _, cut, cut_params = dropped(resnet32, names)
    assert (f"{cut:.1f}", f"{cut_params:.1f}") == (macs_cut, params_cut)


@pytest.mark.parametrize("names, mmac, macs_cut, params_cut", [
    (["layer1.1", "layer1.2"], "3201", "12.6", "0.7"), (["layer1.1", "layer1.2", "layer2.1"], "2970", "18.9", "2.0"),
])
def test_dropped_resnet34_blocks(resnet34, names, mmac, macs_cut, params_cut):
    macs, cut, cut_params = dropped(resnet34, names)
    assert (f"{macs:.0f}", f"{cut:.1f}", f"{cut_params:.1f}") == (mmac, macs_cut, params_cut)


# --- structure -----------------------------------------------------------------------------------
def test_vgg_has_five_max_pools_and_a_map_of_2x2_before_the_last(vgg16):
    model, architecture = vgg16
    assert sum(isinstance(module, nn.MaxPool2d) for module in model.modules()) == 5
    seen = []
    model.get_submodule(networks.feature_module(model)).register_forward_hook(lambda _m, _x, y: seen.append(y.shape))
    logits(model, architecture.example())
    assert seen[0] == (1, 512, 2, 2)


def test_option_a_shortcut_pads_zeros_on_both_sides():
    block = networks.BasicBlock(4, 8, stride=2)
    x = normal((2, 4, 6, 6), "x")
    short = block.shortcut(x)
    assert short.shape == (2, 8, 3, 3)
    assert torch.equal(short[:, 2:6], x[:, :, ::2, ::2]) and not short[:, :2].any() and not short[:, 6:].any()


def test_names_are_those_of_the_teacher_files():
    vgg, resnet = shell("vgg16")[0].state_dict(), shell("resnet32")[0].state_dict()
    assert {"features.0.weight", "features.1.running_mean", "features.40.weight", "classifier.weight"} <= vgg.keys()
    assert {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer3.4.bn2.running_var", "fc.bias"} <= resnet.keys()
    assert not any("shortcut" in name or "downsample" in name for name in resnet)


@pytest.mark.parametrize("architecture", [VGG, RESNET, MOBILENET], ids=lambda a: a.name)
def test_segments_run_one_after_the_other_to_the_matched_map(architecture):
    teacher = make_teacher(architecture)
    x, seen = inputs(3, architecture), []
    handle = teacher.model.get_submodule(networks.feature_module(teacher.model)).register_forward_hook(
        lambda _m, _x, y: seen.append(y.clone()))
    logits(teacher.model, x)
    handle.remove()
    chained = x.clone()
    with torch.no_grad():
        for _, piece in networks.segments(teacher.model):
            chained = piece(chained)
    assert torch.equal(chained, seen[0])


@pytest.mark.parametrize("name, message", [("vgg_16", "did you mean vgg16"), ("resnet-32", "did you mean resnet32")])
def test_unknown_model_is_refused_with_the_nearest(name, message):
    with pytest.raises(InputError, match=message):
        Architecture(name, CLASSES).build()


def test_torchvision_model_without_width_factor_or_for_gray_images_is_refused():
    with pytest.raises(InputError, match="no width factor"):
        Architecture("resnet18", CLASSES, 3, 0.5).build()
    with pytest.raises(InputError, match="reads 3 channels"):
        Architecture("resnet18", CLASSES, 1).build()


def test_network_without_a_known_last_map_is_refused():
    with pytest.raises(InputError, match="FSKD and CD can"):
        networks.feature_module(nn.Sequential(nn.Conv2d(3, 3, 1)))


# --- plans ---------------------------------------------------------------------------------------
def test_candidates_of_practise_are_as_many_as_published():
    for name, count in (("resnet34", 12), ("resnet50", 12), ("resnet32", 12), ("mobilenet_v2", 10), ("vgg16", 9)):
        assert len(plans.droppable_units(Architecture(name, 10).build())) == count, name


def test_cd_spares_the_blocks_of_the_release():
    model, architecture = shell("resnet56")
    number = {f"layer{stage + 1}.{index}.conv1": 9 * stage + index for stage in range(3) for index in range(9)}
    widths = plans.plan_widths("cd_half", model, architecture)
    assert {number[name] for name in number if name not in widths} == {7, 9, 18, 26}
    assert widths["layer1.0.conv1"] == 9 and widths["layer3.1.conv1"] == 33         # floor(C / 2) + 1
    model, architecture = shell("resnet34", image_size=64)
    assert list(plans.plan_widths("cd_half", model, architecture)) == [
        f"layer{stage}.{index}.conv1" for stage, index in ((1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2), (3, 3))]


def test_plan_for_another_network_is_refused(vgg16, resnet32):
    for plan, whole, fitting in (("prune_a", resnet32, "skip_first"), ("skip_ends", vgg16, "prune_a"),
                                 ("no_such_plan", vgg16, "prune_a"), ("half", shell("resnet50"), "inner_half")):
        with pytest.raises(InputError, match=f"'{plan}' is not one for .*{fitting}"):
            plans.plan_widths(plan, *whole)


def test_plan_that_leaves_no_channel_is_refused():
    model, architecture = shell("vgg16", width=1 / 64)
    with pytest.raises(InputError, match="without a channel; use a wider network"):
        plans.plan_widths("half", model, architecture)


def test_plan_that_removes_nothing_is_refused():
    with pytest.raises(InputError, match="'skip_ends' removes nothing from resnet18"):
        plans.plan_widths("skip_ends", *shell("resnet18"))          # two blocks a stage are both ends


def test_dropping_more_blocks_than_there_are_is_refused(resnet32):
    candidates = plans.droppable_units(resnet32[0])
    assert plans.units_to_drop("drop12", candidates) == 12
    with pytest.raises(InputError, match="drops 13 blocks, but the network has 12"):
        plans.units_to_drop("drop13", candidates)


def test_network_without_droppable_blocks_is_refused():
    with pytest.raises(InputError, match="no droppable block in AlexNet"):
        plans.droppable_units(Architecture("alexnet", 10, image_size=64).build())


def test_inner_convolutions_of_a_frozen_foreign_network(mobilenet):
    found = inner.groups(mobilenet.model, mobilenet.architecture)
    expansions = [f"features.{i}.conv.0.0" for i in range(2, 18)]
    # Projections meet a residual stream, all but the last; at this width the stem does too.
    assert set(found) == {*expansions, "features.17.conv.2"}
    assert not any(parameter.requires_grad for parameter in mobilenet.model.parameters())


def test_a_network_that_cannot_be_traced_is_refused():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            raise LookupError("a rule of its own\nand more")

    with pytest.raises(InputError, match=r"resnet20 cannot be traced by Torch-Pruning \(LookupError: a rule of its own\)"):
        inner.groups(Odd(), Architecture("resnet20", 10))
