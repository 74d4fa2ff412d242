"""Reading rows, and claims about them: signs and counts without numbers that vary.

Another teacher and another processor should give the same sign or count, so nbval can compare it.
Computed from rows alone, whatever they say; where rows are missing the text is "not run".
Texts with numbers, for reading, are the titles of :mod:`oefsmc_lib.evidence.figures`.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from oefsmc_lib.evidence import paper, tables
from oefsmc_lib.evidence.pairs import Paired, against
from oefsmc_lib.rows import row as row_module
from oefsmc_lib.rows.row import Row

if TYPE_CHECKING:
    from pandas import DataFrame

T = TypeVar("T")

BASE = "native_ft"  # the paper's base columns
REDRAWN = "redrawn"  # OE-FSMC with redraw=true
NOT_RUN = "not run"
GROUPS = ("head", "tail", "absent")
REMEDIES = ("extra_images", "ours", "whole_pool")  # what is compared with the base in tables and figures
VARIANT_WORDS = {
    "native": "the compressor alone",
    "native_ft": "the base",
    "extra_images": "OOD images, labels ignored",
    "wo_ft": "w/o FT",
    "wo_comp": "w/o Comp.",
    "ours": "OE-FSMC",
    REDRAWN: "OE-FSMC, labels redrawn",
    "whole_pool": "the whole pool (this package's own)",
}


# --- reading rows ------------------------------------------------------------------------------
def column(row: Row, name: str) -> Any:
    """A column or a further switch of a row; None where the run did not read it.

    The variant of a run that draws its OOD labels anew at each step is ``redrawn``: the reading of the journal
    version of the paper, which tables show beside ``ours``.
    """
    if name == "variant" and row.switches.get("redraw"):
        return REDRAWN
    return getattr(row, name) if name in row_module.COLUMNS else row.switches.get(name)


def select(rows: Iterable[Row], **columns) -> list[Row]:
    """The rows whose columns and switches have these values."""
    return [row for row in rows if all(column(row, name) == value for name, value in columns.items())]


def values_of(rows: Iterable[Row], name: str) -> list:
    """The values of a column that occur, sorted."""
    return sorted({column(row, name) for row in rows})


def difference(rows: Iterable[Row], a: str, b: str, on: str = "variant", value: str = "top1", **where) -> Paired | None:
    """The paired difference a - b of one cell over seeds, as :func:`against` gives it; None without a pair."""
    chosen = select(rows, **where)
    return against(select(chosen, **{on: a}), select(chosen, **{on: b}), value)


def tail_cost(rows: Iterable[Row], num: int, **where) -> Paired | None:
    """Balanced - long-tailed of the base in points, paired by seed: what Table 1 asks."""
    return difference(rows, "balanced", "long_tail", on="imbalance", num=num, variant=BASE, **where)


def gain(
    rows: Iterable[Row], num: int, variant: str = "ours", base: str = BASE, value: str = "top1", **where
) -> Paired | None:
    """A variant - the base under the long tail in points, paired by seed: what Table 2 asks."""
    return difference(rows, variant, base, value=value, num=num, imbalance="long_tail", **where)


def mean(rows: Iterable[Row], value: str = "top1", **where) -> float:
    """The mean over seeds of one cell; NaN without rows."""
    return tables.t_interval(list(tables.by_seed(select(rows, **where), value).values()))[0]


def group_recalls(rows: Iterable[Row], num: int) -> dict[str, float]:
    """Mean recall of each class group of FSKD's base under the long tail, without groups that are empty."""
    chosen = select(rows, num=num, variant=BASE, method="fskd", imbalance="long_tail")
    found = {g: [v for row in chosen if (v := getattr(row, f"{g}_accuracy")) is not None] for g in GROUPS}
    return {g: sum(v) / len(v) for g, v in found.items() if v}


def class_groups(counts: Sequence[int]) -> list[str]:
    """Class groups of counts: ``head`` (m_j > M/K), ``tail`` (1 ... M/K) and ``absent`` (0), as ``fewshot.groups``."""
    even = sum(counts) / len(counts)
    return ["absent" if not m else "head" if m > even else "tail" for m in counts]


def by_rank(row: Row, values: Sequence[T]) -> list[T]:
    """Values by class as values by rank, the most frequent class first."""
    return [values[j] for j in row.order]


def paper_value(row: Row) -> float | None:
    """The paper's number for a row's cell; None where its data set, network, ratio or cell is not the paper's."""
    if paper.NETWORKS.get(row.dataset) != row.network or row.ratio not in (None, paper.RATIO):
        return None
    return paper.paper_value(row.dataset, row.method, column(row, "variant"), row.num, column(row, "imbalance"))


def paper_difference(one: Row, other: Row) -> float | None:
    """The paper's number for one row's cell minus that for another's; None where it lacks either."""
    a, b = paper_value(one), paper_value(other)
    return None if a is None or b is None else a - b


# --- claims: the same on another machine ---------------------------------------------------------
def _answer(question: str, holds: bool | None) -> str:
    return f"{question}: {NOT_RUN if holds is None else 'yes' if holds else 'no'}"


def empty_classes(rows: Iterable[Row], num: int) -> str:
    """How many classes a long-tailed draw leaves without an image."""
    drawn = {(row.counts.count(0), len(row.counts)) for row in select(rows, num=num, imbalance="long_tail")}
    shown = ", ".join(f"{empty} of {classes}" for empty, classes in sorted(drawn))
    return f"classes without an image at num={num}: {shown or NOT_RUN}"


def size_left(rows: Iterable[Row], method: str = "fskd") -> str:
    """What the plan leaves of the teacher's work and weights, in whole percent."""
    own = select(rows, method=method, variant=BASE)
    left = sorted({(round(100 - row.macs_cut), round(100 - row.params_cut)) for row in own})
    shown = ", ".join(f"{macs} % of the multiplications, {weights} % of the parameters" for macs, weights in left)
    return f"left of the teacher: {shown or NOT_RUN}"


def dropped_units(rows: Iterable[Row], method: str) -> str:
    """Which units PRACTISE drops, the most often dropped first."""
    times = Counter(unit for row in select(rows, method=method) for unit in row.dropped)
    shown = ", ".join(f"{unit} ({count})" for unit, count in times.most_common())
    return f"dropped units and how often: {shown or NOT_RUN}"


def long_tail_costs(rows: Iterable[Row], num: int) -> str:
    """Whether the long tail costs FSKD accuracy, by the sign of the mean paired difference."""
    cost = tail_cost(rows, num, method="fskd")
    question = f"on average over the seeds, the long tail costs accuracy at num={num}"
    return _answer(question, cost and cost["mean"] > 0)


def costs_less_with_more(rows: Iterable[Row], few: int, many: int) -> str:
    """Whether FSKD's cost shrinks from the smallest to the largest training set."""
    cost, other = (tail_cost(rows, num, method="fskd") for num in (few, many))
    question = f"on average over the seeds, the long tail costs more at num={few} than at num={many}"
    return _answer(question, cost and other and cost["mean"] > other["mean"])


def lowest_group(rows: Iterable[Row], num: int) -> str:
    """The class group with the lowest recall of FSKD's base under the long tail."""
    found = group_recalls(rows, num)
    return f"lowest recall at num={num}: " + (f"{min(found, key=found.__getitem__)} classes" if found else NOT_RUN)


def beats(rows: Iterable[Row], num: int, variant: str, method: str = "fskd") -> str:
    """Whether a variant is above the base at a training size, by the sign of the mean paired difference."""
    found = gain(rows, num, variant, method=method)
    question = f"on average over the seeds, {VARIANT_WORDS[variant]} beats {VARIANT_WORDS[BASE]} at num={num}"
    return _answer(question, found and found["mean"] > 0)


def same_filters(one: dict[str, list[int]], other: dict[str, list[int]]) -> str:
    """Whether two students lost the same filters (``structure.kept`` of each)."""
    return _answer("the same filters are removed", one == other)


def rarely_predicted(share: Sequence[float], counts: Sequence[int]) -> str:
    """Whether classes without an image are predicted less often than they occur; percent and counts by rank."""
    absent = [float(s) for s, kind in zip(share, class_groups(counts), strict=True) if kind == "absent"]
    holds = sum(absent) < 100 * len(absent) / len(counts) if absent else None
    return _answer("classes without an image are predicted less often than they occur", holds)


# --- words -----------------------------------------------------------------------------------------
def points(found: Paired, plus: str = "gains", minus: str = "loses") -> str:
    """A paired difference in words: its sign, its size, and "undecided" where its interval holds 0."""
    return f"{plus if found['mean'] > 0 else minus} {abs(found['mean']):.1f} points{undecided(found)}"


def undecided(found: Paired) -> str:
    return " (undecided)" if found["verdict"] == "undecided" else ""


def side(low: float, high: float) -> str:
    """The rule where there is no claim to reproduce: above, below or undecided."""
    return {"reproduced": "above", "not reproduced": "below"}.get(tables.verdict(low, high), "undecided")


# --- tables ----------------------------------------------------------------------------------------
def listed(records: Sequence[dict[str, Any]]) -> "DataFrame":
    """A pandas table of records; without any it has one line, "not run"."""
    import pandas as pd

    return pd.DataFrame(records or [{"rows": NOT_RUN}])


def draw_table(rows: Iterable[Row]) -> "DataFrame":
    """A pandas table of the long-tailed draws: what the classes get at each num, the most frequent first."""
    drawn = {row.num: by_rank(row, row.counts) for row in select(rows, imbalance="long_tail")}
    return listed(
        [
            {
                "num": num,
                "images by class": " ".join(map(str, counts[:20])) + " …" * (len(counts) > 20),
                "classes with an image": len(counts) - counts.count(0),
                "classes without": counts.count(0),
            }
            for num, counts in sorted(drawn.items())
        ]
    )


def loss_table(rows: Sequence[Row], nums: Sequence[int]) -> "DataFrame":
    """A pandas table of the base: balanced, long-tailed, their difference, its verdict, the paper's, if any."""
    records = []
    for method, num in itertools.product(values_of(rows, "method"), nums):
        own = select(rows, method=method, num=num, variant=BASE)
        balanced, long_tailed = (select(own, imbalance=kind) for kind in ("balanced", "long_tail"))
        if cost := against(balanced, long_tailed):
            line = {"method": paper.METHOD_NAMES[method], "num": num, "seeds": cost["n"]}
            line |= {"balanced": mean(balanced), "long-tailed": mean(long_tailed), "lost": cost["mean"]}
            line |= {"±": cost["half"], "imbalance hurts": cost["verdict"]}
            records.append(line | {"lost in the paper": paper_difference(balanced[0], long_tailed[0])})
    return listed(records).round(2).dropna(axis="columns", how="all")


def gain_table(rows: Sequence[Row], nums: Sequence[int]) -> "DataFrame":
    """A pandas table of each remedy - FSKD's base under the long tail: points, half the interval, what it does."""
    effects, records = {"reproduced": "helps", "not reproduced": "harms"}, []
    for variant, num in itertools.product(REMEDIES, nums):
        if one := gain(rows, num, variant, method="fskd"):
            line = {"remedy": VARIANT_WORDS[variant], "num": num, "seeds": one["n"], "points": one["mean"]}
            records.append(line | {"±": one["half"], "effect": effects.get(one["verdict"], "undecided")})
    return listed(records).round(2)


def solver_table(rows: Sequence[Row]) -> "DataFrame":
    """A pandas table of top-1 with the released solver and with this package's on the same draws, a line a cell."""
    records = []
    order = list(VARIANT_WORDS)
    cells = {(row.method, column(row, "imbalance"), order.index(column(row, "variant")), row.num) for row in rows}
    for method, imbalance, place, num in sorted(cells):
        own = select(rows, method=method, imbalance=imbalance, variant=order[place], num=num)
        if gap := difference(own, "literal", "default", on="solver"):
            both = [row for row in own if row.seed in gap["seeds"]]
            images = {"long_tail": "long-tailed"}.get(imbalance, imbalance)
            line = {"method": paper.METHOD_NAMES[method], "images": images, "num": num}
            line |= {"network": VARIANT_WORDS[order[place]], "seeds": gap["n"]}
            line |= {"released solver": mean(both, solver="literal"), "this package's": mean(both, solver="default")}
            line |= {"difference": gap["mean"], "±": gap["half"]}
            records.append(line | {"released is": side(gap["low"], gap["high"])})
    return listed(records).round(2)
