"""Switches: defaults, refusals in one sentence, and the key that hashes what a run reads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oefsmc_lib.errors import InputError
from oefsmc_lib.parameters import experiment as module
from oefsmc_lib.parameters import keys
from oefsmc_lib.parameters.experiment import METHODS, VARIANTS, Experiment, known_keys

EVERY = [(method, variant) for method in METHODS for variant in VARIANTS]


def key(**settings):
    return Experiment.parse(settings).key


def test_defaults_are_those_of_the_specification():
    e = Experiment()
    assert (e.ratio, e.imbalance, e.class_order, e.lam, e.eta, e.w) == (100, "long_tail", "permuted", 0.5, 2.5, "mixed")
    assert (e.aux_size, e.pool_size, Experiment(num=800).pool_size) == (10, 500, 800)
    assert (e.ood_labels, e.label_sampling, e.alpha_min, e.redraw, e.gamma) == ("complementary", "iid", "all", False, "k_gamma")
    assert (e.fskd.rho, e.cd_rho, e.cd.milestones, e.cd.bn, e.cd.iterations, e.cd.lr) == (1e-4, 1e-3, 12, "eval", 3000, 5e-4)
    assert (e.mir.iterations, e.mir.lr, e.mir.batch, e.mir.bn, e.mir.views) == (2000, 0.02, 64, "train", 32)
    assert (e.practise.scoring_iterations, e.practise.scoring_lr) == (300, None)
    f = e.finetune
    assert (f.lr, f.momentum, f.weight_decay, f.epochs, f.batch, f.bn, f.stop) == (1e-5, 0.9, 5e-4, 40, 128, "eval", "watch")
    assert e.contribution == "own"


@pytest.mark.parametrize("variant, parts", [
    ("native", (False, False, False)), ("native_ft", (False, False, False)), ("extra_images", (False, True, False)),
    ("wo_ft", (True, True, False)), ("wo_comp", (False, False, True)), ("ours", (True, True, True)),
    ("whole_pool", (True, True, True)),
])
def test_variants_switch_the_parts_of_the_table(variant, parts):
    e = Experiment(variant=variant)
    assert (e.class_aware, e.recovers_jointly, e.finetunes_on_aux) == parts
    assert e.finetuning == ("none" if variant == "native" else "common")
    assert Experiment(variant=variant, method="cd").finetuning == ("cd" if variant == "native" else "common")
    assert e.reads_aux == any(parts) and e.watches == (variant != "native")
    assert e.recovery_size == (500 if variant == "whole_pool" else 10 if parts[1] else 0)


def test_eq_5_acts_where_the_criterion_looks_at_images():
    """A7: the criteria of FSKD, MiR and CD look at none, so eq. 5 is eq. 1 for them."""
    assert [m for m in METHODS if Experiment(method=m).weighs_classes] == ["practise"]
    assert all(Experiment(method=m, contribution="activation").weighs_classes for m in ("fskd", "mir", "cd"))
    for method in ("fskd", "mir", "cd"):
        control, wo_ft, ours = (Experiment(method=method, variant=v) for v in ("extra_images", "wo_ft", "ours"))
        assert keys.reads(control, "recovery") == keys.reads(wo_ft, "recovery") == keys.reads(ours, "recovery")
        assert keys.reads(control, "outcome") == keys.reads(wo_ft, "outcome") != keys.reads(ours, "outcome")


@pytest.mark.parametrize("method, model, dataset, plan", [
    ("fskd", "vgg16", "mnist5k", "half"), ("cd", "vgg16", "mnist5k", "cd_half"), ("mir", "vgg16", "mnist5k", "cfg_a"),
    ("practise", "vgg16", "mnist5k", "drop2"), ("fskd", "vgg16", "cifar10", "prune_a"), ("fskd", "resnet32", "cifar100", "skip_first"),
    ("mir", "resnet32", "cifar100", "skip_first"), ("cd", "resnet32", "cifar100", "cd_half"),
    ("practise", "resnet32", "cifar100", "drop4"), ("fskd", "resnet34", "imagenet", "skip_ends"),
    ("cd", "mobilenet_v2", "imagenet", "inner_half"), ("practise", "mobilenet_v2", "imagenet", "drop1"),
])
def test_plan_left_open_is_the_published_one(method, model, dataset, plan):
    e = Experiment(method=method, model=model, dataset=dataset)
    assert e.resolved_plan == plan
    assert e.key == Experiment(method=method, model=model, dataset=dataset, plan=plan).key


# --- refusals ------------------------------------------------------------------------------------
@pytest.mark.parametrize("settings, words", [
    ({"nmu": 10}, "Unknown key 'nmu' in the settings; did you mean num?"),
    ({"fskd.rhoo": 1}, "did you mean fskd.rho?"),
    ({"fskd": {"solvr": "ridge"}}, "did you mean fskd.solver?"),
    ({"lambda": 0.5}, "did you mean lam?"),
    ({"qqqqqqqq": 1}, "Unknown key 'qqqqqqqq'"),
    ({"num": 0}, "num=0 is not valid: input should be greater than or equal to 1"),
    ({"num": "ten"}, "num='ten' is not valid"),
    ({"ratio": -1}, "ratio=-1 is not valid"),
    ({"ratio": float("nan")}, "ratio=nan is not valid"),
    ({"lam": 1.5}, "lam=1.5 is not valid: input should be less than or equal to 1"),
    ({"method": "fskdd"}, "method='fskdd' is not valid"),
    ({"cd.mu": 2}, "cd.mu=2 is not valid"),
    ({"eta": -1}, "eta=-1 is not valid"),
    ({"imbalance": "counts"}, "counts is given exactly when imbalance=counts"),
    ({"counts": [1, 2]}, "counts is given exactly when imbalance=counts"),
    ({"counts": [1, 2], "imbalance": "counts", "num": 10}, "counts add up to 3, but num is 10"),
    ({"counts": [11, -1], "imbalance": "counts"}, "counts.1=-1 is not valid"),
    ({"n": 5, "m": 10}, "m=10 images cannot be drawn from a pool of n=5"),
    ({"m": 0}, "empty, so eq. 7 needs lam=1"),
    ({"m": 0, "lam": 1}, "empty, so eq. 9 needs eta=0"),
    ({"m": 0, "variant": "wo_comp"}, "empty, so eq. 9 needs eta=0"),
    ({"kd": "kl"}, "fskd solves layer by layer; use mir or practise"),
    ({"method": "practise", "plan": "half"}, "practise drops blocks; use plan=drop1"),
    ({"plan": "drop2"}, "which only method=practise does"),
    ({"redraw": True, "ood_labels": "teacher"}, "ood_labels=teacher gives every image its own; use redraw=false"),
    ({"redraw": True, "aux": "augmented_few"}, "aux=augmented_few gives every image its own"),
    ({"finetune.stop": "pool"}, "finetune.stop='pool' is not valid"),
    ({"variant": "whole_pool", "aux": "augmented_few"}, "aux=augmented_few has no pool; use aux=ood"),
    ({"contribution": "evidence", "aux": "augmented_few"}, "aux=augmented_few has no pool; use aux=ood"),
    ({"method": "practise", "contribution": "activation"}, "practise drops blocks by its own score; use contribution=own"),
])
def test_bad_settings_are_refused_in_one_sentence(settings, words):
    with pytest.raises(InputError) as refusal:
        Experiment.parse(settings)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def test_an_empty_auxiliary_set_is_fine_where_nothing_reads_it():
    assert Experiment(m=0, lam=1, eta=0).aux_size == 0
    assert not Experiment(m=0, variant="native_ft").reads_aux


def test_text_from_a_command_line_is_understood():
    e = Experiment.parse({"num": "20", "lam": "0.25", "redraw": "true", "cd.mu": "0.9", "seed": "3"})
    assert (e.num, e.lam, e.redraw, e.cd.mu, e.seed) == (20, 0.25, True, 0.9, 3)
    assert e.key == Experiment.parse({"num": 20, "lam": 0.25, "redraw": True, "cd": {"mu": 0.9}, "seed": 3}).key


def test_every_key_is_known_and_settable():
    assert len(known_keys()) == len(set(known_keys())) and {"num", "fskd.rho", "finetune.stop"} <= set(known_keys())


def test_an_experiment_cannot_be_changed():
    with pytest.raises(Exception, match="frozen"):
        Experiment().num = 3


# --- the key -------------------------------------------------------------------------------------
def test_key_is_twelve_hex_digits_and_moves_with_the_algorithm(monkeypatch):
    before = Experiment().key
    assert len(before) == 12 and int(before, 16) >= 0 and Experiment().key == before
    monkeypatch.setattr(module, "ALGORITHM_VERSION", module.ALGORITHM_VERSION + 1)
    assert Experiment().key != before


@pytest.mark.parametrize("method, variant", EVERY)
def test_where_it_runs_and_defaults_written_out_leave_the_key_alone(method, variant):
    plain = key(method=method, variant=variant)
    assert plain == key(method=method, variant=variant, device="cpu", m=10, **({"n": 500} if variant != "native" else {}), contribution="own")


@pytest.mark.parametrize("settings", [
    {"eta": 1}, {"lam": 0.3}, {"gamma": "one"}, {"contribution": "activation"}, {"n": 600}, {"m": 5}, {"redraw": True},
])
def test_switches_of_eq_5_7_and_9_change_ours_but_not_the_base(settings):
    assert key(**settings) != key()
    assert key(variant="native_ft", **settings) == key(variant="native_ft")
    assert key(variant="native", **settings) == key(variant="native")


def test_the_source_is_in_the_key_of_every_stage_that_stops_by_it():
    for variant in ("native_ft", "wo_ft", "ours"):
        assert key(variant=variant, ood_source="noise-blob") != key(variant=variant)
    assert key(variant="native", ood_source="noise-blob") == key(variant="native")
    fixed = {"variant": "native_ft", "finetune.stop": "fixed"}
    assert key(ood_source="noise-blob", **fixed) == key(**fixed) != key(variant="native_ft")


def test_only_what_is_read_is_in_the_key():
    assert key(w="few") == key() and key(method="practise", w="few") != key(method="practise")
    assert key(variant="extra_images", ood_labels="uniform") == key(variant="extra_images")   # eq. 7 reads no labels
    assert key(variant="extra_images", eta=1) == key(variant="extra_images")
    assert key(variant="wo_comp", lam=0.1, w="few") == key(variant="wo_comp")
    assert key(variant="wo_ft", eta=1) == key(variant="wo_ft")
    assert key(imbalance="balanced", ratio=10) == key(imbalance="balanced")
    assert key(**{"cd.mu": 0.5}) == key() and key(method="cd", **{"cd.mu": 0.5}) != key(method="cd")
    assert key(method="cd", **{"cd.solver": "adam", "cd.rho": 1}) == key(method="cd", **{"cd.solver": "adam"})
    assert key(method="cd", **{"cd.rho": 1e-3}) == key(method="cd") != key(method="cd", **{"cd.rho": 1e-2})
    assert key(method="cd", model="resnet32", **{"cd.rho": 1e-2}) == key(method="cd", model="resnet32")
    assert key(**{"fskd.solver": "minnorm", "fskd.rho": 1}) == key(**{"fskd.solver": "minnorm"}) != key()
    assert key(variant="native", **{"finetune.lr": 1}) == key(variant="native")
    assert key(method="cd", variant="native", **{"finetune.momentum": 0.5}) == key(method="cd", variant="native")


def test_eq_4_is_in_the_key_of_every_stage_that_reads_it():
    assert key(aux="augmented_few", alpha_min="nonzero") != key(aux="augmented_few")          # through gamma
    for changed in ({"gamma": "one"}, {"alpha_min": "nonzero"}, {"ood_labels": "uniform"}, {"eta": 1}):
        assert key(variant="wo_comp", **changed) != key(variant="wo_comp"), changed


@pytest.mark.parametrize("method, variant", EVERY)
def test_variants_and_methods_never_share_a_key(method, variant):
    assert sum(key(method=m, variant=v) == key(method=method, variant=variant) for m, v in EVERY) == 1


@given(st.integers(1, 500), st.floats(1, 1000), st.integers(0, 50), st.sampled_from(EVERY), st.floats(0, 1))
def test_switches_come_back_as_the_same_experiment(num, ratio, seed, what, lam):
    method, variant = what
    one = Experiment(num=num, ratio=ratio, seed=seed, method=method, variant=variant, lam=lam)
    again = Experiment.parse({name: value for name, value in one.switches().items() if name in known_keys()})
    assert again.key == one.key


def test_solver_says_whether_the_procedure_is_the_released_one():
    literal = {"fskd": {"fskd.solver": "minnorm"}, "cd": {"cd.solver": "adam"}, "mir": {"mir.views": 0},
               "practise": {"practise.start": "teacher", "practise.cache": False, "practise.scoring_iterations": 2000}}
    for method, settings in literal.items():
        assert Experiment.parse({"method": method}).solver == "default"
        assert Experiment.parse({"method": method, **settings}).solver == "literal"
    raised = {"method": "practise", "practise.scoring_lr": 0.1, **literal["practise"]}
    assert Experiment.parse(raised).solver == "default"


def test_the_precision_is_part_of_the_keys_of_methods_that_train_and_of_no_other():
    from oefsmc_lib.parameters import grid
    for method in METHODS:
        fast = [Experiment.parse({"method": method, **{f"{m}.precision": p for m in ("mir", "practise")}})
                for p in ("float32", "bfloat16")]
        assert (fast[0].key == fast[1].key) == (method in ("fskd", "cd")), method
        assert fast[0].key == Experiment(method=method).key
    # The profiles of real images say it, so that a run has one key whatever the processor is.
    for profile, precision in (("embedded", "float32"), ("cifar10", "bfloat16"), ("cifar10+cpu", "bfloat16"), ("cifar100", "bfloat16")):
        chosen = grid.load_profile(profile).experiment({"method": "mir"})
        assert chosen.switches()["mir.precision"] == precision and chosen.solver == "default"
    literal = {"method": "mir", "mir.views": 0}
    assert Experiment.parse(literal).solver == "literal"
    assert Experiment.parse({**literal, "mir.precision": "bfloat16"}).solver == "default"
