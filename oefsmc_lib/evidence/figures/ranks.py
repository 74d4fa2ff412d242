"""The axis of classes by rank, the most frequent first, with its groups shaded."""

from collections.abc import Sequence

from oefsmc_lib.evidence import answers
from oefsmc_lib.evidence.answers import GROUPS, NOT_RUN, select
from oefsmc_lib.evidence.figures.marks import GREY, GROUP_SHADES, Look, mark, spread
from oefsmc_lib.rows.row import Row


def long_tailed(rows: Sequence[Row]) -> dict[tuple, Row]:
    """(num, seed) -> a long-tailed row, whose counts say which classes are head, tail and absent."""
    return {(row.num, row.seed): row for row in select(rows, imbalance="long_tail")}


def group_recall(rows: Sequence[Row], group: str):
    """A row's mean recall of the classes that are ``group`` in the long-tailed draw of its num and seed."""
    tails = long_tailed(rows)

    def recall(row: Row) -> float | None:
        tail = tails.get((row.num, row.seed))
        kinds = answers.class_groups(tail.counts) if tail else []
        found = [r for r, kind in zip(row.per_class, kinds) if kind == group and r is not None]
        return sum(found) / len(found) if found else None

    return recall


def rank_axis(ax, rows: Sequence[Row]) -> list[int]:
    """Shade and label the ranks by the long-tailed counts; returns them, the largest first."""
    tails = list(long_tailed(rows).values())
    if not tails:
        ax.annotate(NOT_RUN, (0.5, 0.5), xycoords="axes fraction", ha="center", color=GREY)
        ax.set_xticks([])
        return []
    counts = answers.by_rank(tails[0], tails[0].counts)
    shade(ax, counts)
    rank_ticks(ax, counts)
    return counts


def shade(ax, counts: Sequence[int]) -> None:
    kinds = answers.class_groups(counts)
    for group in GROUPS:
        ranks = [r for r, kind in enumerate(kinds, 1) if kind == group]
        if ranks:
            ax.axvspan(ranks[0] - 0.5, ranks[-1] + 0.5, color=GROUP_SHADES[group], zorder=0)
            ax.annotate(
                group,
                ((ranks[0] + ranks[-1]) / 2, 1.0),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="bottom",
                fontsize=8.5,
                color=GREY,
            )


def rank_ticks(ax, counts: Sequence[int]) -> None:
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


def by_rank(ax, rows: Sequence[Row], classes: int, look: Look, shift: float) -> None:
    """Recall by rank with intervals over seeds; the ranks of a long tail with many classes in ten bins."""
    if not classes:
        return
    if not rows:
        ax.annotate(
            f"{look.label}: {NOT_RUN}",
            (0.5, 0.45 + shift / 2),
            xycoords="axes fraction",
            ha="center",
            color=look.colour,
        )
    means, places = [], []
    for ranks in _bins(classes) if rows else []:
        values = []
        for row in rows:
            recalls = answers.by_rank(row, row.per_class)
            inside = [recalls[r - 1] for r in ranks if recalls[r - 1] is not None]
            values += [sum(inside) / len(inside)] if inside else []
        places.append((ranks[0] + ranks[-1]) / 2 + shift * len(ranks))
        found = spread(values)
        means.append(found["mean"] if found else float("nan"))
        if found:
            mark(ax, places[-1], found, look, None)
    ax.plot(places, means, look.line, color=look.colour, linewidth=1.2, zorder=2)
    ax.plot([], [], look.line, marker=look.marker, color=look.colour, label=look.label)
