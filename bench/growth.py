"""How cost grows: with the few images (10 to 3,000), the network's width (1/4 to 1), seeds (1 to 32), and processes.

    python bench/growth.py [--axes num width seeds processes] [--share 0.01]

Seconds of our recovery stage for each method (PRACTISE: of its scoring, which is in closed form there) on VGG-16, untrained
and on random images, since cost does not depend on what images show. One axis moves, the others stay at num=100, width=1/4. Seeds:
whole runs of FSKD on the embedded images in one process, with the start of the process and the imports. Processes: 32 such runs, shared by processes that share this
machine's cores or its GPU. Notebook 05 draws the lines.
Written to outputs/bench/<date>_<cpu or gpu>_<torch>_growth.csv.
"""

import argparse
import os
import subprocess
import sys
import time

from sheet import device, record, seconds
from stages import Side, synthetic

from oefsmc_lib.engine import locks
from oefsmc_lib.parameters import grid
from oefsmc_lib.teacher.networks import Architecture

METHODS = ["fskd", "cd", "mir", "practise"]
AXES = {"num": [10, 30, 100, 300, 1000, 3000], "width": [0.25, 0.5, 0.75, 1.0], "seeds": [1, 2, 4, 8, 16, 32], "processes": [1, 2, 4]}
GPU_PROCESSES = [1, 4, 16]
KEYS, MEASURED = ["axis", "value", "method"], ["seconds", "timed_share"]
WHOLE_RUNS = """
from oefsmc_lib.parameters import grid; from oefsmc_lib import pipeline
profile, shared = grid.load_profile("embedded"), pipeline.Shared()
for seed in range({first}, {last}):
    pipeline.run(profile.experiment({{"method": "fskd", "variant": "native", "num": 10, "seed": seed}}), shared)
"""


def recovery(axis, value, method, share):
    num, width = (value, 0.25) if axis == "num" else (100, value)
    where = device()
    ready = synthetic(Architecture("vgg16", 10, 3, width, 32), num, where)
    settings = {"method": method, "variant": "native", "num": num, "width": width}
    side = Side(grid.load_profile("cifar10"), settings, ready, share=share)
    side.warm_up()
    spent = side.measure(lambda work: seconds(work, where))
    return {"axis": axis, "value": value, "method": method, "seconds": round(spent, 4), "timed_share": side.share}


def whole_runs(axis, value, seeds, processes):
    """Seconds until all seeds, dealt out to the processes, are done."""
    environment = os.environ | {"OEFSMC_QUIET": "1"}
    if processes > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, locks.cores() // processes))
    share = seeds // processes
    begin = time.perf_counter()
    started = [subprocess.Popen([sys.executable, "-c", WHOLE_RUNS.format(first=i * share, last=(i + 1) * share)], env=environment)
               for i in range(processes)]
    if any([process.wait() for process in started]):
        raise SystemExit(f"A process of {share} seeds failed; its words are above.")
    return {"axis": axis, "value": value, "method": "fskd", "seconds": round(time.perf_counter() - begin, 3), "timed_share": 1.0}


def lines(chosen):
    if {"seeds", "processes"} & set(chosen.axes):
        whole_runs("seeds", 1, 1, 1)                      # untimed: what a first start reads from disk
    for axis in chosen.axes:
        for value in GPU_PROCESSES if axis == "processes" and device().type == "cuda" else AXES[axis]:
            if axis == "seeds":
                yield whole_runs(axis, value, value, 1)
            elif axis == "processes":
                yield whole_runs(axis, value, 32, value)
            else:
                yield from (recovery(axis, value, method, chosen.share) for method in chosen.methods)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=list(AXES))
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--share", type=float, default=0.01, help="share of a long loop that is measured")
    record("growth", KEYS, MEASURED, lines(parser.parse_args()))


if __name__ == "__main__":
    main()
