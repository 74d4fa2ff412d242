"""The verdict's rule on rows whose answer is known."""

import math

import pytest
from made_rows import made, rows_of

from oefsmc_lib.evidence import answers, pairs, paper, verdict
from oefsmc_lib.parameters import grid

PROFILE = grid.load_profile("cifar10")


def rows(name, outcome, only=lambda e: e.method in ("fskd", "cd"), profile="cifar10"):
    return rows_of(outcome, name, profile, only)


def jitter(experiment):
    """A little apart by seed, and differently so for each variant, so that intervals have a width."""
    return 0.1 * ((experiment.seed * 7 + len(experiment.variant)) % 5)


def judged(by_grid):
    return {one.name: one for one in verdict.judge(by_grid)}


@pytest.mark.parametrize("gain, word", [(3.0, "reproduced"), (-3.0, "not reproduced"), (0.0, "undecided")])
def test_a_cell_and_a_table_follow_the_sign_of_the_interval(gain, word):
    made_rows = rows("table2", lambda e: 70 + jitter(e) + (gain if e.variant == "ours" else 0.05 * (e.seed % 2)))
    table = verdict.cells(made_rows)
    assert set(table["verdict"]) == {word} and len(table) == 8 and set(table["seeds"]) == {5}
    one = judged({"table2": made_rows})["ours_helps"]
    assert one.verdict == word and "8 cells, 5 seeds" in one.numbers and f"8 {word}" in one.numbers


@pytest.mark.parametrize("gain, word", [(3.0, "above"), (-3.0, "below"), (0.0, "undecided")])
def test_a_control_reproduces_nothing(gain, word):
    made_rows = rows("table2", lambda e: 70 + jitter(e) + (gain if e.variant == "extra_images" else 0.05 * (e.seed % 2)))
    table = verdict.cells(made_rows, "extra_images")
    assert set(table["verdict"]) == {word}
    assert {"method", "num", "gain", "verdict"} <= set(verdict.brief(table)) and "network" not in verdict.brief(table)


def test_cells_show_the_drop_from_the_teacher_and_the_paper_beside():
    table = verdict.cells(rows("table2", lambda e: 70.0 + e.seed + (5 if e.variant == "ours" else 0)))
    cell = table[(table["method"] == "CD") & (table["num"] == 10)].iloc[0]
    assert cell["gain"] == pytest.approx(5) and cell["drop from teacher"] == pytest.approx(95 - 77)
    assert cell["paper gain"] == pytest.approx(paper.paper_value("cifar10", "cd", "ours", 10)
                                               - paper.paper_value("cifar10", "cd", "native_ft", 10))
    assert math.isnan(table[table["num"] == 100]["paper gain"].iloc[0])      # the paper has no such cell in Table 2


def test_a_single_seed_decides_nothing():
    first = rows("table2", lambda e: 90.0 if e.variant == "ours" else 10.0, lambda e: e.method == "fskd" and e.seed == 0)
    assert judged({"table2": first})["ours_helps"].verdict == "undecided"


def test_a_table_averages_within_a_seed_and_counts_seeds_that_every_cell_has():
    def outcome(e):
        return 50 + ({10: 4.0, 20: -2.0}.get(e.num, 1.0) if e.variant == "ours" else 0) + 0.01 * e.seed * (e.variant == "ours")
    some = [r for r in rows("table2", outcome, lambda e: e.method == "fskd" and e.num in (10, 20))
            if not (r.num == 20 and r.seed == 4)]
    found = pairs.over(*(answers.select(some, variant=variant) for variant in ("ours", "native_ft")))
    assert found["cells"] == 2 and found["n"] == 4 and found["mean"] == pytest.approx(1.015)
    assert verdict.said(found) == "+1.0 ± 0.0 points, 2 cells, 4 seeds"


def test_an_average_that_does_not_hold_in_every_cell_says_so():
    some = rows("table2", lambda e: 70 + jitter(e) + {10: 9.0, 20: -3.0}.get(e.num, 3.0) * (e.variant == "ours"))
    one = judged({"table2": some})["ours_helps"]
    assert one.verdict == "reproduced on average" and one.numbers.endswith("(6 reproduced, 2 not reproduced)")


def test_the_levels_of_a_cell_are_of_the_seeds_that_its_difference_has():
    some = rows("table2", lambda e: 70.0 + 2 * e.seed + (5 if e.variant == "ours" else 0), lambda e: e.method == "cd" and e.num == 10)
    paired = [row for row in some if row.variant != "ours" or row.seed < 2]      # the base has five seeds, OE-FSMC two
    cell = verdict.cells(paired).iloc[0]
    assert cell["seeds"] == 2 and (cell["native_ft"], cell["ours"]) == (71.0, 76.0) and cell["gain"] == pytest.approx(5)


def test_rows_of_other_lengths_are_other_cells():
    full = rows_of(lambda e: 80.0 + e.seed, "table2", "cifar10", lambda e: e.method == "mir" and e.num == 10)
    short = rows_of(lambda e: 70.0 + e.seed, "table2", "cifar10+cpu", lambda e: e.method == "mir" and e.num == 10)
    assert list(verdict.cells([*full, *short])["method"]) == ["MiR", "MiR (500 steps)"]


def test_imbalance_hurts_and_practise_loses_least():
    cost = {"fskd": 5.0, "cd": 4.0, "mir": 4.5, "practise": 1.0}

    def outcome(e):
        return 85 + jitter(e) - (cost[e.method] + 0.1 * e.seed if e.imbalance == "long_tail" else 0)
    found = judged({"table1": rows("table1", outcome, lambda e: True)})
    assert found["imbalance_hurts"].verdict == "reproduced" and "16 cells" in found["imbalance_hurts"].numbers
    assert found["practise_loses_least"].verdict == "reproduced"
    cost["cd"] = 0.2
    assert judged({"table1": rows("table1", outcome, lambda e: True)})["practise_loses_least"].verdict == "not reproduced"


def test_more_with_fewer_compares_the_smallest_with_the_largest_training_set():
    def outcome(fall):
        return lambda e: 70 + jitter(e) + (5 - fall * math.log10(e.num) if e.variant == "ours" else 0)
    for fall, word in ((3, "reproduced"), (-3, "not reproduced")):
        one = judged({"table2": rows("table2", outcome(fall))})["more_with_fewer"]
        assert one.verdict == word and "2 pairs of compressor and data set" in one.numbers


def test_both_components_need_all_four_differences():
    def outcome(levels):
        return lambda e: levels[e.variant] + jitter(e)
    good = {"native_ft": 70.0, "wo_comp": 72.0, "wo_ft": 74.0, "ours": 78.0, "whole_pool": 60.0}
    found = judged({"fig3a": rows("fig3a", outcome(good))})
    assert found["both_components"].verdict == "reproduced" and found["wo_ft_beats_wo_comp"].verdict == "reproduced"
    found = judged({"fig3a": rows("fig3a", outcome(good | {"ours": 73.0}))})
    assert found["both_components"].verdict == "not reproduced"              # worse than w/o FT


@pytest.mark.parametrize("curve, word", [
    ({0.0: 60, 0.2: 65, 0.4: 69.9, 0.5: 70, 0.6: 69.9, 0.8: 65, 1.0: 60}, "reproduced"),
    ({0.0: 60, 0.2: 65, 0.4: 69.9, 0.5: 70, 0.6: 69.9, 0.8: 70, 1.0: 70}, "undecided"),       # flat to one end
    ({0.0: 60, 0.2: 65, 0.4: 75, 0.5: 70, 0.6: 69.9, 0.8: 65, 1.0: 60}, "contradicted"),      # another is better
])
def test_best_means_none_better_and_both_ends_worse(curve, word):
    one = judged({"fig3c": rows("fig3c", lambda e: curve[e.lam] + 0.1 * ((e.seed * 3 + int(10 * e.lam)) % 4))})["lam_half"]
    assert one.verdict == word
    assert ("significantly better than 0.5: 0.4" in one.numbers) == (curve[0.4] > 74)


def test_m_is_judged_relative_to_the_training_set():
    def outcome(e):
        far = 10.0 if e.aux_size == e.pool_size else e.aux_size / e.num
        return (99.0 if e.variant == "whole_pool" else 70 - 4 * abs(far - 1)) + 0.1 * (e.seed % 3)
    one = judged({"fig3b": rows("fig3b", outcome)})["m_equals_num"]
    assert one.verdict == "reproduced" and "6 cells" in one.numbers and "all n images" in one.numbers
    one = judged({"fig3b": rows("fig3b", lambda e: 99.0 + 0.1 * (e.seed % 3) if e.aux_size == 500 else outcome(e))})["m_equals_num"]
    assert one.verdict == "contradicted" and "significantly better than 1: all n images" in one.numbers


def test_eta_is_judged_where_fine_tuning_stops_early():
    def outcome(e):
        best = 2.5 if e.finetune.stop == "watch" else 0.1
        return 70 - 4 * abs(e.eta - best) + 0.1 * (e.seed % 3)
    assert judged({"fig3d": rows("fig3d", outcome)})["eta_best"].verdict == "reproduced"


def test_redrawn_labels_are_a_reading_of_their_own():
    made_rows = rows("table2", lambda e: 70 + jitter(e) + (9.0 if e.redraw else 3.0 if e.variant == "ours" else 0))
    assert set(verdict.cells(made_rows)["gain"].round()) == {3.0}
    assert set(verdict.cells(made_rows, "redrawn")["gain"].round()) == {9.0}
    assert judged({"table2": made_rows})["ours_helps"].numbers.startswith("+3.")


@pytest.mark.parametrize("shift, word", [(0.1, "reproduced"), (4.0, "not reproduced"), (0.9, "undecided")])
def test_negligible_is_within_a_point(shift, word):
    def outcome(e):
        return 70 + 0.1 * (e.seed % 3) + (shift + 0.05 * e.seed if e.pool_size != 500 else 0)
    found = rows("beyond", outcome, lambda e: e.method == "fskd" and e.num == 10)
    assert judged({"beyond": found})["n_negligible"].verdict == word


def test_a_larger_pool_is_shown_and_not_judged():
    def outcome(e):
        return 70 + 0.1 * (e.seed % 3) + (4 if e.pool_size > 500 else 0)
    one = judged({"beyond": rows("beyond", outcome, lambda e: e.method == "fskd" and e.num == 10)})["n_negligible"]
    assert one.verdict == "reproduced" and "n=1000 against 500: +4.0" in one.numbers


def test_no_minus_before_zero():
    assert verdict.signed(-0.04) == "+0.0" and verdict.signed(-1.25) == "−1.2"


def test_without_rows_every_claim_says_not_run():
    assert {one.verdict for one in verdict.judge({})} == {"not run"}
    assert [one.name for one in verdict.judge({})] == list(paper.CLAIMS)
    assert "not run" in verdict.cells([]).to_string()


def test_rows_of_a_union_meet_by_grid(tmp_path):
    from oefsmc_lib.rows.store import Store
    store = Store(tmp_path)
    wanted = [e for e in grid.load_grid("table2", "cifar10").experiments if e.method == "fskd" and e.num == 10 and e.seed == 0]
    for e in wanted:
        store.write(made(e, 80.0))
    found = verdict.rows_by_grid("paper", store)
    assert len(found["table2"]) == len(wanted) == 6 and len(found["fig3a"]) == 3
