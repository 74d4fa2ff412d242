"""Changing a network's shape: removing channels, dropping blocks, merging 1x1 convolutions.

Channel removal goes through Torch-Pruning's dependency graph, so that it works on a network that
nobody here wrote. What was done is recorded in a :class:`Structure`, from which the same network
is built again without its teacher.
"""

import copy
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from oefsmc_lib.compressors import taps
from oefsmc_lib.errors import InputError
from oefsmc_lib.teacher.networks import VGG, Architecture


@dataclass
class Structure:
    """What surgery did to an architecture: units dropped, channels kept."""

    architecture: Architecture
    dropped: list[str] = field(default_factory=list)
    kept: dict[str, list[int]] = field(default_factory=dict)


@dataclass
class Student:
    """A compressed network, how it differs from its teacher, and what its method noted."""

    model: nn.Module
    structure: Structure
    notes: dict = field(default_factory=dict)


def trace(model: nn.Module, architecture: Architecture) -> tuple[list[str], dict[str, str]]:
    """Convolutions and linear layers in the order in which a forward pass runs them, and {convolution: the batch norm
    that directly follows it}. A batch norm with an activation of its own (timm) is none: nothing merges behind it."""
    order: list[str] = []
    pairs: dict[str, str] = {}
    makers: dict[Tensor, str] = {}  # by identity
    kinds = {name: m for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.BatchNorm2d))}

    def see(name: str, tap: taps.Tap) -> None:
        if not isinstance(kinds[name], nn.BatchNorm2d):
            order.append(name)
            makers[tap.output] = name
        elif (made := makers.pop(tap.input, None)) and isinstance(
            getattr(kinds[name], "act", None), nn.Identity | None
        ):
            pairs[made] = name

    with torch.no_grad(), taps.tapped(model, kinds, see):
        model.eval()(architecture.example().to(next(model.parameters()).device))
    if twice := {name for name in order if order.count(name) > 1}:
        raise InputError(
            f"{architecture.name} runs the layer {min(twice)} twice in one pass, so a change of it cannot "
            "be fitted to one place; use a network without shared layers."
        )
    return order, pairs


def weight_layers(model: nn.Module, architecture: Architecture) -> list[str]:
    """Names of convolutions and linear layers in the order in which a forward pass runs them."""
    return trace(model, architecture)[0]


def consumer(layers: list[str], model: nn.Module, name: str) -> str:
    """The layer that reads the channels of ``name``: the next one that mixes channels."""
    behind = layers[layers.index(name) + 1 :]
    mixing = [layer for layer in behind if getattr(model.get_submodule(layer), "groups", 1) == 1]
    if not mixing:
        raise InputError(f"No layer follows {name}, so its channels cannot be removed; leave it out of the plan.")
    return mixing[0]


def convolution(model: nn.Module, name: str) -> nn.Conv2d:
    """The convolution of this name."""
    return cast(nn.Conv2d, model.get_submodule(name))


def remove_channels(model: nn.Module, kept: dict[str, list[int]], architecture: Architecture) -> None:
    """Keep only the named output channels of each convolution, in place; the network is frozen.

    Batch norms, depthwise convolutions and the inputs of following layers shrink with them.
    """
    import torch_pruning as tp

    if not kept:
        return
    model.eval().requires_grad_(True)  # the graph is traced through autograd
    example = architecture.example().to(next(model.parameters()).device)
    with torch.enable_grad():
        graph = tp.DependencyGraph().build_dependency(model, example)
    for name, keep in kept.items():
        conv = convolution(model, name)
        if not keep or len(set(keep)) != len(keep) or max(keep) >= conv.out_channels or min(keep) < 0:
            raise InputError(
                f"The channels to keep in {name} do not fit its {conv.out_channels} outputs; "
                "the plan is for another network."
            )
        if drop := sorted(set(range(conv.out_channels)) - set(keep)):
            graph.get_pruning_group(conv, tp.prune_conv_out_channels, drop).prune()
    model.requires_grad_(False)


def drop_units(model: nn.Module, names: list[str]) -> None:
    """Replace blocks by the identity, in place; of VGG-16 a convolution with its BN and ReLU."""
    for name in names:
        parent, _, child = name.rpartition(".")
        stack = cast(nn.Sequential, model.get_submodule(parent))
        stack[int(child)] = nn.Identity()
        if isinstance(model, VGG):
            stack[int(child) + 1] = nn.Identity()
            stack[int(child) + 2] = nn.Identity()


@torch.no_grad()
def merge(q: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> None:
    r"""Merge a 1x1 convolution Q (C, C) behind ``conv``, or behind ``conv`` and its batch norm, in place.

    Without a batch norm W' = Q W and b' = Q b. With one, d = g/s and s = sqrt(var + eps) being its scale,

        Q BN(W x + b) = V x - Q D (mu - b) + Q beta,      V = Q diag(d) W,

    is written as a convolution and a batch norm again: each row of V gets back the norm that W's row had,
    W'_o = V_o / d'_o, |d'_o| = ||V_o|| / ||W_o||, so that a later gradient step is as large as the teacher's
    would be; mu' = Q D mu / d', b' = Q D b / d', beta' = Q beta, g' = d' s. The running variance stays, which
    is right in eval mode. A depthwise convolution takes a diagonal ``q`` (C,), which scales.
    """
    old, full = conv.weight.double(), torch.diag(q.double()) if q.dim() == 1 else q.double()
    if norm is None:
        mixed, scale = full, torch.ones_like(full[0])
        rows = _mixed_rows(mixed, old, conv.groups)
    else:
        mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        spread = (variance.double() + norm.eps).sqrt()
        mixed = full * (norm.weight.double() / spread)
        rows = _mixed_rows(mixed, old, conv.groups)
        lengths = [w.flatten(1).norm(dim=1) for w in (rows, old)]
        alive = lengths[0] > 0  # a row of zeros in W that Q fills has no length to get back
        scale = torch.where(norm.weight < 0, -1.0, 1.0) * torch.where(
            alive & (lengths[1] > 0), lengths[0] / lengths[1], 1.0
        )
        rows = torch.where(alive.view(-1, 1, 1, 1), rows, old * scale.view(-1, 1, 1, 1))
        mean.copy_(mixed @ mean.double() / scale)
        norm.bias.copy_(full @ norm.bias.double())
        norm.weight.copy_(torch.where(alive, scale, 0.0) * spread)
    if conv.bias is not None:
        conv.bias.copy_(mixed @ conv.bias.double() / scale)
    conv.weight.copy_(rows / scale.view(-1, 1, 1, 1))


def _mixed_rows(mixed: Tensor, weight: Tensor, groups: int) -> Tensor:
    if groups > 1:
        return mixed.diagonal().view(-1, 1, 1, 1) * weight
    return torch.einsum("oc,cikl->oikl", mixed, weight)


def pruned_copy(teacher, kept: dict[str, list[int]]) -> Student:
    """The teacher with channels removed: every method of channels starts here."""
    model = copy.deepcopy(teacher.model)
    remove_channels(model, kept, teacher.architecture)
    return Student(model, Structure(teacher.architecture, kept=kept))
