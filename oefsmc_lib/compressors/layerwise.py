"""Fitting a student one layer after another, in forward order: what FSKD and CD share.

When a layer's turn comes, the student before it is already fitted. A fit changes the layer's weights, and the layers
behind it see the changed output. There are two ways to walk. They give the same as long as batch norms are in eval mode
(in train mode a chunk is a batch to them):

* in one pass: each fit runs inside the student's forward pass, when the layer's input arrives. That takes one pass of
  the teacher and one of the student, where the released procedures make one of each for every layer.
* in chunks of images, for sets whose maps do not fit in memory (:mod:`oefsmc_lib.compressors.chunks`): each layer sees
  all chunks before it is the next one's turn.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from oefsmc_lib.compressors import taps
from oefsmc_lib.compressors.chunks import Carried
from oefsmc_lib.compressors.taps import Tap

MAP_BYTES = 2**30  # maps of the teacher that are held at once; a larger set is walked in chunks


class Fit(Protocol):
    """The fit of one layer. ``channels`` are those of the teacher's output that it asks for; None stands for all."""

    channels: list[int] | None

    def add(self, student: Tap, teacher: Tap, weights: Tensor) -> None:
        """Collect what both networks have at the layer for some images, and the images' weights (N,) of eq. (7)."""

    def finish(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Change the layer; returns its new output as a function of its input and its old output."""


@torch.no_grad()
def walk(
    student: nn.Module,
    teacher: nn.Module,
    fits: Mapping[str, Any],
    images: Tensor,
    weights: Tensor,
    whole_passes: bool = False,
) -> None:
    """Fit layers of the student against the teacher's, in the order of ``fits``, which is the forward order.

    ``weights`` (N,) are the image weights of eq. (7). A layer without a fit is passed over; its maps count all the
    same, so that the size of the chunks, and with it the rounding, does not depend on it. ``whole_passes`` runs both
    networks from the first layer to the last for each fit, for batch norms in train mode, whose statistics move.
    """
    chunk = max(1, MAP_BYTES // max(map_bytes(teacher, list(fits), images), 1))
    todo = {name: fit for name, fit in fits.items() if fit is not None}
    if whole_passes or chunk < len(images):
        _in_chunks(student, teacher, todo, images.split(chunk), weights.split(chunk), whole_passes)
    else:
        _in_one_pass(student, teacher, todo, images, weights)


def _in_one_pass(student: nn.Module, teacher: nn.Module, fits: Mapping[str, Fit], images, weights) -> None:
    seen: dict[str, Tap] = {}

    def keep(name: str, tap: Tap) -> None:
        seen[name] = tap.copied(fits[name].channels)

    def fit_now(name: str, tap: Tap) -> Tensor | None:
        if name not in seen:  # it is fitted already: a downsample runs again in its block's turn
            return None
        fits[name].add(tap, seen.pop(name), weights)
        return fits[name].finish()(tap.input, tap.output)

    for net, see in ((teacher, keep), (student, fit_now)):
        with taps.tapped(net, fits, see, taps.blocks_closed_by(net, list(fits))):
            net(images)


def _in_chunks(student: nn.Module, teacher: nn.Module, fits: Mapping[str, Fit], images, weights, whole: bool) -> None:
    ours, theirs = Carried(student, images, whole), Carried(teacher, images, whole)
    blocks = [taps.blocks_closed_by(net, list(fits)) for net in (student, teacher)]
    for name, fit in fits.items():
        ours.advance(name)
        theirs.advance(name)
        for x_s, x_t, share in zip(ours, theirs, weights):
            tap = _tap(ours, x_s, name, blocks[0], None, whole)
            fit.add(tap, _tap(theirs, x_t, name, blocks[1], fit.channels, whole), share)
        fit.finish()


def _tap(net: Carried, x: Tensor, layer: str, blocks, channels: list[int] | None, whole: bool) -> Tap:
    """The layer's tap for one chunk. A pass that goes on may change the output in place, so it is then a copy."""
    found: list[Tap] = []

    def see(_name: str, tap: Tap) -> None:
        found.append(tap.copied(channels) if whole or channels is not None else tap)
        if not whole:
            raise taps.Reached

    with taps.tapped(net.model, [layer], see, blocks):
        net.forward(x)
    return found[0]


def map_bytes(model: nn.Module, layers: list[str], images: Tensor) -> int:
    """Bytes of what goes into and out of ``layers`` for one image."""
    sizes: list[int] = []

    def count(_name: str, tap: Tap) -> None:
        sizes.append((tap.input.numel() + tap.output.numel()) * tap.output.element_size())

    training = model.training
    with taps.tapped(model, layers, count):
        model.eval()(images[:1])
    model.train(training)
    return sum(sizes)
