"""Where benches write: one CSV a part, kept up to date line by line, with the machine and the versions in each."""

import csv
import io
import time
from collections.abc import Iterable
from datetime import date

import torch

from oefsmc_lib.errors import InputError
from oefsmc_lib.files import outputs_folder, write_whole
from oefsmc_lib.rows import provenance

ABOUT = ["device", "threads", "torch", "git_commit"]


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def record(part: str, keys: list[str], measured: list[str], lines: Iterable[dict]) -> None:
    """Write ``lines`` to outputs/bench/<date>_<cpu or gpu>_<torch>_<part>.csv, each as soon as it is there."""
    version = torch.__version__.split("+")[0]
    about = {name: value for name, value in provenance.here(device()).items() if name in ABOUT}
    keep(f"{version}_{part}", keys, [*keys, *measured, *ABOUT], (line | about for line in lines))


def keep(name: str, keys: list[str], fields: list[str], lines: Iterable[dict]) -> None:
    """Write ``lines`` with the columns ``fields`` to outputs/bench/<date>_<cpu or gpu>_<name>.csv, each as soon as it is there.

    A line takes the place of the day's earlier one with the same ``keys``, so that a part can be
    measured again without being counted twice.
    """
    kind = "gpu" if device().type == "cuda" else "cpu"
    path = outputs_folder() / "bench" / f"{date.today()}_{kind}_{name}.csv"
    kept = {}
    if path.is_file():
        with open(path, newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != fields:
                raise InputError(f"{path} has other columns than this bench writes; move it away and run again.")
            kept = {tuple(line[key] for key in keys): line for line in reader}
    for line in lines:
        kept[tuple(str(line[key]) for key in keys)] = line
        text = io.StringIO()
        writer = csv.DictWriter(text, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept.values())
        write_whole(path, text.getvalue())
        print("  ".join(f"{name}={value}" for name, value in line.items()), flush=True)
    print(f"Written to {path}")


def where_possible(cases: Iterable[tuple], measure) -> Iterable[dict]:
    """``measure(*case)`` for each; a case whose images or teacher are missing is named and left out."""
    for case in cases:
        try:
            yield measure(*case)
        except InputError as error:
            print(f"left out {' '.join(map(str, case))}: {error}", flush=True)


def seconds(work, where: torch.device) -> float:
    """Seconds of ``work()``, with what a GPU has still to do."""
    if where.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    work()
    if where.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def matrix_rate(where: torch.device, size: int = 2048, repeats: int = 5) -> float:
    """FLOP/s of a float32 matrix product, the best of some: what this machine can do now."""
    a, b = torch.randn(2, size, size, device=where)
    best = min(seconds(lambda: a @ b, where) for _ in range(repeats + 1))
    return 2 * size**3 / best


def convolution_rate(where: torch.device, repeats: int = 5) -> float:
    """FLOP/s of a large 3x3 float32 convolution in channels last, the best of some."""
    maps = torch.randn(64, 256, 16, 16, device=where).to(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3, device=where).to(memory_format=torch.channels_last)
    best = min(seconds(lambda: torch.conv2d(maps, weight, padding=1), where) for _ in range(repeats + 1))
    return 2 * maps.numel() * 256 * 9 / best
