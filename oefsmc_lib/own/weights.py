"""Trained weights from a file, without running pickled code, and whether they fit a network."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from oefsmc_lib.errors import InputError
from oefsmc_lib.images.npz import DAMAGE, first_line

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "model_ema", "teacher")
# What torch raises on bytes that are no checkpoint.
UNREADABLE: tuple[type[Exception], ...] = (*DAMAGE, RuntimeError, AssertionError)
SHOWN = 3  # names in a sentence about many


def read(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a checkpoint by name, and what was found around them; no pickled code is ever run.

    Safetensors, or torch's format with ``weights_only``. Raises :class:`InputError` for a missing or damaged file, one
    that wants to run code, and one without tensors.
    """
    if not path.is_file():
        what = "is a folder; name the file of weights in it" if path.is_dir() else "is not there; check the path"
        raise InputError(f"{path} {what} after --weights.")
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other versions of pickle
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = (
            f"wants to call {wanted[1]} when it is read" if wanted else "holds more than plain tensors, or is damaged"
        )
        raise InputError(
            f"{path} {what}; pickled code is never run here, so save model.state_dict() with safetensors and name that "
            "file."
        ) from None
    except UNREADABLE as error:
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
    if said := [f"{words} {some(keys)}" for words, keys in faults.items() if keys]:
        other = " (torchvision's VGG-16 is torchvision:vgg16)" if name == "vgg16" else ""
        raise InputError(f"The weights in {path} do not fit {name}: {'; '.join(said)}; name their network{other}.")
    if bad := [key for key in both if not torch.isfinite(given[key].float()).all()]:
        raise InputError(f"The tensor {sorted(bad)[0]} in {path} is not finite (NaN or infinity); save it again.")
    model.load_state_dict({key: tensor.to(wanted[key].dtype) for key, tensor in given.items()}, strict=False)


def some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
