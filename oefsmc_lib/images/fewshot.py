"""The few images: how many of each class, in which class order, and which ones."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from oefsmc_lib.errors import InputError


def generator(seed: int, purpose: str) -> torch.Generator:
    """A generator for one purpose ("few", "pool", "labels", "training"), independent of the others.

    So adding OOD images leaves the few-shot draw as it was, and variants of a seed are paired.
    """
    number = int.from_bytes(hashlib.sha256(f"{seed}:{purpose}".encode()).digest()[:7], "big")
    return torch.Generator().manual_seed(number)


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
    """Integers in proportion to ``weights``: ``largest_remainder`` adds up to ``num`` and may leave classes empty;
    ``floor`` loses images (10 become 7); ``at_least_one`` first gives each class one (10 become balanced)."""
    if rounding == "floor":
        return [int(num * weight / sum(weights) + 1e-9) for weight in weights]
    if rounding == "at_least_one":
        if num < len(weights):
            raise InputError(f"rounding=at_least_one needs an image for each of {len(weights)} classes, but num={num}.")
        return [1 + count for count in largest_remainder(weights, num - len(weights))]
    return largest_remainder(weights, num)


def long_tailed_counts(num: int, classes: int, ratio: float, rounding: str = "largest_remainder") -> list[int]:
    """``num`` images, class j in proportion to ratio^(-j/(K-1)); classes may get none.

    With few images the integers cannot keep the ratio: 10 images of 10 classes at ratio 100 are
    4 2 2 1 1 0 0 0 0 0. Differs from LDAM's convention, which fixes the largest class instead.
    """
    return rounded([ratio ** (-j / max(classes - 1, 1)) for j in range(classes)], num, rounding)


def step_counts(num: int, classes: int, ratio: float, rounding: str = "largest_remainder") -> list[int]:
    """The first half of the classes (rounded up) weighs ``ratio`` times the second half."""
    head = (classes + 1) // 2
    return rounded([1.0] * head + [1 / ratio] * (classes - head), num, rounding)


def counts_by_rank(experiment, classes: int) -> list[int]:
    """Images of the head class first, in the order of ranks, whatever the imbalance."""
    if experiment.imbalance == "counts":
        if len(experiment.counts) != classes:
            raise InputError(f"counts names {len(experiment.counts)} classes, but {experiment.dataset} has {classes}.")
        return list(experiment.counts)
    if experiment.imbalance == "balanced":
        return largest_remainder([1.0] * classes, experiment.num)
    rule = {"long_tail": long_tailed_counts, "step": step_counts}[experiment.imbalance]
    return rule(experiment.num, classes, experiment.ratio, experiment.rounding)


def class_order(experiment, classes: int) -> list[int]:
    """Which class has which rank: permuted by the seed, so that no class is always the head."""
    if experiment.class_order == "index":
        return list(range(classes))
    return torch.randperm(classes, generator=generator(experiment.seed, "classes")).tolist()


@dataclass(frozen=True)
class Draw:
    """D_few: positions in the training set, images per class, and the classes from head to tail."""

    indices: list[int]
    counts: list[int]  # by class index
    order: list[int]  # class indices, head first


def draw(labels: Tensor, classes: int, experiment) -> Draw:
    """Draw D_few from training labels (N,), without replacement.

    Each class is shuffled once by the seed and its first m_j images are taken, so of two draws of a
    seed the one with more images of a class contains the other's of that class. Raises
    :class:`InputError` when a class has too few images.
    """
    order = class_order(experiment, classes)
    source = generator(experiment.seed, "few")
    counts = [0] * classes
    for rank, count in enumerate(counts_by_rank(experiment, classes)):
        counts[order[rank]] = count
    indices: list[int] = []
    for j in range(classes):
        members = (labels == j).nonzero().flatten()
        shuffled = members[torch.randperm(len(members), generator=source)]
        if counts[j] > len(members):
            raise InputError(
                f"Class {j} of {experiment.dataset} has {len(members)} training images, but the draw needs "
                f"{counts[j]}; lower num or ratio."
            )
        indices += shuffled[: counts[j]].tolist()
    if not indices:
        raise InputError(f"rounding={experiment.rounding} leaves no image of num={experiment.num}; raise num.")
    return Draw(indices, counts, order)


@dataclass(frozen=True)
class Samples:
    """Images ready for a network: float32 (N, C, H, W), normalised; labels int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)


def groups(counts: list[int]) -> list[str]:
    """Class groups: ``head`` (m_j > M/K), ``tail`` (1 ... M/K) and ``absent`` (0)."""
    even = sum(counts) / len(counts)
    return ["absent" if not c else "head" if c > even else "tail" for c in counts]
