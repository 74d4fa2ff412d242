"""One switch at a time: the sweeps of Fig. 3b-d, and any list of settings against a reference."""

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from oefsmc_lib.evidence import answers, tables, verdict
from oefsmc_lib.evidence.answers import GROUPS, NOT_RUN, against, column, select
from oefsmc_lib.evidence.figures import marks
from oefsmc_lib.evidence.figures.marks import BLUE, BROWN, GREEN, GREY, ORANGE, PINK, Look, finish, panels
from oefsmc_lib.rows.row import Row

# switch -> (axis label, value of a row, the value that the paper calls best)
SWEEPS: dict[str, tuple[str, Callable[[Row], float], float]] = {
    "m": ("OOD images over few images, m/M", verdict.size_of_aux, 1.0),
    "lam": ("share of the few images in distillation, λ", lambda row: column(row, "lam"), 0.5),
    "eta": ("weight of the OOD images in fine-tuning, η", lambda row: column(row, "eta"), 2.5),
}
JUDGED = {
    "reproduced": Look("above the reference", BLUE, "o"),
    "not reproduced": Look("below", ORANGE, "o"),
    "undecided": Look("undecided", GREY, "o"),
}


def sweep(rows: Sequence[Row], profile, name: str):
    """Fig. 3b (``m``), 3c (``lam``) or 3d (``eta``): top-1 over the switch, a panel a training size.

    Where rows with the fixed length are among them (``finetune.stop=fixed``), they are a dotted line of their own; the
    title judges those that stopped early. The whole pool, this package's own variant, is a mark at the right.
    """
    label, value, best = SWEEPS[name]
    stopped, pool = verdict.stopped_early(select(rows, variant="ours")), select(rows, variant="whole_pool")
    asked = marks.nums_of(rows, profile, "few_nums") or [10]
    nums = [num for num in asked if len({value(row) for row in select(stopped, num=num)}) > 1] or asked[:1]
    values = sorted({value(row) for row in stopped})
    figure, axes = panels([f"{num} few images" for num in nums], "test accuracy, %", 12, 4.2)
    ticks = ["all n" if math.isinf(v) else f"{v:g}" for v in values] + ["whole\npool"] * bool(pool)
    for ax, num in zip(axes, nums):
        if best in values:
            ax.axvspan(values.index(best) - 0.4, values.index(best) + 0.4, color="#efefef", zorder=0)
        for number, method in enumerate(answers.values_of(stopped, "method") or ["fskd"]):
            _sweep_of(ax, select(rows, method=method, num=num), method, value, values, 0.12 * number)
        ax.set_xticks(range(len(ticks)), ticks)
        ax.grid(axis="x", visible=False)
    axes[len(nums) // 2].set_xlabel(f"{label} (shaded: the paper's choice)")
    word, numbers = verdict.best(stopped, value, best)
    found = "; ".join(re.sub(r"significantly | (than|from) [\d.]+(?=:)", "", numbers).split("; ")[:-1])
    title = f"“{label.rpartition(', ')[2]} = {best:g} is best”: {word}" + (f" ({found})" if found else "")
    one = [row for row in stopped if value(row) == best]
    missing = [f"{num} few images" for num in asked if num not in nums]
    return finish(figure, title, profile, one, missing, "an end of the range is not significantly worse")


def _sweep_of(ax, rows: Sequence[Row], method: str, value: Callable, values: Sequence[float], shift: float) -> None:
    """One compressor at one training size: stopped early, with the fixed length if it was run, and the whole pool."""
    look = replace(marks.METHOD_LOOKS[method], line="-")
    dotted = replace(look, label=f"{look.label}, fixed length", line=":", alpha=0.5)
    for kind, stop, aside in ((look, "watch", 0), (dotted, "fixed", 0.2)):
        own = select(rows, variant="ours", **{"finetune.stop": stop})
        if own or kind is look:
            tops = [[row.top1 for row in own if value(row) == v] for v in values or [0]]
            marks.series(ax, kind, enumerate(map(marks.mean_of, tops)), shift + aside)
    if whole := [row.top1 for row in select(rows, variant="whole_pool")]:
        words = f"{look.label}, whole pool in the recovery (this package's own)"
        marks.series(ax, Look(words, look.colour, "P"), [(len(values), marks.mean_of(whole))], shift)


def settings(entries: Mapping[str, Sequence[Row]], reference: str, profile, kind: str = "setting"):
    """A line a setting: its top-1 on the left, the paired difference to the ``reference`` setting on the right.

    ``entries`` are label -> rows that differ in the seed alone. Blue: significantly above the reference, orange:
    below, grey: undecided or the reference itself. ``kind`` is what the title calls the settings.
    """
    figure, (accuracy, change) = panels(["", ""], "", 11, 0.34 * len(entries) + 1.7, width_ratios=[1, 1.2])
    for place, (label, rows) in enumerate(entries.items()):
        found = against(rows, entries[reference]) if label != reference else None
        look = JUDGED[tables.verdict(found["low"], found["high"]) if found else "undecided"]
        marks.mark(accuracy, place, marks.mean_of([row.top1 for row in rows]), look, across=True)
        if label != reference:
            marks.mark(change, place, marks.paired(found), look, across=True)
    left, right = accuracy.get_xlim()
    accuracy.set_xlim(max(left, -2), min(right, 104))  # a few seeds have intervals beyond what accuracies can be
    accuracy.set_xlabel("test accuracy, %" + (" (intervals cut at the edge)" if left < -2 or right > 104 else ""))
    change.axvline(0, color=GREY, linewidth=1)
    change.set_xlabel(f"points against {reference}")
    for look in JUDGED.values():
        marks.series(change, look, [])
    for ax in (accuracy, change):
        ax.grid(axis="y", visible=False)
    figure = finish(figure, settings_title(entries, reference, kind), profile, entries[reference])
    labels = [f"{label} (reference)" if label == reference else label for label in entries]
    accuracy.set_yticks(range(len(entries)), labels)
    accuracy.set_ylim(len(entries) - 0.5, -0.5)  # also where nothing was run
    return figure


def settings_title(entries: Mapping[str, Sequence[Row]], reference: str, kind: str = "setting") -> str:
    """Which settings are significantly above the reference, and which below."""
    words: dict[str, list[str]] = {word: [] for word in JUDGED}
    for label, rows in entries.items():
        if label != reference and (found := against(rows, entries[reference])):
            words[tables.verdict(found["low"], found["high"])].append(f"{label} ({verdict.signed(found['mean'])})")
    above, below, _ = ("; ".join(group) for group in words.values())
    if not any(words.values()):
        return f"Against {reference}: {NOT_RUN}"
    if above:
        return f"Significantly above {reference}: {above}" + (f". Below: {below}" if below else "")
    if below:
        return f"Significantly below {reference}: {below}"
    return f"No {kind} changes accuracy detectably against {reference}"


def against_base(entries: Mapping[str, Mapping[str, Sequence[Row]]], profile, words: str):
    """What each remedy adds to the base of the same setting: a group of marks a setting, with intervals over seeds.

    ``entries`` are setting -> {``base``: rows, remedy: rows, ...}, each setting with the same remedies; ``words`` name
    the settings on the axis. The title is about the last remedy.
    """
    remedies = [name for name in next(iter(entries.values())) if name != "base"]
    figure, (ax,) = panels([""], "points against the base", 10, 4.4)
    shown = []
    for remedy, colour, marker in zip(remedies, (PINK, BROWN, BLUE), "DPo"):
        found = {setting: against(rows[remedy], rows["base"]) for setting, rows in entries.items()}
        shown.append((Look(remedy, colour, marker), enumerate(map(marks.paired, found.values()))))
    marks.compare(ax, shown, entries, words, zero=True)
    title = marks.listed(f"Points against the base, {remedies[-1]}", found)
    every = [rows[remedies[0]] for rows in entries.values()]
    marked = [row for rows in every for row in rows]
    if len({row.ood_source for row in marked}) > 1:  # the axis names the sources
        marked = [row.model_copy(update={"ood_source": None}) for row in max(every, key=len)]
    return finish(figure, title, profile, marked)


def criteria(entries: Mapping[str, Sequence[Row]], profile):
    """Recall of head, tail and absent classes under each criterion of eq. 5: a colour a criterion.

    ``entries`` are label -> rows that differ in the seed alone.
    """
    figure, (ax,) = panels([""], "recall on test images, %", 9, 4.4)
    shown = []
    looks = itertools.cycle(zip((GREY, BLUE, ORANGE, GREEN, PINK), "osD^v"))
    for (label, rows), (colour, marker) in zip(entries.items(), looks):
        recalls = [[r for row in rows if (r := getattr(row, f"{group}_accuracy")) is not None] for group in GROUPS]
        shown.append((Look(label, colour, marker), enumerate(map(marks.mean_of, recalls))))
    marks.compare(ax, shown, [f"{group} classes" for group in GROUPS])
    return finish(figure, criteria_title(entries), profile, next((rows for rows in entries.values() if rows), []))


def criteria_title(entries: Mapping[str, Sequence[Row]]) -> str:
    """The recall of classes without images under each criterion of eq. 5."""
    parts = []
    for label, rows in entries.items():
        if found := [row.absent_accuracy for row in rows if row.absent_accuracy is not None]:
            parts.append(f"{label} {sum(found) / len(found):.0f} %")
    return f"Recall of absent classes: {', '.join(parts) or NOT_RUN}"
