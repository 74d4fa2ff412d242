"""How long a forward pass takes, measured; fewer multiply-accumulates are not always fewer milliseconds.

Networks are timed in turn, pass by pass, so that whatever else the machine does meets all of them alike. On one thread
of a CPU the thread's own time is counted, which other programs hardly change. Times depend on the device, on its
threads and on the batch, so they are no part of what makes two rows the same.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

LEAST, MOST = 5, 101  # rounds


@torch.no_grad()
def milliseconds(
    models: Sequence[nn.Module], architecture, batch: int = 1, seconds: float = 0.1, threads: int | None = None
) -> Tensor:
    """Lower quartile, median and upper quartile of each model's forward pass of ``batch`` images: (models, 3).

    ``threads`` of the processor hold for these passes alone; by default they are what they were.

    >>> from oefsmc_lib.teacher.networks import Architecture
    >>> network = Architecture("resnet20", classes=10)
    >>> milliseconds([network.build().eval()], network, batch=2).shape
    torch.Size([1, 3])
    """
    device, usual = next(models[0].parameters()).device, torch.get_num_threads()
    images = torch.rand(architecture.example(batch).shape, generator=torch.Generator().manual_seed(0))
    images = images.to(device, memory_format=torch.channels_last)
    torch.set_num_threads(threads or usual)
    try:
        works = [partial(model.eval(), images) for model in models]
        return quartiles(works, clock_of(device), seconds=seconds)
    finally:
        torch.set_num_threads(usual)


def quartiles(
    works: Sequence[Callable], clock=time.perf_counter, least: int = LEAST, most: int = MOST, seconds: float = 0.1
) -> Tensor:
    """Milliseconds of each work in turn, lower quartile, median and upper quartile: (works, 3).

    Each runs twice to warm up. Rounds follow for about ``seconds``, at least ``least`` and at most ``most``.
    """
    for work in (*works, *works):
        work()
    taken: list[list[float]] = []
    until = time.perf_counter() + seconds
    while len(taken) < least or (len(taken) < most and time.perf_counter() < until):
        taken.append([_one(work, clock) for work in works])
    return torch.tensor(taken, dtype=torch.float64).quantile(torch.tensor([0.25, 0.5, 0.75]).double(), dim=0).T


def clock_of(device: torch.device):
    """Seconds by the thread's own clock on one thread of a CPU, else by the wall's, once a GPU has done its work."""
    if device.type == "cpu" and torch.get_num_threads() == 1:
        return time.thread_time
    if device.type != "cuda":
        return time.perf_counter

    def finished() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return finished


def _one(work: Callable, clock) -> float:
    begin = clock()
    work()
    return 1000 * (clock() - begin)
