"""The paper's Figure 2 as one function: Experiment -> (student, row).

    experiment -> data -> few images, OOD images -> teacher -> compressor -> fine-tuning
               -> test images, once -> row

No stage looks back, and nothing before the last line of :func:`run` reads a test label; the purity
filter of the pool reads test pixels, to keep test pictures out.
"""

import copy
import time
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from oefsmc_lib import compressors
from oefsmc_lib.compressors import importance
from oefsmc_lib.compressors.watch import Watch
from oefsmc_lib.errors import InputError
from oefsmc_lib.images import elsewhere as ood
from oefsmc_lib.images import fewshot, sets, supply
from oefsmc_lib.images.fewshot import Samples
from oefsmc_lib.parameters import keys
from oefsmc_lib.parameters.experiment import ALGORITHM_VERSION, Experiment
from oefsmc_lib.parameters.keys import digest
from oefsmc_lib.rows import provenance
from oefsmc_lib.rows.row import Row
from oefsmc_lib.shared import Shared
from oefsmc_lib.student import evaluation, predictions
from oefsmc_lib.student.finetune import finetune
from oefsmc_lib.teacher import networks, teachers
from oefsmc_lib.teacher.devices import device_named


@dataclass
class Prepared:
    """What a run has before any network is changed: data, teacher, few and auxiliary images."""

    train: sets.ImageSet
    test: sets.ImageSet
    teacher: teachers.Teacher
    draw: fewshot.Draw
    few: Samples  # normalised, on the device
    beta: Tensor  # (K,) class shares of D_few
    gamma_rates: Tensor  # (K,) eq. 4
    pool: ood.Pool | None = None  # None where no stage reads D_aux
    aux: Samples | None = None
    aux_indices: list[int] = field(default_factory=list)
    ordered_pool: Tensor | None = None  # all n pool images, normalised; those of D_aux first
    watch: Watch | None = None  # what early stopping looks at; None: another rule
    source_fingerprint: str | None = None  # of the OOD source; None where no stage reads it


def prepare(experiment: Experiment, shared: Shared | None = None) -> Prepared:
    """Load, draw and label; everything that can be refused is refused here, before long work."""
    shared, device = shared or Shared(), device_named(experiment.device)
    name, side, skip = data = (experiment.dataset, experiment.image_size, experiment.skip_broken)
    load = partial(sets.load, name, image_size=side, skip_broken=skip)
    train, test = (shared.get("data", (split, *data), partial(load, split)) for split in ("train", "test"))
    channels, height, across = train.shape
    size = (height,) if across == height else (height, across)
    network = (experiment.model, experiment.width, experiment.dataset, train.num_classes, channels, *size)
    teacher = shared.get("teacher", (*network, str(device)), lambda: teachers.load(*network))
    teacher.model.to(device, memory_format=torch.channels_last)
    draw = fewshot.draw(train.labels, train.num_classes, experiment, train.class_names)
    raw, labels = train.take(draw.indices), train.labels[draw.indices].to(device)
    beta = torch.tensor(draw.counts).double() / len(draw.indices)
    complementary = experiment.ood_labels == "complementary"
    rates = ood.rates(beta, experiment.alpha_min) if complementary else torch.full_like(beta, 1 / len(beta))
    ready = Prepared(train, test, teacher, draw, Samples(teacher.inputs(raw), labels), beta, rates)
    if experiment.reads_source:
        _add_source(ready, experiment, shared, (*data, train.shape))
    if experiment.reads_aux and experiment.aux_size and experiment.aux == "augmented_few":
        images, origin = ood.augmented_copies(raw, experiment.aux_size, experiment)
        ready.aux = Samples(teacher.inputs(images), labels[origin.to(device)])
        ready.aux_indices = [draw.indices[i] for i in origin.tolist()]
    return ready


def _add_source(ready: Prepared, experiment: Experiment, shared: Shared, data: tuple) -> None:
    """Add what comes from the OOD source: the watch set and, where a stage reads them, the pool and D_aux."""
    teacher, shape = ready.teacher, ready.train.shape
    source = (*data, experiment.ood_source, experiment.ood_exclude, experiment.seed)
    # The watch set is drawn even where no rule watches, since the pool leaves it out.
    watch = shared.get("pool", ("watch", *source), lambda: ood.draw_watch(experiment, shape))
    ready.source_fingerprint = watch.fingerprint
    if experiment.watches:
        if not watch.indices:
            raise InputError(
                f"The OOD source {experiment.ood_source} has too few images to watch while the student trains; "
                f"use another ood_source or {supply.unwatched(experiment)}."
            )
        key = (teacher.sha256, str(ready.few.images.device), *source)
        ready.watch = shared.get("watch", key, lambda: Watch.of(teacher.model, teacher.inputs(watch.images)))
    if not experiment.draws_pool:
        return
    pool = shared.get("pool", (experiment.pool_size, *source), lambda: ood.draw_pool(experiment, shape, watch))
    chosen = ood.draw_aux(pool, experiment.aux_size, experiment.seed)
    ready.pool, ready.aux_indices = pool, [pool.indices[i] for i in chosen.tolist()]
    if len(chosen):
        images = teacher.inputs(pool.images[chosen])
        ready.aux = Samples(images, aux_labels(experiment, ready, images).to(images.device))
    if experiment.reads_pool:
        rest = sorted(set(range(len(pool.images))) - set(chosen.tolist()))
        ready.ordered_pool = teacher.inputs(torch.cat([pool.images[chosen], pool.images[rest]]))


@torch.no_grad()
def aux_labels(experiment: Experiment, ready: Prepared, images: Tensor) -> Tensor:
    """Labels (m,) of the auxiliary images: drawn from the rates of eq. (4), or the teacher's own guesses."""
    if experiment.ood_labels == "teacher":
        return torch.cat([ready.teacher.model(part).argmax(1) for part in images.split(64)])
    source = fewshot.generator(experiment.seed, "labels")
    return ood.draw_labels(ready.gamma_rates, experiment.aux_size, experiment.label_sampling, source)


def recover(experiment: Experiment, ready: Prepared, shared: Shared | None = None):
    """The compression stage: importance (eq. 5), surgery, recovery (eq. 7). Returns (student, seconds)."""
    shared = shared or Shared()
    key = _key(experiment, "recovery", ready)
    return shared.timed("recovered", key, lambda: compressors.compress(task_of(experiment, ready, shared)))


def task_of(experiment: Experiment, ready: Prepared, shared: Shared | None = None) -> compressors.Task:
    """What the compressor is given: which sets eq. 5 and eq. 7 read."""
    cache, key = shared or Shared(), _key(experiment, "training", ready)
    recovery = w = None
    if experiment.recovers_jointly and experiment.recovery_size:
        recovery = ready.ordered_pool if experiment.recovers_pool or ready.aux is None else ready.aux.images
    if experiment.weighs_classes:
        w = importance.class_shares(experiment.w, ready.few, ready.aux, ready.gamma_rates)
    once = partial(cache.part, key)
    return compressors.Task(
        ready.teacher, ready.few, experiment, ready.aux, recovery, w, ready.ordered_pool, ready.watch, once=once
    )


def _key(experiment: Experiment, stage: str, ready: Prepared) -> str:
    """What a student, or a part of its recovery, is kept under; the OOD source counts where the stage reads it."""
    switches = keys.reads(experiment, stage)
    source = ready.source_fingerprint if "ood_source" in switches else None
    return digest([switches, ready.teacher.sha256, ready.train.fingerprint, ready.draw.indices, source])


def tune(experiment: Experiment, ready: Prepared, student) -> tuple[dict, float]:
    """The fine-tuning stage (eq. 9) in place; nothing for a variant without one."""
    begin = time.perf_counter()
    if experiment.finetuning == "none":
        return {"epochs": 0, "kept": 0, "loss": [], "distances": []}, 0.0
    aux = ready.aux if experiment.finetunes_on_aux else None
    report = finetune(student.model, ready.few, aux, ready.gamma_rates, experiment, ready.watch)
    return report, time.perf_counter() - begin


def run(experiment: Experiment, shared: Shared | None = None, profile: str | None = None):
    """One run: compress, fine-tune, test once. Returns (``compressors.surgery.Student``, :class:`Row`).

    Raises :class:`InputError` for anything that the input is to blame for.
    """
    begin = time.perf_counter()
    shared = shared or Shared()
    ready = prepare(experiment, shared)
    key = _key(experiment, "outcome", ready)
    student, measured = shared.get("finished", key, lambda: finish(experiment, ready, shared))
    return student, row_of(
        experiment, ready, student, measured | {"seconds_total": time.perf_counter() - begin}, profile
    )


def finish(experiment: Experiment, ready: Prepared, shared: Shared):
    """The finished student and what was measured of it: compression, fine-tuning, the one test."""
    recovered, seconds_recovery = recover(experiment, ready, shared)
    student = copy.deepcopy(recovered)
    report, seconds_finetune = tune(experiment, ready, student)
    student.notes["finetune"] = report
    card, classes = ready.teacher.card, list(ready.train.class_names)
    student.notes["images"] = {"mean": card["mean"], "std": card["std"], "classes": classes}
    tested = time.perf_counter()
    measured = evaluate_once(experiment, ready, student)
    # Students of one shape cost the same. Layers of one shape may see maps of another size, so those dropped are named.
    shape = (*student.structure.dropped, *(tensor.shape for tensor in student.model.state_dict().values()))
    where = (experiment.device, ready.teacher.architecture, shape)
    measured |= shared.get("cost", where, lambda: evaluation.cost(student.model, ready.teacher, student.structure))
    if experiment.method in ("mir", "practise"):
        measured |= {f"mimic_{name}": student.notes[name] for name in ("steps", "kept", "distances", "precision")}
    measured |= {f"finetune_{name}": report[name] for name in ("epochs", "kept", "distances")}
    measured |= {"seconds_recovery": seconds_recovery, "seconds_finetune": seconds_finetune}
    return student, measured | {"seconds_evaluation": time.perf_counter() - tested}


def evaluate_once(experiment: Experiment, ready: Prepared, student) -> dict:
    """The only place where test images meet a network."""
    device = device_named(experiment.device)
    guessed = predictions.predicted(student.model, ready.test, ready.teacher.normalise, device)
    return evaluation.scores(guessed, ready.test.labels, ready.draw.counts)


def row_of(experiment: Experiment, ready: Prepared, student, measured: dict, profile: str | None) -> Row:
    """The row that the run writes; its id has what the key cannot know, the teacher's and the images' checksums."""
    fingerprint, elsewhere = sets.fingerprint(ready.train, ready.test), ready.source_fingerprint
    return Row.of(
        experiment,
        id=digest([experiment.key, ALGORITHM_VERSION, ready.teacher.sha256, fingerprint, elsewhere]),
        profile=profile,
        data_fingerprint=fingerprint,
        network=networks.stem(experiment.model, experiment.width),
        teacher_sha256=ready.teacher.sha256,
        teacher_accuracy=100 * ready.teacher.card["test_accuracy"],
        ood_fingerprint=elsewhere,
        ood_removed=ready.pool.removed if ready.pool else 0,
        broken_images=ready.train.broken + ready.test.broken,
        unread_images=ready.train.unread + ready.test.unread,
        counts=ready.draw.counts,
        order=ready.draw.order,
        few_indices=ready.draw.indices,
        aux_counts=ready.aux.counts(len(ready.beta)) if ready.aux else [],
        aux_indices=ready.aux_indices,
        kept={name: len(channels) for name, channels in student.structure.kept.items()},
        dropped=student.structure.dropped,
        **measured,
        **provenance.here(device_named(experiment.device)),
    )
