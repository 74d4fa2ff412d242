"""From text to plain settings, from these to an experiment's fields, and from a fault to one sentence."""

import difflib
import re
from collections.abc import Iterable
from typing import Any

import yaml
from pydantic import ValidationError

from oefsmc_lib.errors import InputError


class Loader(yaml.SafeLoader):
    """YAML as people write it (the core schema of YAML 1.2): ``010`` is 10, ``1e-4`` a number, and ``no`` a word.

    PyYAML reads YAML 1.1, where they are 8, a text and false. A key that comes twice is refused instead of overwritten.
    """

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012  # PyYAML's own attribute; filled below

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.MarkedYAMLError(problem=f"the key {twice[0]} comes twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _starts in (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?\d+", "-+0123456789"),
    ("float", r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
):
    _first = [*_starts, *([""] if _tag == "null" else [])]
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)
Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))


def from_yaml(text: str) -> Any:
    """What a YAML text says; raises ``yaml.YAMLError``.

    >>> from_yaml("{seed: 010, lr: 1e-4, ood_exclude: [no]}")
    {'seed': 10, 'lr': 0.0001, 'ood_exclude': ['no']}
    """
    try:
        return yaml.load(text, Loader)  # a safe loader
    except (ValueError, RecursionError) as error:  # characters, digits or brackets without end
        raise yaml.MarkedYAMLError(problem=str(error)) from error


def value_of(text: str) -> Any:
    """The value of ``KEY=VALUE``: brackets and quotes are YAML, all else is one number or word as it stands.

    >>> value_of("[1, 2]"), value_of("010"), value_of("folder:/my/set #1: b")
    ([1, 2], 10, 'folder:/my/set #1: b')
    """
    text = text.strip()
    if text[:1] in {"[", "{", "'", '"'}:
        return from_yaml(text)
    tag = Loader("").resolve(yaml.ScalarNode, text, (True, False))
    return text if tag.endswith(":str") else from_yaml(text)


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
    if fault["type"] == "string_type" and not isinstance(fault["input"], list | dict):
        message += f", and YAML reads this as something else; write it in quotes, as in '\"{fault['input']}\"'"
    given = repr(fault["input"])
    given = given if len(given) < 100 else f"{given[:100]}..."
    return f"In {where}, {key}={given} is not valid: {message[0].lower()}{message[1:]}."
