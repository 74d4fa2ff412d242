r"""CD, Cross Distillation (Bai, Wu, King and Lyu, AAAI 2020).

Input channels of convolutions are removed, layer by layer in forward order. With X_T and X_S the
layer's inputs in teacher and student and W_T the teacher's weight, the student's W minimises

    mu ||W * X_T - W_T * X_T||^2  +  (1 - mu) ||W * X_S - W_T * X_S||^2        (correction, imitation)

on the convolution's output, while the input channels of smallest group norm ||W[:, i]||_F are set to
zero on a schedule. ``solver=exact``: on a fixed set of channels this is least squares, with a closed
form; the schedule becomes a few milestones, between which channels leave by the block form of
Optimal Brain Surgeon. ``solver=adam``: the released procedure, 3,000 Adam steps a layer.

OE-FSMC: both sets by eq. (7): rows are scaled by sqrt(lambda / M) and sqrt((1 - lambda) / m). With
``contribution=activation`` or ``evidence`` channels go by g_i sqrt(E_w[|X_i|^2]), the class-weighted
share of the output.

Differs from the release: batch norms in eval mode by default (``cd.bn=train`` is the release's VGG
script), kept channels chosen by position (the release loses one now and then to rounding), and the
dead filters are cut out instead of zeroed.
"""

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oefsmc_lib.compressors import criteria, importance, layerwise, plans, released, surgery
from oefsmc_lib.compressors.squares import Dual, Primal
from oefsmc_lib.compressors.taps import Tap
from oefsmc_lib.errors import InputError
from oefsmc_lib.teacher.networks import VGG

ROWS_AT_ONCE = 16_384
FINE = 1e-4  # below this ridge, float32 sums are too coarse


def compress(task) -> surgery.Student:
    """Fit and prune every layer of the plan, then cut out the filters that nothing reads any more.

    ``task`` is a :class:`~oefsmc_lib.compressors.Task`. Raises :class:`InputError` for a plan that prunes two inputs of
    one layer, and for activations that are not finite.

    >>> from oefsmc_lib import Experiment, pipeline
    >>> experiment = Experiment(method="cd", num=10)
    >>> student = compress(pipeline.task_of(experiment, pipeline.prepare(experiment)))
    >>> student.model.features[3].in_channels, len(student.structure.kept["features.0"])
    (8, 8)
    """
    teacher, experiment = task.teacher, task.experiment
    widths, readers = plans.pruned_layers(task)
    producers = {reader: producer for producer, reader in readers.items()}
    if len(producers) < len(readers):
        raise InputError(
            f"The plan {experiment.resolved_plan!r} prunes two inputs of one layer of "
            f"{teacher.architecture.name}, which CD cannot fit; use method=fskd or mir."
        )
    train = experiment.cd.bn == "train"
    model = copy.deepcopy(teacher.model).requires_grad_(False).train(train)
    reference = copy.deepcopy(teacher.model).train() if train else teacher.model.eval()
    images, shares = task.joined()
    mu = experiment.cd.mu if experiment.cd.mu is not None else 0.6 if isinstance(model, VGG) else 0.9
    settings = experiment.cd.model_copy(update={"rho": experiment.cd_rho, "mu": mu})
    weights = channel_weights(task, readers)
    fits = {
        name: Fit(surgery.convolution(model, name), widths[producer], weights[producer], len(images), settings)
        for name, producer in producers.items()
    }
    layerwise.walk(model, reference, fits, images, shares, whole_passes=train)
    kept = {producer: fits[name].kept for name, producer in producers.items()}
    surgery.remove_channels(model.eval(), kept, teacher.architecture)
    return surgery.Student(model, surgery.Structure(teacher.architecture, kept=kept))


def channel_weights(task, readers) -> dict[str, Tensor | None]:
    """What a channel's group norm is multiplied by: sqrt(E_w[|X_i|^2]) of eq. (5), or None for CD's own rule."""
    if task.w is None:
        return dict.fromkeys(readers)
    scores = criteria.class_aware_scores(task, readers, power=2)
    squares = task.experiment.contribution in ("activation", "evidence", "evidence_max")
    return {name: score.clamp_min(0).sqrt() if squares else score for name, score in scores.items()}


def patches(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    """im2col: (N, Ci, H, W) -> P(X)^T (Ci k k, N H'W'), rows grouped by input channel; a linear layer's is X^T."""
    if isinstance(layer, nn.Linear):
        return x.T
    padding = cast(tuple[int, int], layer.padding)
    return F.unfold(x, layer.kernel_size, layer.dilation, padding, layer.stride).transpose(0, 1).flatten(1)


class Fit:
    """One layer: collects A = [sqrt(mu) P(X_T); sqrt(1 - mu) P(X_S)], as A^T, or A^T A; then prunes and solves.

    ``settings`` are those of CD with ``rho`` and ``mu`` resolved; ``images`` is how many there are in all. After
    :meth:`finish`, ``kept`` has the input channels that are left.
    """

    channels: list[int] | None = None  # every channel of the teacher's output is asked for

    def __init__(self, layer: nn.Conv2d | nn.Linear, keep: int, weight: Tensor | None, images: int, settings):
        self.layer, self.keep, self.weight, self.images, self.settings = layer, keep, weight, images, settings
        self.rows: list[Tensor] = []
        self.gram: Tensor | None = None
        self.taps: list[tuple[Tensor, Tensor, Tensor]] = []
        self.kept: list[int] = []

    def add(self, student: Tap, teacher: Tap, weights: Tensor) -> None:
        """Inputs (N, Ci, H, W) of both networks' layer and the images' weights."""
        if self.settings.solver == "adam":
            self.taps.append((student.input.clone(), teacher.input.clone(), weights))
            return
        mu, places = self.settings.mu, teacher.output.shape[2:].numel()  # H'W', 1 for a linear layer
        parts = [(x, part) for x, part in ((teacher.input, mu), (student.input, 1 - mu)) if part > 0]
        few_rows = 2 * len(parts) * self.images * places < self.layer.weight[0].numel()
        for x, part in parts:
            x = x * (part * weights).sqrt().view(-1, *[1] * (x.dim() - 1))
            for images in x.split(max(1, ROWS_AT_ONCE // places)):
                a = patches(self.layer, images)
                a = a.double() if self.settings.rho < FINE else a
                if few_rows:
                    self.rows.append(a)
                else:
                    self.gram = a @ a.T if self.gram is None else self.gram.addmm_(a, a.T)

    def finish(self):
        """Write the fitted weight with its pruned inputs at zero; returns the layer's new output."""
        before = self.layer.weight.detach().clone()
        if self.settings.solver == "adam":
            weight, self.kept = released.cd_by_adam(self.layer, self.taps, self.keep, self.weight, self.settings)
        else:
            teacher = before.flatten(1).T.double()  # (Ci k k, Co)
            size = before[0, 0].numel() if before.dim() == 4 else 1
            system = Dual(torch.cat(self.rows, 1)) if self.gram is None else Primal(self.gram)
            solved, self.kept = prune(teacher, system, size, self.keep, self.weight, self.settings)
            weight = solved.T.reshape(before.shape).to(before)
        self.layer.weight.copy_(weight)
        # Called on the module itself, the layer would run its hooks again.
        return lambda x, _y: self.layer.forward(x)


def schedule(channels: int, keep: int, milestones: int) -> list[int]:
    """Kept channels at each milestone: the release's linear descent from all to ``keep``, at even distances."""
    return [int((channels - keep) * (1 - step / milestones)) + keep for step in range(1, milestones + 1)]


def group_scores(weight: Tensor, size: int, channel_weight: Tensor | None) -> Tensor:
    """||W[:, i]||_F, times the class-weighted root mean square of the input: (Ci,). ``weight`` is (Ci k k, Co)."""
    norms = weight.unflatten(0, (-1, size)).flatten(1).norm(dim=1)
    return norms if channel_weight is None else norms * channel_weight.to(norms)


def prune(
    teacher: Tensor, system: Primal | Dual, size: int, keep: int, channel_weight: Tensor | None, settings
) -> tuple[Tensor, list[int]]:
    """Milestones of {solve on the channels left; drop the weakest}, then the exact solution on the kept set.

    ``teacher`` is W_T (Ci k k, Co) in float64 and ``size`` k k. Returns the full weight with zeros, and the kept
    channels. Raises :class:`InputError` for numbers that are not finite.
    """
    if not torch.isfinite(system.numbers).all():
        raise InputError("CD met activations that are not finite; check the teacher's weights and the images.")
    ridge = settings.rho * system.mean_diagonal
    # Along the path a ridge is needed even where the solution has none.
    system.start(teacher, max(ridge, 1e-9 * system.mean_diagonal, 1e-30))
    channels, inside = len(teacher) // size, torch.arange(size, device=teacher.device)
    left = torch.arange(channels, device=teacher.device)
    for count in schedule(channels, keep, settings.milestones):
        if count == len(left):
            continue
        scores = group_scores(system.weight, size, None if channel_weight is None else channel_weight[left])
        chosen = torch.tensor(importance.top_channels(scores, count), device=left.device)
        system.keep((chosen[:, None] * size + inside).flatten())
        left = left[chosen]
    weight = torch.zeros_like(teacher)
    columns = (left[:, None] * size + inside).flatten()
    # With nothing removed the teacher's weight is optimal.
    weight[columns] = teacher if keep == channels else system.solve(columns, teacher, ridge)
    return weight, left.tolist()
