"""The whole path on a tiny set in memory: variants, fairness, test images, sharing, saving."""

import dataclasses
import subprocess
import sys
import time

import pytest
import torch
from conftest import CLASSES, experiment, make_teacher, pictures, same_state, state_of
from safetensors.torch import load_file, save_file

from oefsmc_lib import compressors, pipeline
from oefsmc_lib.errors import InputError
from oefsmc_lib.images import elsewhere as ood
from oefsmc_lib.images import purity
from oefsmc_lib.images import sets as data
from oefsmc_lib.parameters import keys
from oefsmc_lib.parameters.experiment import METHODS, VARIANTS, Experiment
from oefsmc_lib.student import evaluation, predictions, saved
from oefsmc_lib.teacher import cost, latency, teachers

RESNET = {"model": "resnet20", "width": 0.5, "imbalance": "step", "ratio": 4}
NETWORKS = {"vgg": {}, "resnet": RESNET}
EVERY = pytest.mark.parametrize("method", METHODS)
BOTH = pytest.mark.parametrize("network", NETWORKS)


def run(shared=None, **settings):
    return pipeline.run(experiment(**settings), shared)


def lasting(row):
    """A row without how long it took and when."""
    return {name: value for name, value in row.flat().items()
            if not name.startswith("seconds") and "latency" not in name and name not in ("time", "git_commit")}


# --- every method, every variant ---------------------------------------------------------------------
@EVERY
@BOTH
def test_all_variants_run(tiny, method, network):
    shared, rows, students = pipeline.Shared(), {}, {}
    settings = NETWORKS[network] | {"finetune.stop": "fixed"}          # early stopping may keep the start
    for variant in VARIANTS:
        students[variant], rows[variant] = run(shared, method=method, variant=variant, **settings)
        row, e = rows[variant], experiment(method=method, variant=variant, **settings)
        assert (row.method, row.variant, row.key, row.plan) == (method, variant, e.key, e.resolved_plan)
        assert 0 <= row.top1 <= 100 and row.macs_cut > 0 and row.params_cut > 0
        assert sum(row.counts) == len(row.few_indices) == 10 and row.aux_counts == ([] if not e.reads_aux else row.aux_counts)
        assert (sum(row.aux_counts), len(row.aux_indices)) == ((10, 10) if e.reads_aux else (0, 0))
        assert bool(row.dropped) == (method == "practise") and bool(row.kept) == (method != "practise")
        assert not students[variant].model.training
    assert len({row.id for row in rows.values()}) == len(VARIANTS)
    assert len({tuple(row.few_indices) for row in rows.values()}) == 1                     # paired
    assert len({tuple(row.aux_indices) for row in rows.values() if row.aux_indices}) == 1
    # Each pair differs by one part alone.
    states = {variant: state_of(student.model) for variant, student in students.items()}
    distinct = [("native", "native_ft"), ("native_ft", "extra_images"), ("native_ft", "wo_comp"), ("wo_ft", "ours"),
                ("extra_images", "ours"), ("ours", "whole_pool")]
    assert not any(same_state(states[one], states[other]) for one, other in distinct)
    assert len({row.macs for row in rows.values()}) == 1 or method == "practise"


@EVERY
@BOTH
def test_ours_without_its_parts_is_native_ft_bit_for_bit(tiny, method, network):
    """Invariant 2: lam = 1, eta = 0 and the native importance."""
    settings = {"method": method, **NETWORKS[network]}
    base, row = run(variant="native_ft", **settings)
    ours, other = run(variant="ours", lam=1, eta=0, importance="native", **settings)
    assert same_state(state_of(base.model), state_of(ours.model))
    assert (row.top1, row.per_class, row.kept, row.dropped) == (other.top1, other.per_class, other.kept, other.dropped)
    wo_comp, _ = run(variant="wo_comp", eta=0, **settings)
    assert same_state(state_of(base.model), state_of(wo_comp.model))
    extra, _ = run(variant="extra_images", lam=1, **settings)
    assert same_state(state_of(base.model), state_of(extra.model))


@EVERY
def test_nothing_of_the_teacher_changes(tiny, method):
    e = experiment(method=method, variant="ours")
    ready = pipeline.prepare(e)
    before = state_of(ready.teacher.model)
    modules = [type(m) for m in ready.teacher.model.modules()]
    pipeline.run(e)
    assert pipeline.prepare(e).teacher is ready.teacher and same_state(before, state_of(ready.teacher.model))
    assert modules == [type(m) for m in ready.teacher.model.modules()] and not ready.teacher.model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in ready.teacher.model.modules())
    assert all(p.grad is None and not p.requires_grad for p in ready.teacher.model.parameters())


def test_runs_repeat_and_seeds_differ(tiny):
    one, two, other = (run(variant="ours", seed=seed) for seed in (0, 0, 1))
    assert same_state(state_of(one[0].model), state_of(two[0].model)) and lasting(one[1]) == lasting(two[1])
    assert other[1].few_indices != one[1].few_indices and other[1].aux_indices != one[1].aux_indices


# --- test images -------------------------------------------------------------------------------------
@EVERY
def test_test_images_change_no_weight(tiny, method):
    before, row = run(method=method, variant="ours")
    tiny["tiny", "test"] = dataclasses.replace(tiny["tiny", "test"], images=pictures(40, seed=900),
                                               labels=1 + torch.arange(40) % (CLASSES - 1))   # none of class 0
    purity.known.cache_clear()
    after, other = run(method=method, variant="ours")
    assert same_state(state_of(before.model), state_of(after.model)) and before.structure == after.structure
    assert row.per_class != other.per_class


class Watched(data.ImageSet):
    """Counts how often images are read, and by whom."""
    readers = []

    def batches(self, size):
        caller = sys._getframe(1)
        self.readers.append((caller.f_globals["__name__"], caller.f_code.co_name))
        yield from super().batches(size)

    def take(self, indices):
        caller = sys._getframe(1)
        self.readers.append((caller.f_globals["__name__"], caller.f_code.co_name))
        return super().take(indices)


@pytest.mark.parametrize("method, stop", [*((method, "watch") for method in METHODS), ("fskd", "train_loss"), ("fskd", "fixed")])
def test_test_images_are_read_by_the_purity_filter_and_by_evaluation(tiny, method, stop):
    tiny["tiny", "test"] = Watched(**{f.name: getattr(tiny["tiny", "test"], f.name) for f in dataclasses.fields(data.ImageSet)})
    Watched.readers.clear()
    run(method=method, variant="ours", **{"finetune.stop": stop})
    assert Watched.readers == [("oefsmc_lib.images.purity", "<genexpr>"), ("oefsmc_lib.student.predictions", "logits")]


def test_every_finished_model_is_evaluated_once(tiny, monkeypatch):
    seen = []
    original = predictions.predicted
    monkeypatch.setattr(predictions, "predicted", lambda *a: (seen.append(1), original(*a))[1])
    shared, students = pipeline.Shared(), {}
    for variant in VARIANTS:
        students[variant] = run(shared, variant=variant)[0]
    # Where eq. 5 changes nothing, the control and w/o FT are one finished student, and it is tested once.
    assert students["wo_ft"] is students["extra_images"] and len(seen) == len(VARIANTS) - 1
    run(shared, variant="wo_ft", contribution="activation")
    assert len(seen) == len(VARIANTS)


@pytest.mark.parametrize("settings", [{}, {"aux": "augmented_few"}, {"num": 20, "imbalance": "balanced"}])
def test_few_pool_and_auxiliary_images_are_disjoint_sets_without_test_images(tiny, settings):
    """Invariant 11, on pixels as well as on positions."""
    ready = pipeline.prepare(experiment(variant="ours", **settings))
    train, test, elsewhere = tiny["tiny", "train"], tiny["tiny", "test"], tiny["elsewhere", "train"]
    expected = ready.teacher.normalise(train.take(ready.draw.indices))
    assert torch.equal(ready.few.images, expected) and torch.equal(ready.few.labels, train.labels[ready.draw.indices])
    tested = {image.numpy().tobytes() for image in test.images}
    few = {image.numpy().tobytes() for image in train.take(ready.draw.indices)}
    assert not few & tested
    if ready.pool is None:
        assert set(ready.aux_indices) <= set(ready.draw.indices)
        return
    pool = [image.numpy().tobytes() for image in ready.pool.images]
    assert not set(pool) & (tested | few) and len(set(ready.aux_indices)) == len(ready.aux)
    assert torch.equal(ready.aux.images, ready.teacher.normalise(elsewhere.take(ready.aux_indices)))
    watch = ood.draw_watch(experiment(**settings), (3, 32, 32))
    watched = {image.numpy().tobytes() for image in watch.images}
    assert torch.equal(ready.watch.images, ready.teacher.normalise(watch.images)) and len(watched) == 18   # a fifth of 90
    assert not watched & (set(pool) | tested | few)
    assert set(ready.aux_indices) <= set(ready.pool.indices) and not set(ready.pool.indices) & set(watch.indices)
    whole = pipeline.prepare(experiment(variant="whole_pool", **settings)).ordered_pool
    assert torch.equal(whole[:len(ready.aux)], ready.aux.images)
    every = {image.numpy().tobytes() for image in ready.teacher.normalise(ready.pool.images)}
    assert len(whole) == len(pool) and {image.numpy().tobytes() for image in whole} == every


# --- labels of the auxiliary set ---------------------------------------------------------------------
def test_labels_are_complementary_uniform_or_the_teachers(tiny):
    found = {kind: pipeline.prepare(experiment(ood_labels=kind, m=30)) for kind in ("complementary", "uniform", "teacher")}
    one = found["complementary"]
    assert torch.allclose(one.gamma_rates, ood.rates(one.beta)) and float(one.gamma_rates[one.beta.argmax()]) == 0
    assert not bool((one.aux.labels == one.beta.argmax()).any())
    assert found["uniform"].gamma_rates.tolist() == pytest.approx([1 / CLASSES] * CLASSES)
    with torch.no_grad():
        guesses = one.teacher.model(found["teacher"].aux.images).argmax(1)
    assert torch.equal(found["teacher"].aux.labels, guesses)
    assert all(torch.equal(ready.aux.images, one.aux.images) for ready in found.values())


def test_augmented_copies_keep_the_labels_of_their_originals(tiny):
    ready = pipeline.prepare(experiment(aux="augmented_few", m=23))
    labels = tiny["tiny", "train"].labels
    assert len(ready.aux) == 23 and ready.pool is None and ready.ordered_pool is None
    assert ready.aux.labels.tolist() == labels[ready.aux_indices].tolist()
    assert ready.aux_indices[:10] == ready.aux_indices[10:20] == ready.draw.indices


def test_shares_are_those_of_the_draw(tiny):
    ready = pipeline.prepare(experiment())
    assert ready.beta.tolist() == pytest.approx([count / 10 for count in ready.draw.counts])
    assert pipeline.prepare(experiment(variant="native_ft")).aux is None


@pytest.mark.parametrize("settings", [
    {"contribution": "activation"}, {"contribution": "taylor"}, {"contribution": "bn_scale"},
    {"contribution": "evidence", "w": "uniform"}, {"contribution": "evidence_max"}, {"finetune.stop": "fixed"},
    {"finetune.stop": "train_loss"},
    {"aux": "augmented_few"}, {"ood_labels": "teacher"}, {"ood_labels": "uniform"}, {"label_sampling": "quota"},
    {"alpha_min": "nonzero"}, {"redraw": True}, {"gamma": "one"}, {"gamma": "normalised"}, {"gamma_mean": "weighted"},
    {"lam": 0}, {"m": 25}, {"ood_source": "elsewhere", "ood_exclude": ("elsewhere-0",)}, {"finetune.bn": "separate"},
    {"finetune.recipe": "cd"}, {"finetune.rebalance": "oversample"}, {"class_order": "index"}, {"imbalance": "balanced"},
    {"imbalance": "counts", "counts": (4, 3, 2, 1, 0)}, {"fskd.solver": "minnorm"},
])
def test_every_switch_runs_and_is_in_the_key(tiny, settings):
    e = experiment(variant="ours", **settings)
    row = pipeline.run(e)[1]
    assert row.key == e.key != experiment(variant="ours").key


@pytest.mark.parametrize("w", ["complement", "inverse", "uniform", "few"])
def test_class_weights_run_and_are_in_the_key_where_eq_5_acts(tiny, w):
    settings = {"variant": "ours", "contribution": "activation"}
    e = experiment(w=w, **settings)
    assert pipeline.run(e)[1].key == e.key != experiment(**settings).key
    assert experiment(variant="ours", w=w).key == experiment(variant="ours").key          # FSKD's own criterion sees no class


@pytest.mark.parametrize("method, settings", [
    ("mir", {"kd": "kl"}), ("mir", {"mir.views": 0}), ("mir", {"mir.bn": "eval"}), ("practise", {"practise.start": "teacher", "practise.cache": False}), ("mir", {"mir.stop": "watch"}),
    ("cd", {"cd.solver": "adam"}), ("cd", {"cd.bn": "train"}), ("cd", {"plan": "cfg_a"}), ("fskd", {"plan": "prune_a"}),
])
def test_every_switch_of_a_method_runs(tiny, method, settings):
    row = run(**{"method": method, "variant": "ours", **settings})[1]
    assert {name: row.flat()[name] for name in settings} == settings


# --- sharing -----------------------------------------------------------------------------------------
@EVERY
def test_what_runs_share_changes_no_row(tiny, method):
    shared = pipeline.Shared()
    order = ("ours", "wo_ft", "native", "wo_comp", "extra_images")
    together = {variant: run(shared, method=method, variant=variant) for variant in order}
    for variant in ("wo_ft", "wo_comp", "extra_images"):  # from a copy of another's student, or parts of its recovery
        student, row = run(method=method, variant=variant)
        assert lasting(row) == lasting(together[variant][1])
        assert same_state(state_of(student.model), state_of(together[variant][0].model))


def test_recovered_students_pools_and_sets_are_made_once(tiny, monkeypatch):
    made = {"recover": 0, "pool": 0}
    recover, pool = compressors.compress, ood.draw_pool
    monkeypatch.setattr(compressors, "compress", lambda *a: (made.__setitem__("recover", made["recover"] + 1), recover(*a))[1])
    monkeypatch.setattr(ood, "draw_pool", lambda *a: (made.__setitem__("pool", made["pool"] + 1), pool(*a))[1])
    shared = pipeline.Shared()
    for variant in VARIANTS:
        run(shared, variant=variant)
    # native, native_ft and wo_comp; extra_images, wo_ft and ours; whole_pool
    assert made == {"recover": 3, "pool": 1}
    run(shared, variant="ours", eta=1)
    assert made == {"recover": 3, "pool": 1}
    run(shared, variant="ours", lam=0.2)
    assert made == {"recover": 4, "pool": 1}
    run(shared, variant="ours", seed=1)
    assert made == {"recover": 5, "pool": 2}


@pytest.mark.parametrize("method", ["fskd", "mir", "cd"])
def test_the_control_and_ours_share_one_recovery(tiny, monkeypatch, method):
    made, recover = [], compressors.compress
    monkeypatch.setattr(compressors, "compress", lambda *a: (made.append(1), recover(*a))[1])
    shared = pipeline.Shared()
    for variant in ("extra_images", "wo_ft", "ours"):
        run(shared, method=method, variant=variant)
    assert len(made) == 1


@pytest.mark.parametrize("method, settings, scorings", [
    ("mir", {}, 0), ("practise", {"practise.start": "bridge"}, 3), ("practise", {"practise.start": "teacher"}, 3)])
def test_variants_of_a_draw_mimic_and_score_once(tiny, monkeypatch, method, settings, scorings):
    """Of seven variants, those that train on the same images have one training: the few, with D_aux, with the pool."""
    from oefsmc_lib.compressors import bridges, mimic, practise
    seen = {"steps": 0, "banks": 0, "scorings": 0, "costs": 0}

    def counted(place, name, what):
        work = getattr(place, name)
        monkeypatch.setattr(place, name, lambda *a, **k: (seen.__setitem__(what, seen[what] + 1), work(*a, **k))[1])
    counted(mimic, "descend", "steps")
    counted(mimic, "views_of", "banks")
    counted(bridges, "errors", "scorings")
    counted(practise.Stages, "__init__", "scorings")
    counted(evaluation, "cost", "costs")
    monkeypatch.setattr(practise.Stages, "_train", lambda *_: None)           # steps of mimicking alone are counted
    monkeypatch.setattr(practise, "lowest", lambda scores, candidates, k: candidates[:k])
    shared = pipeline.Shared()
    rows = [run(shared, method=method, variant=variant, **settings)[1] for variant in VARIANTS]
    steps = sum({row.variant: row.mimic_steps for row in rows if row.variant in ("native", "ours", "whole_pool")}.values())
    assert seen == {"steps": steps, "banks": 1 + 2 + 2, "scorings": scorings, "costs": 1}
    assert steps == 12


def test_students_of_one_shape_that_dropped_other_layers_have_costs_of_their_own(tiny, monkeypatch):
    """VGG-16's fourth and fifth stage have layers of one shape, but the fifth sees maps of a quarter of the size."""
    from oefsmc_lib.compressors import practise
    shared, rows = pipeline.Shared(), []
    for seed, dropped in enumerate((["features.27", "features.30"], ["features.34", "features.37"])):
        monkeypatch.setattr(practise, "lowest", lambda *_, dropped=dropped: dropped)
        student, row = run(shared, method="practise", variant="native", seed=seed)
        assert row.dropped == dropped and row.macs == cost.macs(student.model, student.structure.architecture)
        rows.append(row)
    assert rows[0].params == rows[1].params and rows[0].macs < rows[1].macs


def test_how_mimicking_went_stands_in_the_row(tiny):
    settings = {"method": "mir", "variant": "native", "mir.iterations": 150}
    fixed, watch = run(**settings)[1], run(**settings, **{"mir.stop": "watch"})[1]
    assert (fixed.mimic_steps, fixed.mimic_kept, fixed.mimic_distances) == (150, 150, [])
    assert watch.mimic_steps == 150 and len(watch.mimic_distances) == 4 and watch.mimic_kept % 50 == 0
    assert watch.mimic_distances[watch.mimic_kept // 50] == min(watch.mimic_distances)
    other = run(variant="native")[1]
    assert (other.mimic_steps, other.mimic_kept, other.mimic_distances) == (None, None, [])
    assert (fixed.mimic_precision, other.mimic_precision) == ("float32", None)


@EVERY
def test_stopping_by_the_watch_set_leaves_draw_pool_and_d_aux_alone(tiny, method):
    one, other = (run(method=method, variant="ours", **{"finetune.stop": stop})[1] for stop in ("watch", "fixed"))
    assert (one.few_indices, one.aux_indices, one.aux_counts) == (other.few_indices, other.aux_indices, other.aux_counts)
    assert len(one.finetune_distances) == one.finetune_epochs + 1 and 0 <= one.finetune_kept <= one.finetune_epochs
    assert one.finetune_distances[one.finetune_kept] == min(one.finetune_distances)
    assert other.finetune_distances == [] and other.finetune_kept == other.finetune_epochs == 2


def test_the_base_stops_by_the_same_watch_set(tiny):
    base, ours, native = (pipeline.prepare(experiment(variant=variant)) for variant in ("native_ft", "ours", "native"))
    assert torch.equal(base.watch.images, ours.watch.images) and base.pool is None and native.watch is None


def test_the_whole_pool_enters_the_recovery_alone(tiny, count_forwards):
    ready = pipeline.prepare(experiment(variant="whole_pool"))
    task = pipeline.task_of(experiment(variant="whole_pool"), ready)
    assert len(task.recovery) == 30 and len(task.aux) == len(ready.aux) == 10
    ours = pipeline.task_of(experiment(variant="ours"), pipeline.prepare(experiment(variant="ours")))
    assert torch.equal(ours.recovery, ours.aux.images) and torch.equal(ours.aux.labels, task.aux.labels)
    # Where the pool is no larger than D_aux, it is D_aux, and both variants have one student.
    students = [run(variant=variant, n=10)[0] for variant in ("ours", "whole_pool")]
    assert same_state(*(state_of(student.model) for student in students))


def test_practise_reads_the_whole_pool_while_it_trains_and_d_aux_for_its_labels(tiny, monkeypatch):
    seen, sets = [], compressors.Task.sets
    monkeypatch.setattr(compressors.Task, "sets", lambda task: (seen.append([len(s) for s, _, _ in sets(task)]), sets(task))[1])
    _, row = run(method="practise", variant="whole_pool")
    assert seen and all(sizes == [10, 30] for sizes in seen) and sum(row.aux_counts) == 10


def test_practise_trains_once_what_differs_in_importance_alone(tiny, monkeypatch):
    from oefsmc_lib.compressors import mimic, practise
    trained = {"adaptors": 0, "student": []}
    recover, train = practise.Stages.recover, mimic.mimic
    monkeypatch.setattr(practise.Stages, "recover",
                        lambda *a: (trained.__setitem__("adaptors", trained["adaptors"] + 1), recover(*a))[1])
    monkeypatch.setattr(mimic, "mimic", lambda *a: (trained["student"].append(a[0]), train(*a))[1])
    monkeypatch.setattr(latency, "MOST", 5)
    # A clock that trainings alone move, so that no other process on the machine does.
    seconds = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: seconds[0])
    for place, name in ((practise.Stages, "recover"), (mimic, "mimic")):
        monkeypatch.setattr(place, name, lambda *a, work=getattr(place, name): (
            seconds.append(seconds.pop() + 1), work(*a))[1])
    shared, rows = pipeline.Shared(), {}
    for variant in VARIANTS:
        rows[variant] = run(shared, method="practise", variant=variant, **{"practise.start": "teacher"})[1]
    candidates = trained["adaptors"] // 3                 # of the few alone, of both sets, and of the whole pool
    assert trained["adaptors"] == 3 * candidates and candidates > 1
    alike = rows["extra_images"].dropped == rows["ours"].dropped
    assert len(trained["student"]) == (3 if alike else 4)
    # shared work counts in full in the row of each run that it served
    assert rows["ours"].seconds_recovery == rows["extra_images"].seconds_recovery == candidates + 1


def test_other_weights_or_labels_share_a_training_and_other_images_do_not():
    ours = keys.reads(Experiment(method="practise", variant="ours"), "training")
    for same in ({"w": "uniform"}, {"ood_labels": "uniform"}, {"alpha_min": "nonzero"},
                 {"variant": "wo_ft"}, {"variant": "extra_images"}, {"eta": 1}):
        assert keys.reads(Experiment.parse({"method": "practise", "variant": "ours", **same}), "training") == ours, same
    for other in ({"m": 5}, {"lam": 0.2}, {"seed": 1}, {"n": 60}, {"variant": "wo_comp"}, {"practise.iterations": 3},
                  {"aux": "augmented_few"}, {"num": 20}):
        assert keys.reads(Experiment.parse({"method": "practise", "variant": "ours", **other}), "training") != ours, other


def test_only_the_latest_are_kept():
    shared = pipeline.Shared()
    for key in range(9):
        assert shared.get("teacher", key, lambda key=key: key) == key
    assert list(shared.kept["teacher"]) == [7, 8]
    assert shared.get("teacher", 7, lambda: "again") == 7 and shared.get("teacher", 0, lambda: "again") == "again"


def test_a_recovered_student_is_not_the_one_that_is_fine_tuned(tiny):
    shared = pipeline.Shared()
    native, _ = run(shared, variant="native")
    before = state_of(native.model)
    run(shared, variant="native_ft")
    assert same_state(before, state_of(native.model)) and native.notes["finetune"]["epochs"] == 0


# --- saving ------------------------------------------------------------------------------------------
READ = """
import sys
import torch
from safetensors.torch import load_file, save_file
from oefsmc_lib.student import saved
torch.set_num_threads(int(sys.argv[1]))                   # as many as wrote: more threads may add in another order
x = load_file(sys.argv[2])["x"].contiguous(memory_format=torch.channels_last)
for folder in sys.argv[3:]:
    with torch.no_grad():
        save_file({"y": saved.load(folder).model(x)}, folder + "/output.safetensors")
"""


def test_students_of_every_method_have_the_same_logits_in_a_new_process(tiny, tmp_path):
    x = (pictures(6, seed=40).float() / 255 - 0.5) / 0.25
    save_file({"x": x}, tmp_path / "x.safetensors")
    students = {}
    for network, settings in NETWORKS.items():
        for method in METHODS:
            students[network, method] = run(method=method, variant="ours", **settings)[0]
            saved.save(students[network, method], tmp_path / network / method)
    folders = [str(tmp_path / network / method) for network, method in students]
    words = [sys.executable, "-c", READ, str(torch.get_num_threads()), str(tmp_path / "x.safetensors"), *folders]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for (network, method), student in students.items():
        again = load_file(tmp_path / network / method / "output.safetensors")["y"]
        with torch.no_grad():
            assert torch.equal(again, student.model(x.contiguous(memory_format=torch.channels_last))), (network, method)


# --- accuracy and cost -------------------------------------------------------------------------------
def test_scores_by_hand():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    guessed = torch.tensor([0, 0, 0, 1, 1, 0, 0, 0])
    found = evaluation.scores(guessed, labels, [6, 1, 0])
    assert found == {"top1": 50.0, "balanced_accuracy": pytest.approx(125 / 3), "per_class": [75.0, 50.0, 0.0],
                     "head_accuracy": 75.0, "tail_accuracy": 50.0, "absent_accuracy": 0.0}
    without = evaluation.scores(guessed[:6], labels[:6], [6, 1, 0])
    assert without["per_class"][2] is None and without["absent_accuracy"] is None and without["balanced_accuracy"] == 62.5


def test_the_row_has_the_students_cost_and_accuracy(tiny):
    student, row = run(method="mir", variant="native")
    teacher = teachers.load("vgg16", 0.125, "tiny", CLASSES, 3, 32)
    images = teacher.normalise(tiny["tiny", "test"].images)
    with torch.no_grad():
        right = student.model(images).argmax(1) == tiny["tiny", "test"].labels
    assert row.top1 == pytest.approx(100 * float(right.float().mean()))
    assert row.macs == cost.macs(student.model, teacher.architecture)
    assert row.params == sum(p.numel() for p in student.model.parameters())
    assert row.macs_cut == pytest.approx(100 - 100 * row.macs / cost.macs(teacher.model, teacher.architecture))
    assert row.file_size == sum(t.numel() * t.element_size() for t in student.model.state_dict().values())
    assert row.kept == {name: len(channels) for name, channels in student.structure.kept.items()}


def test_the_id_hangs_on_teacher_data_and_source(tiny, monkeypatch):
    one = run()[1].id
    teacher = teachers.load("vgg16", 0.125, "tiny", CLASSES, 3, 32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teachers, "load", lambda *_: dataclasses.replace(teacher, sha256="another"))
        assert run()[1].id != one
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "fingerprint", lambda *_, **__: "another")
        assert run()[1].id != one
    tiny["elsewhere", "train"] = dataclasses.replace(tiny["elsewhere", "train"], fingerprint="another")
    assert run(device="cpu")[1].id not in (one, run(variant="native_ft")[1].id)


# --- refusals ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("settings, words", [
    ({"n": 73, "m": 10}, "needs a pool of n=73 images, but the OOD source elsewhere has 90 usable images, of which 18 are set aside"),
    ({"ood_exclude": ("bus",)}, "ood_exclude names 'bus', but elsewhere has no such class"),
    ({"num": 80, "n": 80}, "training images, but the draw needs"),
    ({"imbalance": "counts", "counts": (5, 5)}, "counts names 2 classes, but tiny has 5"),
    ({"plan": "skip_first"}, "'skip_first' is not one for vgg16"),
    ({"method": "practise", "plan": "drop10"}, "drops 10 blocks, but the network has 8"),
    ({"method": "mir", "plan": "half"}, "use a plan that keeps the last layer"),
    ({"width": 1 / 64, "plan": "half"}, "without a channel; use a wider network"),
    ({"model": "vgg_16"}, "did you mean vgg16"),
    ({"device": "cuda:77"}, "The device 'cuda:77' is not here; use device=cpu"),
    ({"num": 1, "rounding": "floor"}, "rounding=floor leaves no image"),
])
def test_bad_input_is_refused_in_one_sentence(tiny, settings, words):
    with pytest.raises(InputError) as refusal:
        run(**{"variant": "ours", **settings})
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


@EVERY
def test_nan_weights_are_refused_in_one_sentence(tiny, method, monkeypatch):
    teacher = make_teacher(teachers.load("vgg16", 0.125, "tiny", CLASSES, 3, 32).architecture)
    teacher.model.features[17].weight.view(-1)[5] = float("nan")
    monkeypatch.setattr(teachers, "load", lambda *_: teacher)
    with pytest.raises(InputError, match="check the teacher|NaN") as refusal:
        run(method=method, variant="native")
    assert "\n" not in str(refusal.value)
