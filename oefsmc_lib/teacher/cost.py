"""What a network costs: multiply-accumulates, parameters and bytes; :mod:`latency` measures milliseconds."""

import torch
from torch import nn


def macs_by_layer(model: nn.Module, architecture) -> dict[str, int]:
    """Multiply-accumulates of each convolution and linear layer for one image; one MAC is two FLOPs.

    Counted by torch in one pass of an all-zero image. The figures are those of the specification, section 0.1.
    """
    from torch.utils.flop_counter import FlopCounterMode

    training = model.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(architecture.example().to(next(model.parameters()).device))
    model.train(training)
    flops, root = counter.get_flop_counts(), type(model).__name__  # by the path of the module, {root}.{name}
    return {
        name: sum(flops[f"{root}.{name}"].values()) // 2
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and f"{root}.{name}" in flops
    }


def macs(model: nn.Module, architecture) -> int:
    """Multiply-accumulates of all of them together."""
    return sum(macs_by_layer(model, architecture).values())


def parameters(model: nn.Module) -> int:
    """Weights and biases of convolutions, batch norms and the head."""
    return sum(parameter.numel() for parameter in model.parameters())


def file_size(model: nn.Module) -> int:
    """Bytes of the tensors as saved, float32, buffers included."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def of(model: nn.Module, architecture) -> dict[str, int]:
    """``macs``, ``parameters`` and ``bytes`` of a network."""
    return {"macs": macs(model, architecture), "parameters": parameters(model), "bytes": file_size(model)}
