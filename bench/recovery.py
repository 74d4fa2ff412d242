"""Literal procedure against ours, the recovery stage alone: same draw, device, threads, dtype and memory format.

    python bench/recovery.py [--methods fskd cd mir practise] [--networks vgg16-w0.25 vgg16 resnet32] [--nums 10 100]

Each pair is timed in turn, A B A B ..., after one warm-up; the median and the range are printed and written to
outputs/bench/<date>_<cpu or gpu>_<torch>.csv. Long loops, on both sides, are timed on a share of their steps and
scaled (column `timed_share`): what comes before the first step counts once, the steps are multiplied. Quality is the
squared error of the last map before the pooling on 500 training images that no stage saw, for whole runs only (column
`error`); smaller is better.
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


def loop_length(experiment):
    """Steps of the loop that `LOOP` names; None where there is none."""
    if experiment.method == "cd":
        return experiment.cd.iterations if experiment.cd.solver == "adam" else None
    return {"mir": experiment.mir.iterations, "practise": experiment.practise.scoring_iterations}.get(experiment.method)


class Side:
    """One procedure of a pair: timed whole, or on a share of its loop and scaled to the whole."""

    def __init__(self, profile, settings, ready, literal, share):
        self.experiment = profile.experiment(settings)
        steps = loop_length(self.experiment)
        self.whole = stage(self.experiment, ready, literal)
        self.short = self.single = None
        self.share = 1.0
        if steps and share < 1:
            count = max(5, round(steps * share))
            self.share, self.factor = count / steps, (steps - 1) / (count - 1)
            loop = LOOP[self.experiment.method]
            self.short = stage(profile.experiment(settings | {loop: count}), ready, literal)
            self.single = stage(profile.experiment(settings | {loop: 1}), ready, literal)

    def seconds(self, device):
        """Seconds of the whole procedure, and what it made where it ran whole."""
        if self.short is None:
            return measure(self.whole, device)
        once, _ = measure(self.single, device)
        many, _ = measure(self.short, device)
        return once + (many - once) * self.factor, None


def compare(method, network, num, repeats, share, quality):
    """One line of the table: literal against ours."""
    profile = grid.load_profile(NETWORKS[network])
    base = {"method": method, "variant": "native", "num": num, "imbalance": "long_tail", **LENGTHS}
    ready = pipeline.prepare(profile.experiment(base))
    device = ready.few.images.device
    literal, ours = Side(profile, base | LITERAL[method], ready, True, share), Side(profile, base, ready, False, share)
    times = {"literal": [], "ours": []}
    for side in (literal, ours):                          # warm-up: a first call also loads kernels
        measure(side.single or side.whole, device)
    for _ in range(repeats):
        for side, name in ((literal, "literal"), (ours, "ours")):
            seconds, side.made = side.seconds(device)
            times[name].append(seconds)
    for side in (literal, ours):
        if side.made is None and quality:
            side.made = side.whole()
    left, right = statistics.median(times["literal"]), statistics.median(times["ours"])
    line = {"method": method, "network": network, "num": num, "literal_s": round(left, 3), "ours_s": round(right, 3),
            "ratio": round(left / right, 2), "literal_range": f"{min(times['literal']):.3f}-{max(times['literal']):.3f}",
            "ours_range": f"{min(times['ours']):.3f}-{max(times['ours']):.3f}", "timed_share": literal.share,
            "literal_error": error(literal.made, ready), "ours_error": error(ours.made, ready)}
    if method == "practise" and quality:
        k = int(ours.experiment.resolved_plan.removeprefix("drop"))
        line["same_blocks"] = lowest(literal.made, k) == lowest(ours.made, k)
    return line


def lowest(scores, k):
    """Names of the k candidates that PRACTISE would drop."""
    return sorted(sorted(scores, key=lambda name: scores[name]["score"])[:k])


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
