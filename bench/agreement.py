"""Do other versions of torch, other thread counts and other processors give the same accuracies?

    python bench/agreement.py [--methods fskd cd mir practise] [--nums 10] [--seeds 0 1 2 3 4] [--threads 1 2]

Runs OE-FSMC on the embedded images for each draw and thread count, with the torch that is installed, and adds a line a run
to outputs/bench/<date>_<cpu or gpu>_agreement.csv. Call it once in each environment, with one data folder (OEFSMC_DATA), so
that all have the teacher that the first one trained. docs/trust.md has the differences of every environment to the first
one, paired by compressor, training size and draw. ATEN_CPU_CAPABILITY=avx2 holds torch's own loops to fewer instructions.
The embedded test images are development data of this package.
"""

import argparse
import itertools

import torch
from sheet import device, keep

from oefsmc_lib import pipeline
from oefsmc_lib.parameters import grid
from oefsmc_lib.rows import provenance

KEYS = ["torch", "python", "capability", "threads", "device", "method", "num", "seed"]
FIELDS = [*KEYS, "top1", "teacher_sha256", "git_commit"]


def lines(methods, nums, seeds, threads):
    """One line a run; the runs of one thread count share what is loaded once."""
    profile = grid.load_profile("embedded")
    for count in threads:
        torch.set_num_threads(count)
        shared = pipeline.Shared()
        for method, num, seed in itertools.product(methods, nums, seeds):
            experiment = profile.experiment({"method": method, "variant": "ours", "num": num, "seed": seed})
            _, row = pipeline.run(experiment, shared, profile="embedded")
            about = provenance.here(device())
            environment = {name: about[name] for name in ("torch", "python", "device", "git_commit")}
            environment |= {"capability": torch.backends.cpu.get_cpu_capability(), "threads": count}
            outcome = {"method": method, "num": num, "seed": seed, "top1": row.top1, "teacher_sha256": row.teacher_sha256}
            yield environment | outcome


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=["fskd", "cd", "mir", "practise"])
    parser.add_argument("--nums", nargs="+", type=int, default=[10])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    chosen = parser.parse_args()
    keep("agreement", KEYS, FIELDS, lines(chosen.methods, chosen.nums, chosen.seeds, chosen.threads))


if __name__ == "__main__":
    main()
