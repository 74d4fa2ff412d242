"""Image sets as folders: one folder per class, read at once or image by image.

Nothing here knows the name of a data set; :mod:`oefsmc_lib.images.sets` turns names into these calls.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from oefsmc_lib.errors import InputError
from oefsmc_lib.images.npz import DAMAGE, SPLITS, Arrays, first_line
from oefsmc_lib.progress import bar

LARGEST = 16 * 2**30  # bytes that a folder may take in memory
# Pillow lists these too, but they are documents, stubs without a decoder, or films.
NOT_PHOTOS = {".ps", ".eps", ".pdf", ".h5", ".hdf", ".grib", ".bufr", ".wmf", ".emf", ".mpg", ".mpeg"}
# What lies beside pictures and is none.
NOTES = {".txt", ".xml", ".json", ".csv", ".tsv", ".md", ".html", ".db", ".ini", ".mat", ".npy", ".log", ".yaml"}

Files = tuple[list[str], list[int]]  # paths and labels


# --- a folder per class ------------------------------------------------------------------------
@dataclass(frozen=True)
class Listing:
    """The image files of a folder-per-class tree; nothing is decoded."""

    root: Path
    folders: tuple[str, ...]  # folder names in label order
    class_names: tuple[str, ...]
    files: dict[str, Files]  # by split: those that were asked for and are there
    unread: dict[str, list[str]] = field(default_factory=dict)  # by split: those of a format that Pillow cannot read

    def signature(self, stat: bool = True) -> str:
        """Hash of every file's name and label and, with ``stat``, of all else that a cache of the images depends on.

        That is the file's size and time of change, the names of the classes, and the layout of the cache (version 3).
        """
        sha = hashlib.sha256(repr((3, self.class_names, self.unread) if stat else self.folders).encode())
        for split, (paths, labels) in self.files.items():
            for path, label in zip(paths, labels):
                parts: tuple = (split, label, path[len(str(self.root)) :])
                if stat:
                    # A dangling link has no status of its own; decoding it will name it.
                    status = os.stat(path) if os.path.exists(path) else os.lstat(path)
                    parts += (status.st_size, status.st_mtime_ns)
                sha.update(repr(parts).encode())
        return sha.hexdigest()[:12]


def list_tree(root: Path, splits: Sequence[str] = SPLITS) -> Listing:
    """The files of ``root``/{train, test or val}/<class>/**.

    ``test`` is taken before ``val``, unless only ``val`` has class folders (ILSVRC's test has none). Raises
    :class:`InputError` for a missing ``train``, a single class, classes that differ between the splits, a class
    without images, and a file that links count twice.
    """
    train = root / "train"
    if not train.is_dir():
        raise InputError(f"{root} has no folder train; expected train/<class>/ and val/<class>/ or test/<class>/.")
    folders = class_folders(train)
    if len(folders) < 2:
        raise InputError(f"{train} holds {len(folders)} class folder(s); classification needs two or more.")
    held_outs = [root / name for name in ("test", "val") if (root / name).is_dir()]
    held_out = max(held_outs, key=lambda folder: len(class_folders(folder)) > 0, default=None)
    annotations = root / "val" / "val_annotations.txt"
    if annotations.is_file():
        held_out = annotations
    elif held_out is not None and (odd := sorted(set(folders) ^ set(class_folders(held_out)))):
        has, lacks = (train, held_out) if odd[0] in folders else (held_out, train)
        raise InputError(f"Class folder {odd[0]} is in {has} but not in {lacks}; both need the same classes.")
    files: dict[str, Files] = {}
    unread: dict[str, list[str]] = {}
    links: list[str] = []
    for split, place in (("train", train), ("test", held_out)):
        if place is not None and split in splits:
            read = _annotated_files if place == annotations else _class_files
            files[split] = read(place, folders, unread.setdefault(split, []), links)
    if links:
        _refuse_twice(files)
    return Listing(root, folders, _spoken_names(root, folders), files, unread)


def class_folders(folder: Path) -> tuple[str, ...]:
    """Names of the subfolders that are not hidden, in the order of class numbers."""
    return tuple(sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith(".")))


def _class_files(folder: Path, folders: Sequence[str], unread: list[str], links: list[str]) -> Files:
    """Image files and labels; adds what cannot be read to ``unread``, and files and class folders that are links."""
    suffixes = image_suffixes()
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(folders):
        found, others = [], []
        links += [str(folder / name)] if (folder / name).is_symlink() else []
        for entry in below(folder / name):
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix in suffixes:
                found.append(entry.path)
                links += [entry.path] if entry.is_symlink() else []
            elif suffix not in NOTES:
                others.append(entry.path)
        if not found:
            formats = f" ({os.path.basename(min(others))} has a format that cannot be read)" if others else ""
            raise InputError(f"Class folder {folder / name} holds no images{formats}; add some or remove the folder.")
        paths += sorted(found)
        labels += [label] * len(found)
        unread += sorted(others)
    return paths, labels


def below(folder: Path | str) -> Iterator[os.DirEntry]:
    """Every file below a folder that is not hidden.

    A file may be a link, as in a subset that is made of links. A folder may not: it could lead out of its class.
    """
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}); change its permissions or remove it.") from error
    for entry in entries:
        if entry.is_dir() and entry.is_symlink():
            away = os.path.realpath(entry.path)
            raise InputError(f"{entry.path} is a link to the folder {away}; copy its images or link each of them.")
        if entry.is_dir():
            yield from below(entry.path)
        elif entry.is_file() or not os.path.exists(entry.path):  # no pipe, which would never end; a dangling link
            yield entry


def _refuse_twice(files: dict[str, Files]) -> None:
    """Refuse a file that links put into two places, such as two classes or train and test."""
    places: dict[str, str] = {}
    for path in (path for paths, _ in files.values() for path in paths):
        if (first := places.setdefault(os.path.realpath(path), path)) != path:
            raise InputError(f"{first} and {path} are the same file by a link, so it would count twice; remove one.")


def _annotated_files(annotations: Path, folders: Sequence[str], _unread: list, _links: list) -> Files:
    """The validation split as Tiny-ImageNet publishes it: one folder and a list ``file <tab> class ...``."""
    lines = [line.split("\t") for line in annotations.read_text(encoding="utf-8").splitlines()]
    for number, fields in enumerate(lines, start=1):
        if len(fields) < 2 or fields[1] not in folders or fields[0] != os.path.basename(fields[0]):
            raise InputError(f"Line {number} of {annotations} names no file and class of train; unpack the set again.")
    if not lines:
        raise InputError(f"{annotations} is empty; unpack the set again.")
    paths = [str(annotations.parent / "images" / fields[0]) for fields in lines]
    return paths, [folders.index(fields[1]) for fields in lines]


def _spoken_names(root: Path, folders: Sequence[str]) -> tuple[str, ...]:
    """``n01443537`` -> ``goldfish`` where a list of words lies beside the splits, else the folder names.

    The first word of a list of synonyms is taken unless two classes share it.
    """
    lists = [root / name for name in ("words.txt", "classes.tsv", "LOC_synset_mapping.txt")]
    if not (found := next((path for path in lists if path.is_file()), None)):
        return tuple(folders)
    lines = (line.strip().split(None, 1) for line in found.read_text(encoding="utf-8").splitlines())
    words = dict(parts for parts in lines if len(parts) == 2)
    whole = [words.get(folder, folder) for folder in folders]
    first = Counter(text.split(",")[0] for text in whole)
    return tuple(text.split(",")[0] if first[text.split(",")[0]] == 1 else text for text in whole)


def image_suffixes() -> set[str]:
    """Suffixes (``.jpg``) that this Pillow opens as pictures."""
    from PIL import Image

    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN} - NOT_PHOTOS


# --- decoding ----------------------------------------------------------------------------------
def decode(path: str, size: int | None = None, margin: float = 1.0, upright: bool = False) -> np.ndarray:
    """One image as RGB ``(H, W, 3) uint8``; with ``size``, resized and centre-cropped to it.

    The shorter side becomes ``size * margin`` (antialiased bilinear). As in torchvision, alpha is dropped, the first
    frame is taken, and EXIF rotation is ignored unless ``upright``. Raises ``ValueError`` for anything that does not
    decode whole.
    """
    from PIL import Image, ImageOps

    damage: tuple[type[Exception], ...] = (*DAMAGE, Image.DecompressionBombError)
    try:
        with Image.open(path) as image:
            image.load()  # truncated files fail here
            rgb = _rgb(ImageOps.exif_transpose(image) if upright else image)
    except damage as error:
        raise ValueError(first_line(error)) from error
    return np.array(rgb if size is None else _centre(rgb, size, margin), dtype=np.uint8)


def decoded(paths: Sequence[str], broken: list[str], size: int | None, margin: float = 1.0, label: str = "decoding"):
    """Position and upright pixels of every image that decodes; ``broken`` gets a sentence about each other one."""
    for position, path in enumerate(bar(paths, label)):
        try:
            yield position, decode(path, size, margin, upright=True)
        except ValueError as error:
            broken.append(f"{path} does not decode ({error})")


def _rgb(image):
    from PIL import Image

    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.mode.startswith("I"):  # Pillow would clip 16 bits at 255 instead of scaling
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    elif image.mode in ("P", "PA"):  # by way of RGBA, or transparency in bytes warns
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


# --- pixels ------------------------------------------------------------------------------------
def read_tree(listing: Listing, size: int | None) -> Arrays:
    """Decode every file of a listing to arrays, with their signature as ``source``.

    Images that do not decode are left out, and ``undecoded_<split>`` says of each which it was and why.
    """
    arrays = {"class_names": np.array(listing.class_names), "source": np.array(listing.signature())}
    shape = None if size is None else (size, size)
    for split, (paths, labels) in listing.files.items():
        pixels, kept, broken = _decode_all(paths, size, shape)
        arrays |= {f"x_{split}": pixels, f"y_{split}": np.array(labels, dtype=np.int64)[kept]}
        arrays[f"undecoded_{split}"] = np.array(broken, dtype=np.str_)
        arrays[f"unread_{split}"] = np.array(listing.unread.get(split, []), dtype=np.str_)
        for label in sorted(set(labels) - set(arrays[f"y_{split}"].tolist())):
            raise InputError(
                f"No image of class {listing.folders[label]} in {listing.root} ({split}) decodes; "
                "replace them or remove the class."
            )
        shape = pixels.shape[1:3]  # the test split must have the size of train
    return arrays


def _decode_all(paths: list[str], size: int | None, shape: tuple[int, int] | None):
    """Pixels ``(N', H, W, 3) uint8``, the positions in ``paths`` that decoded, and what is wrong with the others.

    With ``size`` the images are resized to it. Otherwise all must have the ``shape`` (H, W), or that of the first.
    """
    pixels = np.empty((0, 0, 0, 3), np.uint8)
    kept, broken = list[int](), list[str]()
    for position, image in decoded(paths, broken, size):
        shape = shape or image.shape[:2]
        if image.shape[:2] != shape:
            raise InputError(
                f"{paths[position]} is {image.shape[1]}x{image.shape[0]} pixels and not {shape[1]}x{shape[0]} "
                "like those before it; set image_size to resize and crop all images to one size."
            )
        if not kept:
            if (needed := len(paths) * image.nbytes) > LARGEST:
                raise InputError(
                    f"The {len(paths)} images beside {paths[position]} need {needed / 2**30:.0f} GiB of memory; set a "
                    "smaller image_size, or link their folder as imagenet in the data folder, which is read lazily."
                )
            pixels = np.empty((len(paths), *image.shape), np.uint8)
        pixels[len(kept)] = image
        kept.append(position)
    if not kept:
        raise InputError(f"No image in {Path(paths[0]).parent.parent} decodes; replace them.")
    return pixels[: len(kept)], kept, broken


class LazyImages:
    """Images decoded when they are taken, as torchvision does; ``shape`` is ``(N, 3, size, size)``."""

    def __init__(self, paths: Sequence[str], size: int, margin: float):
        self.paths, self.size, self.margin = paths, size, margin
        self.shape = (len(paths), 3, size, size)

    def __getitem__(self, places: Tensor | slice) -> Tensor:
        """uint8 ``(n, 3, size, size)``; raises :class:`InputError` for an image that does not decode."""
        chosen = torch.arange(len(self.paths))[places].tolist()
        images = torch.empty((len(chosen), *self.shape[1:]), dtype=torch.uint8)
        for row, position in enumerate(chosen):
            try:
                pixels = decode(self.paths[position], self.size, self.margin)
            except ValueError as error:
                raise InputError(f"{self.paths[position]} does not decode ({error}); replace or remove it.") from error
            images[row] = torch.from_numpy(pixels).permute(2, 0, 1)
        return images
