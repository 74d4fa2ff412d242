"""Which channels of a network that nobody here wrote can be removed, found in Torch-Pruning's dependency graph."""

import copy

import torch
from torch import nn

from oefsmc_lib.errors import InputError
from oefsmc_lib.images.npz import first_line
from oefsmc_lib.teacher.networks import Architecture


def groups(model: nn.Module, architecture: Architecture) -> dict[str, list[str]]:
    """``{convolution: the convolutions that read its channels}`` where these meet no residual stream and no head.

    Removing one of their channels touches only batch norms, depthwise convolutions and the inputs of following
    convolutions. Channels that are concatenated with others, split or reshaped (DenseNet, ShuffleNet, attention) have
    no single layer that reads them and stay. Raises :class:`InputError` for a network that cannot be traced.
    """
    try:
        return _groups(model, architecture)
    except Exception as error:  # the tracer runs the network's own code, which may raise anything
        raise InputError(
            f"{architecture.name} cannot be traced by Torch-Pruning ({type(error).__name__}: {first_line(error)}); "
            "use another network, of plain convolutions."
        ) from error


def _groups(model: nn.Module, architecture: Architecture) -> dict[str, list[str]]:
    import torch_pruning as tp

    tangled = (tp.ops._ConcatOp, tp.ops._SplitOp, tp.ops._ReshapeOp, tp.ops._OutputOp)
    # The graph is traced through autograd, and a teacher's weights are frozen: a copy's are not.
    copied = copy.deepcopy(model).cpu().requires_grad_(True).eval()
    with torch.enable_grad():
        graph = tp.DependencyGraph().build_dependency(copied, architecture.example())
    names, made = {module: name for name, module in copied.named_modules()}, {}
    for name, module in copied.named_modules():
        if not isinstance(module, nn.Conv2d) or module.groups > 1 or module not in graph.module2node:
            continue  # a layer that runs in training alone is in no graph
        inner, readers = True, []
        for dependency, _ in graph.get_pruning_group(module, tp.prune_conv_out_channels, [0]):
            target, shrinks = dependency.target.module, "out" in dependency.handler.__name__
            if isinstance(target, (nn.Linear, *tangled)):
                inner = False
            if isinstance(target, nn.Conv2d) and target is not module and (shrinks or target.groups > 1):
                # A depthwise convolution shrinks along; a grouped one would fall out of step with its groups.
                inner &= target.groups == target.in_channels == target.out_channels
            elif isinstance(target, nn.Conv2d) and target is not module:
                readers.append(names[target])
        if inner:
            made[name] = readers
    return made
