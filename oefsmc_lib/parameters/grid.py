"""Grids: YAML in ``params/grids`` becomes validated experiments.

A grid is blocks of products over switches, on a profile's defaults (:mod:`oefsmc_lib.parameters.profiles`). Nothing
here decides a number: the experiments carry every switch, and tables show exactly the rows that their grid expands to.
"""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from oefsmc_lib.errors import InputError
from oefsmc_lib.files import expanded, short
from oefsmc_lib.parameters.experiment import Experiment, known_keys
from oefsmc_lib.parameters.keys import digest
from oefsmc_lib.parameters.parse import flat, hint
from oefsmc_lib.parameters.profiles import Profile, find, load_profile, read_yaml, union


@dataclass(frozen=True)
class Grid:
    """A named list of experiments, each once."""

    name: str
    profile: Profile
    title: str
    experiments: list[Experiment]
    source: str  # what load_grid takes, from any folder: a name or a path

    def batches(self) -> dict[str, list[Experiment]]:
        """Experiments that share a teacher and a draw: all seeds and variants of one method, data set and num."""
        grouped: dict[str, list[Experiment]] = {}
        for e in self.experiments:
            mark = digest([e.dataset, e.model, e.width, e.method])[:4]
            dataset = short(re.sub(r"\W+", "_", e.dataset))  # folder:PATH must not become a path
            grouped.setdefault(f"{e.method}-{dataset}-{e.num}-{e.imbalance}-{mark}", []).append(e)
        return grouped


def load_grid(name: str, profile: str | Profile = "embedded", only: dict[str, Any] | None = None) -> Grid:
    """Expand and validate a grid of ``params/grids`` (or a path to one) under a profile, as a whole.

    ``only`` keeps the experiments whose switches have these values; a list names several that will do.
    Raises :class:`InputError` with the file, the block and the switch at fault.
    """
    profile = load_profile(profile) if isinstance(profile, str) else profile
    own = name.endswith((".yaml", ".yml"))
    path = expanded(name).resolve() if own else find("params/grids", name, "grid")
    content = read_yaml(path)
    unknown = sorted(set(content) - {"title", "blocks"})
    if unknown or not isinstance(content.get("blocks"), list) or not content["blocks"]:
        has = f"; it has {unknown[0]!r}" if unknown else ""
        raise InputError(f"{path} needs a list `blocks`, and may have a `title`{has}.")
    found: dict[str, Experiment] = {}
    for number, block in enumerate(content["blocks"], 1):
        for experiment in _expand(block, profile, f"{path.name}, block {number}"):
            found.setdefault(experiment.key, experiment)
    for key in only or {}:
        if key not in known_keys():
            raise InputError(f"--only names the unknown switch {key!r}{hint(key, known_keys())}")
    kept = [e for e in found.values() if _matches(e, only or {})]
    return Grid(path.stem, profile, str(content.get("title", path.stem)), kept, str(path) if own else name)


def grids_of(profile: str) -> list[Grid]:
    """The grids of a profile: those that it or a union (``paper``) names; else all of ``params/grids`` but smoke."""
    return chosen(None, profile)


def chosen(name: str | None, profile: str, only: dict[str, Any] | None = None) -> list[Grid]:
    """A named grid under a profile, once for each member of a union; without a name, every grid of the profile.

    Raises :class:`InputError` where the union has no such grid, and where ``only`` leaves no experiment.
    """
    if (members := union(profile)) is None:
        loaded = load_profile(profile)
        pairs = [(loaded, each) for each in ([name] if name else loaded.listed())]
    else:
        pairs = [
            (load_profile(part), each) for part, grids in members.items() for each in grids if name in (None, each)
        ]
        if not pairs:
            raise InputError(
                f"The profile {profile} has no grid {name!r}{hint(name, itertools.chain(*members.values()))}"
            )
    found = [load_grid(each, part, only) for part, each in pairs]
    if only and not any(grid.experiments for grid in found):
        wanted = ", ".join(f"{key}={' or '.join(map(str, _listed(values)))}" for key, values in only.items())
        raise InputError(
            f"No experiment of {name or 'these grids'} ({profile}) has {wanted}; "
            "see `oefsmc grid run --dry-run` for those that it has."
        )
    return found


def _expand(block: Any, profile: Profile, where: str) -> Iterable[Experiment]:
    """The product of a block's switches."""
    if not isinstance(block, dict):
        raise InputError(f"In {where}, a block should hold `switch: value` pairs, but holds {type(block).__name__}.")
    axes = []
    for key, value in flat(block).items():
        if value == []:  # a profile's list may be empty: it leaves the block out
            raise InputError(f"In {where}, {key} is an empty list, which leaves the block without experiments.")
        if isinstance(value, str) and value.startswith("$"):
            if value[1:] not in profile.lists:
                raise InputError(
                    f"In {where}, {key} asks for the list {value}, which the profile {profile.name} "
                    f"does not have{hint(value, [f'${each}' for each in profile.lists])}"
                )
            value = profile.lists[value[1:]]
        # A switch whose value is itself a list (ood_exclude) is written as a list of lists.
        axes.append([(key, item) for item in _listed(value)])
    for combination in itertools.product(*axes):
        yield profile.experiment(_relative(dict(combination), where), where)


def _relative(settings: dict[str, Any], where: str) -> dict[str, Any]:
    """``m: 2M`` stands for twice the few images, ``m: M/2`` for half."""
    m, num = settings.get("m"), settings.get("num")
    if not (isinstance(m, str) and "M" in m and isinstance(num, int)):
        return settings
    if not (parts := re.fullmatch(r"(\d+(?:\.\d+)?)?M(?:/([1-9]\d*))?", m)):
        raise InputError(f"In {where}, m={m!r} is not a number of images; write 20, 2M or M/2.")
    return settings | {"m": int(num * float(parts[1] or 1) / int(parts[2] or 1))}


def _matches(experiment: Experiment, only: dict[str, Any]) -> bool:
    have = flat(experiment.model_dump()) | experiment.switches()  # the second with plan, m and n resolved
    return all(any(_same(have[key], value) for value in _listed(values)) for key, values in only.items())


def _listed(values: Any) -> list:
    return values if isinstance(values, list) else [values]


def _same(one: Any, other: Any) -> bool:
    try:
        return float(one) == float(other)  # 1e-4, which YAML reads as text, is 0.0001
    except (TypeError, ValueError):
        return str(one) == str(other)
