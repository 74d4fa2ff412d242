"""The store of rows: plain JSON, one file a run, so that any number of machines can write to one folder."""

import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from oefsmc_lib.errors import InputError
from oefsmc_lib.files import outputs_folder, write_whole
from oefsmc_lib.rows.row import Row, difference

OnError = Literal["raise", "warn"]


# --- the store ---------------------------------------------------------------------------------


class Store:
    """A folder of rows: ``rows/<id>.json``, one file a run, and tidy ``*.jsonl``, one row a line.

    ``on_error="raise"`` refuses a row that cannot be read, in one sentence that names it;
    ``"warn"`` passes over it with a warning, for displays and for computing it again.
    """

    def __init__(self, folder: Path | str | None = None):
        self.folder = Path(folder) if folder is not None else outputs_folder() / "results"
        self._read: dict[Path, tuple[tuple, list[Row]]] = {}  # file -> (what it was, its rows)

    def write(self, row: Row) -> Path:
        """Write one row, whole or not at all; an earlier one of the same id is replaced."""
        path = self.folder / "rows" / f"{row.id}.json"
        write_whole(path, json.dumps(row.flat()) + "\n")
        return path

    def has(self, id: str, on_error: OnError = "raise") -> bool:
        return self.get(id, on_error) is not None

    def get(self, id: str, on_error: OnError = "raise") -> Row | None:
        """The row of this id, from its own file or from a tidy one."""
        for path in (self.folder / "rows" / f"{id}.json", *self._tidy()):
            for row in self._rows_of(path, on_error):
                if row.id == id:
                    return row
        return None

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
        for path in (*sorted((self.folder / "rows").glob("[!.]*.json")), *self._tidy()):
            for row in self._rows_of(path, on_error):
                if row.id in found:
                    _agree(*found[row.id], row, path, on_error)
                elif wanted is None or row.key in wanted:
                    found[row.id] = row, path
        return sorted((row for row, _ in found.values()), key=_order)

    def _tidy(self) -> list[Path]:
        return sorted(self.folder.glob("[!.]*.jsonl"))

    def _rows_of(self, path: Path, on_error: OnError) -> list[Row]:
        """The rows of one file, read again only when it changed."""
        try:
            stat = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return []  # never written, or removed since it was listed
        stamp = stat.st_ino, stat.st_mtime_ns, stat.st_size
        if path not in self._read or self._read[path][0] != stamp:
            rows, whole = _read(path, on_error)
            if not whole:
                return rows  # to be named again the next time
            self._read[path] = stamp, rows
        return self._read[path][1]


def _read(path: Path, on_error: OnError) -> tuple[list[Row], bool]:
    """The rows of a ``.json`` or ``.jsonl`` file, and whether all of it could be read."""
    rows, whole = [], True
    tidy = path.suffix == ".jsonl"
    content = path.read_bytes()
    for number, text in enumerate(content.splitlines() if tidy else [content], 1):
        try:
            row = _parse(text, f"{path}, line {number}," if tidy else f"{path}")
            if not tidy and row.id != path.stem:
                raise InputError(f"{path} holds the row of another run ({row.id}); delete it and run again.")
            rows.append(row)
        except InputError as error:
            whole = False
            _report(error, on_error)
    return rows, whole


def _parse(text: bytes, where: str) -> Row:
    try:
        values = json.loads(text)
    except ValueError:  # not JSON, or not even text
        values = None
    return Row.parse(values, where)


def _agree(row: Row, path: Path, other: Row, other_path: Path, on_error: OnError) -> None:
    if column := difference(row, other):
        _report(
            InputError(
                f"Run {row.id} has two results: {path} and {other_path} differ in {column}; "
                "keep one of them and delete the other."
            ),
            on_error,
        )


def _report(error: InputError, on_error: OnError) -> None:
    if on_error == "raise":
        raise error
    warnings.warn(str(error), stacklevel=3)


def _order(row: Row) -> tuple:
    return row.dataset, row.network, row.method, row.num, row.variant, row.seed, row.id


def merge(folders: Sequence[Path | str], into: Store) -> tuple[int, int]:
    """Take the rows of ``folders`` into a store; returns how many were new and how many were there.

    Nothing is written unless everything agrees: raises :class:`InputError` for a folder without
    rows and for two different results of one run.
    """
    found = {row.id: (row, into.folder) for row in into.rows()}
    new, same = [], 0
    for folder in map(Path, folders):
        rows = Store(folder).rows()
        if not rows:
            raise InputError(f"{folder} holds no rows; name a folder with rows/*.json or *.jsonl in it.")
        for row in rows:
            if row.id in found:
                _agree(*found[row.id], row, folder, "raise")
                same += 1
            else:
                found[row.id] = row, folder
                new.append(row)
    for row in new:
        into.write(row)
    return len(new), same


def pack(rows: Iterable[Row], path: Path | str) -> None:
    """Write rows as one tidy ``.jsonl``: sorted, one a line, numbers exactly as they are."""
    lines = [json.dumps(row.flat()) for row in sorted(rows, key=_order)]
    write_whole(Path(path), "".join(f"{line}\n" for line in lines))
