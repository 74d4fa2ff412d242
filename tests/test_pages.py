"""Verdicts as they stand in the README: what is beside what, on rows whose answer is known."""

from made_rows import rows_of

from oefsmc_lib import claims, grid, pages, verdict

PROFILE = grid.load_profile("cifar10")


def made(name, outcome, only):
    return rows_of(outcome, name, PROFILE, only)


def fskd(e):
    return e.method == "fskd" and e.num in (10, 100)


def cells_of(text):
    return [[part.strip() for part in line.strip("| ").split("|")] for line in text.splitlines() if line.startswith("| cifar10")]


def outcome(e):
    return 60 + {"ours": -4.0, "extra_images": 3.0}.get(e.variant, 0.0) + 0.01 * e.seed * (e.variant == "ours")


def test_a_cell_has_the_control_beside_it_and_the_papers_difference_where_there_is_one():
    first, last = cells_of(pages.markdown({"table2": made("table2", outcome, fskd)}))
    assert first[:6] == ["cifar10", "FSKD", "10", "5", "60.0", "56.0"] and first[6].startswith("−4.0 ± ")
    assert first[7] == "not reproduced" and first[8] == "+2.4" and first[9] == "+3.0 ± 0.0"
    assert last[2] == "100" and last[8] == ""                                 # not in the paper's Table 2


def test_a_control_that_did_not_run_says_so():
    some = [row for row in made("table2", outcome, fskd) if row.variant != "extra_images"]
    assert {cell[9] for cell in cells_of(pages.markdown({"table2": some}))} == {"not run"}


def test_a_doubted_number_of_the_paper_is_marked():
    cells = cells_of(pages.markdown({"table2": made("table2", outcome, lambda e: e.method == "cd" and e.num in (10, 20))}))
    assert [cell[8] for cell in cells] == ["+8.6 (doubted)", "+4.6"]


def test_claims_name_what_is_subtracted_and_which_compressors():
    rows = made("table1", lambda e: 60 + 5.0 * (e.imbalance == "balanced") + 0.1 * e.seed, lambda e: e.method in ("fskd", "cd"))
    one = next(each for each in verdict.judge({"table1": rows}) if each.name == "imbalance_hurts")
    assert one.numbers.startswith("balanced − long-tailed: +5.0") and one.numbers.endswith(", CD and FSKD")
    one_sided = [row for row in rows if (row.method, claims.column(row, "imbalance")) != ("cd", "balanced")]
    one = next(each for each in verdict.judge({"table1": one_sided}) if each.name == "imbalance_hurts")
    assert one.numbers.endswith(", FSKD")                                     # the other has no pair


def test_both_solvers_stand_side_by_side():
    def by_solver(e):
        return outcome(e) - 10.0 * (e.solver == "literal" and e.variant == "native_ft")
    rows = made("literal", by_solver, fskd)
    assert [cell[2:7] for cell in cells_of(pages.solver_markdown(rows))] == [
        ["10", "released", "5", "50.0", "56.0"], ["10", "ours", "5", "60.0", "56.0"],
        ["100", "released", "5", "50.0", "56.0"], ["100", "ours", "5", "60.0", "56.0"]]
    some = [row for row in rows if (row.num, row.solver) != (100, "literal")]
    assert [cell[2] for cell in cells_of(pages.solver_markdown(some))] == ["10", "10"]
    assert pages.solver_markdown([]) == "Released solvers: not run."
