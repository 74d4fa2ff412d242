"""Views of images with what a network makes of them: drawn once and kept, or fresh at each step.

Drawing views from a bank of R views an image is training with R-view finite augmentation. MiR and PRACTISE are faster
with it, because the teacher's outputs are computed once. ``views=0`` draws a fresh view and runs the teacher at each
step, as the released code does; so does a set of which not even two views an image fit into ``BANK_BYTES``.
"""

import torch
from torch import Tensor

from oefsmc_lib.images.fewshot import generator
from oefsmc_lib.images.views import BANK_BYTES, augment


class Bank:
    """R views of each image with what ``look`` makes of them: tensors (R, N, ...), made once."""

    def __init__(self, images: Tensor, kind: str, views: int, look, source: torch.Generator):
        self.images = torch.stack([augment(images, kind, source) for _ in range(views)])
        parts = [look(part) for part in self.images.flatten(0, 1).split(64)]
        self.made = [torch.cat(tensors).unflatten(0, (views, len(images))) for tensors in zip(*parts)]

    def pick(self, index: Tensor, source: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        """One random view of each image in ``index``: views (n, C, H, W) and what was made of them."""
        view = torch.randint(0, len(self.images), (len(index),), generator=source).to(index.device)
        return _laid_out(self.images[view, index]), [_laid_out(made[view, index]) for made in self.made]


def _laid_out(picked: Tensor) -> Tensor:
    """Maps in the layout of the networks; picking loses it."""
    return picked.contiguous(memory_format=torch.channels_last) if picked.dim() == 4 else picked


def views_that_fit(images: Tensor, kind: str, views: int, look) -> int:
    """Views of each image for a bank of at most ``BANK_BYTES``; 0 where that is no bank: fewer than two, or not all.

    Without augmentation an image has one view.
    """
    bytes_a_view = sum(t.numel() * t.element_size() for t in (images[:1], *look(images[:1]))) * len(images)
    room = BANK_BYTES // bytes_a_view
    if kind == "none":
        return min(1, room)
    return min(views, room) if room >= min(views, 2) else 0


class Fresh:
    """The literal counterpart of :class:`Bank`: a new view and a new teacher pass at each step."""

    def __init__(self, images: Tensor, kind: str, look):
        self.source_images, self.kind, self.look = images, kind, look

    def pick(self, index: Tensor, source: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        views = _laid_out(augment(self.source_images[index], self.kind, source))
        return views, list(self.look(views))


def views_of(images: Tensor, experiment, settings, look, purpose: str, steps: int):
    """A bank of views, or fresh ones where ``settings.views`` is 0 or the images are too many for a bank.

    Where ``steps`` draw fewer views than the bank would hold, the teacher sees fewer images without one.
    """
    views = settings.views and views_that_fit(images, experiment.augment, settings.views, look)
    seen = steps * min(settings.batch, len(images))
    if not views or (seen < views * len(images) and experiment.augment != "none"):
        return Fresh(images, experiment.augment, look)
    return Bank(images, experiment.augment, views, look, generator(experiment.seed, purpose))
