"""The fine-tuning stage: eq. 9 by hand, what is forwarded, batch norms, stops, controls."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from conftest import CLASSES, VGG, normal, same_state, samples, small, state_of

from oefsmc_lib.compressors import losses
from oefsmc_lib.errors import InputError
from oefsmc_lib.images import elsewhere
from oefsmc_lib.images.fewshot import Samples, generator
from oefsmc_lib.compressors.watch import PATIENCE, Stop, Watch
from oefsmc_lib.student import finetune as stage

FEW_LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 2, 3])
LR = 1e-4                                                  # random networks have steep losses
RATES = elsewhere.rates(torch.bincount(FEW_LABELS, minlength=CLASSES) / 8)


@pytest.fixture
def sets(teacher):
    few = Samples(samples(8, teacher.architecture).images, FEW_LABELS)
    return few, samples(6, teacher.architecture, seed=3)


def setting(**changes):
    named = {name if "." in name or name in {"eta", "gamma", "gamma_mean", "redraw", "variant", "method", "seed",
                                             "label_sampling"} else f"finetune.{name}": value
             for name, value in changes.items()}
    return small(**{"variant": "ours", "finetune.epochs": 1, "finetune.lr": LR, "finetune.stop": "fixed", **named})


def of(e):
    """An experiment and the settings of its stage, resolved."""
    return e, stage.schedule_of(e, None)[0]


def run(teacher, few, aux, watch=None, **changes):
    """(model, report)"""
    model = copy.deepcopy(teacher.model)
    return model, stage.finetune(model, few, aux, RATES, setting(**changes), watch)


def gradient(teacher, loss_of):
    model = copy.deepcopy(teacher.model).requires_grad_(True).eval()
    loss_of(model).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


# --- eq. 9 -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("gamma_mean", ["plain", "weighted"])
def test_a_step_is_eq_9_by_hand(teacher, sets, gamma_mean):
    few, aux = sets
    gamma = CLASSES * RATES.float()

    def eq_9(model):
        each = gamma[aux.labels] * F.cross_entropy(model(aux.images), aux.labels, reduction="none")
        second = each.mean() if gamma_mean == "plain" else each.sum() / gamma[aux.labels].sum()
        return F.cross_entropy(model(few.images), few.labels) + 2.5 * second
    grads = gradient(teacher, eq_9)
    model, report = run(teacher, few, aux, weight_decay=0.1, gamma_mean=gamma_mean)
    assert report["loss"] == pytest.approx([float(eq_9(teacher.model))], rel=1e-4) and report["epochs"] == 1
    for name, parameter in teacher.model.named_parameters():
        step = (parameter - model.get_parameter(name)) / LR
        assert torch.allclose(step, grads[name] + 0.1 * parameter, rtol=0.01, atol=0.01), name


def test_the_second_step_has_momentum(vgg):
    few = Samples(samples(8, VGG).images, FEW_LABELS)
    settings = {"weight_decay": 0, "momentum": 0.9}
    one, two = (run(vgg, few, None, epochs=epochs, **settings)[0] for epochs in (1, 2))
    name = "classifier.weight"
    first = one.get_parameter(name) - vgg.model.get_parameter(name)
    fake = type("T", (), {"model": one})
    grad = gradient(fake, lambda model: F.cross_entropy(model(few.images), few.labels))[name]
    assert torch.allclose((two.get_parameter(name) - one.get_parameter(name)) / LR, 0.9 * first / LR - grad, rtol=0.01, atol=0.01)


def test_every_parameter_is_trained_and_frozen_again(teacher, sets):
    model, _ = run(teacher, *sets)
    assert all(not torch.equal(p, teacher.model.get_parameter(name)) for name, p in model.named_parameters())
    assert not any(p.requires_grad for p in model.parameters()) and not model.training


def test_without_eta_or_auxiliary_images_none_is_forwarded(teacher, sets, count_forwards):
    few, aux = sets
    results = []
    for second, eta in ((None, 2.5), (aux, 0)):
        model = copy.deepcopy(teacher.model)
        with count_forwards(model) as seen:
            stage.finetune(model, few, second, RATES, setting(eta=eta, epochs=3))
        results.append((state_of(model), seen.images))
    assert results[0][1] == results[1][1] == 3 * 8 and same_state(results[0][0], results[1][0])


def test_auxiliary_images_leave_the_order_of_the_few_alone(vgg, count_forwards):
    few, aux = samples(9, VGG), samples(7, VGG, seed=3)
    firsts = []
    for second in (None, aux):
        model = copy.deepcopy(vgg.model)
        with count_forwards(model) as seen:
            stage.finetune(model, few, second, RATES, setting(batch=4, epochs=2))
        firsts.append([batch[: len(batch) - (4 if second else 0)] for batch in seen.batches])
    assert [len(batch) for batch in firsts[0]] == [4, 4, 1] * 2
    assert all(torch.equal(a, b) for a, b in zip(*firsts, strict=True))


def test_auxiliary_images_come_in_turn_before_any_comes_again():
    steps = stage.Steps(samples(9, VGG), samples(8, VGG, seed=3), RATES, *of(setting(batch=4)))
    drawn = [aux.tolist() for _ in range(2) for _, aux in steps.epoch()][:4]
    assert all(len(part) == 4 for part in drawn)
    assert sorted(drawn[0] + drawn[1]) == sorted(drawn[2] + drawn[3]) == list(range(8)) and drawn[:2] != drawn[2:]


@pytest.mark.parametrize("sampling", ["iid", "quota"])
def test_redrawn_labels_change_with_the_step_and_follow_the_rates(vgg, monkeypatch, sampling):
    few, aux = Samples(samples(8, VGG).images, FEW_LABELS), samples(40, VGG, seed=3)      # too many to come twice alike
    for redraw in (False, True):
        seen = []
        monkeypatch.setattr(losses, "regulariser", lambda logits, labels, *_: (seen.append(labels.tolist()), logits.sum() * 0)[1])
        run(vgg, few, aux, redraw=redraw, epochs=4, label_sampling=sampling)
        assert len({tuple(sorted(labels)) if not redraw else tuple(labels) for labels in seen}) == (4 if redraw else 1)
        assert redraw is False or all(float(RATES[label]) > 0 for labels in seen for label in labels)


def test_the_order_of_both_sets_by_hand(vgg):
    """Each set has a generator of its own; the auxiliary set is shuffled anew when it has no whole batch left."""
    few, aux = samples(9, VGG), samples(6, VGG, seed=3)
    steps = stage.Steps(few, aux, RATES, *of(setting(batch=4, seed=2)))
    ours, theirs = (generator(2, f"finetune-{name}") for name in ("few", "aux"))
    for _ in range(2):
        parts = list(steps.epoch())
        order = torch.randperm(9, generator=ours)
        assert [part.tolist() for part, _ in parts] == [order[:4].tolist(), order[4:8].tolist(), order[8:].tolist()]
        for _, part in parts:
            assert part.tolist() == torch.randperm(6, generator=theirs)[:4].tolist()


@pytest.mark.parametrize("sampling", ["iid", "quota"])
def test_redrawn_labels_are_those_of_the_seed(sampling, vgg, monkeypatch):
    few, drawn, draw = samples(8, VGG), [], elsewhere.draw_labels
    monkeypatch.setattr(elsewhere, "draw_labels", lambda *a: (drawn.append(draw(*a).tolist()), draw(*a))[1])
    for _ in range(2):
        steps = stage.Steps(few, few, RATES, *of(setting(redraw=True, label_sampling=sampling)))
        for _ in range(5):
            steps.loss(vgg.model, torch.arange(8), torch.arange(8))
    assert drawn[:5] == drawn[5:] and len({str(labels) for labels in drawn[:5]}) > 1


@pytest.mark.parametrize("kind", ["k_gamma", "normalised", "one"])
def test_the_class_weights_are_of_the_kind_that_is_asked_for(kind):
    few = Samples(torch.zeros(8, 3, 32, 32), FEW_LABELS)
    steps = stage.Steps(few, few, RATES, *of(setting(gamma=kind)))
    assert torch.equal(steps.gamma, elsewhere.class_weights(RATES, kind)) and steps.counts.tolist() == [4, 2, 1, 1, 0]


def test_the_loss_of_an_epoch_is_the_mean_over_its_batches(vgg):
    few = samples(9, VGG)
    order = torch.randperm(9, generator=generator(0, "finetune-few"))
    with torch.no_grad():
        each = [float(F.cross_entropy(vgg.model(few.images[part]), few.labels[part])) for part in order.split(4)]
    assert run(vgg, few, None, batch=4, lr=1e-12)[1]["loss"] == pytest.approx([sum(each) / 3], rel=1e-4)


def test_seeds_decide_the_order(vgg):
    few = samples(9, VGG)
    runs = [run(vgg, few, None, seed=seed, batch=4, epochs=4)[0] for seed in (0, 0, 1)]
    assert same_state(state_of(runs[0]), state_of(runs[1])) and not same_state(state_of(runs[0]), state_of(runs[2]))


# --- batch norms -------------------------------------------------------------------------------------
def statistics(model):
    return {name: tensor for name, tensor in state_of(model).items() if "running_" in name}


def test_batch_norms_see_what_their_mode_says(teacher, sets):
    few, aux = sets
    start = statistics(teacher.model)
    after = {(bn, second is not None): statistics(run(teacher, few, second, bn=bn, lr=1e-12)[0])
             for bn in ("eval", "train", "separate") for second in (None, aux)}
    assert same_state(start, after["eval", True])
    few_alone = after["train", False]
    assert not same_state(start, few_alone) and not same_state(few_alone, after["train", True])
    assert all(torch.allclose(after["separate", True][name], few_alone[name], atol=1e-6) for name in few_alone)
    model, _ = run(teacher, few, aux, bn="separate")
    assert all(m.momentum == 0.1 and not hasattr(m, "kept_momentum") for m in model.modules()
               if isinstance(m, torch.nn.BatchNorm2d))


# --- rebalancing controls ----------------------------------------------------------------------------
def few_loss(kind, logits, labels=FEW_LABELS):
    few = Samples(torch.zeros(8, 3, 32, 32), FEW_LABELS)
    return stage.Steps(few, None, RATES, *of(setting(rebalance=kind)))._few_loss(logits, labels)


def test_class_weights_make_every_class_with_images_weigh_the_same():
    logits = normal((8, CLASSES), "logits")
    each = F.cross_entropy(logits, FEW_LABELS, reduction="none")
    by_class = torch.stack([each[FEW_LABELS == j].mean() for j in range(4)]).mean()
    assert float(few_loss("class_weights", logits)) == pytest.approx(float(by_class), rel=1e-5)
    assert float(few_loss("none", logits)) == pytest.approx(float(each.mean()), rel=1e-5)


def test_logit_adjustment_adds_the_log_prior_and_leaves_absent_classes_out():
    logits = normal((8, CLASSES), "logits")
    prior = torch.tensor([4, 2, 1, 1, 0]) / 8
    p = logits.exp() * prior
    by_hand = -(p / p.sum(1, keepdim=True))[torch.arange(8), FEW_LABELS].log().mean()
    assert float(few_loss("logit_adjustment", logits)) == pytest.approx(float(by_hand), rel=1e-4)


def test_oversampling_repeats_every_class_up_to_the_largest():
    few = Samples(torch.zeros(8, 3, 32, 32), FEW_LABELS)
    steps = stage.Steps(few, None, RATES, *of(setting(rebalance="oversample")))
    epochs = [torch.cat([part for part, _ in steps.epoch()]) for _ in range(2)]
    for order in epochs:
        assert torch.bincount(FEW_LABELS[order], minlength=CLASSES).tolist() == [4, 4, 4, 4, 0]
        assert set(order.tolist()) == set(range(8))
    assert epochs[0].tolist() != epochs[1].tolist()
    again = stage.Steps(few, None, RATES, *of(setting(rebalance="oversample")))
    assert torch.cat([part for part, _ in again.epoch()]).tolist() == epochs[0].tolist()


# --- rates and recipes -------------------------------------------------------------------------------
def recorded(monkeypatch, teacher, few, **changes):
    """Settings of the optimiser at each step, and whether batch norms were in train mode."""
    seen = []
    step = torch.optim.SGD.step

    def look(self, *rest, **more):
        group = self.param_groups[0]
        seen.append((group["lr"], group["momentum"], group["weight_decay"]))
        return step(self, *rest, **more)
    monkeypatch.setattr(torch.optim.SGD, "step", look)
    model, report = run(teacher, few, None, **changes)
    return seen, model, report


def test_cds_own_stage_ignores_the_common_settings(teacher, sets, monkeypatch):
    few, epochs = sets[0], 40 if teacher.architecture.name == "vgg16" else 100
    seen, model, report = recorded(monkeypatch, teacher, few, method="cd", variant="native", momentum=0.1, weight_decay=0.3,
                                   epochs=3, batch=1, rebalance="oversample", stop="train_loss", lr=1)
    rates = [lr for lr, _, _ in seen]
    assert len(rates) == report["epochs"] == epochs and {row[1:] for row in seen} == {(0.9, 5e-4)}
    assert rates == pytest.approx([1e-5] * (epochs // 2) + [1e-6] * (epochs // 4) + [1e-7] * (epochs // 4))
    assert not same_state(statistics(teacher.model), statistics(model))       # batch norms in train mode


def test_cds_recipe_is_an_option_of_the_common_stage(vgg, monkeypatch):
    seen, model, _ = recorded(monkeypatch, vgg, samples(8, VGG), variant="native_ft", recipe="cd", epochs=5)
    assert [lr for lr, _, _ in seen] == pytest.approx([1e-5, 1e-5, 1e-6, 1e-7, 1e-7])
    assert not same_state(statistics(vgg.model), statistics(model))


def test_the_common_stage_has_a_constant_rate(vgg, monkeypatch):
    seen, _, _ = recorded(monkeypatch, vgg, samples(8, VGG), variant="native_ft", epochs=5)
    assert set(seen) == {(LR, 0.9, 5e-4)} and len(seen) == 5


# --- stops -------------------------------------------------------------------------------------------
def test_a_layers_extra_state_that_is_no_tensor_is_kept_too():
    class Marked(nn.BatchNorm2d):
        mark = {"seen": 0}

        def get_extra_state(self):
            return self.mark

        def set_extra_state(self, state):
            self.mark = state

    model = nn.Sequential(Marked(2))
    distances = iter([1.0, 2.0])
    stop = Stop("watch", model, lambda _model: next(distances), None)
    model[0].weight.data.fill_(5)
    model[0].mark["seen"] = 1
    stop.now(0.0)
    assert stop.restore() == 0 and model[0].mark == {"seen": 0} and float(model[0].weight.detach().max()) == 1


def test_a_fixed_length_is_kept_and_zero_epochs_change_nothing(vgg):
    few = samples(8, VGG)
    assert run(vgg, few, None, epochs=12, lr=1e-12)[1]["epochs"] == 12
    model, report = run(vgg, few, None, epochs=0)
    assert same_state(state_of(model), state_of(vgg.model)) and report == {"epochs": 0, "kept": 0, "loss": [], "distances": []}


def test_train_loss_stops_when_it_no_longer_falls_by_a_percent(vgg, monkeypatch):
    def epochs_of(values):
        coming = iter(values)
        monkeypatch.setattr(stage.Steps, "_few_loss", lambda _, logits, *__: 0 * logits.sum() + next(coming))
        return run(vgg, samples(8, VGG), None, epochs=20, stop="train_loss")[1]["epochs"]
    assert epochs_of([2.0] * 20) == 1 + PATIENCE
    assert epochs_of([2.0 * 0.997**i for i in range(20)]) == 20           # a percent in four epochs
    assert epochs_of([2.0 * 0.999**i for i in range(20)]) == 1 + PATIENCE
    assert epochs_of([2.0, 1.0, *[1.5] * 18]) == 2 + PATIENCE


def test_the_stage_descends(vgg):
    """Every epoch is one step on all images, at a rate at which the loss does not swing."""
    loss = run(vgg, samples(8, VGG), None, epochs=40, momentum=0, weight_decay=0)[1]["loss"]
    assert loss[-1] < 0.9 * loss[0]


def test_watch_keeps_the_weights_that_were_closest_to_the_teacher(vgg):
    distances, states = [5.0, 4.0, 3.0, 6.0, 6.0, 6.0, 3.0, 7.0, 7.0, 7.0], []
    coming = iter(distances)

    def watch(model):
        states.append(state_of(model))
        return next(coming)
    model, report = run(vgg, samples(8, VGG), None, watch, epochs=40, stop="watch")
    # An equal distance is no progress: five epochs after the second one the stage ends.
    assert (report["epochs"], report["kept"], report["distances"]) == (7, 2, distances[:8])
    assert same_state(state_of(model), states[2]) and not same_state(states[2], states[6])


def test_watch_may_keep_the_start_and_runs_no_more_than_the_most_epochs(vgg):
    distances = iter([1.0] + [2.0] * 40)
    model, report = run(vgg, samples(8, VGG), None, lambda _: next(distances), epochs=40, stop="watch")
    assert same_state(state_of(model), state_of(vgg.model)) and (report["epochs"], report["kept"]) == (PATIENCE, 0)
    falling = iter([9.0 - i for i in range(8)])
    assert run(vgg, samples(8, VGG), None, lambda _: next(falling), epochs=3, stop="watch")[1]["kept"] == 3


def test_the_watched_distance_is_eq_2_in_eval_mode_and_changes_nothing(teacher):
    images = samples(70, teacher.architecture, seed=5).images             # more than one batch
    student = copy.deepcopy(teacher.model)
    for parameter in student.parameters():
        parameter.data += 0.05 * parameter.data.abs().mean()
    student.train()
    before, watch = state_of(student), Watch.of(teacher.model, images)
    found = watch(student)
    assert student.training and same_state(before, state_of(student))
    with torch.no_grad():
        p, q = (F.log_softmax(model.eval()(images).double(), 1) for model in (teacher.model, student))
    by_hand = float((p.exp() * (p - q)).sum(1).mean())
    assert found == pytest.approx(by_hand, rel=1e-3, abs=1e-5) and watch(teacher.model) == pytest.approx(0, abs=1e-5)


def test_a_rule_that_watches_needs_a_watch_set(vgg):
    with pytest.raises(InputError, match="no watch set to stop by; choose another rule"):
        run(vgg, samples(8, VGG), None, None, epochs=2, stop="watch")


def test_a_distance_that_is_not_finite_is_refused(vgg):
    with pytest.raises(InputError, match="not finite before fine-tuning; check the teacher's weights"):
        run(vgg, samples(8, VGG), None, lambda _: math.nan, epochs=2, stop="watch")
    distances = iter([1.0, math.inf])
    with pytest.raises(InputError, match="diverged in epoch 1; lower finetune.lr or eta"):
        run(vgg, samples(8, VGG), None, lambda _: next(distances), epochs=2, stop="watch")


def test_a_stage_that_diverges_is_refused(vgg):
    with pytest.raises(InputError, match="Fine-tuning diverged in epoch .*; lower finetune.lr or eta"):
        run(vgg, samples(8, VGG), None, epochs=30, lr=1e20)


def test_the_loss_of_each_epoch_is_reported(vgg):
    report = run(vgg, samples(9, VGG), samples(9, VGG, seed=3), epochs=3, batch=4)[1]
    assert len(report["loss"]) == 3 and all(math.isfinite(value) for value in report["loss"])
