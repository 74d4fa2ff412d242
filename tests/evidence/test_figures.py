"""Figures show the rows that there are, say where there are none, and load no torch."""

import os
import re
import subprocess
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from made_rows import made, plausible, rows_of

from oefsmc_lib.evidence import answers, figures
from oefsmc_lib.parameters import grid

PROFILE = grid.load_profile("embedded")
DRAWN = {"problem": figures.problem, "losses": figures.losses, "rescue": figures.rescue, "by_class": figures.by_class,
         "stages": figures.stages}


@pytest.fixture(autouse=True)
def closed():
    figures.style()
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def rows():
    return rows_of(plausible)


def title_of(figure):
    return figure.get_suptitle().replace("\n", " ").replace("\u00a0", " ")


def short(figure):
    """Two lines and twelve words at most; numbers, signs and the profile's name are no words of the finding."""
    finding = title_of(figure).partition(" [")[0].replace("(undecided)", "")
    return figure.get_suptitle().count("\n") <= 1 and len(re.findall(r"[^\W\d_][\w./-]*", finding)) <= 12


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def hollow(figure):
    return [line.get_ydata()[0] for ax in figure.axes for line in ax.lines if line.get_label() == figures.marks.PAPER]


def explained(figure):
    return figure.legends[0].get_title().get_text().replace("\n", " ")


def means(figure):
    """The y of every mean mark with its interval."""
    return [container.lines[0].get_ydata()[0] for ax in figure.axes for container in ax.containers]


@pytest.mark.parametrize("name", DRAWN)
def test_title_is_computed_and_names_the_profile(name, rows, tmp_path):
    figure = DRAWN[name](rows, PROFILE)
    title = title_of(figure)
    assert title.endswith("[profile embedded]") and answers.NOT_RUN not in title and short(figure)
    other = DRAWN[name](rows_of(lambda e: (50.0 + e.num / 10, [90.0 - 5 * r for r in range(10)])), PROFILE)
    assert title_of(other) != title
    for kind in ("png", "svg"):
        figure.savefig(tmp_path / f"figure.{kind}")


@pytest.mark.parametrize("name", DRAWN)
def test_without_rows_everything_says_not_run(name, tmp_path):
    figure = DRAWN[name]([], PROFILE)
    assert answers.NOT_RUN in title_of(figure).lower() and answers.NOT_RUN in texts(figure)
    figure.savefig(tmp_path / "empty.png")


@pytest.mark.parametrize("name", ["problem", "rescue"])
def test_a_missing_cell_is_a_gap_that_says_so(name, rows):
    there = [row for row in rows if not (row.num == 20 and answers.column(row, "imbalance") == "long_tail")]
    gaps = {"problem": 2, "rescue": 3}[name]               # two panels; three long-tailed conditions
    assert texts(DRAWN[name](there, PROFILE)).count(answers.NOT_RUN) == gaps
    assert texts(DRAWN[name](rows, PROFILE)).count(answers.NOT_RUN) == 0


def test_marks_are_means_with_intervals_and_every_seed(rows):
    figure = figures.rescue(rows, PROFILE)
    expected = [answers.mean(rows, num=num, **figures.marks.LOOKS[name].where)
                for name in ("balanced", "long_tail", "ours", "whole_pool") for num in (10, 20, 50, 100)]
    assert means(figure) == pytest.approx(expected)
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "."]
    assert len(dots) == 16 and {len(line.get_ydata()) for line in dots} == {3, 20}
    assert "3–20 seeds" in explained(figure)


def test_one_seed_has_no_bar_and_is_undecided(rows):
    figure = figures.rescue([row for row in rows if row.seed == 0], PROFILE)
    assert "undecided" in title_of(figure) and "1 seed," in explained(figure)
    assert not any(container.has_yerr for container in figure.axes[0].containers)


def test_two_seeds_do_not_blow_up_the_axis(rows):
    apart = rows_of(lambda e: 60.0 + 20 * e.seed + (e.imbalance == "balanced"), only=lambda e: e.seed < 2)
    figure = figures.rescue(apart, PROFILE)
    low, high = figure.axes[0].get_ylim()
    assert 35 < low < 60 and 81 < high <= 104 and "2 seeds, bars: 95 % t-interval (cut at the edge)" in explained(figure)
    assert "cut" not in explained(figures.rescue(rows, PROFILE))
    assert "1–2 seeds" in explained(figures.rescue(apart[:-1], PROFILE))


def test_the_papers_values_are_hollow_only_where_the_setting_is_the_papers(rows):
    assert hollow(figures.rescue(rows, PROFILE)) == []
    theirs = rows_of(plausible, profile="cifar10")
    figure = figures.rescue(theirs, grid.load_profile("cifar10"))
    assert hollow(figure) == [76.18, 84.20, 88.63, 89.18, 73.51, 81.66, 86.31, 87.41, 75.93, 84.67, 88.24]
    assert "hollow marks: the paper" in explained(figure)
    narrow = rows_of(plausible, profile="cifar10", network="vgg16-w0.5")
    assert hollow(figures.rescue(narrow, "narrow")) == []


def test_four_methods_and_the_printed_losses():
    def outcome(e):
        return 90.0 - (e.imbalance == "long_tail") * (1 + e.seed / 10)
    rows = rows_of(outcome, name="table1", profile="cifar10", only=lambda e: e.method != "mir")
    figure = figures.losses(rows, grid.load_profile("cifar10"), ["cd", "fskd", "mir", "practise"])
    assert texts(figure) == [] and len(hollow(figure)) == 12 and "; not run: MiR. Marks" in explained(figure)
    assert title_of(figure) != title_of(figures.problem(rows, grid.load_profile("cifar10")))
    assert hollow(figure)[0] == pytest.approx(3.55)
    assert means(figure) == pytest.approx([1.2] * 12)
    assert len(figures.problem(rows, grid.load_profile("cifar10")).axes) == 6


def test_classes_stand_by_rank_not_by_number():
    experiment = PROFILE.experiment({"num": 10, "variant": "native_ft"})
    row = made(experiment, 80.0, recalls=[90.0 - 3 * j for j in range(10)])
    turned = row.model_copy(update={"order": list(range(9, -1, -1)), "counts": row.counts[::-1],
                                    "per_class": row.per_class[::-1]})
    assert means(figures.by_class([turned], PROFILE, 10)) == means(figures.by_class([row], PROFILE, 10))


def test_groups_of_a_balanced_row_are_those_of_the_long_tail(rows):
    recall = figures.ranks.group_recall(rows, "absent")
    row = answers.select(rows, num=10, imbalance="balanced", variant="native_ft", seed=0)[0]
    assert recall(row) == pytest.approx(sum(row.per_class[5:]) / 5)


def test_many_classes_are_binned():
    rows = rows_of(lambda e: (60.0, [99.0 - 0.5 * r for r in range(100)]), profile="cifar100", classes=100)
    figure = figures.by_class(rows, grid.load_profile("cifar100"))
    labels = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert len(labels) == 10 and labels[0] == "5–3" and labels[-1] == "0"
    assert means(figure)[0] == pytest.approx(99 - 0.5 * 4.5)


def test_gallery_shows_every_image_in_its_class():
    images, labels = np.zeros((5, 1, 8, 8), dtype=np.uint8), [2, 2, 2, 0, 0]
    figure = figures.gallery({"few": (images, labels)}, ["a", "b", "c"], [2, 0, 1], PROFILE, "a finding")
    assert len(figure.axes[0].images) == 5 and texts(figure) == ["3", "2", "none"]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["c", "a", "b"]
    many = figures.gallery({"few": (images, labels)}, [str(j) for j in range(100)], list(range(100)), PROFILE, "")
    assert [tick.get_text() for tick in many.axes[0].get_yticklabels()][6:9] == ["6", "…", "96"]


def test_shares():
    figure = figures.shares({"one": [60, 20, 10, 10], "two": [25, 25, 25, 25]}, [4, 1, 0, 0], PROFILE)
    assert len(figure.axes[0].patches) == 8 + 3            # bars, and the shade of three groups
    assert title_of(figure).startswith("Predictions of absent classes (50 % is fair): one 20 %; two 50 %")


def test_svg_is_the_same_file_each_time(rows, tmp_path):
    files = []
    for name in ("one.svg", "two.svg"):
        figures.rescue(rows, PROFILE).savefig(tmp_path / name, metadata={"Date": None})
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


def test_no_torch():
    code = "import sys; from oefsmc_lib.evidence import figures; from oefsmc_lib.parameters import grid; figures.style(); " \
           "figures.rescue([], grid.load_profile('embedded')); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={**os.environ, "MPLBACKEND": "Agg"})
    assert done.stdout.strip() == "False"


# --- Table 2, Fig. 3 and one switch at a time --------------------------------------------------------
def level(experiment):
    base = {"native": 84.0, "native_ft": 82.0, "extra_images": 86.0, "wo_comp": 78.0, "wo_ft": 85.0, "ours": 60.0, "whole_pool": 90.0}
    return base[experiment.variant] + 0.1 * experiment.seed + 0.02 * (experiment.seed % 2) * len(experiment.variant)


EFFECT = {"effect": (figures.effect, "table2"), "gains": (figures.gains, "table2"), "ablation": (figures.ablation, "fig3a"),
          "groups": (lambda rows, profile: figures.groups(rows, profile, 10), "table2")}


@pytest.mark.parametrize("name", EFFECT)
def test_figures_of_effect_follow_their_rows(name, tmp_path):
    draw, source = EFFECT[name]
    title = title_of(draw(rows_of(level, source), PROFILE))
    other = title_of(draw(rows_of(lambda e: 50 + 0.1 * e.seed + (9 if e.variant == "ours" else 0), source), PROFILE))
    assert title != other and title.endswith("[profile embedded]") and answers.NOT_RUN not in title
    assert short(draw(rows_of(level, source), PROFILE))
    if name in ("effect", "ablation"):
        # MiR and PRACTISE have fewer seeds under this profile, so the ablation's title averages the other two.
        assert "FSKD −22.0" in title or "base (CD, FSKD): " in title and "OE-FSMC −22" in title
    figure = draw([], PROFILE)
    assert answers.NOT_RUN in title_of(figure).lower() and answers.NOT_RUN in texts(figure)
    figure.savefig(tmp_path / "figure.svg")


def test_effect_draws_the_papers_values_and_names_short_lengths():
    cifar = grid.load_profile("cifar10+cpu")
    rows = rows_of(level, "table2", "cifar10+cpu", lambda e: e.num == 10)
    figure = figures.effect(rows, cifar)
    printed = hollow(figure)
    assert 78.90 in printed and 70.34 in printed and len(printed) == 8         # four methods, base and ours, at 10 images
    assert "MiR: 500 steps instead of 2000" in explained(figure)
    assert "instead of" not in explained(figures.effect(answers.select(rows, method="fskd"), cifar))


@pytest.mark.parametrize("name", ["effect", "ablation", "groups"])
def test_a_compressor_without_rows_has_no_panel_and_the_caption_names_it(name):
    draw, source = EFFECT[name]
    figure = draw(rows_of(level, source, only=lambda e: e.method != "mir"), PROFILE)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["CD", "FSKD", "PRACTISE"]
    assert answers.NOT_RUN not in texts(figure) and "; not run: MiR. Marks" in explained(figure)
    assert answers.NOT_RUN not in explained(draw(rows_of(level, source), PROFILE))


def test_a_cell_that_was_not_run_is_a_gap_beside_the_others():
    figure = figures.effect(rows_of(level, "table2", only=lambda e: (e.method, e.variant) != ("mir", "ours")), PROFILE)
    panel = {ax.get_title(loc="left"): [t.get_text() for t in ax.texts] for ax in figure.axes}
    assert panel["MiR"].count(answers.NOT_RUN) == 1 and answers.NOT_RUN not in panel["CD"]


def test_one_bad_compressor_squeezes_no_other():
    figure = figures.effect(rows_of(level, "table2"), PROFILE)
    assert len({ax.get_ylim() for ax in figure.axes}) == 1 and "own scale" not in explained(figure)
    bad = rows_of(lambda e: level(e) - 60 * (e.method == "mir") + 30 * (e.variant == "ours"), "table2")
    for figure in (figures.effect(bad, PROFILE), figures.problem(bad, PROFILE)):
        low, high = np.transpose([ax.get_ylim() for ax in figure.axes if ax.get_title(loc="left").startswith("CD")])
        assert min(low) > 60 and max(high) <= 104 and "each compressor has its own scale" in explained(figure)


def test_every_variant_that_has_words_has_a_look():
    from oefsmc_lib.evidence.figures.marks import VARIANT_LOOKS
    assert set(VARIANT_LOOKS) == set(answers.VARIANT_WORDS)


@pytest.mark.parametrize("name, source", [("m", "fig3b"), ("lam", "fig3c"), ("eta", "fig3d")])
def test_sweeps_carry_the_claims_verdict(name, source):
    value, best = figures.SWEEPS[name][1:3]
    def far(e):
        return min(value(made(e, 0.0)), 10.0)              # the whole pool is infinitely many times the few images
    peak = rows_of(lambda e: 70 - 5 * abs(far(e) - best) + 0.1 * (e.seed % 2), source)
    falling = rows_of(lambda e: 70 - 5 * far(e) + 0.1 * (e.seed % 2), source)
    assert "= best is".replace("best", f"{best:g}") in title_of(figures.sweep(peak, PROFILE, name)) and short(figures.sweep(peak, PROFILE, name))
    assert "reproduced (worse: 0" in title_of(figures.sweep(peak, PROFILE, name))
    assert "contradicted" in title_of(figures.sweep(falling, PROFILE, name))
    one = figures.sweep(answers.select(peak, num=10), PROFILE, name)
    assert len(one.axes) == 1 and f"not run: {PROFILE.lists['few_nums'][1]} few images" in explained(one)
    figure = figures.sweep(peak, PROFILE, name)
    assert len(figure.axes) == len(PROFILE.lists["few_nums"])
    ticks = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert ticks[-2:] == ["all n", "whole\npool"] if name == "m" else "all n" not in ticks
    assert any("fixed length" in text.get_text() for text in figure.legends[0].get_texts()) == (name == "eta")
    assert "Not run" in title_of(figures.sweep([], PROFILE, name)) or answers.NOT_RUN in title_of(figures.sweep([], PROFILE, name))


def test_settings_colour_what_is_significant_and_say_what_is_missing():
    rows = {"reference": rows_of(lambda e: 70.0 + e.seed, only=lambda e: (e.num, e.variant, e.imbalance) == (10, "native_ft", "long_tail"))}
    rows["better"] = [row.model_copy(update={"top1": row.top1 + 3 + 0.1 * row.seed}) for row in rows["reference"]]
    rows["worse"] = [row.model_copy(update={"top1": row.top1 - 3 - 0.1 * row.seed}) for row in rows["reference"]]
    rows["the same"] = [row.model_copy(update={"top1": row.top1 + 0.3 * (-1) ** row.seed}) for row in rows["reference"]]
    rows["absent"] = []
    figure = figures.settings(rows, "reference", PROFILE)
    title = title_of(figure)
    assert "above reference: better (+" in title and "Below: worse (−" in title and "the same" not in title
    only = {name: rows[name] for name in ("reference", "the same", "worse")}
    assert title_of(figures.settings(only, "reference", PROFILE)).startswith("Significantly below reference: worse (−")
    del only["worse"]
    assert title_of(figures.settings(only, "reference", PROFILE)).startswith("No setting changes accuracy detectably against reference")
    assert title_of(figures.settings(only, "reference", PROFILE, "reading")).startswith("No reading changes accuracy detectably")
    assert texts(figure).count(answers.NOT_RUN) == 2
    colours = {container.lines[0].get_ydata()[0]: container.lines[0].get_color() for container in figure.axes[1].containers}
    assert len(set(colours.values())) == 3


def test_every_remedy_stands_against_the_base_of_its_own_setting():
    def of(variant, change):
        own = rows_of(lambda e: 70.0, only=lambda e: (e.num, e.variant, e.imbalance) == (10, variant, "long_tail"))
        return [row.model_copy(update={"top1": row.top1 + change + 0.1 * (row.seed % 2)}) for row in own]
    near = {"base": of("native_ft", 0), "OE-FSMC": of("ours", 4), "whole pool": of("whole_pool", 9)}
    far = {"base": of("native_ft", 2), "OE-FSMC": of("ours", 1), "whole pool": []}
    figure = figures.against_base({"near": near, "far": far}, PROFILE, "source")
    assert title_of(figure).startswith("Points against the base, whole pool: near +9.0 [profile")
    assert [round(mean) for mean in means(figure)] == [4, -1, 9] and texts(figure).count(answers.NOT_RUN) == 1


def test_criteria_show_every_group_and_name_the_absent_classes_recall():
    own = rows_of(lambda e: (70.0, [90.0 - 5 * r for r in range(10)]), only=lambda e: (e.num, e.variant) == (10, "ours"))
    other = [row.model_copy(update={"absent_accuracy": row.absent_accuracy - 20}) for row in own]
    figure = figures.criteria({"own": own, "activation": other, "evidence": []}, PROFILE)
    assert title_of(figure).startswith("Recall of absent classes: own 55 %, activation 35 %")
    assert len(means(figure)) == 6 and texts(figure).count(answers.NOT_RUN) == 3


def test_channels_sort_by_choice_and_leave_empty_classes_grey():
    values = np.array([[1.0, 0.2, 0.5, 0.1], [0.3, 0.9, 0.4, 0.2], [np.nan] * 4])
    figure = figures.channels(values, {"eq. 5": [0, 1], "eq. 1": [1, 2]}, ["a", "b", "c"], [3, 1, 0], PROFILE, "finding")
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape == (3, 4) and bool(shown.mask[2].all()) and not shown.mask[:2].any()
    assert [float(v) for v in figure.axes[1].images[0].get_array()[0]] == [0.15, 0.15, 0.9, 0.9]
    assert figure.axes[2].get_ylabel().startswith("contribution")


def test_densities_show_the_ood_images_and_both_boundaries_in_every_panel():
    x = np.linspace(-5, 15, 101)
    cases = {"near": (x * 0 + 1, x * 0 + 2, np.exp(-x**2), -0.4), "far": (x * 0 + 1, x * 0 + 2, np.exp(-((x - 12) ** 2)), 1.1)}
    figure = figures.densities(x, cases, 1.1, PROFILE, "finding")
    for ax, (*_, ood, moved) in zip(figure.axes, cases.values(), strict=True):
        assert [float(line.get_xdata()[0]) for line in ax.lines if len(line.get_xdata()) == 2] == [1.1, moved]
        assert ax.get_xlim()[0] < x[ood.argmax()] < ax.get_xlim()[1]


def test_trajectories_mark_the_epoch_that_is_kept():
    own = rows_of(lambda e: 70.0, only=lambda e: (e.num, e.variant, e.seed) == (10, "ours", 0))
    tuned = [row.model_copy(update={"finetune_distances": [0.4, 0.3, 0.6], "finetune_kept": 1, "finetune_epochs": 2}) for row in own]
    figure = figures.trajectories({"eq. 9": tuned, "few images alone": []}, PROFILE)
    assert title_of(figure).startswith("Epoch that is kept: 1 of 2 run with eq. 9")
    (ax,) = figure.axes
    assert list(ax.lines[0].get_ydata()) == pytest.approx([100, 75, 150]) and list(ax.collections[0].get_offsets()[0]) == pytest.approx([1, 75])
    low, high = ax.get_ylim()
    assert low < 75 and high == 112 and ax.get_title(loc="left") == "FSKD (cut at 112)", "one far line does not flatten the others"
    assert answers.NOT_RUN in title_of(figures.trajectories({"eq. 9": own}, PROFILE))


def test_features_lay_other_groups_over_the_first_ones_plane():
    source = np.random.default_rng(0)
    groups = {"unseen": source.normal(size=(60, 8)), "few": source.normal(size=(3, 8)), "far": source.normal(size=(5, 8)) + 30}
    figure = figures.features(groups, PROFILE, "finding", ["one", "two", "three"])
    assert [len(c.get_offsets()) for c in figure.axes[0].collections] == [60, 3, 5] and texts(figure) == ["one", "two", "three"]
    (left, right), (low, high) = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    for group in figure.axes[0].collections:
        assert all(left < x < right and low < y < high for x, y in group.get_offsets()), "a point lies outside the axes"


def test_settings_that_were_not_run_have_their_line():
    def base(e):
        return e.num == 10 and e.variant == "native_ft" and e.imbalance == "long_tail"
    entries = {"base": rows_of(lambda e: 80.0, only=base), "other": []}
    figure = figures.settings(entries, "base", PROFILE)
    low, high = sorted(figure.axes[0].get_ylim())
    assert low < 0 and high > 1 and texts(figure).count("not run") == 2


def test_solvers_are_compared_draw_by_draw(tmp_path):
    def outcome(e):
        return 80.0 + e.seed + (2.0 if e.solver == "literal" else 0) * (1 if e.variant == "native" else -1)
    solved = rows_of(outcome, "literal")
    figure = figures.solvers(solved, PROFILE)
    title = title_of(figure)
    assert title.startswith("Released solver − this package's, long-tailed base, points: FSKD −2.0") and short(figure)
    sizes = len(PROFILE.lists["solver_nums"])
    assert [round(mean, 9) for mean in means(figure)] == [2.0] * 2 * sizes + [-2.0] * 4 * sizes      # balanced, then long-tailed
    table = answers.solver_table(solved)
    assert len(table) == 6 * sizes and set(table["seeds"]) == {5} and set(table["difference"]) == {2.0, -2.0}
    assert (table["released solver"] - table["this package's"] == table["difference"]).all()
    assert set(table["network"]) == {"the compressor alone", "the base", "OOD images, labels ignored", "OE-FSMC"}
    one_sided = [row for row in solved if row.solver == "default"]
    assert answers.NOT_RUN in title_of(figures.solvers(one_sided, PROFILE)) and list(answers.solver_table(one_sided)) == ["rows"]
    figure.savefig(tmp_path / "solvers.png")


def test_solvers_of_cd_appear_where_they_were_run():
    solved = rows_of(lambda e: 60.0 + (e.solver == "literal"), "literal", profile="cifar10")
    figure = figures.solvers(solved, grid.load_profile("cifar10"))
    assert "CD +1.0 (undecided)" in title_of(figure)        # one seed
    assert answers.NOT_RUN not in texts(figure)
    some = [row for row in solved if row.method == "fskd" and row.seed < 2 or row.solver == "default"]      # Adam not yet
    figure = figures.solvers(some, grid.load_profile("cifar10"))
    assert texts(figure).count(answers.NOT_RUN) == 2 and "2 seeds" in explained(figure)
