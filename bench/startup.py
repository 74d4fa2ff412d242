"""What starting costs: imports, the command's help, and a grid's batch around its runs.

    python bench/startup.py [--repeats 7]

Medians of whole processes in turn; of a batch (one run of FSKD) what is left without the seconds of its row. Written to outputs/bench/<date>_<cpu or gpu>_<torch>_startup.csv.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sheet import record

from oefsmc_lib.parameters import grid

WHAT = {
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import torch, oefsmc_lib": ["-c", "import torch, oefsmc_lib"],
    "import oefsmc_lib": ["-c", "import oefsmc_lib"],
    "import torch, oefsmc_lib.pipeline": ["-c", "import torch, oefsmc_lib.pipeline"],
    "oefsmc --help": ["-m", "oefsmc_lib", "--help"],
    "import papermill": ["-c", "import papermill"],
}


def batch() -> float:
    """Seconds that a batch of one run takes besides the run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.yaml"
        path.write_text("blocks: [{method: fskd, variant: native, num: 10, seed: 0}]\n")
        (label,) = grid.load_grid(str(path)).batches()
        words = [sys.executable, "-m", "oefsmc_lib", "grid", "batch", path, label]
        begin = time.perf_counter()
        subprocess.run(words, check=True, capture_output=True, env=os.environ | {"OEFSMC_OUTPUTS": folder})
        spent = time.perf_counter() - begin
        row, = (json.loads(path.read_text()) for path in Path(folder).glob("results/rows/*.json"))
    return spent - row["seconds_total"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    chosen = parser.parse_args()
    found = {name: [] for name in WHAT}
    for turn in range(chosen.repeats + 1):
        for name, words in WHAT.items():
            begin = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
            if turn:                                      # the first fills the disk's cache
                found[name].append(time.perf_counter() - begin)
    found["a grid's batch"] = [batch() for _ in range(chosen.repeats)]
    record("startup", ["what"], ["seconds", "range", "repeats"], (
        {"what": name, "seconds": round(statistics.median(times), 3), "range": f"{min(times):.3f}-{max(times):.3f}",
         "repeats": chosen.repeats} for name, times in found.items()))


if __name__ == "__main__":
    main()
