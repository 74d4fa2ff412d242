"""One switch at a time: the sweeps of Fig. 3b-d, and any list of settings against a reference."""

import math
from collections.abc import Callable, Mapping, Sequence

from oefsmc_lib.evidence import answers, findings, paper, tables, verdict
from oefsmc_lib.evidence.answers import NOT_RUN, column, select
from oefsmc_lib.evidence.figures.marks import (
    BLUE,
    BROWN,
    GREEN,
    GREY,
    METHOD_LOOKS,
    ORANGE,
    PINK,
    Look,
    canvas,
    finish,
    mark,
    spread,
)
from oefsmc_lib.rows.row import Row

# switch -> (axis label, value of a row, the value that the paper calls best, its claim)
SWEEPS: dict[str, tuple[str, Callable[[Row], float], float, str]] = {
    "m": ("auxiliary images over few images, m / M", verdict.size_of_aux, 1.0, "m_equals_num"),
    "lam": ("share of the few images in distillation, λ", lambda row: column(row, "lam"), 0.5, "lam_half"),
    "eta": ("weight of the auxiliary images in fine-tuning, η", lambda row: column(row, "eta"), 2.5, "eta_best"),
}


def sweep(rows: Sequence[Row], profile, name: str):
    """Fig. 3b (``m``), 3c (``lam``) or 3d (``eta``): top-1 over the switch, a panel a training size.

    Where rows with the fixed length are among them (``finetune.stop=fixed``), they are a dotted line of their own; the
    title judges those that stopped early. The whole pool, this package's own variant, is a mark at the right.
    """
    label, value, best, claim = SWEEPS[name]
    pool = select(rows, variant="whole_pool")
    kinds = {
        "": verdict.stopped_early(select(rows, variant="ours")),
        ", fixed length": select(rows, variant="ours", **{"finetune.stop": "fixed"}),
    }
    every, rows = rows, kinds[""]
    nums = sorted({*getattr(profile, "lists", {}).get("few_nums", []), *(row.num for row in every)}) or [10]
    values = sorted({value(row) for row in rows})
    figure, axes = canvas(1, len(nums), width=12, height=4.2, sharey=True)
    for ax, num in zip(axes[0], nums):
        if best in values:
            ax.axvspan(values.index(best) - 0.4, values.index(best) + 0.4, color="#efefef", zorder=0)
        for number, method in enumerate(answers.values_of(rows, "method") or ["fskd"]):
            for kind, part in kinds.items():
                own = select(part, method=method, num=num)
                if own or not kind:
                    _line(ax, own, value, values, method, kind, 0.12 * number + (0.2 if kind else 0))
            if own := select(pool, method=method, num=num):
                colour, _ = METHOD_LOOKS[method]
                look = Look(
                    f"{paper.METHOD_NAMES[method]}, whole pool in the recovery (this package's own)", colour, "P", {}
                )
                mark(ax, len(values) + 0.12 * number, spread([row.top1 for row in own]), look, None)
                ax.plot([], [], look.marker, color=colour, label=look.label)
        ax.set_xticks(range(len(values) + bool(pool)), [*map(_tick, values), *["whole\npool"] * bool(pool)])
        ax.set_title(f"{num} few images", loc="left")
        ax.grid(axis="x", visible=False)
    axes[0, len(nums) // 2].set_xlabel(f"{label} (shaded: the paper's choice)")
    axes[0, 0].set_ylabel("test accuracy, %")
    word, numbers = verdict.best(rows, value, best)
    title = f"“{paper.CLAIMS[claim].sentence}” {word}" + (f" ({numbers})" if numbers else "")
    one = [row for row in rows if value(row) == best]
    return finish(figure, title, profile, one, "an end of the range is not significantly worse")


def _tick(value: float) -> str:
    return "all n" if math.isinf(value) else f"{value:g}"


def _line(ax, rows: Sequence[Row], value, values: Sequence[float], method: str, kind: str, shift: float) -> None:
    """Top-1 over the values of a switch for one compressor and one rule of stopping."""
    colour, marker = METHOD_LOOKS[method]
    look = Look(f"{paper.METHOD_NAMES[method]}{kind}", colour, marker, {}, ":" if kind else "-", 0.5 if kind else 1.0)
    means = []
    for place, x in enumerate(values or [0]):
        found = spread([row.top1 for row in rows if value(row) == x])
        mark(ax, place + shift, found, look, None)
        means.append(found["mean"] if found else float("nan"))
    ax.plot(
        [p + shift for p in range(len(means))],
        means,
        look.line,
        color=colour,
        linewidth=1.3,
        alpha=look.alpha,
        zorder=2,
    )
    ax.plot([], [], look.line, marker=marker, color=colour, alpha=look.alpha, label=look.label)


def settings(
    entries: Mapping[str, Sequence[Row]],
    reference: str,
    profile,
    finding: str | None = None,
    value: str = "top1",
    words: str = "test accuracy, %",
):
    """A line a setting: its accuracy on the left, the paired difference to the ``reference`` setting on the right.

    ``value`` is the column that is drawn, ``words`` its axis.

    ``entries`` are label -> rows that differ in the seed alone. Blue: significantly above the reference, orange:
    below, grey: undecided or the reference itself.
    """
    labels = list(entries)
    figure, axes = canvas(1, 2, width=11, height=0.34 * len(labels) + 1.7, sharey=True, width_ratios=[1, 1.2])
    accuracy, change = axes[0]
    for place, label in enumerate(labels):
        rows = list(entries[label])
        found = answers.against(rows, entries[reference], value) if label != reference else None
        word = tables.verdict(found["low"], found["high"]) if found else "undecided"
        colour = {"reproduced": BLUE, "not reproduced": ORANGE}.get(word, GREY)
        _across(accuracy, place, spread([shown for row in rows if (shown := getattr(row, value)) is not None]), colour)
        if label != reference:
            _across(change, place, found, colour)
    accuracy.set_yticks(
        range(len(labels)), [f"{label} (reference)" if label == reference else label for label in labels]
    )
    accuracy.set_ylim(len(labels) - 0.5, -0.5)  # also where nothing was run
    left, right = accuracy.get_xlim()
    accuracy.set_xlim(max(left, -2), min(right, 104))  # a few seeds have intervals beyond what accuracies can be
    accuracy.set_xlabel(words + (" (intervals cut at the edge)" if left < -2 or right > 104 else ""))
    change.axvline(0, color=GREY, linewidth=1)
    change.set_xlabel(f"points against: {reference}")
    for colour, label in ((BLUE, "above the reference"), (ORANGE, "below"), (GREY, "undecided")):
        change.plot([], [], "o", color=colour, label=label)
    for ax in axes[0]:
        ax.grid(axis="y", visible=False)
    every = [row for rows in entries.values() for row in rows]
    title = finding or findings.settings(entries, reference, value)
    return finish(figure, title, profile, every[: len(entries[reference])] if every else [])


def against_base(entries: Mapping[str, Mapping[str, Sequence[Row]]], profile, words: str):
    """What each remedy adds to the base of the same setting: a group of marks a setting, with intervals over seeds.

    ``entries`` are setting -> {``base``: rows, remedy: rows, ...}, each setting with the same remedies; ``words`` name
    the settings on the axis. The title is about the last remedy.
    """
    figure, axes = canvas(1, 1, width=10, height=4.4)
    ax, looks = axes[0, 0], ((PINK, "D"), (BROWN, "P"), (BLUE, "o"))
    remedies = [name for name in next(iter(entries.values())) if name != "base"]
    for number, (remedy, (colour, marker)) in enumerate(zip(remedies, looks)):
        look = Look(remedy, colour, marker, {})
        for place, rows in enumerate(entries.values()):
            mark(
                ax,
                place + 0.16 * (number - (len(remedies) - 1) / 2),
                answers.against(rows[remedy], rows["base"]),
                look,
                None,
            )
        ax.plot([], [], marker, color=colour, label=remedy)
    ax.axhline(0, color=GREY, linewidth=1)
    ax.set_xticks(range(len(entries)), list(entries))
    ax.set_xlim(-0.5, len(entries) - 0.5)
    ax.set_xlabel(words)
    ax.grid(axis="x", visible=False)
    ax.set_ylabel("points against the base")
    every = [rows[remedies[0]] for rows in entries.values()]
    one = max(every, key=len)
    if len({row.ood_source for rows in every for row in rows}) > 1:
        one = [row.model_copy(update={"ood_source": None}) for row in one]  # the axis names the sources
    return finish(figure, findings.against_base(entries), profile, one)


def criteria(entries: Mapping[str, Sequence[Row]], profile):
    """Recall of head, tail and absent classes under each criterion of eq. 5: a colour a criterion, with intervals over seeds.

    ``entries`` are label -> rows that differ in the seed alone.
    """
    figure, axes = canvas(1, 1, width=9, height=4.4)
    ax, palette = axes[0, 0], (GREY, BLUE, ORANGE, GREEN, PINK)
    for number, (label, rows) in enumerate(entries.items()):
        look = Look(label, palette[number % len(palette)], "osD^v"[number % 5], {})
        for place, group in enumerate(answers.GROUPS):
            values = [value for row in rows if (value := getattr(row, f"{group}_accuracy")) is not None]
            mark(ax, place + 0.16 * (number - (len(entries) - 1) / 2), spread(values), look, None)
        ax.plot([], [], look.marker, color=look.colour, label=label)
    ax.set_xticks(range(len(answers.GROUPS)), [f"{group} classes" for group in answers.GROUPS])
    ax.set_xlim(-0.5, len(answers.GROUPS) - 0.5)
    ax.grid(axis="x", visible=False)
    ax.set_ylabel("recall on test images, %")
    return finish(figure, findings.criteria(entries), profile, next((rows for rows in entries.values() if rows), []))


def _across(ax, y: float, found: dict | None, colour: str) -> None:
    """A mean with its interval and its seeds along a line; or the words "not run"."""
    if found is None:
        ax.annotate(NOT_RUN, (0.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=GREY)
        return
    half = found["half"] if found["half"] == found["half"] else 0
    ax.plot(
        found["differences"], [y] * len(found["differences"]), ".", color=colour, alpha=0.45, markersize=5, zorder=2
    )
    ax.errorbar(
        found["mean"], y, xerr=half or None, fmt="o", color=colour, capsize=3, elinewidth=1.3, markersize=5, zorder=3
    )
