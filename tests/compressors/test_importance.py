"""Eq. 1, 5 and 6, and the channels that follow from them."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from conftest import CLASSES, RESNET, VGG, same_state, samples, small, state_of, task, uniform
from hypothesis import given
from hypothesis import strategies as st

from oefsmc_lib.compressors import criteria, importance, plans
from oefsmc_lib.errors import InputError
from oefsmc_lib.images import elsewhere
from oefsmc_lib.images.fewshot import Samples

label_lists = st.lists(st.integers(0, 4), min_size=1, max_size=30)


def labelled(labels):
    return Samples(torch.zeros(len(labels), 1, 1, 1), torch.tensor(labels))


def shares(kind, few, aux, gamma=None):
    gamma = torch.full((5,), 0.2).double() if gamma is None else gamma
    return importance.class_shares(kind, labelled(few), None if aux is None else labelled(aux), gamma)


# --- eq. 6 ---------------------------------------------------------------------------------------
@given(label_lists, label_lists, st.sampled_from(["mixed", "complement", "inverse", "uniform", "few"]))
def test_class_shares_are_a_distribution(few, aux, kind):
    w = shares(kind, few, aux, elsewhere.rates(torch.bincount(torch.tensor(few), minlength=5) / len(few)))
    assert float(w.sum()) == pytest.approx(1) and float(w.min()) >= -1e-15


def test_class_shares_by_hand():
    few, aux = [0, 0, 0, 1], [4, 4, 1, 3]
    assert shares("mixed", few, aux).tolist() == pytest.approx([3 / 8, 2 / 8, 0, 1 / 8, 2 / 8])
    assert shares("few", few, aux).tolist() == pytest.approx([3 / 4, 1 / 4, 0, 0, 0])
    assert shares("uniform", few, aux).tolist() == pytest.approx([0.2] * 5)
    inverse = torch.tensor([1 / 3, 1 / 2, 0, 1, 1 / 2])
    assert shares("inverse", few, aux).tolist() == pytest.approx((inverse / inverse.sum()).tolist())
    gamma = elsewhere.rates(torch.tensor([0.75, 0.25, 0, 0, 0]))
    assert shares("complement", few, aux, gamma).tolist() == pytest.approx(gamma.tolist())


def test_minority_classes_weigh_more_in_the_mixed_set_than_in_the_few():
    few = [0] * 8 + [1, 2]
    gamma = elsewhere.rates(torch.bincount(torch.tensor(few), minlength=5) / 10)
    aux = elsewhere.draw_labels(gamma, 10, "quota", torch.Generator().manual_seed(0)).tolist()
    before, after = shares("few", few, None), shares("mixed", few, aux)
    assert after[0] < before[0] and bool((after[1:] > before[1:]).all())


def test_balanced_sets_give_even_shares_under_every_reading():
    few, aux = list(range(5)) * 2, list(range(5)) * 3
    for kind in ("mixed", "complement", "inverse", "uniform", "few"):
        assert shares(kind, few, aux).tolist() == pytest.approx([0.2] * 5), kind


# --- eq. 5 and 1 ---------------------------------------------------------------------------------
@given(label_lists, st.integers(0, 99))
def test_eq_5_with_w_equal_to_beta_is_eq_1_the_plain_mean(labels, seed):
    values = uniform((len(labels), 7), "values", seed)
    s = importance.weighted(values, torch.tensor(labels), shares("few", labels, None))
    assert torch.allclose(s, values.mean(0), atol=1e-5)


@given(label_lists, label_lists, st.integers(0, 99))
def test_eq_5_with_mixed_w_is_the_plain_mean_over_both_sets(few, aux, seed):
    values = uniform((len(few + aux), 7), "values", seed)
    s = importance.weighted(values, torch.tensor(few + aux), shares("mixed", few, aux))
    assert torch.allclose(s, values.mean(0), atol=1e-5)


def test_eq_5_by_hand_drops_absent_classes_and_renormalises():
    values, labels = torch.tensor([[1.0], [3.0], [10.0]]), torch.tensor([0, 0, 2])
    w = torch.tensor([0.2, 0.5, 0.2, 0.1, 0.0])
    assert float(importance.weighted(values, labels, w)[0]) == pytest.approx(0.5 * 2 + 0.5 * 10)


def test_class_means_by_hand_keep_shape_and_precision():
    values = torch.tensor([[[1.0, 2.0]], [[3.0, 6.0]], [[5.0, 5.0]]], dtype=torch.float64)
    means, present = importance.class_means(values, torch.tensor([2, 2, 0]), 4)
    assert means.dtype == torch.float64 and means.tolist() == [[[5, 5]], [[0, 0]], [[2, 4]], [[0, 0]]]
    assert present.tolist() == [True, False, True, False]


def test_eq_5_without_weight_on_any_present_class_is_refused():
    with pytest.raises(InputError, match="weight 0 on every class that has images; use w=mixed"):
        importance.weighted(torch.ones(2, 1), torch.tensor([0, 0]), torch.tensor([0.0, 1.0]))


# --- what is measured ----------------------------------------------------------------------------
READERS = {"vgg": {"features.0": "features.3", "features.40": "classifier"},
           "resnet": {"layer2.0.conv1": "layer2.0.conv2"}}


def test_activations_are_the_inputs_of_the_reading_layer(teacher):
    few = samples(5, teacher.architecture)
    readers = list(READERS["vgg" if teacher.architecture.name == "vgg16" else "resnet"].values())
    found = criteria.channel_activations(teacher.model, readers, few.images, chunk=2)[0]
    squares = criteria.channel_activations(teacher.model, readers, few.images, power=2)[0]
    seen = {}
    handles = [teacher.model.get_submodule(name).register_forward_pre_hook(
        lambda _m, x, name=name: seen.__setitem__(name, x[0].clone())) for name in readers]
    with torch.no_grad():
        teacher.model(few.images)
    for handle in handles:
        handle.remove()
    for name in readers:
        a = seen[name].flatten(2) if seen[name].dim() == 4 else seen[name][:, :, None]
        assert bool((a >= 0).all())                       # after batch norm, ReLU and pooling
        assert torch.allclose(found[name], a.mean(2), atol=1e-5)
        assert torch.allclose(squares[name], a.square().mean(2), atol=1e-4)


def test_taylor_is_activation_times_gradient_and_uses_the_label(teacher):
    few, before = samples(4, teacher.architecture), state_of(teacher.model)
    reader = list(READERS["vgg" if teacher.architecture.name == "vgg16" else "resnet"].values())[0]
    found = criteria.channel_taylor(teacher.model, [reader], few, chunk=3)[reader]
    # By hand for image 0: a gate of one at every entry of the map, and the gradient with respect to it.
    gates = {}

    def gate(_m, x):
        gates["g"] = torch.ones_like(x[0], requires_grad=True)
        return (x[0].clone() * gates["g"],)
    handle = teacher.model.get_submodule(reader).register_forward_pre_hook(gate)
    F.cross_entropy(teacher.model(few.images[:1]), few.labels[:1]).backward()
    handle.remove()
    assert torch.allclose(found[0], gates["g"].grad.mean((2, 3))[0].abs(), atol=1e-6)
    other = Samples(few.images, (few.labels + 1) % CLASSES)
    assert not torch.allclose(criteria.channel_taylor(teacher.model, [reader], other)[reader], found)
    assert same_state(before, state_of(teacher.model)) and all(p.grad is None for p in teacher.model.parameters())


def test_without_ood_images_the_mixed_shares_are_those_of_the_few():
    few = Samples(torch.zeros(4, 1), torch.tensor([0, 0, 0, 2]))
    shares = importance.class_shares("mixed", few, None, torch.full((3,), 1 / 3))
    assert shares.tolist() == [0.75, 0.0, 0.25]


def test_bn_scale_is_the_batch_norm_behind_the_convolution(vgg):
    e = small(contribution="bn_scale")
    few = samples(5, VGG)
    found = criteria.class_aware_scores(task(vgg, few, None, e, torch.full((5,), 0.2)), {"features.3": "features.7"})
    assert torch.equal(found["features.3"], vgg.model.features[4].weight.abs())


def test_bn_scale_needs_a_batch_norm():
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3), torch.nn.BatchNorm2d(4))
    with pytest.raises(InputError, match="needs a batch norm after 0; use contribution=activation"):
        criteria._bn_scale(plain, "0")
    assert torch.equal(criteria._bn_scale(plain, "2"), plain[3].weight)


# --- choosing ------------------------------------------------------------------------------------
@given(st.lists(st.floats(0, 3), min_size=1, max_size=40), st.data())
def test_top_channels_are_exactly_as_many_as_asked_and_the_largest(values, data):
    keep = data.draw(st.integers(1, len(values)))
    score = torch.tensor(values)
    kept = importance.top_channels(score, keep)
    assert len(kept) == keep and kept == sorted(set(kept))
    rest = [v for i, v in enumerate(score.tolist()) if i not in kept]
    assert not rest or min(score[kept].tolist()) >= max(rest)


def test_ties_go_to_the_lower_channel():
    assert importance.top_channels(torch.ones(6), 3) == [0, 1, 2]


def test_nan_in_a_score_is_refused():
    with pytest.raises(InputError, match="the teacher's weights hold NaN or infinity"):
        importance.top_channels(torch.tensor([1.0, float("nan")]), 1)


def chosen(teacher, plan, few, aux=None, w=None, **settings):
    asked = task(teacher, few, aux, small(**{"contribution": "activation", "plan": plan, **settings}), w)
    return plans.pruned_layers(asked)[0], plans.choose_filters(asked)


@pytest.mark.parametrize("architecture, plan", [(VGG, "half"), (RESNET, "all_inner")])
def test_native_filters_have_the_largest_l1_norm_and_see_no_image(request, architecture, plan):
    teacher = request.getfixturevalue("vgg" if architecture is VGG else "resnet")
    widths, kept = chosen(teacher, plan, samples(5, architecture))
    assert {name: len(channels) for name, channels in kept.items()} == widths
    for name, channels in kept.items():
        norms = teacher.model.get_submodule(name).weight.abs().sum((1, 2, 3))
        assert channels == sorted(norms.topk(widths[name]).indices.tolist())
    assert chosen(teacher, plan, samples(9, architecture, seed=7))[1] == kept


def test_class_aware_filters_weigh_the_l1_norm_by_the_activation(vgg):
    few, aux, w = samples(6, VGG), samples(6, VGG, seed=3), torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0]).double()
    widths, kept = chosen(vgg, "half", few, aux, w)
    both = Samples(torch.cat([few.images, aux.images]), torch.cat([few.labels, aux.labels]))
    s = importance.weighted(criteria.channel_activations(vgg.model, ["features.10"], both.images)[0]["features.10"],
                            both.labels, w)
    score = vgg.model.features[7].weight.abs().sum((1, 2, 3)) * s / s.mean()
    assert kept["features.7"] == sorted(score.topk(widths["features.7"]).indices.tolist())
    assert kept != chosen(vgg, "half", few)[1]


def test_flat_activations_leave_the_native_choice(vgg, monkeypatch):
    monkeypatch.setattr(criteria, "channel_activations",
                        lambda model, names, images, power: ({n: torch.ones(len(images), 512) for n in names}, None))
    monkeypatch.setattr(importance, "weighted", lambda values, labels, w: torch.tensor(3.0))
    few = samples(5, VGG)
    assert chosen(vgg, "half", few, w=torch.ones(5) / 5)[1] == chosen(vgg, "half", few)[1]


def test_evidence_gives_every_class_a_mean_weighted_by_the_teachers_posteriors():
    """By hand: three images, two channels, two classes; class 1 has no image labelled so, yet has evidence."""
    values = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 8.0]])
    posteriors = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]])
    found = criteria.class_evidence(values, posteriors)
    assert torch.allclose(found, torch.tensor([[(1 + 1.5 + 1.25) / 1.75, (1 + 2) / 1.75], [(1.5 + 3.75) / 1.25, (1 + 6) / 1.25]]))
    # With certain posteriors it is the class mean of eq. 5.
    certain = torch.eye(2)[[0, 1, 1]]
    means, present = importance.class_means(values, torch.tensor([0, 1, 1]), 2)
    assert present.all() and torch.allclose(criteria.class_evidence(values, certain), means)


@pytest.mark.parametrize("contribution", ["evidence", "evidence_max"])
def test_evidence_reads_the_few_and_the_whole_pool_without_labels(vgg, contribution):
    few, pool, w = samples(4, VGG), samples(9, VGG, seed=5).images, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0])
    e = small(contribution=contribution)
    given = dataclasses.replace(task(vgg, few, None, e, w), pool=pool)
    found = criteria.class_aware_scores(given, {"features.3": "features.7"})["features.3"]
    values, logits = criteria.channel_activations(vgg.model, ["features.7"], torch.cat([few.images, pool]))
    by_class = criteria.class_evidence(values["features.7"], logits.softmax(1))
    assert torch.allclose(found, by_class.max(0).values if contribution == "evidence_max" else w @ by_class)
    other = dataclasses.replace(given, few=Samples(few.images, (few.labels + 1) % CLASSES))
    assert torch.equal(found, criteria.class_aware_scores(other, {"features.3": "features.7"})["features.3"])


@pytest.mark.parametrize("contribution", ["activation", "taylor", "bn_scale"])
def test_every_contribution_chooses_the_planned_counts(teacher, contribution):
    plan = "half" if teacher.architecture.name == "vgg16" else "all_inner"
    few, before = samples(5, teacher.architecture), state_of(teacher.model)
    widths, kept = chosen(teacher, plan, few, samples(5, teacher.architecture, 9), torch.ones(5) / 5, contribution=contribution)
    assert {name: len(channels) for name, channels in kept.items()} == widths
    assert same_state(before, state_of(teacher.model))
