"""Verdicts as they stand in the README: what is beside what, on rows whose answer is known."""

import re

from made_rows import rows_of

from oefsmc_lib.engine import batches
from oefsmc_lib.evidence import answers, markdown, overview, tables, verdict
from oefsmc_lib.parameters import grid
from oefsmc_lib.rows.store import Store

PROFILE = grid.load_profile("cifar10")


def made(name, outcome, only):
    return rows_of(outcome, name, PROFILE, only)


def fskd(e):
    return e.method == "fskd" and e.num in (10, 100)


def cells_of(text):
    return [[part.strip() for part in line.strip("| ").split("|")] for line in text.splitlines() if line.startswith("| cifar10") and line.count("|") > 8]


def outcome(e):
    return 60 + {"ours": -4.0, "extra_images": 3.0}.get(e.variant, 0.0) + 0.01 * e.seed * (e.variant == "ours")


def test_a_cell_has_the_control_beside_it_and_the_papers_difference_where_there_is_one():
    text = markdown.markdown({"table2": made("table2", outcome, fskd)})
    first, last = cells_of(text)
    assert first[:6] == ["cifar10", "FSKD", "10", "5", "60.0", "56.0"] and first[6].startswith("−4.0 ± ")
    assert first[7] == "not reproduced" and first[8:10] == ["73.5", "+2.4"] and first[10] == "+3.0 ± 0.0"
    assert last[2] == "100" and last[8:10] == ["87.4", ""]                    # the paper has it in Table 1 alone
    assert "Teachers: vgg16 on cifar10 95.0." in text.splitlines()


def test_what_was_found_is_six_sentences_and_the_paper_has_a_line_a_table_and_figure():
    tail = {"table1": made("table1", lambda e: 70.0 - 10 * (e.imbalance == "long_tail") + e.seed, lambda e: e.method in ("fskd", "cd"))}
    rows = tail | {"table2": made("table2", outcome, lambda e: e.method in ("fskd", "cd"))}
    said = overview.found_markdown(rows)
    assert said.count(". ") == 5 and re.search(r" % of the teacher's multiplications; the teacher has \d\d\.\d %\.$", said)
    assert said.startswith("Ten long-tailed images of CIFAR-10 instead of ten balanced ones take 10.0 ± 0.0 points of accuracy from CD and "
                           "10.0 ± 0.0 from FSKD. ")
    assert "it is significantly above the base in 0 of all 8 cells and below it in 8, CD on CIFAR-10 and FSKD on CIFAR-10 "\
           "(MiR and PRACTISE have no rows yet). " in said
    assert "in the recovery alone, add 3.0 ± 0.0 points of accuracy to CD and 3.0 ± 0.0 to FSKD, and are significantly above "\
           "the base in 8 of all 8 cells and below it in none. The labels drawn for OOD images change accuracy on average by −7.0 ± 0.0 points on CIFAR-10. " in said
    copies = made("beyond", lambda e: outcome(e) + 1.5 * (e.aux == "augmented_few"), fskd)
    assert "below it in none. Augmented copies of the few images in their place add 4.5 ± 0.0 points to FSKD. The labels" in overview.found_markdown(
        rows | {"beyond": copies})
    assert overview.found_markdown({}) == "What was found: not run."
    lines = [[part.strip() for part in line.strip("| ").split("|")] for line in overview.artefacts_markdown(rows).splitlines()[2:]]
    assert [line[0].partition(",")[0] for line in lines] == ["Table 1", "Table 2", *(f"Fig. 3({part})" for part in "abcd"), "§4.3"]
    hours = sum(row.seconds_total for row in tail["table1"]) / 3600
    assert lines[0][2:] == ["`table1`", f"{hours:.1f} h, {len(tail['table1'])}/320 runs",
                            "1 reproduced, 2 not run"]
    assert lines[1][4] == "1 not reproduced, 1 undecided" and lines[2][3:] == ["not run", "2 not run"]


def test_settings_name_a_ratio_that_only_one_number_of_images_has():
    lines, _, usual = markdown.settings_markdown(made("beyond", outcome, lambda e: e.method == "fskd")).rpartition("Where a line")
    assert "| FSKD | 50 | `ours` | ratio=10 |" in lines and "ratio=100" in usual and "ratio=100" not in lines


def test_a_control_that_did_not_run_says_so():
    some = [row for row in made("table2", outcome, fskd) if row.variant != "extra_images"]
    assert {cell[10] for cell in cells_of(markdown.markdown({"table2": some}))} == {"not run"}


def test_a_doubted_number_of_the_paper_is_marked():
    cells = cells_of(markdown.markdown({"table2": made("table2", outcome, lambda e: e.method == "cd" and e.num in (10, 20))}))
    assert [cell[9] for cell in cells] == ["+8.6 (doubted)", "+4.6"]


def test_steps_add_up_to_the_methods_difference():
    points = {"extra_images": 3.0, "wo_ft": 1.0, "wo_comp": -2.0, "ours": -4.0, "whole_pool": 6.0}

    def stepped(e):
        return 60 + points.get(e.variant, 0.0) + (0.5 * e.seed if e.variant != "native_ft" else 0.0)
    rows = {name: made(name, stepped, lambda e: e.method in ("fskd", "cd") and e.num in (10, 20)) for name in ("table2", "fig3a")}
    text = markdown.steps_markdown(rows).splitlines()
    assert "w/o FT − base" in text[0] and "OE-FSMC − base" in text[0] and "whole pool − OE-FSMC" in text[0]
    found = [[part.strip() for part in each.strip("| ").split("|")] for each in text[2:]]
    assert [each[:4] for each in found] == [["cifar10", "CD", "10, 20", "2"], ["cifar10", "FSKD", "10, 20", "2"], ["cifar10", "all", "", "4"]]
    for each in found:                                                        # seeds 0 to 4 add 1 to every variant's mean
        assert each[4:] == ["+2.0 ± 1.0", "−5.0 ± 0.0", "−3.0 ± 1.0", "+10.0 ± 0.0"]
    # A seed without one of the steps is in none of them, so that they add up.
    fewer = rows | {"table2": [row for row in rows["table2"] if (row.seed, row.variant) != (4, "whole_pool")],
                     "fig3a": [row for row in rows["fig3a"] if (row.seed, row.variant) != (4, "whole_pool")]}
    last = [part.strip() for part in markdown.steps_markdown(fewer).splitlines()[-1].strip("| ").split("|")]
    assert last[4].startswith("+1.8") and last[6].startswith("−3.2")
    # A cell without one of the steps is in none of them.
    rows["fig3a"] = [row for row in rows["fig3a"] if (row.method, row.num, row.variant) != ("cd", 10, "wo_ft")]
    assert markdown.steps_markdown(rows).splitlines()[2].startswith("| cifar10 | CD | 20 | 1 |")
    assert markdown.steps_markdown({"table2": rows["table2"]}) == "What each step changes: not run."
    assert markdown.steps_markdown(rows) in markdown.markdown(rows) and markdown.CHANGES in markdown.markdown(rows)


def test_opposite_effects_on_two_data_sets_are_said_apart():
    def opposite(e):
        gain = {"cifar10": 2.0, "cifar100": -2.0}[e.dataset] * (e.variant == "ours")
        return 60 + gain + 0.1 * ((e.seed * 7 + len(e.variant)) % 5)
    both = [row for profile in ("cifar10", "cifar100") for row in rows_of(
        opposite, "table2", profile, lambda e: e.method in ("fskd", "cd"))]
    numbers = next(each for each in verdict.judge({"table2": both}) if each.name == "ours_helps").numbers
    assert re.search(r"seeds \(CIFAR-10 \+2\.\d ± 0\.\d, CIFAR-100 −[12]\.\d ± 0\.\d\)", numbers), numbers
    one = next(each for each in verdict.judge({"table2": made("table2", opposite, fskd)}) if each.name == "ours_helps")
    assert "CIFAR-10 " not in one.numbers                                     # of one data set the mean says it all
    assert re.search(r"accuracy on average by \+\d\.\d ± \d\.\d points on CIFAR-10 and −\d\.\d ± \d\.\d points on CIFAR-100", overview.found_markdown(
        {"table2": both}))


def test_the_cells_of_table_1_stand_beside_the_papers_losses():
    def tailed(e):
        return 70.0 - (3.0 if e.variant == "native" else 5.0) * (e.imbalance == "long_tail") + e.seed
    rows = made("table1", tailed, fskd)
    found = [[part.strip() for part in line.strip("|").split("|")] for line in markdown.losses_markdown(rows).splitlines()[2:]]
    assert found == [["cifar10", "FSKD", "10", "72.0", "67.0", "+5.0 ± 0.0", "reproduced", "+2.7", "+3.0 ± 0.0"],
                     ["cifar10", "FSKD", "100", "72.0", "67.0", "+5.0 ± 0.0", "reproduced", "+1.8", "+3.0 ± 0.0"]]
    fewer = [row for row in rows if row.variant != "native"]
    assert all(line.endswith("| not run |") for line in markdown.losses_markdown(fewer).splitlines()[2:])
    assert markdown.losses_markdown([]) == "Table 1: not run." and markdown.losses_markdown(rows) in markdown.markdown(
        {"table1": rows, "table2": made("table2", outcome, fskd)})


def test_costs_count_a_shared_timing_once_and_show_the_range_of_what_is_left():
    rows = made("table2", outcome, lambda e: e.method == "fskd" and e.num == 10 and e.variant in ("native_ft", "ours"))
    times = [5.0] * (len(rows) - 2) + [2.0, 4.0]
    rows = [row.model_copy(update={"teacher_latency_ms": 10.0, "latency_ms": time, "params_cut": 60.0 - place})
            for place, (row, time) in enumerate(zip(rows, times))]
    line = markdown.costs_markdown(rows).splitlines()[2]
    assert "| 25 % |" in line and f"(40–{39 + len(rows)})" in line and "| 10 → 4, 2.50× |" in line and line.endswith("| not measured |")


def test_a_switch_that_few_lines_read_is_written_in_each_of_them():
    """What a line leaves out stands for the value that most lines have; the others do not read it at all."""
    lines = [{"lam": 0.5, "w": None}, {"lam": 0.5, "w": None}, {"lam": 0.2, "w": "uniform"}]
    assert tables.merge_settings(lines, ["lam", "w"]) == "lam=0.5"
    assert [line["settings"] for line in lines] == [None, None, "lam=0.2, w=uniform"]


def test_claims_name_what_is_subtracted_and_which_compressors():
    rows = made("table1", lambda e: 60 + 5.0 * (e.imbalance == "balanced") + 0.1 * e.seed, lambda e: e.method in ("fskd", "cd"))
    one = next(each for each in verdict.judge({"table1": rows}) if each.name == "imbalance_hurts")
    assert one.numbers.startswith("balanced − long-tailed: +5.0") and one.numbers.endswith(", CD and FSKD (8 reproduced)")
    one_sided = [row for row in rows if (row.method, answers.column(row, "imbalance")) != ("cd", "balanced")]
    one = next(each for each in verdict.judge({"table1": one_sided}) if each.name == "imbalance_hurts")
    assert one.numbers.endswith(", FSKD (4 reproduced)")                                     # the other has no pair


def test_both_solvers_stand_side_by_side():
    def by_solver(e):
        return outcome(e) - 10.0 * (e.solver == "literal" and e.variant == "native_ft")
    rows = made("literal", by_solver, fskd)
    assert [cell[2:7] for cell in cells_of(markdown.solver_markdown(rows))] == [
        ["10", "released", "5", "50.0", "56.0"], ["10", "this package's", "5", "60.0", "56.0"],
        ["100", "released", "5", "50.0", "56.0"], ["100", "this package's", "5", "60.0", "56.0"]]
    some = [row for row in rows if (row.num, row.solver) != (100, "literal")]
    assert [cell[2] for cell in cells_of(markdown.solver_markdown(some))] == ["10", "10"]
    assert markdown.solver_markdown([]) == "Released solvers: not run."


def missing_of(store, profile="paper"):
    table = overview.missing_markdown(profile, store).splitlines()[2:]
    return [[part.strip(" `") for part in each.strip("| ").split("|")] for each in table]


def test_what_is_missing_stands_once_with_its_command(tmp_path):
    store = Store(tmp_path)
    lines = missing_of(store)
    assert sum(int(each[4].split(" of ")[0]) for each in lines) == len({
        e.key for batch in batches.of_grids(grid.grids_of("paper")) for e in batch.experiments})
    for each in lines:                                                        # every command names runs that exist
        words = each[6].split()
        assert words[:3] == ["oefsmc", "grid", "run"]
        name, profile, only = words[3], words[5], dict(word.split("=") for word in words[7::2])
        assert grid.load_grid(name, profile, only).experiments
    assert {each[5] for each in lines if each[0] == "imagenet"} == {"not run: no images here"}
    assert {each[5] for each in lines if each[0] != "imagenet"} == {"unknown"}


def test_what_has_a_row_is_no_longer_missing(tmp_path):
    store = Store(tmp_path)
    whole = next(each for each in missing_of(store) if each[:3] == ["cifar10", "table1", "FSKD"])
    assert whole[3:5] == ["10, 20, 50, 100", "80 of 80"] and "num=" not in whole[6]
    for row in made("table1", outcome, lambda e: e.method == "fskd" and e.num != 50):
        store.write(row.model_copy(update={"seconds_total": 360.0}))
    some = next(each for each in missing_of(store) if each[:3] == ["cifar10", "table1", "FSKD"])
    assert some[3:6] == ["50", "20 of 80", f"{20 * 360 / 3600:.1f}"] and some[6].endswith("--only num=50")
    for row in made("table1", outcome, lambda e: e.method == "fskd"):
        store.write(row)
    assert not [each for each in missing_of(store) if each[:3] == ["cifar10", "table1", "FSKD"]]


def test_costs_name_latency_beside_multiplications_where_rows_have_it():
    rows = made("table2", outcome, lambda e: e.method in ("fskd", "cd") and e.num == 10)
    times = {"teacher_latency_ms": 4.0, "latency_ms": 2.5, "teacher_latency_64_ms": 300.0, "latency_64_ms": 100.0}
    timed = [row.model_copy(update=times) if row.method == "fskd" and row.seed < 3 else row for row in rows]
    found = [line.strip("| ").split(" | ") for line in markdown.costs_markdown([*timed, *timed]).splitlines()[2:]]
    assert found == [["cifar10", "CD", "25 %", "40 %", "not measured", "not measured"],
                     ["cifar10", "FSKD", "25 %", "40 %", "4 → 2.5, 1.60×", "300 → 100, 3.00×"]]
    assert markdown.costs_markdown(timed) in markdown.markdown({"table2": timed})


def test_where_fine_tuning_stops_is_a_line_a_cell():
    some = rows_of(lambda e: 80.0, "table2", "cifar10", lambda e: e.method == "cd" and e.num in (10, 100) and e.seed < 3)
    tuned = [row.model_copy(update={"finetune_kept": 1, "finetune_epochs": 2 + row.seed, "finetune_distances": [1.0, 0.25, 2.0]})
             for row in some if row.variant == "native_ft" or (row.variant, row.num, row.seed) == ("ours", 10, 0)]
    assert markdown.stopping_markdown(tuned).splitlines()[2:] == [
        "| cifar10 | CD | 10 | epoch 1; 1.000 → 0.250 | not run | epoch 1; 1.000 → 0.250 |",
        "| cifar10 | CD | 100 | epoch 1; 1.000 → 0.250 | not run | not run |"]
    assert markdown.stopping_markdown([]) == "Where fine-tuning stops: not run."


def test_controls_say_what_differs_and_once_what_is_usual():
    few = made("beyond", lambda e: 70.0 + e.seed, lambda e: (e.variant, e.num, e.method) == ("ours", 10, "fskd"))
    said = markdown.settings_markdown(few)
    lines = [line for line in said.splitlines() if line.startswith("| FSKD")]
    assert any("| ood_labels=uniform |" in line for line in lines) and sum("|  |" in line for line in lines) == 1
    assert said.splitlines()[-1].startswith("Where a line says nothing else: ") and "ood_labels=complementary" in said.splitlines()[-1]
    assert markdown.settings_markdown([]) == "Controls: not run."
