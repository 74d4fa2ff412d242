"""Does the paper hold in these rows? By a fixed rule; ``outputs/README.md`` says when each part of it was written.

* A cell: the paired 95 % t-interval over seeds of ours - native_ft. Above 0 *reproduced*, below 0 *not
  reproduced*, else *undecided*.
* A claim over a table: differences are averaged over its cells within each seed; the same rule. *Reproduced on
  average* where the mean is above 0 and a cell is below.
* "X is best": *contradicted* where another value is significantly better; *reproduced* where none is and both ends of
  the range are significantly worse; else undecided.
* "Negligible": the whole interval within one point of 0 reproduces it, an interval outside does not.

Absolute accuracies are shown with the drop from the teacher and the paper's number beside, and are not
judged: teachers and OOD images differ. Nothing here loads torch.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from oefsmc_lib.evidence import answers, paper
from oefsmc_lib.evidence.answers import BASE, NOT_RUN, VARIANT_WORDS, column, listed, select, side
from oefsmc_lib.evidence.pairs import Cell, Paired, against, average, by_cell, cell_of, grouped, minus, over
from oefsmc_lib.evidence.tables import Verdict, joined
from oefsmc_lib.parameters import grid
from oefsmc_lib.rows.row import Row
from oefsmc_lib.rows.store import Store

if TYPE_CHECKING:
    from pandas import DataFrame

NEGLIGIBLE = 1.0  # points
Word = tuple[str, str]  # the verdict on a claim, and the numbers behind it
NOTHING: Word = (NOT_RUN, "")


@dataclass(frozen=True)
class Judged:
    """A claim of the paper, the verdict of the rule, and the numbers behind it."""

    name: str  # a key of paper.CLAIMS
    verdict: str  # reproduced (on average), not reproduced, contradicted, undecided or not run
    numbers: str

    @property
    def claim(self) -> paper.Claim:
        return paper.CLAIMS[self.name]


# --- words ---------------------------------------------------------------------------------------
def signed(points: float) -> str:
    """With its sign and one digit, and without a minus before 0.0."""
    return f"{round(points, 1) + 0.0:+.1f}".replace("-", "−")


def interval(mean: float, half: float) -> str:
    """``+1.2 ± 0.3``: a difference and half its interval, where there is one."""
    return signed(mean) + ("" if math.isnan(half) else f" ± {half:.1f}")


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def said(found: Paired) -> str:
    """``+1.2 ± 0.3 points, 8 cells, 5 seeds``."""
    points = interval(found["mean"], found["half"])
    return f"{points} points, {count(found['cells'], 'cell')}, {count(found['n'], 'seed')}"


def by_data(cells: Mapping[Cell, Mapping[int, float]], text: str = "{0} {1}") -> list[str]:
    """``CIFAR-10 +0.4 ± 0.2`` for each data set, since a mean over all cells can hide that data sets differ."""
    names = sorted({cell.dataset for cell in cells})
    means = [average([own for cell, own in cells.items() if cell.dataset == name]) for name in names]
    titles = [paper.NAMES_OF_DATA.get(name, name) for name in names]
    return [text.format(name, interval(one["mean"], one["half"])) for name, one in zip(titles, means) if one]


def _apart(cells: Mapping[Cell, Mapping[int, float]]) -> str:
    return f" ({', '.join(each)})" if len(each := by_data(cells)) > 1 else ""


# --- cells ---------------------------------------------------------------------------------------
def cells(rows: Iterable[Row], variant: str = "ours", base: str = BASE) -> "DataFrame":
    """A pandas table of the long-tailed cells: both accuracies, their paired difference, its verdict, the paper's."""
    return listed(list(lines(rows, variant, base).values()))


def lines(rows: Iterable[Row], variant: str = "ours", base: str = BASE) -> dict[Cell, dict[str, Any]]:
    """The lines of :func:`cells` by cell, in the order of the table; a cell without a pair has none."""
    own = grouped(select(rows, imbalance="long_tail"), cell_of)
    order = sorted(own, key=lambda cell: (cell.dataset, cell.network, cell.compressor, cell.num))
    return {cell: line for cell in order if (line := _line(cell, own[cell], variant, base))}


def _line(cell: Cell, rows: Sequence[Row], variant: str, base: str) -> dict[str, Any] | None:
    """A cell's line of :func:`cells`; None where it has no pair."""
    ours, theirs = (select(rows, variant=name) for name in (variant, base))
    if not (found := against(ours, theirs)):
        return None
    # Levels are means over the seeds that the difference has, so that the columns of a line belong together.
    ours, theirs = ([row for row in side if row.seed in found["seeds"]] for side in (ours, theirs))
    level = answers.mean(ours)
    # The paper claims something about OE-FSMC and its base only; other pairs are just above or below.
    word = found["verdict"] if (variant, base) == ("ours", BASE) else side(found["low"], found["high"])
    return {
        "dataset": cell.dataset,
        "network": cell.network,
        "method": cell.compressor,
        "num": cell.num,
        "solver": ours[0].solver,
        "seeds": found["n"],
        base: answers.mean(theirs),
        variant: level,
        "drop from teacher": ours[0].teacher_accuracy - level,
        "gain": found["mean"],
        "±": found["half"],
        "verdict": word,
        f"paper {base}": answers.paper_value(theirs[0]),
        f"paper {variant}": answers.paper_value(ours[0]),
        "paper gain": answers.paper_difference(ours[0], theirs[0]),
    }


def brief(table: "DataFrame") -> "DataFrame":
    """A table of :func:`cells` without what one profile does not need: empty columns, and names that never change."""
    table = table.dropna(axis="columns", how="all")
    same = [name for name in ("dataset", "network", "solver") if name in table and table[name].nunique() == 1]
    return table.drop(columns=same)


# --- claims --------------------------------------------------------------------------------------
def rows_by_grid(profile: str, store: Store) -> dict[str, list[Row]]:
    """The stored rows of each grid of a profile or a union; of a grid under several profiles, all, each once."""
    found: dict[str, dict[str, Row]] = {}
    for each in grid.grids_of(profile):
        rows = store.rows([experiment.key for experiment in each.experiments], on_error="warn")
        found.setdefault(each.name, {}).update({row.id: row for row in rows})
    return {name: list(rows.values()) for name, rows in found.items()}


def judge(rows: Mapping[str, Sequence[Row]]) -> list[Judged]:
    """Every claim of ``paper.CLAIMS`` under the rule. ``rows`` are by grid: table1, table2, fig3a-d, beyond."""
    grids = {name: rows.get(name, ()) for name in ("table1", "table2", "fig3a", "fig3b", "fig3c", "fig3d", "beyond")}
    table1 = select(grids["table1"], variant=BASE)
    balanced, long_tailed = (select(table1, imbalance=kind) for kind in ("balanced", "long_tail"))
    even, tailed = (select(own, method="practise") for own in (balanced, long_tailed))  # a smaller cut is more work
    ours, base = (select(grids["table2"], variant=variant, imbalance="long_tail") for variant in ("ours", BASE))
    parts = {variant: select(grids["fig3a"], variant=variant) for variant in (BASE, "wo_ft", "wo_comp", "ours")}
    named = "{what}: {said}, {methods} ({counts})"
    found = {
        "imbalance_hurts": _over_cells(balanced, long_tailed, named, "balanced − long-tailed"),
        "practise_loses_least": _loses_least(by_cell(balanced, long_tailed)),
        "practise_latency": _over_cells(
            even, tailed, "{said} (points of the teacher's MACs, for latency)", value="macs_cut"
        ),
        "ours_helps": _over_cells(ours, base, "{said} ({counts})"),
        "more_with_fewer": _more_with_fewer(by_cell(ours, base)),
        "both_components": _components(parts),
        "wo_ft_beats_wo_comp": _over_cells(parts["wo_ft"], parts["wo_comp"], named, _minus("wo_ft", "wo_comp")),
        "m_equals_num": best(select(grids["fig3b"], variant="ours"), size_of_aux, 1.0),
        "lam_half": best(grids["fig3c"], lambda row: column(row, "lam"), 0.5),
        "eta_best": _eta(grids["fig3d"]),
        "n_negligible": _negligible(grids["beyond"]),
    }
    return [Judged(name, *found[name]) for name in paper.CLAIMS]


def claim_table(judged: Iterable[Judged]) -> "DataFrame":
    """A pandas table of claims: where, what the paper says, the verdict, the numbers."""
    return listed([vars(one.claim) | {"verdict": one.verdict, "numbers": one.numbers} for one in judged]).rename(
        columns={"sentence": "claim"}
    )


def _over_cells(rows: Sequence[Row], reference: Sequence[Row], text: str, what: str = "", value: str = "top1") -> Word:
    """The verdict on a difference over all cells that have both sides; ``text`` places ``what`` is subtracted, the
    numbers, the compressors, and the counts of the cells' own verdicts."""
    by_place = by_cell(rows, reference, value)
    if not (found := average(list(by_place.values()))):
        return NOTHING
    words = [one["verdict"] for cell in by_place.values() if (one := average([cell]))]
    counts = ", ".join(f"{words.count(kind)} {kind}" for kind in get_args(Verdict) if kind in words)
    methods = joined(sorted({paper.METHOD_NAMES[cell.method] for cell in by_place}, key=str.lower))
    numbers = text.format(what=what, said=said(found) + _apart(by_place), methods=methods, counts=counts)
    disagree = found["verdict"] == "reproduced" and "not reproduced" in words
    return found["verdict"] + " on average" * disagree, numbers


def _all(found: Mapping[str, Mapping[Cell, Mapping[int, float]]]) -> Word:
    """Reproduced if every difference is, not reproduced if one is not, else undecided; keys say what is subtracted."""
    there = {label: one for label, cells in found.items() if (one := average(list(cells.values())))}
    if not there or len(there) < len(found):
        return NOTHING
    words = [one["verdict"] for one in there.values()]
    word = next((kind for kind in ("not reproduced", "undecided") if kind in words), "reproduced")
    return word, "; ".join(f"{label}: {said(one)}{_apart(found[label])}" for label, one in there.items())


def _minus(a: str, b: str) -> str:
    return f"{VARIANT_WORDS[a]} − {VARIANT_WORDS[b]}"


def _components(parts: Mapping[str, Sequence[Row]]) -> Word:
    """Either part alone above the base, and both together above either."""
    pairs = [("wo_ft", BASE), ("wo_comp", BASE), ("ours", "wo_ft"), ("ours", "wo_comp")]
    return _all({_minus(a, b): by_cell(parts[a], parts[b]) for a, b in pairs})


def _loses_least(costs: Mapping[Cell, Mapping[int, float]]) -> Word:
    """The tail's cost of every other method minus PRACTISE's, over the training sizes that both have."""
    least = {(cell.dataset, cell.num): cost for cell, cost in costs.items() if cell.method == "practise"}
    found: dict[str, dict[Cell, dict[int, float]]] = {}
    for cell, cost in costs.items():
        if cell.method != "practise" and (more := minus(cost, least.get((cell.dataset, cell.num), {}))):
            found.setdefault(f"{paper.METHOD_NAMES[cell.method]} loses more by", {})[cell] = more
    return _all(found)


def _more_with_fewer(gains: Mapping[Cell, Mapping[int, float]]) -> Word:
    """The gain at the smallest training set minus that at the largest, averaged over methods and data sets."""
    families: dict[tuple, dict[int, Mapping[int, float]]] = {}
    for cell, gain in gains.items():
        families.setdefault(cell[:-1], {})[cell.num] = gain
    falls = [minus(by_num[min(by_num)], by_num[max(by_num)]) for by_num in families.values() if len(by_num) > 1]
    found = average([fall for fall in falls if fall])
    numbers = said(found).replace("cells", "pairs of compressor and data set") if found else ""
    return (
        (found["verdict"], f"the gain with the fewest images minus that with the most: {numbers}") if found else NOTHING
    )


def best(rows: Iterable[Row], value: Callable[[Row], float], claimed: float) -> Word:
    """The verdict on "this value of a setting is best".

    Contradicted by a value that is significantly better, else reproduced where both ends of the range are significantly
    worse, else undecided. Fewer than three values count as not run.
    """
    groups = grouped(rows, value)
    others = sorted(groups.keys() - {claimed})
    found = {other: one for other in others if (one := over(groups.get(claimed, ()), groups[other]))}
    if len(others) < 2 or len(found) < len(others):
        return NOTHING
    better = [other for other, one in found.items() if one["high"] < 0]
    worse = [other for other, one in found.items() if one["low"] > 0]
    ends = {min(groups), max(groups)} - {claimed}
    word = "contradicted" if better else "reproduced" if ends <= set(worse) else "undecided"
    level = [other for other in others if other not in worse + better]
    words = {"significantly worse than": worse, "significantly better than": better}
    words |= {"not told apart from": level} if level else {}
    shown = {other: "all n images" if math.isinf(other) else f"{other:g}" for other in others}
    named = {of: ", ".join(shown[other] for other in group) or "no value" for of, group in words.items()}
    text = "; ".join(f"{of} {claimed:g}: {names}" for of, names in named.items())
    example, methods = found[others[0]], sorted({paper.METHOD_NAMES[row.method] for row in groups[others[0]]})
    return word, f"{text}; {count(example['cells'], 'cell')} of {joined(methods)}, {count(example['n'], 'seed')}"


def size_of_aux(row: Row) -> float:
    """m / M of a run. Infinity stands for m = n, all images of the pool, because their share of M differs with M."""
    return math.inf if column(row, "m") == column(row, "n") else column(row, "m") / row.num


def stopped_early(rows: Iterable[Row]) -> list[Row]:
    """Rows whose fine-tuning stopped by the watch set, this package's default."""
    return select(rows, **{"finetune.stop": "watch"})


def _eta(rows: Sequence[Row]) -> Word:
    """With early stopping, as the paper describes it; what the fixed length says stands behind it."""
    kinds = stopped_early(rows), select(rows, **{"finetune.stop": "fixed"})
    early, late = (best(own, lambda row: column(row, "eta"), 2.5) for own in kinds)
    return early[0], early[1] + f"; at the fixed length it is {late[0]}: {late[1]}" * (late != NOTHING)


def _negligible(rows: Sequence[Row]) -> Word:
    """OE-FSMC with a smaller pool against n = 500, other switches at their defaults: within a point of 0?

    The claim is about smaller pools; larger ones are shown beside it.
    """
    own = [row for row in select(rows, variant="ours") if column(row, "n") is not None]
    others = [row for row in own if column(row, "n") not in (500, max(500, row.num))]
    twins = {_but_n(row) for row in others}
    usual = [row for row in select(own, n=500) if _but_n(row) in twins]
    found = {n: over(select(others, n=n), usual) for n in answers.values_of(others, "n")}
    pairs = {n: one for n, one in found.items() if one}
    smaller = [one for n, one in pairs.items() if n < 500]
    if not smaller or len(pairs) < len(found):
        return NOTHING
    inside = [-NEGLIGIBLE <= one["low"] <= one["high"] <= NEGLIGIBLE for one in smaller]
    outside = [one["low"] > NEGLIGIBLE or one["high"] < -NEGLIGIBLE for one in smaller]
    word = "reproduced" if all(inside) else "not reproduced" if any(outside) else "undecided"
    return word, "; ".join(f"n={n} against 500: {said(one)}" for n, one in pairs.items())


def _but_n(row: Row) -> str:
    """The seed and every switch of a run except n."""
    columns = {name: getattr(row, name) for name in ("seed", "method", "num", "plan", "ratio", "ood_source")}
    switches = {name: value for name, value in row.switches.items() if name != "n"}
    return str(sorted((name, str(value)) for name, value in (columns | switches).items()))
