"""Paired differences: rows minus a reference on the same draws, in one cell of a table or averaged over several.

Two runs of one seed share their few images and their pool, so they are subtracted before anything is averaged.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypedDict, TypeVar

from oefsmc_lib.errors import InputError
from oefsmc_lib.evidence.paper import METHOD_NAMES
from oefsmc_lib.evidence.tables import Verdict, by_seed, t_interval, verdict
from oefsmc_lib.rows.row import Row

Key = TypeVar("Key", bound=Hashable)


class Paired(TypedDict):
    """A difference in points by seed: its mean with the 95 % t-interval, and the verdict of the fixed rule on it."""

    cells: int  # how many cells each of the differences is averaged over
    n: int  # seeds
    seeds: list[int]
    differences: list[float]  # one a seed
    mean: float
    half: float  # half the width of the interval; NaN where there is a single seed
    low: float
    high: float
    verdict: Verdict


class Cell(NamedTuple):
    """The cell of a table that a row belongs to."""

    dataset: str
    network: str
    method: str
    steps: int | None  # of MiR and PRACTISE; rows that were trained for another length are another cell
    num: int

    @property
    def compressor(self) -> str:
        """The method's printed name, and the steps that it trained where they are not the published ones."""
        return METHOD_NAMES[self.method] + ("" if self.steps in (None, 2000) else f" ({self.steps} steps)")


def cell_of(row: Row) -> Cell:
    steps = row.switches.get("mir.iterations", row.switches.get("practise.iterations"))
    return Cell(row.dataset, row.network, row.method, steps, row.num)


def grouped(rows: Iterable[Row], key: Callable[[Row], Key]) -> dict[Key, list[Row]]:
    """The rows of each key, keys in the order in which they first occur."""
    groups: dict[Key, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def against(rows: Iterable[Row], reference: Iterable[Row], value: str = "top1") -> Paired | None:
    """``rows`` - ``reference``, two lists of rows that differ in one switch; None where they share no seed.

    Raises :class:`InputError` when the rows are of several teachers or images, and when a list has a seed twice.
    """
    return average([_by_seed(list(rows), list(reference), value)])


def over(rows: Iterable[Row], reference: Iterable[Row], value: str = "top1") -> Paired | None:
    """:func:`against`, averaged over the cells that have both sides; a seed counts where every such cell has it."""
    return average(list(by_cell(rows, reference, value).values()))


def by_cell(rows: Iterable[Row], reference: Iterable[Row], value: str = "top1") -> dict[Cell, dict[int, float]]:
    """cell -> seed -> difference, of the cells in which both sides have a seed."""
    ours, theirs = grouped(rows, cell_of), grouped(reference, cell_of)
    found = {cell: _by_seed(ours.get(cell, []), theirs.get(cell, []), value) for cell in ours | theirs}
    return {cell: differences for cell, differences in found.items() if differences}


def average(cells: Sequence[Mapping[int, float]]) -> Paired | None:
    """The mean over cells within each seed that all of them have, and its interval over seeds; None without a seed."""
    seeds = sorted(set.intersection(*map(set, cells))) if cells else []
    if not seeds:
        return None
    differences = [sum(cell[seed] for cell in cells) / len(cells) for seed in seeds]
    mean, _, half = t_interval(differences)
    low, high = mean - half, mean + half
    return Paired(
        cells=len(cells),
        n=len(seeds),
        seeds=seeds,
        differences=differences,
        mean=mean,
        half=half,
        low=low,
        high=high,
        verdict=verdict(low, high),
    )


def minus(one: Mapping[int, float], other: Mapping[int, float]) -> dict[int, float]:
    """The difference of each seed that both have."""
    return {seed: one[seed] - other[seed] for seed in one if seed in other}


def _by_seed(rows: Sequence[Row], reference: Sequence[Row], value: str) -> dict[int, float]:
    """The differences of one cell."""
    if rows and reference and rows[0].teacher_sha256 != reference[0].teacher_sha256:
        raise InputError("Rows of different teacher_sha256 meet in one difference; keep those of one teacher.")
    return minus(by_seed(rows, value), by_seed(reference, value))
