"""The paper's Figure 2 as one function: Experiment -> (student, row).

    experiment -> data -> few images, OOD images -> teacher -> compressor -> fine-tuning
               -> test images, once -> row

No stage looks back, and nothing before the last line of :func:`run` reads a test label; the purity
filter of the pool reads test pixels, to keep test pictures out.
"""

import copy
import dataclasses
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from oefsmc_lib import compressors
from oefsmc_lib.compressors import importance
from oefsmc_lib.errors import InputError
from oefsmc_lib.images import elsewhere as ood
from oefsmc_lib.images import fewshot, sets
from oefsmc_lib.images.fewshot import Samples
from oefsmc_lib.parameters import keys
from oefsmc_lib.parameters.experiment import ALGORITHM_VERSION, Experiment
from oefsmc_lib.parameters.keys import digest
from oefsmc_lib.rows import provenance
from oefsmc_lib.rows.row import Row
from oefsmc_lib.student import evaluation
from oefsmc_lib.student.finetune import Watch, finetune
from oefsmc_lib.teacher import networks, teachers
from oefsmc_lib.teacher.devices import device_named


@dataclass(frozen=True)
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
    aux_indices: list[int] = dataclasses.field(default_factory=list)
    ordered_pool: Tensor | None = None  # all n pool images, normalised; those of D_aux first
    watch: Watch | None = None  # what early stopping looks at; None: another rule
    source_fingerprint: str | None = None  # of the OOD source; None where no stage reads it


class Shared:
    """What runs of one process have in common, computed once: data, teachers, pools, recovered and finished students.

    Variants that recover the same student (``native`` and ``native_ft``; ``extra_images``, ``wo_ft`` and ``ours`` where
    eq. 5 changes nothing) fine-tune copies of one, and those that also fine-tune alike are one finished student, which
    is tested once. Only the few latest of each kind are kept.
    """

    LIMITS: ClassVar[dict[str, int]] = {
        "data": 4,
        "teacher": 2,
        "pool": 8,
        "watch": 4,
        "part": 4,
        "recovered": 4,
        "finished": 4,
    }

    def __init__(self) -> None:
        self.kept: dict[str, OrderedDict] = {kind: OrderedDict() for kind in self.LIMITS}
        self.saved = 0.0  # seconds that what is being made took from here instead of computing it

    def get(self, kind: str, key, make):
        """What ``make()`` returns, made once for each key."""
        return self.timed(kind, key, make)[0]

    def timed(self, kind: str, key, make):
        """The same, and the seconds that it takes to make; parts that were found here count with theirs."""
        store = self.kept[kind]
        if key in store:
            self.saved += store[key][1]
        else:
            before, self.saved = self.saved, 0.0
            begin = time.perf_counter()
            made = make()
            store[key] = made, time.perf_counter() - begin + self.saved
            self.saved += before
            while len(store) > self.LIMITS[kind]:
                store.popitem(last=False)
        store.move_to_end(key)
        return store[key]


def prepare(experiment: Experiment, shared: Shared | None = None) -> Prepared:
    """Load, draw and label; everything that can be refused is refused here, before long work."""
    shared = shared or Shared()
    device = device_named(experiment.device)
    name, size, skip = experiment.dataset, experiment.image_size, experiment.skip_broken
    train, test = (
        shared.get(
            "data",
            (name, split, size, skip),
            lambda split=split: sets.load(name, split, image_size=size, skip_broken=skip),
        )
        for split in ("train", "test")
    )
    channels, height, _ = train.shape
    teacher = shared.get(
        "teacher",
        (experiment.model, experiment.width, name, height, str(device)),
        lambda: teachers.load(experiment.model, experiment.width, name, train.num_classes, channels, height),
    )
    teacher.model.to(device, memory_format=torch.channels_last)
    draw = fewshot.draw(train.labels, train.num_classes, experiment)
    raw, few_labels = train.take(draw.indices), train.labels[draw.indices]
    beta = torch.tensor(draw.counts).double() / len(draw.indices)
    rates = (
        ood.rates(beta, experiment.alpha_min)
        if experiment.ood_labels == "complementary"
        else torch.full_like(beta, 1 / len(beta))
    )
    few = Samples(on(device, teacher.normalise(raw)), few_labels.to(device))
    ready = Prepared(train, test, teacher, draw, few, beta, rates)
    if experiment.reads_source:
        ready = _with_source(ready, experiment, shared)
    if experiment.reads_aux and experiment.aux_size and experiment.aux == "augmented_few":
        images, origin = ood.augmented_copies(raw, experiment.aux_size, experiment)
        aux = Samples(on(device, teacher.normalise(images)), few_labels[origin].to(device))
        ready = dataclasses.replace(ready, aux=aux, aux_indices=[draw.indices[i] for i in origin.tolist()])
    return ready


def _with_source(ready: Prepared, experiment: Experiment, shared: Shared) -> Prepared:
    """Add what comes from the OOD source: the watch set, and for a stage that reads them pool and D_aux."""
    teacher, shape, device = ready.teacher, ready.train.shape, ready.few.images.device
    source = (
        experiment.dataset,
        experiment.image_size,
        experiment.skip_broken,
        shape,
        experiment.ood_source,
        experiment.ood_exclude,
        experiment.seed,
    )

    def prepared(images: Tensor) -> Tensor:
        return on(device, teacher.normalise(images))

    # The watch set is drawn even where no rule watches, since the pool leaves it out.
    watch = shared.get("pool", ("watch", *source), lambda: ood.draw_watch(experiment, shape))
    ready = dataclasses.replace(ready, source_fingerprint=watch.fingerprint)
    if experiment.watches:
        if not watch.indices:
            raise InputError(
                f"The OOD source {experiment.ood_source} has too few images to watch while fine-tuning; "
                "use another ood_source or finetune.stop=fixed."
            )
        ready = dataclasses.replace(
            ready,
            watch=shared.get(
                "watch", (teacher.sha256, str(device), *source), lambda: Watch.of(teacher.model, prepared(watch.images))
            ),
        )
    if not experiment.draws_pool:
        return ready
    pool = shared.get("pool", (experiment.pool_size, *source), lambda: ood.draw_pool(experiment, shape, watch))
    chosen = ood.draw_aux(pool, experiment.aux_size, experiment.seed)
    rest = sorted(set(range(len(pool.images))) - set(chosen.tolist()))
    aux = None
    if len(chosen):
        labels = aux_labels(experiment, ready.gamma_rates, teacher, pool.images[chosen])
        aux = Samples(prepared(pool.images[chosen]), labels.to(device))
    whole = torch.cat([pool.images[chosen], pool.images[rest]]) if experiment.reads_pool else None
    return dataclasses.replace(
        ready,
        pool=pool,
        aux=aux,
        aux_indices=[pool.indices[i] for i in chosen.tolist()],
        ordered_pool=None if whole is None else prepared(whole),
    )


def on(device, images: Tensor) -> Tensor:
    """Images on the device, channels last, which convolutions on CPUs and GPUs prefer."""
    return images.to(device, memory_format=torch.channels_last)


@torch.no_grad()
def aux_labels(experiment: Experiment, rates: Tensor, teacher, images: Tensor) -> Tensor:
    """Labels (m,) of the auxiliary images: drawn from the rates, or the teacher's own guesses."""
    if experiment.ood_labels == "teacher":
        device = next(teacher.model.parameters()).device
        return torch.cat(
            [teacher.model(on(device, teacher.normalise(part))).argmax(1).cpu() for part in images.split(64)]
        )
    return ood.draw_labels(
        rates, experiment.aux_size, experiment.label_sampling, fewshot.generator(experiment.seed, "labels")
    )


def recover(experiment: Experiment, ready: Prepared, shared: Shared | None = None):
    """The compression stage: importance (eq. 5), surgery, recovery (eq. 7). Returns (student, seconds)."""
    shared = shared or Shared()
    source = ready.source_fingerprint if experiment.recovers_jointly or experiment.weighs_classes else None
    key = _key(keys.reads(experiment, "recovery"), ready, source)
    return shared.timed("recovered", key, lambda: compressors.compress(task_of(experiment, ready, shared)))


def task_of(experiment: Experiment, ready: Prepared, shared: Shared | None = None) -> compressors.Task:
    """What the compressor is given: which sets eq. 5 and eq. 7 read."""
    cache, key = shared or Shared(), _key(keys.reads(experiment, "training"), ready, ready.source_fingerprint)
    recovery = w = None
    if experiment.recovers_jointly and experiment.recovery_size:
        recovery = ready.ordered_pool if experiment.recovers_pool or ready.aux is None else ready.aux.images
    if experiment.weighs_classes:
        w = importance.class_shares(experiment.w, ready.few, ready.aux, ready.gamma_rates)
    return compressors.Task(
        ready.teacher,
        ready.few,
        experiment,
        aux=ready.aux,
        recovery=recovery,
        w=w,
        pool=ready.ordered_pool,
        once=lambda name, make: cache.get("part", (key, name), make),
    )


def _key(switches: dict, ready: Prepared, source: str | None) -> str:
    """What a student, or a part of its recovery, is kept under."""
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
    """One run: compress, fine-tune, test once. Returns (:class:`~oefsmc_lib.compressors.surgery.Student`, :class:`Row`).

    Raises :class:`InputError` for anything that the input is to blame for.
    """
    begin = time.perf_counter()
    shared = shared or Shared()
    ready = prepare(experiment, shared)
    key = _key(keys.reads(experiment, "outcome"), ready, ready.source_fingerprint)
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
    tested = time.perf_counter()
    measured = evaluate_once(experiment, ready, student)
    measured |= {f"finetune_{name}": report[name] for name in ("epochs", "kept", "distances")}
    measured |= {"seconds_recovery": seconds_recovery, "seconds_finetune": seconds_finetune}
    return student, measured | {"seconds_evaluation": time.perf_counter() - tested}


def evaluate_once(experiment: Experiment, ready: Prepared, student) -> dict:
    """The only place where test images meet a network."""
    guessed = evaluation.predictions(
        student.model, ready.test, ready.teacher.normalise, device_named(experiment.device)
    )
    return evaluation.scores(guessed, ready.test.labels, ready.draw.counts) | evaluation.cost(
        student.model, ready.teacher, student.structure
    )


def identity(experiment: Experiment, teacher_sha256: str, data_fingerprint: str, ood_fingerprint: str | None) -> str:
    """A run's id: its key, and what the key cannot know: the teacher's and the images' checksums."""
    return digest([experiment.key, ALGORITHM_VERSION, teacher_sha256, data_fingerprint, ood_fingerprint])


def row_of(experiment: Experiment, ready: Prepared, student, measured: dict, profile: str | None) -> Row:
    """The row that the run writes."""
    fingerprint = sets.fingerprint(ready.train, ready.test)
    elsewhere = ready.source_fingerprint
    classes = len(ready.draw.counts)
    return Row.of(
        experiment,
        id=identity(experiment, ready.teacher.sha256, fingerprint, elsewhere),
        profile=profile,
        data_fingerprint=fingerprint,
        network=networks.stem(experiment.model, experiment.width),
        teacher_sha256=ready.teacher.sha256,
        teacher_accuracy=100 * ready.teacher.card["test_accuracy"],
        ood_fingerprint=elsewhere,
        ood_removed=ready.pool.removed if ready.pool else 0,
        broken_images=ready.train.broken + ready.test.broken,
        counts=ready.draw.counts,
        order=ready.draw.order,
        few_indices=ready.draw.indices,
        aux_counts=[] if ready.aux is None else torch.bincount(ready.aux.labels.cpu(), minlength=classes).tolist(),
        aux_indices=ready.aux_indices,
        kept={name: len(channels) for name, channels in student.structure.kept.items()},
        dropped=student.structure.dropped,
        **measured,
        **provenance.here(device_named(experiment.device)),
    )
