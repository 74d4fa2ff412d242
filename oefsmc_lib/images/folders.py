"""Image sets as folders: one folder per class, read at once or image by image.

Nothing here knows the name of a data set; :mod:`oefsmc_lib.images.sets` turns names into these calls.
Arrays are ``x_train (N, H, W, C) uint8``, ``y_train (N,)`` and the same for ``test``.
"""

import hashlib
import os
import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from oefsmc_lib.errors import InputError
from oefsmc_lib.images.npz import SPLITS, first_line
from oefsmc_lib.progress import bar

LARGEST = 16 * 2**30  # bytes that a folder may take in memory
# Pillow lists these too, but they are documents, stubs without a decoder, or films.
NOT_PHOTOS = {".ps", ".eps", ".pdf", ".h5", ".hdf", ".grib", ".bufr", ".wmf", ".emf", ".mpg", ".mpeg"}


# --- a folder per class ------------------------------------------------------------------------
@dataclass(frozen=True)
class Listing:
    """The image files of a folder-per-class tree; nothing is decoded."""

    root: Path
    folders: tuple[str, ...]  # folder names in label order
    class_names: tuple[str, ...]
    splits: tuple[str, ...]  # those that the tree has
    files: dict[str, tuple[list[str], list[int]]]  # split -> (paths, labels), of those asked for

    def signature(self, stat: bool = True) -> str:
        """Hash of every file's name and label and, with ``stat``, of its size, time of change and spoken class."""
        sha = hashlib.sha256(repr(self.class_names if stat else self.folders).encode())
        skip = len(str(self.root))
        for split, (paths, labels) in self.files.items():
            for path, label in zip(paths, labels):
                sha.update(repr((split, label, path[skip:], *(_status(path) if stat else ()))).encode())
        return sha.hexdigest()[:12]


def _status(path: str) -> tuple[int, int] | tuple[()]:
    try:
        status = os.stat(path)
    except OSError:  # a dangling link: decoding it will name it
        return ()
    return status.st_size, status.st_mtime_ns


def list_tree(root: Path, splits: Sequence[str] = SPLITS) -> Listing:
    """The files of ``root``/{train, test or val}/<class>/**.

    ``test`` is taken before ``val``, unless only ``val`` has class folders (ILSVRC's test has none).

    Raises :class:`InputError` for a missing ``train``, one class, classes that differ between
    the splits, and a class without images.
    """
    held_outs = [root / name for name in ("test", "val") if (root / name).is_dir()]
    held_out = max(held_outs, key=lambda folder: len(_class_folders(folder)) > 0, default=None)
    if not (root / "train").is_dir():
        raise InputError(f"{root} has no folder train; expected train/<class>/ and val/<class>/ or test/<class>/.")
    annotations = root / "val" / "val_annotations.txt"  # Tiny-ImageNet as published
    official = annotations.is_file()
    held_out = root / "val" if official else held_out
    folders = _class_folders(root / "train")
    if len(folders) < 2:
        raise InputError(f"{root / 'train'} holds {len(folders)} class folder(s); classification needs two or more.")
    if held_out is not None and not official:
        for folder in sorted(set(folders) ^ set(_class_folders(held_out))):
            has, lacks = ("train", held_out.name) if folder in folders else (held_out.name, "train")
            raise InputError(
                f"Class folder {folder} is in {root / has} but not in {root / lacks}; both need the same classes."
            )
    files = {}
    if "train" in splits:
        files["train"] = _class_files(root / "train", folders)
    if "test" in splits and held_out is not None:
        files["test"] = _annotated_files(annotations, folders) if official else _class_files(held_out, folders)
    return Listing(root, folders, _spoken_names(root, folders), SPLITS[: 1 if held_out is None else 2], files)


def _class_folders(folder: Path) -> tuple[str, ...]:
    return tuple(
        sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    )


def _class_files(folder: Path, folders: Sequence[str]) -> tuple[list[str], list[int]]:
    suffixes = image_suffixes()
    paths, labels = [], []
    for label, name in enumerate(folders):
        found = sorted(
            os.path.join(where, file)
            for where, _, files in os.walk(folder / name, followlinks=True)
            for file in files
            if not file.startswith(".") and os.path.splitext(file)[1].lower() in suffixes
        )
        if not found:
            raise InputError(f"Class folder {folder / name} holds no images; add some or remove the folder.")
        paths += found
        labels += [label] * len(found)
    return paths, labels


def _annotated_files(annotations: Path, folders: Sequence[str]) -> tuple[list[str], list[int]]:
    """Tiny-ImageNet's published validation split: one folder and a list ``file <tab> class ...``."""
    paths, labels = [], []
    for number, line in enumerate(annotations.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in folders:
            raise InputError(f"Line {number} of {annotations} names no class of train; unpack the set again.")
        paths.append(str(annotations.parent / "images" / fields[0]))
        labels.append(folders.index(fields[1]))
    if not paths:
        raise InputError(f"{annotations} is empty; unpack the set again.")
    return paths, labels


def _spoken_names(root: Path, folders: Sequence[str]) -> tuple[str, ...]:
    """``n01443537`` -> ``goldfish`` where a list of words lies beside the splits, else the folder names.

    The first word of a list of synonyms is taken unless two classes share it.
    """
    lists = [root / name for name in ("words.txt", "classes.tsv", "LOC_synset_mapping.txt")]
    found = next((path for path in lists if path.is_file()), None)
    if found is None:
        return tuple(folders)
    lines = found.read_text(encoding="utf-8").splitlines()
    words = dict(parts for line in lines if len(parts := line.strip().split(None, 1)) == 2)
    whole = [words.get(folder, folder) for folder in folders]
    first = Counter(text.split(",")[0] for text in whole)
    return tuple(text.split(",")[0] if first[text.split(",")[0]] == 1 else text for text in whole)


def image_suffixes() -> set[str]:
    """Suffixes (``.jpg``) that this Pillow opens as pictures."""
    from PIL import Image

    known = Image.registered_extensions()
    return {suffix for suffix, kind in known.items() if kind in Image.OPEN} - NOT_PHOTOS


# --- decoding ----------------------------------------------------------------------------------
def decode(path: str, size: int | None = None, margin: float = 1.0) -> np.ndarray:
    """One image as RGB ``(H, W, 3) uint8``; with ``size``, resized and centre-cropped to it.

    The shorter side becomes ``size * margin`` (antialiased bilinear). As in torchvision, alpha is
    dropped, the first frame is taken, and EXIF rotation is ignored. Raises ``ValueError`` for
    anything that does not decode whole.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()  # truncated files fail here
            image = _rgb(image)
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        TypeError,
        IndexError,
        KeyError,
        OverflowError,
        AttributeError,
        MemoryError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise ValueError(first_line(error)) from error  # what Pillow's decoders raise on damaged bytes
    if size is not None:
        image = _centre(image, size, margin)
    return np.array(image, dtype=np.uint8)


def _rgb(image):
    from PIL import Image

    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.mode.startswith("I"):  # Pillow would clip 16 bits at 255 instead of scaling
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("P", "PA"):  # by way of RGBA, or transparency in bytes warns
        image = image.convert("RGBA")
    return image.convert("RGB")


def _centre(image, size: int, margin: float):
    from PIL import Image

    scale = round(size * margin) / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def read_tree(listing: Listing, size: int | None, skip_broken: bool) -> dict[str, np.ndarray]:
    """Decode every file of a listing to arrays, with ``broken_<split>``, the images left out."""
    arrays = {"class_names": np.array(listing.class_names)}
    for split, (paths, labels) in listing.files.items():
        pixels, kept = _read_files(paths, size, skip_broken)
        arrays[f"x_{split}"] = pixels
        arrays[f"y_{split}"] = np.array(labels, dtype=np.int64)[kept]
        arrays[f"broken_{split}"] = np.array(len(paths) - len(kept))
        for label in sorted(set(labels) - set(arrays[f"y_{split}"].tolist())):
            raise InputError(
                f"No image of class {listing.folders[label]} in {listing.root} ({split}) decodes; "
                "replace them or remove the class."
            )
        size = size or pixels.shape[1:3]  # the test split must have the size of train
    return arrays


def _read_files(paths, size, skip_broken):
    """``(N', H, W, 3) uint8`` and the positions in ``paths`` that decoded.

    An int as ``size`` resizes; a pair (H, W) is only checked; None takes that of the first image.
    """
    square, shape = (size, (size, size)) if isinstance(size, int) else (None, size)
    pixels, kept = None, []
    for position, path in enumerate(bar(paths, "decoding")):
        try:
            image = decode(path, square)
        except ValueError as error:
            if skip_broken:
                continue
            raise InputError(f"{path} does not decode ({error}); replace it or set skip_broken=true.") from error
        shape = shape or image.shape[:2]
        if image.shape[:2] != shape:
            raise InputError(
                f"{path} is {image.shape[1]}x{image.shape[0]} pixels and not {shape[1]}x{shape[0]} "
                "like those before it; set image_size to resize and crop all images to one size."
            )
        if pixels is None:
            pixels = _room(len(paths), shape, path)
        pixels[len(kept)] = image
        kept.append(position)
    if pixels is None:
        raise InputError(f"No image in {Path(paths[0]).parent.parent} decodes; replace them.")
    return pixels[: len(kept)], kept


def _room(count: int, shape: tuple[int, int], path: str) -> np.ndarray:
    if (needed := count * shape[0] * shape[1] * 3) > LARGEST:
        raise InputError(
            f"The {count} images beside {path} need {needed / 2**30:.0f} GiB of memory; set a smaller "
            "image_size, or link their folder as imagenet in the data folder, which is read lazily."
        )
    return np.empty((count, *shape, 3), np.uint8)


class LazyImages:
    """Images decoded when they are taken, never all in memory; ``shape`` is ``(N, 3, size, size)``."""

    def __init__(self, paths: Sequence[str], size: int, margin: float):
        self.paths, self.size, self.margin = paths, size, margin
        self.shape = (len(paths), 3, size, size)

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices) -> Tensor:
        """uint8 ``(n, 3, size, size)``; raises :class:`InputError` for an image that does not decode."""
        images = torch.empty((len(indices), *self.shape[1:]), dtype=torch.uint8)
        for row, index in enumerate(indices):
            path = self.paths[int(index)]
            try:
                pixels = decode(path, self.size, self.margin)
            except ValueError as error:
                raise InputError(f"{path} does not decode ({error}); replace or remove it.") from error
            images[row] = torch.from_numpy(pixels).permute(2, 0, 1)
        return images
