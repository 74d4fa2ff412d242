"""``oefsmc compress``: from a folder and a checkpoint to a student, a card and a report."""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from oefsmc_lib.compressors.surgery import Student
from oefsmc_lib.errors import InputError
from oefsmc_lib.files import writable_folder, write_whole
from oefsmc_lib.own import choose, compress, folder, measure, network, report
from oefsmc_lib.own.compress import Given
from oefsmc_lib.student import saved
from oefsmc_lib.teacher import cost, latency
from oefsmc_lib.teacher.teachers import Teacher

FEWEST = 5  # folds of the cross-validation; large images get three


@dataclass(frozen=True)
class Ask:
    """What a person asks for. At most one of ``keep`` and the three targets; ``keep=0.5`` without any."""

    data: Path
    model: str
    out: Path
    weights: Path | None = None
    elsewhere: Path | None = None
    keep: float | None = None
    target_macs: str | None = None  # a share of the teacher's (0.4, 40%) or a number (300M, 1.2G)
    target_latency: float | None = None  # milliseconds at batch 1 on this machine
    max_drop: float | None = None  # points of accuracy, by cross-validation over the few images
    method: str = "fskd"
    normalise: str | None = None
    size: int | None = None
    folds: int | None = None  # 0: no cross-validation
    threads: int = 1  # of the measured latency
    seed: int = 0


@dataclass(frozen=True)
class Ready:
    """All that is read and checked before any work."""

    ask: Ask
    teacher: Teacher
    groups: choose.Groups
    class_names: tuple[str, ...]
    few: folder.Photos
    held: folder.Photos | None
    given: Given
    unseen: Tensor  # OOD images that no stage sees
    margin: float
    folds: Tensor | None  # the fold of each few image
    notes: list[str]


# --- before the work ---------------------------------------------------------------------------
def ready(ask: Ask) -> Ready:
    """Read and check everything; an :class:`InputError` says in one sentence what is wrong."""
    asked = [ask.keep, ask.target_macs, ask.target_latency, ask.max_drop]
    if sum(each is not None for each in asked) > 1:
        raise InputError("--keep, --target-macs, --target-latency and --max-drop exclude each other; name one of them.")
    _writable(ask.out)
    files = folder.listed(ask.data)
    teacher, margin, notes = network.load(
        ask.model, ask.weights, len(files.class_names) or None, ask.normalise, ask.size
    )
    groups, whole = network.prunable(teacher)
    compress.check_method(ask.method, teacher, groups)
    compress.widths_of(teacher.model, groups, 0.5 if ask.keep is None else ask.keep)
    choose.macs_target(ask.target_macs or "40%", 1)
    view = folder.View(teacher.architecture.channels, teacher.architecture.image_size, margin)
    few, held = folder.read_data(files, view)
    known = [photos.images for photos in (few, held) if photos is not None]
    ood = folder.elsewhere(ask.elsewhere, view, known, files.class_names, ask.seed)
    notes += [*([whole.rstrip(".")] if whole else []), *few.notes, *(held.notes if held else []), *ood.notes]
    if few.labels is None:
        notes.append("the images have no labels: fine-tuning, accuracy and recall are skipped")
    if ask.max_drop is not None and len(few) < 2:
        raise InputError("--max-drop needs two or more few images to hold one back; name --keep instead.")
    given = Given(teacher.inputs(few.images), few.labels, teacher.inputs(ood.pool), teacher.inputs(ood.watch))
    parts = FEWEST if view.size <= 64 else 3
    parts = min(len(few), parts if ask.folds is None else ask.folds)
    wanted = parts > 1 and (held is None or ask.max_drop is not None)
    splits = measure.folds(few.labels, len(few), parts, ask.seed) if wanted else None
    return Ready(ask, teacher, groups, files.class_names, few, held, given, ood.unseen, margin, splits, notes)


def _writable(out: Path) -> None:
    new = not out.exists()
    try:
        with tempfile.TemporaryFile(dir=writable_folder(out)):
            pass
        if new:
            out.rmdir()  # what is refused later leaves no empty folder
    except OSError as error:
        raise InputError(f"Cannot write into {out} ({error.strerror}); name another folder with --out.") from error


def preview(job: Ready) -> list[str]:
    """What will be done and about how long it takes, in a few lines."""
    teacher, given, ask = job.teacher, job.given, job.ask
    sample = torch.cat([given.few, given.pool])[:8]
    with torch.no_grad():
        teacher.model(sample)
        begin = time.perf_counter()
        teacher.model(sample)
    image = (time.perf_counter() - begin) / len(sample)
    parts = int(job.folds.max()) + 1 if job.folds is not None else 0
    rounds = 1 + parts * (1 if ask.max_drop is None else 7)  # the way to a drop tries about seven sizes
    epochs = (6, 40) if given.labels is not None else (0, 0)
    each = [4 * (len(given.few) + len(given.pool)) + e * (len(given.watch) + 6 * len(given.few)) for e in epochs]
    each = [steps + (2000 * 3 * 2 * 64 if ask.method == "mir" else 0) for steps in each]
    low, high = (max(1, round(rounds * image * steps)) for steps in each)
    architecture = teacher.architecture
    classes = folder.counts_of(job.few.labels, job.class_names) if job.few.labels is not None else {}
    shown = ", ".join(f"{name} {count}" for name, count in list(classes.items())[:8])
    shown += f" and {len(classes) - 8} more classes" if len(classes) > 8 else ""
    held = f"{len(job.held)} held-out images" if job.held else f"{parts}-fold cross-validation" if parts else "nothing"
    return [
        f"network     {architecture.name}, {architecture.classes} classes, "
        f"{architecture.channels}x{architecture.image_size}x{architecture.image_size}, "
        f"{cost.macs(teacher.model, architecture) / 1e6:.0f} million MACs",
        f"few images  {len(job.few)}" + (f": {shown}" if shown else ", without labels"),
        f"OOD images  {len(given.pool)} to recover with, {len(given.watch)} to watch, {len(job.unseen)} unseen",
        f"tested by   {held}",
        f"work        {rounds} student(s) by {ask.method}, about {low} to {high} seconds on this machine",
    ]


# --- the work ----------------------------------------------------------------------------------
class Work:
    """Students of one job, and what they guess for images that they never saw; each is computed once."""

    def __init__(self, job: Ready):
        self.job, self.known = job, dict[str, Tensor]()

    def student(self, widths: choose.Widths, given: Given | None = None) -> Student:
        job = self.job
        return compress.student_of(job.teacher, given or job.given, widths, job.ask.method, job.ask.seed)

    def held_back(self, widths: choose.Widths) -> Tensor:
        """Classes that cross-validated students of this plan guess for the few images."""
        job, key = self.job, json.dumps(widths)
        if key not in self.known:
            assert job.folds is not None

            def fit(held: Tensor) -> nn.Module:
                return self.student(widths, job.given.without(held)).model

            self.known[key] = measure.cross_validated(job.few.images, job.folds, fit, job.teacher.inputs)
        return self.known[key]

    def drop(self, widths: choose.Widths) -> float:
        """Points of accuracy that the plan costs on few images held back; without labels, of agreement."""
        job = self.job
        before = measure.guesses(job.teacher.model, job.few.images, job.teacher.inputs)
        labels = before if job.few.labels is None else job.few.labels
        after = self.held_back(widths)
        return 100 * float((before == labels).double().mean() - (after == labels).double().mean())


def chosen(job: Ready, work: Work, scanned: dict[str, list[float]]) -> choose.Widths:
    """The plan that is asked for: the same share everywhere, or the way to a target by the scan."""
    ask, teacher = job.ask, job.teacher
    if ask.target_macs is None and ask.target_latency is None and ask.max_drop is None:
        return compress.widths_of(teacher.model, job.groups, 0.5 if ask.keep is None else ask.keep)
    plans = choose.path(teacher, job.groups, scanned)
    if ask.max_drop is not None:
        return choose.smallest_within(plans, work.drop, ask.max_drop)
    if ask.target_macs is not None:
        target = choose.macs_target(ask.target_macs, cost.macs(teacher.model, teacher.architecture))
        return choose.first_fitting(plans, lambda widths: choose.macs_of(teacher, widths), target, "--target-macs")

    def median(widths: choose.Widths) -> float:
        student = choose.carved(teacher, widths).to(memory_format=torch.channels_last)
        return float(latency.milliseconds([student], teacher.architecture, 1, 1.0, ask.threads)[0, 1])

    assert ask.target_latency is not None
    return choose.first_fitting(plans, median, ask.target_latency, "--target-latency (milliseconds)")


def run(ask: Ask, say: Callable[[str], object] = lambda line: print(line, file=sys.stderr)) -> dict:
    """Compress, measure, and write student, card and report into ``ask.out``; returns the card.

    ``say`` gets the lines of the preview and the notes. Raises :class:`InputError` before any work for all that the
    input is to blame for; nothing is half-written.
    """
    begin = time.perf_counter()
    job = ready(ask)
    for line in [*preview(job), *(f"note        {note}" for note in job.notes)]:
        say(line)
    work = Work(job)
    images = torch.cat([job.given.few, job.given.pool[:100]])
    scanned = choose.scan(job.teacher, job.groups, images)
    widths = chosen(job, work, scanned)
    student = work.student(widths)
    student.model.to(memory_format=torch.channels_last)
    card = card_of(job, work, student, widths) | {"scan": scanned}
    taken = card["latency_ms"]["1"]["student"][1]
    if ask.target_latency is not None and taken > ask.target_latency:
        card["notes"].append(
            f"the target of {ask.target_latency:g} ms was met when the plan was chosen; now it takes {taken:.3g} ms"
        )
        say(f"note        {card['notes'][-1]}")
    card["seconds"] = round(time.perf_counter() - begin, 1)
    page = report.page(card)
    _reloads(job, student)
    about = job.teacher.card
    student.notes["images"] = {"mean": about["mean"], "std": about["std"], "classes": list(job.class_names)}
    saved.save(student, ask.out)
    write_whole(ask.out / "card.json", json.dumps(card, indent=1) + "\n")
    write_whole(ask.out / "report.html", page)
    return card


@torch.no_grad()
def _reloads(job: Ready, student: Student) -> None:
    """The plan and the weights make the same network again, without the teacher."""
    again, x = saved.rebuild(student.structure), job.given.few[:4]
    again.load_state_dict(student.model.state_dict())
    if not torch.allclose(again.to(memory_format=torch.channels_last)(x), student.model(x), rtol=1e-3, atol=1e-4):
        raise InputError(
            f"{job.teacher.architecture.name} does not make the same network twice: a part of it is in no weight, so "
            "the student could not be read again; make that part a buffer."
        )


def card_of(job: Ready, work: Work, student: Student, widths: choose.Widths) -> dict:
    """Everything that the report says, as numbers."""
    ask, teacher, few = job.ask, job.teacher, job.few
    architecture = teacher.architecture
    targets = ("keep", "target_macs", "target_latency", "max_drop")
    asked = {name: getattr(ask, name) for name in targets if getattr(ask, name) is not None} or {"keep": 0.5}
    pair = {"teacher": teacher.model, "student": student.model}
    times = {
        str(batch): {who: [round(t, 3) for t in taken] for who, taken in zip(pair, found.tolist())}
        for batch in (1, 16)
        for found in [latency.milliseconds([*pair.values()], architecture, batch, 1.0, ask.threads)]
    }
    guessed = (measure.guesses(model, job.unseen, teacher.inputs) for model in pair.values())
    return {
        "teacher": teacher.card,
        "image_size": architecture.image_size,
        "margin": round(job.margin, 4),
        "channels": architecture.channels,
        "class_names": list(job.class_names),
        "counts": folder.counts_of(few.labels, job.class_names) if few.labels is not None else None,
        "images": {"few": len(few), "pool": len(job.given.pool), "watch": len(job.given.watch)},
        "method": ask.method,
        "variant": "whole_pool",
        "seed": ask.seed,
        "asked": asked,
        "kept": widths,
        "tested": tested(job, work, student, widths),
        "unseen": measure.share(torch.eq(*guessed)),
        "cost": {who: cost.of(model, architecture) for who, model in pair.items()},
        "latency_ms": times,
        "threads": ask.threads,
        "notes": job.notes,
        "versions": {name: version(name) for name in ("torch", "torch-pruning")},
        "date": time.strftime("%Y-%m-%d"),
    }


def tested(job: Ready, work: Work, student: Student, widths: choose.Widths) -> dict:
    """Teacher and student on images that no stage saw: held-out ones, or the few by cross-validation."""
    photos = job.held or job.few
    before = measure.guesses(job.teacher.model, photos.images, job.teacher.inputs)
    crossed = job.held is None and job.folds is not None
    after = work.held_back(widths) if crossed else measure.guesses(student.model, photos.images, job.teacher.inputs)
    folds = int(job.folds.max()) + 1 if job.held is None and job.folds is not None else None
    how = "cross-validated" if crossed else "seen" if job.held is None else "held out"
    return {"how": how, "folds": folds} | measure.compared(before, after, photos.labels, job.class_names)
