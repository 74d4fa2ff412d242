"""CD: the closed form against Adam, the path against re-solving, exact counts, both families."""

import copy

import pytest
import torch
from conftest import (
    CLASSES,
    MOBILENET,
    VGG,
    inputs,
    logits,
    make_teacher,
    normal,
    same_state,
    samples,
    small,
    state_of,
    task,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from oefsmc_lib.compressors import cd, compress, criteria, importance, layerwise, plans, surgery, taps
from oefsmc_lib.compressors.squares import Dual, Primal, factor
from oefsmc_lib.errors import InputError
from oefsmc_lib.images.fewshot import Samples
from oefsmc_lib.teacher.networks import Architecture

W = torch.ones(CLASSES).double() / CLASSES


def setting(teacher, **changes):
    plan = {"vgg16": "cd_half", "resnet20": "all_inner"}.get(teacher.architecture.name, "inner_half")
    return small(**{"method": "cd", "variant": "native", "plan": plan, **changes})


def run(teacher, few=None, aux=None, w=None, **changes):
    return compress(task(teacher, few or samples(8, teacher.architecture), aux, setting(teacher, **changes), w))


def close(one, other, tolerance=1e-4):
    return all(torch.allclose(one[name], other[name], atol=tolerance) for name in one)


# --- one layer ---------------------------------------------------------------------------------------
def problem(images=12, channels=6, out=5, size=6, seed=0):
    """A layer, its inputs in student and teacher, and the weights of eq. 7."""
    layer = nn.Conv2d(channels, out, 3, padding=1, bias=False).requires_grad_(False)
    layer.weight.copy_(normal(layer.weight.shape, "layer", seed))
    x_t = normal((images, channels, size, size), "teacher", seed).relu()
    x_s = (x_t + 0.3 * normal(x_t.shape, "student", seed)).relu()
    return layer, x_s, x_t, torch.full((images,), 1 / images)


def fitted(layer, x_s, x_t, shares, keep, weight=None, mu=0.6, rho=1e-3, **changes):
    """(fitted weight, kept channels) of one layer."""
    layer = copy.deepcopy(layer)
    settings = small(**{f"cd.{k}": v for k, v in (changes | {"rho": rho, "mu": mu}).items()}).cd
    fit = cd.Fit(layer, keep, weight, len(x_s), settings)
    with torch.no_grad():
        fit.add(taps.Tap(x_s, layer(x_s)), taps.Tap(x_t, layer(x_t)), shares)
        change = fit.finish()
        assert torch.allclose(change(x_s, None), layer(x_s), atol=1e-6)       # what the next layer sees
    return layer.weight, fit.kept


def loss(weight, layer, x_s, x_t, shares, mu=0.6):
    """The specification's L, image by image."""
    def part(x):
        off = nn.functional.conv2d(x, weight - layer.weight, padding=1).square().flatten(1).mean(1)
        return float((shares * off).sum())
    return mu * part(x_t) + (1 - mu) * part(x_s)


def masked(layer, channels):
    weight = torch.zeros_like(layer.weight)
    weight[:, channels] = layer.weight[:, channels]
    return weight


@pytest.mark.parametrize("images", [1, 12])
def test_exact_is_no_worse_than_the_masked_teacher(images):
    p = problem(images)
    for keep in (1, 3, 5):
        weight, channels = fitted(*p, keep=keep)
        assert len(channels) == keep and not weight[:, [i for i in range(6) if i not in channels]].any()
        assert loss(weight, *p) < loss(masked(p[0], channels), *p)


def test_exact_is_adams_limit_on_the_same_support(monkeypatch):
    """Invariant 4, with the support fixed: Adam, driven long, ends at the closed form's loss."""
    p = problem(images=8, channels=4, out=2, size=4)
    exact, channels = fitted(*p, keep=2, rho=0)
    monkeypatch.setattr(importance, "top_channels", lambda score, keep: channels)
    adam, again = fitted(*p, keep=2, solver="adam", iterations=1500, lr=1e-2)
    assert again == channels
    assert loss(adam, *p) == pytest.approx(loss(exact, *p), rel=1e-4)
    assert loss(exact, *p) <= loss(adam, *p) * (1 + 1e-5)                 # no weight has less; float32 adds both


def test_the_default_ridge_costs_little(monkeypatch):
    """On one set of channels; which ones go is another matter, and two that are nearly alike may change places."""
    p = problem()
    plain, channels = fitted(*p, keep=3, rho=0)
    monkeypatch.setattr(cd, "schedule", lambda *_: [3])   # at once, so that positions among those left are channels
    monkeypatch.setattr(importance, "top_channels", lambda *_: channels)
    ridge, same = fitted(*p, keep=3)
    assert same == channels
    assert loss(plain, *p) * (1 - 1e-5) <= loss(ridge, *p) < loss(plain, *p) * (1 + 1e-4)


@pytest.mark.parametrize("solver", ["exact", "adam"])
def test_ratio_one_leaves_the_teachers_weight(solver):
    layer, *maps, shares = problem()
    # Numbers of a few bits: their sums are exact in any order, so the error is 0 and Adam does not take a first step,
    # which would be as long for an error of one rounding as for a large one.
    layer.weight.copy_((4 * layer.weight).round() / 4)
    p = layer, *((4 * x).round() / 4 for x in maps), shares
    weight, channels = fitted(*p, keep=6, solver=solver)
    assert torch.allclose(weight, layer.weight, atol=1e-6) and channels == list(range(6))


@pytest.mark.parametrize("mu", [0, 0.6, 1])
@pytest.mark.parametrize("rho", [0, 1e-3, 1e-1])
def test_primal_equals_dual(mu, rho):
    layer, x_s, x_t, shares = problem(images=1, size=4)
    teacher = layer.weight.flatten(1).T.double()
    rows = torch.cat([cd.patches(layer, x * (part * shares).sqrt().view(-1, 1, 1, 1))
                      for x, part in ((x_t, mu), (x_s, 1 - mu)) if part], 1).double()
    gram, setting = rows @ rows.T, small(**{"cd.rho": rho}).cd
    assert rows.shape[1] < rows.shape[0]
    (primal, one), (dual, other) = (cd.prune(teacher, s, 9, 3, None, setting) for s in (Primal(gram), Dual(rows)))
    assert one == other and torch.allclose(primal, dual, atol=1e-6)


def test_few_rows_are_solved_dual_and_many_primal(monkeypatch):
    used = []
    original = cd.prune
    monkeypatch.setattr(cd, "prune", lambda teacher, system, *rest: (
        used.append(type(system)), original(teacher, system, *rest))[1])
    for images, size in ((1, 2), (12, 6)):
        fitted(*problem(images, size=size), keep=3)
    assert used == [Dual, Primal]


def test_the_ridge_grows_while_rounding_leaves_the_sum_indefinite():
    """By hand: -0.002 + 0.001 is no positive pivot, and the next ridge, 0.01, leaves 0.008."""
    found = factor(torch.tensor([1.0, -0.002]).double().diag(), 0.001)
    assert found.tolist() == [[pytest.approx(1.01**0.5), 0], [0, pytest.approx(0.008**0.5)]]


@pytest.mark.parametrize("path", ["primal", "dual"])
def test_the_path_equals_solving_again_at_each_milestone(path):
    layer, x_s, x_t, shares = problem(images=1 if path == "dual" else 12, size=4)
    teacher, rows = layer.weight.flatten(1).T.double(), cd.patches(layer, x_s).double()
    gram = rows @ rows.T
    ridge = 1e-3 * float(gram.diagonal().mean())
    way = Primal(gram) if path == "primal" else Dual(rows)
    way.start(teacher, ridge)
    left = torch.arange(6)
    for stay in ([0, 1, 3, 4, 5], [0, 2, 3, 4], [1, 3]):  # positions among those left
        way.keep((torch.tensor(stay)[:, None] * 9 + torch.arange(9)).flatten())
        left = left[stay]
        columns = (left[:, None] * 9 + torch.arange(9)).flatten()
        again = way.solve(columns, teacher, ridge)
        assert torch.allclose(way.weight.double(), again, atol=1e-6)


@pytest.mark.parametrize("channel_weight", [None, torch.tensor([0.1, 9.0, 0.2, 5.0, 7.0, 0.3])], ids=["native", "class-aware"])
def test_prune_chooses_by_the_path_and_returns_its_end(channel_weight):
    layer, x_s, x_t, shares = problem()
    teacher, rows = layer.weight.flatten(1).T.double(), cd.patches(layer, x_s).double()
    gram, setting = rows @ rows.T, small(**{"cd.milestones": 3, "cd.rho": 1e-3}).cd
    left = torch.arange(6)
    for count in (4, 3, 2):                               # from 6 to 2: floor(4 (1 - i/3)) + 2
        columns = (left[:, None] * 9 + torch.arange(9)).flatten()
        weight = Primal(gram).solve(columns, teacher, 1e-3 * float(gram.diagonal().mean()))
        rms = None if channel_weight is None else channel_weight[left]
        left = left[importance.top_channels(cd.group_scores(weight, 9, rms), count)]
    assert cd.schedule(6, 2, 3) == [4, 3, 2]
    found, channels = cd.prune(teacher, Primal(gram), 9, 2, channel_weight, setting)
    assert channels == left.tolist() and not found.unflatten(0, (6, 9))[[i for i in range(6) if i not in channels]].any()


@given(st.integers(1, 600), st.data())
def test_the_schedule_descends_to_the_plan(channels, data):
    keep, steps = data.draw(st.integers(1, channels)), data.draw(st.integers(1, 30))
    counts = cd.schedule(channels, keep, steps)
    assert counts[-1] == keep and counts == sorted(counts, reverse=True) and counts[0] <= channels and len(counts) == steps


@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(0, 999), st.booleans(), st.sampled_from(["exact", "adam"]))
def test_kept_counts_are_exact_whatever_the_numbers(keep, seed, ties, solver):
    """Traps T-C1 and T-F4: the release loses a channel to rounding now and then."""
    layer, x_s, x_t, shares = problem(images=2, size=3, seed=seed)
    if ties:
        layer.weight.fill_(0.5)
        x_s, x_t = torch.ones_like(x_s), torch.ones_like(x_t)
    weight, channels = fitted(layer, x_s, x_t, shares, keep=keep, solver=solver, iterations=12)
    assert len(channels) == len(set(channels)) == keep
    assert not weight[:, [i for i in range(6) if i not in channels]].any()


def test_silent_inputs_and_repeated_images_are_no_trouble():
    layer, x_s, x_t, shares = problem()
    for rho in (0, 1e-3):
        for x in (torch.zeros_like(x_s), x_s[:1].expand_as(x_s)):
            weight, channels = fitted(layer, x, x, shares, keep=3, rho=rho)
            assert len(channels) == 3 and bool(torch.isfinite(weight).all())
        dead = x_s.clone()
        dead[:, 0] = 0
        weight, channels = fitted(layer, dead, dead, shares, keep=3, rho=rho)
        assert bool(torch.isfinite(weight).all())


def test_a_class_weight_of_zero_sends_a_channel_first():
    p = problem()
    rms = torch.ones(6)
    rms[fitted(*p, keep=1)[1]] = 0
    assert not set(fitted(*p, keep=3, weight=rms)[1]) & set((rms == 0).nonzero().flatten().tolist())


def test_adam_follows_the_released_schedule(monkeypatch):
    p, counts, rates = problem(), [], []
    choose = importance.top_channels
    monkeypatch.setattr(importance, "top_channels", lambda score, keep: (counts.append(keep), choose(score, keep))[1])
    step = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: (rates.append(self.param_groups[0]["lr"]), step(self))[1])
    fitted(*p, keep=2, solver="adam", iterations=30, lr=1e-3)
    assert counts == [5, 4, 3, 2]                         # floor(4 (1 - 3 i / T)) + 2, whenever it falls
    assert rates == [1e-3] * 10 + [pytest.approx(1e-4)] * 20


def test_adam_that_diverges_is_refused():
    layer, x_s, x_t, shares = problem()
    with pytest.raises(InputError, match="not finite at Adam step .*; lower cd.lr"):
        fitted(layer, x_s * 1e18, x_t * 1e18, shares, keep=3, solver="adam", iterations=20, lr=1e9)


# --- whole networks ----------------------------------------------------------------------------------
@pytest.mark.parametrize("changes", [{}, {"cd.solver": "adam", "cd.iterations": 12}, {"cd.bn": "train"}, {"cd.rho": 0},
                                     {"plan": None}], ids=["exact", "adam", "train", "rho=0", "published plan"])
def test_the_plans_counts_are_kept_and_the_teacher_is_not_changed(teacher, changes):
    before, e = state_of(teacher.model), setting(teacher, **{"model": teacher.architecture.name, **changes})
    student = compress(task(teacher, samples(6, teacher.architecture), None, e))
    widths = plans.plan_widths(e.resolved_plan, teacher.model, teacher.architecture)
    assert {name: len(channels) for name, channels in student.structure.kept.items()} == widths
    assert all(student.model.get_submodule(name).out_channels == keep for name, keep in widths.items())
    assert same_state(before, state_of(teacher.model)) and not teacher.model.training and not student.model.training
    assert bool(torch.isfinite(logits(student.model, inputs(2, teacher.architecture))).all())


def test_cutting_dead_filters_out_changes_nothing(teacher, monkeypatch):
    whole = []
    original = surgery.remove_channels
    monkeypatch.setattr(surgery, "remove_channels",
                        lambda model, *rest: (whole.append(copy.deepcopy(model)), original(model, *rest)))
    student, x = run(teacher), inputs(4, teacher.architecture, seed=3)
    assert torch.allclose(logits(whole[0], x), logits(student.model, x), atol=1e-4)


def test_only_readers_of_the_plan_change(vgg):
    student = run(vgg, plan="cfg_a")
    layers = surgery.weight_layers(vgg.model, VGG)
    pruned = set(student.structure.kept)
    readers = {surgery.consumer(layers, vgg.model, name) for name in pruned}
    for name in set(layers) - readers - pruned:
        assert torch.equal(student.model.get_submodule(name).weight, vgg.model.get_submodule(name).weight), name
    assert "features.7" in set(layers) - readers         # a layer of full width between two such layers


@pytest.mark.parametrize("changes", [{}, {"cd.solver": "adam", "cd.iterations": 150}], ids=["exact", "adam"])
def test_every_layer_fits_better_than_the_teachers_weights_on_its_channels(teacher, monkeypatch, changes):
    """That is what CD minimises, a convex function of one layer; of the last map it promises nothing."""
    seen, ratios = {}, []
    add, finish = cd.Fit.add, cd.Fit.finish

    def error(fit, change):
        run = (lambda x: nn.functional.linear(x, change)) if change.dim() == 2 else \
            (lambda x: fit.layer._conv_forward(x, change, None))
        return sum(part * float((shares * run(x).square().flatten(1).mean(1)).sum())
                   for x_s, x_t, shares in seen[fit] for x, part in ((x_t, fit.settings.mu), (x_s, 1 - fit.settings.mu)))

    def look(fit, student, theirs, shares):
        seen.setdefault(fit, []).append((student.input.clone(), theirs.input.clone(), shares))
        add(fit, student, theirs, shares)

    def compare(fit):
        before, change = fit.layer.weight.clone(), finish(fit)
        after = fit.layer.weight
        left = after.flatten(2).ne(0).any(2).any(0) if after.dim() == 4 else after.ne(0).any(0)
        bare = before * left.view(1, -1, *[1] * (before.dim() - 2))
        ratios.append(error(fit, after - before) / error(fit, bare - before))
        return change
    monkeypatch.setattr(cd.Fit, "add", look)
    monkeypatch.setattr(cd.Fit, "finish", compare)
    student = run(teacher, samples(24, teacher.architecture), **changes)
    # Of twenty networks' layers none kept more than 75 percent of the error.
    assert len(ratios) == len(student.structure.kept) and max(ratios) < 0.9


def test_one_pass_equals_chunks(teacher, monkeypatch):
    few = samples(10, teacher.architecture)
    student = run(teacher, few)
    layers = surgery.weight_layers(teacher.model, teacher.architecture)
    monkeypatch.setattr(layerwise, "MAP_BYTES", 3 * layerwise.map_bytes(teacher.model, layers, few.images))
    chunked, x = run(teacher, few), inputs(4, teacher.architecture, seed=3)
    assert chunked.structure.kept == student.structure.kept
    assert torch.allclose(logits(chunked.model, x), logits(student.model, x), rtol=1e-2, atol=1e-3)


def test_later_layers_see_the_student_as_fitted_so_far(vgg):
    """Imitation's inputs are those of the student: with mu=1 they are not read at all, with mu=0 they are."""
    few = samples(10, VGG)
    seen = []
    original = cd.Fit.add

    def look(self, student, teacher, shares):
        seen.append(float((student.input - teacher.input).abs().max()))
        original(self, student, teacher, shares)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cd.Fit, "add", look)
        run(vgg, few)
    assert seen[0] < 1e-6 and min(seen[2:]) > 1e-3        # the first fitted layer has exact inputs


def test_mu_is_the_networks_published_share(teacher):
    few = samples(6, teacher.architecture)
    own = 0.6 if teacher.architecture.name == "vgg16" else 0.9
    assert same_state(state_of(run(teacher, few).model), state_of(run(teacher, few, **{"cd.mu": own}).model))
    assert not same_state(state_of(run(teacher, few).model), state_of(run(teacher, few, **{"cd.mu": 0.1}).model))


def test_the_ridge_is_the_network_familys_own(teacher):
    few, name = samples(6, teacher.architecture), teacher.architecture.name
    own, other = (1e-3, 1e-2) if name == "vgg16" else (1e-2, 1e-3)
    default = state_of(run(teacher, few, model=name).model)
    assert same_state(default, state_of(run(teacher, few, model=name, **{"cd.rho": own}).model))
    assert not same_state(default, state_of(run(teacher, few, model=name, **{"cd.rho": other}).model))


def test_train_mode_uses_batch_statistics_and_moves_only_the_students(vgg):
    few = samples(12, VGG)
    evaluated, trained = run(vgg, few), run(vgg, few, **{"cd.bn": "train"})
    first = "features.1.running_mean"
    kept = trained.structure.kept["features.0"]
    same = vgg.model.features[1].running_mean[evaluated.structure.kept["features.0"]]
    assert torch.equal(state_of(evaluated.model)[first], same)
    assert not torch.equal(state_of(trained.model)[first], vgg.model.features[1].running_mean[kept])
    assert int(state_of(trained.model)["features.1.num_batches_tracked"]) == \
        int(vgg.model.features[1].num_batches_tracked) + 12                   # one update a fitted layer


# --- eq. 5 and 7 -------------------------------------------------------------------------------------
def test_equal_sets_at_one_half_are_the_pooled_set(teacher):
    few, aux = samples(6, teacher.architecture), samples(6, teacher.architecture, seed=3)
    pooled = Samples(torch.cat([few.images, aux.images]), torch.cat([few.labels, aux.labels]))
    joint, plain = run(teacher, few, aux, variant="extra_images"), run(teacher, pooled)
    assert joint.structure.kept == plain.structure.kept and close(state_of(joint.model), state_of(plain.model))


def test_lam_one_is_the_few_alone_and_lam_zero_the_auxiliary_images(teacher):
    few, aux = samples(6, teacher.architecture), samples(6, teacher.architecture, seed=3)
    ends = [run(teacher, few, aux, variant="extra_images", lam=lam) for lam in (1, 0)]
    for student, images in zip(ends, (few, aux)):
        assert same_state(state_of(student.model), state_of(run(teacher, images).model))


def test_class_aware_scores_are_group_norms_times_the_weighted_rms(vgg):
    few, aux = samples(6, VGG), samples(6, VGG, seed=3)
    w = torch.tensor([0.4, 0.3, 0.2, 0.1, 0]).double()
    found = cd.channel_weights(task(vgg, few, aux, setting(vgg, variant="ours", contribution="activation"), w),
                               {"features.7": "features.10"})["features.7"]
    squares = criteria.channel_activations(vgg.model, ["features.10"], torch.cat([few.images, aux.images]), power=2)[0]
    expected = importance.weighted(squares["features.10"], torch.cat([few.labels, aux.labels]), w).sqrt()
    assert torch.allclose(found, expected, atol=1e-6)
    weight = vgg.model.features[10].weight.flatten(1).T
    norms = vgg.model.features[10].weight.square().sum((0, 2, 3)).sqrt()
    assert torch.allclose(cd.group_scores(weight, 9, found), norms * expected, atol=1e-5)
    assert torch.allclose(cd.group_scores(weight, 9, None), norms, atol=1e-5)


def test_class_aware_importance_changes_the_channels_but_not_the_counts(teacher):
    few, aux = samples(6, teacher.architecture), samples(6, teacher.architecture, seed=3)
    native, ours = run(teacher, few).structure.kept, run(teacher, few, aux, W, variant="ours").structure.kept
    assert ours != native and {n: len(c) for n, c in ours.items()} == {n: len(c) for n, c in native.items()}


# --- other networks, refusals ------------------------------------------------------------------------
def test_vggs_last_convolution_is_fitted_through_the_head(vgg):
    few = samples(10, VGG)
    student = run(vgg, few, plan="half")
    assert len(student.structure.kept["features.40"]) == student.model.classifier.in_features == 32
    assert not torch.equal(student.model.classifier.weight,
                           vgg.model.classifier.weight[:, student.structure.kept["features.40"]])


@pytest.mark.parametrize("architecture", [MOBILENET, Architecture("resnet18", CLASSES, 3, 1.0, 32)], ids=lambda a: a.name)
def test_networks_of_torchvision_are_compressed(architecture):
    teacher = make_teacher(architecture)
    few = samples(6, architecture)
    student = run(teacher, few)
    widths = plans.plan_widths(setting(teacher).resolved_plan, teacher.model, architecture)
    assert {name: len(channels) for name, channels in student.structure.kept.items()} == widths
    # The first fitted layer has the teacher's own inputs: there the least squares are no worse, whatever follows.
    layers = surgery.weight_layers(teacher.model, architecture)
    reader = surgery.consumer(layers, teacher.model, next(iter(widths)))
    bare, outputs = surgery.pruned_copy(teacher, student.structure.kept), []
    for model in (student.model, bare.model, teacher.model):
        handle = model.get_submodule(reader).register_forward_hook(lambda _m, _x, y: outputs.append(y.clone()))
        logits(model, few.images)
        handle.remove()
    assert float((outputs[0] - outputs[2]).square().sum()) < 0.9 * float((outputs[1] - outputs[2]).square().sum())


@pytest.mark.parametrize("place", ["features.0.weight", "features.4.bias", "features.14.weight"])
def test_nan_in_the_teachers_weights_is_refused(place):
    teacher = make_teacher(VGG)
    dict(teacher.model.named_parameters())[place].view(-1)[0] = float("nan")
    with pytest.raises(InputError, match="not (a )?finite"):
        run(teacher)


def test_a_plan_that_prunes_two_inputs_of_one_layer_is_refused(vgg, monkeypatch):
    monkeypatch.setattr(surgery, "consumer", lambda *_: "features.7")
    with pytest.raises(InputError, match="prunes two inputs of one layer of vgg16, which CD cannot fit"):
        run(vgg)
