"""The few images, D_few: how many of each class, in which class order, and which ones."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oefsmc_lib.errors import InputError
from oefsmc_lib.parameters.experiment import Experiment


def generator(seed: int, purpose: str) -> torch.Generator:
    """A generator for one purpose ("few", "pool", "labels", "training"), independent of the others.

    Adding OOD images therefore leaves the few images as they were, and the variants of a seed are paired.
    """
    number = int.from_bytes(hashlib.sha256(f"{seed}:{purpose}".encode()).digest()[:7], "big")
    return torch.Generator().manual_seed(number)


# --- how many of each class --------------------------------------------------------------------
def largest_remainder(weights: list[float], total: int) -> list[int]:
    """Integers that add up to ``total``, in proportion to ``weights``; ties go to the earlier class."""
    scale = total / sum(weights)
    exact = [weight * scale for weight in weights]
    counts = [int(value + 1e-9) for value in exact]
    order = sorted(range(len(weights)), key=lambda j: (-(round(exact[j] - counts[j], 9)), j))
    for j in order[: total - sum(counts)]:
        counts[j] += 1
    return counts


def rounded(weights: list[float], num: int, rounding: str) -> list[int]:
    """Integers in proportion to ``weights`` by one of three rules.

    ``largest_remainder`` adds up to ``num`` and may leave classes empty. ``floor`` loses images: 10 become 7.
    ``at_least_one`` first gives each class one image, so 10 images of 10 classes become balanced. It raises
    :class:`InputError` when there are fewer images than classes.
    """
    if rounding == "floor":
        return [int(num * weight / sum(weights) + 1e-9) for weight in weights]
    if rounding == "at_least_one":
        if num < len(weights):
            raise InputError(f"rounding=at_least_one needs an image for each of {len(weights)} classes, but num={num}.")
        return [1 + count for count in largest_remainder(weights, num - len(weights))]
    return largest_remainder(weights, num)


def long_tailed_counts(num: int, classes: int, ratio: float, rounding: str = "largest_remainder") -> list[int]:
    """``num`` images in a long tail: class j = 0 ... K-1 in proportion to ratio^(-j/(K-1)).

    With few images the integers cannot keep the ratio: 10 images of 10 classes at ratio 100 are
    4 2 2 1 1 0 0 0 0 0. Differs from the convention of LDAM (Cao et al., 2019), which fixes the largest class instead
    of the total.
    """
    return rounded([ratio ** (-j / max(classes - 1, 1)) for j in range(classes)], num, rounding)


def step_counts(num: int, classes: int, ratio: float, rounding: str = "largest_remainder") -> list[int]:
    """``num`` images in a step: a class of the first half (rounded up) weighs ``ratio`` times one of the second."""
    head = (classes + 1) // 2
    return rounded([1.0] * head + [1 / ratio] * (classes - head), num, rounding)


def counts_by_rank(experiment: Experiment, classes: int) -> list[int]:
    """Images of each class (K,) in the order of ranks, the head class first."""
    if experiment.counts is not None:  # imbalance=counts
        if len(experiment.counts) != classes:
            raise InputError(f"counts names {len(experiment.counts)} classes, but {experiment.dataset} has {classes}.")
        return list(experiment.counts)
    if experiment.imbalance == "balanced":
        return largest_remainder([1.0] * classes, experiment.num)
    rule = {"long_tail": long_tailed_counts, "step": step_counts}[experiment.imbalance]
    return rule(experiment.num, classes, experiment.ratio, experiment.rounding)


def groups(counts: list[int]) -> list[str]:
    """The group of each class: ``head`` (m_j > M/K), ``tail`` (1 ... M/K) or ``absent`` (0)."""
    even = sum(counts) / len(counts)
    return ["absent" if not c else "head" if c > even else "tail" for c in counts]


# --- which ones --------------------------------------------------------------------------------
@dataclass(frozen=True)
class Draw:
    """D_few as positions in the training set."""

    indices: list[int]  # (M,)
    counts: list[int]  # (K,) images m_j of each class
    order: list[int]  # (K,) classes from head to tail


@dataclass(frozen=True)
class Samples:
    """Images as a network reads them, with their labels."""

    images: Tensor  # (N, C, H, W) float32, normalised
    labels: Tensor  # (N,) int64

    def __len__(self) -> int:
        return len(self.images)

    def counts(self, classes: int) -> list[int]:
        """Images of each class."""
        return torch.bincount(self.labels.cpu(), minlength=classes).tolist()

    def joined(self, other: "Samples | None") -> "Samples":
        """These, and behind them the others."""
        if other is None:
            return self
        return Samples(torch.cat([self.images, other.images]), torch.cat([self.labels, other.labels]))


def class_order(experiment: Experiment, classes: int) -> list[int]:
    """Which class has which rank. The seed permutes the classes, so that no class is always the head."""
    if experiment.class_order == "index":
        return list(range(classes))
    return torch.randperm(classes, generator=generator(experiment.seed, "classes")).tolist()


def counts_of(experiment: Experiment, have: Sequence[int], names: Sequence[str] | None = None) -> list[int]:
    """Images m_j that the draw takes of each class (K,), of which there are ``have``.

    Raises :class:`InputError` for a class with fewer, and says what num would do.
    """
    order, classes = class_order(experiment, len(have)), range(len(have))
    wanted = dict(zip(order, counts_by_rank(experiment, len(have))))
    counts = [wanted[j] for j in classes]
    short = next((j for j in classes if counts[j] > have[j]), None)
    if short is None:
        return counts
    way_out = "lower counts"
    if experiment.imbalance != "counts":
        fewest = len(have) if experiment.rounding == "at_least_one" else 1
        smaller = [experiment.model_copy(update={"num": num}) for num in range(fewest, experiment.num)]
        tried = {each.num: counts_by_rank(each, len(have)) for each in smaller}
        largest = max((num for num, m in tried.items() if all(n <= have[j] for j, n in zip(order, m))), default=0)
        # For every seed: any class may be the head.
        always = max((num for num, m in tried.items() if max(m) <= min(have)), default=0)
        way_out = f"the largest possible num is {largest} for seed {experiment.seed} and {always} for every seed"
    said = f"{short} ({names[short]})" if names else f"{short}"
    raise InputError(
        f"Class {said} of {experiment.dataset} has {have[short]} training images, but the draw needs {counts[short]}; "
        f"{way_out}, or add images."
    )


def draw(labels: Tensor, classes: int, experiment: Experiment, names: Sequence[str] | None = None) -> Draw:
    """Draw D_few from training labels (N,), without replacement.

    The seed shuffles each class once, and its first m_j images are taken. Of two draws of a seed, the one with more
    images of a class therefore contains the other's images of that class. Raises :class:`InputError` when a class has
    too few images, or when rounding leaves none at all.
    """
    counts = counts_of(experiment, torch.bincount(labels, minlength=classes).tolist(), names)
    source = generator(experiment.seed, "few")
    indices: list[int] = []
    for j, count in enumerate(counts):
        members = (labels == j).nonzero().flatten()
        indices += members[torch.randperm(len(members), generator=source)][:count].tolist()
    if not indices:
        raise InputError(f"rounding={experiment.rounding} leaves no image of num={experiment.num}; raise num.")
    return Draw(indices, counts, class_order(experiment, classes))
