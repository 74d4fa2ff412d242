r"""Bridges: how PRACTISE's students start in a plain network (this package's own, ``practise.start=bridge``).

In a residual network the shortcut carries what a dropped block did not change. In a plain network nothing does, and
without one of its convolutions VGG-16 is mostly wrong. A bridge is a 1x1 convolution Q in place of the dropped units.
It is fitted as FSKD's Q is (:class:`~oefsmc_lib.compressors.fskd.Fit`), from what the next layer reads in the student
to what it reads in the teacher, by ridge regression towards the identity over the images of eq. (7):

    Q = I + Z^T,    Z = argmin ||X_S Z - (X_T - X_S)||^2 + rho ||Z||^2

It is linear, so it merges exactly into the next layer, W' = W Q, and costs nothing. A candidate is scored behind its
own bridge, without any training.
"""

import copy

import torch
from torch import Tensor, nn

from oefsmc_lib.compressors import fskd, layerwise, surgery
from oefsmc_lib.compressors.taps import Tap
from oefsmc_lib.parameters.sections import Fskd
from oefsmc_lib.teacher.networks import run_pieces, segments

FOLDS = 5  # parts of the images, of which each is judged behind bridges that were fitted to the others


class Bridge(fskd.Fit):
    """The bridge before ``reader``, the first layer behind one or more dropped units."""

    def __init__(self, reader: nn.Conv2d):
        channels = reader.in_channels
        like = nn.Conv2d(channels, channels, 1, bias=False, device=reader.weight.device)
        super().__init__(like, None, (None, None), Fskd())
        self.reader = reader

    def add(self, student: Tap, teacher: Tap, weights: Tensor) -> None:
        """What the reader gets in both networks, (N, C, H, W), and the images' weights."""
        super().add(Tap(student.input, student.input), Tap(teacher.input, teacher.input.clone()), weights)

    def finish(self):
        """Solve for Q and merge it into the reader; returns the reader's new output."""
        weight, q = self.reader.weight, self.solve()
        weight.copy_(torch.einsum("oikl,ij->ojkl", weight.double(), q.double()))
        return lambda x, _y: self.reader.forward(x)


def readers(dropped: list[str], layers: list[str]) -> list[str]:
    """The first layer that stays behind each dropped unit, in forward order, each once."""
    found = [next(name for name in layers[layers.index(unit) + 1 :] if name not in dropped) for unit in dropped]
    return list(dict.fromkeys(found))


@torch.no_grad()
def bridged(task, dropped: list[str]) -> nn.Module:
    """The teacher without these units, with a bridge over each gap; gaps are bridged in forward order."""
    teacher = task.teacher
    layers = surgery.weight_layers(teacher.model, teacher.architecture)
    model = copy.deepcopy(teacher.model).requires_grad_(False)
    surgery.drop_units(model, dropped)
    fits = {name: Bridge(surgery.convolution(model, name)) for name in readers(dropped, layers)}
    images, weights = task.joined()
    layerwise.walk(model, teacher.model, fits, images, weights)
    return model


@torch.no_grad()
def errors(task, units: list[str], judged: Tensor) -> dict[str, Tensor]:
    """Each unit's squared error of the last map behind its bridge, a mean for every image of ``judged`` (N,).

    ``judged`` are the images of D_few, or of D_few and D_aux.

    With few images a bridge fits what it was fitted to whichever unit is missing. So an image is judged behind a bridge
    that was fitted without its fifth of the images. Where a single unit is missing, the student's maps before it are
    the teacher's: one pass of the teacher, carried on from unit to unit, serves all of them.
    """
    teacher, pieces = task.teacher, segments(task.teacher.model)
    names, layers = [name for name, _ in pieces], surgery.weight_layers(teacher.model, teacher.architecture)
    images, weights = task.joined()
    folds = torch.cat([torch.arange(len(s)) % FOLDS for s, _, _ in task.sets()]).to(images.device)
    # D_aux stands first among the OOD images of eq. (7), so image i of the one is image i of the other.
    own = torch.cat([torch.arange(count) % FOLDS for count in (len(task.few), len(judged) - len(task.few))])
    judged_folds, target, at, found = own.to(images.device), run_pieces(pieces, judged), 0, {}
    for unit in units:
        start, end = names.index(unit), names.index(readers([unit], layers)[0])
        before, gap, behind = pieces[at:start], pieces[start + 3 : end], pieces[end + 1 :]
        images, judged, at = run_pieces(before, images), run_pieces(before, judged), start
        ours, theirs = run_pieces(gap, images), run_pieces(pieces[start:end], images)
        crossing = run_pieces(gap, judged)
        parts = [Bridge(copy.deepcopy(surgery.convolution(teacher.model, names[end]))) for _ in range(FOLDS)]
        for fold, part in enumerate(parts):
            inside = folds == fold
            if inside.any():  # of fewer than five images some folds are empty
                part.add(Tap(ours[inside], ours[inside]), Tap(theirs[inside], theirs[inside]), weights[inside])
        gram, cross = (sum(getattr(part, name) for part in parts) for name in ("gram", "cross"))
        found[unit] = torch.empty(len(judged), device=images.device)
        for fold, part in enumerate(parts):
            inside = judged_folds == fold
            part.gram, part.cross = gram - part.gram, cross - part.cross
            maps = run_pieces(behind, part.finish()(crossing[inside], None))
            found[unit][inside] = (maps - target[inside]).square().flatten(1).mean(1)
    return found
