"""How cost grows: with the few images (10 to 3,000), with the network's width (1/4 to 1), with seeds (1 to 32).

    python bench/growth.py [--axes num width seeds] [--share 0.01]

Seconds of our recovery stage for each method on VGG-16, untrained and on random images, since cost does not depend on
what images show. One axis moves, the others stay at num=100, width=1/4. Seeds: whole runs of FSKD on the embedded images in
one process, with the start of the process and the imports. Notebook 05 draws the lines.
Written to outputs/bench/<date>_<cpu or gpu>_<torch>_growth.csv.
"""

import argparse
import os
import subprocess
import sys
import time

from sheet import device, record, seconds
from stages import Side, synthetic

from oefsmc_lib import grid
from oefsmc_lib.models import Architecture

METHODS = ["fskd", "cd", "mir", "practise"]
AXES = {"num": [10, 30, 100, 300, 1000, 3000], "width": [0.25, 0.5, 0.75, 1.0], "seeds": [1, 2, 4, 8, 16, 32]}
FIELDS = ["axis", "value", "method", "seconds", "timed_share"]
WHOLE_RUNS = """
from oefsmc_lib import grid, pipeline
profile, shared = grid.load_profile("embedded"), pipeline.Shared()
for seed in range({seeds}):
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


def whole_runs(seeds):
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", WHOLE_RUNS.format(seeds=seeds)], check=True, env=os.environ | {"OEFSMC_QUIET": "1"})
    return {"axis": "seeds", "value": seeds, "method": "fskd", "seconds": round(time.perf_counter() - begin, 3),
            "timed_share": 1.0}


def lines(chosen):
    for axis in chosen.axes:
        for value in AXES[axis]:
            if axis == "seeds":
                yield whole_runs(value)
            else:
                yield from (recovery(axis, value, method, chosen.share) for method in chosen.methods)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=list(AXES))
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--share", type=float, default=0.01, help="share of a long loop that is measured")
    record("growth", FIELDS, lines(parser.parse_args()))


if __name__ == "__main__":
    main()
