"""Many small runs, or notebooks, on the cores of one machine: one process a core, one thread each.

Networks as small as the embedded ones leave a second thread idle; a second process does not. Rows
come out the same as from :func:`oefsmc_lib.engine.runs.compute` with one thread.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process

from oefsmc_lib.engine import locks, runs
from oefsmc_lib.parameters.experiment import Experiment
from oefsmc_lib.progress import bar
from oefsmc_lib.rows.store import Store

ENOUGH = 12  # runs that are worth the start of other processes
MOST = 8  # processes: each holds its own images and teacher
_shared = None  # what one process's tasks have in common


def compute(experiments: Iterable[Experiment], store: Store, profile: str) -> None:
    """Compute what is missing, on every core where the runs are many and the machine has no GPU.

    Raises :class:`runs.RunsFailed` at the end when runs failed; the others are done and written.
    """
    experiments = list(experiments)
    jobs = workers(len(experiments))
    if jobs == 1:
        runs.compute(experiments, store, profile)
        return
    failed: list[str] = []
    first, *others = tasks(experiments)
    # What all of them need and one must make first: the embedded teacher, the data's cache.
    runs.compute(first[:1], store, profile)
    with ProcessPoolExecutor(jobs, get_context("spawn"), _start) as pool:
        running = [pool.submit(_task, task, store.folder, profile) for task in (first, *others)]
        for done in bar(as_completed(running), "runs", len(running)):
            if (error := done.exception()) is None:
                continue
            if not isinstance(error, runs.RunsFailed):
                pool.shutdown(cancel_futures=True)
                raise error
            failed.append(str(error))
    if failed:
        raise runs.RunsFailed(" ".join(failed))


def workers(runs: int) -> int:
    """Processes for so many runs: the cores that this process may use, at most eight; one beside a GPU."""
    import torch

    if runs < ENOUGH or torch.cuda.is_available():
        return 1
    return min(locks.cores(), MOST)


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
    """Runs that share draws and recovered students stay together: one task a method, num, imbalance and seed."""
    grouped: dict[tuple, list[Experiment]] = {}
    for e in experiments:
        grouped.setdefault((e.method, e.num, e.imbalance, e.seed), []).append(e)
    # The long ones first, so that no core waits for the last.
    heavy = {"practise": 0, "mir": 1, "cd": 2, "fskd": 3}
    return sorted(grouped.values(), key=lambda group: (heavy[group[0].method], -len(group)))


def _end_with_parent() -> None:
    # A killed notebook must not leave processes behind that compute for nobody; rows are written whole or not at all.
    threading.Thread(target=_leave_with, args=(parent_process(),), daemon=True).start()


def _start() -> None:
    _end_with_parent()
    import torch

    from oefsmc_lib import pipeline

    global _shared
    torch.set_num_threads(1)
    _shared = pipeline.Shared()


def _leave_with(parent) -> None:
    parent.join()
    os._exit(1)


def _task(experiments: list[Experiment], folder, profile: str) -> None:
    runs.compute(experiments, Store(folder), profile, shared=_shared)
