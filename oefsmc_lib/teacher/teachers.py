"""Teachers: trained networks with a card each, loaded only when everything about them checks out.

``<data folder>/teachers/<name>.safetensors`` holds weights in float16 and vectors in float32;
``<name>.json`` is the card: architecture, mean and std of the images, recipe, test accuracy,
SHA-256. The rounded weights on disk are the teacher, so accuracies are theirs. Only the embedded
set's teachers are trained unasked.
"""

import hashlib
import json
import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator
from safetensors import SafetensorError
from torch import Tensor, nn

from oefsmc_lib.errors import InputError
from oefsmc_lib.files import data_folder, writable_folder, write_whole
from oefsmc_lib.images import sets
from oefsmc_lib.parameters.experiment import EMBEDDED
from oefsmc_lib.parameters.keys import digest
from oefsmc_lib.teacher import training
from oefsmc_lib.teacher.networks import Architecture, stem

try:
    import fcntl
except ImportError:  # Windows: two trainings at once cost time, nothing else
    fcntl = None


class Card(BaseModel):
    """What must be on a card; recipes, notes and the like may stand beside it."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str
    dataset: str
    classes: PositiveInt
    width: PositiveFloat = 1.0  # older cards lack these three
    channels: PositiveInt = 3
    image_size: PositiveInt = 32
    mean: list[float]  # a channel, of images in 0-1
    std: list[PositiveFloat]
    test_accuracy: Annotated[float, Field(ge=0, le=1)]
    sha256: str  # of the weights' file

    @model_validator(mode="after")
    def _statistics_for_each_channel(self):
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std need {self.channels} values, one a channel")
        return self


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network in eval mode, float32, that needs no gradients."""

    model: nn.Module
    architecture: Architecture
    card: dict
    sha256: str  # of the weights' file
    mean: Tensor  # (C, 1, 1), of images in 0-1
    std: Tensor

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 ``(N, C, H, W)`` -> float32 ``(x / 255 - mean) / std`` on the images' device."""
        return normalise(images, self.mean, self.std)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return images.float().div_(255).sub_(mean.to(images.device)).div_(std.to(images.device))


def name_of(model: str, width: float, dataset: str) -> str:
    """``vgg16-w0.25_mnist5k``: the name of the files, safe for ``folder:PATH`` too."""
    if dataset.startswith(sets.FOLDER):
        path = Path(dataset.removeprefix(sets.FOLDER)).expanduser().resolve()
        dataset = f"folder-{re.sub('[^0-9A-Za-z.-]', '-', path.name)}-{digest(str(path))[:6]}"
    return f"{stem(model, width)}_{dataset}"


def folder() -> Path:
    return data_folder() / "teachers"


def load(model: str, width: float, dataset: str, num_classes: int, channels: int, image_size: int) -> Teacher:
    """The teacher of a network and a data set, verified.

    Raises :class:`InputError`: none there (with the command that trains it; the embedded set's
    is trained here instead), wrong checksum, card or weights that do not fit, NaN.
    """
    name = name_of(model, width, dataset)
    if not exists(name) and dataset != EMBEDDED:
        raise InputError(
            f"There is no teacher {name} in {folder()}; copy {name}.safetensors and {name}.json there, "
            f"or train it with `{_command(model, width, dataset, image_size)}`."
        )
    teacher = read(name) if exists(name) else train(dataset, model, width, image_size=image_size, unless_there=True)
    asked = Architecture(model, num_classes, channels, width, image_size)
    for field, value in asked.as_dict().items():
        if (has := getattr(teacher.architecture, field)) != value:
            raise InputError(
                f"The teacher {folder() / name}.json has {field}={has}, but {dataset} needs {value}; "
                f"train another with `{_command(model, width, dataset, image_size)}`."
            )
    return teacher


def exists(name: str) -> bool:
    """Both files are there. A card alone or weights alone is an unfinished copy or training."""
    return all((folder() / f"{name}{suffix}").is_file() for suffix in (".json", ".safetensors"))


def read_card(name: str) -> dict:
    """A teacher's card with the defaults of older ones; :class:`InputError` if it is none. Reads no weights."""
    path = folder() / f"{name}.json"
    try:
        return Card.model_validate_json(path.read_bytes()).model_dump()
    except OSError as error:
        raise InputError(
            f"The teacher's card {path} cannot be read ({error.strerror}); copy it again or train the teacher."
        ) from error
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"])) or "all of it"
        raise InputError(
            f"The teacher's card {path} is not valid ({where}: {fault['msg'].lower()}); "
            "copy it again or train the teacher."
        ) from None


def read(name: str) -> Teacher:
    """The teacher under this name in the data folder, verified as :func:`load` says."""
    card = read_card(name)
    path = folder() / f"{name}.safetensors"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"The teacher's weights {path} cannot be read ({error.strerror}); copy them again or train the teacher."
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != card["sha256"]:
        raise InputError(
            f"The checksum of {path} is {found[:12]}..., but its card says {str(card['sha256'])[:12]}...; "
            "copy both files again or train the teacher."
        )
    return assemble(content, card, path)


def assemble(content: bytes, card: dict, path: Path) -> Teacher:
    """A teacher from the bytes of its weights and its card; raises :class:`InputError` naming the tensor at fault."""
    try:
        weights = safetensors.torch.load(content)
    except SafetensorError as error:
        raise InputError(f"{path} is no safetensors file ({error}); copy it again or train the teacher.") from error
    architecture = Architecture(card["model"], card["classes"], card["channels"], card["width"], card["image_size"])
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        model = architecture.build()
    wanted = {key: tensor for key, tensor in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    for key in sorted(wanted.keys() | weights.keys()):
        fault = (
            "is missing"
            if key not in weights
            else "does not belong to this network"
            if key not in wanted
            else f"has shape {tuple(weights[key].shape)} instead of {tuple(wanted[key].shape)}"
            if weights[key].shape != wanted[key].shape
            else "is not finite (NaN or infinity)"
            if not weights[key].isfinite().all()
            else None
        )
        if fault:
            raise InputError(f"The tensor {key} of {path} {fault}; copy the teacher again or train it.")
    model.load_state_dict({key: tensor.float() for key, tensor in weights.items()}, strict=False)
    mean, std = (torch.tensor(card[key], dtype=torch.float32).view(-1, 1, 1) for key in ("mean", "std"))
    return Teacher(
        model.eval().requires_grad_(False), architecture, card, hashlib.sha256(content).hexdigest(), mean, std
    )


# --- training one ------------------------------------------------------------------------------
def train(
    dataset: str,
    model: str,
    width: float,
    *,
    image_size: int | None = None,
    skip_broken: bool = False,
    epochs: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    device: str = "auto",
    unless_there: bool = False,
) -> Teacher:
    """Train a teacher by the recipe of its data set, save it with its card and return it.

    A killed training goes on after its last finished epoch when called again. The test images are
    used once, at the end, for the card. One process trains a teacher at a time; with
    ``unless_there`` the others then take what it made. Raises :class:`InputError` for missing data,
    an unknown network, divergence or a full disk.
    """
    name = name_of(model, width, dataset)
    with _alone(name):
        if unless_there and exists(name):
            return read(name)
        images, test = (
            sets.load(dataset, split, image_size=image_size, skip_broken=skip_broken) for split in ("train", "test")
        )
        where = torch.device(device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
        changes = {key: value for key, value in {"epochs": epochs, "lr": lr}.items() if value is not None}
        recipe = training.recipe_for(dataset, where, seed=seed, **changes)
        mean, std = statistics(images)
        architecture = Architecture(model, images.num_classes, images.shape[0], width, images.shape[1])
        checkpoint = folder() / f"{name}.partial.safetensors"
        network = training.fit(architecture, images, lambda x: normalise(x, mean, std), recipe, checkpoint, where)
        size = {"width": width, "channels": architecture.channels, "image_size": architecture.image_size}
        card = {
            "model": model,
            "dataset": dataset,
            "classes": architecture.classes,
            **size,
            "mean": _decimals(mean),
            "std": _decimals(std),
            "data_fingerprint": images.fingerprint,
            "weights": "float16 (vectors float32)",
            "recipe": str(recipe),
        }
        _save(name, pack(network), card, test, where)
        checkpoint.unlink(missing_ok=True)
        return read(name)


def statistics(images: sets.ImageSet) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation a channel, (C, 1, 1), of at most 10,000 images evenly spread over the set."""
    sample = images.take(range(0, len(images), -(-len(images) // 10_000)))
    deviation, mean = torch.std_mean(sample.double().div_(255), dim=(0, 2, 3), correction=0)
    # rounded as on the card, for the card is what a reader has
    mean, std = ((10_000 * value).round().div(10_000).float().view(-1, 1, 1) for value in (mean, deviation))
    return mean, std.clamp(min=1e-4)


def pack(model: nn.Module) -> bytes:
    """Weights as they are kept: matrices in float16, vectors in float32, no batch counters."""
    return safetensors.torch.save(
        {
            key: tensor.detach().cpu().contiguous().to(torch.float16 if tensor.ndim > 1 else torch.float32)
            for key, tensor in model.state_dict().items()
            if not key.endswith("num_batches_tracked")
        }
    )


def _decimals(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.flatten().tolist()]


def _save(name: str, content: bytes, card: dict, test: sets.ImageSet, device: torch.device) -> None:
    """Measure what the file will hold, then write weights and card; weights without a card are no teacher."""
    weights, path = folder() / f"{name}.safetensors", folder() / f"{name}.json"
    teacher = assemble(content, card | {"sha256": hashlib.sha256(content).hexdigest()}, weights)
    teacher.model.to(device)
    path.unlink(missing_ok=True)
    write_whole(weights, content)
    write_whole(path, json.dumps(teacher.card | {"test_accuracy": accuracy(teacher, test)}, indent=1) + "\n")


@contextmanager
def _alone(name: str):
    """Hold a teacher's lock; the system drops it when the process ends, however it ends."""
    lock = writable_folder(folder()) / f".{name}.lock"
    try:
        file = open(lock, "a")
    except PermissionError as error:
        raise InputError(f"Cannot write {lock}: permission denied; name another folder with OEFSMC_DATA.") from error
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"Another process trains the teacher {name}; waiting for it.", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


@torch.inference_mode()
def accuracy(teacher: Teacher, images: sets.ImageSet, batch: int = 500) -> float:
    """Top-1 in 0-1, in float32, on the device that the teacher's weights are on."""
    device = next(teacher.model.parameters()).device
    right = sum(
        int((teacher.model(teacher.normalise(x.to(device))).argmax(1).cpu() == y).sum())
        for x, y in images.batches(batch)
    )
    return right / len(images)


def available() -> list[dict]:
    """The cards in the data folder, each with its ``name`` and, if it cannot be used as it is, a ``problem``."""
    cards = []
    for path in sorted(folder().glob("[!.]*.json")):
        try:
            card = {"name": path.stem, **read_card(path.stem)}
            if not path.with_suffix(".safetensors").is_file():
                card["problem"] = f"{path.with_suffix('.safetensors')} is missing; copy it or train the teacher"
        except InputError as error:
            card = {"name": path.stem, "problem": str(error)}
        cards.append(card)
    return cards


def check(name: str, evaluate: bool = False) -> dict:
    """Verify one of :func:`available`: checksum, tensors, finite values; its card, with ``measured`` if evaluated.

    Raises :class:`InputError` as :func:`load` does; ``evaluate`` runs it on all test images.
    """
    teacher = read(name)
    if not evaluate:
        return teacher.card
    images = sets.load(teacher.card["dataset"], "test", image_size=teacher.architecture.image_size)
    return teacher.card | {"measured": accuracy(teacher, images)}


def _command(model: str, width: float, dataset: str, image_size: int) -> str:
    native = {"tiny-imagenet": 64, "imagenet": 224}.get(dataset, None if dataset.startswith(sets.FOLDER) else 32)
    return f"oefsmc teacher train dataset={dataset} model={model} width={width:g}" + (
        f" image_size={image_size}" if image_size != native else ""
    )
