"""A network that this package did not train: built by its name, filled from a checkpoint, and tried before any work."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oefsmc_lib.compressors import fskd, inner, surgery
from oefsmc_lib.errors import InputError
from oefsmc_lib.images.npz import first_line
from oefsmc_lib.own.weights import fill, head_width, read, some, without_prefix
from oefsmc_lib.parameters.parse import hint
from oefsmc_lib.teacher.networks import Architecture
from oefsmc_lib.teacher.teachers import Teacher, described

OURS = ("vgg16", "resnet20", "resnet32", "resnet56")  # for 32x32 images
NORMALISATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


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
        return list(NORMALISATIONS[words][0]), list(NORMALISATIONS[words][1])
    try:
        mean, std = ([float(number) for number in part.split(",")] for part in words.split("/"))
        fits = len(mean) == len(std) and min(std) > 0
    except ValueError:
        mean, std, fits = [], [], False
    if not fits:
        raise InputError(
            f"--normalise {words!r} is neither one of {', '.join(NORMALISATIONS)} nor numbers by channel; write mean "
            "and deviation as in 0.5,0.5,0.5/0.25,0.25,0.25."
        )
    return mean, std


# --- a teacher ---------------------------------------------------------------------------------
def load(
    name: str, weights: Path | None, classes: int | None, normalise: str | None = None, size: int | None = None
) -> tuple[Teacher, float, list[str]]:
    """The network as a teacher, the margin of its resize before the crop, and what is to be said of it.

    ``classes`` is how many the folder has, None for what the weights' head has. Raises :class:`InputError` for a name
    that is unknown, weights that do not fit, a head of another width, and where ``size`` or ``normalise`` is needed.
    """
    name = full_name(name)
    if weights is None and name.partition(":")[0] in (name, "timm", "torchvision"):
        raise InputError(f"{name} has no weights of yours; name their file with --weights.")
    card = _card(weights) if weights else {}
    model, architecture, notes = _filled(name, weights, classes, card.get("width", 1.0), size)
    known, channels = view_of(name, model, card), architecture.channels
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
    digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights else ""
    about = {"model": name, "classes": architecture.classes, "mean": list(mean), "std": list(std), "sha256": digest}
    model = model.to(memory_format=torch.channels_last)
    return described(model, replace(architecture, image_size=side), about), margin, notes


def _filled(name: str, weights: Path | None, classes: int | None, width: float, size: int | None):
    """The network with its weights, its architecture, and what was said around them in the file."""
    state, notes = read(weights) if weights else ({}, [])
    stem = next((tensor for tensor in state.values() if tensor.dim() == 4), None)
    channels = stem.shape[1] if stem is not None else 3
    architecture = Architecture(name, classes or 10, channels, width, size or 32)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        model = architecture.build()
        state, prefix = without_prefix(state, set(model.state_dict()))
        notes += [f"the prefix {prefix!r} stands before every name"] if prefix else []
        head = head_width(state, model, architecture.classes)
        if classes is None and head != architecture.classes:
            architecture = replace(architecture, classes=head)
            model = architecture.build()
    if classes is not None and head != classes:
        raise InputError(
            f"The head in {weights} has {head} outputs, but the folder has {classes} classes; give the folder a "
            f"subfolder for each of the {head} classes (it may be empty), or name weights with {classes} outputs."
        )
    if weights:
        fill(model, state, weights, name)
    return model, architecture, notes


def _card(weights: Path) -> dict:
    """This package's card beside its own teachers' weights; anything else is no card."""
    try:
        card = json.loads(weights.with_suffix(".json").read_text())
        return card if {"mean", "std", "sha256"} <= card.keys() else {}
    except (OSError, ValueError, AttributeError):
        return {}


# --- can it be pruned? -------------------------------------------------------------------------
def prunable(teacher: Teacher) -> tuple[dict[str, list[str]], str]:
    """``{convolution: the layers that read its channels}`` that can be pruned, and a sentence about the others.

    Raises :class:`InputError`, before any work, for a network that cannot be run or traced (naming the layer), does
    not return class scores, runs a layer twice, or has nothing to prune.
    """
    model, architecture = teacher.model, teacher.architecture
    _try(model, architecture)
    order, _ = surgery.trace(model, architecture)
    traced = inner.groups(model, architecture)
    groups = {name: traced[name] for name in order if traced.get(name)}
    convolutions = [name for name in order if isinstance(model.get_submodule(name), nn.Conv2d)]
    reasons: dict[str, list[str]] = {}
    for name in convolutions:
        if name not in groups:
            reasons.setdefault(_reason(surgery.convolution(model, name)), []).append(name)
    said = "; ".join(f"{some(names)} ({reason})" for reason, names in reasons.items())
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
