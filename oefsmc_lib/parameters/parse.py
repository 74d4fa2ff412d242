"""From plain settings to an experiment's fields, and from a fault to one sentence."""

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError

from oefsmc_lib.errors import InputError


def dotted(model: type[BaseModel]) -> list[str]:
    """Every key of a model, dotted: ``num``, ``fskd.rho``, ..."""
    keys = []
    for name, field in model.model_fields.items():
        inner = type(field.default).model_fields if isinstance(field.default, BaseModel) else None
        keys += [name] if inner is None else [f"{name}.{each}" for each in inner]
    return keys


def nest(settings: dict[str, Any], known: list[str], where: str) -> dict[str, Any]:
    """``{"fskd.rho": 1}`` -> ``{"fskd": {"rho": 1}}``; unknown keys are refused with the nearest right one."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value}
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else "; see `oefsmc run --help`"
            raise InputError(f"Unknown key {key!r} in {where}{hint}")
        outer, _, inner = key.partition(".")
        if inner:
            nested.setdefault(outer, {})[inner] = value
        else:
            nested[outer] = value
    return nested


def sentence(error: ValidationError, where: str) -> str:
    """The first fault of a pydantic error as one sentence."""
    fault = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ")
    if not key:
        return f"In {where}, {message}."
    return f"In {where}, {key}={fault['input']!r} is not valid: {message[0].lower()}{message[1:]}."
