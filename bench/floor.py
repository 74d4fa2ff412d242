"""How far each stage is from its floor: the time that its matrix FLOPs would take at this machine's matrix rate.

    python bench/floor.py [--networks vgg16-w0.25 vgg16 resnet32] [--nums 10 100] [--stages fskd cd mir practise finetune
                          evaluation] [--share 0.02]

FLOPs are counted by torch while our procedure runs (convolutions and products, forward and backward, and the
factorisations that CD and FSKD solve with; float64 counts twice). Convolutions and all else have a rate each, measured in
float32 beside each line: of a 3x3 convolution of 64 maps of 256x16x16, and of a product of 2048 x 2048, which may be far
slower (on some processors MKL does not use all that they have). Batch norms, ReLUs and pooling have no matrix FLOPs, and small
maps no work for a whole core, so that small networks stay well above 1. `bound` is literal FLOPs over ours: what could be
gained at most by saving work alone. Long loops are measured on a share and scaled.
Written to outputs/bench/<date>_<cpu or gpu>_<torch>_floor.csv.
"""

import argparse
import copy
import dataclasses
import itertools
import statistics

import torch
from recovery import LENGTHS, LITERAL, NETWORKS
from sheet import convolution_rate, matrix_rate, record, seconds, where_possible
from stages import Side
from torch.utils.flop_counter import FlopCounterMode

from oefsmc_lib import pipeline
from oefsmc_lib.parameters import grid
from oefsmc_lib.student import predictions

aten = torch.ops.aten
KEYS = ["stage", "network", "num"]
MEASURED = ["gflop", "convolution_gflop", "convolution_rate", "product_rate", "floor_s", "seconds", "over_floor", "bound", "timed_share"]
EVALUATED = 1000                                          # training images, in float32


def formula(count):
    """A FLOP formula that sees tensors, so that float64 can count twice: half as many fit into a register."""
    def counted(*args, out_val=None, **_):
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        return int(count(*tensors) * (2 if tensors[-1].dtype == torch.float64 else 1))
    counted._get_raw = True
    return counted


PRODUCTS = {
    aten.mm: formula(lambda a, b: 2 * len(a) * b.numel()),
    aten.addmm: formula(lambda _c, a, b: 2 * len(a) * b.numel()),
    aten.addmm_: formula(lambda _c, a, b: 2 * len(a) * b.numel()),
    aten.bmm: formula(lambda a, b: 2 * a.shape[1] * b.numel()),
    aten.linalg_cholesky_ex: formula(lambda a: len(a) ** 3 / 3),
    aten.cholesky_solve: formula(lambda b, a: 2 * len(a) * b.numel()),
    aten.cholesky_inverse: formula(lambda a: 2 * len(a) ** 3 / 3),
    aten._linalg_solve_ex: formula(lambda a, b: 2 * len(a) ** 3 / 3 + 2 * len(a) * b.numel()),
}


def flops(work) -> torch.Tensor:
    """FLOPs of convolutions, and of all else."""
    with FlopCounterMode(display=False, custom_mapping=PRODUCTS) as counter:
        work()
    counts = counter.get_flop_counts()["Global"]
    convolutions = sum(count for op, count in counts.items() if "convolution" in str(op))
    return torch.tensor([convolutions, sum(counts.values()) - convolutions], dtype=torch.float64)


class Whole:
    """A stage without a loop to shorten, with the meters of :class:`stages.Side`."""

    share = 1.0

    def __init__(self, prepare, work):
        self.prepare, self.work = prepare, work

    def measure(self, meter):
        start = self.prepare()
        return meter(lambda: self.work(start))

    def warm_up(self):
        self.work(self.prepare())


def sides(stage, network, num, share):
    """Our procedure, and the literal one where there is one."""
    profile = grid.load_profile(NETWORKS[network])
    if stage in LITERAL:
        base = {"method": stage, "variant": "native", "num": num, "imbalance": "long_tail", **LENGTHS}
        ready = pipeline.prepare(profile.experiment(base))
        return Side(profile, base, ready, False, share), Side(profile, base | LITERAL[stage], ready, True, share), ready
    experiment = profile.experiment({"method": "fskd", "variant": "ours", "num": num})
    ready = pipeline.prepare(experiment)
    student, _ = pipeline.recover(experiment, ready)
    if stage == "finetune":
        return Whole(lambda: copy.deepcopy(student), lambda made: pipeline.tune(experiment, ready, made)), None, ready
    some = dataclasses.replace(ready.train, images=ready.train.take(range(EVALUATED)), labels=ready.train.labels[:EVALUATED])
    model = student.model.eval().to(memory_format=torch.channels_last)
    return Whole(lambda: model, lambda made: predictions.logits(
        made, some, torch.arange(EVALUATED), ready.teacher.normalise, ready.few.images.device)), None, ready


def line(stage, network, num, share, repeats):
    ours, literal, ready = sides(stage, network, num, share)
    device = ready.few.images.device
    ours.warm_up()
    counted = ours.measure(flops)
    found, rates = [], []
    for _ in range(repeats):
        rates.append([convolution_rate(device), matrix_rate(device)])
        found.append(ours.measure(lambda work: seconds(work, device)))
    rate, spent = torch.tensor(rates, dtype=torch.float64).median(0).values, statistics.median(found)
    # FSKD's and CD's literal procedures differ in what they solve with, which the counter does not see.
    bound = float(literal.measure(flops).sum() / counted.sum()) if stage in ("mir", "practise") else None
    floor = float((counted / rate).sum())
    giga, rates = counted / 1e9, (rate / 1e9).tolist()
    return {"stage": stage, "network": network, "num": num, "gflop": round(float(giga.sum()), 2),
            "convolution_gflop": round(float(giga[0]), 2), "convolution_rate": round(rates[0], 1),
            "product_rate": round(rates[1], 1), "floor_s": round(floor, 4), "seconds": round(spent, 4),
            "over_floor": round(spent / floor, 2), "bound": bound and round(bound, 2), "timed_share": ours.share}


def main():
    stages = [*LITERAL, "finetune", "evaluation"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", nargs="+", default=stages, choices=stages)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--nums", nargs="+", type=int, default=[10, 100])
    parser.add_argument("--share", type=float, default=0.02, help="share of a long loop that is measured")
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    cases = [case for case in itertools.product(chosen.stages, chosen.networks, chosen.nums)
             if case[0] != "evaluation" or case[2] == chosen.nums[0]]
    record("floor", KEYS, MEASURED, where_possible(cases, lambda *case: line(*case, chosen.share, chosen.repeats)))


if __name__ == "__main__":
    main()
