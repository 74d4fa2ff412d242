"""Every image set by one name: ``load("cifar10", "train")`` gives an :class:`ImageSet`.

:mod:`oefsmc_lib.images.sources` has the record of each set, which says how it is read. Sets on disk are read once and
kept as ``<data folder>/<name>.npz`` (:mod:`oefsmc_lib.images.npz`); a user's own folders as ``folder-<digest>.npz``.
ImageNet alone stays as it is on disk. Nothing is downloaded unless :func:`get` is asked to.
"""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from oefsmc_lib.errors import InputError
from oefsmc_lib.files import data_folder, writable_folder
from oefsmc_lib.images import cifar, embedded, folders, npz
from oefsmc_lib.images.folders import LazyImages, Listing
from oefsmc_lib.images.npz import SPLITS, Arrays
from oefsmc_lib.images.sources import FOLDER, SOURCES, Source, source_of
from oefsmc_lib.progress import bar

__all__ = ["FOLDER", "ImageSet", "check", "class_counts", "fingerprint", "fit", "get", "load", "locate", "sources"]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and labels of one split."""

    name: str
    images: Tensor | LazyImages  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64
    class_names: tuple[str, ...]  # (K,)
    fingerprint: str  # SHA-256 (12 digits) over shape, labels and pixels; of a lazy set, over the names of its files
    broken: int = 0  # images that were left out because they do not decode
    unread: int = 0  # files that were left out because of their format

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def take(self, indices) -> Tensor:
        """uint8 ``(n, C, H, W)``, in the order of ``indices`` (a sequence, an array or a tensor, signed or boolean)."""
        indices = torch.as_tensor(indices)
        return self.images[indices if indices.dtype == torch.bool else indices.long()]

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """``(uint8 (n, C, H, W), int64 (n,))`` in order; the last one may be smaller."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield self.images[part], self.labels[part]


# --- reading -----------------------------------------------------------------------------------
def load(name: str, split: str, *, image_size: int | None = None, skip_broken: bool = False) -> ImageSet:
    """One split, ``train`` or ``test``, of a set that :func:`sources` lists or of ``folder:PATH``.

    ``image_size`` resizes and centre-crops to a square. An image that does not decode is refused, or left out and
    counted with ``skip_broken``. Raises :class:`InputError` for all that can be wrong with a set on disk, naming the
    file and the way out.
    """
    source = _here(name)
    if split not in SPLITS:
        raise InputError(f"There is no split {split!r}; a set has train and test.")
    if source.reads == "lazy":
        return _load_lazily(source, split, image_size, skip_broken)
    arrays, where = _arrays(source, image_size, (split,))
    if split not in _splits(source, arrays):
        way_out = "it is a source of OOD images" if source.classes else "add val/ or test/ with the same classes"
        raise InputError(f"There is no split 'test' in {name}, only train; {way_out}.")
    names = _class_names(source, arrays, where)
    x, y = npz.checked(arrays, split, len(names), where)
    undecoded = arrays.get(f"undecoded_{split}", np.array([], str))
    if len(undecoded) and not skip_broken:
        others = f", and {len(undecoded) - 1} more do not" if len(undecoded) > 1 else ""
        raise InputError(f"{undecoded[0]}{others}; replace what is broken or set skip_broken=true.")
    mark, images = npz.digest(x, y), torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
    if image_size is not None and x.shape[1:3] != (image_size, image_size):
        mark, images = _digest(mark, image_size), fit(images, (images.shape[1], image_size, image_size))
    unread = _say_unread(name, split, arrays.get(f"unread_{split}", np.array([], str)).tolist())
    return ImageSet(name, images, torch.from_numpy(y), names, mark, len(undecoded), unread)


def _say_unread(name: str, split: str, files: list[str]) -> int:
    """Warn that these files of a set count for nothing; returns how many they are."""
    if files:
        said = f"{len(files)} files in {name} ({split}) have a format that cannot be read and are left out"
        warnings.warn(f"{said}, {files[0]} among them; convert them to PNG or JPEG.", stacklevel=3)
    return len(files)


def _load_lazily(source: Source, split: str, image_size: int | None, skip_broken: bool) -> ImageSet:
    """ImageNet: the usual margin of 256 : 224, and a fingerprint over names, because decoding takes hours."""
    if skip_broken:
        raise InputError(
            f"{source.name} is read lazily, so skip_broken cannot count its broken images beforehand; "
            f"`oefsmc data check {source.name}` names them, then remove them."
        )
    listing, size = folders.list_tree(source.tree(), (split,)), image_size or source.size
    if split not in listing.files:
        raise InputError(f"There is no split {split!r} in {listing.root}; add a folder val with the same classes.")
    paths, labels = listing.files[split]
    images, mark = LazyImages(paths, size, margin=8 / 7), _digest(listing.signature(stat=False), size)
    unread = _say_unread(source.name, split, listing.unread.get(split, []))
    return ImageSet(source.name, images, torch.tensor(labels), listing.class_names, mark, unread=unread)


def _arrays(
    source: Source, image_size: int | None, splits: Sequence[str], kinds: str = "xy"
) -> tuple[Arrays, Path | str]:
    """At least the images (x) and labels (y) of these splits, and where they come from, for messages.

    A set on disk is read from its archive. Where it has none, or one that was made of other files, the set is read
    from its source and cached. For labels alone nothing is decoded and nothing is written.
    """
    if source.reads == "made":
        return embedded.SETS[source.name](), source.name
    archive: Path = data_folder() / f"{source.name}.npz"
    if source.own:
        archive = data_folder() / f"folder-{_digest(source.tree(), image_size)}.npz"
    listing = None
    if source.reads in ("tree", "lazy") and source.tree().is_dir():
        listing = folders.list_tree(source.tree(), splits if source.reads == "lazy" else SPLITS)
    if source.reads == "lazy" or not _is_current(archive, listing):
        if listing and kinds == "y":
            labels = {f"y_{split}": np.array(listing.files[split][1]) for split in listing.files}
            return labels | {"class_names": np.array(listing.class_names)}, listing.root
        if listing:
            arrays = folders.read_tree(listing, source.size or image_size)
        else:
            arrays = cifar.read(source.name, data_folder())
        if kinds == "y" or not npz.write(archive, arrays):
            return arrays, source.name
    return npz.read(archive, splits, kinds), archive


def _is_current(archive: Path, listing: Listing | None) -> bool:
    """Whether an archive still holds what the folder holds.

    One without ``source`` is a user's own and is taken as it is; one whose folder is gone stays good.
    """
    if not archive.exists():
        return False
    notes = npz.read(archive, splits=())
    return listing is None or "source" not in notes or str(notes["source"]) == listing.signature()


def _splits(source: Source, arrays: Arrays) -> tuple[str, ...]:
    """The splits that these arrays ought to hold: both of CIFAR; of others ``train``, and ``test`` if it is there."""
    return SPLITS if source.reads == "cifar" or arrays.keys() & {"x_test", "y_test"} else SPLITS[:1]


def _class_names(source: Source, arrays: Arrays, where: Path | str) -> tuple[str, ...]:
    if source.classes:
        return tuple(source.classes.split())
    if "class_names" not in arrays:
        raise InputError(f"{where} has no array class_names; delete it and get it again.")
    return tuple(arrays["class_names"].tolist())


# --- what is known without reading -------------------------------------------------------------
def class_counts(name: str) -> list[tuple[str, int]] | None:
    """Each class of the train split and how many images it has, in label order; None for a set that is not here.

    Reads labels or lists files; it decodes no image and writes nothing. So a file of a folder counts even where its
    image turns out not to decode. Raises :class:`InputError` for an unknown name, a damaged archive and a faulty tree.
    """
    if locate(name) is None:
        return None
    source = source_of(name)
    arrays, where = _arrays(source, None, ("train",), kinds="y")
    names = _class_names(source, arrays, where)
    labels = npz.checked_labels(arrays, "train", len(names), where)
    return list(zip(names, np.bincount(labels, minlength=len(names)).tolist()))


def fingerprint(*splits: ImageSet) -> str:
    """12 hex digits for the splits of a set together, ``train`` first. The content counts, not the file it lies in."""
    return _digest(*(split.fingerprint for split in splits))


def _digest(*parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:12]


def locate(name: str) -> str | None:
    """Where a set would be read from, or None where it is not here; reads no pixels."""
    source = source_of(name)
    if source.reads == "made":
        return "made by the library" if name.startswith("noise") else "inside an installed package"
    paths = [data_folder() / place for place in source.places]
    return next((str(path) for path in paths if path.exists()), None)


def _here(name: str) -> Source:
    """The record of a set that is on this machine; :class:`InputError` says how to get one that is not."""
    source = source_of(name)
    if locate(name) is None:
        raise source.missing()
    return source


def sources() -> list[dict[str, Any]]:
    """What :func:`load` knows: name, description, found, where, and the command that gets it. Reads no pixels."""
    rows = []
    for name, source in SOURCES.items():
        where = locate(name)
        about = {"name": name, "description": source.text, "command": source.how_to_get(), "way": source.way()}
        rows.append(about | {"found": where is not None, "where": where or source.looked_for()})
    own = {"name": "folder:PATH", "description": "your own images: train/<class>/ and val/<class>/ or test/"}
    return [*rows, own | {"found": True, "where": "the folder that you name", "command": "", "way": ""}]


# --- what a person asks for --------------------------------------------------------------------
def get(name: str) -> str:
    """Download a set or build its cache; returns where it is. :class:`InputError` says how to get the others."""
    if source_of(name).reads == "cifar" and locate(name) is None:
        cifar.download(name, writable_folder(data_folder()))
    if f"{name}.npz" in _here(name).places:
        load(name, "train")  # caches it
    return str(locate(name))


def check(name: str, *, image_size: int | None = None, skip_broken: bool = False) -> dict[str, Any]:
    """Read a set whole; counts, shapes, fingerprints and broken images. Raises :class:`InputError`."""
    labels, _ = _arrays(_here(name), image_size, SPLITS, kinds="y")
    found, report = [], {}
    for split in _splits(source_of(name), labels):
        images = load(name, split, image_size=image_size, skip_broken=skip_broken)
        for _ in bar(images.batches(100), split, total=-(-len(images) // 100)):
            pass  # a lazy set decodes here
        counts = torch.bincount(images.labels, minlength=images.num_classes)
        about = {"images": len(images), "shape": images.shape, "classes": images.num_classes}
        about |= {"fewest": int(counts.min()), "most": int(counts.max())}
        report[split] = about | {"broken": images.broken, "unread": images.unread, "fingerprint": images.fingerprint}
        found.append(images)
    if len(shapes := {images.shape for images in found}) > 1:
        raise InputError(f"The splits of {name} differ in shape, {shapes}; set image_size to make them one.")
    return {"name": name, "where": locate(name), "splits": report, "fingerprint": fingerprint(*found)}


# --- other sizes and colours -------------------------------------------------------------------
def fit(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """uint8 ``(N, C, H, W)`` as uint8 of another ``shape`` (C, H, W); the same tensor if nothing changes.

    The image is resized (bilinear, antialiased) until it covers H x W and cropped at the centre;
    RGB becomes gray by luma weights, gray becomes RGB by repeating.
    """
    channels, height, width = shape
    if tuple(images.shape[1:]) == tuple(shape):
        return images
    if {images.shape[1], channels} - {1, 3}:
        raise ValueError(f"fit knows gray and RGB, not {images.shape[1]} and {channels} channels")
    scale = max(height / images.shape[2], width / images.shape[3])
    size = max(height, round(images.shape[2] * scale)), max(width, round(images.shape[3] * scale))
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    parts = []
    for part in images.split(1000):  # floats take four times the memory
        pixels = part.float()
        if channels < images.shape[1]:
            pixels = (pixels * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
        if size != tuple(images.shape[2:]):
            pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)
        pixels = pixels[:, :, top : top + height, left : left + width].round().clamp(0, 255).to(torch.uint8)
        parts.append(pixels.expand(-1, channels, -1, -1))
    return torch.cat(parts)
