"""PRACTISE: does ranking by 200 adaptor steps choose the units that 2,000 steps choose?

    python bench/scoring.py [--profile embedded] [--num 10] [--seeds 0 1 2] [--steps 200 2000]

A line a seed: the units that each length drops, whether they are the same, and Spearman's rank correlation of all
scores. Written to outputs/bench/<date>_<cpu or gpu>_<torch>_scoring.csv.
"""

import argparse
import time

from scipy.stats import spearmanr
from sheet import record

from oefsmc_lib import grid, pipeline, plans
from oefsmc_lib.methods import practise

KEYS = ["profile", "num", "seed", "short_steps", "long_steps"]
MEASURED = ["short_units", "long_units", "same_units", "spearman", "short_s", "long_s"]


def scores(profile, num, seed, steps):
    """Score of every candidate, and seconds."""
    experiment = profile.experiment({"method": "practise", "variant": "native", "num": num, "seed": seed,
                                     "practise.scoring_iterations": steps})
    ready = pipeline.prepare(experiment)
    begin = time.perf_counter()
    table = practise.score(ready.teacher, plans.droppable_units(ready.teacher.model), ready.few, None, None, experiment)
    return table, time.perf_counter() - begin, experiment


def compare(profile, num, seed, steps):
    (short, short_s, experiment), (long, long_s, _) = (scores(profile, num, seed, n) for n in steps)
    k = plans.units_to_drop(experiment.resolved_plan, list(short))
    units = [practise.lowest(found, list(short), k) for found in (short, long)]
    ranks = [[found[name]["score"] for name in short] for found in (short, long)]
    return {"profile": profile.name, "num": num, "seed": seed, "short_steps": steps[0], "long_steps": steps[1],
            "short_units": " ".join(units[0]), "long_units": " ".join(units[1]), "same_units": units[0] == units[1],
            "spearman": round(float(spearmanr(*ranks).statistic), 3), "short_s": round(short_s, 1), "long_s": round(long_s, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="embedded")
    parser.add_argument("--num", type=int, default=10)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", nargs=2, type=int, default=[200, 2000])
    chosen = parser.parse_args()
    profile = grid.load_profile(chosen.profile)
    record("scoring", KEYS, MEASURED, (compare(profile, chosen.num, seed, chosen.steps) for seed in chosen.seeds))


if __name__ == "__main__":
    main()
