"""Looking into a forward pass: what a layer reads and writes, and what a residual block adds behind it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn


class Reached(Exception):
    """The forward pass has seen the layer that it ran for, and need not go on."""


@dataclass(frozen=True)
class Tap:
    """Input and output of one layer in one forward pass, and the input of the residual block that closes with it."""

    input: Tensor
    output: Tensor
    around: Tensor | None = None

    def copied(self, channels: list[int] | None = None) -> "Tap":
        """The same with an output of its own, of these channels: later layers may work in place. Inputs are shared."""
        if channels is None:
            return replace(self, output=self.output.clone())
        # Channels stay last in memory, so that rows are views later. Selecting in a matrix is two to twenty times as
        # fast as in four dimensions.
        rows, chosen = self.output.permute(0, 2, 3, 1), torch.tensor(channels, device=self.output.device)
        picked = rows.flatten(0, 2).index_select(1, chosen).unflatten(0, rows.shape[:3])
        return replace(self, output=picked.permute(0, 3, 1, 2))


@contextmanager
def tapped(
    model: nn.Module,
    layers: Iterable[str],
    see: Callable[[str, Tap], Tensor | None],
    blocks: Mapping[str, nn.Module] | None = None,
) -> Iterator[None]:
    """While this is open, every forward pass calls ``see(layer, tap)``; a tensor that it returns replaces the output.

    ``blocks`` are residual blocks by the layer that closes them; their taps also have the block's input. ``see`` may
    raise :class:`Reached` to end the pass there.

    >>> model, seen = nn.Sequential(nn.Linear(2, 1), nn.ReLU()), {}
    >>> with tapped(model, ["0"], lambda name, tap: seen.update({name: tap.output.shape})):
    ...     _ = model(torch.zeros(4, 2))
    >>> seen
    {'0': torch.Size([4, 1])}
    """
    around: dict[str, Tensor] = {}
    handles = []

    def enter(name: str, _block, inputs) -> None:
        around[name] = inputs[0].clone()  # some networks apply ReLU in place

    def leave(name: str, _layer, inputs, output) -> Tensor | None:
        return see(name, Tap(inputs[0], output, around.get(name)))

    for name in layers:
        if blocks and name in blocks:
            handles.append(blocks[name].register_forward_pre_hook(partial(enter, name)))
        handles.append(model.get_submodule(name).register_forward_hook(partial(leave, name)))
    try:
        yield
    except Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()


def shortcut(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """What a residual block adds to its main branch, as a function of the block's input; None for other modules."""
    if hasattr(module, "conv2") and hasattr(module, "downsample"):  # residual blocks of torchvision and timm
        # Attention between the last convolution and the sum would have to be undone first.
        attention = getattr(module, "se", None) is not None
        return None if attention else cast(nn.Module | None, module.downsample) or nn.Identity()
    if getattr(module, "use_res_connect", False) or getattr(module, "has_skip", False):  # MobileNetV2, timm's kin
        return nn.Identity()
    own = getattr(module, "shortcut", None)  # option A, of the small ResNets
    return own if callable(own) else None


def blocks_closed_by(model: nn.Module, layers: list[str]) -> dict[str, nn.Module]:
    """``{last of the layers in a residual block: the block}``: the layers behind which a shortcut is added."""
    closing = {}
    for name, block in model.named_modules():
        if shortcut(block) is not None:
            main = [layer for layer in layers if layer.startswith(f"{name}.") and ".downsample" not in layer]
            if main:
                closing[main[-1]] = block
    return closing
