"""Many small runs, or notebooks, on the cores of one machine: one process a core, one thread each.

Networks as small as the embedded ones leave a second thread idle; a second process does not. Rows
come out the same as from :func:`oefsmc_lib.engine.runs.compute` with one thread.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context, parent_process
from pathlib import Path

from oefsmc_lib.engine import locks, runs
from oefsmc_lib.parameters.experiment import Experiment
from oefsmc_lib.progress import bar
from oefsmc_lib.rows.store import Store

ENOUGH = 12  # runs that are worth the start of other processes
MOST = 8  # processes, because each holds its own images and teacher
SLOWEST_FIRST = ("practise", "mir", "cd", "fskd")


def compute(experiments: Iterable[Experiment], store: Store, profile: str) -> None:
    """Compute what is missing, on every core where the runs are many and the machine has no GPU.

    Raises :class:`runs.RunsFailed` at the end when runs failed; the others are done and written.
    """
    experiments = list(experiments)
    jobs = workers(len(experiments))
    if jobs == 1:
        runs.compute(experiments, store, profile)
        return
    asked = [(task, store.folder, profile) for task in tasks(experiments)]
    # One run first finds what would fail them all, such as a broken teacher.
    runs.compute(asked[0][0][:1], store, profile)
    if failed := [error for error in bar(each(_task, asked, jobs), "runs", len(asked)) if error]:
        raise runs.RunsFailed(" ".join(failed))


def workers(runs: int) -> int:
    """Processes for so many runs: the cores that this process may use, at most eight; one beside a GPU."""
    import torch

    return 1 if runs < ENOUGH or torch.cuda.is_available() else min(locks.cores(), MOST)


def each(function: Callable, arguments: Sequence[tuple], jobs: int) -> Iterator:
    """The results of ``function(*arguments)``, as they come, from so many processes that end with this one."""
    with ProcessPoolExecutor(jobs, get_context("spawn"), _end_with_parent) as pool:
        running = [pool.submit(function, *each) for each in arguments]
        try:
            for done in as_completed(running):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def tasks(experiments: Sequence[Experiment]) -> list[list[Experiment]]:
    """Runs that share draws and recovered students stay together: one task a method, num, imbalance and seed.

    The long ones come first, so that no core waits for the last.
    """
    grouped: dict[tuple, list[Experiment]] = {}
    for e in experiments:
        grouped.setdefault((e.method, e.num, e.imbalance, e.seed), []).append(e)
    return sorted(grouped.values(), key=lambda group: (SLOWEST_FIRST.index(group[0].method), -len(group)))


def _end_with_parent() -> None:
    """End this process with its parent, at once: rows are written whole or not at all.

    Neither concurrent.futures nor joblib does this. When a notebook is killed, their busy processes would go on.
    """
    threading.Thread(target=_leave_with, args=(parent_process(),), daemon=True).start()


def _leave_with(parent) -> None:
    parent.join()
    os._exit(1)


@cache
def _shared():
    """What the tasks of one process have in common."""
    import torch

    from oefsmc_lib import pipeline

    torch.set_num_threads(1)
    return pipeline.Shared()


def _task(experiments: list[Experiment], folder: Path, profile: str) -> str | None:
    """Compute some runs in one of the processes; what to say of those that failed."""
    try:
        runs.compute(experiments, Store(folder), profile, _shared())
    except runs.RunsFailed as error:
        return str(error)
    return None
