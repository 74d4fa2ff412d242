"""Rows whose outcomes a test chooses: what claims and figures read, without a network."""

from oefsmc_lib.images.fewshot import groups
from oefsmc_lib.parameters import grid
from oefsmc_lib.rows.row import Row


def made(experiment, top1, recalls=None, classes=10, network=None):
    """The row of an experiment: class j has rank j; ``recalls`` by rank, ``top1`` everywhere if None."""
    from oefsmc_lib.images.fewshot import counts_by_rank
    counts = counts_by_rank(experiment, classes)
    recalls = recalls or [top1] * classes
    kinds = groups(counts)
    by_group = {g: [r for r, kind in zip(recalls, kinds) if kind == g] for g in ("head", "tail", "absent")}
    return Row.of(
        experiment, id=f"{experiment.key}-t", profile="p", data_fingerprint="d", network=network or experiment.model,
        teacher_sha256="t", teacher_accuracy=95.0, counts=counts, order=list(range(classes)), top1=top1,
        balanced_accuracy=top1, per_class=recalls, macs=10, params=5, macs_cut=75.0, params_cut=60.0, device="cpu",
        threads=1, torch="2", torchvision="0", oefsmc="0", python="3", time="2026-01-01T00:00:00Z",
        **{f"{g}_accuracy": sum(v) / len(v) if v else None for g, v in by_group.items()})


def rows_of(outcome, name="problem", profile="embedded", only=lambda e: True, **changes):
    """A row for each experiment of a grid; ``outcome(experiment)`` is a top-1, or (top-1, recalls by rank)."""
    rows = []
    for experiment in grid.load_grid(name, profile).experiments:
        if only(experiment):
            found = outcome(experiment)
            rows.append(made(experiment, *(found if isinstance(found, tuple) else (found,)), **changes))
    return rows


LEVEL = {"native": 84.0, "native_ft": 82.0, "extra_images": 86.0, "ours": 40.0, "whole_pool": 91.0}


def plausible(experiment):
    """Balanced 94, the variants at LEVEL and nearer to it with more images; each seed a little apart."""
    level = 94.0 if experiment.imbalance == "balanced" else LEVEL[experiment.variant] + experiment.num / 20
    top1 = level + 0.1 * experiment.seed * (1 if experiment.imbalance == "balanced" else -1)
    return top1, [min(99.0, top1 + 9 - 2 * rank) for rank in range(10)]
