"""What a finished student is worth: accuracy on test images, once, and its cost."""

import torch
from torch import Tensor, nn

from oefsmc_lib.images.fewshot import groups
from oefsmc_lib.teacher import cost as network_cost


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
    """MACs and parameters with their cuts against the teacher in percent, bytes, and milliseconds an image."""
    architecture = structure.architecture
    found = {
        "macs": network_cost.macs(student_model, architecture),
        "params": network_cost.parameters(student_model),
        "file_size": network_cost.file_size(student_model),
        "latency_ms": round(network_cost.latency(student_model, architecture), 3),
    }
    found["macs_cut"] = 100 * (1 - found["macs"] / network_cost.macs(teacher.model, architecture))
    found["params_cut"] = 100 * (1 - found["params"] / network_cost.parameters(teacher.model))
    return found
