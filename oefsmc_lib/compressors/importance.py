"""Which channels matter, and to whom: eq. 1, 5 and 6.

The paper leaves s_{k,j}, "the importance contribution of filter k to class j", open, and says that every
compressor keeps its own pruning. So by default (``contribution=own``) s_{k,j} is the compressor's own
criterion, restricted to images of class j where the criterion looks at images.

What eq. (5) can then change depends on the compressor:

* PRACTISE's recoverability R_b is an error on images, so R_{b,j} exists and the weights w_j matter.
* ||W||_1 (FSKD, MiR) and the group norms of CD look at no image. s_{k,j} is the same for every class, the
  weights add up to 1, and eq. (5) is eq. (1) and the compressor's own choice.

The other contributions are options that look at images. ``activation``, the default of version 2 of this
package, has nothing to say about classes without images, so filters that only these classes need are
removed. ``evidence`` takes the class of every pool image from the teacher's posterior, so that every class has
some. On CIFAR's development draws it won back most of what ``activation`` lost, on the embedded digits little;
none of them was better than ||W||_1 on both networks (notebook 06).
"""

from typing import cast

import torch
from torch import Tensor, nn

from oefsmc_lib.compressors import plans, taps
from oefsmc_lib.errors import InputError
from oefsmc_lib.images.fewshot import Samples


def class_shares(kind: str, few: Samples, aux: Samples | None, gamma_rates: Tensor) -> Tensor:
    r"""Eq. (6): w_j = p_j / sum_k p_k, (K,), under five readings of p_j.

    ``mixed`` (default): frequency in D_few and D_aux together, the one reading in which the words
    "relative frequency" hold and minority classes gain; ``complement``: Gamma_j; ``inverse``: one
    over the mixed frequency, empty classes 0; ``uniform``: 1/K; ``few``: beta_j, which is eq. (1).
    """
    classes = len(gamma_rates)
    few_counts = torch.bincount(few.labels.cpu(), minlength=classes).double()
    mixed = few_counts.clone()
    if aux is not None and len(aux):
        mixed += torch.bincount(aux.labels.cpu(), minlength=classes).double()
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
    sums = torch.zeros(classes, *values.shape[1:], dtype=values.dtype, device=values.device)
    sums.index_add_(0, labels, values)
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


def channel_activations(
    model: nn.Module, readers: list[str], images: Tensor, power: int = 1, chunk: int = 64
) -> tuple[dict[str, Tensor], Tensor]:
    """For each reading layer, mean over h, w of |A_k|^power per image and input channel: {reader: (N, C)}; and the
    network's logits (N, K)."""
    collected: dict[str, list[Tensor]] = {name: [] for name in readers}

    def see(name: str, tap: taps.Tap) -> None:
        a = tap.input.abs()
        a = a if power == 1 else a**power
        collected[name].append(a.mean((2, 3)) if a.dim() == 4 else a)

    logits = []
    with torch.no_grad(), taps.tapped(model, collected, see):
        for part in images.split(chunk):
            logits.append(model(part))
    return {name: torch.cat(parts) for name, parts in collected.items()}, torch.cat(logits)


def class_evidence(values: Tensor, posteriors: Tensor) -> Tensor:
    r"""s_{k,j} = sum_x P_T(j|x) a_k(x) / sum_x P_T(j|x): means (K, C) that every class has, also one without images.

    ``values`` (N, C) are a_k(x), ``posteriors`` (N, K) the teacher's P_T(j|x).
    """
    # s_kj = sum_x P_T(j|x) a_k(x) / sum_x P_T(j|x)
    return posteriors.T @ values / posteriors.sum(0).clamp_min(1e-12)[:, None]


def channel_taylor(model: nn.Module, readers: list[str], samples: Samples, chunk: int = 64) -> dict[str, Tensor]:
    """First-order Taylor contribution |mean over h, w of A * dCE/dA| per image, which uses the image's label.

    The only reading of s_{k,j} in which the drawn label of an OOD image decides what it contributes.
    """
    kept: dict[str, list[Tensor]] = {name: [] for name in readers}
    seen: dict[str, Tensor] = {}

    def see(_module, inputs, name):
        # A copy that autograd can see: the layers' weights are frozen, and ReLU works in place.
        seen[name] = inputs[0].clone().requires_grad_(True) if not inputs[0].requires_grad else inputs[0].clone()
        seen[name].retain_grad()
        return (seen[name],)

    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda m, i, name=name: see(m, i, name)) for name in kept
    ]
    try:
        with torch.enable_grad():
            for images, labels in zip(samples.images.split(chunk), samples.labels.split(chunk)):
                nn.functional.cross_entropy(model(images), labels, reduction="sum").backward()
                for name, a in seen.items():
                    product = a.detach() * cast(Tensor, a.grad)
                    kept[name].append((product.mean((2, 3)) if product.dim() == 4 else product).abs())
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts) for name, parts in kept.items()}


def top_channels(score: Tensor, keep: int) -> list[int]:
    """Positions of the ``keep`` largest scores, ascending; ties go to the lower channel, so counts are exact."""
    if not torch.isfinite(score).all():
        raise InputError("A channel's importance is not a finite number; the teacher's weights hold NaN or infinity.")
    order = torch.sort(score, descending=True, stable=True).indices
    return sorted(order[:keep].tolist())


def class_aware_scores(task, readers: dict[str, str], power: int = 1) -> dict[str, Tensor]:
    """Eq. (5) for every convolution of a plan: {convolution: (C,)}, of a :class:`~oefsmc_lib.compressors.Task`.

    ``readers`` maps a convolution to the layer that reads its channels. ``power=2`` gives mean squares, which CD needs.
    ``activation`` and ``taylor`` read D_few and D_aux with their labels, ``evidence`` D_few and the pool without.
    """
    model, contribution, names = task.teacher.model, task.experiment.contribution, list(readers.values())
    if contribution == "bn_scale":
        return {name: _bn_scale(model, name) for name in readers}
    if contribution.startswith("evidence"):
        values, logits = channel_activations(model, names, torch.cat([task.few.images, task.pool]), power)
        by_class = {name: class_evidence(values[reader], logits.softmax(1)) for name, reader in readers.items()}
        if contribution == "evidence_max":  # a filter stays if some class needs it
            return {name: s.amax(0) for name, s in by_class.items()}
        return {name: task.w.to(s) @ s for name, s in by_class.items()}
    both = task.few
    if task.aux is not None and len(task.aux):
        pairs = ((both.images, task.aux.images), (both.labels, task.aux.labels))
        both = Samples(*(torch.cat(pair) for pair in pairs))
    if contribution == "taylor":
        values = channel_taylor(model, names, both)
    else:
        values, _ = channel_activations(model, names, both.images, power)
    return {name: weighted(values[reader], both.labels, task.w) for name, reader in readers.items()}


def _bn_scale(model: nn.Module, convolution: str) -> Tensor:
    """|gamma| of the batch norm after a convolution; the same for every class, so eq. (5) changes nothing in it."""
    modules = list(model.named_modules())
    position = [name for name, _ in modules].index(convolution)
    for _, module in modules[position + 1 :]:
        if isinstance(module, nn.Conv2d):
            break
        if isinstance(module, nn.BatchNorm2d):
            return module.weight.detach().abs()
    raise InputError(f"contribution=bn_scale needs a batch norm after {convolution}; use contribution=activation.")


def choose_filters(task) -> dict[str, list[int]]:
    """The filters that FSKD and MiR keep: {convolution: channels}.

    By default those with the largest ||W[o]||_1. That looks at no image, so imbalance cannot bias it and eq. (5) cannot
    mend it. Where ``task.w`` is given the score is ||W[o]||_1 * s_o / mean(s), with s of eq. (5).
    """
    widths, readers = plans.pruned_layers(task)
    scores = {name: task.teacher.model.get_submodule(name).weight.detach().abs().sum((1, 2, 3)) for name in widths}
    if task.w is not None:
        for name, s in class_aware_scores(task, readers).items():
            scores[name] = scores[name] * s / s.mean().clamp_min(1e-12)
    return {name: top_channels(scores[name], keep) for name, keep in widths.items()}
