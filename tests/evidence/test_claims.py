"""Claims and titles of figures follow the rows: other outcomes, other text."""

import re

import pytest
from made_rows import made, plausible, rows_of

from oefsmc_lib.errors import InputError
from oefsmc_lib.evidence import answers, figures, tables
from oefsmc_lib.evidence.figures.effect import groups_title
from oefsmc_lib.evidence.figures.inside import shares_title
from oefsmc_lib.images import fewshot
from oefsmc_lib.parameters import grid

NUMS = [10, 20, 50, 100]


@pytest.fixture(scope="module")
def rows():
    return rows_of(plausible)


@pytest.fixture(scope="module")
def upside_down():
    """The same runs with every outcome mirrored, so that each order is the opposite."""
    return rows_of(lambda e: (100 - plausible(e)[0], [100 - r for r in plausible(e)[1]]))


CLAIMS = {
    "long tail": (lambda rows: answers.long_tail_costs(rows, 10),
                  "on average over the seeds, the long tail costs accuracy at num=10: yes"),
    "more images": (lambda rows: answers.costs_less_with_more(rows, 10, 100),
                    "on average over the seeds, the long tail costs more at num=10 than at num=100: yes"),
    "group": (lambda rows: answers.lowest_group(rows, 10), "lowest recall at num=10: absent classes"),
    "beats": (lambda rows: answers.beats(rows, 10, "whole_pool"),
              "on average over the seeds, the whole pool (this package's own) beats the base at num=10: yes"),
}
TITLES = {
    "problem": (lambda rows: figures.problem_title(rows, NUMS),
                "The long tail costs 13.4 points at 10 images, 7.2 at 100"),
    "rescue": (lambda rows: figures.rescue_title(rows, 10),
               "At 10 images the tail costs 13.4 ± 0.6 points, OE-FSMC adds −42.0 ± 0.0, the whole pool instead +9.0 ± 0.0"),
    "losses": (lambda rows: figures.losses_title(rows, NUMS), "The long tail costs accuracy significantly in 4 of 4 cells"),
    "classes": (lambda rows: figures.classes_title(rows, 10),
                "At 10 long-tailed images, absent classes have the lowest recall: 77 %; head classes 89 %"),
    "stages": (lambda rows: figures.stages_title(rows, 10),
               "Points of recall that fine-tuning on 10 long-tailed images adds: head −2.0, tail −2.0, absent −2.0"),
}


@pytest.mark.parametrize("name", [*CLAIMS, *TITLES])
def test_the_text_is_what_the_rows_say(name, rows, upside_down):
    text, expected = {**CLAIMS, **TITLES}[name]
    assert text(rows) == expected
    assert text(upside_down) != expected
    assert answers.NOT_RUN in text([]).lower()


def test_the_title_of_groups_names_the_rarest_group_that_was_drawn():
    rows = rows_of(plausible, "table2")
    found = answers.gain(rows, 10, value="absent_accuracy", method="cd"), answers.gain(
        rows, 10, "extra_images", value="absent_accuracy", method="cd")
    both = " / ".join(f"{one['mean']:+.1f}".replace("-", "−") for one in found)
    assert groups_title(rows, 10).startswith(f"Recall of absent classes, OE-FSMC / labels ignored: CD {both}, FSKD ")
    drawn = [row.model_copy(update={"absent_accuracy": None}) for row in rows]
    assert groups_title(drawn, 10).startswith("Recall of tail classes")
    assert groups_title([], 10) == f"Recall of absent classes, OE-FSMC / labels ignored: {answers.NOT_RUN}"


def test_swapped_draws_turn_the_sign(rows):
    swapped = rows_of(lambda e: plausible(e.model_copy(update={
        "imbalance": "balanced" if e.imbalance == "long_tail" else "long_tail"})),
        only=lambda e: e.variant in ("native", "native_ft"))
    assert answers.long_tail_costs(swapped, 10) == "on average over the seeds, the long tail costs accuracy at num=10: no"
    assert figures.problem_title(swapped, NUMS).startswith("The long tail costs −13.4 points")


def test_undecided_is_said(rows):
    noisy = rows_of(lambda e: 80.0 + (5.0 if e.imbalance == "balanced" else 0.0) * (-1) ** e.seed)
    assert "(undecided)" in figures.problem_title(noisy, NUMS)
    alone = [row for row in rows if row.seed == 0]
    assert figures.problem_title(alone, NUMS).count("(undecided)") == 2      # one seed has no interval


def test_a_tail_that_costs_nothing_has_a_minus():
    better = rows_of(lambda e: 70.0 if e.imbalance == "balanced" else {"whole_pool": 82.0, "ours": 79.0}.get(e.variant, 80.0))
    assert figures.rescue_title(better, 10) == ("At 10 images the tail costs −10.0 ± 0.0 points, OE-FSMC adds −1.0 ± 0.0, "
                                                "the whole pool instead +2.0 ± 0.0")


def test_counts_of_the_draw(rows):
    assert answers.empty_classes(rows, 10) == "classes without an image at num=10: 5 of 10"
    assert answers.size_left(rows) == "left of the teacher: 25 % of the multiplications, 40 % of the parameters"
    assert answers.empty_classes([], 10).endswith(answers.NOT_RUN) and answers.size_left([]).endswith(answers.NOT_RUN)
    assert list(answers.draw_table(rows)["classes without"]) == [5, 4, 2, 1]
    assert figures.draw_title([4, 0, 1]) == "5 images for 3 classes: the largest class has 4, and 1 classes have none"
    assert figures.elsewhere_title([4, 0, 1], [1, 3, 1]).startswith("3 of 5 OOD images")


@pytest.mark.parametrize("counts", [[4, 2, 2, 1, 1, 0, 0, 0, 0, 0], [1] * 10, [0, 5], [3]])
def test_groups_are_those_of_the_draw(counts):
    assert answers.class_groups(counts) == fewshot.groups(counts)


def test_same_filters():
    assert answers.same_filters({"a": [1, 2]}, {"a": [1, 2]}).endswith("yes")
    assert answers.same_filters({"a": [1, 2]}, {"a": [1, 3]}).endswith("no")


def test_predicted_shares():
    counts = [4, 1, 0, 0]
    assert answers.rarely_predicted([60, 20, 10, 10], counts).endswith("yes")
    assert answers.rarely_predicted([10, 20, 35, 35], counts).endswith("no")
    assert answers.rarely_predicted([25, 25, 25, 25], [1, 1, 1, 1]).endswith(answers.NOT_RUN)
    assert "(50 % is fair): a 20 %" in shares_title({"a": [60, 20, 10, 10]}, counts)


def test_tables(rows):
    losses = answers.loss_table(rows, NUMS)
    assert list(losses["imbalance hurts"]) == ["reproduced"] * 4 and "lost in the paper" not in losses
    assert list(losses["lost"]) == [13.4, 12.9, 9.7, 7.2] and list(losses["seeds"]) == [20, 20, 3, 3]
    gains = answers.gain_table(rows, NUMS)
    assert list(gains["effect"]) == ["helps"] * 4 + ["harms"] * 4 + ["helps"] * 4 and set(gains["points"]) == {4.0, -42.0, 9.0}
    for empty in (answers.loss_table([], NUMS), answers.gain_table([], NUMS), answers.draw_table([])):
        assert empty.to_dict("list") == {"rows": [answers.NOT_RUN]}


def test_rows_of_two_teachers_and_a_seed_that_occurs_twice_are_refused(rows):
    ours, base = (answers.select(rows, num=10, variant=v, imbalance="long_tail") for v in ("ours", "native_ft"))
    other = [row.model_copy(update={"teacher_sha256": "another"}) for row in ours]
    assert answers.against(ours, base)["n"] == 20
    with pytest.raises(InputError, match="different teacher_sha256 meet"):
        answers.against(other, base)
    with pytest.raises(InputError, match="different teacher_sha256 meet in one cell"):
        tables.by_seed([*ours, *other])
    with pytest.raises(InputError, match="Seed 0 occurs 2 times in one cell"):
        tables.by_seed([*ours, ours[0]])


def test_several_methods_are_named():
    rows = rows_of(lambda e: 90.0 if e.imbalance == "balanced" else 88.0, name="table1", profile="cifar10",
                   only=lambda e: e.num == 10)
    assert figures.problem_title(rows, [10]) == ("Cost of the long tail at 10 images, points: CD +2.0, FSKD +2.0, "
                                                  "MiR +2.0, PRACTISE +2.0")
    assert list(answers.loss_table(rows, [10])["lost in the paper"]) == [3.55, 2.67, 2.58, 1.13]


@pytest.mark.parametrize("changes, network, expected", [
    ({}, "vgg16", 73.51), ({"variant": "ours"}, "vgg16", 75.93), ({"imbalance": "balanced"}, "vgg16", 76.18),
    ({"variant": "ours", "redraw": True}, "vgg16", None), ({}, "vgg16-w0.5", None), ({"ratio": 10}, "vgg16", None), ({"num": 30}, "vgg16", None), ({"dataset": "mnist5k"}, "vgg16", None),
    ({"variant": "native"}, "vgg16", None)])
def test_the_papers_value_of_a_row(changes, network, expected):
    experiment = grid.load_profile("cifar10").experiment({"variant": "native_ft", **changes})
    assert answers.paper_value(made(experiment, 80.0, network=network)) == expected


def test_no_claim_prints_a_fraction(rows):
    """Claims are compared between machines: signs, counts and whole percent only."""
    for text, _ in CLAIMS.values():
        assert not re.search(r"\d\.\d", text(rows))
