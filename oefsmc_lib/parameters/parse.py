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
            others = "; `oefsmc run --help` lists them all."
            raise InputError(f"Unknown key {key!r} in {where}{hint(key, known, others)}")
        outer, _, inner = key.partition(".")
        (nested.setdefault(outer, {}) if inner else nested)[inner or outer] = value
    return nested


def hint(word: Any, known: Iterable[str], otherwise: str | None = None) -> str:
    """The end of a sentence about a mistyped word: ``; did you mean num?``, where a known word is close or begins so.

    Where none is, ``otherwise``, or all known words.

    >>> hint("nun", ["num", "seed"]), hint("colour", ["num", "seed"])
    ('; did you mean num?', '; there are num, seed.')
    """
    known = list(known)
    near = difflib.get_close_matches(str(word), known, n=1) or [each for each in known if each.startswith(f"{word}")]
    if near and str(word):
        return f"; did you mean {near[0]}?"
    return otherwise or f"; there are {', '.join(known) or 'none'}."


def sentence(error: ValidationError, where: str) -> str:
    """The first fault of a pydantic error as one sentence."""
    fault = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ")
    if not key:
        return f"In {where}, {message}."
    return f"In {where}, {key}={fault['input']!r} is not valid: {message[0].lower()}{message[1:]}."
