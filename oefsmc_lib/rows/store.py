"""The store of rows: plain JSON, one file a run, so that any number of machines can write to one folder."""

import json
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from oefsmc_lib.errors import InputError
from oefsmc_lib.files import outputs_folder, write_whole
from oefsmc_lib.rows.row import Row, difference

OnError = Literal["raise", "warn"]


class Store:
    """A folder of rows: ``rows/<id>.json``, one file a run, and tidy ``*.jsonl``, one row a line.

    ``on_error="raise"`` refuses a row that cannot be read, in one sentence that names it;
    ``"warn"`` passes over it with a warning, for displays and for computing it again.
    """

    def __init__(self, folder: Path | str | None = None):
        self.folder = Path(folder) if folder is not None else outputs_folder() / "results"

    def write(self, row: Row) -> Path:
        """Write one row, whole or not at all; an earlier one of the same id is replaced."""
        path = self.folder / "rows" / f"{row.id}.json"
        write_whole(path, json.dumps(row.flat()) + "\n")
        return path

    def find(self, key: str, on_error: OnError = "raise") -> list[Row]:
        """The rows of an experiment's key: one for each teacher and data set that it was run with."""
        return self.rows([key], on_error)

    def rows(self, keys: Iterable[str] | None = None, on_error: OnError = "raise") -> list[Row]:
        """Every row, or those of the named keys, each id once, sorted.

        Raises :class:`InputError` for a row that cannot be read, and for two rows of one id
        whose outcomes differ.
        """
        wanted = None if keys is None else set(keys)
        found: dict[str, tuple[Row, Path]] = {}
        for path in (*sorted((self.folder / "rows").glob("[!.]*.json")), *sorted(self.folder.glob("[!.]*.jsonl"))):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue  # removed since it was listed
            rows, faults = _read(path, (stat.st_ino, stat.st_mtime_ns, stat.st_size))
            for row in rows:
                if wanted is None or row.key in wanted:
                    faults = faults + _add(found, row, path)
            for fault in faults:
                if on_error == "raise":
                    raise InputError(fault)
                warnings.warn(fault, stacklevel=2)
        return sorted((row for row, _ in found.values()), key=_order)


@cache
def _read(path: Path, stamp: tuple) -> tuple[list[Row], list[str]]:
    """The rows of a ``.json`` or ``.jsonl`` file, and a sentence for each that cannot be read.

    A file is read again only when its ``stamp`` (inode, time and size) is another one.
    """
    rows, faults = [], []
    tidy, content = path.suffix == ".jsonl", path.read_bytes()
    for number, text in enumerate(content.splitlines() if tidy else [content], 1):
        try:
            row = Row.parse(text, f"{path}, line {number}," if tidy else f"{path}")
            if not tidy and row.id != path.stem:
                raise InputError(f"{path} holds the row of another run ({row.id}); delete it and run again.")
            rows.append(row)
        except InputError as error:
            faults.append(str(error))
    return rows, faults


def _add(found: dict[str, tuple[Row, Path]], row: Row, path: Path) -> list[str]:
    """Add a row to those found, unless its id is there; a sentence if the two of one id differ."""
    first, place = found.setdefault(row.id, (row, path))
    column = difference(first, row) if first is not row else None
    if column is None:
        return []
    two = f"Run {row.id} has two results: {place} and {path} differ in {column}"
    return [f"{two}; keep one of them and delete the other."]


def _order(row: Row) -> tuple:
    return row.dataset, row.network, row.method, row.num, row.variant, row.seed, row.id


def merge(folders: Sequence[Path | str], into: Store) -> tuple[int, int]:
    """Take the rows of ``folders`` into a store; returns how many were new and how many were there.

    Nothing is written unless everything agrees: raises :class:`InputError` for a folder without
    rows and for two different results of one run.
    """
    found = {row.id: (row, into.folder) for row in into.rows()}
    there, read = len(found), 0
    for folder in map(Path, folders):
        if not (rows := Store(folder).rows()):
            raise InputError(f"{folder} holds no rows; name a folder with rows/*.json or *.jsonl in it.")
        for row in rows:
            for fault in _add(found, row, folder):
                raise InputError(fault)
        read += len(rows)
    new = [row for row, _ in found.values()][there:]
    for row in new:
        into.write(row)
    return len(new), read - len(new)


def pack(rows: Iterable[Row], path: Path | str) -> None:
    """Write rows as one tidy ``.jsonl``: sorted, one a line, numbers exactly as they are."""
    lines = [json.dumps(row.flat()) for row in sorted(rows, key=_order)]
    write_whole(Path(path), "".join(f"{line}\n" for line in lines))
