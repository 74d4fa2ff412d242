"""Literal procedure against ours, the recovery stage alone: same draw, device, threads, dtype and memory format.

    python bench/recovery.py timing  [--methods fskd cd mir practise] [--networks vgg16-w0.25 vgg16 resnet32] [--nums 10 100]
    python bench/recovery.py quality ... [--keep-literal]

timing: each pair in turn, A B A B ..., after a warm-up; the median and the range. Long loops, on both sides, are timed
on a share of their steps and scaled (`*_timed_share`): what comes before the first step counts once, the steps are
multiplied. An idle machine, please, and one thread (OMP_NUM_THREADS=1), as grids run batches. PRACTISE's stage is its
scoring, of 300 steps where the release has 2,000; the training after it is MiR's. `literal` has its images in memory,
so that it is the arithmetic that is compared; `loaded` is MiR's literal side with the released loader, four worker
processes that start anew for each pass (loading.py).

quality: both run whole, PRACTISE with that training, once; the squared error of the last map before the pooling (of the
logits, where the plan prunes that map) on the few images (`fit`) and on 500 training images that no stage saw (`error`),
the accuracy on these, and the units that PRACTISE drops. With --keep-literal the released side, which takes nearly all
the time, is taken from the newest file that has it, with the commit that measured it: for when ours alone has changed.

A network whose images or teacher are not here is named and left out. Both write
outputs/bench/<date>_<cpu or gpu>_<torch>_<part>.csv.
"""

import argparse
import itertools
import statistics

import torch
from sheet import record, seconds, where_possible
from stages import Side

from oefsmc_lib import compressors, pipeline
from oefsmc_lib.compressors import mimic, practise
from oefsmc_lib.errors import InputError
from oefsmc_lib.evidence import timings
from oefsmc_lib.files import outputs_folder
from oefsmc_lib.parameters import grid
from oefsmc_lib.rows import provenance

KEYS = ["method", "network", "num", "seed"]
NETWORKS = {"vgg16-w0.25": "embedded", "vgg16": "cifar10", "resnet32": "cifar100"}
# method -> switches of the released procedure; ours are the defaults of full length.
LITERAL = {
    "fskd": {"fskd.solver": "minnorm"},
    "cd": {"cd.solver": "adam"},
    "mir": {"mir.views": 0, "mir.precision": "float32"},
    "practise": {"practise.start": "teacher", "practise.cache": False, "practise.scoring_iterations": 2000, "practise.views": 0,
                 "practise.precision": "float32"},
}
LENGTHS = {"mir.iterations": 2000, "practise.start": "teacher", "practise.iterations": 2000, "practise.scoring_iterations": 300}
FAST = {"mir.precision": "bfloat16", "practise.precision": "bfloat16"}      # ours, as in the profiles of real images


def sides(method, network, num, seed, share, loader=False):
    """Literal and ours on one draw, and what both start from; with ``loader`` also ours in float32, and MiR's literal side with
    the released loader."""
    profile = grid.load_profile(NETWORKS[network])
    base = {"method": method, "variant": "native", "num": num, "seed": seed, "imbalance": "long_tail", **LENGTHS, **FAST}
    ready = pipeline.prepare(profile.experiment(base))
    literal = base | LITERAL[method]
    found = {"literal": Side(profile, literal, ready, True, share), "ours": Side(profile, base, ready, False, share)}
    if loader and method in ("mir", "practise"):
        found["float32"] = Side(profile, base | {f"{method}.precision": "float32"}, ready, False, share)
    if loader and method == "mir":
        found["loaded"] = Side(profile, literal, ready, True, share, loader=True)
    return found, ready


def timing(method, network, num, seed, chosen):
    """Median and range of all sides, in turn."""
    pair, ready = sides(method, network, num, seed, chosen.share, loader=True)
    device = ready.few.images.device
    for side in pair.values():
        side.warm_up()
    times = {name: [] for name in pair}
    for _ in range(chosen.repeats):
        for name, side in pair.items():
            times[name].append(side.measure(lambda work: seconds(work, device)))
    middle = {name: statistics.median(found) for name, found in times.items()}
    line = {"ratio": round(middle["literal"] / middle["ours"], 2), "repeats": chosen.repeats}
    if "loaded" in pair:
        line["loaded_ratio"] = round(middle["loaded"] / middle["ours"], 2)
    for name, found in times.items():
        line |= {f"{name}_s": round(middle[name], 3), f"{name}_range": f"{min(found):.3f}-{max(found):.3f}",
                 f"{name}_timed_share": pair[name].share}
    return line


def unseen(ready):
    """500 training images outside D_few, drawn by lot, and their labels. (Some sets are sorted by class.)"""
    order = torch.randperm(len(ready.train), generator=torch.Generator().manual_seed(0)).tolist()
    outside = [index for index in order if index not in set(ready.draw.indices)][:500]
    return ready.teacher.inputs(ready.train.take(outside)), ready.train.labels[outside]


@torch.no_grad()
def judged(made, ready, images, labels):
    """Squared error of the last map, and top-1 accuracy in percent."""
    errors, right = [], 0
    for part, truth in zip(images.split(50), labels.cpu().split(50)):
        a, b = (mimic.last_map(model, part) for model in (made, ready.teacher.model))
        pair = (a[0], b[0]) if a[0].shape == b[0].shape else (a[1], b[1])
        errors.append(float((pair[0] - pair[1]).square().mean()))
        right += int((a[1].argmax(1).cpu() == truth).sum())
    return statistics.mean(errors), 100 * right / len(images)


def quality(method, network, num, seed, chosen):
    """What both make of the same images, each run whole; the released side may be an earlier one."""
    pair, ready = sides(method, network, num, seed, 1.0)
    case = {"method": method, "network": network, "num": num, "seed": seed, "teacher": ready.teacher.sha256[:12]}
    line = {"teacher": case["teacher"], "literal_commit": provenance.here(ready.few.images.device)["git_commit"]}
    for name, side in pair.items():
        line |= earlier(case) if name == "literal" and chosen.keep_literal else made(name, side, ready)
    if method == "practise":
        line["same_units"] = line["literal_units"] == line["ours_units"]
    return line


def made(name, side, ready):
    """One side's columns, from a whole run."""
    line = {}
    if side.experiment.method == "practise":              # the stage is its scoring alone; here it is the whole
        student = practise.compress(compressors.Task(ready.teacher, ready.few, side.experiment))
        model, line[f"{name}_units"] = student.model, " ".join(student.structure.dropped)
    else:
        model = side.make()
    found = {"fit": judged(model, ready, ready.few.images, ready.few.labels)[0]}
    found["error"], found["accuracy"] = judged(model, ready, *unseen(ready))
    return line | {f"{name}_{what}": float(f"{value:.5g}") for what, value in found.items()}


def earlier(case):
    """The released side's columns in the newest file that has this comparison, with the same teacher."""
    for path in sorted((outputs_folder() / "bench").glob("*_quality.csv"), reverse=True):
        found = timings.table("quality", tuple(case), path)
        for line in found[(found[list(case)] == list(case.values())).all(axis=1)].to_dict("records"):
            return {name: value for name, value in line.items() if name.startswith("literal_") and value == value}
    raise InputError(f"no earlier released side of {' '.join(map(str, case.values()))} was found; run it without --keep-literal")


PARTS = {
    "timing": (timing, ["literal_s", "ours_s", "ratio", "loaded_s", "loaded_ratio", "literal_range", "ours_range",
                        "loaded_range", "literal_timed_share", "ours_timed_share", "loaded_timed_share", "repeats",
                        "float32_s", "float32_range", "float32_timed_share"]),
    "quality": (quality, ["literal_fit", "ours_fit", "literal_error", "ours_error", "literal_accuracy", "ours_accuracy",
                          "same_units", "literal_units", "ours_units", "teacher", "literal_commit"]),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--methods", nargs="+", default=list(LITERAL), choices=list(LITERAL))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--nums", nargs="+", type=int, default=[10, 100])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.01, help="share of a long loop that is timed")
    parser.add_argument("--keep-literal", action="store_true", help="take the released side from the newest file (quality)")
    chosen = parser.parse_args()
    compare, own = PARTS[chosen.part]
    cases = itertools.product(chosen.methods, chosen.networks, chosen.nums, chosen.seeds)
    record(chosen.part, KEYS, own, where_possible(cases, lambda *case: dict(zip(KEYS, case)) | compare(*case, chosen)))


if __name__ == "__main__":
    main()
