"""Running grids in batches: what a batch is, how one is run, and how many of them are run on one machine.

A batch is one papermill run of ``notebooks/batch.ipynb``. Every engine (``oefsmc grid run``, Snakemake on one machine
or a cluster) runs :func:`run_batch`, so what holds for one engine holds for all: a batch is never run twice at a time,
computes only what is missing, and leaves a log and its notebook where it failed.
"""

import re
import subprocess
import sys
import time
from collections.abc import Generator, Iterable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from oefsmc_lib.engine import locks, runs
from oefsmc_lib.errors import InputError
from oefsmc_lib.files import Busy, alone, outputs_folder, project_root, short, writable_folder, write_whole
from oefsmc_lib.parameters import grid
from oefsmc_lib.parameters.experiment import Experiment
from oefsmc_lib.parameters.keys import digest
from oefsmc_lib.parameters.parse import hint
from oefsmc_lib.progress import bar
from oefsmc_lib.rows.store import Store

WORKER = "notebooks/batch.ipynb"
BUSY = 75  # the exit code that says that another runner has the batch
LAST_LINES = 20  # of a traceback, in a batch's log

# Batches as they end, each with the reason why it failed, if it did.
Ended = Generator[tuple["Batch", str | None], None, None]


class BatchFailed(RuntimeError):
    """A batch has rows missing after it ran; the message says why, in one sentence."""


@dataclass(frozen=True)
class Batch:
    """Experiments of one grid that share a notebook run, and where its notebook and log are kept."""

    grid: grid.Grid
    label: str
    experiments: list[Experiment]

    @property
    def folder(self) -> Path:
        return outputs_folder().resolve() / "runs" / short(f"{self.grid.profile.name}-{self.grid.name}", 100)

    @property
    def log(self) -> Path:
        return self.folder / f"{self.label}.log"

    @property
    def lock(self) -> Path:
        return self.folder / f".{self.label}.lock"

    @property
    def marker(self) -> Path:
        """A file that stands for the batch's rows in engines that wait for files, such as Snakemake."""
        return self.folder / f"{self.label}-{digest(sorted(e.key for e in self.experiments))}.rows"

    @property
    def command(self) -> list[str]:
        """The command that runs this batch, in any folder and on any machine that sees this one."""
        program = [sys.executable, "-m", "oefsmc_lib", "grid", "batch", self.grid.source, self.label]
        return [*program, "--profile", self.grid.profile.name, "--keys", ",".join(e.key for e in self.experiments)]

    def missing(self, store: Store) -> list[Experiment]:
        return runs.missing(self.experiments, store)

    def failure(self) -> str | None:
        """Why the batch's last run failed; None where it did not fail, or has not ended."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""
        ends = re.findall(r"^\S+Z (started|finished|failed): ?(.*)$", text, re.M)
        return ends[-1][1] if ends and ends[-1][0] == "failed" else None

    def note(self, text: str) -> None:
        """Add a line to the log; where that is impossible, to standard error."""
        try:
            with writable_folder(self.folder).joinpath(self.log.name).open("a", encoding="utf-8") as file:
                file.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}\n")
        except (OSError, InputError) as error:
            print(f"{self.label}: {text} (not in its log: {error})", file=sys.stderr)


def of_grids(grids: Iterable[grid.Grid], store: Store | None = None) -> list[Batch]:
    """The batches of grids, an experiment that several share only in the first; with a store, only what is missing."""
    seen: set[str] = set()
    found = []
    for each in grids:
        wanted = {e.key for e in (runs.missing(each.experiments, store) if store else each.experiments)} - seen
        seen |= wanted
        parts = ((label, [e for e in part if e.key in wanted]) for label, part in each.batches().items())
        found += [Batch(each, label, part) for label, part in parts if part]
    return found


def find_batch(name: str, profile: str, label: str, keys: str = "") -> Batch:
    """A grid's batch by its label; ``keys`` (joined by commas) picks experiments of it."""
    found = grid.load_grid(name, profile)
    batches = found.batches()
    if label not in batches:
        raise InputError(f"The grid {name} ({profile}) has no batch {label!r}{hint(label, batches)}")
    known = {e.key: e for e in batches[label]}
    wanted = keys.split(",") if keys else list(known)
    if unknown := sorted(set(wanted) - set(known)):
        raise InputError(
            f"The batch {label} has no experiment {unknown[0]}; the grid or the algorithm changed since the command "
            "was made, so make it again."
        )
    return Batch(found, label, [e for key, e in known.items() if key in wanted])


def state(batch: Batch, store: Store) -> dict[str, Any]:
    """Runs done, missing and failed of a batch, whether a runner has it now, and its last failure with the log."""
    left = batch.missing(store)
    logs = [log for e in left if (log := runs.failure_log(e, store)).is_file()]
    last, log = (batch.failure() if left else None), batch.log
    if last is None and logs:
        log = max(logs, key=lambda path: path.stat().st_mtime)
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
    done, failed = len(batch.experiments) - len(left), len(logs) or len(left) * (last is not None)
    counts = {"runs": len(batch.experiments), "done": done, "missing": len(left), "failed": failed}
    return counts | {"at_work": locks.busy(batch.lock), "last": last, "log": log if last else None}


# --- one batch -----------------------------------------------------------------------------------
def run_batch(batch: Batch, store: Store, wait: bool = True, shared=None) -> None:
    """Compute the rows that a batch lacks: with papermill, or in this process where ``shared`` is given.

    Raises :class:`BatchFailed` with rows missing at the end, and :class:`Busy` instead of waiting for
    another runner. Where nothing is missing, no kernel starts.
    """
    if not batch.missing(store):
        return
    writable_folder(batch.folder)
    gpu = locks.gpu_slot(batch.experiments) if shared is None else nullcontext()
    busy = f"{batch.label}: another runner is at work on it" + (", waiting" if wait else "")
    with alone(batch.lock, busy, wait), gpu:
        if not (left := batch.missing(store)):  # asked again, because the other runner may have done it
            return
        batch.note(f"started: {len(left)} of {len(batch.experiments)} runs missing")
        try:
            if shared is None:
                _run_notebook(batch, left)
            else:
                runs.compute(left, store, batch.grid.profile.name, shared)
            if left := batch.missing(store):
                raise BatchFailed(f"{len(left)} rows are missing although the batch ended.")
        except (BatchFailed, runs.RunsFailed) as error:
            batch.note(f"failed: {error}")
            raise BatchFailed(str(error)) from error
        except Exception as error:  # noted and passed on: a full disk, or a fault of the program
            batch.note(f"failed: {type(error).__name__}: {error}")
            raise
        batch.note("finished: every row is there")


def _run_notebook(batch: Batch, left: list[Experiment]) -> None:
    """Papermill over the worker; a kernel that died gets one more try, a notebook that raised gets none."""
    from oefsmc_lib.engine.kernels import NotebookFailed, execute

    parameters = {"grid": batch.grid.source, "profile": batch.grid.profile.name, "batch": batch.label}
    parameters["keys"] = ",".join(e.key for e in left)
    for last in (False, True):
        try:
            return execute(project_root() / WORKER, batch.folder / f"{batch.label}.ipynb", parameters)
        except NotebookFailed as error:
            if error.kernel_died and not last:
                batch.note(f"tried again: {error}")
                continue
            for line in error.traceback.splitlines()[-LAST_LINES:]:
                batch.note(f"  {line}")
            raise BatchFailed(str(error)) from error


def write_marker(batch: Batch, store: Store, path: Path) -> None:
    """List the ids of the batch's rows in a file (see :attr:`Batch.marker`)."""
    rows, _ = runs.stored(batch.experiments, store)
    write_whole(path, "".join(f"{row.id}\n" for row in rows))


# --- many batches --------------------------------------------------------------------------------
def run(todo: list[Batch], store: Store, jobs: int = 1, in_process: bool = False) -> list[str]:
    """Run batches, ``jobs`` at a time, and print a line as each ends; returns the labels of those that failed.

    Each has a process of its own, unless all of them run in this process, one after the other and without Jupyter.
    A batch that another runner has is left for later, when its rows are likely to be there.
    """
    from tqdm import tqdm

    failed = []
    with closing(_run_here(todo, store) if in_process else _run_processes(todo, jobs)) as ended:
        for number, (batch, failure) in enumerate(bar(ended, "batches", len(todo)), 1):
            said = f"failed: {failure}" if failure else f"{len(batch.experiments)} runs"
            tqdm.write(f"[{number}/{len(todo)}] {batch.label}: {said}", sys.stderr if failure else sys.stdout)
            failed += [batch.label] if failure else []
    return failed


def _run_processes(todo: list[Batch], jobs: int) -> Ended:
    threads = str(max(1, locks.cores() // jobs))
    queue = [(batch, "--no-wait") for batch in todo]
    running: dict[subprocess.Popen, Batch] = {}
    try:
        while queue or running:
            while queue and len(running) < jobs:
                batch, wait = queue.pop(0)
                with writable_folder(batch.folder).joinpath(batch.log.name).open("a") as log:
                    words = [*batch.command, "--threads", threads, wait]
                    running[subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)] = batch
            time.sleep(0.1)
            for process in [p for p in running if p.poll() is not None]:
                batch, code = running.pop(process), process.returncode
                if code == BUSY:
                    queue.append((batch, "--wait"))
                else:
                    yield batch, _why(batch, code) if code else None
    finally:
        for process in running:  # this process was interrupted; rows that are finished are kept
            process.terminate()


def _why(batch: Batch, code: int) -> str:
    """Why a batch's process ended with this exit code; noted in the log where the process could not note it itself."""
    if not batch.failure():
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        batch.note(f"failed: the batch's process {how}.")
    return batch.failure() or f"its log {batch.log} cannot be written."


def _run_here(todo: list[Batch], store: Store) -> Ended:
    with locks.gpu_slot(e for batch in todo for e in batch.experiments):
        from oefsmc_lib import pipeline  # loads torch, which must see the slot's GPU alone

        shared, queue = pipeline.Shared(), [(batch, False) for batch in todo]
        while queue:
            batch, wait = queue.pop(0)
            try:
                run_batch(batch, store, wait, shared)
                yield batch, None
            except Busy:
                queue.append((batch, True))
            except BatchFailed as error:
                yield batch, str(error)
