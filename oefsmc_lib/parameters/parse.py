"""From plain settings to an experiment's fields, and from a fault to one sentence."""

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from oefsmc_lib.errors import InputError


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """``{"fskd": {"rho": 1}}`` -> ``{"fskd.rho": 1}``."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value}
    return found


def nest(settings: dict[str, Any], known: Iterable[str], where: str) -> dict[str, Any]:
    """``{"fskd.rho": 1}`` -> ``{"fskd": {"rho": 1}}``; an unknown key is refused with the nearest right one."""
    nested: dict[str, Any] = {}
    for key, value in flat(settings).items():
        if key not in known:
            raise InputError(f"Unknown key {key!r} in {where}; did you mean {nearest(key, known)}?")
        outer, _, inner = key.partition(".")
        (nested.setdefault(outer, {}) if inner else nested)[inner or outer] = value
    return nested


def nearest(word: Any, known: Iterable[str]) -> str:
    """The known word that is most like a mistyped one."""
    return (difflib.get_close_matches(str(word), list(known), n=1, cutoff=0) or ["none"])[0]


def sentence(error: ValidationError, where: str) -> str:
    """The first fault of a pydantic error as one sentence."""
    fault = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ")
    if not key:
        return f"In {where}, {message}."
    return f"In {where}, {key}={fault['input']!r} is not valid: {message[0].lower()}{message[1:]}."
