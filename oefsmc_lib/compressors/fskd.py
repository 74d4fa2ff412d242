r"""FSKD, Few Sample Knowledge Distillation (Li, Li, Liu and Zhang, CVPR 2020).

Filters are removed; then a 1x1 convolution Q_l, at first the identity, is added after each
convolution and its batch norm so that its output before the ReLU comes close to the teacher's on the
kept channels: one least-squares problem a layer, in forward order, and Q_l merges into the
convolution and the batch norm. No gradients, no labels.

With few images a deep layer gives fewer rows than it has channels. The released solution (minimum
norm) then projects onto the few directions that were seen and deletes the rest. The default here
shrinks towards the identity instead: the same where the rows suffice, and the limit of gradient
descent from Q = I where they do not.

OE-FSMC: filters by eq. (5), the least squares over both sets by eq. (7): Gram matrices add,
G = lambda G_few / M + (1 - lambda) G_aux / m.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oefsmc_lib.compressors import layerwise, plans, released, surgery, taps
from oefsmc_lib.compressors.taps import Tap
from oefsmc_lib.errors import InputError

PLENTY = 4  # rows a channel from which float32 sums are fine enough


def compress(task) -> surgery.Student:
    """Remove filters, fit every Q_l and merge it.

    ``task`` is a :class:`~oefsmc_lib.compressors.Task`. Raises :class:`InputError` for a plan of another network, and
    for activations that are not finite.

    >>> from oefsmc_lib import Experiment, pipeline
    >>> experiment = Experiment(method="fskd", num=10)
    >>> student = compress(pipeline.task_of(experiment, pipeline.prepare(experiment)))
    >>> student.model.features[0].out_channels, len(student.structure.kept["features.0"])
    (8, 8)
    """
    student = surgery.pruned_copy(task.teacher, plans.choose_filters(task))
    recover(student, task)
    return student


def recover(student: surgery.Student, task, literal_passes: bool = False) -> None:
    """Fit Q_1 ... Q_L in forward order and merge each, in place.

    ``literal_passes`` makes a full pass of both networks for every layer, as the released code does; the result is the
    same.
    """
    model, reference, kept = student.model, task.teacher.model, student.structure.kept
    order, norms = surgery.trace(reference, task.teacher.architecture)
    convolutions = fitting_order(reference, order)
    outputs = kept_outputs(reference, convolutions, kept)
    # The minimum norm asks for a Q where nothing is to mend, too.
    alike = untouched(convolutions, kept) if task.experiment.fskd.solver == "ridge" else set()
    ends = {norms.get(name, name): name for name in convolutions}  # a layer's output stands behind its batch norm
    ours, theirs = (taps.blocks_closed_by(net, list(ends)) for net in (model, reference))
    fits: dict[str, Fit | None] = dict.fromkeys(ends)
    for end, name in ends.items():
        if name not in alike:
            norm = cast(nn.BatchNorm2d, model.get_submodule(end)) if name in norms else None
            blocks = (ours.get(end), theirs.get(end))
            fits[end] = Fit(surgery.convolution(model, name), norm, blocks, task.experiment.fskd, outputs.get(name))
    images, weights = task.joined()
    layerwise.walk(model, reference, fits, images, weights, literal_passes)


def fitting_order(model: nn.Module, order: list[str]) -> list[str]:
    """Convolutions in forward ``order``, a shortcut's before the block's last: its target needs the shortcut."""
    layers = [name for name in order if isinstance(model.get_submodule(name), nn.Conv2d)]
    for closing in taps.blocks_closed_by(model, layers):
        beside = f"{closing.rpartition('.')[0]}.downsample."
        for name in [layer for layer in layers if layer.startswith(beside)]:
            layers.remove(name)
            layers.insert(layers.index(closing), name)
    return layers


def untouched(layers: list[str], kept: dict[str, list[int]]) -> set[str]:
    """Layers up to the first that lost filters: their inputs and the filters they have are the teacher's, so Q = I."""
    first = next((at for at, name in enumerate(layers) if name in kept), len(layers))
    return set(layers[: first + 1])


def kept_outputs(model: nn.Module, layers: list[str], kept: dict[str, list[int]]) -> dict[str, list[int]]:
    """Kept channels of every convolution's output: a depthwise one keeps those of its input."""
    outputs, previous = dict(kept), ""
    for name in layers:
        if surgery.convolution(model, name).groups > 1 and previous in outputs:
            outputs[name] = outputs[previous]
        previous = name
    return outputs


class Fit:
    """The least-squares problem of one layer: collects rows, solves for Q, merges it.

    ``blocks`` are the residual blocks of student and teacher that close with this layer, or None. ``channels`` are
    those of the teacher's output that the student kept.
    """

    def __init__(
        self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, blocks, settings, channels: list[int] | None = None
    ):
        self.conv, self.norm, self.settings, self.channels = conv, norm, settings, channels
        self.shortcuts: list[Any] = [] if None in blocks else [taps.shortcut(block) for block in blocks]
        self.gram: Any = 0.0  # F_S^T F_S and F_S^T (F_T - F_S), or their diagonals, once images are added
        self.cross: Any = 0.0
        self.rows: list[tuple[Tensor, Tensor]] = []

    def add(self, student: Tap, teacher: Tap, weights: Tensor) -> None:
        """Outputs (N, C', H, W) of the student's layer and the same channels of the teacher's, which are used up."""
        target = teacher.output
        if self.shortcuts:
            ours, theirs = self.shortcuts
            # The block's output is matched: what the shortcut lacks, the branch makes up for.
            target = target + (theirs(teacher.around) - ours(student.around))
        rest = target.sub_(student.output)  # in place, since a new map would cost as much again
        f_s, rest = (maps.permute(0, 2, 3, 1).flatten(0, 2) for maps in (student.output, rest))
        share = weights.repeat_interleave(len(f_s) // len(weights))[:, None]
        if self.settings.solver == "minnorm" or (self.settings.rho == 0 and self.conv.groups == 1):
            self.rows.append((f_s * share.sqrt(), rest * share.sqrt()))
            return
        if len(f_s) < PLENTY * f_s.shape[1]:  # with few rows the ridge is all that bounds Q, so nothing may be rounded
            f_s, rest, share = f_s.double(), rest.double(), share.double()
        weighted = f_s * share
        if self.conv.groups > 1:
            self.gram = self.gram + (weighted * f_s).sum(0)
            self.cross = self.cross + (weighted * rest).sum(0)
        else:
            self.gram = self.gram + (weighted.T @ f_s).double()
            self.cross = self.cross + (weighted.T @ rest).double()

    def finish(self):
        """Solve for Q (C', C'), or its diagonal for a depthwise layer, and merge it; returns the layer's new output."""
        q = self.solve()
        surgery.merge(q, self.conv, self.norm)
        if q.dim() == 1:  # a full Q would not merge into a depthwise layer
            return lambda x, y: y * q.view(1, -1, 1, 1)
        return lambda x, y: F.conv2d(y, q[:, :, None, None])

    def solve(self) -> Tensor:
        """Q = I + Z^T with Z = argmin ||F_S Z - (F_T - F_S)||^2 + rho ||Z||^2; or the released minimum norm.

        Raises :class:`InputError` where the solution holds NaN or infinity.
        """
        depthwise, rho, weight = self.conv.groups > 1, self.settings.rho, self.conv.weight
        identity = torch.eye(self.conv.out_channels, dtype=torch.float64, device=weight.device)
        if self.settings.solver == "minnorm":
            f_s, rest = (torch.cat(parts) for parts in zip(*self.rows))
            q = released.minimum_norm(f_s, f_s + rest, depthwise)
        elif depthwise:
            q = 1 + self.cross / (self.gram + rho * self.gram.mean()).clamp_min(1e-12)
        elif self.rows:  # rho = 0: without squaring the condition number
            f_s, rest = (torch.cat(parts).double().cpu() for parts in zip(*self.rows))
            q = identity + torch.linalg.lstsq(f_s, rest, driver="gelsd").solution.to(identity).T
        else:
            ridge = rho * self.gram.diagonal().mean().clamp_min(1e-30)
            q = identity + torch.linalg.solve(self.gram + ridge * identity, self.cross).T
        if not torch.isfinite(q).all():
            raise InputError("FSKD met activations that are not finite; check the teacher's weights and the images.")
        return q.to(weight)
