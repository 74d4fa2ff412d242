"""PRACTISE: candidates, adaptor places, scores, and what is left when blocks go."""

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
    map_error,
    same_state,
    samples,
    small,
    state_of,
    task,
)
from torch import nn

from oefsmc_lib.compressors import adaptors, compress, importance, plans, practise, surgery
from oefsmc_lib.errors import InputError
from oefsmc_lib.images.fewshot import Samples
from oefsmc_lib.parameters.sections import Practise
from oefsmc_lib.teacher import cost
from oefsmc_lib.teacher.networks import Architecture

W = torch.ones(CLASSES).double() / CLASSES
EVERY = pytest.mark.parametrize("architecture", [VGG, RESNET, MOBILENET], ids=lambda a: a.name)


def setting(**changes):
    """The release's procedure; bridges have tests of their own."""
    return small(**{"method": "practise", "variant": "native", "plan": "drop2", "augment": "crop_flip",
                    "practise.start": "teacher", **changes})


def run(teacher, few=None, aux=None, w=None, **changes):
    return compress(task(teacher, few or samples(8, teacher.architecture), aux, setting(**changes), w))


def scores(teacher, few, aux=None, joint=None, w=None, candidates=None, **changes):
    candidates = candidates or plans.droppable_units(teacher.model)
    return practise.score(task(teacher, few, aux, setting(**changes), w, joint), candidates)


# --- candidates and places ---------------------------------------------------------------------------
def test_candidates_are_the_specifications():
    found = {name: plans.droppable_units(Architecture(name, 10).build()) for name in ("resnet34", "mobilenet_v2", "vgg16", "resnet32")}
    assert found["resnet34"] == [f"layer{s}.{b}" for s, count in ((1, 3), (2, 4), (3, 6), (4, 3)) for b in range(1, count)]
    assert found["resnet32"] == [f"layer{s}.{b}" for s in (1, 2, 3) for b in range(1, 5)]
    assert found["mobilenet_v2"] == [f"features.{i}" for i in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)]
    assert found["vgg16"] == [f"features.{i}" for i in (3, 10, 17, 20, 27, 30, 34, 37, 40)]       # conv2, 4, 6, 7, 9-13


def places(name, unit):
    return adaptors.places(Architecture(name, 10, image_size=64).build(), unit)


def test_adaptor_places_of_resnet34():
    assert places("resnet34", "layer1.1") == [("layer1.0.conv2", "after"), ("layer1.2.conv1", "before"),
                                              ("layer2.0.conv1", "before"), ("layer2.0.downsample.0", "before")]
    assert places("resnet34", "layer2.2") == [
        ("layer2.0.downsample.0", "after"), ("layer2.0.conv2", "after"), ("layer2.1.conv2", "after"),
        ("layer2.3.conv1", "before"), ("layer3.0.conv1", "before"), ("layer3.0.downsample.0", "before")]
    assert places("resnet34", "layer4.2") == [("layer4.0.downsample.0", "after"), ("layer4.0.conv2", "after"),
                                              ("layer4.1.conv2", "after")]


def test_adaptor_places_of_other_networks():
    assert places("resnet50", "layer3.1")[:2] == [("layer3.0.downsample.0", "after"), ("layer3.0.conv3", "after")]
    assert places("resnet50", "layer3.1")[2:] == [*((f"layer3.{i}.conv1", "before") for i in (2, 3, 4, 5)),
                                                  ("layer4.0.conv1", "before"), ("layer4.0.downsample.0", "before")]
    assert places("resnet32", "layer2.3") == [*((f"layer2.{i}.conv2", "after") for i in range(3)),
                                              ("layer2.4.conv1", "before"), ("layer3.0.conv1", "before")]
    # MobileNetV2: features.7 opens the width of 64 (7-10), features.11 is the first of another width.
    assert places("mobilenet_v2", "features.9") == [("features.7.conv.2", "after"), ("features.8.conv.2", "after"),
                                                    ("features.10.conv.0.0", "before"), ("features.11.conv.0.0", "before")]
    # VGG-16: conv9 with conv8 and conv10 of its resolution, and conv11, the next resolution's first.
    assert places("vgg16", "features.27") == [("features.24", "after"), ("features.30", "before"), ("features.34", "before")]
    assert places("vgg16", "features.40") == [("features.34", "after"), ("features.37", "after")]
    assert places("vgg16", "features.3") == [("features.0", "after"), ("features.7", "before")]


@EVERY
def test_places_are_convolutions_of_fitting_width_without_the_dropped_block(architecture):
    teacher = make_teacher(architecture)
    for unit in plans.droppable_units(teacher.model):
        found = adaptors.places(teacher.model, unit)
        assert found and len(found) == len({name for name, _ in found})
        for name, side in found:
            assert isinstance(teacher.model.get_submodule(name), nn.Conv2d) and not name.startswith(f"{unit}.") and name != unit


# --- adaptors ----------------------------------------------------------------------------------------
@EVERY
def test_identity_adaptors_equal_the_plain_network_without_the_block(architecture):
    """Invariant 7."""
    teacher, x = make_teacher(architecture), inputs(3, architecture)
    for unit in plans.droppable_units(teacher.model)[::2]:
        plain = copy.deepcopy(teacher.model)
        surgery.drop_units(plain, [unit])
        adapted = copy.deepcopy(plain)
        inserted = adaptors.insert(adapted, adaptors.places(teacher.model, unit))
        assert all(q.bias is None and q.in_channels == q.out_channels and q.kernel_size == (1, 1) for q in inserted)
        assert torch.allclose(logits(adapted, x), logits(plain, x), atol=1e-5)
        assert not torch.allclose(logits(plain, x), logits(teacher.model, x), atol=1e-3)


# --- scores ------------------------------------------------------------------------------------------
def test_savings_are_percent_of_macs(teacher):
    candidates = plans.droppable_units(teacher.model)
    found = practise.savings(teacher, candidates)
    whole = cost.macs(teacher.model, teacher.architecture)
    for name in candidates[:2]:
        model = copy.deepcopy(teacher.model)
        surgery.drop_units(model, [name])
        assert found[name] == pytest.approx(100 - 100 * cost.macs(model, teacher.architecture) / whole)


def test_recoverability_is_the_mean_square_after_training_on_plain_images(resnet):
    few = samples(6, RESNET)
    found = scores(resnet, few, candidates=["layer2.1"], **{"practise.scoring_iterations": 3})["layer2.1"]
    stages = practise.Stages(task(resnet, few, None, setting(**{"practise.scoring_iterations": 3})), few.images)
    errors = stages.recover("layer2.1")
    assert errors.shape == (6,) and found["recoverability"] == pytest.approx(float(errors.mean()))
    assert found["score"] == pytest.approx(found["recoverability"] / found["saving"])


@pytest.mark.parametrize(("changes", "of_vgg", "of_resnet"), [
    ({}, 0.02 * 2000 / 300, 0.02), ({"scoring_iterations": 2000}, 0.02, 0.02), ({"scoring_iterations": 5000}, 0.02, 0.02),
    ({"scoring_iterations": 20}, 0.5, 0.02), ({"lr": 0.01, "scoring_iterations": 500}, 0.04, 0.01),
    ({"scoring_lr": 0.3}, 0.3, 0.3)], ids=str)
def test_short_scoring_of_vgg_takes_a_raised_rate(vgg, resnet, changes, of_vgg, of_resnet):
    settings = Practise(**changes)
    assert practise.scoring_rate(vgg.model, settings) == pytest.approx(of_vgg)
    assert practise.scoring_rate(resnet.model, settings) == pytest.approx(of_resnet)


def test_adaptors_are_trained_at_the_scoring_rate_and_the_student_at_its_own(vgg, monkeypatch):
    rates, sgd = [], practise.mimic.sgd
    monkeypatch.setattr(practise.mimic, "sgd", lambda parameters, lr, steps: rates.append(lr) or sgd(parameters, lr, steps))
    run(vgg, plan="drop1", **{"practise.scoring_lr": 1e-3, "practise.lr": 2e-3})
    assert set(rates[:-1]) == {1e-3} and rates[-1] == 2e-3


def test_without_training_it_is_the_plain_networks_error(teacher, monkeypatch):
    monkeypatch.setattr(practise.Stages, "_train", lambda *_: None)
    few, unit = samples(6, teacher.architecture), plans.droppable_units(teacher.model)[2]
    plain = copy.deepcopy(teacher.model)
    surgery.drop_units(plain, [unit])
    found = scores(teacher, few, candidates=[unit])[unit]["recoverability"]
    assert found == pytest.approx(map_error(plain, teacher, few.images), rel=1e-4)


@EVERY
def test_training_the_adaptors_lowers_the_error(architecture, monkeypatch):
    teacher, few = make_teacher(architecture), samples(8, architecture)
    unit = plans.droppable_units(teacher.model)[1]
    # Every step sees all images, and they are those that are judged: gradient descent on the very error. At this rate no
    # network swings, and a hundred steps took 15 to 70 percent of the error of each of a dozen networks.
    changes = {"practise.scoring_iterations": 100, "practise.scoring_lr": 1e-3, "augment": "none"}
    trained = scores(teacher, few, candidates=[unit], **changes)[unit]["recoverability"]
    monkeypatch.setattr(practise.Stages, "_train", lambda *_: None)
    assert trained < 0.95 * scores(teacher, few, candidates=[unit], **changes)[unit]["recoverability"]


def test_scoring_changes_nothing_of_the_teacher_and_no_batch_norm(teacher):
    before = state_of(teacher.model)
    scores(teacher, samples(6, teacher.architecture), candidates=plans.droppable_units(teacher.model)[:2])
    assert same_state(before, state_of(teacher.model)) and not teacher.model.training
    assert not any(p.requires_grad for p in teacher.model.parameters())


@EVERY
def test_cached_scores_equal_uncached_ones(architecture):
    teacher, few, aux = make_teacher(architecture), samples(9, architecture), samples(7, architecture, seed=3)
    candidates = plans.droppable_units(teacher.model)[1:4]
    # At VGG's raised rate a step multiplies what two orders of addition round differently.
    found = [scores(teacher, few, joint=aux, candidates=candidates, augment="none", variant="extra_images",
                    **{"practise.cache": cache, "practise.batch": 4, "practise.scoring_iterations": 4,
                       "practise.scoring_lr": 5e-3}) for cache in (True, False)]
    for name in candidates:
        assert found[0][name]["recoverability"] == pytest.approx(found[1][name]["recoverability"], rel=1e-3), name


def test_a_candidates_score_does_not_depend_on_its_company(teacher):
    few, candidates = samples(6, teacher.architecture), plans.droppable_units(teacher.model)
    together = scores(teacher, few, candidates=candidates[:4])
    assert scores(teacher, few, candidates=[candidates[2]])[candidates[2]] == pytest.approx(together[candidates[2]])


def test_class_aware_recoverability_is_eq_5_over_images(resnet):
    few, aux = samples(6, RESNET), samples(6, RESNET, seed=3)
    w = torch.tensor([0.5, 0.3, 0.2, 0, 0]).double()
    e = setting(variant="ours")
    found = practise.score(task(resnet, few, aux, e, w, aux), ["layer1.1"])["layer1.1"]["recoverability"]
    errors = practise.Stages(task(resnet, few, aux, e, None, aux), few.joined(aux).images).recover("layer1.1")
    expected = importance.weighted(errors[:, None], torch.cat([few.labels, aux.labels]), w)
    assert len(errors) == 12 and found == pytest.approx(float(expected[0]))


def test_equal_sets_at_one_half_are_scored_like_the_pooled_set(teacher):
    few, aux = samples(6, teacher.architecture), samples(6, teacher.architecture, seed=3)
    pooled = Samples(torch.cat([few.images, aux.images]), torch.cat([few.labels, aux.labels]))
    e = setting(augment="none", variant="extra_images", **{"practise.scoring_iterations": 4, "practise.scoring_lr": 5e-3})
    unit = plans.droppable_units(teacher.model)[1]
    joint, plain = (practise.Stages(task(teacher, *sets, e, None, other), sets[0].images).recover(unit)
                    for *sets, other in ((few, None, aux), (pooled, None, None)))
    assert torch.allclose(joint, plain[:6], rtol=1e-3)


def test_lam_one_scores_by_the_few_alone(resnet):
    few, aux = samples(6, RESNET), samples(6, RESNET, seed=3)
    alone, joint = scores(resnet, few, candidates=["layer1.1"]), scores(
        resnet, few, joint=aux, candidates=["layer1.1"], variant="extra_images", lam=1)
    assert alone == joint


# --- the whole ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("changes", [{}, {"practise.cache": False, "practise.views": 0}, {"practise.bn": "eval"}],
                         ids=["default", "literal", "bn=eval"])
def test_the_k_smallest_scores_go_and_the_rest_is_trained(teacher, changes):
    before, few = state_of(teacher.model), samples(8, teacher.architecture)
    # Without augmentation every step sees the same eight images: gradient descent on one sum, at a rate without swings.
    student = run(teacher, few, augment="none", **{"practise.iterations": 60, "practise.lr": 1e-3, **changes})
    table = student.notes["scores"]
    lowest = sorted(table, key=lambda name: table[name]["score"])[:2]
    assert set(student.structure.dropped) == set(lowest) and len(table) == len(plans.droppable_units(teacher.model))
    assert student.structure.dropped == [name for name in table if name in lowest]         # in forward order
    assert sum(student.notes["loss"][-4:]) < 0.9 * sum(student.notes["loss"][:4])
    assert same_state(before, state_of(teacher.model)) and not student.model.training
    head = "classifier" if teacher.architecture.name == "vgg16" else "fc"
    assert torch.equal(student.model.get_submodule(head).weight, teacher.model.get_submodule(head).weight)


def test_the_student_starts_from_the_teachers_weights_without_adaptors(resnet, monkeypatch):
    seen = []
    monkeypatch.setattr(practise.mimic, "mimic", lambda model, *_: seen.append(state_of(model)) or {})
    student = run(resnet)
    assert seen[0].keys() < state_of(resnet.model).keys()
    assert all(torch.equal(tensor, resnet.model.state_dict()[name]) for name, tensor in seen[0].items())
    gone = {name.rsplit(".", 2)[0] for name in state_of(resnet.model).keys() - seen[0].keys()}
    assert gone == set(student.structure.dropped)


def test_runs_repeat_and_ties_go_to_the_earlier_block(resnet, monkeypatch):
    one, two = run(resnet), run(resnet)
    assert one.notes["scores"] == two.notes["scores"] and same_state(state_of(one.model), state_of(two.model))
    monkeypatch.setattr(practise, "score", lambda teacher, candidates, *_: {n: {"score": 1.0} for n in reversed(candidates)})
    assert run(resnet).structure.dropped == ["layer1.1", "layer1.2"]


def test_lam_one_is_the_base_bit_for_bit(teacher):
    few, aux = samples(8, teacher.architecture), samples(5, teacher.architecture, seed=3)
    base, joint = run(teacher, few), run(teacher, few, aux, variant="extra_images", lam=1)
    assert same_state(state_of(base.model), state_of(joint.model)) and base.notes == joint.notes


def test_mobilenet_v2_loses_blocks(mobilenet):
    student = run(mobilenet, samples(8, MOBILENET), plan="drop3")
    assert len(student.structure.dropped) == 3
    assert cost.macs(student.model, MOBILENET) < cost.macs(mobilenet.model, MOBILENET)


def test_every_candidate_of_vgg_may_go(vgg):
    student = run(vgg, plan="drop9")
    assert len(student.structure.dropped) == 9 and torch.isfinite(logits(student.model, inputs(2, VGG))).all()


# --- refusals ----------------------------------------------------------------------------------------
def test_too_many_blocks_are_refused(resnet):
    with pytest.raises(InputError, match="drops 7 blocks, but the network has 6 droppable ones"):
        run(resnet, plan="drop7")


def test_diverging_adaptors_and_nan_weights_are_refused():
    teacher = make_teacher(RESNET)
    with pytest.raises(InputError, match="adaptors for layer1.1 diverged; lower practise.scoring_lr"):
        run(teacher, **{"practise.lr": 1e15, "practise.scoring_iterations": 30})
    teacher.model.layer2[1].conv1.weight.view(-1)[0] = float("nan")
    with pytest.raises(InputError, match="diverged; lower practise.scoring_lr or check the teacher"):
        run(teacher)


def test_scoring_in_bfloat16_ranks_as_float32_and_its_targets_stay_float32(resnet, monkeypatch):
    few, targets, joint = samples(8, RESNET), set(), practise.mimic.joint_loss
    monkeypatch.setattr(practise.mimic, "multiplies_bfloat16", lambda device: True)
    monkeypatch.setattr(practise.mimic, "joint_loss",
                        lambda maps, pairs, *a: (targets.update({maps.dtype, *(t.dtype for _, t in pairs)}), joint(maps, pairs, *a))[1])
    found = {p: scores(resnet, few, **{"practise.scoring_iterations": 3, "practise.precision": p}) for p in ("float32", "bfloat16")}
    one, other = ([each["recoverability"] for each in found[p].values()] for p in found)
    assert one == pytest.approx(other, rel=0.05) and one != other and targets == {torch.float32}
