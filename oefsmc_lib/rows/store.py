"""The row that a run writes, and the store of rows.

Rows are plain JSON, one file a run, so that any number of machines can write to one folder.
Nothing here loads torch. What is made of rows is in :mod:`oefsmc_lib.evidence.tables`.
"""

import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from oefsmc_lib.errors import InputError
from oefsmc_lib.files import outputs_folder, write_whole
from oefsmc_lib.parameters.experiment import ALGORITHM_VERSION, Experiment, known_keys

Percent = Annotated[float, Field(ge=0, le=100)]
Natural = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
OnError = Literal["raise", "warn"]


class Row(BaseModel):
    """One run. Every accuracy, recall and cut is in PERCENT (0-100); times are in seconds, sizes in bytes.

    On file and in a table a row is flat: the fields below, and beside them each further switch
    that the run read under its dotted name (``fskd.rho``). Columns that a later version adds get
    a default here, so that old rows stay readable.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # which run
    id: Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]+$")]  # a file name: switches, checksums and algorithm
    key: str                                               # Experiment.key: switches and algorithm
    algorithm: int = ALGORITHM_VERSION
    profile: str | None = None                             # where the defaults came from; informative
    dataset: str
    data_fingerprint: str
    network: str                                           # models.stem: vgg16-w0.25
    width: float
    teacher_sha256: str
    teacher_accuracy: Percent                              # from its card, not measured again
    method: str
    variant: str
    solver: Literal["literal", "default"]
    plan: str
    num: int
    ratio: float | None = None                             # None where the imbalance has no ratio
    seed: int
    ood_source: str | None = None                          # None where no stage reads D_aux
    ood_fingerprint: str | None = None
    ood_removed: Natural = 0                               # pool images that the purity filter took out
    broken_images: Natural = 0                             # left out by skip_broken
    switches: dict[str, Any] = {}                          # the further ones, by dotted name

    # what was drawn
    counts: list[Natural]                                  # m_j, few images a class, (K,)
    order: list[int]                                       # classes, the largest first, (K,)
    aux_counts: list[Natural] = []                         # labels of D_aux, (K,)
    few_indices: list[int] = []
    aux_indices: list[int] = []

    # what came out
    top1: Percent
    balanced_accuracy: Percent
    per_class: list[Percent | None]                        # recalls; None for a class without test images
    head_accuracy: Percent | None = None                   # None for an empty group
    tail_accuracy: Percent | None = None
    absent_accuracy: Percent | None = None
    macs: Natural
    params: Natural
    macs_cut: float
    params_cut: float
    file_size: Natural | None = None
    latency_ms: float | None = None
    kept: dict[str, int] = {}                              # conv -> channels kept
    dropped: list[str] = []                                # blocks (PRACTISE)

    # how fine-tuning went; None and empty in rows of before version 3
    finetune_epochs: Natural | None = None                 # epochs run
    finetune_kept: Natural | None = None                   # the epoch whose weights were kept; 0: those before the stage
    finetune_distances: list[float] = []                   # teacher-student distance before the first epoch, after each

    # how long and where; no part of what makes two rows the same
    seconds_importance: Seconds = 0.0
    seconds_recovery: Seconds = 0.0
    seconds_finetune: Seconds = 0.0
    seconds_evaluation: Seconds = 0.0
    seconds_total: Seconds = 0.0
    device: str
    threads: Natural
    torch: str
    torchvision: str
    oefsmc: str
    python: str
    git_commit: str | None = None                          # with -dirty
    time: str                                              # UTC, ISO 8601

    @model_validator(mode="after")
    def _switches_are_no_columns(self):
        if clash := set(self.switches) & set(COLUMNS):
            raise ValueError(f"{sorted(clash)[0]} is a column, not a further switch")
        return self

    @classmethod
    def of(cls, experiment: Experiment, **measured) -> "Row":
        """The row of ``experiment``; ``measured`` is everything that the switches do not say."""
        switches = {name: list(value) if isinstance(value, tuple) else value
                    for name, value in experiment.switches().items()}
        own = {"key": experiment.key, "solver": experiment.solver, "width": experiment.width}
        own |= {name: switches[name] for name in ("dataset", "method", "variant", "plan", "num", "seed")}
        own |= {name: switches.get(name) for name in ("ratio", "ood_source")}
        further = {name: value for name, value in switches.items() if name not in COLUMNS}
        return cls(**own, switches=further, **measured)

    @classmethod
    def parse(cls, values: Any, where: str) -> "Row":
        """A row from flat JSON; an :class:`InputError` names the column at fault and ``where`` it stands."""
        if not isinstance(values, dict):
            raise InputError(f"{where} holds no whole row; delete it and run again.")
        fields = {name: value for name, value in values.items() if name in COLUMNS}
        further = {name: value for name, value in values.items() if name not in COLUMNS}
        if unknown := sorted(set(further) - SWITCHES):
            raise InputError(f"{where} has the unknown column {unknown[0]!r}, as of another version; "
                             "update the project, or delete it and run again.")
        try:
            return cls(**fields, switches=further)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            column = ".".join(map(str, fault["loc"])) or "the row"
            raise InputError(f"{where} is not a valid row ({column}: {fault['msg'].lower()}); "
                             "delete it and run again.") from None

    def flat(self) -> dict[str, Any]:
        """Column -> plain value, as on file."""
        values = self.model_dump(mode="json")
        return {**{name: values[name] for name in COLUMNS}, **values["switches"]}

    def experiment(self) -> Experiment:
        """The experiment that this row is of, to run it again; its ``key`` is the row's."""
        settings = dict(self.switches)
        # `class_aware` is what importance and variant came to; either importance is in force by name.
        settings["importance"] = "class_aware" if settings.pop("class_aware", False) else "native"
        settings.pop("recovery_images", None)              # the variant says it
        settings |= {name: getattr(self, name) for name in ("dataset", "width", "method", "variant", "plan", "num",
                                                            "seed", "ratio", "ood_source")}
        if settings["imbalance"] == "counts":
            settings["counts"] = self.counts
        return Experiment.parse({name: value for name, value in settings.items() if value is not None}, f"row {self.id}")


COLUMNS = tuple(name for name in Row.model_fields if name != "switches")
SWITCHES = frozenset(known_keys()) | {"class_aware", "recovery_images"}


# --- the store ---------------------------------------------------------------------------------
MACHINE = ("profile", "device", "threads", "torch", "torchvision", "oefsmc", "python", "git_commit", "time",
           "latency_ms", "file_size", *(name for name in COLUMNS if name.startswith("seconds_")))


def difference(one: Row, other: Row) -> str | None:
    """The first column in which two rows of one run differ, time and machine aside; None if there is none."""
    left, right = one.flat(), other.flat()
    return next((name for name in {**left, **right} if name not in MACHINE and left.get(name) != right.get(name)), None)


class Store:
    """A folder of rows: ``rows/<id>.json``, one file a run, and tidy ``*.jsonl``, one row a line.

    ``on_error="raise"`` refuses a row that cannot be read, in one sentence that names it;
    ``"warn"`` passes over it with a warning, for displays and for computing it again.
    """

    def __init__(self, folder: Path | str | None = None):
        self.folder = Path(folder) if folder is not None else outputs_folder() / "results"
        self._read: dict[Path, tuple[tuple, list[Row]]] = {}   # file -> (what it was, its rows)

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
            return []                                      # never written, or removed since it was listed
        stamp = stat.st_ino, stat.st_mtime_ns, stat.st_size
        if path not in self._read or self._read[path][0] != stamp:
            rows, whole = _read(path, on_error)
            if not whole:
                return rows                                # to be named again the next time
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
    except ValueError:                                     # not JSON, or not even text
        values = None
    return Row.parse(values, where)


def _agree(row: Row, path: Path, other: Row, other_path: Path, on_error: OnError) -> None:
    if column := difference(row, other):
        _report(InputError(f"Run {row.id} has two results: {path} and {other_path} differ in {column}; "
                           "keep one of them and delete the other."), on_error)


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
