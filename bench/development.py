"""Development draws: what a setting is worth on training images that no stage saw. Defaults are chosen on these.

    python bench/development.py [--profile cifar10] [--methods fskd cd] [--nums 10] [--seeds 100 101 ...]
                                [--settings variant=ours variant=ours,finetune.stop=fixed ...]

The tables use seeds below 100, development draws those from 100 up. A line is one run: accuracy on 1,000 training images that
neither the draw nor any stage holds (the teacher was trained on them, so levels are too high and only differences count), the
steps of mimicking and the epochs of fine-tuning, run and kept, and the distances of early stopping. No test image is read. Written to
outputs/bench/<date>_<cpu or gpu>_<torch>_development.csv; `means` prints each setting with its paired difference to the first.
"""

import argparse
import copy
import itertools

import torch
from sheet import record, where_possible

from oefsmc_lib import pipeline
from oefsmc_lib.evidence import tables
from oefsmc_lib.parameters import grid
from oefsmc_lib.student import evaluation

KEYS = ["profile", "method", "num", "seed", "setting"]
MEASURED = ["accuracy", "head", "tail", "absent", "dropped", "mimic_steps", "mimic_kept", "epochs", "kept", "first_distance",
            "kept_distance", "last_distance", "seconds_recovery", "seconds_finetune"]
BASE = ["variant=native_ft", "variant=wo_comp", "variant=wo_ft", "variant=ours", "variant=ours,finetune.stop=fixed",
        "variant=ours,redraw=true", "variant=whole_pool"]
HELD = 1000


def held_back(ready) -> list[int]:
    """Positions of training images that the draw does not hold, the same for every setting of a seed."""
    order = torch.randperm(len(ready.train), generator=torch.Generator().manual_seed(12345)).tolist()
    return [i for i in order if i not in set(ready.draw.indices)][:HELD]


def judge(profile, shared, method, num, seed, setting) -> dict:
    """One line: a finished student on the images that were held back."""
    import yaml
    switches = {key: yaml.safe_load(value) for key, value in (part.split("=", 1) for part in setting.split(","))}
    experiment = profile.experiment({"method": method, "num": num, "seed": seed, **switches})
    ready = pipeline.prepare(experiment, shared)
    recovered, seconds = pipeline.recover(experiment, ready, shared)
    student = copy.deepcopy(recovered)                    # settings of one recovery share it, and tuning works in place
    report, tuning = pipeline.tune(experiment, ready, student)
    held = held_back(ready)
    images = ready.teacher.normalise(ready.train.take(held))
    with torch.no_grad():
        guessed = torch.cat([student.model(part.to(ready.few.images.device)).argmax(1).cpu() for part in images.split(64)])
    scores = evaluation.scores(guessed, ready.train.labels[held], ready.draw.counts)
    distances = report["distances"] or [float("nan")]
    return {"profile": profile.name, "method": method, "num": num, "seed": seed, "setting": setting,
            "accuracy": round(scores["top1"], 2), **{g: round(scores[f"{g}_accuracy"] or float("nan"), 2) for g in ("head", "tail", "absent")},
            "dropped": " ".join(student.structure.dropped), "mimic_steps": student.notes.get("steps", ""),
            "mimic_kept": student.notes.get("kept", "") if "steps" in student.notes else "",
            "epochs": report["epochs"], "kept": report["kept"], "first_distance": distances[0],
            "kept_distance": min(distances), "last_distance": distances[-1],
            "seconds_recovery": round(seconds, 2), "seconds_finetune": round(tuning, 2)}


def means(lines: list[dict]) -> None:
    """Each setting's mean, and its paired difference to the first with half the 95 % interval."""
    for cell in dict.fromkeys((line["method"], line["num"]) for line in lines):
        own = [line for line in lines if (line["method"], line["num"]) == cell]
        by = {s: {line["seed"]: line["accuracy"] for line in own if line["setting"] == s} for s in dict.fromkeys(l["setting"] for l in own)}
        first = next(iter(by.values()))
        for setting, found in by.items():
            both = sorted(set(found) & set(first))
            mean, _, half = tables.t_interval([found[seed] - first[seed] for seed in both])
            print(f"{cell[0]} {cell[1]}: {setting}: {sum(found.values()) / len(found):.1f}, {mean:+.1f} ± {half:.1f} over {len(both)} draws")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="cifar10")
    parser.add_argument("--methods", nargs="+", default=["fskd"])
    parser.add_argument("--nums", nargs="+", type=int, default=[10])
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102])
    parser.add_argument("--settings", nargs="+", default=BASE)
    chosen = parser.parse_args()
    if min(chosen.seeds) < 100:
        raise SystemExit("Development draws have seeds from 100 up; the tables use those below.")
    profile, shared, lines = grid.load_profile(chosen.profile), pipeline.Shared(), []
    cases = itertools.product(chosen.methods, chosen.nums, chosen.seeds, chosen.settings)

    def measured():
        for line in where_possible(cases, lambda *case: judge(profile, shared, *case)):
            lines.append(line)
            yield line
    record("development", KEYS, MEASURED, measured())
    means(lines)


if __name__ == "__main__":
    main()
