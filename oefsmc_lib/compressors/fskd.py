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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oefsmc_lib.compressors import importance, layerwise, losses, plans, surgery
from oefsmc_lib.errors import InputError

PLENTY = 4  # rows a channel from which float32 sums are fine enough


def compress(task, _once=None) -> surgery.Student:
    """Remove filters, fit and merge every Q_l. See the module's text."""
    teacher, experiment = task.teacher, task.experiment
    widths = plans.plan_widths(experiment.resolved_plan, teacher.model, teacher.architecture)
    layers = surgery.weight_layers(teacher.model, teacher.architecture)
    readers = {name: surgery.consumer(layers, teacher.model, name) for name in widths}
    kept = importance.choose_filters(task, widths, readers)
    student = surgery.pruned_copy(teacher, kept)
    recover(student, task)
    return student


def recover(student: surgery.Student, task, literal_passes: bool = False) -> None:
    """Fit Q_1 ... Q_L in forward order and merge each, in place.

    ``literal_passes`` makes a full pass of both networks a layer, as the released code does; the
    result is the same.
    """
    teacher, experiment = task.teacher, task.experiment
    model, reference = student.model, teacher.model
    order, norms = surgery.trace(reference, teacher.architecture)
    convolutions = fitting_order(reference, order)
    # Where a layer's output stands: behind its batch norm, if it has one.
    ends = {norms.get(name, name): name for name in convolutions}
    images, weights = joined(task)
    outputs = kept_outputs(reference, convolutions, student.structure.kept)
    closing = [layerwise.blocks_closed_by(net, list(ends)) for net in (model, reference)]

    def start(end):
        name = ends[end]
        norm = model.get_submodule(norms[name]) if name in norms else None
        return Fit(model.get_submodule(name), norm, [blocks.get(end) for blocks in closing], experiment.fskd)

    wanted = {end: outputs[name] for end, name in ends.items() if name in outputs}
    # The minimum norm asks for a Q where nothing is to mend, too.
    alike = untouched(convolutions, student.structure.kept) if experiment.fskd.solver == "ridge" else set()
    settled = {end for end, name in ends.items() if name in alike}
    layerwise.walk(model, reference, list(ends), images, weights, start, literal_passes, wanted, settled)


def joined(task) -> tuple[Tensor, Tensor]:
    """Images of both sets and their weights by eq. (7); a set of weight 0 is not forwarded at all."""
    few, ood, lam = task.few.images, task.recovery, task.experiment.lam
    if ood is None or lam == 1:
        return few, losses.image_weights(len(few), 0, 1.0).to(few)
    if lam == 0:
        return ood, losses.image_weights(0, len(ood), 0.0).to(few)
    return torch.cat([few, ood]), losses.image_weights(len(few), len(ood), lam).to(few)


def fitting_order(model: nn.Module, order: list[str]) -> list[str]:
    """Convolutions in forward ``order``, a shortcut's before the block's last: its target needs the shortcut."""
    layers = [name for name in order if isinstance(model.get_submodule(name), nn.Conv2d)]
    for closing, block in layerwise.blocks_closed_by(model, layers).items():
        inside = (
            {f"{closing.rpartition('.')[0]}.downsample"} if getattr(block, "downsample", None) is not None else set()
        )
        for name in [layer for layer in layers if layer.rpartition(".")[0] in inside]:
            layers.remove(name)
            layers.insert(layers.index(closing), name)
    return layers


def untouched(layers: list[str], kept: dict[str, list[int]]) -> set[str]:
    """Layers up to the first that lost filters: their inputs and the filters they have are the teacher's, so Q = I."""
    first = next((at for at, name in enumerate(layers) if name in kept), len(layers))
    return set(layers[: first + 1])


def kept_outputs(model: nn.Module, layers: list[str], kept: dict[str, list[int]]) -> dict[str, list[int]]:
    """Kept channels of every convolution's output: a depthwise one keeps those of its input."""
    outputs, previous = dict(kept), None
    for name in layers:
        if model.get_submodule(name).groups > 1 and previous in outputs:
            outputs[name] = outputs[previous]
        previous = name
    return outputs


class Fit:
    """The least-squares problem of one layer: collects rows, solves for Q, merges it."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, blocks, settings):
        self.conv, self.norm, self.settings = conv, norm, settings
        self.student_block, self.teacher_block = blocks
        self.gram = self.cross = 0.0
        self.rows: list[tuple[Tensor, Tensor]] = []

    def add(self, student: layerwise.Tap, teacher: layerwise.Tap, weights: Tensor) -> None:
        """Outputs (N, C', H, W) of the student's layer against the same channels of the teacher's, which are used up."""
        target = teacher.output
        if self.student_block is not None:
            # The block's output is matched: what the shortcut lacks, the branch makes up for.
            target = target + (
                layerwise.shortcut(self.teacher_block, teacher.around)
                - layerwise.shortcut(self.student_block, student.around)
            )
        rest = target.sub_(student.output)  # in place: a new map costs as much again
        f_s, rest = (maps.permute(0, 2, 3, 1).flatten(0, 2) for maps in (student.output, rest))
        share = weights.repeat_interleave(len(f_s) // len(weights))[:, None]
        if self.settings.solver == "minnorm" or self.settings.rho == 0 and self.conv.groups == 1:
            self.rows.append((f_s * share.sqrt(), rest * share.sqrt()))
            return
        if len(f_s) < PLENTY * f_s.shape[1]:  # few rows: the ridge is all that bounds Q, so no rounding
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
        if not torch.isfinite(q).all():
            raise InputError("FSKD met activations that are not finite; check the teacher's weights and the images.")
        surgery.merge(q, self.conv, self.norm)
        if q.dim() == 1:  # a full Q would not merge into a depthwise layer
            return lambda x, y: y * q.view(1, -1, 1, 1)
        return lambda x, y: F.conv2d(y, q[:, :, None, None])

    def solve(self) -> Tensor:
        """Q = I + Z^T with Z = argmin ||F_S Z - (F_T - F_S)||^2 + rho ||Z||^2; or the literal minimum norm."""
        if self.settings.solver == "minnorm":
            f_s, rest = (torch.cat(parts) for parts in zip(*self.rows))
            f_t = f_s + rest
            if self.conv.groups > 1:
                return (f_s * f_t).sum(0) / (f_s * f_s).sum(0).clamp_min(1e-12)
            # LAPACK's minimum-norm driver exists on the CPU only.
            return torch.linalg.lstsq(f_s.cpu(), f_t.cpu(), driver="gelsd").solution.T.to(f_s)
        if self.conv.groups > 1:
            ridge = self.settings.rho * self.gram.mean()
            return (1 + self.cross / (self.gram + ridge).clamp_min(1e-12)).to(self.conv.weight)
        identity = torch.eye(self.conv.out_channels, dtype=torch.float64, device=self.conv.weight.device)
        if self.rows:  # rho = 0: without squaring the condition number
            f_s, rest = (torch.cat(parts).double().cpu() for parts in zip(*self.rows))
            z = torch.linalg.lstsq(f_s, rest, driver="gelsd").solution.to(identity)
        else:
            ridge = self.settings.rho * self.gram.diagonal().mean().clamp_min(1e-30)
            z = torch.linalg.solve(self.gram + ridge * identity, self.cross)
        return (identity + z.T).to(self.conv.weight)
