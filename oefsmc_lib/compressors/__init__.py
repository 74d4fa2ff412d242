"""The four compressors, and what they are made of.

:mod:`fskd`, :mod:`cd`, :mod:`mir` and :mod:`practise` have one function each, ``compress(task) -> Student``, and
never change the teacher. :mod:`importance`, :mod:`plans` and :mod:`surgery` prune; :mod:`layerwise`, :mod:`taps`,
:mod:`losses` and :mod:`mimic` recover. :mod:`released` has the slow procedures of the authors' code, :mod:`chunks`
serves sets that do not fit in memory. A fifth compressor is one more module and its line in ``REGISTRY``.
May import: ``parameters``, ``images``, ``teacher``. Notebooks 02 and 04 use it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor

from oefsmc_lib.compressors.watch import Watch
from oefsmc_lib.images.fewshot import Samples
from oefsmc_lib.parameters.experiment import Experiment
from oefsmc_lib.teacher.teachers import Teacher

REGISTRY = {name: f"oefsmc_lib.compressors.{name}" for name in ("fskd", "cd", "mir", "practise")}


@dataclass(frozen=True)
class Task:
    """What a compressor is given. Images are normalised float32 (N, C, H, W) on the teacher's device.

    ``once(name, make)`` is ``make()``, computed once for all runs that train alike (the stage ``training`` of
    :mod:`oefsmc_lib.parameters.keys`); ``name`` has all that the result depends on besides. PRACTISE alone uses it.
    """

    teacher: Teacher
    few: Samples
    experiment: Experiment
    aux: Samples | None = None  # D_aux with its labels, which eq. 5 may read
    recovery: Tensor | None = None  # the OOD images of eq. 7; None: the few images alone
    w: Tensor | None = None  # w_j of eq. 6 (K,); None: the compressor's own importance
    pool: Tensor | None = None  # every pool image, for contribution=evidence
    watch: Watch | None = None  # the watch set, for trainings that stop by it
    widths: dict[str, int] | None = None  # {convolution: kept output channels} in place of the experiment's plan
    once: Callable = lambda _name, make: make()  # by default nothing is shared with other runs

    def sets(self) -> list[tuple[Tensor, float, str]]:
        """The sets that eq. (7) reads: (images, share lambda or 1 - lambda, name). One of share 0 is not forwarded."""
        few, lam = self.few.images, self.experiment.lam
        if self.recovery is None:
            return [(few, 1.0, "few")]
        return [each for each in ((few, lam, "few"), (self.recovery, 1 - lam, "aux")) if each[1] > 0]

    def joined(self) -> tuple[Tensor, Tensor]:
        """Eq. (7) as one set: all images, and each one's weight (N,), lambda/M or (1 - lambda)/m; they sum to 1."""
        sets = self.sets()
        weights = torch.cat([torch.full((len(images),), share / len(images)) for images, share, _ in sets])
        images = torch.cat([images for images, _, _ in sets]) if len(sets) > 1 else sets[0][0]
        return images, weights.to(images)


def compress(task: Task):
    """Run the experiment's compressor; see the ``compress`` of its module."""
    return import_module(REGISTRY[task.experiment.method]).compress(task)
