"""Which switches each stage reads, as one table, and the key that hashes them.

A run's key covers exactly what the run reads, so two experiments that must give the same numbers share a key. The
stages that variants share (a draw, a training, a recovered student, a finished student) have keys of the same kind.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oefsmc_lib.parameters.experiment import Experiment


def _always(_experiment) -> bool:
    return True


# Stage, switches that it reads, when it reads them. A name with @ stands for all that another stage reads, or for a
# section of switches: @finetune, or the method's own, @method.
READS = (
    ("draw", "dataset image_size skip_broken num imbalance class_order seed", _always),
    ("draw", "ratio rounding", lambda e: e.imbalance in ("long_tail", "step")),
    ("draw", "counts", lambda e: e.imbalance == "counts"),
    ("source", "ood_source ood_exclude", _always),
    ("aux_images", "aux m", _always),  # D_aux without its labels
    ("aux_images", "@source n", lambda e: e.aux == "ood"),
    ("aux_images", "augment", lambda e: e.aux != "ood"),
    ("rates", "ood_labels", _always),  # of eq. 4, which labels, class weights and w=complement read
    ("rates", "alpha_min", lambda e: e.ood_labels == "complementary"),
    ("aux", "@aux_images @rates", _always),  # D_aux with its labels
    ("aux", "label_sampling", lambda e: e.aux == "ood" and e.ood_labels != "teacher"),
    # The training recovers a given structure by eq. 7, which reads no label and no importance.
    ("training", "@draw model width method plan @method", _always),
    ("training", "augment kd", lambda e: e.method in ("mir", "practise")),
    ("training", "@aux_images", lambda e: e.recovers_jointly or e.weighs_classes),
    ("training", "@source", lambda e: e.recovery_watches),
    ("training", "lam", lambda e: e.recovers_jointly),
    ("training", "recovery_images", lambda e: e.recovers_jointly and e.recovery_size != e.aux_size),
    ("recovery", "@training", _always),  # the recovered student
    ("recovery", "@aux class_aware w contribution", lambda e: e.weighs_classes),
    ("outcome", "@recovery finetuning", _always),  # the finished student
    ("outcome", "@finetune", lambda e: e.finetuning == "common"),
    ("outcome", "@source", lambda e: e.watches),
    ("outcome", "@aux eta gamma gamma_mean redraw", lambda e: e.finetunes_on_aux),
)
# Where a key has what a switch comes to, instead of the switch itself.
RESOLVED = {
    "plan": "resolved_plan",
    "m": "aux_size",
    "n": "pool_size",
    "recovery_images": "recovery_size",
    "class_aware": "weighs_classes",
}
# Switches that had alternatives when the rows of this version were written: keys and rows keep what they were.
SETTLED = {"practise.saving": "macs", "finetune.scale_lr": False}
# What a method's solver leaves alone.
UNREAD = {
    ("fskd", "minnorm"): ("rho",),
    ("cd", "exact"): ("iterations", "lr"),
    ("cd", "adam"): ("rho", "milestones"),
    ("practise", "bridge"): ("scoring_iterations", "scoring_lr", "cache"),
}


def reads(experiment: "Experiment", stage: str) -> dict[str, Any]:
    """The switches that a stage of an experiment reads, flat, with what was left open resolved.

    Stages: ``draw``, ``source``, ``aux_images``, ``rates``, ``aux``, ``training``, ``recovery``, ``outcome``.

    >>> from oefsmc_lib.parameters.experiment import Experiment
    >>> reads(Experiment(variant="native_ft"), "source")
    {'ood_source': 'photos', 'ood_exclude': ()}
    """
    found: dict[str, Any] = {}
    for _, names, _ in (line for line in READS if line[0] == stage and line[2](experiment)):
        for name in names.split():
            if name in ("@method", "@finetune"):
                found |= _section(experiment, experiment.method if name == "@method" else "finetune")
            elif name.startswith("@"):
                found |= reads(experiment, name[1:])
            else:
                found[name] = getattr(experiment, RESOLVED.get(name, name))
    return found


def _section(experiment: "Experiment", name: str) -> dict[str, Any]:
    """A section of switches, without what its solver does not read and with what was left open resolved."""
    section = getattr(experiment, name).model_dump()
    if name == "cd":
        section["rho"] = experiment.cd_rho
    if name == "practise":
        section["start"] = "bridge" if experiment.bridges else "teacher"
    if name in ("mir", "practise"):
        section["stop"] = "watch" if experiment.recovery_watches else "none"
    unread = UNREAD.get((name, section.get("solver") or section.get("start")), ())
    settled = {key: value for key, value in SETTLED.items() if key.startswith(f"{name}.")}
    return {f"{name}.{key}": value for key, value in section.items() if key not in unread} | settled


def digest(value: Any) -> str:
    """12 hex digits of the SHA-256 over canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
