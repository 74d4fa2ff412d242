"""MiR and PRACTISE in bfloat16 beside float32: what a step costs, and whether the students are as good.

    python bench/precision.py steps [--networks vgg16 resnet32] [--batches 10 64] [--rounds 15]
    python bench/precision.py quality [--profile embedded] [--methods mir practise] [--nums 10] [--seeds 100 101 102 103 104]
                                      [--settings practise.start=teacher ...]

`steps` times one training step of mimicking (forward, loss, backward, SGD) of untrained networks, both precisions in turn,
and keeps the quartiles (on one thread of its own time, which other work hardly changes). A device that does not multiply
bfloat16 uses float32 for both, so the bench refuses it. `quality` compresses each draw in both precisions and judges the
students, before any fine-tuning, on 1,000 training images that no stage saw (seeds from 100 up, as in bench/development.py):
accuracy, and the mean square of what the last map lacks to the teacher's. No test image is read. It prints the paired
differences, bfloat16 minus float32, with half their 95 % intervals.
Written to outputs/bench/<date>_<cpu or gpu>_<torch>_steps.csv and ..._precision.csv.
"""

import argparse
import itertools

import torch
import torch.nn.functional as F
from development import held_back
from sheet import device, record, where_possible

from oefsmc_lib import pipeline
from oefsmc_lib.compressors import mimic
from oefsmc_lib.evidence import timings
from oefsmc_lib.parameters import grid
from oefsmc_lib.parameters.sections import Mir
from oefsmc_lib.student import evaluation
from oefsmc_lib.teacher.devices import multiplies_bfloat16
from oefsmc_lib.teacher.latency import clock_of
from oefsmc_lib.teacher.networks import Architecture

PRECISIONS = ("float32", "bfloat16")
STEP = [f"{precision}_{q}_ms" for precision in PRECISIONS for q in ("lower", "median", "upper")] + ["ratio"]
KEYS = ["profile", "method", "settings", "num", "seed", "precision"]
MEASURED = ["accuracy", "error", "dropped", "steps", "kept", "seconds"]


def step_times(network, batch, rounds) -> dict:
    """One line: milliseconds of a step, the precisions in turn so that both meet the same machine."""
    torch.manual_seed(0)
    model = Architecture(network, 10, 3, 1.0, 32).build().to(device(), memory_format=torch.channels_last).train()
    views = torch.randn(batch, 3, 32, 32, device=device()).contiguous(memory_format=torch.channels_last)
    clock, taken = clock_of(views.device), {precision: [] for precision in PRECISIONS}
    target = mimic.last_map(model, views)[0].detach()
    optimiser, schedule = mimic.sgd(mimic.backbone(model), 1e-4, 2000)
    for _ in range(rounds + 2):                           # two to warm up
        for precision in PRECISIONS:
            begin = clock()
            with mimic.arithmetic(Mir(precision=precision), views.device):
                maps, _ = mimic.last_map(model, views)
            mimic.descend(F.mse_loss(maps.float(), target), optimiser, schedule)
            taken[precision].append(1000 * (clock() - begin))
    quartiles = {p: torch.tensor(times[2:]).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist() for p, times in taken.items()}
    values = [round(value, 1) for precision in PRECISIONS for value in quartiles[precision]]
    return {"network": network, "batch": batch, **dict(zip(STEP, [*values, round(values[1] / values[4], 2)]))}


def judge(profile, shared, method, settings, num, seed, precision) -> dict:
    """One line: a student that was recovered and not fine-tuned, on the images that were held back."""
    import yaml
    switches = {key: yaml.safe_load(value) for key, value in (part.split("=", 1) for part in settings.split(",") if part)}
    chosen = {"method": method, "variant": "native", "num": num, "seed": seed, f"{method}.precision": precision}
    experiment = profile.experiment({**chosen, **switches})
    ready = pipeline.prepare(experiment, shared)
    student, seconds = pipeline.recover(experiment, ready, shared)
    held = held_back(ready)
    guessed, errors = [], []
    with torch.no_grad():
        for part in ready.teacher.normalise(ready.train.take(held)).split(64):
            part = part.to(ready.few.images.device)
            (maps, logits), (target, _) = (mimic.last_map(model, part) for model in (student.model, ready.teacher.model))
            errors.append((maps - target).square().flatten(1).mean(1).cpu())
            guessed.append(logits.argmax(1).cpu())
    scores = evaluation.scores(torch.cat(guessed), ready.train.labels[held], ready.draw.counts)
    return {"profile": profile.name, "method": method, "settings": settings, "num": num, "seed": seed, "precision": precision,
            "accuracy": round(scores["top1"], 2), "error": float(f"{float(torch.cat(errors).mean()):.5g}"),
            "dropped": " ".join(student.structure.dropped), "steps": len(student.notes["loss"]), "kept": student.notes["kept"],
            "seconds": round(seconds, 2)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["steps", "quality"])
    parser.add_argument("--networks", nargs="+", default=["vgg16", "resnet32"])
    parser.add_argument("--batches", nargs="+", type=int, default=[10, 64])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--profile", default="embedded")
    parser.add_argument("--methods", nargs="+", default=["mir", "practise"])
    parser.add_argument("--nums", nargs="+", type=int, default=[10])
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102, 103, 104])
    parser.add_argument("--settings", nargs="+", default=[""])
    chosen = parser.parse_args()
    if not multiplies_bfloat16(device()):
        raise SystemExit("This device does not multiply bfloat16, so both precisions would be float32; measure on one that does.")
    if chosen.part == "steps":
        cases = itertools.product(chosen.networks, chosen.batches, [chosen.rounds])
        record("steps", ["network", "batch"], STEP, (step_times(*case) for case in cases))
        return
    if min(chosen.seeds) < 100:
        raise SystemExit("Development draws have seeds from 100 up; the tables use those below.")
    profile, shared = grid.load_profile(chosen.profile), pipeline.Shared()
    cases = itertools.product(chosen.methods, chosen.settings, chosen.nums, chosen.seeds, PRECISIONS)
    record("precision", KEYS, MEASURED, where_possible(cases, lambda *case: judge(profile, shared, *case)))
    print(timings.precision_markdown())


if __name__ == "__main__":
    main()
