"""Carrying images through a network in chunks, for sets whose maps do not fit in memory.

A chunk waits behind the last piece of the network (:func:`oefsmc_lib.teacher.networks.segments`) whose layers are
all fitted, so that no pass starts from the images again. This saves memory and time and changes no number.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

import torch
from torch import Tensor, nn

from oefsmc_lib.compressors import taps
from oefsmc_lib.errors import InputError
from oefsmc_lib.teacher.networks import feature_module, run_pieces, segments

CARRIED_BYTES = 2**29  # maps between pieces that are held in memory; the others wait in a file


def walk(
    student: nn.Module,
    teacher: nn.Module,
    fits: Mapping[str, Any],
    chunks: tuple[Tensor, ...],
    weights: tuple[Tensor, ...],
    whole: bool,
) -> None:
    """Fit layers in the order of ``fits`` (:mod:`oefsmc_lib.compressors.layerwise`): each sees all chunks of images
    and of their weights before it is the next one's turn. ``whole`` as in :class:`Carried`."""
    ours, theirs = Carried(student, chunks, whole), Carried(teacher, chunks, whole)
    blocks = [taps.blocks_closed_by(net, list(fits)) for net in (student, teacher)]
    for name, fit in fits.items():
        ours.advance(name)
        theirs.advance(name)
        for x_s, x_t, share in zip(ours, theirs, weights):
            tap = _tap(ours, x_s, name, blocks[0], None, whole)
            fit.add(tap, _tap(theirs, x_t, name, blocks[1], fit.channels, whole), share)
        fit.finish()


def _tap(net: "Carried", x: Tensor, layer: str, blocks, channels: list[int] | None, whole: bool) -> taps.Tap:
    """The layer's tap for one chunk. A pass that goes on may change the output in place, so it is then a copy."""
    found: list[taps.Tap] = []

    def see(_name: str, tap: taps.Tap) -> None:
        found.append(tap.copied(channels) if whole or channels is not None else tap)
        if not whole:
            raise taps.Reached

    with taps.tapped(net.model, [layer], see, blocks):
        net.forward(x)
    return found[0]


class Carried:
    """Chunks of images on their way through a network.

    Iterating gives the maps of each chunk behind the pieces that are fitted, and :meth:`forward` runs on from there. A
    network that is no chain of pieces, or ``whole``, starts from the images each time.
    """

    def __init__(self, model: nn.Module, chunks: tuple[Tensor, ...], whole: bool = False):
        self.model, self.chunks, self.at, self.fitted = model, chunks, 0, -1
        self.maps: Iterable[Tensor] = chunks
        self.pieces = [] if whole else chain(model, chunks[0][:1])

    def advance(self, layer: str) -> None:
        """It is the turn of ``layer``: carry every chunk on. For a layer behind the last piece they start again."""
        piece = next((i for i, (name, _) in enumerate(self.pieces) if f"{layer}.".startswith(f"{name}.")), None)
        if piece is None:
            self.maps, self.at, self.pieces = self.chunks, 0, []
            return
        # Not up to the layer's own piece: its fit may change what stands before it (a batch norm's convolution).
        at = min(piece, self.fitted + 1)
        while at < piece and not self.pieces[at][1].state_dict():
            at += 1  # ReLU and pooling have nothing to fit, and pooling leaves a smaller map to keep
        if at > self.at:
            moved = Maps(CARRIED_BYTES)
            for x in self:
                moved.append(run_pieces(self.pieces[self.at : at], x))
            self.maps, self.at = moved, at
        self.fitted = piece

    def __iter__(self) -> Iterator[Tensor]:
        # Some networks apply ReLU in place, so what is kept is not handed out.
        return (x.clone() for x in self.maps)

    def forward(self, x: Tensor) -> Tensor:
        return run_pieces(self.pieces[self.at :], x) if self.pieces else self.model(x)


def chain(model: nn.Module, image: Tensor) -> list[tuple[str, nn.Module]]:
    """The network's pieces up to its last map, or none where running them one after another is not the network."""
    try:
        pieces, last = segments(model), feature_module(model)
    except InputError:
        return []
    seen: list[Tensor] = []

    def see(_name, tap):
        seen.append(tap.output)
        raise taps.Reached

    with taps.tapped(model, [last], see):
        model(image)
    try:
        found = run_pieces(pieces, image.clone())
    except RuntimeError:  # shapes that do not fit
        return []
    return pieces if found.shape == seen[0].shape and torch.allclose(found, seen[0], rtol=1e-4, atol=1e-5) else []


class Maps:
    """Maps of one chunk after another: in memory up to ``limit`` bytes, then in a file that goes with this object."""

    def __init__(self, limit: int):
        self.left = limit
        self.file: IO[bytes] | None = None
        self.kept: list[Tensor | tuple] = []

    def append(self, maps: Tensor) -> None:
        size = maps.numel() * maps.element_size()
        self.left -= size
        if self.left >= 0:
            self.kept.append(maps)
            return
        order = maps.permute(0, 2, 3, 1) if maps.dim() == 4 else maps  # channels last, as networks keep them
        try:
            file = self.file = self.file or tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as this object)
            at = file.seek(0, 2)
            file.write(order.contiguous().cpu().numpy().data)
            file.flush()
        except OSError as error:
            raise InputError(
                f"Cannot keep the maps of {len(maps)} images in {tempfile.gettempdir()}: "
                f"{error.strerror or error}; make room, or set TMPDIR to a larger folder."
            ) from error
        self.kept.append((file, at, size, order.shape, maps.dtype, maps.device))

    def __iter__(self) -> Iterator[Tensor]:
        for kept in self.kept:
            if isinstance(kept, Tensor):
                yield kept
                continue
            file, at, size, shape, dtype, device = kept
            file.seek(at)
            maps = torch.frombuffer(bytearray(file.read(size)), dtype=dtype).view(shape).to(device)
            yield maps.permute(0, 3, 1, 2) if maps.dim() == 4 else maps
