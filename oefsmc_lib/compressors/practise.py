r"""PRACTISE, Practical Network Acceleration with Tiny Sets (Wang and Wu, CVPR 2023).

Whole blocks are dropped. For each candidate b: drop it alone, put identity-initialised 1x1 adaptors
around the gap, train only them until the map before the pooling comes close to the teacher's, and
score

    s_b = R_b / tau_b,    R_b = mean (f_S - f_T)^2 after training,    tau_b = % of cost that b saves.

The k smallest scores go; adaptors are thrown away, and the student, rebuilt from the teacher's
weights, is trained like MiR. Batch norms are frozen while scoring.

That is the release's procedure, ``practise.start=teacher``, and the default for residual networks. In VGG-16 the
default is ``bridge``: linear bridges over the gaps, in closed form (:mod:`oefsmc_lib.compressors.bridges`). R_b is
the error behind b's bridge, the student starts behind the bridges of what was dropped, and its training keeps the
weights that were closest to the teacher on the watch set.

OE-FSMC: R_b = sum_j w_j R_{b,j} by eq. (5), with R_{b,j} over images labelled j; both trainings by eq. (7).
Differs from the release: tau counts MACs, where the release measures latencies, and ranking takes
300 steps instead of 2,000, in VGG at a raised rate (:func:`scoring_rate`).
"""

import copy

import torch
from torch import Tensor, nn

from oefsmc_lib.compressors import adaptors, banks, bridges, importance, mimic, plans, surgery
from oefsmc_lib.errors import InputError
from oefsmc_lib.progress import bar
from oefsmc_lib.teacher.cost import macs_by_layer
from oefsmc_lib.teacher.networks import VGG, run_pieces, segments


def compress(task) -> surgery.Student:
    """Score, drop, mimic; ``notes`` has every candidate's recoverability, saving and score.

    ``task`` is a :class:`~oefsmc_lib.compressors.Task`. Neither training reads ``task.w``, so runs that differ in it
    alone share the images' errors and, where they drop the same units, the student (``task.once``). Raises
    :class:`InputError` for a network without droppable blocks, and where a training diverges.

    >>> from oefsmc_lib import Experiment, pipeline
    >>> experiment = Experiment(method="practise", num=10, practise={"iterations": 2})  # the release's are 2,000
    >>> student = compress(pipeline.task_of(experiment, pipeline.prepare(experiment)))
    >>> len(student.structure.dropped), len(student.notes["scores"])
    (2, 8)
    """
    teacher, experiment = task.teacher, task.experiment
    candidates = droppable(teacher, experiment)
    k = plans.units_to_drop(experiment.resolved_plan, candidates)
    scores = score(task, candidates)
    dropped = lowest(scores, candidates, k)

    def train():
        if experiment.bridges:
            model = bridges.bridged(task, dropped)
        else:
            model = copy.deepcopy(teacher.model)
            surgery.drop_units(model, dropped)
        return model, mimic.mimic(model, task, experiment.practise)

    model, report = task.once(("student", tuple(dropped)), train)
    structure = surgery.Structure(teacher.architecture, dropped=dropped)
    return surgery.Student(model, structure, {"scores": scores, **report})


def droppable(teacher, experiment) -> list[str]:
    """The units that may go; not the last one where a bridge would then have to change the teacher's head."""
    units, layers = plans.droppable_units(teacher.model), surgery.weight_layers(teacher.model, teacher.architecture)
    return [unit for unit in units if not experiment.bridges or layers.index(unit) + 2 < len(layers)]


def lowest(scores: dict[str, dict[str, float]], candidates: list[str], k: int) -> list[str]:
    """The k candidates of smallest score, in their order; of equal ones the earlier, so that a run can be repeated."""
    chosen = sorted(candidates, key=lambda name: scores[name]["score"])[:k]
    return [name for name in candidates if name in chosen]


def savings(teacher, candidates: list[str]) -> dict[str, float]:
    """tau_b: percent of the teacher's MACs that dropping b alone saves."""
    spent = macs_by_layer(teacher.model, teacher.architecture)
    inside = {b: sum(cost for layer, cost in spent.items() if f"{layer}.".startswith(f"{b}.")) for b in candidates}
    return {b: 100 * saved / sum(spent.values()) for b, saved in inside.items()}


def score(task, candidates: list[str]) -> dict[str, dict[str, float]]:
    """{candidate: recoverability, saving, score}, each after its own adaptor training or behind its own bridge."""
    tau, few, w = savings(task.teacher, candidates), task.few, task.w
    judged = few.joined(task.aux if task.recovery is not None or w is not None else None)

    def train():
        if task.experiment.bridges:
            return bridges.errors(task, candidates, judged.images)
        stages = Stages(task, judged.images)
        return {name: stages.recover(name) for name in bar(candidates, "scoring")}

    table = {}
    for name, errors in task.once(("errors", len(judged)), train).items():  # errors (N,), per image
        # R_b = sum_j w_j R_bj
        found = errors[: len(few)].mean() if w is None else importance.weighted(errors[:, None], judged.labels, w)[0]
        table[name] = {"recoverability": float(found), "saving": tau[name], "score": float(found) / tau[name]}
    return table


def scoring_rate(model: nn.Module, settings) -> float:
    """SGD's rate for the adaptors: ``settings.scoring_lr``, or where that is None ``settings.lr``, for VGG times
    2000 / ``settings.scoring_iterations``, at least 1 and at most 25.

    What a candidate reaches depends on the sum of the rates. Fewer steps than the release's 2,000 rank as the release
    does if they keep the sum, as closely as it agrees with itself on other views (``bench/scoring.py``). Residual
    networks have no room for it: at 0.05 ResNet-32's adaptors swing, at 0.1 they diverge.
    """
    raised = min(25.0, max(1.0, 2000 / settings.scoring_iterations)) if isinstance(model, VGG) else 1.0
    return settings.lr * raised if settings.scoring_lr is None else settings.scoring_lr


class Stages:
    """Scores the candidates of one teacher.

    What stands before the first adaptor is constant, so its output is computed once for a bank of views and shared by
    the candidates of a stage; the backward pass stops there.
    """

    def __init__(self, task, judged: Tensor):
        self.task, self.teacher, self.settings = task, task.teacher.model, task.experiment.practise
        self.pieces, self.judged = segments(self.teacher), judged  # the images whose errors R_b averages
        self.start = -1
        self.banks: list = []

    def _enter(self, start: int) -> None:
        """Make the banks of a stage: its input and the teacher's map for every view."""
        if start == self.start:
            return
        self.start, steps = start, self.settings.scoring_iterations
        settings = self.settings if self.settings.cache else self.settings.model_copy(update={"views": 0})

        @torch.no_grad()
        def look(images):
            begin = run_pieces(self.pieces[:start], images).clone()  # ReLU works in place further on
            return begin, run_pieces(self.pieces[start:], begin.clone())

        self.banks = [
            banks.views_of(images, self.task.experiment, settings, look, f"scoring-bank-{name}", steps)
            for images, _, name in self.task.sets()
        ]

    def recover(self, unit: str) -> Tensor:
        """Drop ``unit``, train its adaptors, and return each judged image's mean squared error (N,)."""
        places = adaptors.places(self.teacher, unit)
        changed = [unit, *(layer for layer, _ in places)]
        holds = [any(f"{layer}.".startswith(f"{name}.") for layer in changed) for name, _ in self.pieces]
        start = holds.index(True)
        self._enter(start)
        model = copy.deepcopy(self.teacher).requires_grad_(False)
        surgery.drop_units(model, [unit])
        inserted = adaptors.insert(model, places)
        tail = segments(model)[start:]
        self._train(tail, inserted)
        errors = []
        with torch.no_grad():  # part by part: nothing that grows with the images is kept
            for part in self.judged.split(64):
                begin = run_pieces(self.pieces[:start], part)
                maps, target = run_pieces(tail, begin.clone()), run_pieces(self.pieces[start:], begin.clone())
                errors.append((maps - target).square().flatten(1).mean(1))
        found = torch.cat(errors)
        if not torch.isfinite(found).all():
            raise InputError(f"The adaptors for {unit} diverged; lower practise.scoring_lr or check the teacher.")
        return found

    def _train(self, tail: list[tuple[str, nn.Module]], inserted: list[nn.Conv2d]) -> None:
        rate, steps = scoring_rate(self.teacher, self.settings), self.settings.scoring_iterations
        optimiser, schedule = mimic.sgd([q.weight for q in inserted], rate, steps)
        # The same batches and views for every candidate, so that their scores differ by the block alone.
        picks = mimic.draws(self.task, self.settings.batch, self.banks, "scoring", "scoring-views")
        for _, picked in zip(range(steps), picks):
            begins = torch.cat([begin for _, _, (begin, _) in picked])
            with mimic.arithmetic(self.settings, begins.device):
                maps = run_pieces(tail, begins)
            loss = mimic.joint_loss(maps.float(), [(share, target) for share, _, (_, target) in picked])
            mimic.descend(loss, optimiser, schedule)
