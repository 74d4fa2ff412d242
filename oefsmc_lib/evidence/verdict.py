"""Does the paper hold in these rows? By a fixed rule; ``outputs/README.md`` says when each part of it was written.

* A cell: the paired 95 % t-interval over seeds of ours - native_ft. Above 0 *reproduced*, below 0 *not
  reproduced*, else *undecided*.
* A claim over a table: differences are averaged over its cells within each seed; the same rule.
* "X is best": *contradicted* where another value is significantly better; *reproduced* where none is and both ends of
  the range are significantly worse; else undecided.
* "Negligible": the whole interval within one point of 0 reproduces it, an interval outside does not.

Absolute accuracies are shown with the drop from the teacher and the paper's number beside, and are not
judged: teachers and OOD images differ. Nothing here loads torch.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from oefsmc_lib.evidence import answers, paper
from oefsmc_lib.evidence.answers import BASE, NOT_RUN, by_seed, column, select, side
from oefsmc_lib.evidence.tables import t_interval
from oefsmc_lib.evidence.tables import verdict as rule
from oefsmc_lib.parameters import grid
from oefsmc_lib.rows.row import Row
from oefsmc_lib.rows.store import Store

NEGLIGIBLE = 1.0  # points
LENGTHS = ("mir.iterations", "practise.iterations")  # rows of other lengths are other cells


@dataclass(frozen=True)
class Judged:
    """A claim of the paper, the verdict of the rule, and the numbers behind it."""

    name: str  # a key of paper.CLAIMS
    verdict: str  # reproduced, not reproduced, contradicted, undecided or not run
    numbers: str

    @property
    def claim(self) -> paper.Claim:
        return paper.CLAIMS[self.name]


@dataclass(frozen=True)
class Over:
    """A difference by seed, averaged over the cells of a table."""

    cells: int
    mean: float
    half: float
    seeds: int

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half

    @property
    def verdict(self) -> str:
        return rule(self.low, self.high)

    def __str__(self) -> str:
        return f"{interval(self.mean, self.half)} points, {count(self.cells, 'cell')}, {count(self.seeds, 'seed')}"


def signed(points: float) -> str:
    """With its sign and one digit, and without a minus before 0.0."""
    return f"{round(points, 1) + 0.0:+.1f}".replace("-", "−")


def interval(mean: float, half: float) -> str:
    """``+1.2 ± 0.3``: a difference and half its interval, where there is one."""
    return signed(mean) + ("" if math.isnan(half) else f" ± {half:.1f}")


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


# --- cells ---------------------------------------------------------------------------------------
def place(row: Row) -> tuple:
    """The cell of a table that a row belongs to: data, network, method and its length, num."""
    lengths = next((value for name in LENGTHS if (value := column(row, name)) is not None), None)
    return row.dataset, row.network, row.method, lengths, row.num


def length_name(method: str, lengths: int | None) -> str:
    """The method's printed name, and the steps that it trained where they are not the published ones."""
    return paper.METHOD_NAMES[method] + ("" if lengths in (None, 2000) else f" ({lengths} steps)")


def cells(rows: Iterable[Row], variant: str = "ours", base: str = BASE):
    """A pandas table of the long-tailed cells: both accuracies, their paired difference, its verdict, the paper's."""
    import pandas as pd

    rows = select(rows, imbalance="long_tail")
    records = []
    for cell in sorted({place(row) for row in rows}, key=str):
        own = [row for row in rows if place(row) == cell]
        found = answers.difference(own, variant, base)
        if found is None:
            continue
        dataset, network, method, lengths, num = cell
        word = rule if (variant, base) == ("ours", BASE) else side  # of other pairs the paper says nothing
        one = select(own, variant=variant)[0]
        printed = [answers.paper_value(select(own, variant=v)[0]) for v in (base, variant)]
        records.append(
            {
                "dataset": dataset,
                "network": network,
                "method": length_name(method, lengths),
                "num": num,
                "solver": one.solver,
                "seeds": found["n"],
                base: answers.mean(own, variant=base),
                variant: answers.mean(own, variant=variant),
                "drop from teacher": one.teacher_accuracy - answers.mean(own, variant=variant),
                "gain": found["mean"],
                "±": found["half"],
                "verdict": word(found["low"], found["high"]),
                f"paper {base}": printed[0],
                f"paper {variant}": printed[1],
                "paper gain": None if None in printed else printed[1] - printed[0],
            }
        )
    return (
        pd.DataFrame(records).sort_values(["dataset", "network", "method", "num"], ignore_index=True)
        if records
        else pd.DataFrame([{"rows": NOT_RUN}])
    )


def brief(table):
    """A table of :func:`cells` without what one profile does not need: empty columns, and names that never change."""
    table = table.dropna(axis="columns", how="all")
    same = [name for name in ("dataset", "network", "solver") if name in table and table[name].nunique() == 1]
    return table.drop(columns=same)


def over(
    rows: Iterable[Row],
    side_a: Callable[[Row], bool],
    side_b: Callable[[Row], bool],
    value: str = "top1",
    cell: Callable[[Row], tuple] = place,
) -> Over | None:
    """a - b by seed, averaged over the cells that have both sides; a seed counts where every cell has it."""
    rows = list(rows)
    differences: list[dict[int, float]] = []
    for here in {cell(row) for row in rows}:
        own = [row for row in rows if cell(row) == here]
        a, b = (by_seed([row for row in own if side(row)], value) for side in (side_a, side_b))
        if both := sorted(set(a) & set(b)):
            differences.append({seed: a[seed] - b[seed] for seed in both})
    return average(differences)


def average(differences: Sequence[Mapping[int, float]]) -> Over | None:
    """Differences by seed of several cells as one: mean over cells within a seed, then the interval over seeds."""
    seeds = sorted(set.intersection(*map(set, differences))) if differences else []
    if not seeds:
        return None
    values = [sum(cell[seed] for cell in differences) / len(differences) for seed in seeds]
    mean, _, half = t_interval(values)
    return Over(len(differences), mean, half, len(seeds))


def _is(**columns) -> Callable[[Row], bool]:
    return lambda row: all(column(row, name) == value for name, value in columns.items())


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

    def of(name: str) -> Sequence[Row]:
        return rows.get(name, ())

    found = {
        "imbalance_hurts": _named(
            "balanced − long-tailed",
            select(of("table1"), variant=BASE),
            _is(imbalance="balanced"),
            _is(imbalance="long_tail"),
        ),
        "practise_loses_least": _loses_least(select(of("table1"), variant=BASE)),
        "practise_latency": _latency(select(of("table1"), variant=BASE, method="practise")),
        "ours_helps": _helps(select(of("table2"), imbalance="long_tail")),
        "more_with_fewer": _more_with_fewer(select(of("table2"), imbalance="long_tail")),
        "both_components": _components(of("fig3a")),
        "wo_ft_beats_wo_comp": _named(
            _minus("wo_ft", "wo_comp"), of("fig3a"), _is(variant="wo_ft"), _is(variant="wo_comp")
        ),
        "m_equals_num": best(select(of("fig3b"), variant="ours"), size_of_aux, 1.0),
        "lam_half": best(of("fig3c"), lambda row: column(row, "lam"), 0.5),
        "eta_best": best(stopped_early(of("fig3d")), lambda row: column(row, "eta"), 2.5),
        "n_negligible": _negligible(of("beyond")),
    }
    return [Judged(name, *found[name]) for name in paper.CLAIMS]


def _one(found: Over | None) -> tuple[str, str]:
    return (NOT_RUN, "") if found is None else (found.verdict, str(found))


def _named(
    what: str, rows: Sequence[Row], side_a: Callable[[Row], bool], side_b: Callable[[Row], bool]
) -> tuple[str, str]:
    """What is subtracted, the difference, the compressors whose cells have both sides, and the verdicts of these cells."""
    word, numbers = _one(over(rows, side_a, side_b))
    both = {}
    for cell in {place(row) for row in rows}:
        if found := over([row for row in rows if place(row) == cell], side_a, side_b):
            both[cell] = found.verdict
    methods = _methods({cell[2] for cell in both}) if both else ""
    return word, f"{what}: {numbers}, {methods} ({_counts(both.values())})" if numbers else ""


def _counts(words: Iterable[str]) -> str:
    """``8 not reproduced, 4 undecided``."""
    words = list(words)
    return ", ".join(
        f"{words.count(kind)} {kind}" for kind in ("reproduced", "not reproduced", "undecided") if kind in words
    )


def _methods(names: Iterable[str]) -> str:
    """Printed names in alphabetical order: ``CD and FSKD``."""
    *first, last = sorted((paper.METHOD_NAMES[name] for name in names), key=str.lower)
    return f"{', '.join(first)} and {last}" if first else last


def _minus(a: str, b: str) -> str:
    return f"{answers.VARIANT_WORDS[a]} − {answers.VARIANT_WORDS[b]}"


def _helps(rows: Sequence[Row]) -> tuple[str, str]:
    word, numbers = _one(over(rows, _is(variant="ours"), _is(variant=BASE)))
    if word == NOT_RUN:
        return word, numbers
    return word, f"{numbers} ({_counts(cells(rows)['verdict'])})"


def _more_with_fewer(rows: Sequence[Row]) -> tuple[str, str]:
    """The gain at the smallest training set minus that at the largest, averaged over methods and data sets."""
    falls = []
    for family in {place(row)[:-1] for row in rows}:
        own = [row for row in rows if place(row)[:-1] == family]
        gains = {}
        for num in {row.num for row in own}:
            a, b = (by_seed(select(own, num=num, variant=variant)) for variant in ("ours", BASE))
            if both := set(a) & set(b):
                gains[num] = {seed: a[seed] - b[seed] for seed in both}
        if len(gains) > 1:
            few, many = gains[min(gains)], gains[max(gains)]
            falls.append({seed: few[seed] - many[seed] for seed in set(few) & set(many)})
    word, numbers = _one(average([fall for fall in falls if fall]))
    return word, f"the gain with the fewest images minus that with the most: {numbers}" if numbers else ""


def _components(rows: Sequence[Row]) -> tuple[str, str]:
    """Either part alone above the base, and both together above either."""
    pairs = [("wo_ft", BASE), ("wo_comp", BASE), ("ours", "wo_ft"), ("ours", "wo_comp")]
    found = {pair: over(rows, _is(variant=pair[0]), _is(variant=pair[1])) for pair in pairs}
    return _all(found, lambda pair: _minus(*pair))


def _all(found: Mapping, label: Callable) -> tuple[str, str]:
    """Reproduced where every difference is, not where one is not; undecided else."""
    there = {key: value for key, value in found.items() if value is not None}
    if len(there) < len(found) or not there:
        return NOT_RUN, ""
    words = [value.verdict for value in there.values()]
    word = (
        "reproduced" if set(words) == {"reproduced"} else "not reproduced" if "not reproduced" in words else "undecided"
    )
    return word, "; ".join(f"{label(key)}: {value}" for key, value in there.items())


def _loses_least(rows: Sequence[Row]) -> tuple[str, str]:
    """The tail's cost of every other method minus PRACTISE's, over the training sizes that both have."""
    costs: dict[tuple, dict[int, float]] = {}
    for cell in {place(row) for row in rows}:
        own = [row for row in rows if place(row) == cell]
        a, b = (by_seed(select(own, imbalance=kind)) for kind in ("balanced", "long_tail"))
        if both := set(a) & set(b):
            costs[cell] = {seed: a[seed] - b[seed] for seed in both}
    theirs = {(cell[0], cell[-1]): cost for cell, cost in costs.items() if cell[2] == "practise"}
    found = {}
    for method in sorted({cell[2] for cell in costs} - {"practise"}):
        pairs = [
            (cost, theirs[cell[0], cell[-1]])
            for cell, cost in costs.items()
            if cell[2] == method and (cell[0], cell[-1]) in theirs
        ]
        found[method] = average(
            [{seed: one[seed] - other[seed] for seed in set(one) & set(other)} for one, other in pairs]
        )
    return _all(found, lambda method: f"{paper.METHOD_NAMES[method]} loses more by")


def _latency(rows: Sequence[Row]) -> tuple[str, str]:
    """Whether PRACTISE's students need more operations when chosen from long-tailed images: MACs, in percent."""
    found = over(rows, _is(imbalance="long_tail"), _is(imbalance="balanced"), "macs_cut")
    if found is None:
        return NOT_RUN, ""
    grown = Over(found.cells, -found.mean, found.half, found.seeds)
    return grown.verdict, f"{grown} (points of the teacher's MACs, for latency)"


def best(rows: Iterable[Row], value: Callable[[Row], float], claimed: float) -> tuple[str, str]:
    """ "X is best": contradicted by a value that is significantly better, else reproduced if both ends are significantly worse."""
    rows = list(rows)
    values = sorted({value(row) for row in rows})
    if claimed not in values or len(values) < 3:
        return NOT_RUN, ""
    differences = {}
    for other in values:
        if other != claimed:
            differences[other] = over(rows, lambda row: value(row) == claimed, lambda row, v=other: value(row) == v)
    if None in differences.values():
        return NOT_RUN, ""
    better = [v for v, found in differences.items() if found.high < 0]
    worse = [v for v, found in differences.items() if found.low > 0]
    ends = {values[0], values[-1]} - {claimed}
    word = "contradicted" if better else "reproduced" if ends <= set(worse) else "undecided"
    said = "; ".join(
        f"significantly {title} than {claimed:g}: {', '.join(map(setting_name, group)) or 'no value'}"
        for title, group in (("worse", worse), ("better", better))
    )
    example = next(iter(differences.values()))
    return word, f"{said}; {count(example.cells, 'cell')}, {count(example.seeds, 'seed')}"


def size_of_aux(row: Row) -> float:
    """m / M of a run; infinity stands for m = n, all images of the pool, whose share of M differs with the training size."""
    return math.inf if column(row, "m") == column(row, "n") else column(row, "m") / row.num


def setting_name(value: float) -> str:
    """A value of a sweep as text."""
    return "all n images" if math.isinf(value) else f"{value:g}"


def stopped_early(rows: Iterable[Row]) -> list[Row]:
    """Rows whose fine-tuning stopped by the watch set, this package's default."""
    return select(rows, **{"finetune.stop": "watch"})


def _negligible(rows: Sequence[Row]) -> tuple[str, str]:
    """OE-FSMC with a smaller pool against n = 500, other switches at their defaults: within a point of 0?

    The claim is about smaller pools; larger ones are shown beside it.
    """
    own = [row for row in select(rows, variant="ours") if column(row, "n") is not None]
    others = [row for row in own if column(row, "n") not in (500, max(500, row.num))]
    twins = {(row.seed, _but_n(row)) for row in others}
    usual = [row for row in own if column(row, "n") == 500 and (row.seed, _but_n(row)) in twins]
    found = {n: over([*usual, *select(others, n=n)], _is(n=n), _is(n=500)) for n in answers.values_of(others, "n")}
    if not found or None in found.values():
        return NOT_RUN, ""
    smaller = [f for n, f in found.items() if n < 500]
    if not smaller:
        return NOT_RUN, ""
    inside = [f.low >= -NEGLIGIBLE and f.high <= NEGLIGIBLE for f in smaller]
    outside = [f.low > NEGLIGIBLE or f.high < -NEGLIGIBLE for f in smaller]
    word = "reproduced" if all(inside) else "not reproduced" if any(outside) else "undecided"
    return word, "; ".join(f"n={n} against 500: {f}" for n, f in found.items())


def _but_n(row: Row) -> str:
    flat = {
        **row.switches,
        "method": row.method,
        "num": row.num,
        "plan": row.plan,
        "ratio": row.ratio,
        "source": row.ood_source,
    }
    return str(sorted((name, str(value)) for name, value in flat.items() if name != "n"))


def claim_table(judged: Iterable[Judged]):
    """A pandas table of claims: where, what the paper says, the verdict, the numbers."""
    import pandas as pd

    return pd.DataFrame(
        [
            {"where": j.claim.where, "claim": j.claim.sentence, "verdict": j.verdict, "numbers": j.numbers}
            for j in judged
        ]
    )
