"""A student as an ONNX file, for devices without torch: in float32, or in int8 by static quantisation.

The file reads raw pixels, uint8 (N, C, H, W) from 0 to 255, for any N, and gives logits (N, K). Normalisation is its
first step, so that no device can forget it or do it twice. Its metadata name shape, mean, std and classes.
No file is put in its place before onnxruntime has agreed with torch. ``bench/ship.py`` has measured which images int8
is best calibrated on; ``docs/shipping.md`` says what it is worth.
"""

import copy
import json
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from oefsmc_lib.errors import InputError
from oefsmc_lib.files import writable_folder, write_whole
from oefsmc_lib.images import folders, sets
from oefsmc_lib.student import saved
from oefsmc_lib.teacher.networks import Architecture
from oefsmc_lib.teacher.teachers import normalise, per_channel

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
CLOSE = 1e-4  # the most that onnxruntime may differ from torch, as a share of the largest logit where that is above 1
MOST = 1000  # images that a calibration reads


class Pixels(nn.Module):
    """A network behind its normalisation: uint8 pixels (N, C, H, W) -> logits (N, K)."""

    mean: Tensor  # (C, 1, 1), of images in 0-1
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.model = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)
        self.register_buffer("mean", per_channel(list(mean)))
        self.register_buffer("std", per_channel(list(std)))
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(normalise(images, self.mean, self.std))


# --- the float32 file ----------------------------------------------------------------------------
def to_onnx(model: nn.Module, architecture: Architecture, images: dict[str, Any]) -> bytes:
    """The float32 file of a network, after onnxruntime has computed what torch computes, for one image and for three.

    ``images`` are the ``mean``, ``std`` and ``classes`` that :func:`oefsmc_lib.student.saved.save` writes. Raises
    :class:`InputError` where a package is missing, or the two differ by more than ``CLOSE``.

    >>> from oefsmc_lib.teacher.networks import Architecture
    >>> small = Architecture("resnet20", classes=2, width=0.25, image_size=8)
    >>> about = {"mean": [0.5] * 3, "std": [0.25] * 3, "classes": ["cat", "dog"]}
    >>> content = to_onnx(small.build(), small, about)
    >>> classify(content, torch.zeros(5, 3, 8, 8, dtype=torch.uint8)).shape
    torch.Size([5, 2])
    """
    needs_packages()
    whole = Pixels(model, images["mean"], images["std"])
    shape = architecture.example().shape[1:]
    pixels = torch.randint(0, 256, (3, *shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    program = torch.onnx.export(
        whole,
        (pixels,),
        dynamo=True,
        verbose=False,
        external_data=False,
        dynamic_shapes=({0: torch.export.Dim("N")},),
        input_names=["images"],
        output_names=["logits"],
    )
    about = {"input": f"uint8 (N, {', '.join(map(str, shape))}), pixels from 0 to 255", "precision": "float32"}
    content = _described(cast(torch.onnx.ONNXProgram, program).model_proto, about | images)
    check(content, whole, pixels)
    return content


def check(content: bytes, whole: nn.Module, pixels: Tensor) -> None:
    """Raise :class:`InputError` where onnxruntime's logits are not torch's, for these images together and for one."""
    for batch in (pixels, pixels[:1]):
        wanted = whole(batch)
        apart = float((classify(content, batch) - wanted).abs().max())
        if not apart <= CLOSE * max(1.0, float(wanted.abs().max())):  # NaN is refused, too
            raise InputError(
                f"The logits of onnxruntime and torch differ by {apart:.1e}, so nothing was written; check that the "
                "weights are finite, and try another version of onnxruntime."
            )


def needs_packages() -> None:
    """Refuse in one sentence where a package of the extra ``onnx`` is missing."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise InputError(
            f"ONNX files need packages that are not installed here: {', '.join(missing)}; get them with "
            f"`pip install {' '.join(missing)}`."
        )


def _described(proto, about: dict[str, Any]) -> bytes:
    """A model with these metadata; lists are written as JSON."""
    import onnx

    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    onnx.helper.set_model_props(proto, texts)
    return proto.SerializeToString()


def session(content: bytes, threads: int = 1):
    """onnxruntime's session of a file's content, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def classify(content: bytes, pixels: Tensor, batch: int = 16) -> Tensor:
    """Logits (N, K) of uint8 images (N, C, H, W) by onnxruntime."""
    runs = session(content)
    return torch.cat([torch.from_numpy(runs.run(None, {"images": part.numpy()})[0]) for part in pixels.split(batch)])


# --- int8 ----------------------------------------------------------------------------------------
def to_int8(content: bytes, pixels: Tensor, **options: Any) -> bytes:
    """The int8 file of a float32 file: static quantisation, QDQ, one scale a channel of each weight.

    ``pixels`` are uint8 images (n, C, H, W) without labels: the ranges of activations are those that they span. The
    few images and OOD images serve alike. ``options`` are those of onnxruntime's ``quantize_static``. Raises
    :class:`InputError` without images, or where the result is not finite.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if not len(pixels):
        raise InputError("int8 needs images to calibrate on; name the few images and OOD images.")

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.parts: Iterator[Tensor] = iter(pixels.split(1))  # histograms need parts of one size

        def get_next(self):
            return {"images": part.numpy()} if (part := next(self.parts, None)) is not None else None

    about = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    with tempfile.TemporaryDirectory() as folder:
        plain, fused, small = (f"{folder}/{name}.onnx" for name in ("plain", "fused", "small"))
        Path(plain).write_bytes(content)
        quant_pre_process(plain, fused, skip_symbolic_shape=True)  # batch norms go into their convolutions
        chosen = {"per_channel": True, "op_types_to_quantize": ["Conv", "Gemm", "MatMul", "MaxPool", "Add"]} | options
        quantization.quantize_static(fused, small, Reader(), **chosen)
        proto = onnx.load(small)
    content = _described(proto, about | {"precision": f"int8, calibrated on {len(pixels)} images"})
    if not classify(content, pixels[:16]).isfinite().all():
        raise InputError("The int8 network's logits are not finite, so nothing was written; check the weights.")
    return content


def calibration_images(places: Sequence[Path], architecture: Architecture) -> tuple[Tensor, list[str]]:
    """The images in these folders and all below them, at most ``MOST``, evenly spread: uint8 (n, C, H, W), and the
    files among them that do not decode and are left out.

    Raises :class:`InputError` for a folder that is missing or holds no image, and where no image decodes.
    """
    suffixes, paths = folders.image_suffixes(), []
    for place in map(Path, places):
        found = [str(p) for p in sorted(place.rglob("*")) if p.suffix.lower() in suffixes and p.name[0] != "."]
        if not found:
            raise InputError(f"No image to calibrate on in {place}; name a folder that holds some with --calibrate.")
        paths += found
    paths = [paths[i * len(paths) // MOST] for i in range(MOST)] if len(paths) > MOST else paths
    _, channels, height, width = architecture.example().shape
    broken: list[str] = []
    images = [torch.from_numpy(pixels).permute(2, 0, 1) for _, pixels in folders.decoded(paths, broken, height)]
    if not images:
        raise InputError(f"None of the {len(broken)} images to calibrate on can be read; {broken[0]}.")
    return sets.fit(torch.stack(images), (channels, height, width)), broken


# --- from folder to file -------------------------------------------------------------------------
def export(folder: Path, path: Path, int8: bool = False, calibrate: Sequence[Path] = ()) -> dict[str, Any]:
    """Write the student of a folder as ``path``, whole or not at all.

    Returns ``float_bytes`` and ``bytes``, and with ``int8`` the number of calibration ``images``, the files that could
    not be read (``broken``), and the share of images that keep their class (``agreement``). Raises
    :class:`InputError` for all that can be refused, in one sentence.
    """
    needs_packages()
    if Path(path).suffix != ".onnx":
        raise InputError(f"{path} does not end in .onnx, the only format that is written; name it FILE.onnx.")
    if bool(calibrate) != int8:
        raise InputError(
            "--int8 and --calibrate go together: int8 needs images to calibrate on, best the few images and OOD images."
        )
    student = saved.load(folder)
    architecture, images = student.structure.architecture, student.notes.get("images")
    if not isinstance(images, dict) or not {"mean", "std", "classes"} <= images.keys():
        raise InputError(
            f"{Path(folder) / 'plan.json'} does not say which mean and std the student expects, as those of earlier "
            "versions; write the student again with `oefsmc run ... --save FOLDER`."
        )
    pixels, broken = calibration_images(calibrate, architecture) if int8 else (None, [])
    writable_folder(Path(path).parent)  # refused before the work, not after it
    content = to_onnx(student.model, architecture, images)
    report: dict[str, Any] = {"float_bytes": len(content)}
    if pixels is not None:
        before, content = classify(content, pixels).argmax(1), to_int8(content, pixels)
        same = (classify(content, pixels).argmax(1) == before).double().mean()
        report |= {"images": len(pixels), "broken": broken, "agreement": float(same)}
    write_whole(Path(path), content)
    return report | {"bytes": len(content)}
