"""Who may work on what: locks on files, which end with the process that holds them, and GPUs, one batch at a time."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from oefsmc_lib.files import take
from oefsmc_lib.parameters.experiment import Experiment

POLL = 0.5  # seconds between two tries to get a lock
_GPU = ("nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader")


def busy(path: Path) -> bool:
    """Whether another process holds the lock of this file; asking makes no file."""
    if not os.access(path, os.W_OK):
        return False
    if lock := take(path):
        lock.release()
    return lock is None


def gpus() -> list[str]:
    """The machine's GPUs by UUID, which means the same to every program."""
    try:
        asked = subprocess.run(_GPU, capture_output=True, text=True)
    except FileNotFoundError:
        return []
    return asked.stdout.split() if asked.returncode == 0 else []


@contextmanager
def gpu_slot(experiments: Iterable[Experiment]) -> Iterator[str | None]:
    """Hold a free GPU of this machine, and show this process and its kernel no other one.

    Does nothing where ``CUDA_VISIBLE_DEVICES`` says which to use (a person, Slurm), on a machine
    without GPUs, and for experiments that name their device.
    """
    if "CUDA_VISIBLE_DEVICES" in os.environ or all(e.device != "auto" for e in experiments) or not (here := gpus()):
        yield None
        return
    places = {gpu: Path(tempfile.gettempdir()) / f"oefsmc-{gpu}.lock" for gpu in here}
    while not (held := next(((gpu, lock) for gpu, path in places.items() if (lock := take(path))), None)):
        time.sleep(POLL)
    gpu, lock = held
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    try:
        yield gpu
    finally:
        del os.environ["CUDA_VISIBLE_DEVICES"]
        lock.release()


def cores() -> int:
    """The cores that this process may use, fewer than the machine has in a job of Slurm."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
