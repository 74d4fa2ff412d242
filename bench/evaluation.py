"""Evaluation: predictions with bfloat16 first, against float32 alone. The same classes, in how much less time?

    python bench/evaluation.py [--networks vgg16-w0.25 vgg16 resnet32] [--images 10000]

A line a student: recovered by FSKD and by CD from the fewest images of the profile, alone and with OE-FSMC's compression
stage, so that good and bad ones are among them, and the teacher itself. Predicted are the teacher's training images, since
test images are for finished students; leads may be larger there. `differ` counts images whose class is not that of float32,
`in_float32` is the share of images that ours ran in float32: 1 where it ran nothing else, a little more where a sample said so.
Written to outputs/bench/<date>_<cpu or gpu>_<torch>_evaluation.csv.
"""

import argparse
import dataclasses
import itertools

import torch
from recovery import NETWORKS
from sheet import record, seconds, where_possible

from oefsmc_lib import pipeline
from oefsmc_lib.parameters import grid
from oefsmc_lib.student import predictions

KEYS, MEASURED = ["network", "student"], ["images", "accuracy", "differ", "in_float32", "float32_s", "ours_s", "ratio"]
STUDENTS = ["teacher", "fskd native", "fskd wo_ft", "cd native", "cd wo_ft"]


def student_of(profile, student):
    """The student, and what it was prepared from."""
    method, _, variant = student.partition(" ")
    num = profile.lists["nums"][0]
    experiment = profile.experiment({"method": method if variant else "fskd", "variant": variant or "native", "num": num})
    ready = pipeline.prepare(experiment)
    return (pipeline.recover(experiment, ready)[0].model if variant else ready.teacher.model), ready


@torch.no_grad()
def line(network, student, count):
    model, ready = student_of(grid.load_profile(NETWORKS[network]), student)
    device = ready.few.images.device
    count = min(count, len(ready.train))
    chosen = torch.arange(0, len(ready.train), len(ready.train) // count)[:count]          # some sets are sorted by class
    images = dataclasses.replace(ready.train, images=ready.train.take(chosen), labels=ready.train.labels[chosen])
    found, passed = {}, []
    model = model.eval().to(device, memory_format=torch.channels_last)
    counter = model.register_forward_pre_hook(lambda _m, x: passed.append(0 if torch.is_autocast_enabled("cpu") else len(x[0])))
    works = {"float32": lambda: predictions.logits(model, images, torch.arange(count), ready.teacher.normalise, device).argmax(1),
             "ours": lambda: predictions.predicted(model, images, ready.teacher.normalise, device)}
    spent = {}
    for _ in range(2):                                     # in turn; the first pair warms up
        for name, work in works.items():
            passed.clear()
            spent[name] = seconds(lambda: found.update({name: work()}), device)
    counter.remove()
    return {"network": network, "student": student, "images": count,
            "accuracy": round(100 * float((found["float32"] == images.labels).float().mean()), 2),
            "differ": int((found["float32"] != found["ours"]).sum()), "in_float32": round(sum(passed) / count, 3),
            "float32_s": round(spent["float32"], 2), "ours_s": round(spent["ours"], 2),
            "ratio": round(spent["float32"] / spent["ours"], 2)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--images", type=int, default=10_000)
    chosen = parser.parse_args()
    cases = itertools.product(chosen.networks, STUDENTS)
    record("evaluation", KEYS, MEASURED, where_possible(cases, lambda *case: line(*case, chosen.images)))


if __name__ == "__main__":
    main()
