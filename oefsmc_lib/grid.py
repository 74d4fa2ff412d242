"""Profiles and grids: YAML in ``params/`` becomes validated experiments, and rows that are missing become rows.

A profile is defaults of an :class:`Experiment` and named lists; a grid is blocks of products over
switches. ``cifar10+cpu`` lays the profile ``cpu`` over ``cifar10``. Nothing here decides a number:
the experiments carry every switch, and tables show exactly the rows that their grid expands to.
"""

import itertools
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oefsmc_lib.errors import InputError
from oefsmc_lib.experiment import Experiment, digest
from oefsmc_lib.paths import project_root
from oefsmc_lib.results import Row, Store


@dataclass(frozen=True)
class Profile:
    """Defaults of an experiment under one name; ``lists`` are what ``$name`` in a grid stands for."""

    name: str
    defaults: dict[str, Any] = field(default_factory=dict)
    lists: dict[str, list] = field(default_factory=dict)
    compute: bool = False

    def experiment(self, settings: dict[str, Any], where: str = "the settings") -> Experiment:
        """The profile's defaults with ``settings`` over them."""
        return Experiment.parse(_flat(self.defaults) | _flat(settings), where)


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; an :class:`InputError` names the file and the line that is wrong."""
    import yaml
    try:
        content = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line} is not readable as YAML ({getattr(error, 'problem', error)}).") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} should hold `key: value` lines, but holds {type(content).__name__}.")
    return content


def _names(folder: str) -> list[str]:
    return sorted(path.stem for path in (project_root() / folder).glob("*.yaml"))


def _find(folder: str, name: str, kind: str) -> Path:
    import difflib
    path = project_root() / folder / f"{name}.yaml"
    if not path.is_file():
        near = difflib.get_close_matches(name, _names(folder), n=1) or _names(folder)[:1]
        raise InputError(f"There is no {kind} {name!r} in {folder}/; did you mean {near[0] if near else 'none'}?")
    return path


def load_profile(name: str) -> Profile:
    """``embedded``, ``cifar10``, ``cifar10+cpu``, ...: later parts lie over earlier ones."""
    defaults: dict[str, Any] = {}
    lists: dict[str, list] = {}
    compute = False
    for part in name.split("+"):
        path = _find("params", part, "profile")
        content = read_yaml(path)
        unknown = sorted(set(content) - {"defaults", "lists", "compute"})
        if unknown:
            raise InputError(f"{path} has the unknown section {unknown[0]!r}; a profile has defaults, lists and compute.")
        defaults |= _flat(content.get("defaults") or {})
        lists |= content.get("lists") or {}
        compute = content.get("compute", compute)
    profile = Profile(name, defaults, lists, compute)
    profile.experiment({}, f"the profile {name}")
    return profile


def profile_for(settings: dict[str, Any], name: str | None = None) -> Profile:
    """The named profile; else the one of the settings' data set; else plain defaults; embedded for no data set."""
    if name:
        return load_profile(name)
    dataset = settings.get("dataset")
    if dataset is None:
        return load_profile("embedded")
    for candidate in _names("params"):
        content = read_yaml(project_root() / "params" / f"{candidate}.yaml").get("defaults") or {}
        if content.get("dataset") == dataset:
            return load_profile(candidate)
    return Profile("none")


@dataclass(frozen=True)
class Grid:
    """A named list of experiments, each once."""

    name: str
    profile: Profile
    title: str
    experiments: list[Experiment]

    def cells(self) -> dict[str, list[Experiment]]:
        """Experiments that share a teacher and a draw: all seeds and variants of one method, data set and num."""
        grouped: dict[str, list[Experiment]] = {}
        for experiment in self.experiments:
            mark = digest([experiment.dataset, experiment.model, experiment.width, experiment.method])
            label = f"{experiment.method}-{experiment.dataset}-{experiment.num}-{experiment.imbalance}-{mark[:4]}"
            grouped.setdefault(label, []).append(experiment)
        return grouped


def load_grid(name: str, profile: str | Profile = "embedded", only: dict[str, Any] | None = None) -> Grid:
    """Expand and validate a grid of ``params/grids`` (or a path to one) under a profile, as a whole.

    ``only`` keeps the experiments whose switches have these values.
    """
    profile = load_profile(profile) if isinstance(profile, str) else profile
    path = Path(name) if name.endswith((".yaml", ".yml")) else _find("params/grids", name, "grid")
    content = read_yaml(path)
    unknown = sorted(set(content) - {"title", "blocks"})
    if unknown or not isinstance(content.get("blocks"), list):
        raise InputError(f"{path} needs a list `blocks`, and may have a `title`"
                         + (f"; it has {unknown[0]!r}." if unknown else "."))
    found: dict[str, Experiment] = {}
    for number, block in enumerate(content["blocks"], 1):
        where = f"{path.name}, block {number}"
        for experiment in _expand(block, profile, where):
            found.setdefault(experiment.key, experiment)
    experiments = [e for e in found.values() if _matches(e, only or {})]
    return Grid(path.stem, profile, content.get("title", path.stem), experiments)


def _expand(block: Any, profile: Profile, where: str) -> Iterable[Experiment]:
    if not isinstance(block, dict):
        raise InputError(f"In {where}, a block should hold `switch: value` pairs, but holds {type(block).__name__}.")
    axes = []
    for key, value in _flat(block).items():
        if isinstance(value, str) and value.startswith("$"):
            if value[1:] not in profile.lists:
                raise InputError(f"In {where}, {key} asks for the list {value}, which the profile {profile.name} "
                                 f"does not have; it has {', '.join(profile.lists) or 'none'}.")
            value = profile.lists[value[1:]]
        # A switch whose value is itself a list (ood_exclude) is written as a list of lists.
        axes.append([(key, item) for item in (value if isinstance(value, list) else [value])])
    for combination in itertools.product(*axes):
        settings = dict(combination)
        yield profile.experiment(_relative(settings, where), where)


def _relative(settings: dict[str, Any], where: str) -> dict[str, Any]:
    """``m: 2M`` stands for twice the few images, ``m: M/2`` for half."""
    m = settings.get("m")
    if isinstance(m, str) and "M" in m and isinstance(settings.get("num"), int):
        factor, _, divisor = m.partition("M")
        try:
            size = int(settings["num"] * (float(factor) if factor else 1) / (float(divisor[1:]) if divisor else 1))
        except ValueError as error:
            raise InputError(f"In {where}, m={m!r} is not a number of images; write 20, 2M or M/2.") from error
        return settings | {"m": size}
    return settings


def _matches(experiment: Experiment, only: dict[str, Any]) -> bool:
    have = _flat(experiment.model_dump())
    for key, value in only.items():
        if key not in have:
            raise InputError(f"--only names the unknown switch {key!r}.")
        if str(have[key]) != str(value):
            return False
    return True


def missing(grid: Grid, store: Store) -> list[Experiment]:
    """Experiments of the grid that have no row yet; a row that cannot be read counts as none."""
    have = {row.key for row in store.rows([e.key for e in grid.experiments], on_error="warn")}
    return [experiment for experiment in grid.experiments if experiment.key not in have]


def compute(experiments: Iterable[Experiment], store: Store, profile: str, again: bool = False) -> list[Row]:
    """Run what is missing, in this process, and write each row as it is finished."""
    from oefsmc_lib import pipeline
    from oefsmc_lib.progress import bar
    experiments, shared, rows = list(experiments), pipeline.Shared(), []
    for experiment in bar(_in_sharing_order(experiments), "runs"):
        found = store.find(experiment.key, on_error="warn") if not again else []
        if not found:
            _, row = pipeline.run(experiment, shared, profile)
            store.write(row)
            found = [row]
        rows += found
    return rows


def _in_sharing_order(experiments: list[Experiment]) -> list[Experiment]:
    """Variants that recover the same student next to each other, seed by seed."""
    return sorted(experiments, key=lambda e: (e.dataset, e.method, e.num, e.imbalance, e.seed,
                                              digest(e.recovery_switches()), e.variant))


def rows_for(name: str, profile: str | Profile, store: Store | None = None, run_missing: bool | None = None,
             only: dict[str, Any] | None = None) -> tuple[list[Row], list[Experiment]]:
    """A grid's rows and what is still missing; computes it first where the profile says so."""
    store = store or Store()
    grid = load_grid(name, profile, only)
    if grid.profile.compute if run_missing is None else run_missing:
        compute(missing(grid, store), store, grid.profile.name)
    rows = store.rows([experiment.key for experiment in grid.experiments], on_error="warn")
    return rows, missing(grid, store)


def estimate(experiments: Iterable[Experiment], store: Store) -> float | None:
    """Seconds that these runs will take, from stored rows of the same method, network and device; None if none."""
    known: dict[tuple, list[float]] = {}
    for row in store.rows(on_error="warn"):
        known.setdefault((row.method, row.dataset), []).append(row.seconds_total)
    total = 0.0
    for experiment in experiments:
        times = known.get((experiment.method, experiment.dataset))
        if times is None:
            return None
        total += statistics.median(times)
    return total
