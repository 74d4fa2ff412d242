"""Teachers: trained networks with a card each, loaded only when everything about them checks out.

``<data folder>/teachers/<name>.safetensors`` holds weights in float16 and vectors in float32; ``<name>.json`` is the
card: architecture, mean and std of the images, recipe, accuracy, SHA-256. The rounded weights on disk are the teacher,
so accuracies are theirs. The embedded profile's comes with the library; others on that set are trained unasked.
"""

import hashlib
import json
import re
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from oefsmc_lib.errors import InputError
from oefsmc_lib.files import alone, data_folder, expanded, short, writable_folder, write_whole
from oefsmc_lib.images import sets
from oefsmc_lib.parameters.experiment import EMBEDDED
from oefsmc_lib.parameters.keys import digest
from oefsmc_lib.teacher import training
from oefsmc_lib.teacher.cards import bytes_of, read_card
from oefsmc_lib.teacher.devices import device_named, multiplies_bfloat16
from oefsmc_lib.teacher.networks import Architecture, fill, stem

SHIPPED = Path(__file__).with_name("shipped")  # a teacher that this project trained


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

    def inputs(self, images: Tensor) -> Tensor:
        """The same on the teacher's device, channels last, which convolutions on CPUs and GPUs prefer."""
        return self.normalise(images).to(next(self.model.parameters()).device, memory_format=torch.channels_last)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return images.float().div_(255).sub_(mean.to(images.device)).div_(std.to(images.device))


def name_of(model: str, width: float, dataset: str) -> str:
    """``vgg16-w0.25_mnist5k``: the name of the files, safe for ``folder:PATH`` too."""
    if dataset.startswith(sets.FOLDER):
        path = expanded(dataset.removeprefix(sets.FOLDER)).resolve()
        dataset = f"folder-{short(re.sub('[^0-9A-Za-z.-]', '-', path.name))}-{digest(str(path))[:6]}"
    return f"{stem(model, width)}_{dataset}"


def folder() -> Path:
    return data_folder() / "teachers"


def place(name: str) -> Path:
    """Where a teacher's files are: the data folder; the library itself, where that has them and the folder has none."""
    return SHIPPED if (SHIPPED / f"{name}.json").is_file() and not any(folder().glob(f"{name}.*")) else folder()


def load(
    model: str,
    width: float,
    dataset: str,
    num_classes: int,
    channels: int,
    image_size: int,
    image_width: int | None = None,
) -> Teacher:
    """The teacher of a network and a data set, verified.

    Raises :class:`InputError`: none there (with the command that trains it; on the embedded set it is trained here
    instead), wrong checksum, card or weights that do not fit, NaN.
    """
    name, command = name_of(model, width, dataset), _command(model, width, dataset, None if image_width else image_size)
    asked = Architecture(model, num_classes, channels, width, image_size, image_width)
    if not exists(name):
        asked.check()  # or the sentence below would name a command that must fail
    if not exists(name) and dataset != EMBEDDED:
        raise InputError(
            f"There is no teacher {name} in {folder()}; copy {name}.safetensors and {name}.json there, "
            f"or train it with `{command}`."
        )
    teacher = read(name) if exists(name) else train(dataset, model, width, image_size=image_size, unless_there=True)
    for field, value in asdict(asked).items():
        if (has := getattr(teacher.architecture, field)) != value:
            raise InputError(
                f"The teacher {place(name) / name}.json has {field}={has}, but {dataset} needs {value}; "
                f"train another in its place with `{command} --again`."
            )
    return teacher


def exists(name: str) -> bool:
    """Both files are there. A card alone or weights alone is an unfinished copy or training."""
    return all((place(name) / f"{name}{suffix}").is_file() for suffix in (".json", ".safetensors"))


def read(name: str) -> Teacher:
    """The teacher under this name, verified as :func:`load` says."""
    path = place(name) / f"{name}.safetensors"
    card, content = read_card(path.with_name(f"{name}.json")), bytes_of(path)
    found = hashlib.sha256(content).hexdigest()
    if found != card["sha256"]:
        raise InputError(
            f"The checksum of {path} is {found[:12]}..., but its card says {card['sha256'][:12]}...; "
            "copy both files again or train the teacher."
        )
    return assemble(content, card, path)


def assemble(content: bytes, card: dict[str, Any], path: Path) -> Teacher:
    """A teacher from the bytes of its weights and its card; raises :class:`InputError` naming the tensor at fault."""
    try:
        weights = _without_counters(safetensors.torch.load(content))
    except SafetensorError as error:
        raise InputError(f"{path} is no safetensors file ({error}); copy it again or train the teacher.") from error
    size = (card[key] for key in ("classes", "channels", "width", "image_size", "image_width"))
    architecture = Architecture(card["model"], *size)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        model = architecture.build()
    wanted = _without_counters(model.state_dict())
    for key in sorted(wanted.keys() | weights.keys()):
        if fault := _fault(weights.get(key), wanted.get(key)):
            raise InputError(f"The tensor {key} of {path} {fault}; copy the teacher again or train it.")
    counters = {key: tensor for key, tensor in model.state_dict().items() if key not in wanted}
    fill(model, counters | {key: tensor.float() for key, tensor in weights.items()})
    return described(model, architecture, card)


def described(model: nn.Module, architecture: Architecture, card: dict) -> Teacher:
    """A network as a teacher: frozen, in eval mode."""
    mean, std = (per_channel(card[key]) for key in ("mean", "std"))
    return Teacher(model.eval().requires_grad_(False), architecture, card, card["sha256"], mean, std)


def _without_counters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without the batch counters that batch norms keep and no output depends on."""
    return {key: tensor for key, tensor in tensors.items() if not key.endswith("num_batches_tracked")}


def _fault(tensor: Tensor | None, wanted: Tensor | None) -> str | None:
    """What is wrong with a tensor of a file, by the network's own."""
    if tensor is None:
        return "is missing"
    if wanted is None:
        return "does not belong to this network"
    if tensor.shape != wanted.shape:
        return f"has shape {tuple(tensor.shape)} instead of {tuple(wanted.shape)}"
    return None if tensor.isfinite().all() else "is not finite (NaN or infinity)"


# --- training one ------------------------------------------------------------------------------
def train(
    dataset: str,
    model: str,
    width: float,
    *,
    image_size: int | None = None,
    device: str = "auto",
    unless_there: bool = False,
    **changes,
) -> Teacher:
    """Train a teacher by the recipe of its data set, save it with its card and return it.

    ``changes`` are fields of the recipe, such as ``epochs`` and ``seed``; None leaves the recipe's own. A killed
    training goes on after its last finished epoch when called again. The test images are used once, at the end, for
    the card. One process trains a teacher at a time; with ``unless_there`` the others then take what it made. Raises
    :class:`InputError` for missing data, an unknown network, a missing device, divergence or a full disk.
    """
    name, where = name_of(model, width, dataset), device_named(device)
    sets.locate(dataset)  # names are checked before a file is named after them
    Architecture(model, 2, 1 if dataset == EMBEDDED else 3, width).check(forward=False)
    lock = writable_folder(folder()) / f".{name}.lock"
    with alone(lock, f"Another process trains the teacher {name}; waiting for it."):
        if unless_there and exists(name):
            return read(name)
        images, test = (sets.load(dataset, split, image_size=image_size) for split in ("train", "test"))
        channels, height, across = images.shape
        square = None if across == height else across
        architecture = Architecture(model, images.num_classes, channels, width, height, square)
        architecture.check()
        asked = {key: value for key, value in changes.items() if value is not None}
        recipe = replace(training.RECIPES.get(dataset, training.Recipe()), bf16=multiplies_bfloat16(where), **asked)
        card = _describe(dataset, architecture, images, recipe)
        mean, std = per_channel(card["mean"]), per_channel(card["std"])
        checkpoint = folder() / f"{name}.partial.safetensors"
        network = training.fit(architecture, images, lambda x: normalise(x, mean, std), recipe, checkpoint, where)
        save(name, training.pack(network), card, test, where)
        checkpoint.unlink(missing_ok=True)
        return read(name)


def _describe(dataset: str, architecture: Architecture, images: sets.ImageSet, recipe: training.Recipe) -> dict:
    """What a card says before its teacher is measured; mean and std are of at most 10,000 images, to four digits."""
    sample = images.take(range(0, len(images), -(-len(images) // 10_000)))
    std, mean = torch.std_mean(sample.double().div_(255), dim=(0, 2, 3), correction=0)
    size = asdict(architecture)
    return {
        "model": size.pop("name"),
        "dataset": dataset,
        **size,
        "mean": mean.round(decimals=4).tolist(),
        "std": std.round(decimals=4).clamp(min=1e-4).tolist(),
        "data_fingerprint": images.fingerprint,
        "weights": "float16 (vectors float32)",
        "recipe": str(recipe),
    }


def per_channel(values: list[float]) -> Tensor:
    """One number a channel in the shape (C, 1, 1), float32."""
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)


def save(name: str, content: bytes, card: dict[str, Any], test: sets.ImageSet, device: torch.device) -> None:
    """Measure what the file will hold, then write weights and card; weights without a card are no teacher."""
    weights, path = folder() / f"{name}.safetensors", folder() / f"{name}.json"
    teacher = assemble(content, card | {"sha256": hashlib.sha256(content).hexdigest()}, weights)
    teacher.model.to(device)
    path.unlink(missing_ok=True)
    write_whole(weights, content)
    write_whole(path, json.dumps(teacher.card | {"test_accuracy": accuracy(teacher, test)}, indent=1) + "\n")


@torch.inference_mode()
def accuracy(teacher: Teacher, images: sets.ImageSet, batch: int = 500) -> float:
    """Top-1 in 0-1, in float32, on the device that the teacher's weights are on."""
    device = next(teacher.model.parameters()).device
    right = sum(
        int((teacher.model(teacher.normalise(x.to(device))).argmax(1).cpu() == y).sum())
        for x, y in images.batches(batch)
    )
    return right / len(images)


def available() -> list[dict[str, Any]]:
    """The cards that are here, each with its ``name`` and, if it cannot be used as it is, a ``problem``."""
    cards = []
    for name in sorted({path.stem for path in (*folder().glob("[!.]*.json"), *SHIPPED.glob("*.json"))}):
        try:
            card = read_card(place(name) / f"{name}.json")
            if not exists(name):
                card["problem"] = f"{folder() / name}.safetensors is missing; copy it or train the teacher"
        except InputError as error:
            card = {"problem": str(error)}
        cards.append({"name": name, **card})
    return cards


def check(name: str, evaluate: bool = False) -> dict:
    """Verify one of :func:`available`: checksum, tensors, finite values; its card, with ``measured`` if evaluated.

    Raises :class:`InputError` as :func:`load` does; ``evaluate`` runs it on all test images.
    """
    teacher = read(name)
    if not evaluate:
        return teacher.card
    size = None if teacher.architecture.image_width else teacher.architecture.image_size
    images = sets.load(teacher.card["dataset"], "test", image_size=size)
    return teacher.card | {"measured": accuracy(teacher, images)}


def _command(model: str, width: float, dataset: str, image_size: int | None) -> str:
    native = {"tiny-imagenet": 64, "imagenet": 224}.get(dataset, None if dataset.startswith(sets.FOLDER) else 32)
    size = "" if image_size in (None, native) else f" image_size={image_size}"
    return f"oefsmc teacher train {shlex.quote(f'dataset={dataset}')} model={model} width={width:g}{size}"
