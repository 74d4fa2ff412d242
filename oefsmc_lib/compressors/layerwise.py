"""Fitting a student one layer at a time, in forward order: what FSKD and CD share.

When a layer's turn comes, the student before it is already fitted. A fit may change the layer's
weights; the layers after it then see the changed output. Two ways to walk, with the same result as
long as batch norms are in eval mode (in train mode a chunk is a batch to them):

* one pass: the fit runs inside the student's forward pass, when the layer's input arrives. One
  teacher and one student pass in all, where the released procedures make one of each a layer.
* chunks of images, for sets whose maps do not fit in memory: each layer is seen for all chunks before
  the next one's turn. Chunks are carried from piece to piece of the network
  (:func:`oefsmc_lib.teacher.networks.segments`), so that none starts from the images again.
"""

import tempfile
from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn

from oefsmc_lib.errors import InputError
from oefsmc_lib.teacher.networks import feature_module, run_pieces, segments

MAP_BYTES = 2**30  # teacher maps held at once; beyond it, walk in chunks
CARRIED_BYTES = 2**29  # maps between pieces held in memory; beyond it, in a file


class _Reached(Exception):
    """The forward pass has seen the layer that it ran for."""


class Tap:
    """Input and output of one layer for one forward pass, and the input of the block around it."""

    def __init__(self, x: Tensor, y: Tensor, around: Tensor | None = None):
        self.input, self.output, self.around = x, y, around

    def copied(self, channels: list[int] | None = None) -> "Tap":
        """With an output of its own, of these channels: what follows may work in place. Inputs stay as they are."""
        if channels is None:
            output = self.output.clone()
        elif self.output.dim() == 4:  # channels stay last in memory, so that rows are views later
            chosen = torch.tensor(channels, device=self.output.device)
            rows = self.output.permute(0, 2, 3, 1)
            # As a matrix: selecting in four dimensions takes two to twenty times as long.
            picked = rows.flatten(0, 2).index_select(1, chosen).unflatten(0, rows.shape[:3])
            output = picked.permute(0, 3, 1, 2)
        else:
            output = self.output[:, channels]
        return Tap(self.input, output, self.around)


def blocks_closed_by(model: nn.Module, layers: list[str]) -> dict[str, nn.Module]:
    """{last of ``layers`` in a residual block: the block}: where a shortcut is added after the layer."""
    closing = {}
    for name, block in model.named_modules():
        if shortcut(block, None, probe=True):
            main = [layer for layer in layers if layer.startswith(f"{name}.") and ".downsample" not in layer]
            if main:
                closing[main[-1]] = block
    return closing


def shortcut(block: nn.Module, x: Tensor | None, probe: bool = False):
    """The tensor that a residual block adds to its main branch; with ``probe``, whether it adds any."""
    if hasattr(block, "conv2") and hasattr(block, "downsample"):  # torchvision's residual blocks
        return True if probe else x if block.downsample is None else block.downsample(x)
    if getattr(block, "use_res_connect", False):  # MobileNetV2
        return True if probe else x
    if hasattr(block, "shortcut") and callable(block.shortcut):  # ours: option A
        return True if probe else block.shortcut(x)
    return False if probe else None


def _record(model: nn.Module, layers: list[str], keep, stop: bool, ends: list[str]):
    """Hooks that hand each layer's Tap to ``keep(name, tap)``; returns the handles.

    Blocks that close with one of ``ends`` hand over their input, too.
    """
    closing = blocks_closed_by(model, ends)
    around: dict[str, Tensor] = {}
    handles = []
    for name in layers:
        if name in closing:
            # ReLU works in place in some networks, so the block's input is copied.
            handles.append(
                closing[name].register_forward_pre_hook(lambda _m, x, name=name: around.__setitem__(name, x[0].clone()))
            )

        def see(_module, inputs, output, name=name):
            changed = keep(name, Tap(inputs[0], output, around.get(name)))
            if stop:
                raise _Reached
            return changed

        handles.append(model.get_submodule(name).register_forward_hook(see))
    return handles


def _run(
    model: nn.Module,
    layers: list[str],
    images: Tensor,
    keep,
    stop: bool = False,
    ends: list[str] | None = None,
    forward=None,
) -> None:
    handles = _record(model, layers, keep, stop, layers if ends is None else ends)
    try:
        (forward or model)(images)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def walk(
    student: nn.Module,
    teacher: nn.Module,
    layers: list[str],
    images: Tensor,
    weights: Tensor,
    start,
    per_pass=False,
    wanted: dict[str, list[int]] | None = None,
    settled: Collection[str] = (),
):
    """Fit ``layers`` of the student against the teacher's, in forward order.

    ``start(name)`` returns a fit with ``add(student_tap, teacher_tap, weights)`` and
    ``finish() -> change``, where ``change(input, output)`` is the layer's new output (or None).
    ``weights`` (N,) are the image weights of eq. (7). ``wanted`` names the channels of a teacher's
    output that a fit asks for, where it is not all of them; ``settled`` are layers with nothing to
    fit. ``per_pass`` runs every layer's passes through the whole network, for batch norms in train
    mode whose statistics move.
    """
    wanted = wanted or {}
    bytes_an_image = _map_bytes(teacher, layers, images)
    chunk = max(1, int(MAP_BYTES // max(bytes_an_image, 1)))
    layers = [name for name in layers if name not in settled]
    if not per_pass and chunk >= len(images):
        _one_pass(student, teacher, layers, images, weights, start, wanted)
        return
    sides = [
        (Carried(net, images.split(chunk), whole=per_pass), side, channels)
        for net, side, channels in ((teacher, "teacher", wanted), (student, "student", {}))
    ]
    for name in layers:
        fit = start(name)
        for carried, _, _ in sides:
            carried.advance(name)
        for *parts, share in zip(*(carried for carried, _, _ in sides), weights.split(chunk)):
            taps: dict[str, Tap] = {}
            for x, (carried, side, channels) in zip(parts, sides):
                # A pass that goes on may change the output in place (ReLU), so it is copied.
                copied = per_pass or name in channels
                _run(
                    carried.model,
                    [name],
                    x,
                    lambda _n, tap, side=side, channels=channels.get(name), copied=copied: taps.__setitem__(
                        side, tap.copied(channels) if copied else tap
                    ),
                    stop=not per_pass,
                    ends=layers,
                    forward=carried.forward,
                )
            fit.add(taps["student"], taps["teacher"], share)
        fit.finish()


class Carried:
    """Chunks of images, carried through a network behind the pieces whose layers are all fitted.

    Iterating gives each chunk's maps there, and :meth:`forward` runs on from there. A
    network that is no chain of pieces, or ``whole``, starts from the images each time.
    """

    def __init__(self, model: nn.Module, chunks: tuple[Tensor, ...], whole: bool = False):
        self.model, self.chunks, self.maps, self.at, self.fitted = model, chunks, chunks, 0, -1
        self.pieces = [] if whole else chain(model, chunks[0][:1])

    def advance(self, layer: str) -> None:
        """It is the turn of ``layer``: carry every chunk on. A layer behind the last piece sends them back."""
        piece = next((i for i, (name, _) in enumerate(self.pieces) if f"{layer}.".startswith(f"{name}.")), None)
        if piece is None:
            self.maps, self.at, self.pieces = self.chunks, 0, []
            return
        # Not up to the layer's piece: its fit may change what stands before it (a batch norm's convolution).
        at = min(piece, self.fitted + 1)
        while at < piece and not self.pieces[at][1].state_dict():
            at += 1  # ReLU and pooling: nothing to fit, and a smaller map to keep
        if at > self.at:
            moved = _Maps(CARRIED_BYTES)
            for x in self:
                moved.append(run_pieces(self.pieces[self.at : at], x))
            self.maps, self.at = moved, at
        self.fitted = piece

    def __iter__(self) -> Iterator[Tensor]:
        # ReLU works in place in some networks, so what is kept is not handed out.
        return (x.clone() for x in self.maps)

    def forward(self, x: Tensor) -> Tensor:
        return run_pieces(self.pieces[self.at :], x) if self.pieces else self.model(x)


def chain(model: nn.Module, image: Tensor) -> list[tuple[str, nn.Module]]:
    """The network's pieces up to its last map, or none where running them in turn is not the network."""
    try:
        pieces, last = segments(model), feature_module(model)
    except InputError:
        return []
    seen: list[Tensor] = []
    _run(model, [last], image, lambda _n, tap: seen.append(tap.output), stop=True, ends=[])
    try:
        found = run_pieces(pieces, image.clone())
    except RuntimeError:  # shapes that do not fit
        return []
    return pieces if found.shape == seen[0].shape and torch.allclose(found, seen[0], rtol=1e-4, atol=1e-5) else []


class _Maps:
    """Maps of one chunk after another: in memory up to a limit, then in a temporary file that goes with this object."""

    def __init__(self, limit: int):
        self.left, self.kept, self.file = limit, [], None

    def append(self, maps: Tensor) -> None:
        size = maps.numel() * maps.element_size()
        self.left -= size
        if self.left >= 0:
            self.kept.append(maps)
            return
        order = maps.permute(0, 2, 3, 1) if maps.dim() == 4 else maps  # channels last, as networks keep them
        try:
            self.file = self.file or tempfile.TemporaryFile()
            self.file.seek(0, 2)
            at = self.file.tell()
            self.file.write(order.contiguous().cpu().numpy().data)
            self.file.flush()
        except OSError as error:
            raise InputError(
                f"Cannot keep the maps of {len(maps)} images in {tempfile.gettempdir()}: "
                f"{error.strerror or error}; make room, or set TMPDIR to a larger folder."
            ) from error
        self.kept.append((at, size, order.shape, maps.dtype, maps.device))

    def __iter__(self) -> Iterator[Tensor]:
        for kept in self.kept:
            if isinstance(kept, Tensor):
                yield kept
                continue
            at, size, shape, dtype, device = kept
            self.file.seek(at)
            maps = torch.frombuffer(bytearray(self.file.read(size)), dtype=dtype).view(shape).to(device)
            yield maps.permute(0, 3, 1, 2) if maps.dim() == 4 else maps


def _one_pass(student, teacher, layers, images, weights, start, wanted) -> None:
    seen: dict[str, Tap] = {}
    _run(teacher, layers, images, lambda name, tap: seen.__setitem__(name, tap.copied(wanted.get(name))))

    def fit_now(name, tap):
        if name not in seen:  # fitted already (a downsample inside its block's turn)
            return None
        fit = start(name)
        fit.add(tap, seen.pop(name), weights)
        return fit.finish()(tap.input, tap.output)

    _run(student, layers, images, fit_now)


def _map_bytes(model: nn.Module, layers: list[str], images: Tensor) -> int:
    """Bytes of the maps around ``layers`` for one image."""
    total = 0

    def count(_name, tap):
        nonlocal total
        total += (tap.input.numel() + tap.output.numel()) * tap.output.element_size()

    training = model.training
    _run(model.eval(), layers, images[:1], count)
    model.train(training)
    return total
