"""MiR, Mimicking then Replacing (Wang, Liu, Ma, Yong, Chai and Wu, CVPR 2022).

Filters are removed, all but the last layer's; the student's backbone is trained until its map before
the pooling equals the teacher's (:mod:`oefsmc_lib.compressors.mimic`); the teacher's head stays on top.
No labels. The authors' code was never released: positions, optimiser and schedule are those of
PRACTISE's implementation, the length is counted in iterations.

OE-FSMC: the loss over both sets by eq. (7). ||W||_1 looks at no image, so eq. (5) leaves it as it is.
"""

from oefsmc_lib.compressors import importance, plans, surgery
from oefsmc_lib.compressors.mimic import mimic


def compress(task, _once=None) -> surgery.Student:
    """Remove filters, mimic; ``notes["loss"]`` has the loss of every step."""
    teacher, experiment = task.teacher, task.experiment
    widths = plans.plan_widths(experiment.resolved_plan, teacher.model, teacher.architecture)
    layers = surgery.weight_layers(teacher.model, teacher.architecture)
    readers = {name: surgery.consumer(layers, teacher.model, name) for name in widths}
    kept = importance.choose_filters(task, widths, readers)
    student = surgery.pruned_copy(teacher, kept)
    student.notes["loss"] = mimic(student.model, task, experiment.mir)
    return student
