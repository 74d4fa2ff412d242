r"""PRACTISE, Practical Network Acceleration with Tiny Sets (Wang and Wu, CVPR 2023).

Whole blocks are dropped. For each candidate b: drop it alone, put identity-initialised 1x1 adaptors
around the gap, train only them until the map before the pooling comes close to the teacher's, and
score

    s_b = R_b / tau_b,    R_b = mean (f_S - f_T)^2 after training,    tau_b = % of cost that b saves.

The k smallest scores go; adaptors are thrown away, and the student, rebuilt from the teacher's
weights, is trained like MiR. Batch norms are frozen while scoring.

Everything before the first adaptor is constant while scoring, so its output is computed once for a
bank of views and shared by the candidates of a stage; the backward pass stops there.

OE-FSMC: R_b = sum_j w_j R_{b,j} by eq. (5), with R_{b,j} over images labelled j; both trainings by eq. (7).
Differs from the release: tau counts MACs (a measured latency is an option, ``practise.saving``), and
ranking takes 300 steps instead of 2,000, in VGG at a raised rate (:func:`scoring_rate`).
"""

import copy
import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oefsmc_lib.compressors import alone, importance, mimic, plans, surgery
from oefsmc_lib.errors import InputError
from oefsmc_lib.images.fewshot import Samples, generator
from oefsmc_lib.progress import bar
from oefsmc_lib.teacher.cost import latency, macs_by_layer
from oefsmc_lib.teacher.networks import VGG, run_pieces, segments


def compress(task, once=alone) -> surgery.Student:
    """Score, drop, mimic; ``notes`` has every candidate's recoverability, saving and score.

    Neither training reads ``w``, so that runs which differ in it alone share the images' errors
    and, where they drop the same units, the student.
    """
    teacher, experiment = task.teacher, task.experiment
    candidates = plans.droppable_units(teacher.model)
    k = plans.units_to_drop(experiment.resolved_plan, candidates)
    scores = score(task, candidates, once)
    dropped = lowest(scores, candidates, k)

    def train():
        model = copy.deepcopy(teacher.model)
        surgery.drop_units(model, dropped)
        return model, mimic.mimic(model, task, experiment.practise)

    model, history = once(("student", tuple(dropped)), train)
    structure = surgery.Structure(teacher.architecture, dropped=dropped)
    return surgery.Student(model, structure, {"scores": scores, "loss": history})


def lowest(scores: dict[str, dict[str, float]], candidates: list[str], k: int) -> list[str]:
    """The k candidates of smallest score, in their order; of equal ones the earlier, so that a run can be repeated."""
    chosen = sorted(candidates, key=lambda name: scores[name]["score"])[:k]
    return [name for name in candidates if name in chosen]


def savings(teacher, candidates: list[str], kind: str) -> dict[str, float]:
    """tau_b: percent of the teacher's MACs, or of its measured latency, that dropping b alone saves."""
    found = {}
    if kind == "macs":
        spent = macs_by_layer(teacher.model, teacher.architecture)
        for name in candidates:
            inside = sum(cost for layer, cost in spent.items() if layer == name or layer.startswith(f"{name}."))
            found[name] = 100 * inside / sum(spent.values())
    else:
        whole = latency(teacher.model, teacher.architecture, batch=64)
        for name in candidates:
            model = copy.deepcopy(teacher.model)
            surgery.drop_units(model, [name])
            found[name] = 100 * (1 - latency(model, teacher.architecture, batch=64) / whole)
    useless = [name for name, saving in found.items() if saving <= 0]
    if useless:
        raise InputError(
            f"Dropping {useless[0]} saves no {kind} by this measurement, so its score has no meaning; "
            "use practise.saving=macs."
        )
    return found


def score(task, candidates: list[str], once=alone) -> dict[str, dict[str, float]]:
    """{candidate: recoverability, saving, score}, each after its own adaptor training."""
    tau, few, w = savings(task.teacher, candidates, task.experiment.practise.saving), task.few, task.w
    judged = task.aux if task.recovery is not None or w is not None else None

    def train():
        stages = Stages(task, judged)
        return {name: stages.recover(name) for name in bar(candidates, "scoring")}

    table = {}
    for name, errors in once(("errors", judged is not None), train).items():  # errors (N,), per image
        if w is None:
            recoverability = float(errors[: len(few)].mean())
        else:
            labels = few.labels if judged is None else torch.cat([few.labels, judged.labels])
            # R_b = sum_j w_j R_bj
            recoverability = float(importance.weighted(errors[:, None], labels, w)[0])
        table[name] = {"recoverability": recoverability, "saving": tau[name], "score": recoverability / tau[name]}
    return table


def scoring_rate(model: nn.Module, settings) -> float:
    """SGD's rate for the adaptors: ``settings.scoring_lr``, or where that is None ``settings.lr``, for VGG times
    2000 / ``settings.scoring_iterations``, at least 1 and at most 25.

    The release's 2,000 steps at 0.02 leave its adaptors far from their optimum, so what a candidate reaches depends on
    the sum of the rates, and few steps at the same rate rank otherwise. A rate that keeps the sum ranks as the release
    does, as closely as the release agrees with itself on other views (``bench/scoring.py``). Residual networks have no
    room for it: at 0.05 ResNet-32's adaptors swing, at 0.1 they diverge.
    """
    if settings.scoring_lr is not None:
        return settings.scoring_lr
    return (
        settings.lr * min(25.0, max(1.0, 2000 / settings.scoring_iterations)) if isinstance(model, VGG) else settings.lr
    )


class Stages:
    """Scores the candidates of one teacher; inputs of a stage are computed once and kept."""

    def __init__(self, task, judged: Samples | None):
        self.teacher, self.experiment, self.settings = task.teacher, task.experiment, task.experiment.practise
        self.names = [name for name, _ in segments(task.teacher.model)]
        few = task.few.images
        self.judged = few if judged is None else torch.cat([few, judged.images])  # whose errors R_b averages
        self.sets = mimic.sets(task)
        self.start, self.banks = -1, []

    @torch.no_grad()
    def _prefix(self, images: Tensor, start: int) -> Tensor:
        return run_pieces(segments(self.teacher.model)[:start], images)

    def _enter(self, start: int) -> None:
        """Make the banks of a stage: its input and the teacher's map for every view."""
        if start == self.start:
            return
        self.start = start
        tail = segments(self.teacher.model)[start:]

        @torch.no_grad()
        def look(images):
            begin = self._prefix(images, start).clone()  # ReLU works in place further on
            return begin, run_pieces(tail, begin.clone())

        self.banks = []
        for images, _, name in self.sets:
            if self.settings.cache:
                bank = mimic.views_of(
                    images,
                    self.experiment,
                    self.settings,
                    look,
                    f"scoring-bank-{name}",
                    self.settings.scoring_iterations,
                )
            else:
                bank = mimic.Fresh(images, self.experiment.augment, look)
            self.banks.append(bank)

    def recover(self, unit: str) -> Tensor:
        """Drop ``unit``, train its adaptors, and return each judged image's mean squared error (N,)."""
        places = adaptor_places(self.teacher.model, unit)
        start = min([self.names.index(_piece(self.names, place)) for place, _ in places] + [self.names.index(unit)])
        self._enter(start)
        model = copy.deepcopy(self.teacher.model).requires_grad_(False)
        surgery.drop_units(model, [unit])
        adaptors = insert_adaptors(model, places)
        tail, whole = segments(model)[start:], segments(self.teacher.model)[start:]
        if adaptors:
            self._train(tail, adaptors)
        errors = []
        with torch.no_grad():  # part by part: nothing that grows with the images is kept
            for part in self.judged.split(64):
                begin = self._prefix(part, start)
                maps, target = run_pieces(tail, begin.clone()), run_pieces(whole, begin.clone())
                errors.append((maps - target).square().flatten(1).mean(1))
        errors = torch.cat(errors)
        if not torch.isfinite(errors).all():
            raise InputError(
                f"PRACTISE's adaptors for {unit} diverged; lower practise.scoring_lr or check the teacher."
            )
        return errors

    def _train(self, tail: list[tuple[str, nn.Module]], adaptors: list[nn.Module]) -> None:
        steps = self.settings.scoring_iterations
        rate = scoring_rate(self.teacher.model, self.settings)
        optimiser, schedule = mimic.sgd([q.weight for q in adaptors], rate, steps)
        # The same batches and views for every candidate, so that their scores differ by the block alone.
        source = generator(self.experiment.seed, "scoring-views")
        draws = [
            mimic.batches(
                len(images), self.settings.batch, generator(self.experiment.seed, f"scoring-{name}"), images.device
            )
            for images, _, name in self.sets
        ]
        for _ in range(steps):
            picked = [bank.pick(next(draw), source)[1] for bank, draw in zip(self.banks, draws)]
            maps = run_pieces(tail, torch.cat([begin for begin, _ in picked]))
            loss, at = 0.0, 0
            for (_, share, _), (_, target) in zip(self.sets, picked):
                loss = loss + share * F.mse_loss(maps[at : at + len(target)], target)
                at += len(target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()


def _piece(names: list[str], place: str) -> str:
    """The piece of the chain that holds a layer."""
    return next(name for name in names if place == name or place.startswith(f"{name}."))


def adaptor_places(model: nn.Module, unit: str) -> list[tuple[str, str]]:
    """Where adaptors go when ``unit`` is dropped: [(convolution, "after" or "before")].

    Residual networks: after the last convolution of earlier blocks of the stage and after its
    downsample; before conv1 of later blocks of the stage, and before conv1 and the downsample of
    the next stage's first. MobileNetV2: after the projections of earlier blocks of the width,
    before the expansions of later ones, up to the first block of another width. VGG-16 (ours):
    after earlier convolutions of the resolution, before its later ones and the next one's first.
    """
    if isinstance(model, VGG):
        return _vgg_places(model, unit)
    if match := re.fullmatch(r"(layer)(\d)\.(\d+)", unit):
        return _residual_places(model, int(match[2]), int(match[3]))
    return _inverted_places(model, unit)


def _vgg_places(model: VGG, unit: str) -> list[tuple[str, str]]:
    at, stage, here = int(unit.split(".")[1]), 0, {}
    for index, module in enumerate(model.features):
        stage += isinstance(module, nn.MaxPool2d)
        if isinstance(module, nn.Conv2d):
            here[index] = stage
    places = [(i, "after") for i in here if here[i] == here[at] and i < at]
    places += [(i, "before") for i in here if here[i] == here[at] and i > at]
    places += [(i, "before") for i in here if here[i] == here[at] + 1][:1]
    return [(f"features.{i}", side) for i, side in places]


def _residual_places(model: nn.Module, stage: int, dropped: int) -> list[tuple[str, str]]:
    layer, following = getattr(model, f"layer{stage}"), getattr(model, f"layer{stage + 1}", None)
    places = []
    if getattr(layer[0], "downsample", None) is not None:
        places.append((f"layer{stage}.0.downsample.0", "after"))
    last = "conv3" if hasattr(layer[0], "conv3") else "conv2"
    places += [(f"layer{stage}.{i}.{last}", "after") for i in range(dropped)]
    places += [(f"layer{stage}.{i}.conv1", "before") for i in range(dropped + 1, len(layer))]
    if following is not None:
        places.append((f"layer{stage + 1}.0.conv1", "before"))
        if getattr(following[0], "downsample", None) is not None:
            places.append((f"layer{stage + 1}.0.downsample.0", "before"))
    return places


def _inverted_places(model: nn.Module, unit: str) -> list[tuple[str, str]]:
    blocks = [(name, piece) for name, piece in segments(model) if hasattr(piece, "use_res_connect")]
    names = [name for name, _ in blocks]
    at = names.index(unit)
    width, places = blocks[at][1].out_channels, []
    for name, block in reversed(blocks[:at]):
        if block.out_channels != width:
            break
        places.insert(0, (f"{name}.{_convs(block)[-1]}", "after"))
    for name, block in blocks[at + 1 :]:
        places.append((f"{name}.{_convs(block)[0]}", "before"))
        if block.out_channels != width:
            break
    return places


def _convs(block: nn.Module) -> list[str]:
    return [name for name, module in block.named_modules() if isinstance(module, nn.Conv2d)]


def insert_adaptors(model: nn.Module, places: list[tuple[str, str]]) -> list[nn.Conv2d]:
    """Put a bias-free 1x1 convolution, the identity at first, after or before each place, in place."""
    adaptors = []
    for name, side in places:
        conv = model.get_submodule(name)
        channels = conv.out_channels if side == "after" else conv.in_channels
        q = nn.Conv2d(channels, channels, 1, bias=False).to(conv.weight.device)
        nn.init.dirac_(q.weight)
        adaptors.append(q)
        parent, _, child = name.rpartition(".")
        model.get_submodule(parent).register_module(
            child, nn.Sequential(*((conv, q) if side == "after" else (q, conv)))
        )
    return adaptors


def merge_adaptor(conv: nn.Conv2d, q: nn.Conv2d, side: str) -> nn.Conv2d:
    """The one convolution that does the work of both: W' = Q W (b' = Q b) after, W' = W Q before."""
    merged, matrix = copy.deepcopy(conv), q.weight[:, :, 0, 0].double()
    with torch.no_grad():
        rule = "po,oikl->pikl" if side == "after" else "oikl,ij->ojkl"
        operands = (matrix, conv.weight.double()) if side == "after" else (conv.weight.double(), matrix)
        merged.weight.copy_(torch.einsum(rule, *operands))
        if side == "after" and conv.bias is not None:
            merged.bias.copy_(matrix @ conv.bias.double())
    return merged
