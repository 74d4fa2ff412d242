"""Peak memory of a recovery stage above what was held before it: network and images.

    python bench/memory.py [--cases vgg16:100 resnet32:100 resnet34:100] [--methods fskd cd mir practise]

Each case runs in a process of its own on untrained networks and random images (32x32; 224x224 for ResNet-34). On a CPU
the peak of the process's own pages (RssAnon, Linux) is sampled every 10 ms; on a GPU torch keeps the count. FSKD and CD
run whole, MiR and PRACTISE over 5 steps, PRACTISE for one candidate. Maps that do not fit go to a temporary file in
TMPDIR, which is not counted (so it should not lie in memory itself). Written to outputs/bench/<date>_<cpu or gpu>_<torch>_memory.csv.
"""

import argparse
import itertools
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
import torch_pruning  # noqa: F401  # loaded here, so that no method's own peak has it
from sheet import device, record, seconds
from stages import nothing, stage, synthetic

from oefsmc_lib import compressors
from oefsmc_lib.compressors import plans, practise
from oefsmc_lib.parameters import grid
from oefsmc_lib.teacher.networks import Architecture

CASES = ["vgg16:100", "resnet32:100", "resnet34:100"]
METHODS = ["fskd", "cd", "mir", "practise"]
KEYS, MEASURED = ["method", "network", "num"], ["images_mb", "before_mb", "peak_mb", "above_mb", "seconds"]


class Peak:
    """The most memory that this process, or its GPU, holds while it runs a block; in bytes."""

    def __init__(self, where: torch.device):
        self.where, self.bytes, self.running = where, 0, True

    @staticmethod
    def now() -> int:
        text = Path("/proc/self/status").read_text()
        return 1024 * int(next(line.split()[1] for line in text.splitlines() if line.startswith("RssAnon")))

    def _watch(self):
        while self.running:
            self.bytes = max(self.bytes, self.now())
            time.sleep(0.01)

    def __enter__(self):
        if self.where.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            self.before = self.now()
            self.thread = threading.Thread(target=self._watch, daemon=True)
            self.thread.start()
        return self

    def __exit__(self, *_):
        if self.where.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated()
        else:
            self.running = False
            self.thread.join()


def measure(method, network, num):
    """One case, in this process."""
    where = device()
    side = 224 if network == "resnet34" else 32
    ready = synthetic(Architecture(network, 1000 if side == 224 else 10, 3, 1.0, side), num, where)
    experiment = grid.load_profile("cifar10").experiment({
        "method": method, "variant": "native", "num": num, "model": network, "width": 1.0, "mir.iterations": 5,
        "practise.start": "teacher", "practise.scoring_iterations": 5, "practise.scoring_lr": 1e-6,       # on untrained networks, larger steps diverge
        "augment": "resized_crop_flip" if side == 224 else "crop_flip"})
    if method == "practise":
        candidate = plans.droppable_units(ready.teacher.model)[:1]
        prepare, run = nothing, lambda _: practise.score(compressors.Task(ready.teacher, ready.few, experiment), candidate)
    else:
        prepare, run = stage(experiment, ready)
    start = prepare()
    with Peak(where) as peak:
        spent = seconds(lambda: run(start), where)
    million = 1e6
    images = ready.few.images.numel() * 4
    return {"method": method, "network": network, "num": num, "images_mb": round(images / million),
            "before_mb": round(peak.before / million), "peak_mb": round(peak.bytes / million),
            "above_mb": round((peak.bytes - peak.before) / million), "seconds": round(spent, 1)}


def apart(method, case):
    """One case, in a process of its own."""
    words = [sys.executable, __file__, "--methods", method, "--cases", case, "--here"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{method} on {case} failed; its words are above.")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=CASES, help="NETWORK:NUM")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    pairs = itertools.product(chosen.cases, chosen.methods)
    if chosen.here:
        for case, method in pairs:
            network, num = case.split(":")
            print(json.dumps(measure(method, network, int(num))))
        return
    record("memory", KEYS, MEASURED, (apart(method, case) for case, method in pairs))


if __name__ == "__main__":
    main()
