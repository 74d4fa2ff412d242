"""Stored rows, computed again: does the row that somebody committed come out here?

On the row's own device, threads and versions the top-1 must be the same to the last bit. Elsewhere sums round in
another order and the network that is fine-tuned drifts, so half a point is allowed. A row knows a processor by its
name alone, and different processors may share a name.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from oefsmc_lib.errors import InputError
from oefsmc_lib.parameters.experiment import ALGORITHM_VERSION, Experiment
from oefsmc_lib.rows.row import Row

TOLERANCE = 0.5  # points of top-1, on another machine
MACHINE = ("device", "threads", "torch", "torchvision")  # what the last bit depends on


@dataclass(frozen=True)
class Recheck:
    """A stored row beside the row that its switches give now."""

    stored: Row
    now: Row

    @property
    def differs_in(self) -> list[str]:
        """The machine's columns that are not the stored row's."""
        return [name for name in MACHINE if getattr(self.stored, name) != getattr(self.now, name)]

    @property
    def agrees(self) -> bool:
        return abs(self.stored.top1 - self.now.top1) <= (TOLERANCE if self.differs_in else 0)

    def __str__(self) -> str:
        row, others = self.stored, ", ".join(self.differs_in)
        return (
            f"{row.id} {row.method} {row.variant} num={row.num} seed={row.seed}: top-1 {row.top1:g} then, "
            f"{self.now.top1:g} now, {'agrees' if self.agrees else 'DIFFERS'}"
            + (f" (other {others}: {TOLERANCE} points are allowed)" if others else "")
        )


def choose(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """``count`` rows, drawn by ``seed`` from the rows in the order of their ids; :class:`InputError` for none."""
    if not rows:
        raise InputError("There are no rows to compute again; name a profile that has some, as in --profile paper.")
    return random.Random(seed).sample(sorted(rows, key=lambda row: row.id), min(count, len(rows)))


def recheck(rows: Iterable[Row]) -> Iterator[Recheck]:
    """Compute each row again, with as many threads as it had; nothing is stored, and nothing shared between rows.

    Raises :class:`InputError` where images or teacher are missing, or are not those of the row, before it is run.
    """
    import torch

    from oefsmc_lib import pipeline

    threads = torch.get_num_threads()
    try:
        for row in rows:
            torch.set_num_threads(row.threads)
            experiment, shared = row.experiment(), pipeline.Shared()
            _refuse_others(row, experiment, pipeline.prepare(experiment, shared))
            yield Recheck(row, pipeline.run(experiment, shared, row.profile)[1])
    finally:
        torch.set_num_threads(threads)


def _refuse_others(row: Row, experiment: Experiment, ready) -> None:
    """Another teacher, other images or another version of the algorithm give another row, not this one."""
    from oefsmc_lib.images import sets

    here = {
        "teacher_sha256": ready.teacher.sha256,
        "data_fingerprint": sets.fingerprint(ready.train, ready.test),
        "ood_fingerprint": ready.source_fingerprint,
        "algorithm": ALGORITHM_VERSION,
        "few_indices": ready.draw.indices,
    }
    for name, value in here.items():
        if (stored := getattr(row, name)) != value:
            raise InputError(
                f"Row {row.id} cannot be computed again here: {name} is {stored!s:.12} in the row and {value!s:.12} "
                "here; it takes the row's own images and teacher (outputs/README.md)."
            )
