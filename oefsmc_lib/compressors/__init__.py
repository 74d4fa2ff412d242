"""The four compressors, and what they are made of. Adding one is a module with ``compress`` and a line in ``REGISTRY``.

    compress(task, once) -> Student

A :class:`Task` is everything that a compressor is given. ``once(name, make)`` is ``make()``, computed
once for all runs that train alike (the stage ``training`` of :mod:`oefsmc_lib.parameters.keys`); ``name``
says what, and has all that it depends on besides. Only PRACTISE has such a part. The teacher is never
changed. :mod:`importance`, :mod:`plans` and :mod:`surgery` prune; :mod:`layerwise`, :mod:`losses` and :mod:`mimic` recover.
May import: ``parameters``, ``images``, ``teacher``. Notebooks 02 and 04 use it.
"""

from dataclasses import dataclass
from importlib import import_module

from torch import Tensor

from oefsmc_lib.images.fewshot import Samples
from oefsmc_lib.parameters.experiment import Experiment

REGISTRY = {
    "fskd": "oefsmc_lib.compressors.fskd",
    "cd": "oefsmc_lib.compressors.cd",
    "mir": "oefsmc_lib.compressors.mir",
    "practise": "oefsmc_lib.compressors.practise",
}


@dataclass(frozen=True)
class Task:
    """What a compressor is given: images are normalised float32 (N, C, H, W) on the teacher's device."""

    teacher: object  # a teachers.Teacher
    few: Samples
    experiment: Experiment
    aux: Samples | None = None  # D_aux with its labels, which eq. 5 may read
    recovery: Tensor | None = None  # the OOD images of eq. 7; None: the few images alone
    w: Tensor | None = None  # w_j of eq. 6 (K,); None: the compressor's own importance
    pool: Tensor | None = None  # every pool image, for contribution=evidence


def alone(_name, make):
    """The ``once`` of a run that shares nothing."""
    return make()


def compress(task: Task, once=alone):
    """Run the experiment's method; see the module of that name."""
    return import_module(REGISTRY[task.experiment.method]).compress(task, once)
