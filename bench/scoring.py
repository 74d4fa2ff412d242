"""PRACTISE: does ranking by 300 adaptor steps choose the units that 2,000 steps choose?

    python bench/scoring.py [--profile embedded] [--num 10] [--seeds 0 1 2] [--steps 300 2000] [--rate R]

A line a seed: the units that each length drops, whether they are the same, and Spearman's rank correlation of all
scores; and the same for the long scoring against itself on other views of the same images (`again`), which is as close
as any scoring can come. The short one trains at the default rate (`practise.scoring_rate`) or at --rate. Written to
outputs/bench/<date>_<cpu or gpu>_<torch>_scoring.csv.
"""

import argparse
import time

from scipy.stats import spearmanr
from sheet import record

from oefsmc_lib import compressors, pipeline
from oefsmc_lib.compressors import plans, practise
from oefsmc_lib.parameters import grid

KEYS = ["profile", "num", "seed", "teacher", "short_steps", "short_rate", "long_steps"]
MEASURED = ["short_units", "long_units", "again_units", "same_units", "again_same_units", "spearman", "again_spearman",
            "short_s", "long_s"]
OTHER_VIEWS = 10_000                                      # added to the seed once the images are drawn


def scores(profile, num, seed, switches, views_seed=None):
    """Score of every candidate, seconds, and what was scored."""
    experiment = profile.experiment({"method": "practise", "variant": "native", "practise.start": "teacher", "num": num, "seed": seed, **switches})
    ready = pipeline.prepare(experiment)
    scored = experiment.model_copy(update={"seed": seed if views_seed is None else views_seed})
    begin = time.perf_counter()
    table = practise.score(compressors.Task(ready.teacher, ready.few, scored), plans.droppable_units(ready.teacher.model))
    return table, time.perf_counter() - begin, experiment, ready.teacher


def compare(profile, num, seed, steps, rate):
    short_switches = {"practise.scoring_iterations": steps[0], "practise.scoring_lr": rate}
    long_switches = {"practise.scoring_iterations": steps[1]}
    short, short_s, experiment, teacher = scores(profile, num, seed, short_switches)
    long, long_s, _, _ = scores(profile, num, seed, long_switches)
    again, _, _, _ = scores(profile, num, seed, long_switches, seed + OTHER_VIEWS)
    k = plans.units_to_drop(experiment.resolved_plan, list(short))
    units = {name: practise.lowest(found, list(short), k)
             for name, found in (("short", short), ("long", long), ("again", again))}

    def agreement(found):
        return round(float(spearmanr(*([each[unit]["score"] for unit in short] for each in (found, long))).statistic), 3)
    return {"profile": profile.name, "num": num, "seed": seed, "teacher": teacher.sha256[:12], "short_steps": steps[0],
            "short_rate": round(practise.scoring_rate(teacher.model, experiment.practise), 4), "long_steps": steps[1],
            **{f"{name}_units": " ".join(found) for name, found in units.items()},
            "same_units": units["short"] == units["long"], "again_same_units": units["again"] == units["long"],
            "spearman": agreement(short), "again_spearman": agreement(again),
            "short_s": round(short_s, 1), "long_s": round(long_s, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="embedded")
    parser.add_argument("--num", type=int, default=10)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", nargs=2, type=int, default=[300, 2000])
    parser.add_argument("--rate", type=float, help="of the short scoring; left out: the default")
    chosen = parser.parse_args()
    profile = grid.load_profile(chosen.profile)
    record("scoring", KEYS, MEASURED,
           (compare(profile, chosen.num, seed, chosen.steps, chosen.rate) for seed in chosen.seeds))


if __name__ == "__main__":
    main()
