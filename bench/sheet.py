"""Where benches write: one CSV a part, a line as soon as it is measured, with the machine and the versions in each."""

import csv
import time
from collections.abc import Iterable
from datetime import date

import torch

from oefsmc_lib import provenance
from oefsmc_lib.paths import outputs_folder, writable_folder

ABOUT = ["device", "threads", "torch", "git_commit"]


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def record(part: str, fields: list[str], lines: Iterable[dict]) -> None:
    """Append ``lines`` to outputs/bench/<date>_<cpu or gpu>_<torch>_<part>.csv and print them as they come."""
    kind = "gpu" if device().type == "cuda" else "cpu"
    version = torch.__version__.split("+")[0]
    path = writable_folder(outputs_folder() / "bench") / f"{date.today()}_{kind}_{version}_{part}.csv"
    about = {name: value for name, value in provenance.here(device()).items() if name in ABOUT}
    fresh = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, [*fields, *ABOUT])
        if fresh:
            writer.writeheader()
        for line in lines:
            writer.writerow(line | about)
            file.flush()
            print("  ".join(f"{name}={value}" for name, value in line.items()), flush=True)
    print(f"Written to {path}")


def seconds(work, where: torch.device) -> float:
    """Seconds of ``work()``, with what a GPU has still to do."""
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
