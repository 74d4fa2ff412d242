"""How long networks and their pruned forms take: fewer multiply-accumulates are not always fewer milliseconds.

    python bench/latency.py [--batches 1 64] [--seconds 5]

A line is a network, a plan and a batch size: median milliseconds of a forward pass of the untrained network and of what the
plan leaves of it, in turn (`oefsmc latency`). Written to outputs/bench/<date>_<cpu or gpu>_<torch>_latency.csv.
"""

import argparse
import copy

import torch
from sheet import device, record

from oefsmc_lib.compressors import plans, surgery
from oefsmc_lib.teacher import cost
from oefsmc_lib.teacher.latency import milliseconds
from oefsmc_lib.teacher.networks import Architecture

# Each network with its plans; of PRACTISE, blocks of the kind that it drops.
CASES = [
    (Architecture("vgg16", 10), ("prune_a", "cd_half", "cfg_a", "drop features.27 features.30")),
    (Architecture("resnet32", 100), ("skip_first", "cd_half", "drop layer1.1 layer1.2 layer2.1 layer2.2")),
]
MEASURED = ["macs_left", "network_ms", "student_ms", "faster", "network_quartiles", "student_quartiles"]


def compressed(network, plan, architecture):
    """The network without what the plan removes: the last channels, or the named blocks."""
    student = copy.deepcopy(network)
    if plan.startswith("drop "):
        surgery.drop_units(student, plan.split()[1:])
    else:
        widths = plans.plan_widths(plan, network, architecture)
        surgery.remove_channels(student, {name: list(range(width)) for name, width in widths.items()}, architecture)
    return student


def lines(batches, seconds):
    torch.manual_seed(0)
    for architecture, own in CASES:
        network = architecture.build().eval()
        for plan in own:
            models = [m.to(device(), memory_format=torch.channels_last) for m in (network, compressed(network, plan, architecture))]
            macs = [cost.macs(model, architecture) for model in models]
            for batch in batches:
                times = milliseconds(models, architecture, batch, seconds).tolist()
                quartiles = [f"{lower:.3g}-{upper:.3g}" for lower, _, upper in times]
                yield {"network": architecture.name, "plan": plan, "batch": batch, **dict(zip(MEASURED, [
                    round(100 * macs[1] / macs[0], 1), *(round(median, 3) for _, median, _ in times),
                    round(times[0][1] / times[1][1], 3), *quartiles]))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--seconds", type=float, default=5.0)
    chosen = parser.parse_args()
    record("latency", ["network", "plan", "batch"], MEASURED, lines(chosen.batches, chosen.seconds))


if __name__ == "__main__":
    main()
