"""What a finished student is worth: accuracy on test images, once, and its cost."""

import torch
from torch import Tensor, nn

from oefsmc_lib.images.fewshot import groups
from oefsmc_lib.teacher import cost as network_cost
from oefsmc_lib.teacher.latency import milliseconds


def scores(guessed: Tensor, labels: Tensor, counts: list[int]) -> dict:
    """Percent: top-1, balanced accuracy (mean recall), recall by class, and by group of D_few's counts."""
    classes = len(counts)
    right = torch.bincount(labels[guessed == labels], minlength=classes).double()
    total = torch.bincount(labels, minlength=classes).double()
    recall = 100 * right / total.clamp_min(1)
    found = {
        "top1": float(100 * right.sum() / total.sum()),
        "balanced_accuracy": float(recall[total > 0].mean()),
        "per_class": [round(r, 4) if n else None for r, n in zip(recall.tolist(), total.tolist())],
    }
    member = groups(counts)
    for group in ("head", "tail", "absent"):
        inside = torch.tensor([kind == group for kind in member])
        tested = float(total[inside].sum())
        found[f"{group}_accuracy"] = float(100 * right[inside].sum() / tested) if tested else None
    return found


def cost(student_model: nn.Module, teacher, structure) -> dict:
    """MACs and parameters with their cuts against the teacher in percent, and bytes."""
    architecture = structure.architecture
    found: dict[str, float] = {
        "macs": network_cost.macs(student_model, architecture),
        "params": network_cost.parameters(student_model),
        "file_size": network_cost.file_size(student_model),
    }
    found["macs_cut"] = 100 * (1 - found["macs"] / network_cost.macs(teacher.model, architecture))
    found["params_cut"] = 100 * (1 - found["params"] / network_cost.parameters(teacher.model))
    return found


def latency(student_model: nn.Module, teacher) -> dict:
    """Median milliseconds of a forward pass of teacher and student, in turn, of one image and of 64."""
    found: dict[str, float] = {}
    for columns in (("teacher_latency_ms", "latency_ms"), ("teacher_latency_64_ms", "latency_64_ms")):
        times = milliseconds([teacher.model, student_model], teacher.architecture, 64 if "64" in columns[0] else 1)
        found |= dict(zip(columns, [round(median, 3) for median in times[:, 1].tolist()]))
    return found
