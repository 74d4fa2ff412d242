"""One function a figure, drawn from rows alone.

Every title is a finding computed from the rows (:mod:`oefsmc_lib.claims`) and names the profile. A
mark is a mean over seeds with its 95 % t-interval, small dots are single seeds, hollow marks are the
paper's values, and a cell without rows is a gap that says "not run". Nothing here loads torch.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

from oefsmc_lib import claims, paper, results
from oefsmc_lib.claims import BASE, GROUPS, NOT_RUN, column, select
from oefsmc_lib.results import Row

BLUE, ORANGE, GREEN, PINK, GREY, PALE = "#0173b2", "#de8f05", "#029e73", "#cc78bc", "#6f6f6f", "#f0c98a"


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
    "extra_images": Look("long-tailed + images from elsewhere", GREEN, "^",
                         {"imbalance": "long_tail", "variant": "extra_images"}),
    "ours": Look("long-tailed, OE-FSMC", PINK, "D", {"imbalance": "long_tail", "variant": "ours"}),
    "balanced_native": Look("balanced, before", BLUE, "o", {"imbalance": "balanced", "variant": "native"}, ":", 0.55),
    "long_tail_native": Look("long-tailed, before", ORANGE, "s", {"imbalance": "long_tail", "variant": "native"}, ":", 0.55),
}
METHOD_LOOKS = {"fskd": (BLUE, "o"), "cd": (ORANGE, "s"), "mir": (GREEN, "^"), "practise": (PINK, "D")}
PAPER = "_paper"                                           # the label of hollow marks; legends leave out the underscore
GROUP_SHADES = {"head": "#ffffff", "tail": "#ececec", "absent": "#d6d6d6"}


def style() -> None:
    """Seaborn's theme with a colour-blind palette, and pictures that are the same file each time."""
    import matplotlib as mpl
    import seaborn as sns
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.9)
    mpl.rcParams.update({"figure.dpi": 100, "axes.titlesize": 11, "svg.hashsalt": "oefsmc", "axes.edgecolor": "#b0b0b0",
                         "grid.color": "#e4e4e4", "legend.frameon": False, "figure.constrained_layout.use": True})


# --- figures of the notebooks --------------------------------------------------------------------
def problem(rows: Sequence[Row], profile):
    """Top-1 over num, balanced against long-tailed: for each method alone and fine-tuned on the few."""
    nums, methods = _nums(rows, profile), claims.values_of(rows, "method") or ["fskd"]
    tall = len(methods) > 1
    shape = (2, len(methods)) if tall else (1, 2)
    figure, axes = _canvas(*shape, width=max(9, 3.2 * shape[1]), height=3.6 * shape[0] + 0.6, sharey=True)
    for index, method in enumerate(methods):
        panels = axes[:, index] if tall else axes[0]
        for ax, variant, words in zip(panels, ("native", BASE), (" alone", ", fine-tuned on the few")):
            own = select(rows, method=method, variant=variant)
            for number, name in enumerate(("balanced", "long_tail")):
                look = LOOKS[name]
                _series(ax, select(own, imbalance=look.where["imbalance"]), nums, look, 0.16 * (number - 0.5))
            _teacher(ax, own)
            ax.set_title(f"{paper.METHOD_NAMES[method]}{words}", loc="left")
            _num_axis(ax, nums)
    for ax in axes[:, 0]:
        ax.set_ylabel("test accuracy, %")
    return _finish(figure, claims.finding_problem(rows, nums), profile, _base(rows))


def losses(rows: Sequence[Row], profile, methods: Sequence[str] = ()):
    """Table 1's arrows: balanced - long-tailed in points over num, a colour a method, paired by seed."""
    nums, methods = _nums(rows, profile), list(methods) or claims.values_of(rows, "method") or ["fskd"]
    figure, axes = _canvas(1, 1, width=8.5, height=4.2)
    ax = axes[0, 0]
    for number, method in enumerate(methods):
        colour, marker = METHOD_LOOKS[method]
        look = Look(paper.METHOD_NAMES[method], colour, marker, {}, "")
        shift = 0.7 / len(methods) * (number - (len(methods) - 1) / 2)
        for place, num in enumerate(nums):
            found = claims.tail_cost(rows, num, method=method)
            own = select(rows, method=method, num=num, variant=BASE)
            printed = [claims.paper_value(own[0], kind) for kind in ("balanced", "long_tail")] if own else [None]
            _mark(ax, place + shift, found, look, None if None in printed else printed[0] - printed[1])
        ax.plot([], [], marker, color=colour, label=look.label)
    ax.axhline(0, color=GREY, linewidth=1)
    _num_axis(ax, nums)
    ax.set_ylabel("balanced − long-tailed, points")
    return _finish(figure, claims.finding_problem(rows, nums), profile, _base(rows))


def rescue(rows: Sequence[Row], profile):
    """The problem and the rescue: teacher, balanced, long-tailed, with images from elsewhere, OE-FSMC."""
    nums = _nums(rows, profile)
    figure, axes = _canvas(1, 1, width=9, height=4.6)
    ax = axes[0, 0]
    for number, name in enumerate(("balanced", "long_tail", "extra_images", "ours")):
        _series(ax, select(rows, **LOOKS[name].where), nums, LOOKS[name], 0.13 * (number - 1.5))
    _teacher(ax, rows)
    _num_axis(ax, nums)
    ax.set_ylabel("test accuracy, %")
    return _finish(figure, claims.finding_rescue(rows, nums[0]) if nums else NOT_RUN, profile, rows)


def by_class(rows: Sequence[Row], profile, num: int | None = None, method: str = "fskd"):
    """Recall by rank of the class, head to absent: what the tail does on the left, the remedies on the right."""
    nums = _nums(rows, profile)
    num = nums[0] if num is None and nums else num
    own = select(rows, num=num, method=method)
    figure, axes = _canvas(1, 2, width=11, height=4.4, sharey=True)
    for ax, names, words in zip(axes[0], (("balanced", "long_tail"), ("long_tail", "extra_images", "ours")),
                                ("balanced and long-tailed", "without and with images from elsewhere")):
        counts = _rank_axis(ax, own)
        for number, name in enumerate(names):
            shift = 0.22 * (number - (len(names) - 1) / 2)
            _by_rank(ax, select(own, **LOOKS[name].where), len(counts), LOOKS[name], shift)
        ax.set_title(words, loc="left", pad=18)
        ax.set_ylim(-4, 104)
    axes[0, 0].set_ylabel("recall on test images, %")
    return _finish(figure, claims.finding_classes(rows, num, method=method), profile, own)


def stages(rows: Sequence[Row], profile, method: str = "fskd"):
    """Recall of head, tail and absent classes over num, before (dotted) and after fine-tuning on the few."""
    nums, own = _nums(rows, profile), select(rows, method=method)
    figure, axes = _canvas(1, 3, width=11.5, height=4.2, sharey=True)
    for ax, group in zip(axes[0], GROUPS):
        for number, name in enumerate(("balanced_native", "balanced", "long_tail_native", "long_tail")):
            look = LOOKS[name]
            after = {"balanced": "balanced, after", "long_tail": "long-tailed, after"}.get(name, look.label)
            look = replace(look, label=after)
            shift = 0.16 * (number - 1.5)
            _series(ax, select(own, **look.where), nums, look, shift, _group_recall(own, group), hollow_paper=False)
        ax.set_title(f"{group} classes of the long tail", loc="left")
        _num_axis(ax, nums)
    axes[0, 0].set_ylabel("recall on test images, %")
    return _finish(figure, claims.finding_stages(rows, nums[0], method) if nums else NOT_RUN, profile, _base(own))


def gallery(sets: dict[str, tuple], class_names: Sequence[str], order: Sequence[int], profile, finding: str):
    """Images by class, most frequent first: ``{title: (images (N, C, H, W) uint8, labels (N,))}``, a panel each."""
    import numpy as np
    shown = list(order) if len(order) <= 12 else [*order[:7], None, *order[-4:]]
    widest = {title: max(2, max(sum(int(y) == j for y in labels) for j in shown)) for title, (_, labels) in sets.items()}
    limit = 20                                             # images in a row
    figure, axes = _canvas(1, len(sets), width=6 if len(sets) == 1 else 8.5, height=0.36 * len(shown) + 1.1,
                           width_ratios=[min(w, limit) + 2 for w in widest.values()])
    for ax, (title, (images, labels)) in zip(axes[0], sets.items()):
        for row, j in enumerate(shown):
            own = [np.asarray(image).transpose(1, 2, 0) for image, y in zip(images, labels) if int(y) == j]
            for place, image in enumerate(own[:limit]):
                flat = image[..., 0] if image.shape[-1] == 1 else image
                ax.imshow(flat, cmap="gray", extent=(place, place + 0.92, row + 0.92, row), interpolation="nearest")
            if j is not None:
                ax.text(min(len(own), limit) + 0.15, row + 0.46, str(len(own)) if own else "none", va="center",
                        color=GREY, fontsize=9)
        ax.set(xlim=(-0.1, min(widest[title], limit) + 1.6), ylim=(len(shown), -0.1), xticks=[],
               yticks=[r + 0.46 for r in range(len(shown))],
               yticklabels=["…" if j is None else str(class_names[j]) for j in shown])
        ax.set_title(title, loc="left")
        ax.grid(False)
        ax.set_aspect("equal")
        for side in ax.spines.values():
            side.set_visible(False)
    return _finish(figure, finding, profile, [])


def shares(predicted: dict[str, Sequence[float]], counts: Sequence[int], profile):
    """Share of predictions (percent) that falls on each class, by rank: one bar a network and class."""
    figure, axes = _canvas(1, 1, width=9, height=4)
    ax, wide = axes[0, 0], 0.8 / len(predicted)
    _shade(ax, counts)
    for number, ((label, values), colour) in enumerate(zip(predicted.items(), (BLUE, PALE, ORANGE, PINK))):
        ax.bar([r + 1 + wide * (number - (len(predicted) - 1) / 2) for r in range(len(values))], values, wide,
               label=label, color=colour)
    ax.axhline(100 / len(counts), color=GREY, linestyle="--", linewidth=1, label="balanced share")
    _rank_ticks(ax, counts)
    ax.set_ylabel("share of predictions, %")
    return _finish(figure, claims.finding_shares(predicted, counts), profile, [])


# --- what they share -------------------------------------------------------------------------------
def _canvas(rows: int, columns: int, width: float, height: float, **options):
    import matplotlib.pyplot as plt
    ratios = options.pop("width_ratios", None)
    return plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained",
                        width_ratios=ratios, **options)


def _base(rows: Sequence[Row]) -> list[Row]:
    """The rows that read no image from elsewhere."""
    return [row for row in rows if row.variant in ("native", BASE)]


def _nums(rows: Sequence[Row], profile) -> list[int]:
    """The training sizes of the x axis: the profile's list, and what the rows have."""
    return sorted({*getattr(profile, "lists", {}).get("nums", []), *(row.num for row in rows)})


def _finish(figure, finding: str, profile, rows: Sequence[Row]):
    """Title, legend and the line that says what the marks are."""
    name = getattr(profile, "name", profile)
    for ax in figure.axes if not any(ax.containers or ax.images for ax in figure.axes) else ():
        ax.set(ylim=(0, 1), yticks=[])                     # an empty axis has no scale
    wide = int(figure.get_size_inches()[0] * 10.4)
    cut = _cut_long_bars(figure)
    title = f"{finding} [profile {name}]".replace("[profile ", "[profile\u00a0").replace(" %", "\u00a0%")
    figure.suptitle(textwrap.fill(title, wide), x=0.01, ha="left", fontsize=12, fontweight="bold")
    labelled = {label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels())}
    if labelled:                                           # one block below: the explanation, then the marks
        legend = figure.legend(labelled.values(), labelled.keys(), loc="outside lower left", ncols=min(5, len(labelled)),
                               title=_explain(figure, rows, cut) if rows else None, alignment="left")
        legend.get_title().set(fontsize=8.5, color=GREY)
    return figure


def _cut_long_bars(figure) -> bool:
    """Limit the y axes to what the seeds span, half as much again at each side: two seeds have endless intervals."""
    marked = [ax for ax in figure.axes if any(hasattr(container, "has_yerr") for container in ax.containers)]
    if not marked:
        return False
    lines = [line for ax in marked for line in ax.lines if line.get_marker() != "_"]        # the bars' caps
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


def _explain(figure, rows: Sequence[Row], cut: bool) -> str:
    networks = ", ".join(sorted({f"{row.dataset} / {row.network}" for row in rows}))
    sources = ", ".join(sorted({row.ood_source for row in rows if row.ood_source}))
    cells: dict[str, int] = {}
    for row in rows:
        name = f"{row.method} {row.variant} {row.num} {column(row, 'imbalance')}"
        cells[name] = cells.get(name, 0) + 1
    seeds = "–".join(dict.fromkeys(str(count) for count in (min(cells.values()), max(cells.values()))))
    hollow = any(line.get_label() == PAPER for ax in figure.axes for line in ax.lines)
    text = (f"{networks}" + (f"; images from elsewhere: {sources}" if sources else "")
            + f". Marks: mean over {seeds} seed{'s' * (seeds != '1')}, bars: 95 % t-interval"
            + (" (cut at the edge)" if cut else "") + ", small dots: single seeds"
            + ("; hollow marks: the paper" if hollow else "")
            + (". Undecided: the interval of the paired difference holds 0." if "undecided" in figure.get_suptitle() else "."))
    return textwrap.fill(text, int(figure.get_size_inches()[0] * 15))


def _series(ax, rows: Sequence[Row], nums: Sequence[int], look: Look, shift: float, value=None, hollow_paper=True):
    """One condition over num: marks joined where they are neighbours; a missing cell is a gap that says so."""
    value = value or (lambda row: row.top1)
    means = []
    for place, num in enumerate(nums):
        own = [row for row in rows if row.num == num and value(row) is not None]
        found = _spread([value(row) for row in own])
        _mark(ax, place + shift, found, look, claims.paper_value(own[0]) if own and hollow_paper else None)
        means.append(found["mean"] if found else float("nan"))
    ax.plot([p + shift for p in range(len(nums))], means, look.line, color=look.colour, linewidth=1.4, zorder=2)
    ax.plot([], [], look.line, marker=look.marker, color=look.colour, alpha=look.alpha, label=look.label)


def _mark(ax, x: float, found: dict | None, look: Look, printed: float | None) -> None:
    """A mean with its interval and its seeds; the paper's value hollow beside it; or the words "not run"."""
    if found is None:
        ax.annotate(NOT_RUN, (x, 0.02), xycoords=("data", "axes fraction"), rotation=90, ha="center", va="bottom",
                    fontsize=8, color=look.colour)
        return
    half = found["half"] if found["half"] == found["half"] else 0
    ax.errorbar(x, found["mean"], half or None, fmt=look.marker, color=look.colour, capsize=3, elinewidth=1.3,
                markersize=6, alpha=look.alpha, zorder=3)
    ax.plot([x] * len(found["differences"]), found["differences"], ".", color=look.colour, alpha=0.45, markersize=5,
            zorder=2)
    if printed is not None:
        ax.plot(x + 0.05, printed, look.marker, markerfacecolor="none", markeredgecolor=look.colour, markersize=8,
                markeredgewidth=1.4, zorder=4, label=PAPER)


def _spread(values: Sequence[float]) -> dict | None:
    if not values:
        return None
    mean, _, half = results.t_interval(values)
    return {"mean": mean, "half": half, "differences": list(values)}


def _teacher(ax, rows: Sequence[Row]) -> None:
    for accuracy in sorted({row.teacher_accuracy for row in rows}):
        ax.axhline(accuracy, color=GREY, linestyle="--", linewidth=1.2, label="teacher")


def _num_axis(ax, nums: Sequence[int]) -> None:
    ax.set_xticks(range(len(nums)), [str(num) for num in nums])
    ax.set_xlim(-0.5, max(len(nums), 1) - 0.5)
    ax.set_xlabel("few images, all classes together")
    ax.grid(axis="x", visible=False)


def _long_tailed(rows: Sequence[Row]) -> dict[tuple, Row]:
    """(num, seed) -> a long-tailed row, whose counts say which classes are head, tail and absent."""
    return {(row.num, row.seed): row for row in select(rows, imbalance="long_tail")}


def _group_recall(rows: Sequence[Row], group: str):
    """A row's mean recall of the classes that are ``group`` in the long-tailed draw of its num and seed."""
    tails = _long_tailed(rows)

    def recall(row: Row) -> float | None:
        tail = tails.get((row.num, row.seed))
        kinds = claims.class_groups(tail.counts) if tail else []
        found = [r for r, kind in zip(row.per_class, kinds) if kind == group and r is not None]
        return sum(found) / len(found) if found else None
    return recall


def _rank_axis(ax, rows: Sequence[Row]) -> list[int]:
    """Shade and label the ranks by the long-tailed counts; returns them, the largest first."""
    tails = list(_long_tailed(rows).values())
    if not tails:
        ax.annotate(NOT_RUN, (0.5, 0.5), xycoords="axes fraction", ha="center", color=GREY)
        ax.set_xticks([])
        return []
    counts = claims.by_rank(tails[0], tails[0].counts)
    _shade(ax, counts)
    _rank_ticks(ax, counts)
    return counts


def _shade(ax, counts: Sequence[int]) -> None:
    kinds = claims.class_groups(counts)
    for group in GROUPS:
        ranks = [r for r, kind in enumerate(kinds, 1) if kind == group]
        if ranks:
            ax.axvspan(ranks[0] - 0.5, ranks[-1] + 0.5, color=GROUP_SHADES[group], zorder=0)
            ax.annotate(group, ((ranks[0] + ranks[-1]) / 2, 1.0), xycoords=("data", "axes fraction"), ha="center",
                        va="bottom", fontsize=8.5, color=GREY)


def _rank_ticks(ax, counts: Sequence[int]) -> None:
    bins = _bins(len(counts))
    labels = ["–".join(dict.fromkeys(str(counts[r - 1]) for r in (b[0], b[-1]))) for b in bins]
    ax.set_xticks([(b[0] + b[-1]) / 2 for b in bins], labels)
    ax.set_xlim(0.5, len(counts) + 0.5)
    ax.set_xlabel("few images of the class in the long tail, most frequent class first")
    ax.grid(axis="x", visible=False)


def _bins(classes: int) -> list[range]:
    """Ranks (from 1) as single ones, or in ten bins where there are many."""
    edges = range(classes + 1) if classes <= 20 else [round(classes * i / 10) for i in range(11)]
    return [range(a + 1, b + 1) for a, b in zip(edges, edges[1:])]


def _by_rank(ax, rows: Sequence[Row], classes: int, look: Look, shift: float) -> None:
    """Recall by rank with intervals over seeds; the ranks of a long tail with many classes in ten bins."""
    if not classes:
        return
    if not rows:
        ax.annotate(f"{look.label}: {NOT_RUN}", (0.5, 0.45 + shift / 2), xycoords="axes fraction", ha="center",
                    color=look.colour)
    means, places = [], []
    for ranks in _bins(classes) if rows else []:
        values = []
        for row in rows:
            recalls = claims.by_rank(row, row.per_class)
            inside = [recalls[r - 1] for r in ranks if recalls[r - 1] is not None]
            values += [sum(inside) / len(inside)] if inside else []
        places.append((ranks[0] + ranks[-1]) / 2 + shift * len(ranks))
        found = _spread(values)
        means.append(found["mean"] if found else float("nan"))
        if found:
            _mark(ax, places[-1], found, look, None)
    ax.plot(places, means, look.line, color=look.colour, linewidth=1.2, zorder=2)
    ax.plot([], [], look.line, marker=look.marker, color=look.colour, label=look.label)
