"""MiR, Mimicking then Replacing (Wang, Liu, Ma, Yong, Chai and Wu, CVPR 2022).

Filters are removed, all but the last layer's; the student's backbone is trained until its map before
the pooling equals the teacher's (:mod:`oefsmc_lib.compressors.mimic`); the teacher's head stays on top.
No labels. The authors' code was never released: positions, optimiser and schedule are those of
PRACTISE's implementation, the length is counted in iterations.

OE-FSMC: the loss over both sets by eq. (7).
"""

from oefsmc_lib.compressors import plans, surgery
from oefsmc_lib.compressors.mimic import mimic


def compress(task) -> surgery.Student:
    """Remove filters, mimic; ``notes["loss"]`` has the loss of every step.

    ``task`` is a :class:`~oefsmc_lib.compressors.Task`. Raises :class:`InputError` for a plan that changes the map
    that is matched, and for a loss that is not finite.

    >>> from oefsmc_lib import Experiment, pipeline
    >>> experiment = Experiment(method="mir", num=10, mir={"iterations": 2})  # the release's length is 2,000
    >>> student = compress(pipeline.task_of(experiment, pipeline.prepare(experiment)))
    >>> student.model.features[0].out_channels, len(student.notes["loss"])
    (8, 2)
    """
    student = surgery.pruned_copy(task.teacher, plans.choose_filters(task))
    student.notes |= mimic(student.model, task, task.experiment.mir)
    return student
