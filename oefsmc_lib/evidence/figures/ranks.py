"""The axis of classes by rank, the most frequent first, with its groups shaded."""

import itertools
from collections.abc import Callable, Sequence

from oefsmc_lib.evidence import answers
from oefsmc_lib.evidence.answers import NOT_RUN, select
from oefsmc_lib.evidence.figures.marks import GREY, Look, mean_of, series
from oefsmc_lib.rows.row import Row

SHADES = {"head": "#ffffff", "tail": "#ececec", "absent": "#d6d6d6"}


def group_recall(rows: Sequence[Row], group: str) -> Callable[[Row], float | None]:
    """A row's mean recall of the classes that are ``group`` in the long-tailed draw of its num and seed."""
    kinds = {(row.num, row.seed): answers.class_groups(row.counts) for row in select(rows, imbalance="long_tail")}

    def recall(row: Row) -> float | None:
        own = kinds.get((row.num, row.seed), [])
        found = [r for r, kind in zip(row.per_class, own) if kind == group and r is not None]
        return sum(found) / len(found) if found else None

    return recall


def rank_axis(ax, counts: Sequence[int]) -> None:
    """Name the ranks by the counts of a long-tailed draw, the largest first, and shade the class groups."""
    kinds = answers.class_groups(counts)
    for group in dict.fromkeys(kinds):
        first, last = kinds.index(group) + 1, len(kinds) - kinds[::-1].index(group)
        ax.axvspan(first - 0.5, last + 0.5, color=SHADES[group], zorder=0)
        place = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom"}
        ax.annotate(group, ((first + last) / 2, 1.0), **place, fontsize=8.5, color=GREY)
    shown = bins(len(counts))
    labels = ["–".join(dict.fromkeys(str(counts[r - 1]) for r in (b[0], b[-1]))) for b in shown]
    ax.set_xticks([(b[0] + b[-1]) / 2 for b in shown], labels)
    ax.set_xlim(0.5, len(counts) + 0.5)
    ax.set_xlabel("few images of the class in the long tail, most frequent class first")
    ax.set_title(ax.get_title(loc="left"), loc="left", pad=18)  # above the names of the groups
    ax.grid(axis="x", visible=False)


def bins(classes: int) -> list[range]:
    """Ranks (from 1) as single ones, or in ten bins where there are many."""
    edges = range(classes + 1) if classes <= 20 else [round(classes * i / 10) for i in range(11)]
    return [range(a + 1, b + 1) for a, b in itertools.pairwise(edges)]


def by_rank(ax, rows: Sequence[Row], classes: int, look: Look, shift: float) -> None:
    """Recall by rank with intervals over seeds; the ranks of a long tail with many classes in ten bins."""
    found = []
    for ranks in bins(classes):
        values = []
        for row in rows:
            recalls = answers.by_rank(row, row.per_class)
            inside = [recall for r in ranks if (recall := recalls[r - 1]) is not None]
            values += [sum(inside) / len(inside)] if inside else []
        if values:
            found.append(((ranks[0] + ranks[-1]) / 2 + shift * len(ranks), mean_of(values)))
    series(ax, look, found)
    if not rows:
        place = {"xycoords": "axes fraction", "ha": "center", "color": look.colour}
        ax.annotate(f"{look.label}: {NOT_RUN}", (0.5, 0.45 + shift / 2), **place)
