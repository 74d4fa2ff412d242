"""What figures share: looks, panels, marks with intervals, words of titles, and the caption below the panels."""

import math
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from oefsmc_lib.evidence import answers, paper, tables, verdict
from oefsmc_lib.evidence.answers import BASE, NOT_RUN, column, select
from oefsmc_lib.evidence.pairs import Paired
from oefsmc_lib.parameters.experiment import METHODS
from oefsmc_lib.rows.row import Row

BLUE, ORANGE, GREEN, PINK = "#0173b2", "#de8f05", "#029e73", "#cc78bc"
GREY, PALE, BROWN = "#6f6f6f", "#f0c98a", "#9b5310"
PAPER = "_paper"  # the label of hollow marks; legends leave out the underscore
ALL_CLASSES = "few images, all classes together"  # the axis of training sizes
POOL = "whole pool (this package's own)"


@dataclass(frozen=True)
class Look:
    """How a condition looks in every figure, and the rows that belong to it. Marks without ``line`` are not joined."""

    label: str
    colour: str
    marker: str
    where: dict = field(default_factory=dict)
    line: str = ""
    alpha: float = 1.0


@dataclass(frozen=True)
class Mark:
    """A mean, half of its interval (NaN for one seed), the value of each seed, and the paper's value."""

    mean: float
    half: float
    seeds: Sequence[float]
    printed: float | None = None


Marks = Iterable[tuple[float, Mark | None]]  # with their places along the axis; None where nothing was run
LOOKS = {
    "balanced": Look("balanced", BLUE, "o", {"imbalance": "balanced", "variant": BASE}, "-"),
    "long_tail": Look("long-tailed", ORANGE, "s", {"imbalance": "long_tail", "variant": BASE}, "-"),
    "ours": Look("long-tailed, OE-FSMC", PINK, "D", {"imbalance": "long_tail", "variant": "ours"}, "-"),
    "whole_pool": Look(f"long-tailed, {POOL}", BROWN, "P", {"imbalance": "long_tail", "variant": "whole_pool"}, "-"),
}
# Compressors have colours of their own: one that means a variant in a figure means no compressor in the next.
METHOD_LOOKS = {
    method: Look(paper.METHOD_NAMES[method], colour, marker, {"method": method})
    for method, colour, marker in zip(METHODS, ("#1b1b1b", "#6a3d9a", "#c51b1b", "#7f7f00"), "os^D")
}
VARIANT_LOOKS = {
    "native": Look("compressor alone", GREY, "v", {"variant": "native"}, ":", 0.7),
    BASE: Look("fine-tuned on the few images (base)", ORANGE, "s", {"variant": BASE}, "-"),
    "extra_images": Look("+ OOD images, labels ignored", GREEN, "^", {"variant": "extra_images"}, "-"),
    "wo_comp": Look("w/o Comp. (eq. 9 alone)", "#56b4e9", "v", {"variant": "wo_comp"}, "-"),
    "wo_ft": Look("w/o FT (eq. 5 and 7 alone)", BLUE, "o", {"variant": "wo_ft"}, "-"),
    "ours": Look("OE-FSMC", PINK, "D", {"variant": "ours"}, "-"),
    answers.REDRAWN: Look("OE-FSMC, labels redrawn", "#fbafe4", "X", {"variant": answers.REDRAWN}, "-"),
    "whole_pool": Look(POOL, BROWN, "P", {"variant": "whole_pool"}, "-"),
}


def style() -> None:
    """Seaborn's theme with a colour-blind palette, and pictures that are the same file each time."""
    import seaborn as sns

    sizes = {"figure.dpi": 100, "axes.titlesize": 11, "figure.constrained_layout.use": True, "legend.frameon": False}
    rest = {"svg.hashsalt": "oefsmc", "axes.edgecolor": "#b0b0b0", "grid.color": "#e4e4e4"}
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.9, rc=sizes | rest)


# --- what is drawn -------------------------------------------------------------------------------
def nums_of(rows: Sequence[Row], profile, name: str = "nums") -> list[int]:
    """The training sizes of the rows and of the profile's list ``name`` (``nums``: also those with fewer seeds)."""
    lists = getattr(profile, "lists", {})
    more = lists.get("more_nums", []) if name == "nums" else []
    return sorted({*lists.get(name, []), *more, *(row.num for row in rows)})


def sizes_of(rows: Sequence[Row], profile, name: str = "nums") -> dict[str, list[int]]:
    """The training sizes of each compressor that has rows, or of FSKD where none has.

    MiR and PRACTISE, which train, have lists of their own in a profile.
    """
    there = [method for method in paper.METHOD_NAMES if select(rows, method=method)] or ["fskd"]
    names = {method: f"trained_{name}" if method in ("mir", "practise") else name for method in there}
    return {method: nums_of(select(rows, method=method), profile, names[method]) for method in there}


def mean_of(values: Sequence[float], printed: float | None = None) -> Mark | None:
    """The mean of the seeds' values with its 95 % t-interval; None without a value."""
    mean, _, half = tables.t_interval(values)
    return Mark(mean, half, values, printed) if values else None


def paired(found: Paired | None, printed: float | None = None) -> Mark | None:
    """A paired difference, as :func:`answers.against` gives it, as a mark."""
    return Mark(found["mean"], found["half"], found["differences"], printed) if found else None


def differences(rows: Sequence[Row], nums: Sequence[int], a: dict, b: dict, printed: bool = True) -> list[Mark | None]:
    """The top-1 of the rows with ``a`` minus that of the rows with ``b`` at each training size, and the paper's."""
    found = []
    for num in nums:
        one, other = select(rows, num=num, **a), select(rows, num=num, **b)
        gap = answers.paper_difference(one[0], other[0]) if one and other and printed else None
        found.append(paired(answers.against(one, other), gap))
    return found


# --- drawing -------------------------------------------------------------------------------------
def panels(titles: Iterable[str], ylabel: str, width: float, height: float, **options: Any):
    """Panels with these titles side by side, or in so many ``rows``. Returns the figure and its axes.

    They share the y axis unless ``options`` of ``plt.subplots`` say otherwise.
    """
    import matplotlib.pyplot as plt

    titles, rows = list(titles), options.pop("rows", 1)
    shape: dict[str, Any] = {"sharey": True, "layout": "constrained", "figsize": (width, height)} | options
    figure, axes = plt.subplots(rows, len(titles) // rows, squeeze=False, **shape)
    for ax, title in zip(axes.flat, titles):
        ax.set_title(title, loc="left")
    for ax in axes[:, 0]:
        ax.set_ylabel(ylabel)
    return figure, list(axes.flat)


def lines(ax, rows: Sequence[Row], looks: Iterable[Look], nums: Sequence[int], value: Callable | None = None) -> None:
    """Top-1 over the training sizes, a line a look, beside the paper's and the teacher's; or ``value`` of a row."""
    entries = []
    for look in looks:
        found = []
        for own in (select(rows, num=num, **look.where) for num in nums):
            values = [shown for row in own if (shown := value(row) if value else row.top1) is not None]
            found.append(mean_of(values, answers.paper_value(own[0]) if own and not value else None))
        entries.append((look, enumerate(found)))
    compare(ax, entries, nums, ALL_CLASSES)
    for accuracy in sorted({row.teacher_accuracy for row in rows if not value}):
        ax.axhline(accuracy, color=GREY, linestyle="--", linewidth=1.2, label="teacher")


def compare(ax, entries: Iterable[tuple[Look, Marks]], labels: Iterable, words: str = "", zero: bool = False) -> None:
    """Several conditions side by side at the places 0, 1, ... with their ``labels``; ``zero``: with a line at 0."""
    entries, shown = list(entries), [str(label) for label in labels]
    apart = min(0.12, 0.5 / max(len(entries), 1))  # the marks of one place stay nearer to it than to the next
    for number, (look, marks) in enumerate(entries):
        series(ax, look, marks, apart * (number - (len(entries) - 1) / 2))
    if zero:
        ax.axhline(0, color=GREY, linewidth=1)
    ax.set_xticks(range(len(shown)), shown)
    ax.set(xlim=(-0.5, max(len(shown), 1) - 0.5), xlabel=words)
    ax.grid(axis="x", visible=False)


def series(ax, look: Look, marks: Marks, shift: float = 0) -> None:
    """One condition: its marks, joined where they are neighbours, and its entry in the legend."""
    marks = [(place + shift, found) for place, found in marks]
    for place, found in marks:
        mark(ax, place, found, look)
    line = {"linestyle": look.line or "none", "color": look.colour, "alpha": look.alpha, "linewidth": 1.3}
    if look.line:
        ax.plot([place for place, _ in marks], [one.mean if one else math.nan for _, one in marks], zorder=2, **line)
    ax.plot([], [], marker=look.marker, label=look.label, **line)


def mark(ax, place: float, found: Mark | None, look: Look, across: bool = False) -> None:
    """A mean with its interval and seeds, the paper's value hollow beside it; or "not run". ``across``: along x."""

    def turned(place, value) -> tuple:
        return (value, place) if across else (place, value)

    if found is None:
        words = {"rotation": 0, "va": "center"} if across else {"rotation": 90, "ha": "center", "va": "bottom"}
        at = {"xy": turned(place, 0.02), "xycoords": turned("data", "axes fraction")}
        ax.annotate(NOT_RUN, **at, fontsize=8, color=look.colour, **words)
        return
    half = None if math.isnan(found.half) else found.half or None
    bar: dict[str, Any] = {"capsize": 3, "elinewidth": 1.3, "markersize": 6, "alpha": look.alpha, "zorder": 3}
    bar["xerr" if across else "yerr"] = half
    ax.errorbar(*turned(place, found.mean), fmt=look.marker, color=look.colour, **bar)
    dots = turned([place] * len(found.seeds), found.seeds)
    ax.plot(*dots, ".", color=look.colour, alpha=0.45, markersize=5, zorder=2)
    if found.printed is not None:
        hollow = {"markerfacecolor": "none", "markeredgecolor": look.colour, "markersize": 8, "markeredgewidth": 1.4}
        ax.plot(place + 0.05, found.printed, look.marker, zorder=4, label=PAPER, **hollow)


# --- words ---------------------------------------------------------------------------------------
def literal(name: Any) -> str:
    """A name from data as matplotlib draws it: between two dollars it would read mathematics."""
    return str(name).replace("$", r"\$")


def signed(found: Paired) -> str:
    """``+1.2``, and "(undecided)" where the interval holds 0."""
    return verdict.signed(found["mean"]) + answers.undecided(found)


def certain(found: Paired) -> str:
    """``+1.2 ± 0.3``, and "(undecided)" where the interval holds 0."""
    return verdict.interval(found["mean"], found["half"]) + answers.undecided(found)


def listed(lead: str, found: Mapping[str, Any], between: str = ", ") -> str:
    """``lead: name +1.2, name −0.3 (undecided)`` of the differences that there are; "not run" where there is none."""
    return f"{lead}: {between.join(f'{name} {signed(one)}' for name, one in found.items() if one) or NOT_RUN}"


def finish(figure, finding: str, profile, rows: Sequence[Row], missing: Sequence[str] = (), undecided: str = ""):
    """Title, limits, legend, and the caption. Returns the figure.

    The caption tells what the ``rows`` are, which compressors are ``missing``, and what *undecided* in the title means.
    """
    if not any(ax.containers or ax.images or ax.collections for ax in figure.axes):
        for ax in figure.axes:
            ax.set(ylim=(0, 1), yticks=[])  # an empty axis has no scale
    notes = _limit(figure)
    title = f"{finding} [profile\u00a0{getattr(profile, 'name', profile)}]"
    title = title.replace(" %", "\u00a0%").replace(" ± ", "\u00a0±\u00a0")  # no line ends within a number
    wide = int(figure.get_size_inches()[0] * 10.4)
    figure.suptitle(textwrap.fill(title, wide), x=0.01, ha="left", fontsize=12, fontweight="bold")
    caption = _caption(figure, rows, missing, notes) if rows else ""
    if rows and "undecided" in finding:
        caption += f" Undecided: {undecided or 'the interval of the paired difference holds 0'}."
    explain(figure, caption)
    return figure


def explain(figure, text: str) -> None:
    """The block below the panels: what the marks are, and the legend of all panels together."""
    labelled = {label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels())}
    if labelled:
        shown = textwrap.fill(text, int(figure.get_size_inches()[0] * 15)) or None
        below = {"loc": "outside lower left", "ncols": min(5, len(labelled)), "title": shown, "alignment": "left"}
        legend = figure.legend(labelled.values(), labelled.keys(), **below)
        legend.get_title().set(fontsize=8.5, color=GREY)


def _caption(figure, rows: Sequence[Row], missing: Sequence[str], notes: str) -> str:
    """Data, network and OOD images; lengths that are not the published ones; what the marks are."""
    parts = [", ".join(sorted({f"{row.dataset} / {row.network}" for row in rows}))]
    if sources := sorted({row.ood_source for row in rows if row.ood_source}):
        parts.append(f"OOD images: {', '.join(sources)}")
    steps = {(row.method, column(row, f"{row.method}.iterations")) for row in rows if row.method in ("mir", "practise")}
    short = sorted((method, n) for method, n in steps if n not in (None, 2000))
    parts += [f"{paper.METHOD_NAMES[method]}: {n} steps instead of 2000" for method, n in short]
    epochs = {column(row, "finetune.epochs") for row in rows} - {None, 40}
    parts += [f"fine-tuning: at most {n} epochs instead of 40" for n in sorted(epochs)]
    parts += [f"not run: {', '.join(missing)}"] if missing else []
    switches = ("method", "variant", "num", "imbalance", "ratio", "finetune.stop")
    cells = Counter(tuple(column(row, name) for name in switches) for row in rows).values()
    seeds = "–".join(map(str, dict.fromkeys((min(cells), max(cells)))))
    bars = f"bars: 95 % t-interval{' (cut at the edge)' * ('cut' in notes)}, small dots: single seeds"
    marks = [f"Marks: mean over {seeds} seed{'s' * (seeds != '1')}, {bars}"]
    marks += ["hollow marks: the paper"] * any(line.get_label() == PAPER for ax in figure.axes for line in ax.lines)
    marks += ["each compressor has its own scale"] * ("apart" in notes)
    return f"{'; '.join(parts)}. {'; '.join(marks)}."


def _limit(figure) -> str:
    """Limit the y axes to what the seeds span, half as much again at each side: two seeds have endless intervals.

    Panels that do not share their axis get one scale, unless it would squeeze one of them into a third of the height.
    The answer holds ``cut`` where a bar is cut, and ``apart`` where panels have scales of their own.
    """
    marked = [ax for ax in figure.axes if any(hasattr(container, "has_yerr") for container in ax.containers)]
    shared = {ax: set(ax.get_shared_y_axes().get_siblings(ax)) for ax in marked}
    limits = {ax: _span([other for other in marked if other in shared[ax]]) for ax in marked}
    low, high = _span(marked) if marked else (0, 0)
    apart = any(top - bottom < (high - low) / 3 for bottom, top in limits.values())
    cut = False
    for ax in marked:
        low, high = limits[ax] if apart else (low, high)
        ax.set_ylim(low, high)
        if not apart and not ax.get_subplotspec().is_first_col():
            ax.tick_params(labelleft=False)
        bars = [bar for container in ax.containers if container.has_yerr for bar in container.lines[2]]
        cut |= any(not low <= y <= high for bar in bars for segment in bar.get_segments() for _, y in segment)
    return "apart" * apart + "cut" * cut


def _span(axes: Sequence) -> tuple[float, float]:
    """The limits of axes that have one scale."""
    drawn = [line for ax in axes for line in ax.lines if line.get_marker() != "_"]  # not the bars' caps
    points = [y for line in drawn for y in map(float, line.get_ydata()) if not math.isnan(y)]
    half = max(max(points) - min(points), 4) / 2
    low, high = min(ax.get_ylim()[0] for ax in axes), max(ax.get_ylim()[1] for ax in axes)
    ceiling = 104 if axes[0].figure.axes[0].get_ylabel().endswith("%") else high
    return max(low, min(points) - half), min(high, max(points) + half, ceiling)
