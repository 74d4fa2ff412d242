"""Known remedies for imbalance that use no OOD image: controls of notebook 06, no part of OE-FSMC."""

import torch
import torch.nn.functional as F
from torch import Tensor


def oversampled(labels: Tensor, counts: Tensor, source: torch.Generator) -> Tensor:
    """Positions of an epoch's images in random order; each class that has images is repeated up to the largest."""
    picked = []
    for j in counts.nonzero().flatten().tolist():
        members = (labels == j).nonzero().flatten()
        extra = torch.randint(0, len(members), (int(counts.max()) - len(members),), generator=source)
        picked.append(torch.cat([members, members[extra]]))
    order = torch.cat(picked)
    return order[torch.randperm(len(order), generator=source)]


def loss(kind: str, logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy with ``class_weights``, or with ``logit_adjustment``; ``counts`` (K,) are images of each class."""
    if kind == "class_weights":
        # M / (classes that have images * m_j): every such class weighs the same in all.
        weight = counts.sum() / (counts.count_nonzero() * counts.clamp_min(1))
        return (weight.to(logits.device)[labels] * F.cross_entropy(logits, labels, reduction="none")).mean()
    # Menon et al. 2021: add log prior; a class without images is out of the softmax.
    prior = (counts / counts.sum()).clamp_min(1e-12)
    return F.cross_entropy(logits + prior.log().to(logits.device), labels)
