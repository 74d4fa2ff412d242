"""Literal procedure against ours, the recovery stage alone: same draw, device, threads, dtype and memory format.

    python bench/recovery.py [--methods fskd cd mir practise] [--networks vgg16-w0.25 vgg16 resnet32] [--nums 10 100]

Each pair is timed in turn, A B A B ..., after one warm-up; the median and the range are printed and written to
outputs/bench/<date>_<cpu or gpu>_<torch>.csv. Long literal loops are timed on a share of their steps and scaled
(column `timed_share`). Quality is the squared error of the last map before the pooling on 500 training images that
no stage saw, for full runs only (column `error`); smaller is better.
"""

import argparse
import copy
import csv
import statistics
import time
from datetime import date

import torch

from oefsmc_lib import grid, importance, pipeline, plans, provenance, surgery
from oefsmc_lib.methods import cd, fskd, mimic, mir, practise
from oefsmc_lib.paths import outputs_folder, writable_folder

NETWORKS = {"vgg16-w0.25": "embedded", "vgg16": "cifar10", "resnet32": "cifar100"}
# method -> switches of the released procedure; ours are the defaults of full length.
LITERAL = {
    "fskd": {"fskd.solver": "minnorm"},
    "cd": {"cd.solver": "adam"},
    "mir": {"mir.views": 0},
    "practise": {"practise.cache": False, "practise.scoring_iterations": 2000},
}
LENGTHS = {"mir.iterations": 2000, "practise.iterations": 2000, "practise.scoring_iterations": 200}
LOOP = {"cd": "cd.iterations", "mir": "mir.iterations", "practise": "practise.scoring_iterations"}


def stage(experiment, ready, literal):
    """The recovery stage as a function without arguments; returns what it made."""
    if experiment.method == "fskd":
        teacher = ready.teacher
        widths = plans.plan_widths(experiment.resolved_plan, teacher.model, teacher.architecture)
        kept = importance.choose_filters(teacher, widths, {}, ready.few, None, None, experiment)

        pruned = surgery.pruned_copy(teacher, kept)

        def run():
            student = copy.deepcopy(pruned)
            fskd.recover(student, teacher, ready.few, None, experiment, literal_passes=literal)
            return student.model
        return run
    if experiment.method == "practise":
        candidates = plans.droppable_units(ready.teacher.model)
        return lambda: practise.score(ready.teacher, candidates, ready.few, None, None, experiment)
    module = {"cd": cd, "mir": mir}[experiment.method]
    return lambda: module.compress(ready.teacher, ready.few, None, experiment).model


@torch.no_grad()
def error(made, ready):
    """Mean squared error of the last map on 500 training images outside D_few; None where it is not a network of that map."""
    if not isinstance(made, torch.nn.Module):
        return None
    outside = sorted(set(range(2000)) - set(ready.draw.indices))[:500]
    images = pipeline.on(ready.few.images.device, ready.teacher.normalise(ready.train.take(outside)))
    total = []
    with mimic.Feature(made) as ours, mimic.Feature(ready.teacher.model) as theirs:
        for part in images.split(50):
            a, b = ours(part), theirs(part)
            pair = (a[0], b[0]) if a[0].shape == b[0].shape else (a[1], b[1])
            total.append(float((pair[0] - pair[1]).square().mean()))
    return statistics.mean(total)


def measure(run, device):
    begin = time.perf_counter()
    made = run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin, made


def compare(method, network, num, repeats, share, quality):
    """One line of the table: literal against ours."""
    profile = grid.load_profile(NETWORKS[network])
    base = {"method": method, "variant": "native", "num": num, "imbalance": "long_tail", **LENGTHS}
    ours = profile.experiment(base)
    literal = profile.experiment(base | LITERAL[method])
    short, part = literal, 1.0
    if method in LOOP and share < 1:
        steps = literal.cd.iterations if method == "cd" else literal.mir.iterations if method == "mir" else \
            literal.practise.scoring_iterations
        part = max(1, round(steps * share)) / steps
        short = profile.experiment(base | LITERAL[method] | {LOOP[method]: max(1, round(steps * share))})
    ready = pipeline.prepare(ours)
    device = ready.few.images.device
    a, b = stage(short, ready, True), stage(ours, ready, False)
    times = {"literal": [], "ours": []}
    measure(b, device)                                    # warm-up
    for _ in range(repeats):
        seconds, made_literal = measure(a, device)
        times["literal"].append(seconds / part)
        seconds, made = measure(b, device)
        times["ours"].append(seconds)
    if quality and part < 1:
        _, made_literal = measure(stage(literal, ready, True), device)
    full = quality or part == 1
    left, right = statistics.median(times["literal"]), statistics.median(times["ours"])
    line = {"method": method, "network": network, "num": num, "literal_s": round(left, 3), "ours_s": round(right, 3),
            "ratio": round(left / right, 2), "literal_range": f"{min(times['literal']):.3f}-{max(times['literal']):.3f}",
            "ours_range": f"{min(times['ours']):.3f}-{max(times['ours']):.3f}", "timed_share": part,
            "literal_error": error(made_literal, ready) if full else None, "ours_error": error(made, ready)}
    if method == "practise" and full:
        k = int(ours.resolved_plan.removeprefix("drop"))
        def order(scores):
            return sorted(sorted(scores, key=lambda name: scores[name]["score"])[:k])
        line["same_blocks"] = order(made_literal) == order(made)
    return line


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=list(LITERAL), choices=list(LITERAL))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--nums", nargs="+", type=int, default=[10, 100])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.05, help="share of a literal loop that is timed")
    parser.add_argument("--quality", action="store_true", help="also run the literal procedure whole, for its error")
    chosen = parser.parse_args()
    kind = "gpu" if torch.cuda.is_available() else "cpu"
    path = writable_folder(outputs_folder() / "bench") / f"{date.today()}_{kind}_{torch.__version__.split('+')[0]}.csv"
    about = provenance.here(torch.device("cuda" if kind == "gpu" else "cpu"))
    fields = ["method", "network", "num", "literal_s", "ours_s", "ratio", "literal_range", "ours_range", "timed_share",
              "literal_error", "ours_error", "same_blocks", "device", "threads", "torch", "git_commit"]
    fresh = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, fields)
        if fresh:
            writer.writeheader()
        for method in chosen.methods:
            for network in chosen.networks:
                for num in chosen.nums:
                    line = compare(method, network, num, chosen.repeats, chosen.share, chosen.quality)
                    writer.writerow(line | {key: about[key] for key in fields if key in about})
                    file.flush()
                    print(line, flush=True)


if __name__ == "__main__":
    main()
