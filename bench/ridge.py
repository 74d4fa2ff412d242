"""CD: which ridge of the closed form agrees best with the released Adam loop on images that no stage saw?

    python bench/ridge.py [--profile embedded] [--model resnet20] [--width 1] [--nums 10] [--seeds 0 1 2 3]
                          [--ridges 1e-4 1e-3 1e-2 3e-2 1e-1] [--adam]

Adam stops long before the directions that a few images hardly show are fitted; a ridge does the same for the closed
form. A line a draw and ridge, and with --adam one of the released loop (`adam` in the column `rho`): the squared error of
the last map before the pooling (of the logits, where the plan prunes that map) on the few images (`fit`) and on 500 training
images that no stage saw (`error`), and the accuracy on these. Written to outputs/bench/<date>_<cpu or gpu>_<torch>_ridge.csv.
The embedded ResNet's teacher: `oefsmc teacher train model=resnet20 width=1`.
"""

import argparse
import itertools

from recovery import judged, unseen
from sheet import record, where_possible

from oefsmc_lib import compressors, pipeline
from oefsmc_lib.compressors import cd
from oefsmc_lib.parameters import grid

KEYS = ["profile", "network", "width", "num", "seed", "rho", "teacher"]
MEASURED = ["fit", "error", "accuracy"]


def judge(profile, network, num, seed, rho):
    """One line: CD's student of this ridge, or of Adam."""
    solver = {"cd.solver": "adam"} if rho == "adam" else {"cd.rho": rho}
    experiment = profile.experiment({"method": "cd", "variant": "native", "num": num, "seed": seed, **network, **solver})
    ready = pipeline.prepare(experiment)
    model = cd.compress(compressors.Task(ready.teacher, ready.few, experiment)).model
    found = {"fit": judged(model, ready, ready.few.images, ready.few.labels)[0]}
    found["error"], found["accuracy"] = judged(model, ready, *unseen(ready))
    return {"profile": profile.name, "network": experiment.model, "width": experiment.width, "num": num, "seed": seed,
            "rho": rho, "teacher": ready.teacher.sha256[:12], **{name: float(f"{value:.5g}") for name, value in found.items()}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="embedded")
    parser.add_argument("--model", help="left out: the profile's")
    parser.add_argument("--width", type=float, help="left out: the profile's")
    parser.add_argument("--nums", nargs="+", type=int, default=[10])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3])
    parser.add_argument("--ridges", nargs="+", type=float, default=[1e-4, 1e-3, 1e-2, 3e-2, 1e-1])
    parser.add_argument("--adam", action="store_true", help="the released loop too")
    chosen = parser.parse_args()
    network = {name: getattr(chosen, name) for name in ("model", "width") if getattr(chosen, name) is not None}
    profile = grid.load_profile(chosen.profile)
    cases = itertools.product(chosen.nums, chosen.seeds, chosen.ridges + ["adam"] * chosen.adam)
    record("ridge", KEYS, MEASURED, where_possible(cases, lambda *case: judge(profile, network, *case)))


if __name__ == "__main__":
    main()
