"""One function on tensors: a network, a few images, images from elsewhere, and a student.

The recipe is the one that the package's evidence recommends, ``whole_pool``: every OOD image takes part in the recovery
(eq. 7), the few images and as many OOD images with drawn labels in fine-tuning (eq. 9), which stops early.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from oefsmc_lib import compressors
from oefsmc_lib.compressors import surgery
from oefsmc_lib.compressors.watch import Watch
from oefsmc_lib.errors import InputError
from oefsmc_lib.images import elsewhere as ood
from oefsmc_lib.images.fewshot import Samples, generator
from oefsmc_lib.own import folder, network
from oefsmc_lib.own.choose import channels_at
from oefsmc_lib.own.folder import View
from oefsmc_lib.parameters.experiment import Experiment
from oefsmc_lib.student.finetune import finetune
from oefsmc_lib.teacher.networks import Architecture, feature_module
from oefsmc_lib.teacher.teachers import Teacher, described, per_channel

METHODS = ("fskd", "cd", "mir")


@dataclass(frozen=True)
class Given:
    """What is compressed with, as the network reads it: float32 (N, C, H, W) on its device."""

    few: Tensor
    labels: Tensor | None  # (M,); None: fine-tuning is skipped, all else needs no labels
    pool: Tensor
    watch: Tensor

    def without(self, held: Tensor) -> "Given":
        """The same without these few images (bool (M,))."""
        labels = None if self.labels is None else self.labels[~held]
        return Given(self.few[~held], labels, self.pool, self.watch)


def compress(
    model: nn.Module,
    few: Any,
    elsewhere: Any = None,
    keep: float | dict[str, int] = 0.5,
    *,
    method: str = "fskd",
    normalise: str | None = None,
    seed: int = 0,
) -> surgery.Student:
    """A smaller network that does what ``model`` does, from a few images; ``model`` stays as it is.

    ``few`` and ``elsewhere`` are tensors (N, C, H, W) as the network reads them, a pair (images, labels), a DataLoader,
    or a data set such as an ImageFolder with a transform. Labels of ``few`` are used in fine-tuning, which is skipped
    without them; those of ``elsewhere`` are ignored. ``elsewhere=None`` takes patches of two photographs, which need to
    know how the network's images are normalised (``normalise``, as in ``"imagenet"`` or ``"0.5/0.25"``). ``keep`` is
    the share of channels that every prunable convolution keeps, or ``{convolution: channels}``. Methods are fskd, cd
    and mir. Raises :class:`InputError` for all that the input is to blame for, before any work.

    >>> from torch import nn
    >>> conv = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()
    >>> model = nn.Sequential(*conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()
    >>> images, labels = torch.rand(6, 3, 16, 16), torch.tensor([0, 0, 0, 0, 0, 1])
    >>> student = compress(model, (images, labels), torch.rand(40, 3, 16, 16), keep=0.5)
    >>> student.model[0].out_channels, student.model(images).shape
    (4, torch.Size([6, 2]))
    """
    images, labels = stacked(few, "few")
    teacher = teacher_of(model, images, normalise)
    groups, _ = network.prunable(teacher)
    widths = widths_of(teacher.model, groups, keep)
    check_method(method, teacher, groups)
    classes = teacher.architecture.classes
    if labels is not None and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        raise InputError(f"The labels go from {labels.min()} to {labels.max()}, but the head has {classes} outputs.")
    device = next(teacher.model.parameters()).device
    images = images.to(device, memory_format=torch.channels_last)
    labels = None if labels is None else labels.to(device)
    pool, watch = _from_elsewhere(elsewhere, teacher, images, normalise, seed)
    return student_of(teacher, Given(images, labels, pool, watch), widths, method, seed)


def student_of(teacher: Teacher, given: Given, widths: dict[str, int], method: str = "fskd", seed: int = 0):
    """Prune to ``widths``, recover with all OOD images, fine-tune where there are labels; a ``surgery.Student``.

    Without ``widths`` the student is the teacher: what is not cut needs no recovery.
    """
    if not widths:
        return surgery.Student(copy.deepcopy(teacher.model), surgery.Structure(teacher.architecture))
    classes, size = teacher.architecture.classes, min(len(given.few), len(given.pool))
    labels = torch.zeros(len(given.few), dtype=torch.int64) if given.labels is None else given.labels.cpu()
    counts = torch.bincount(labels, minlength=classes)
    experiment = Experiment(
        dataset="own",
        model=teacher.architecture.name,
        method=method,  # type: ignore[arg-type]  # checked by pydantic
        variant="whole_pool",
        num=len(labels),
        imbalance="counts",
        counts=tuple(counts.tolist()),
        n=len(given.pool),
        m=size,
        mir={"stop": "watch"},  # type: ignore[arg-type]  # pydantic makes the section of it
        seed=seed,
    )
    device = given.few.device
    few = Samples(given.few, labels.to(device))
    watch = Watch.of(teacher.model, given.watch)
    task = compressors.Task(teacher, few, experiment, recovery=given.pool, watch=watch, widths=widths)
    student = compressors.compress(task)
    if given.labels is not None:
        gamma = ood.rates(counts.double() / counts.sum())
        drawn = ood.draw_labels(gamma, size, experiment.label_sampling, generator(seed, "labels"))
        chosen = ood.draw_aux(ood.Pool(given.pool, [], 0, ""), size, seed)
        aux = Samples(given.pool[chosen.to(device)], drawn.to(device))
        student.notes["finetune"] = finetune(student.model, few, aux, gamma, experiment, watch)
    return student


def widths_of(model: nn.Module, groups: dict[str, list[str]], keep: float | dict[str, int]) -> dict[str, int]:
    """``{convolution: channels that it keeps}``: the same share of each, at least one; or the given ones, checked.

    Empty for ``keep=1``: the network stays as it is, for a file in integers of 8 bits without pruning.
    """
    full = {name: surgery.convolution(model, name).out_channels for name in groups}
    if isinstance(keep, dict):
        for name, channels in keep.items():
            if name not in full or not 1 <= channels <= full[name]:
                has = f"has {full[name]} channels" if name in full else f"cannot be pruned; {', '.join(full)} can"
                raise InputError(f"keep asks for {channels} channels of {name}, which {has}.")
        if not (fewer := {name: keep[name] for name in full if keep.get(name, full[name]) < full[name]}):
            raise InputError("keep removes no channel; ask for fewer channels than the layers have.")
        return fewer
    if not 0 < keep <= 1:
        raise InputError(f"keep={keep} is no share of channels; name a number between 0 and 1, such as 0.5.")
    if keep == 1:
        return {}
    return {name: channels_at(channels, keep) for name, channels in full.items()}


def check_method(method: str, teacher: Teacher, groups: dict[str, list[str]]) -> None:
    """Refuse an unknown method, and a network whose layers the method cannot fit."""
    if method not in METHODS:
        raise InputError(f"There is no method {method!r} for your own network; there are {', '.join(METHODS)}.")
    if method == "mir":
        feature_module(teacher.model)  # refuses a network whose last map is unknown
    if method == "cd":
        layers = surgery.weight_layers(teacher.model, teacher.architecture)
        for name, readers in groups.items():
            if readers != [surgery.consumer(layers, teacher.model, name)]:
                raise InputError(f"CD fits one reader a layer, but {name} is read by {', '.join(readers)}; use fskd.")


# --- tensors, loaders, data sets ---------------------------------------------------------------
def stacked(data: Any, what: str, limit: int | None = None) -> tuple[Tensor, Tensor | None]:
    """Images (N, C, H, W) and labels (N,), or None, of a tensor, a pair, a DataLoader or a data set.

    ``limit`` ends the reading early. Raises :class:`InputError` naming ``what`` it is that does not fit.
    """
    pair = isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], Tensor)
    if pair or isinstance(data, Tensor):
        data = [data]
    elif isinstance(data, Dataset):
        # Where only some are read they are drawn, for the first images of a folder are all of one class.
        data = DataLoader(data, batch_size=64, shuffle=limit is not None, generator=generator(0, "pool"))
    if not isinstance(data, Iterable):
        raise InputError(f"{what} is a {type(data).__name__}; give a tensor, a pair, a DataLoader or a data set.")
    images: list[Tensor] = []
    labels: list[Tensor] = []
    try:
        for item in data:
            x, y = item if isinstance(item, (tuple, list)) and len(item) == 2 else (item, None)
            images.append(x if x.dim() == 4 else x[None])
            labels += [] if y is None else [torch.as_tensor(y).reshape(-1)]
            if limit and sum(map(len, images)) >= limit:
                break
        found, known = torch.cat(images), torch.cat(labels).long() if labels else None
    except (TypeError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"{what} holds something else than image tensors of one size ({str(error).splitlines()[0][:80]}); end its "
            "transform with ToTensor and Normalize, after a resize and a crop."
        ) from error
    if found.dim() != 4 or not found.is_floating_point() or (known is not None and len(known) != len(found)):
        have = f"{found.dtype} of shape {tuple(found.shape)}" + ("" if known is None else f" with {len(known)} labels")
        raise InputError(f"{what} is {have}; give normalised float images (N, C, H, W), and a label for each.")
    if not torch.isfinite(found).all():
        raise InputError(f"{what} holds pixels that are not finite (NaN or infinity); mend the transform.")
    return found.float()[:limit], known if known is None else known[:limit]


@torch.no_grad()
def teacher_of(model: nn.Module, images: Tensor, normalise: str | None) -> Teacher:
    """A copy of a network as a teacher; its images are as ``images``."""
    if not len(images) or images.shape[2] != images.shape[3]:
        raise InputError(f"few has shape {tuple(images.shape)}; give at least one image, of equal height and width.")
    copied = copy.deepcopy(model).eval()
    channels, size = images.shape[1], images.shape[2]
    if next(copied.parameters(), None) is None:
        raise InputError(f"{type(model).__name__} has no weights; give a trained network.")
    try:
        scores = copied(images[:1].to(next(copied.parameters()).device))
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(
            f"{type(model).__name__} cannot read the few images of shape {tuple(images.shape[1:])} "
            f"({str(error).splitlines()[0]}); give images as the network reads them."
        ) from error
    classes = scores.shape[-1] if isinstance(scores, Tensor) and scores.dim() == 2 else 0
    mean, std = network.normalisation(normalise) if normalise else ([0.0] * channels, [1.0] * channels)
    card = {"model": type(model).__name__, "classes": classes, "mean": mean, "std": std, "sha256": ""}
    copied = copied.to(memory_format=torch.channels_last)
    return described(copied, Architecture(type(model).__name__, classes, channels, 1.0, size), card)


def _from_elsewhere(data: Any, teacher: Teacher, few: Tensor, normalise: str | None, seed: int):
    """Pool and watch set, as the network reads them."""
    side = few.shape[2]
    pool_size, watch_size, _ = folder.sizes_of(side)
    if data is None:
        if normalise is None:
            raise InputError(
                "elsewhere is None, so patches of photographs are taken; say how to normalise them, as in "
                'normalise="imagenet", or give images.'
            )
        view = View(few.shape[1], side)
        raw = (few.cpu() * per_channel(teacher.card["std"]) + per_channel(teacher.card["mean"])).mul(255)
        found = folder.elsewhere(None, view, [raw.round().clamp(0, 255).to(torch.uint8)], (), seed)
        return teacher.inputs(found.pool), teacher.inputs(found.watch)
    images, _ = stacked(data, "elsewhere", pool_size + watch_size)
    if images.shape[1:] != few.shape[1:] or len(images) < 5:
        raise InputError(
            f"elsewhere is of shape {tuple(images.shape)} and few of {tuple(few.shape)}; give at least five images of "
            "one shape with the few."
        )
    watch = min(watch_size, len(images) // 5)
    images = images[torch.randperm(len(images), generator=generator(seed, "pool"))]
    images = images.to(few.device, memory_format=torch.channels_last)
    return images[watch:], images[:watch]
