"""Pruning plans: how many channels each convolution keeps, which ones, and which blocks could be dropped.

Every plan of the four papers becomes one form, ``{convolution: output channels kept}``. CD lists
the *inputs* of the next convolution instead; that is the same number (methods of CD, §1.1).
"""

import re
from typing import Any

from torch import nn

from oefsmc_lib.compressors import criteria, importance, inner, surgery
from oefsmc_lib.errors import InputError
from oefsmc_lib.teacher.networks import VGG, Architecture, ResNet, segments

# VGG-16, conv1..13; "-" keeps all. Sources: FSKD release; CD release (inputs of conv l+1 = outputs of conv l).
VGG_PLANS: dict[str, list[int | str]] = {
    "half": [32, 32, 64, 64, 128, 128, 128, 256, 256, 256, 256, 256, 256],
    "prune_a": [32, 64, 128, 128, 256, 256, 256, 256, 256, 256, 256, 256, 256],
    "cd_half": [32, 32, 64, 64, 128, 128, 128, 256, 256, 256, 256, 256, "-"],
    "cfg_a": [32, 64, 128, 128, 256, 256, 256, 256, 256, 256, 256, 256, "-"],
    "cfg_b": [26, 52, 103, 103, 205, 205, 205, 205, 256, 205, 205, 205, "-"],
    "cfg_c": [26, 32, 64, 64, 128, 128, 128, 128, 128, 205, 205, 205, "-"],
}
# Residual networks: the share that conv1 of a block keeps, and the blocks that are left alone.
RESIDUAL_PLANS = ("all_inner", "skip_first", "skip_ends", "cd_half")


def plan_widths(plan: str, model: nn.Module, architecture: Architecture) -> dict[str, int]:
    """``{convolution: kept output channels}`` of a named plan, in forward order.

    Raises :class:`InputError` for an unknown plan, one for another network, one that removes
    nothing, or one that would leave a convolution without channels.
    """
    plans = [*(VGG_PLANS if isinstance(model, VGG) else RESIDUAL_PLANS if _blocks(model) else ()), "inner_half"]
    if plan not in plans:
        raise InputError(f"The plan {plan!r} is not one for {architecture.name}; it has {', '.join(plans)}.")
    if plan == "inner_half":
        widths = {
            name: surgery.convolution(model, name).out_channels // 2 for name in inner.groups(model, architecture)
        }
    else:
        widths = _vgg_widths(plan, model, architecture) if isinstance(model, VGG) else _residual_widths(plan, model)
    if not widths:
        raise InputError(f"The plan {plan!r} removes nothing from {architecture.name}; use another plan or model.")
    if empty := [name for name, kept in widths.items() if kept < 1]:
        raise InputError(
            f"The plan {plan!r} leaves {empty[0]} of {architecture.name} (width {architecture.width:g}) "
            "without a channel; use a wider network or another plan."
        )
    return widths


def pruned_layers(task) -> tuple[dict[str, int], dict[str, str]]:
    """The plan of a task: ``{convolution: kept output channels}``, and ``{convolution: the layer that reads them}``."""
    teacher = task.teacher
    widths = task.widths or plan_widths(task.experiment.resolved_plan, teacher.model, teacher.architecture)
    layers = surgery.weight_layers(teacher.model, teacher.architecture)
    widths = {name: widths[name] for name in layers if name in widths}  # in forward order
    return widths, {name: surgery.consumer(layers, teacher.model, name) for name in widths}


def choose_filters(task) -> dict[str, list[int]]:
    """The filters that FSKD and MiR keep: {convolution: channels}.

    By default those with the largest ||W[o]||_1. Where ``task.w`` is given the score is ||W[o]||_1 * s_o / mean(s),
    with s of eq. (5).
    """
    widths, readers = pruned_layers(task)
    scores = {name: task.teacher.model.get_submodule(name).weight.detach().abs().sum((1, 2, 3)) for name in widths}
    if task.w is not None:
        for name, s in criteria.class_aware_scores(task, readers).items():
            scores[name] = scores[name] * s / s.mean().clamp_min(1e-12)
    return {name: importance.top_channels(scores[name], keep) for name, keep in widths.items()}


def _vgg_widths(plan: str, model: VGG, architecture: Architecture) -> dict[str, int]:
    full = {name: module.out_channels for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    kept = [int(k * architecture.width) if isinstance(k, int) else None for k in VGG_PLANS[plan]]
    return {name: k for name, k in zip(full, kept, strict=True) if k not in (None, full[name])}


def _blocks(model: nn.Module) -> list[tuple[str, Any, int, int, int]]:
    """Basic residual blocks: (name, block, stage from 0, index in the stage, blocks in the stage)."""
    found = []
    layers: list[tuple[str, Any]] = [(n, m) for n, m in model.named_children() if re.fullmatch(r"layer\d", n)]
    for stage, (name, layer) in enumerate(layers):
        for index, block in enumerate(layer):
            if not (hasattr(block, "conv2") and not hasattr(block, "conv3")):
                return []  # bottlenecks: the plans speak of two convolutions
            found.append((f"{name}.{index}", block, stage, index, len(layer)))
    return found


def _residual_widths(plan: str, model: nn.Module) -> dict[str, int]:
    small, widths, blocks = isinstance(model, ResNet), {}, _blocks(model)
    third = len(blocks) // 3
    for number, (name, block, stage, index, count) in enumerate(blocks):
        # CD's rule for ResNet-56 spares four blocks; the same places scaled to any depth. CD's script for ResNet-34
        # prunes blocks 1.0, 1.1, 2.0, 2.1 and 3.0-3.3 only.
        places = (third - 2, third, 2 * third, len(blocks) - 1)
        by_cd = number in places if small else index >= {0: 2, 1: 2, 2: 4}.get(stage, 0)
        skip_first, skip_ends = index == 0, index in (0, count - 1)
        spared = {"all_inner": False, "skip_first": skip_first, "skip_ends": skip_ends, "cd_half": by_cd}
        if not spared[plan]:
            widths[f"{name}.conv1"] = block.conv1.out_channels // 2 + (small and plan == "cd_half")
    return widths


def droppable_units(model: nn.Module) -> list[str]:
    """PRACTISE's candidates, in forward order.

    Residual networks: every block but the first of a stage. MobileNetV2: blocks with stride 1 and
    equal widths. VGG-16 (our extension, PRACTISE has no rule for it): a convolution with equal
    input and output widths, named for itself, its BN and its ReLU. Raises :class:`InputError`
    when the network has none.
    """
    if isinstance(model, VGG):
        units = [
            f"features.{name}"
            for name, module in model.features.named_children()
            if isinstance(module, nn.Conv2d) and module.in_channels == module.out_channels
        ]
    elif any(re.fullmatch(r"layer\d", name) for name, _ in model.named_children()):
        units = [name for name, _ in segments(model) if re.fullmatch(r"layer\d\.[1-9]\d*", name)]
    else:
        units = [name for name, piece in segments(model) if getattr(piece, "use_res_connect", False)]
    if not units:
        raise InputError(
            f"PRACTISE found no droppable block in {type(model).__name__}: it drops residual blocks "
            "with equal input and output; use method=fskd, cd or mir."
        )
    return units


def units_to_drop(plan: str, candidates: list[str]) -> int:
    """k of ``dropk``; raises :class:`InputError` when not so many can be dropped."""
    k = int(plan.removeprefix("drop"))
    if k > len(candidates):
        have = f"{len(candidates)} droppable ones: {', '.join(candidates)}"
        raise InputError(f"The plan {plan} drops {k} blocks, but the network has {have}.")
    return k
