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
    for group in ("head", "tail", "absent"):
        inside = torch.tensor([kind == group for kind in groups(counts)])
        tested = float(total[inside].sum())
        found[f"{group}_accuracy"] = float(100 * right[inside].sum() / tested) if tested else None
    return found


def cost(student_model: nn.Module, teacher, structure) -> dict:
    """MACs and parameters with their cuts against the teacher in percent, bytes, and milliseconds of both."""
    own, whole = (network_cost.of(model, structure.architecture) for model in (student_model, teacher.model))
    cuts = {name: 100 * (1 - own[name] / whole[name]) for name in own}
    found = {"macs": own["macs"], "params": own["parameters"], "file_size": own["bytes"], "macs_cut": cuts["macs"]}
    return found | {"params_cut": cuts["parameters"]} | latency(student_model, teacher)


def latency(student_model: nn.Module, teacher) -> dict:
    """Median milliseconds of a forward pass of teacher and student, in turn, of one image and of 64."""
    found: dict[str, float] = {}
    for column, images in (("latency_ms", 1), ("latency_64_ms", 64)):
        times = milliseconds([teacher.model, student_model], teacher.architecture, images)[:, 1].tolist()
        found |= {f"teacher_{column}": round(times[0], 3), column: round(times[1], 3)}
    return found
