"""PRACTISE: does ranking by 200 adaptor steps choose the units that 2,000 steps choose?

    python bench/scoring.py [--profile embedded] [--num 10] [--seeds 0 1 2] [--steps 200 2000]

A line a seed: the units that each length drops, whether they are the same, and Spearman's rank correlation of all
scores. Written to outputs/bench/<date>_scoring_<profile>.csv.
"""

import argparse
import csv
import time
from datetime import date

import torch
from scipy.stats import spearmanr

from oefsmc_lib import grid, pipeline, plans, provenance
from oefsmc_lib.methods import practise
from oefsmc_lib.paths import outputs_folder, writable_folder


def scores(profile, num, seed, steps):
    """Score of every candidate, and seconds."""
    experiment = profile.experiment({"method": "practise", "variant": "native", "num": num, "seed": seed,
                                     "practise.scoring_iterations": steps})
    ready = pipeline.prepare(experiment)
    begin = time.perf_counter()
    table = practise.score(ready.teacher, plans.droppable_units(ready.teacher.model), ready.few, None, None, experiment)
    return table, time.perf_counter() - begin, experiment


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="embedded")
    parser.add_argument("--num", type=int, default=10)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", nargs=2, type=int, default=[200, 2000])
    chosen = parser.parse_args()
    profile = grid.load_profile(chosen.profile)
    path = writable_folder(outputs_folder() / "bench") / f"{date.today()}_scoring_{chosen.profile}.csv"
    about = provenance.here(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    fields = ["profile", "num", "seed", "short_steps", "long_steps", "short_units", "long_units", "same_units", "spearman",
              "short_s", "long_s", "device", "threads", "torch", "git_commit"]
    fresh = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, fields)
        if fresh:
            writer.writeheader()
        for seed in chosen.seeds:
            (short, short_s, experiment), (long, long_s, _) = (scores(profile, chosen.num, seed, n) for n in chosen.steps)
            k = plans.units_to_drop(experiment.resolved_plan, list(short))
            units = [practise.lowest(found, list(short), k) for found in (short, long)]
            ranks = [[found[name]["score"] for name in short] for found in (short, long)]
            line = {"profile": chosen.profile, "num": chosen.num, "seed": seed, "short_steps": chosen.steps[0],
                    "long_steps": chosen.steps[1], "short_units": " ".join(units[0]), "long_units": " ".join(units[1]),
                    "same_units": units[0] == units[1], "short_s": round(short_s, 1), "long_s": round(long_s, 1),
                    "spearman": round(float(spearmanr(*ranks).statistic), 3)}
            writer.writerow(line | {key: about[key] for key in fields if key in about})
            file.flush()
            print(line, flush=True)


if __name__ == "__main__":
    main()
