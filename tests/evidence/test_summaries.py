"""Means, intervals and paired differences of rows, and the fixed rule."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_rows import rows_of
from rows.test_results import row
from scipy import stats

from oefsmc_lib.errors import InputError
from oefsmc_lib.evidence import tables
from oefsmc_lib.evidence.tables import frame, summary, t_interval, verdict
from oefsmc_lib.parameters.experiment import Experiment


def test_interval_by_hand_and_by_scipy():
    mean, sd, half = t_interval([1.0, 2.0, 3.0])
    assert (mean, sd) == (2.0, 1.0) and half == pytest.approx(4.302652729911275 / math.sqrt(3))
    values = [78.1, 80.4, 79.9, 77.0, 81.2]
    mean, _, half = t_interval(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_one_seed_has_no_interval():
    mean, sd, half = t_interval([5.0])
    assert mean == 5.0 and math.isnan(sd) and math.isnan(half)
    table = summary([row(0)], by=["num"])
    assert table.seeds[0] == 1 and math.isnan(table.half[0]) and verdict(table.low[0], table.high[0]) == "undecided"


@given(st.lists(st.floats(0, 100), min_size=2, max_size=8), st.floats(-50, 50))
def test_a_shift_of_all_values_shifts_the_mean_only(values, shift):
    mean, sd, half = t_interval(values)
    moved = t_interval([value + shift for value in values])
    assert moved == pytest.approx((mean + shift, sd, half), abs=1e-6)


def test_summary_counts_seeds_by_cell():
    rows = [row(seed, 70.0 + seed + num, experiment=Experiment(seed=seed, num=num)) for num in (20, 10) for seed in range(3)]
    table = summary(rows, by=["dataset", "num"])
    assert table.num.tolist() == [10, 20] and table.seeds.tolist() == [3, 3]
    assert table["mean"].tolist() == [81.0, 91.0] and table.sd.tolist() == [1.0, 1.0]
    assert (table.high - table.low).tolist() == pytest.approx((2 * table.half).tolist())


def test_summary_of_an_empty_group_and_of_a_missing_switch():
    rows = [row(seed, experiment=Experiment(seed=seed, imbalance="balanced")) for seed in range(2)]
    table = summary(rows, by=["ratio"], value="tail_accuracy")             # no ratio, no tail
    assert table.seeds.tolist() == [0]
    assert summary([], by=["num"]).empty


def test_summary_by_a_list_and_by_a_dotted_switch():
    rows = [row(experiment=Experiment(ood_exclude=names)) for names in [("a",), ("b",)]]
    assert summary(rows, by=["ood_exclude", "fskd.rho"]).seeds.tolist() == [1, 1]


@pytest.mark.parametrize("by, value, named", [(["nun"], "top1", "did you mean num"), (["num"], "top_1", "top1"),
                                              (["num"], "plan", "holds no numbers")])
def test_summary_refuses_wrong_columns(by, value, named):
    with pytest.raises(InputError, match=named):
        summary([row()], by=by, value=value)


def test_versions_are_not_mixed_silently():
    with pytest.warns(UserWarning, match="several versions of the algorithm .1, 9."):
        summary([row(0, algorithm=1), row(1, algorithm=9)], by=["num"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary([row(0), row(1)], by=["num"])


@pytest.mark.parametrize("column", ["teacher_sha256", "data_fingerprint"])
def test_teachers_and_data_are_not_mixed_in_a_cell(column):
    rows = [row(0), row(1, **{column: "another"})]
    with pytest.raises(InputError, match=f"different {column} meet in one cell .num=10."):
        summary(rows, by=["num"])
    assert len(summary(rows, by=["num", column])) == 2


def test_a_seed_never_counts_twice():
    rows = [row(0, experiment=Experiment(lam=lam)) for lam in (0.5, 0.6)]
    with pytest.raises(InputError, match="Seed 0 occurs 2 times in one cell .num=10., with different lam"):
        summary(rows, by=["num"])


def sides(ours, native, **settings):
    """Rows of both variants from {seed: top1}."""
    return [row(seed, top1, experiment=Experiment(seed=seed, variant=variant, **settings))
            for variant, values in (("ours", ours), ("native_ft", native)) for seed, top1 in values.items()]



@pytest.mark.parametrize("low, high, said", [(0.1, 2, "reproduced"), (-2, -0.1, "not reproduced"), (-1, 1, "undecided"),
                                             (0, 1, "undecided"), (math.nan, math.nan, "undecided")])
def test_verdict(low, high, said):
    assert verdict(low, high) == said


def test_csv_has_the_plain_columns(tmp_path):
    tables.to_csv(frame([row(0), row(1)]), tmp_path / "rows.csv")
    head, *lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert len(lines) == 2 and {"id", "top1", "fskd.rho"} <= set(head.split(",")) and "few_indices" not in head


def test_a_switch_that_varies_keeps_its_column_beside_the_count_of_seeds():
    rows = rows_of(lambda e: 80.0, "beyond", "cifar10", lambda e: e.method == "fskd" and e.variant == "ours" and e.seed < 3)
    sizes = summary([r for r in rows if r.switches.get("n") in (50, 1000)], by=["n"])
    assert sizes["n"].tolist() == [50, 1000] and sizes["seeds"].tolist() == [3, 3]
