"""What figures share: looks, canvases, marks with intervals, the line that explains them."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from oefsmc_lib.evidence import answers, paper, tables
from oefsmc_lib.evidence.answers import BASE, NOT_RUN, column
from oefsmc_lib.rows.row import Row

BLUE, ORANGE, GREEN, PINK, GREY, PALE, BROWN = (
    "#0173b2",
    "#de8f05",
    "#029e73",
    "#cc78bc",
    "#6f6f6f",
    "#f0c98a",
    "#9b5310",
)


@dataclass(frozen=True)
class Look:
    """How a condition looks in every figure, and the rows that belong to it."""

    label: str
    colour: str
    marker: str
    where: dict
    line: str = "-"
    alpha: float = 1.0


LOOKS = {
    "balanced": Look("balanced", BLUE, "o", {"imbalance": "balanced", "variant": BASE}),
    "long_tail": Look("long-tailed", ORANGE, "s", {"imbalance": "long_tail", "variant": BASE}),
    "extra_images": Look(
        "long-tailed, OOD images with labels ignored", GREEN, "^", {"imbalance": "long_tail", "variant": "extra_images"}
    ),
    "ours": Look("long-tailed, OE-FSMC", PINK, "D", {"imbalance": "long_tail", "variant": "ours"}),
    "whole_pool": Look(
        "long-tailed, whole pool (this package's own)", BROWN, "P", {"imbalance": "long_tail", "variant": "whole_pool"}
    ),
    "balanced_native": Look("balanced, before", BLUE, "o", {"imbalance": "balanced", "variant": "native"}, ":", 0.55),
    "long_tail_native": Look(
        "long-tailed, before", ORANGE, "s", {"imbalance": "long_tail", "variant": "native"}, ":", 0.55
    ),
}
METHOD_LOOKS = {"fskd": (BLUE, "o"), "cd": (ORANGE, "s"), "mir": (GREEN, "^"), "practise": (PINK, "D")}
PAPER = "_paper"  # the label of hollow marks; legends leave out the underscore
VARIANT_LOOKS = {
    "native": Look("method alone", GREY, "v", {}, ":", 0.7),
    BASE: Look("fine-tuned on the few images (base)", ORANGE, "s", {}),
    "extra_images": Look("+ OOD images, labels ignored", GREEN, "^", {}),
    "wo_comp": Look("w/o Comp. (eq. 9 alone)", "#56b4e9", "v", {}),
    "wo_ft": Look("w/o FT (eq. 5 and 7 alone)", BLUE, "o", {}),
    "ours": Look("OE-FSMC", PINK, "D", {}),
    answers.REDRAWN: Look("OE-FSMC, labels redrawn", "#fbafe4", "X", {}),
    "whole_pool": Look("whole pool (this package's own)", BROWN, "P", {}),
}
GROUP_SHADES = {"head": "#ffffff", "tail": "#ececec", "absent": "#d6d6d6"}


def style() -> None:
    """Seaborn's theme with a colour-blind palette, and pictures that are the same file each time."""
    import matplotlib as mpl
    import seaborn as sns

    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.9)
    mpl.rcParams.update(
        {
            "figure.dpi": 100,
            "axes.titlesize": 11,
            "svg.hashsalt": "oefsmc",
            "axes.edgecolor": "#b0b0b0",
            "grid.color": "#e4e4e4",
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
        }
    )


def canvas(rows: int, columns: int, width: float, height: float, **options):
    import matplotlib.pyplot as plt

    ratios = options.pop("width_ratios", None), options.pop("height_ratios", None)
    return plt.subplots(
        rows,
        columns,
        figsize=(width, height),
        squeeze=False,
        layout="constrained",
        width_ratios=ratios[0],
        height_ratios=ratios[1],
        **options,
    )


def base_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows that read no OOD image."""
    return [row for row in rows if row.variant in ("native", BASE)]


def nums_of(rows: Sequence[Row], profile, name: str = "nums") -> list[int]:
    """The training sizes of the x axis: the profile's list ``name`` (``nums``: also those with fewer seeds), and what the rows have."""
    lists = getattr(profile, "lists", {})
    return sorted(
        {*lists.get(name, []), *(lists.get("more_nums", []) if name == "nums" else []), *(row.num for row in rows)}
    )


def trained(method: str, name: str) -> str:
    """The profile's list of sizes for a method: MiR and PRACTISE, which train, have their own."""
    return f"trained_{name}" if method in ("mir", "practise") else name


def finish(
    figure, finding: str, profile, rows: Sequence[Row], undecided: str = "the interval of the paired difference holds 0"
):
    """Title, legend and the line that says what the marks are, and what a verdict in the title means by *undecided*."""
    name = getattr(profile, "name", profile)
    for ax in figure.axes if not any(ax.containers or ax.images or ax.collections for ax in figure.axes) else ():
        ax.set(ylim=(0, 1), yticks=[])  # an empty axis has no scale
    wide = int(figure.get_size_inches()[0] * 10.4)
    cut = _cut_long_bars(figure)
    title = f"{finding} [profile {name}]".replace("[profile ", "[profile\u00a0").replace(" %", "\u00a0%")
    figure.suptitle(textwrap.fill(title, wide), x=0.01, ha="left", fontsize=12, fontweight="bold")
    labelled = {label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels())}
    if labelled:  # one block below: the explanation, then the marks
        legend = figure.legend(
            labelled.values(),
            labelled.keys(),
            loc="outside lower left",
            ncols=min(5, len(labelled)),
            title=_explain(figure, rows, cut, undecided) if rows else None,
            alignment="left",
        )
        legend.get_title().set(fontsize=8.5, color=GREY)
    return figure


def _cut_long_bars(figure) -> bool:
    """Limit the y axes to what the seeds span, half as much again at each side: two seeds have endless intervals."""
    marked = [ax for ax in figure.axes if any(hasattr(container, "has_yerr") for container in ax.containers)]
    if not marked:
        return False
    lines = [line for ax in marked for line in ax.lines if line.get_marker() != "_"]  # the bars' caps
    points = [y for line in lines for y in map(float, line.get_ydata()) if y == y]
    span = max(max(points) - min(points), 4)
    low, high = min(ax.get_ylim()[0] for ax in marked), max(ax.get_ylim()[1] for ax in marked)
    ceiling = 104 if marked[0].get_ylabel().endswith("%") else high
    low, high = max(low, min(points) - span / 2), min(high, max(points) + span / 2, ceiling)
    for ax in marked:
        ax.set_ylim(low, high)
    bars = [bar for ax in marked for container in ax.containers if container.has_yerr for bar in container.lines[2]]
    ends = [y for bar in bars for segment in bar.get_segments() for _, y in segment]
    return bool(ends) and (min(ends) < low or max(ends) > high)


def _explain(figure, rows: Sequence[Row], cut: bool, undecided: str) -> str:
    networks = ", ".join(sorted({f"{row.dataset} / {row.network}" for row in rows}))
    sources = ", ".join(sorted({row.ood_source for row in rows if row.ood_source}))
    steps = sorted(
        {
            (paper.METHOD_NAMES[row.method], n)
            for row in rows
            if (n := column(row, f"{row.method}.iterations")) not in (None, 2000) and row.method != "cd"
        }
    )
    epochs = sorted({n for row in rows if (n := column(row, "finetune.epochs")) not in (None, 40)})
    cells: dict[str, int] = {}
    for row in rows:
        name = (
            f"{row.method} {column(row, 'variant')} {row.num} {column(row, 'imbalance')} {column(row, 'finetune.stop')}"
        )
        cells[name] = cells.get(name, 0) + 1
    seeds = "–".join(dict.fromkeys(str(count) for count in (min(cells.values()), max(cells.values()))))
    hollow = any(line.get_label() == PAPER for ax in figure.axes for line in ax.lines)
    text = (
        f"{networks}"
        + (f"; OOD images: {sources}" if sources else "")
        + "".join(f"; {name}: {n} steps instead of 2000" for name, n in steps)
        + "".join(f"; fine-tuning: at most {n} epochs instead of 40" for n in epochs)
        + f". Marks: mean over {seeds} seed{'s' * (seeds != '1')}, bars: 95 % t-interval"
        + (" (cut at the edge)" if cut else "")
        + ", small dots: single seeds"
        + ("; hollow marks: the paper" if hollow else "")
        + (f". Undecided: {undecided}." if "undecided" in figure.get_suptitle() else ".")
    )
    return textwrap.fill(text, int(figure.get_size_inches()[0] * 15))


def series(ax, rows: Sequence[Row], nums: Sequence[int], look: Look, shift: float, value=None, hollow_paper=True):
    """One condition over num: marks joined where they are neighbours; a missing cell is a gap that says so."""
    value = value or (lambda row: row.top1)
    means = []
    for place, num in enumerate(nums):
        own = [row for row in rows if row.num == num and value(row) is not None]
        found = spread([value(row) for row in own])
        mark(ax, place + shift, found, look, answers.paper_value(own[0]) if own and hollow_paper else None)
        means.append(found["mean"] if found else float("nan"))
    ax.plot([p + shift for p in range(len(nums))], means, look.line, color=look.colour, linewidth=1.4, zorder=2)
    ax.plot([], [], look.line, marker=look.marker, color=look.colour, alpha=look.alpha, label=look.label)


def mark(ax, x: float, found: dict | None, look: Look, printed: float | None) -> None:
    """A mean with its interval and its seeds; the paper's value hollow beside it; or the words "not run"."""
    if found is None:
        ax.annotate(
            NOT_RUN,
            (x, 0.02),
            xycoords=("data", "axes fraction"),
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=8,
            color=look.colour,
        )
        return
    half = found["half"] if found["half"] == found["half"] else 0
    ax.errorbar(
        x,
        found["mean"],
        half or None,
        fmt=look.marker,
        color=look.colour,
        capsize=3,
        elinewidth=1.3,
        markersize=6,
        alpha=look.alpha,
        zorder=3,
    )
    ax.plot(
        [x] * len(found["differences"]),
        found["differences"],
        ".",
        color=look.colour,
        alpha=0.45,
        markersize=5,
        zorder=2,
    )
    if printed is not None:
        ax.plot(
            x + 0.05,
            printed,
            look.marker,
            markerfacecolor="none",
            markeredgecolor=look.colour,
            markersize=8,
            markeredgewidth=1.4,
            zorder=4,
            label=PAPER,
        )


def spread(values: Sequence[float]) -> dict | None:
    if not values:
        return None
    mean, _, half = tables.t_interval(values)
    return {"mean": mean, "half": half, "differences": list(values)}


def teacher_line(ax, rows: Sequence[Row]) -> None:
    for accuracy in sorted({row.teacher_accuracy for row in rows}):
        ax.axhline(accuracy, color=GREY, linestyle="--", linewidth=1.2, label="teacher")


def num_axis(ax, nums: Sequence[int]) -> None:
    ax.set_xticks(range(len(nums)), [str(num) for num in nums])
    ax.set_xlim(-0.5, max(len(nums), 1) - 0.5)
    ax.set_xlabel("few images, all classes together")
    ax.grid(axis="x", visible=False)
