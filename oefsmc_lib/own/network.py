"""A network that this package did not train: built by its name, filled from a checkpoint, and tried before any work."""

import hashlib
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oefsmc_lib.compressors import fskd, plans, surgery
from oefsmc_lib.errors import InputError
from oefsmc_lib.images.npz import first_line
from oefsmc_lib.parameters.parse import hint
from oefsmc_lib.teacher.networks import Architecture
from oefsmc_lib.teacher.teachers import Teacher, per_channel

OURS = ("vgg16", "resnet20", "resnet32", "resnet56")  # for 32x32 images
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "model_ema", "teacher")
NORMALISATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
SHOWN = 3  # names in a sentence about many


# --- by name -----------------------------------------------------------------------------------
def full_name(name: str) -> str:
    """The name under which an ``Architecture`` builds the network: as it is, or with ``timm:`` before it.

    This package's own names come first, torchvision's next. Raises :class:`InputError` for an unknown one.
    """
    from torchvision import models

    known = [*OURS, *models.list_models(module=models)]
    if ":" in name or name in known:
        return name
    try:
        from timm import list_models
    except ImportError:
        others = "; torchvision has none of this name, and timm is not installed (`pip install timm`)."
        raise InputError(f"Unknown model {name!r}{hint(name, known, others)}") from None
    if name in (more := list_models()):
        return f"timm:{name}"
    others = "; name one of torchvision or timm, or your own as module:function."
    raise InputError(f"Unknown model {name!r}{hint(name, [*known, *more], others)}")


def view_of(name: str, model: nn.Module, card: dict) -> dict[str, Any]:
    """``mean``, ``std``, ``size`` and ``margin`` (of the resize before the crop) that a network is known to expect.

    From a card beside the weights, timm's or the network's own configuration, or torchvision's transforms; what none
    of them says is left out.
    """
    if card:
        return {"mean": card["mean"], "std": card["std"], "size": card.get("image_size", 32), "margin": 1.0}
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if isinstance(config, Mapping) and {"mean", "std"} <= config.keys():
        size = {"size": config["input_size"][-1]} if "input_size" in config else {}
        margin = 1 / config.get("crop_pct", 1.0)
        return {"mean": list(config["mean"]), "std": list(config["std"]), "margin": margin} | size
    if ":" in name.removeprefix("torchvision:") or name in OURS:
        return {"size": 32} if name in OURS else {}
    from torchvision import models

    usual = models.get_model_weights(name.removeprefix("torchvision:")).DEFAULT.transforms()
    size = usual.crop_size[0]
    return {"mean": usual.mean, "std": usual.std, "size": size, "margin": usual.resize_size[0] / size}


def normalisation(words: str) -> tuple[list[float], list[float]]:
    """``imagenet`` or ``0.5,0.5,0.5/0.2,0.2,0.2`` -> mean and standard deviation by channel, of pixels in 0-1.

    >>> normalisation("0.5/0.25")
    ([0.5], [0.25])
    """
    if words in NORMALISATIONS:
        mean, std = NORMALISATIONS[words]
        return list(mean), list(std)
    try:
        found = [[float(number) for number in part.split(",")] for part in words.split("/")]
        mean, std = found
        fits = len(mean) == len(std) and min(std) > 0
    except ValueError:
        fits = False
    if not fits:
        raise InputError(
            f"--normalise {words!r} is neither one of {', '.join(NORMALISATIONS)} nor numbers by channel; write mean "
            "and deviation as in 0.5,0.5,0.5/0.25,0.25,0.25."
        )
    return mean, std


# --- weights -----------------------------------------------------------------------------------
def read_weights(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a checkpoint by name, and what was found around them; no pickled code is ever run.

    Safetensors, or torch's format with ``weights_only``. Raises :class:`InputError` for a missing or damaged file, one
    that wants to run code, and one without tensors.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}; check the path after --weights.")
    state: Any = _safetensors(path) if path.suffix == ".safetensors" else _plain(path)
    notes = []
    while isinstance(state, Mapping) and (inner := _wrapped(state)):
        notes.append(f"the weights lie under {inner!r} in {path.name}")
        state = state[inner]
    if not isinstance(state, Mapping):
        raise InputError(f"{path} holds a {type(state).__name__} and no tensors by name; save model.state_dict().")
    tensors = {str(name): tensor.detach() for name, tensor in state.items() if isinstance(tensor, Tensor)}
    if not tensors:
        raise InputError(f"{path} holds no tensors by name; save model.state_dict().")
    return tensors, notes


def _wrapped(state: Mapping) -> str | None:
    return next((key for key in WRAPPERS if isinstance(state.get(key), Mapping)), None)


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is no whole safetensors file ({first_line(error)}); copy it again.") from error


def _plain(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if wanted := re.search(r"(?:GLOBAL|global:?) ([\w.]+)", str(error)):
            raise InputError(
                f"{path} wants to run {wanted[1]} when it is read, which a checkpoint of tensors need not; save "
                "model.state_dict() with safetensors and name that file."
            ) from None
        raise InputError(f"{path} is no checkpoint of torch, or a damaged one; copy or save it again.") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is no checkpoint of torch ({first_line(error)}); copy or save it again.") from error


def without_prefix(state: dict[str, Tensor], wanted: set[str]) -> tuple[dict[str, Tensor], str]:
    """The tensors under the names that the network has, and the prefix that stood before them (``module.``).

    >>> without_prefix({"module.a": torch.ones(1), "epoch": torch.ones(1)}, {"a"})
    ({'a': tensor([1.])}, 'module.')
    """
    if len(wanted & state.keys()) > len(wanted) // 2:
        return state, ""
    probe = max(wanted, key=len)
    prefixes = [name.removesuffix(probe) for name in state if name.endswith(probe)]
    for prefix in sorted(prefixes, key=len):
        inside = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        if prefix and len(wanted & inside.keys()) > len(wanted) // 2:
            return inside, prefix
    return state, ""


def head_width(state: dict[str, Tensor], model: nn.Module, classes: int) -> int:
    """Classes that the weights' head has: ``classes``, or another number in which alone the tensors differ."""
    other = set()
    for name, mine in model.state_dict().items():
        theirs = state.get(name)
        if theirs is not None and theirs.shape != mine.shape:
            if mine.dim() == 0 or mine.shape[0] != classes or theirs.shape[1:] != mine.shape[1:]:
                return classes
            other.add(theirs.shape[0])
    return other.pop() if len(other) == 1 else classes


def fill(model: nn.Module, state: dict[str, Tensor], path: Path, name: str) -> None:
    """Load the tensors; an :class:`InputError` names those that are missing, in excess, of another shape or NaN."""
    wanted = {key: tensor for key, tensor in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    given = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    both = wanted.keys() & given.keys()
    shapes = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in both and given[key].shape != wanted[key].shape
    ]
    faults = {
        "it lacks": [key for key in wanted if key not in both],
        "it has beside them": [key for key in given if key not in both],
        "it has in another shape": shapes,
    }
    if said := [f"{words} {_few(keys)}" for words, keys in faults.items() if keys]:
        other = " (torchvision's VGG-16 is torchvision:vgg16)" if name == "vgg16" else ""
        raise InputError(f"The weights in {path} do not fit {name}: {'; '.join(said)}; name their network{other}.")
    if bad := [key for key in both if not torch.isfinite(given[key].float()).all()]:
        raise InputError(f"The tensor {sorted(bad)[0]} in {path} is not finite (NaN or infinity); save it again.")
    model.load_state_dict({key: tensor.to(wanted[key].dtype) for key, tensor in given.items()}, strict=False)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


# --- a teacher ---------------------------------------------------------------------------------
def load(
    name: str,
    weights: Path | None,
    classes: int | None,
    normalise: str | None = None,
    size: int | None = None,
) -> tuple[Teacher, float, list[str]]:
    """The network as a teacher, the margin of its resize before the crop, and what is to be said of it.

    ``classes`` is how many the folder has, None for what the weights' head has. Raises :class:`InputError` for a name
    that is unknown, weights that do not fit, a head of another width, and where ``size`` or ``normalise`` is needed.
    """
    name = full_name(name)
    if weights is None and name.partition(":")[0] in (name, "timm", "torchvision"):
        raise InputError(f"{name} has no weights of yours; name their file with --weights.")
    state, notes = read_weights(weights) if weights else ({}, [])
    card = _card(weights) if weights else {}
    stem = next((tensor for tensor in state.values() if tensor.dim() == 4), None)
    channels = stem.shape[1] if stem is not None else 3
    architecture = Architecture(name, classes or 10, channels, card.get("width", 1.0), size or 32)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        model = architecture.build()
        state, prefix = without_prefix(state, set(model.state_dict()))
        notes += [f"the prefix {prefix!r} stands before every name"] if prefix else []
        width = head_width(state, model, architecture.classes)
        if classes is None and width != architecture.classes:
            architecture = Architecture(name, width, channels, architecture.width, architecture.image_size)
            model = architecture.build()
    if classes is not None and width != classes:
        raise InputError(
            f"The head in {weights} has {width} outputs, but the folder has {classes} classes; give the folder a "
            f"subfolder for each of the {width} classes (it may be empty), or name weights with {classes} outputs."
        )
    if weights:
        fill(model, state, weights, name)
    known = view_of(name, model, card)
    if size is None and "size" not in known:
        raise InputError(f"The size of the images that {name} reads is not known; name it, as in --size 224.")
    if normalise is None and "mean" not in known:
        raise InputError(
            f"The normalisation that {name} was trained with is not known; name it, as in --normalise imagenet or "
            "--normalise 0.5,0.5,0.5/0.25,0.25,0.25."
        )
    side = size or known["size"]
    margin = known.get("margin", 1.0) if side == known.get("size") else 1.0
    mean, std = normalisation(normalise) if normalise else (known["mean"], known["std"])
    if len(mean) != channels:  # a gray network reads the luma, whose statistics are close to the channels' means
        mean, std = ([sum(values) / len(values)] * channels for values in (mean, std))
    architecture = Architecture(name, architecture.classes, channels, architecture.width, side)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights else ""
    about = {"model": name, "classes": architecture.classes, "mean": list(mean), "std": list(std), "sha256": digest}
    return described(model, architecture, about), margin, notes


def _card(weights: Path) -> dict:
    """This package's card beside its own teachers' weights; anything else is no card."""
    try:
        card = json.loads(weights.with_suffix(".json").read_text())
        return card if {"mean", "std", "sha256"} <= card.keys() else {}
    except (OSError, ValueError, AttributeError):
        return {}


def described(model: nn.Module, architecture: Architecture, card: dict) -> Teacher:
    """A network as a teacher: frozen, in eval mode, channels last."""
    model = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    mean, std = (per_channel(card[key]) for key in ("mean", "std"))
    return Teacher(model, architecture, card, card["sha256"], mean, std)


# --- can it be pruned? -------------------------------------------------------------------------
def prunable(teacher: Teacher) -> tuple[dict[str, list[str]], str]:
    """``{convolution: the layers that read its channels}`` that can be pruned, and a sentence about the others.

    Raises :class:`InputError`, before any work, for a network that cannot be run or traced (naming the layer), does
    not return class scores, runs a layer twice, or has nothing to prune.
    """
    model, architecture = teacher.model, teacher.architecture
    _try(model, architecture)
    order, _ = surgery.trace(model, architecture)
    try:
        groups = plans.inner_groups(model, architecture)
    except Exception as error:  # the tracer runs the network's own code, which may raise anything
        raise InputError(
            f"{architecture.name} cannot be traced by Torch-Pruning ({type(error).__name__}: {first_line(error)}); "
            "name a network of plain convolutions."
        ) from error
    groups = {name: groups[name] for name in order if name in groups and groups[name]}
    convolutions = [name for name in order if isinstance(model.get_submodule(name), nn.Conv2d)]
    reasons: dict[str, list[str]] = {}
    for name in convolutions:
        if name not in groups:
            reasons.setdefault(_reason(surgery.convolution(model, name)), []).append(name)
    said = "; ".join(f"{_few(names)} ({reason})" for reason, names in reasons.items())
    if not groups:
        why = f"it keeps whole: {said}" if said else f"it has no convolution (its first layer is {(order or ['?'])[0]})"
        raise InputError(f"{architecture.name} has no convolution whose channels can be removed; {why}.")
    _follow(teacher, convolutions, groups)
    kept = len(convolutions) - len(groups)
    return groups, f"{kept} of {len(convolutions)} convolutions keep all channels: {said}." if kept else ""


def _follow(teacher: Teacher, convolutions: list[str], groups: dict[str, list[str]]) -> None:
    """Prune a copy by half and see that every layer shrinks as the recovery expects."""
    full = {name: surgery.convolution(teacher.model, name).out_channels for name in convolutions}
    kept = {name: list(range(max(1, full[name] // 2))) for name in groups}
    pruned = surgery.pruned_copy(teacher, kept).model
    expected = fskd.kept_outputs(teacher.model, convolutions, kept)
    for name in convolutions:
        if surgery.convolution(pruned, name).out_channels != len(expected.get(name, range(full[name]))):
            raise InputError(
                f"The layer {name} of {teacher.architecture.name} shrinks with layers that are not before it, which "
                "the recovery cannot follow; name a network without such a layer."
            )


def _reason(conv: nn.Conv2d) -> str:
    if conv.groups == 1:
        return "a sum, a gate or the head reads its channels"
    return "depthwise: it follows the layer before it" if conv.groups == conv.in_channels else "grouped"


@torch.no_grad()
def _try(model: nn.Module, architecture: Architecture) -> None:
    """Run one image; names the layer that a fault came from."""
    entered = [""]
    names = {module: name for name, module in model.named_modules()}
    handles = [m.register_forward_pre_hook(lambda m, _: entered.append(names[m])) for m in model.modules()]
    try:
        scores = model(architecture.example().to(next(model.parameters()).device))
    except Exception as error:  # the network's own code may raise anything
        raise InputError(
            f"{architecture.name} cannot be run on an image of {architecture.channels}x{architecture.image_size}x"
            f"{architecture.image_size}: its layer {entered[-1] or 'forward'} raised {type(error).__name__} "
            f"({first_line(error)}); mend it, or name another --size."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(scores, Tensor) or scores.dim() != 2:
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise InputError(f"{architecture.name} returns {shape} and not class scores (N, classes); wrap it so.")
    if scores.shape[1] != architecture.classes:
        raise InputError(
            f"The head of {architecture.name} has {scores.shape[1]} outputs, but the images have "
            f"{architecture.classes} classes; they must be the same."
        )
