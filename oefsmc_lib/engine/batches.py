"""Running the cells of grids: one cell, several at a time, on a GPU of its own, with a log of what failed.

A cell is one papermill run of ``notebooks/cell.ipynb``. Every engine (``oefsmc grid run``, Snakemake on
one machine or a cluster) runs :func:`run_cell`, so what holds for one holds for all: a cell is never
run twice at a time, computes only what is missing, and leaves a log and its notebook where it failed.
"""

import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from oefsmc_lib.engine import locks, runs
from oefsmc_lib.errors import InputError
from oefsmc_lib.files import outputs_folder, project_root, writable_folder, write_whole
from oefsmc_lib.parameters import grid
from oefsmc_lib.parameters.experiment import Experiment
from oefsmc_lib.parameters.keys import digest
from oefsmc_lib.rows.store import Store

WORKER = "notebooks/cell.ipynb"
BUSY = 75  # exit code: another runner has the cell
LAST_LINES = 20  # of a traceback, in a cell's log


class CellFailed(RuntimeError):
    """A cell has rows missing after it ran; the message says why, in one sentence."""


@dataclass(frozen=True)
class Cell:
    """Experiments of one grid that share a notebook run, and where its notebook and log are kept."""

    grid: grid.Grid
    label: str
    experiments: list[Experiment]

    @property
    def folder(self) -> Path:
        return outputs_folder().resolve() / "runs" / f"{self.grid.profile.name}-{self.grid.name}"

    @property
    def notebook(self) -> Path:
        return self.folder / f"{self.label}.ipynb"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.label}.log"

    @property
    def lock(self) -> Path:
        return self.folder / f".{self.label}.lock"

    @property
    def marker(self) -> Path:
        """What an engine that thinks in files takes for the cell's rows."""
        return self.folder / f"{self.label}-{digest(sorted(e.key for e in self.experiments))}.rows"

    @property
    def command(self) -> list[str]:
        """The command that runs this cell, in any folder and on any machine that sees this one."""
        return [
            sys.executable,
            "-m",
            "oefsmc_lib",
            "grid",
            "cell",
            self.grid.source,
            self.label,
            "--profile",
            self.grid.profile.name,
            "--keys",
            ",".join(e.key for e in self.experiments),
        ]

    def failure(self) -> str | None:
        """Why the cell's last run failed; None where it did not, or goes on."""
        text = self.log.read_text(errors="replace") if self.log.is_file() else ""
        ends = re.findall(r"^\S+Z (started|finished|failed): ?(.*)$", text, re.M)
        return ends[-1][1] if ends and ends[-1][0] == "failed" else None

    def missing(self, store: Store) -> list[Experiment]:
        return runs.without_row(self.experiments, store)

    def note(self, text: str) -> None:
        """Add a line to the log; where that is impossible, to standard error."""
        try:
            with writable_folder(self.folder).joinpath(self.log.name).open("a") as file:
                file.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}\n")
        except (OSError, InputError) as error:
            print(f"{self.label}: {text} (not in its log: {error})", file=sys.stderr)


def cells(grids: Iterable[grid.Grid], store: Store | None = None) -> list[Cell]:
    """The cells of grids, an experiment that several share only in the first; with a store, only what is missing."""
    seen: set[str] = set()
    found = []
    for each in grids:
        wanted = {e.key for e in (runs.missing(each, store) if store else each.experiments)} - seen
        seen |= wanted
        parts = ((label, [e for e in part if e.key in wanted]) for label, part in each.cells().items())
        found += [Cell(each, label, part) for label, part in parts if part]
    return found


def find_cell(name: str, profile: str, label: str, keys: str = "") -> Cell:
    """A grid's cell by its label; ``keys`` (joined by commas) picks experiments of it."""
    found = grid.load_grid(name, profile)
    if label not in found.cells():
        raise InputError(
            f"The grid {name} ({profile}) has no cell {label!r}; did you mean {grid.nearest(label, found.cells())}?"
        )
    experiments = found.cells()[label]
    wanted = keys.split(",") if keys else [e.key for e in experiments]
    if unknown := sorted(set(wanted) - {e.key for e in experiments}):
        raise InputError(
            f"The cell {label} has no experiment {unknown[0]}; the grid or the algorithm changed since "
            "the command was made, so make it again."
        )
    return Cell(found, label, [e for e in experiments if e.key in wanted])


# --- one cell ----------------------------------------------------------------------------------
def run_cell(cell: Cell, store: Store, wait: bool = True, shared=None) -> None:
    """Compute the rows that a cell lacks: with papermill, or in this process where ``shared`` is given.

    Raises :class:`CellFailed` with rows missing at the end, and :class:`locks.Busy` instead of waiting for
    another runner. Where nothing is missing, no kernel starts.
    """
    if not cell.missing(store):
        return
    writable_folder(cell.folder)
    gpu = locks.gpu_slot(cell.experiments) if shared is None else nullcontext()
    with locks.alone(cell.lock, wait, cell.label), gpu:
        left = cell.missing(store)  # again: the other runner may have done it
        if not left:
            return
        cell.note(f"started: {len(left)} of {len(cell.experiments)} runs missing")
        try:
            if shared is None:
                _run_notebook(cell, left)
            else:
                runs.compute(left, store, cell.grid.profile.name, shared=shared)
            if left := cell.missing(store):
                raise CellFailed(f"{len(left)} rows are missing although the cell ended.")
        except (CellFailed, runs.RunsFailed) as error:
            cell.note(f"failed: {error}")
            raise CellFailed(str(error)) from error
        except Exception as error:  # noted and passed on: a full disk, a fault of ours
            cell.note(f"failed: {type(error).__name__}: {error}")
            raise
        cell.note("finished: every row is there")


def _run_notebook(cell: Cell, left: list[Experiment]) -> None:
    """Papermill over the worker; a kernel that died gets one more try, a cell that raised none."""
    from oefsmc_lib.engine.kernels import NotebookFailed, execute

    parameters = {
        "grid": cell.grid.source,
        "profile": cell.grid.profile.name,
        "cell": cell.label,
        "keys": ",".join(e.key for e in left),
    }
    for last in (False, True):
        try:
            return execute(project_root() / WORKER, cell.notebook, parameters)
        except NotebookFailed as error:
            if error.kernel_died and not last:
                cell.note(f"tried again: {error}")
                continue
            for line in error.traceback.splitlines()[-LAST_LINES:]:
                cell.note(f"  {line}")
            raise CellFailed(str(error)) from error


def write_marker(cell: Cell, store: Store, path: Path) -> None:
    """List the cell's row ids, for an engine that thinks in files."""
    rows = store.rows([e.key for e in cell.experiments], on_error="warn")
    write_whole(path, "".join(f"{row.id}\n" for row in rows))


# --- many cells --------------------------------------------------------------------------------
def run_cells(todo: list[Cell], jobs: int = 1) -> dict[str, str]:
    """Run cells, each in a process of its own, ``jobs`` at a time; returns the failed ones and why.

    A cell that another runner has is left for later, when its rows are likely to be there.
    """
    threads, progress = max(1, locks.cores() // jobs), _Progress(todo)
    queue, running, failed = deque((cell, "--no-wait") for cell in todo), {}, {}
    try:
        while queue or running:
            while queue and len(running) < jobs:
                cell, wait = queue.popleft()
                with writable_folder(cell.folder).joinpath(cell.log.name).open("a") as log:
                    words = [*cell.command, "--threads", str(threads), wait]
                    running[subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)] = cell
                progress.show(cell)
            time.sleep(0.1)
            for process in [p for p in running if p.poll() is not None]:
                cell, code = running.pop(process), process.returncode
                if code == BUSY:
                    queue.append((cell, "--wait"))
                    continue
                if code and not cell.failure():
                    cell.note(
                        "failed: the cell's process "
                        + (f"was killed by signal {-code}." if code < 0 else f"ended with exit code {code}.")
                    )
                if code:
                    failed[cell.label] = cell.failure() or f"its log {cell.log} cannot be written."
                progress.finished(cell, failed.get(cell.label))
    finally:
        for process in running:  # interrupted: their finished rows are kept
            process.terminate()
        progress.close()
    return failed


def run_in_process(todo: list[Cell], store: Store) -> dict[str, str]:
    """Run cells here, one after the other, without Jupyter; returns the failed ones and why."""
    with locks.gpu_slot([e for cell in todo for e in cell.experiments]):
        from oefsmc_lib import pipeline  # loads torch, which must see the slot's GPU alone

        queue, failed, progress, shared = deque((cell, False) for cell in todo), {}, _Progress(todo), pipeline.Shared()
        while queue:
            cell, wait = queue.popleft()
            progress.show(cell)
            try:
                run_cell(cell, store, wait, shared)
            except locks.Busy:
                queue.append((cell, True))
                continue
            except CellFailed as error:
                failed[cell.label] = str(error)
            progress.finished(cell, failed.get(cell.label))
        progress.close()
    return failed


class _Progress:
    """One progress line on a terminal; a line a cell elsewhere."""

    def __init__(self, todo: list[Cell]):
        from tqdm import tqdm

        self.cells, self.done = len(todo), 0
        self.bar = tqdm(
            total=sum(len(cell.experiments) for cell in todo),
            unit="run",
            disable=not sys.stderr.isatty() or os.environ.get("OEFSMC_QUIET") == "1",
        )

    def show(self, cell: Cell) -> None:
        self.bar.set_description(f"[{self.done + 1}/{self.cells}] {cell.label}")

    def finished(self, cell: Cell, failure: str | None) -> None:
        self.done += 1
        self.bar.update(len(cell.experiments))
        if failure or self.bar.disable:
            self.bar.write(
                f"[{self.done}/{self.cells}] {cell.label}: "
                + (f"failed: {failure}" if failure else f"{len(cell.experiments)} runs"),
                file=sys.stderr if failure else sys.stdout,
            )

    def close(self) -> None:
        self.bar.close()


def state(cell: Cell, store: Store) -> dict:
    """Runs done, missing and failed of a cell, whether a runner has it now, and of the last failure its sentence and log."""
    left = cell.missing(store)
    logs = [log for e in left if (log := runs.failure_log(e, store)).is_file()]
    ended = cell.failure() if left else None
    failed = len(logs) or (len(left) if ended else 0)
    if ended:
        last, log = ended, cell.log
    else:
        log = max(logs, key=lambda path: path.stat().st_mtime, default=None)
        last = log.read_text().strip().splitlines()[-1] if log else None
    return {
        "runs": len(cell.experiments),
        "done": len(cell.experiments) - len(left),
        "missing": len(left),
        "failed": failed,
        "at_work": locks.busy(cell.lock),
        "last": last,
        "log": log,
    }
