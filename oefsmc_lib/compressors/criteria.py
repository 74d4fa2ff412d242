"""Contributions s_{k,j} of channels that look at images: options beside each compressor's own criterion.

The paper leaves s_{k,j} open, so none of them is the paper's. What each can and cannot do stands in
:mod:`oefsmc_lib.compressors.importance`.
"""

from typing import cast

import torch
from torch import Tensor, nn

from oefsmc_lib.compressors import importance, taps
from oefsmc_lib.errors import InputError
from oefsmc_lib.images.fewshot import Samples


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
    both = task.few.joined(task.aux)
    if contribution == "taylor":
        values = channel_taylor(model, names, both)
    else:
        values, _ = channel_activations(model, names, both.images, power)
    return {name: importance.weighted(values[reader], both.labels, task.w) for name, reader in readers.items()}


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
