"""What is known of each image set before it is read: one record a set, in ``sources.yaml`` beside this file."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from oefsmc_lib.errors import InputError
from oefsmc_lib.files import data_folder, expanded
from oefsmc_lib.parameters.parse import hint

FOLDER = "folder:"  # folder:PATH names a user's own images


@dataclass(frozen=True)
class Source:
    """An image set: what it is and what it is for, how it is read, where it lies, and how a person gets it.

    ``reads`` is one of five ways. ``made``: a function of :mod:`oefsmc_lib.images.embedded` makes the arrays.
    ``cifar``: torchvision reads its own files after comparing them with the published checksums. ``npz``: there is only
    ``<name>.npz`` in the data folder. ``tree``: a folder per class. ``lazy``: a folder per class, whose images are
    decoded when they are taken. Sets of ``cifar`` and ``tree`` are cached as ``<name>.npz``.
    """

    name: str
    text: str  # for people; "OOD": only a source of OOD images
    reads: Literal["made", "cifar", "npz", "tree", "lazy"]
    places: Sequence[str] = ()  # where it may lie in the data folder: its archive first, the folder of a tree last
    classes: str = ""  # their names in label order; empty: the archive or the folders name them
    size: int = 0  # side of the images that a tree is read as; 0: the run's image_size
    command: str = ""  # gets it as it stands, but for {folder}, the data folder
    note: str = ""  # what a person has to do where no command can get it

    @property
    def own(self) -> bool:
        """A user's own folder, which has no record."""
        return self.name.startswith(FOLDER)

    def tree(self) -> Path:
        """The folder of a ``tree`` or ``lazy`` set."""
        return data_folder() / self.places[-1]  # an absolute path, as a user's own is, stays as it is

    def looked_for(self) -> str:
        return f"{', '.join(self.places)} in {data_folder()}"

    def missing(self) -> InputError:
        """What is said where it is in none of these places, with the way out."""
        if self.own:
            return InputError(f"There is no folder {self.tree()}; check the path after {FOLDER!r}.")
        absent = "" if data_folder().is_dir() else ", a folder that does not exist"
        way_out = f"{self.way()} `{self.how_to_get()}`." if self.command else self.way()
        return InputError(f"{self.name} was not found: looked for {self.looked_for()}{absent}; {way_out}")

    def way(self) -> str:
        """How a person gets it: the words before the command, or, where nothing downloads it, what to put where."""
        return "get it with" if self.command else self.note.format(folder=data_folder())

    def how_to_get(self) -> str:
        """The command that gets it; empty for a set that is always here."""
        return self.command.format(folder=shlex.quote(str(data_folder())))


SOURCES = {
    name: Source(name, **record)
    for name, record in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")).items()
}


def source_of(name: str) -> Source:
    """The record of a name, or one made for ``folder:PATH``; refuses other names and says which is nearest."""
    if name in SOURCES:
        return SOURCES[name]
    if name.startswith(FOLDER) and name != FOLDER:
        path = expanded(name.removeprefix(FOLDER)).resolve()
        return Source(name, "your own images", "tree", places=(str(path),))
    others = "; `oefsmc doctor` names those that exist."
    raise InputError(f"Unknown data set {name!r}{hint(name, [*SOURCES, 'folder:PATH'], others)}")
