"""What compression cost, with intervals, from images that no stage saw."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from oefsmc_lib.images.fewshot import generator
from oefsmc_lib.progress import bar

BATCH = 32


def wilson(right: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson, in percent; it stays within 0-100 and is honest for few images.

    >>> [round(end, 1) for end in wilson(9, 10)]
    [59.6, 98.2]
    """
    from scipy.stats import binomtest

    if of == 0:
        return 0.0, 100.0
    found = binomtest(right, of).proportion_ci(method="wilson")
    return 100 * float(found.low), 100 * float(found.high)


def share(right: Tensor) -> dict:
    """``percent``, ``low``, ``high``, ``images`` of a bool tensor (N,)."""
    hits, count = int(right.sum()), len(right)
    low, high = wilson(hits, count)
    percent = round(100 * hits / count, 2) if count else None
    return {"percent": percent, "low": round(low, 2), "high": round(high, 2), "images": count}


@torch.no_grad()
def guesses(model: nn.Module, images: Tensor, inputs: Callable[[Tensor], Tensor]) -> Tensor:
    """Predicted classes (N,) of raw images; ``inputs`` makes of them what the network reads."""
    return torch.cat([model(inputs(part)).argmax(1).cpu() for part in images.split(BATCH)])


def folds(labels: Tensor | None, count: int, parts: int, seed: int = 0) -> Tensor:
    """The fold (N,) that each of ``count`` images is held out in; every class is spread over the folds.

    >>> folds(torch.tensor([0, 0, 0, 1, 1, 1]), 6, 3).bincount().tolist()
    [2, 2, 2]
    """
    order = torch.randperm(count, generator=generator(seed, "folds"))
    if labels is not None:
        order = order[labels[order].argsort(stable=True)]
    found = torch.empty(count, dtype=torch.int64)
    found[order] = torch.arange(count) % parts
    return found


def cross_validated(few: Tensor, held_in: Tensor, fit: Callable[[Tensor], nn.Module], inputs) -> Tensor:
    """Classes (N,) that students guess for few images they never saw; ``fit(held)`` makes one without those images."""
    found = torch.empty(len(held_in), dtype=torch.int64)
    for fold in bar(range(int(held_in.max()) + 1), "cross-validation"):
        held = held_in == fold
        found[held] = guesses(fit(held), few[held], inputs)
    return found


def compared(before: Tensor, after: Tensor, labels: Tensor | None, class_names: Sequence[str]) -> dict:
    """Teacher's and student's classes (N,) against the labels and against each other, overall and by class."""
    found: dict = {"agreement": share(before == after)}
    if labels is None:
        return found
    found |= {"teacher": share(before == labels), "student": share(after == labels)}
    found["lost"] = int(((before == labels) & (after != labels)).sum())
    found["won"] = int(((before != labels) & (after == labels)).sum())
    found["classes"] = [
        {"name": name, "teacher": share((before == j)[labels == j]), "student": share((after == j)[labels == j])}
        for j, name in enumerate(class_names)
    ]
    return found
