"""Stored rows, computed again: does the row that somebody committed come out here?

On the row's own device, threads and versions the top-1 must be the same to the last bit; elsewhere
sums round in another order and the network that is fine-tuned drifts, so half a point is allowed.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from oefsmc_lib.errors import InputError
from oefsmc_lib.results import Row

TOLERANCE = 0.5                                            # points of top-1, on another machine
MACHINE = ("device", "threads", "torch", "torchvision")    # what the last bit depends on


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
        if self.differs_in:
            return abs(self.stored.top1 - self.now.top1) <= TOLERANCE
        return self.stored.top1 == self.now.top1


def choose(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """``count`` rows, drawn by ``seed`` from the rows in the order of their ids. Raises :class:`InputError` for none."""
    if not rows:
        raise InputError("There are no rows to compute again; name a profile that has some, as in --profile cifar10+cpu.")
    return random.Random(seed).sample(sorted(rows, key=lambda row: row.id), min(count, len(rows)))


def recheck(rows: Iterable[Row]) -> Iterator[Recheck]:
    """Compute each row again, with as many threads as it had; nothing is stored.

    Raises :class:`InputError` where images or teacher are missing, or are not those of the row.
    """
    import torch

    from oefsmc_lib import pipeline
    shared, threads = pipeline.Shared(), torch.get_num_threads()
    try:
        for row in rows:
            torch.set_num_threads(row.threads)
            _, now = pipeline.run(row.experiment(), shared, row.profile)
            if now.id != row.id:
                raise InputError(f"Row {row.id} cannot be computed again here: "
                                 f"{next((n for n in _SOURCES if getattr(row, n) != getattr(now, n)), 'the algorithm')} "
                                 "is not that of the row; use the images and the teacher that outputs/README.md names.")
            yield Recheck(row, now)
    finally:
        torch.set_num_threads(threads)


_SOURCES = ("teacher_sha256", "data_fingerprint", "ood_fingerprint", "algorithm")
