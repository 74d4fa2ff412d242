"""Which channels matter, and to whom: eq. 1, 5 and 6.

The paper leaves s_{k,j}, "the importance contribution of filter k to class j", open, and keeps every
compressor's hyperparameters and pruning ratios. So by default (``contribution=own``) s_{k,j} is the compressor's own
criterion, restricted to images of class j where the criterion looks at images:

* PRACTISE's recoverability R_b is an error on images, so R_{b,j} exists and the weights w_j matter.
* ||W||_1 (FSKD, MiR) and the group norms of CD do not split by class. s_{k,j} is the same for every class, the
  weights add up to 1, and eq. (5) is eq. (1) and the compressor's own choice.

The other contributions are options that look at images (:mod:`oefsmc_lib.compressors.criteria`). ``activation`` has
nothing to say about classes without images, so filters that only these classes need are removed. ``evidence`` takes
the class of every pool image from the teacher's posterior, so that every class has some. None of them was better than
||W||_1 on both networks (notebook 06).
"""

import torch
from torch import Tensor

from oefsmc_lib.errors import InputError
from oefsmc_lib.images.fewshot import Samples


def class_shares(kind: str, few: Samples, aux: Samples | None, gamma_rates: Tensor) -> Tensor:
    r"""Eq. (6): w_j = p_j / sum_k p_k, (K,), under five readings of p_j.

    ``mixed`` (default): frequency in D_few and D_aux together, the one reading in which the words
    "relative frequency" hold and minority classes gain; ``complement``: Gamma_j; ``inverse``: one
    over the mixed frequency, empty classes 0; ``uniform``: 1/K; ``few``: beta_j, which is eq. (1).
    """
    classes = len(gamma_rates)
    few_counts, aux_counts = (torch.tensor(s.counts(classes) if s else [0]).double() for s in (few, aux))
    mixed = few_counts + aux_counts
    p = {
        "mixed": mixed,
        "complement": gamma_rates.double(),
        "uniform": torch.ones(classes).double(),
        "inverse": torch.where(mixed > 0, 1 / mixed.clamp_min(1), 0.0),
        "few": few_counts,
    }[kind]
    # w_j = p_j / sum_k p_k
    return p / p.sum()


def class_means(values: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Values by image (N, ...) -> s_{k,j}, means (K, ...) over each class's images; and which classes have any."""
    counts = torch.bincount(labels, minlength=classes).to(values)
    sums = values.new_zeros(classes, *values.shape[1:]).index_add_(0, labels, values)
    shape = (-1,) + (1,) * (values.dim() - 1)
    return sums / counts.clamp_min(1).view(shape), counts > 0


def weighted(values: Tensor, labels: Tensor, w: Tensor) -> Tensor:
    """Eq. (5): s_k = sum_j w_j s_{k,j}, over the classes that have images; w is renormalised over them.

    With w_j = m_j / M this is eq. (1). ``values`` (N, C) per image, result (C,). Raises
    :class:`InputError` when every class with images has weight 0.
    """
    means, present = class_means(values, labels, len(w))
    w = torch.where(present, w.to(values), 0.0)
    if w.sum() <= 0:
        raise InputError("Eq. 5 has weight 0 on every class that has images; use w=mixed, or more images.")
    # s_k = sum_j w_j s_kj
    return torch.tensordot(w / w.sum(), means, dims=1)


def top_channels(score: Tensor, keep: int) -> list[int]:
    """Positions of the ``keep`` largest scores, ascending; ties go to the lower channel, so counts are exact."""
    if not torch.isfinite(score).all():
        raise InputError("A channel's importance is not a finite number; the teacher's weights hold NaN or infinity.")
    order = torch.sort(score, descending=True, stable=True).indices
    return sorted(order[:keep].tolist())
