"""A folder of images as people have it: any size, mode and count, with or without classes."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from oefsmc_lib.errors import InputError
from oefsmc_lib.images import embedded, folders, purity, sets
from oefsmc_lib.images.fewshot import generator

Paths = list[tuple[str, int]]  # files and their classes; -1: none


@dataclass(frozen=True)
class View:
    """How files become what the network reads: RGB or gray, resized by ``margin``, cropped to ``size``."""

    channels: int
    size: int
    margin: float = 1.0


@dataclass
class Photos:
    """Images (N, C, H, W) uint8 with their classes (N,), or None where they have none, and what is to be said."""

    images: Tensor
    labels: Tensor | None
    names: list[str]  # of the files
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def only(self, chosen: list[int]) -> "Photos":
        labels = None if self.labels is None else self.labels[chosen]
        return Photos(self.images[chosen], labels, [self.names[i] for i in chosen], self.notes)


@dataclass(frozen=True)
class Listed:
    """The files of a data folder; nothing is decoded."""

    root: Path
    class_names: tuple[str, ...]  # empty where there are no classes
    few: Paths
    held_out: Paths


# --- which files -------------------------------------------------------------------------------
def listed(root: Path) -> Listed:
    """``root``/<class>/, or ``root``/train/<class>/ with val or test beside it, or images alone; hidden files are none.

    A class folder may be empty: then none of the few images shows the class. Raises :class:`InputError` for a folder
    that is missing or without images, for a single class, and for a class of val or test that train lacks.
    """
    if not root.is_dir():
        raise InputError(f"There is no folder {root}; check the path after --data.")
    train = root / "train" if (root / "train").is_dir() else root
    held = next((root / part for part in ("test", "val") if train != root and (root / part).is_dir()), None)
    names = folders.class_folders(train)
    if len(names) == 1:
        raise InputError(
            f"{train} holds a single class folder, {names[0]}; classification needs two or more, and images without "
            "labels lie in the folder itself."
        )
    few = [(path, label) for label, name in enumerate(names) for path in files_of(train / name)]
    few = few or ([] if names else [(path, -1) for path in files_of(train)])
    if not few:
        raise InputError(f"{train} holds no image files; put them there, or in a subfolder for each class.")
    held_out: Paths = []
    if held and names:
        if odd := sorted(set(folders.class_folders(held)) - set(names)):
            raise InputError(f"The class folder {odd[0]} is in {held} but not in {train}; add it there, empty or not.")
        held_out = [(path, label) for label, name in enumerate(names) for path in files_of(held / name)]
    return Listed(root, names, few, held_out)


def files_of(folder: Path, without: Iterable[str] = ()) -> list[str]:
    """Image files in and below a folder, sorted; hidden files and folders, and those of these names, are left out."""
    suffixes, left_out = folders.image_suffixes(), set(without)
    found = sorted(e.path for e in folders.below(folder) if os.path.splitext(e.name)[1].lower() in suffixes)
    return [path for path in found if left_out.isdisjoint(os.path.relpath(path, folder).split(os.sep)[:-1])]


# --- decoding ----------------------------------------------------------------------------------
def read(paths: Paths, view: View, limit: int | None = None, label: str = "reading images") -> Photos:
    """Decode files, turned as EXIF says, up to ``limit`` images; those that do not decode are left out and named.

    Raises :class:`InputError` where none decodes, and where they need more memory than a folder may take.
    """
    wanted = min(limit or len(paths), len(paths))
    if (needed := wanted * view.channels * view.size**2) > folders.LARGEST:
        raise InputError(f"The {wanted} images need {needed / 2**30:.0f} GiB of memory; name a smaller --size.")
    images: list[Tensor] = []
    kept: Paths = []
    broken: list[str] = []
    for position, pixels in folders.decoded([path for path, _ in paths], broken, view.size, view.margin, label):
        images.append(torch.from_numpy(pixels).permute(2, 0, 1))
        kept.append(paths[position])
        if len(images) == wanted:
            break
    if not images:
        raise InputError(f"No image in {Path(paths[0][0]).parent} can be read; {broken[0]}.")
    stacked = sets.fit(torch.stack(images), (view.channels, view.size, view.size))
    labels = torch.tensor([class_ for _, class_ in kept])
    notes = [f"{len(broken)} file(s) cannot be read and are left out; {broken[0]}"] if broken else []
    return Photos(stacked, None if labels.min() < 0 else labels, [path for path, _ in kept], notes)


def read_data(files: Listed, view: View) -> tuple[Photos, Photos | None]:
    """The few images, and those of val or test, without any that are also among the few.

    Says which files show one picture under two classes.
    """
    few = read(files.few, view)
    few.notes += _contradictions(few, files.class_names)
    if not files.held_out:
        return few, None
    held = read(files.held_out, view, label="reading held-out images")
    known = set(purity.hashes_of(few.images))
    fresh = [at for at, mark in enumerate(purity.hashes_of(held.images)) if mark not in known]
    if not fresh:
        raise InputError(f"Every held-out image of {files.root} is also among the few images; hold other images out.")
    if len(fresh) < len(held):
        held.notes.append(f"{len(held) - len(fresh)} held-out image(s) are also among the few and do not count")
    return few, held.only(fresh)


def _contradictions(photos: Photos, class_names: tuple[str, ...]) -> list[str]:
    first: dict[bytes, int] = {}
    if photos.labels is None:
        return []
    for at, mark in enumerate(purity.hashes_of(photos.images)):
        other = first.setdefault(mark, at)
        if photos.labels[other] != photos.labels[at]:
            return [
                f"warning: {photos.names[other]} and {photos.names[at]} are one image in two classes, "
                f"{class_names[photos.labels[other]]} and {class_names[photos.labels[at]]}"
            ]
    return []


# --- images from elsewhere ---------------------------------------------------------------------
@dataclass(frozen=True)
class Elsewhere:
    """OOD images, uint8 (n, C, H, W): for the recovery, for stopping, and those that no stage sees."""

    pool: Tensor
    watch: Tensor
    unseen: Tensor
    notes: list[str]


def sizes_of(side: int) -> tuple[int, int, int]:
    """How many OOD images the three sets have: a large image has many places, so fewer of them do."""
    return (500, 128, 128) if side <= 64 else (150, 32, 64)


def elsewhere(
    folder: Path | None, view: View, known: list[Tensor], class_names: tuple[str, ...], seed: int = 0
) -> Elsewhere:
    """Images of a folder, or patches of the two photographs inside scikit-learn, without pictures that are ``known``.

    Subfolders with the name of a class are left out. Where there are few, stopping and the images that no stage sees
    get a fifth each. Raises :class:`InputError` for a folder without readable images.
    """
    sizes = sizes_of(view.size)
    if folder is None:
        images, notes = _photographs(view), ["the OOD images are patches of two photographs inside scikit-learn"]
        order = torch.randperm(len(images), generator=generator(seed, "pool"))
        images = images[order[: sum(sizes)]]
    else:
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}; check the path after --elsewhere.")
        shared = sorted({name for where, inner, _ in os.walk(folder) for name in inner} & set(class_names))
        if not (found := files_of(folder, without=shared)):
            raise InputError(f"{folder} holds no image files besides the data's classes; name another --elsewhere.")
        order = torch.randperm(len(found), generator=generator(seed, "pool"))
        photos = read([(found[i], -1) for i in order.tolist()], view, sum(sizes), "reading OOD images")
        images, notes = photos.images, photos.notes
        notes += [f"{', '.join(shared)} in {folder} are classes of the data and are left out"] if shared else []
    bad = purity.impure(images, *purity.known_of(known))
    notes += [f"{int(bad.sum())} OOD image(s) show a picture of the data and are left out"] if bad.any() else []
    images = images[~bad]
    watch, unseen = (min(size, len(images) // 5) for size in sizes[1:])
    if watch == 0:
        raise InputError(
            f"{folder} has {len(images)} usable OOD image(s), but five are the fewest; add some, or leave --elsewhere "
            "out for the photographs that are installed."
        )
    parts = images.split([watch, unseen, len(images) - watch - unseen])
    return Elsewhere(parts[2], parts[0], parts[1], notes)


def _photographs(view: View) -> Tensor:
    side = min(view.size, 224)  # the photographs are 427 pixels high
    pixels = torch.from_numpy(embedded.photos(side, 16)["x_train"]).permute(0, 3, 1, 2)
    return sets.fit(pixels, (view.channels, view.size, view.size))


def counts_of(labels: Tensor, class_names: tuple[str, ...]) -> dict[str, int]:
    """``{class: images}``, classes without images among them."""
    found = Counter(labels.tolist())
    return {name: found[label] for label, name in enumerate(class_names)}
