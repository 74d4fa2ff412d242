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
from typing import Protocol

import torch
from torch import Tensor, nn

from oefsmc_lib.compressors import chunks, taps
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
    fits: Mapping[str, Fit | None],
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
        chunks.walk(student, teacher, todo, images.split(chunk), weights.split(chunk), whole_passes)
        return
    seen: dict[str, Tap] = {}

    def keep(name: str, tap: Tap) -> None:
        seen[name] = tap.copied(todo[name].channels)

    def fit_now(name: str, tap: Tap) -> Tensor | None:
        if name not in seen:  # it is fitted already: a downsample runs again in its block's turn
            return None
        todo[name].add(tap, seen.pop(name), weights)
        return todo[name].finish()(tap.input, tap.output)

    for net, see in ((teacher, keep), (student, fit_now)):
        with taps.tapped(net, todo, see, taps.blocks_closed_by(net, list(todo))):
            net(images)


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
