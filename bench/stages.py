"""The stages that benches time: recoveries on real or synthetic images, long loops on a share of their steps."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import loading
import torch

from oefsmc_lib import compressors
from oefsmc_lib.compressors import cd, fskd, mir, plans, practise, surgery
from oefsmc_lib.images.fewshot import Samples
from oefsmc_lib.teacher import teachers
from oefsmc_lib.teacher.networks import Architecture

LEAST = 20                                                # fewer would drown in what comes before the first step
LOOP = {"cd": "cd.iterations", "mir": "mir.iterations", "practise": "practise.scoring_iterations"}


def stage(experiment, ready, literal=False, loader=False):
    """The recovery stage: what it starts from, made anew and untimed for each call, and the stage as a function of it.

    FSKD's starts from the pruned student. PRACTISE's is its scoring alone: the training after it is MiR's.
    ``loader``: MiR's images come from the released code's loader.
    """
    if experiment.method == "fskd":
        teacher = ready.teacher
        pruned = surgery.pruned_copy(teacher, plans.choose_filters(compressors.Task(teacher, ready.few, experiment)))

        def run(student):
            fskd.recover(student, compressors.Task(teacher, ready.few, experiment), literal_passes=literal)
            return student.model
        return lambda: copy.deepcopy(pruned), run
    if experiment.method == "practise":
        task, units = compressors.Task(ready.teacher, ready.few, experiment), practise.droppable(ready.teacher, experiment)
        return nothing, lambda _: practise.score(task, units)
    module = {"cd": cd, "mir": mir}[experiment.method]

    def compress(_):
        with loading.as_released(ready.teacher, experiment.mir.batch) if loader else nullcontext():
            return module.compress(compressors.Task(ready.teacher, ready.few, experiment)).model
    return nothing, compress


def nothing():
    """Stages that copy the teacher themselves start from nothing."""


def loop_length(experiment):
    """Steps of the loop that `LOOP` names; None where there is none."""
    if experiment.method == "cd":
        return experiment.cd.iterations if experiment.cd.solver == "adam" else None
    if experiment.method == "practise":                   # behind bridges units are scored in closed form, without steps
        return None if experiment.bridges else experiment.practise.scoring_iterations
    return experiment.mir.iterations if experiment.method == "mir" else None


class Side:
    """One procedure, measured whole, or on a share of its loop and scaled: what comes before the first step counts
    once, the steps are multiplied."""

    def __init__(self, profile, settings, ready, literal=False, share=1.0, loader=False):
        self.experiment = profile.experiment(settings)
        steps = loop_length(self.experiment)
        self.whole = stage(self.experiment, ready, literal, loader)
        self.short = self.single = None
        self.share = 1.0
        if steps and (count := max(LEAST, round(steps * share))) < steps:
            self.share, self.factor = count / steps, (steps - 1) / (count - 1)
            loop = LOOP[self.experiment.method]
            if self.experiment.method == "practise":      # fewer steps would raise the rate until they diverge
                settings = settings | {"practise.scoring_lr": self.experiment.practise.lr}
            self.short = stage(profile.experiment(settings | {loop: count}), ready, literal, loader)
            self.single = stage(profile.experiment(settings | {loop: 1}), ready, literal, loader)

    def measure(self, meter) -> float:
        """``meter(work)`` (seconds, FLOPs) of the whole procedure."""
        if self.short is None:
            return metered(meter, self.whole)
        once = metered(meter, self.single)
        return once + (metered(meter, self.short) - once) * self.factor

    def warm_up(self) -> None:
        """A first call also loads kernels."""
        prepare, run = self.single or self.whole
        run(prepare())

    def make(self):
        """What the whole procedure makes."""
        prepare, run = self.whole
        return run(prepare())


def metered(meter, pair) -> float:
    prepare, run = pair
    start = prepare()
    return meter(lambda: run(start))


def synthetic(architecture: Architecture, num: int, where: torch.device, seed: int = 0):
    """An untrained teacher and ``num`` random images, for costs that do not depend on what images show."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = architecture.build().eval().requires_grad_(False).to(where, memory_format=torch.channels_last)
        shape = (num, architecture.channels, architecture.image_size, architecture.image_size)
        images = torch.randn(shape).to(where, memory_format=torch.channels_last)
        labels = torch.arange(num, device=where) % architecture.classes
    zero = torch.zeros(architecture.channels, 1, 1)
    teacher = teachers.Teacher(model, architecture, {"test_accuracy": 0.0}, "untrained", zero, zero + 1)
    return SimpleNamespace(teacher=teacher, few=Samples(images, labels))
