"""What a network costs: multiply-accumulates, parameters, bytes, and milliseconds."""

import time

import torch
from torch import nn


def macs_by_layer(model: nn.Module, architecture) -> dict[str, int]:
    """Multiply-accumulates of each convolution and linear layer for one image; one MAC is two FLOPs."""
    counted: dict[str, int] = {}

    def count(module, output, name):
        each = output[0].numel() * module.weight[0].numel() if isinstance(module, nn.Conv2d) else module.weight.numel()
        counted[name] = counted.get(name, 0) + each

    handles = [
        module.register_forward_hook(lambda m, _x, y, name=name: count(m, y, name))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    training = model.training
    with torch.no_grad():
        model.eval()(architecture.example().to(next(model.parameters()).device))
    model.train(training)
    for handle in handles:
        handle.remove()
    return counted


def macs(model: nn.Module, architecture) -> int:
    """Multiply-accumulates of all of them together."""
    return sum(macs_by_layer(model, architecture).values())


def parameters(model: nn.Module) -> int:
    """Weights and biases of convolutions, batch norms and the head."""
    return sum(parameter.numel() for parameter in model.parameters())


def file_size(model: nn.Module) -> int:
    """Bytes of the tensors as saved, float32, buffers included."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


@torch.no_grad()
def latency(model: nn.Module, architecture, batch: int = 1, runs: int = 20) -> float:
    """Median milliseconds of a forward pass of ``batch`` images on the model's device, after five to warm up."""
    device = next(model.parameters()).device
    x = torch.randn(batch, architecture.channels, architecture.image_size, architecture.image_size, device=device)
    model.eval()
    taken = []
    for run in range(runs + 5):
        if device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        model(x)
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(1000 * (time.perf_counter() - begin))
    return float(torch.tensor(taken[5:]).median())
