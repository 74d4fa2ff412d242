"""Profiles: YAML in ``params/`` with defaults of an :class:`Experiment` and named lists.

``cifar10+cpu`` lays the profile ``cpu`` over ``cifar10``. A union (``paper``) names profiles and the
grids that each of them computes; it has no defaults of its own.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oefsmc_lib.errors import InputError
from oefsmc_lib.files import project_root
from oefsmc_lib.parameters.experiment import Experiment
from oefsmc_lib.parameters.parse import flat, from_yaml, hint

SECTIONS = {"defaults": dict, "lists": dict, "compute": bool, "grids": list}


@dataclass(frozen=True)
class Profile:
    """Defaults of an experiment under one name; ``lists`` are what ``$name`` in a grid stands for."""

    name: str
    defaults: dict[str, Any] = field(default_factory=dict)
    lists: dict[str, list] = field(default_factory=dict)
    compute: bool = False
    grids: list[str] | None = None  # None: every grid but smoke

    def experiment(self, settings: dict[str, Any], where: str = "the settings") -> Experiment:
        """The profile's defaults with ``settings`` over them."""
        return Experiment.parse(flat(self.defaults) | flat(settings), where)

    def listed(self) -> list[str]:
        """The names of its grids."""
        return [name for name in names("params/grids") if name != "smoke"] if self.grids is None else self.grids


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; an :class:`InputError` names the file and the line that is wrong."""
    import yaml

    try:
        content = from_yaml(Path(path).read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, IsADirectoryError) as error:
        what = "is a folder and no YAML file" if Path(path).is_dir() else "is not there"
        raise InputError(f"{path} {what}; check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line} is not readable as YAML ({getattr(error, 'problem', error)}).") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} should hold `key: value` lines, but holds {type(content).__name__}.")
    return content


def names(folder: str) -> list[str]:
    """The YAML files of ``params`` or ``params/grids``, without their ending."""
    return sorted(path.stem for path in (project_root() / folder).glob("*.yaml"))


def find(folder: str, name: str, kind: str) -> Path:
    """The file of a profile or grid; refused with the nearest right name."""
    path = project_root() / folder / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"There is no {kind} {name!r} in {folder}/{hint(name, names(folder))}")
    return path


def _sections(path: Path) -> dict[str, Any]:
    """A profile's sections, each of its type; an empty one is left out."""
    content = read_yaml(path)
    if "profiles" in content:
        raise InputError(
            f"The profile {path.stem} is a union of grids and holds no settings of its own; "
            f"name one of {', '.join(content['profiles'] or ['none'])}."
        )
    for key, value in content.items():
        if key not in SECTIONS:
            raise InputError(f"{path} has the unknown section {key!r}{hint(key, SECTIONS)}")
        if value is not None and not isinstance(value, SECTIONS[key]):
            raise InputError(f"In {path}, {key} should be a {SECTIONS[key].__name__}, but is {value!r}.")
    return {key: value for key, value in content.items() if value is not None}


def load_profile(name: str) -> Profile:
    """``embedded``, ``cifar10``, ``cifar10+cpu``, ...: later parts lie over earlier ones."""
    merged: dict[str, Any] = {"defaults": {}, "lists": {}}
    for part in name.split("+"):
        content = _sections(find("params", part, "profile"))
        content["defaults"] = merged["defaults"] | flat(content.get("defaults", {}))
        merged |= content | {"lists": merged["lists"] | content.get("lists", {})}
    profile = Profile(name, **merged)
    profile.experiment({}, f"the profile {name}")
    return profile


def profile_for(settings: dict[str, Any], name: str | None = None) -> Profile:
    """The named profile; else the one of the settings' data set; else plain defaults; embedded for no data set."""
    dataset = settings.get("dataset")
    if name or dataset is None:
        return load_profile(name or "embedded")
    for candidate in names("params"):
        content = read_yaml(find("params", candidate, "profile")).get("defaults") or {}
        if content.get("dataset") == dataset:
            return load_profile(candidate)
    return Profile("none")


def union(name: str) -> dict[str, list[str]] | None:
    """``{profile: its grids}`` of a union such as ``paper``; None for a profile of its own."""
    path = project_root() / "params" / f"{name}.yaml"
    if not path.is_file() or "profiles" not in (content := read_yaml(path)):
        return None
    members = content["profiles"]
    fits = set(content) == {"profiles"} and isinstance(members, dict) and members
    if not fits or not all(isinstance(grids, list) and grids for grids in members.values()):
        raise InputError(f"{path} should hold `profiles:` alone, with a list of grids for each profile.")
    return members
