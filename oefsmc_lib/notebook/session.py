"""Notebooks as a person and as a batch run them: the first cell's greeting, rows, figures, papermill.

Papermill and Jupyter load only in the functions that execute notebooks.
"""

import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from oefsmc_lib.engine import runs
from oefsmc_lib.engine.kernels import NotebookFailed, execute
from oefsmc_lib.errors import InputError
from oefsmc_lib.evidence.paper import METHOD_NAMES as METHODS
from oefsmc_lib.files import outputs_folder, project_root, writable_folder
from oefsmc_lib.parameters import grid
from oefsmc_lib.parameters.experiment import ALGORITHM_VERSION, EMBEDDED, Experiment
from oefsmc_lib.parameters.profiles import Profile
from oefsmc_lib.rows.row import Row
from oefsmc_lib.rows.store import Store

# Grids that the notebooks read where the profile computes; another one would be computed by its notebook.
DRAWN = ("problem", "table2", "fig3a", "fig3b", "fig3c", "fig3d", "literal", "beyond")
MOST_NOTEBOOKS = 4  # at once: each kernel holds torch, pandas and pictures


class Book:
    """What a narrative notebook works with: its profile, its rows, and where its figures go."""

    def __init__(self, profile: str = "embedded", compute: bool | None = None):
        self.profile = grid.load_profile(profile)
        self.compute = compute or self.profile.compute
        self.store = Store()

    def experiment(self, **settings) -> Experiment:
        """An experiment of this profile."""
        return self.profile.experiment(settings)

    def rows(self, name: str, only: dict[str, Any] | None = None) -> list[Row]:
        """The rows of a grid under this profile, computed first where the profile computes.

        What is missing is said, with the command that computes it and an estimate.
        """
        asked = grid.load_grid(name, self.profile, only).experiments
        if self.compute:
            _compute(runs.missing(asked, self.store), self.store, self.profile)
        rows, absent = runs.stored(asked, self.store)
        if absent:
            seconds = runs.estimate(absent, self.store)
            long = "an unknown time" if seconds is None else f"about {max(1, round(seconds / 60))} min"
            print(
                f"{len(absent)} of {len(absent) + len(rows)} runs are not in the store and are left out below; "
                f"compute them with `oefsmc grid run {name} --profile {self.profile.name}` ({long}), "
                "or set compute=True."
            )
        return rows

    def committed(self, *grids: str, profile: str = "cifar10") -> list[Row]:
        """The rows of grids on real images that came with this package, for what is shown before the digits.

        Of a compressor and a training size that have at least half of a grid's rows. Under a profile of real images
        the list is empty, because the notebook shows that profile's own rows.
        """
        if self.profile.name != "embedded":
            return []
        asked = [grid.load_grid(name, profile).experiments for name in grids]
        rows = Store(project_root() / "outputs" / "results").rows({e.key for part in asked for e in part}, "warn")
        keys = {row.key for row in rows}
        sizes = {(e.method, e.num) for part in asked for e in part}
        wanted = [{e.key for e in part if (e.method, e.num) == size} for part in asked for size in sizes]
        ready = set().union(*(part for part in wanted if 2 * len(part & keys) >= len(part)))
        rows = [row for row in rows if row.key in ready]
        there = ", ".join(METHODS[method] for method in METHODS if any(row.method == method for row in rows))
        some = f" of {len(keys)}, without sizes that lack more than half of their runs" * (len(rows) < len(keys))
        said = f"rows that came with this package ({there}): {len(rows)}{some}"
        print(f"{profile}: {said if rows else 'no rows yet'}")
        return rows

    def pick(self, rows: Iterable[Row], **settings) -> list[Row]:
        """Of ``rows`` those of exactly these settings, every other switch at the profile's default, for any seed."""
        rows = list(rows)
        keys = {self.experiment(**settings, seed=seed).key for seed in {row.seed for row in rows}}
        return [row for row in rows if row.key in keys]

    def images_here(self) -> bool:
        """Whether the profile's images and teacher are on this machine; says what is missing and how to get it."""
        from oefsmc_lib.images import sets
        from oefsmc_lib.teacher import teachers

        wanted = self.experiment()
        commands = {source["name"]: source["command"] for source in sets.sources()}
        names = [name for name in (wanted.dataset, wanted.ood_source) if sets.locate(name) is None]
        missing = {name: commands.get(name, "oefsmc doctor") for name in names}
        teacher = teachers.name_of(wanted.model, wanted.width, wanted.dataset)
        if wanted.dataset != EMBEDDED and not teachers.exists(teacher):
            missing["The profile's teacher"] = f"oefsmc teacher train --profile {self.profile.name}"
        for name, command in missing.items():
            print(f"{name} is not in the data folder, so this cell is left out (`{command}`).")
        return not missing

    def may_run(self) -> bool:
        """Whether a cell may run networks: where the profile computes and its images are here; says so otherwise."""
        if not self.compute:
            print("This cell runs networks, which this profile leaves to the grid; set compute=True to run it here.")
        return self.compute and self.images_here()

    def save(self, figure, name: str) -> None:
        """Write a figure as PNG and SVG to ``outputs/figures/<profile>/``."""
        folder = writable_folder(outputs_folder() / "figures" / self.profile.name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # fonts without a glyph
            figure.savefig(folder / f"{name}.png", dpi=150, bbox_inches="tight")
            figure.set_layout_engine("none")  # solved once; the SVG and the notebook's copy keep it
            figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})


def start_notebook(profile: str = "embedded", compute: bool | None = None) -> Book:
    """Print versions, device and profile, set the look of figures, and return the notebook's :class:`Book`."""
    import platform

    import torch

    from oefsmc_lib import __version__
    from oefsmc_lib.evidence import figures

    book = Book(profile, compute)
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    versions = f"torch {torch.__version__}, Python {platform.python_version()}; {device}"
    print(f"oefsmc {__version__} (algorithm {ALGORITHM_VERSION}), {versions}; profile {book.profile.name}")
    figures.style()
    return book


def narrative() -> list[Path]:
    """The numbered notebooks, in reading order."""
    return sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def run_all(profile: str, only: Sequence[str] | None = None) -> None:
    """Execute the numbered notebooks under a profile: copies to ``outputs/executed/``, figures to ``outputs/figures/``.

    First the rows that the profile computes, all together, which fills the cores; then the notebooks,
    side by side. A notebook that fails does not stop the others; at the end the failed ones are named
    and the exit code is 1. Their executed copies hold the error.
    """
    from oefsmc_lib.engine import execute as parallel
    from oefsmc_lib.engine import locks

    computes = grid.load_profile(profile).compute
    starts = tuple(only or [""])
    chosen = [path for path in narrative() if path.stem.startswith(starts)]
    if not chosen:
        there = ", ".join(path.stem for path in narrative())
        raise InputError(f"No notebook starts with {starts[0]!r}; there are {there}.")
    folder = writable_folder(outputs_folder() / "executed" / profile)
    if computes and not only:
        fill(profile)
    # One notebook that computes fills the cores itself.
    jobs = 1 if computes and only else min(locks.cores(), MOST_NOTEBOOKS)
    asked = [(path, folder / path.name, {"profile": profile}) for path in chosen]
    print(f"running {', '.join(path.stem for path in chosen)}", flush=True)
    failed = 0
    for number, (name, error) in enumerate(parallel.each(_attempt, asked, jobs), 1):
        print(f"[{number}/{len(chosen)}] {name}", flush=True)
        if error:
            failed += 1
            print(f"    failed: {error}", file=sys.stderr)
    print(f"executed copies: {folder}\nfigures: {outputs_folder() / 'figures' / profile}")
    if failed:
        raise SystemExit(1)


def fill(profile: str) -> bool:
    """Compute the rows that a profile's notebooks read and lack, where the profile computes; False if some failed."""
    loaded, store = grid.load_profile(profile), Store()
    wanted = {e.key: e for name in DRAWN for e in grid.load_grid(name, loaded).experiments} if loaded.compute else {}
    if missing := runs.missing(wanted.values(), store):
        print(f"{len(missing)} of {len(wanted)} rows are missing; computing them", flush=True)
        _compute(missing, store, loaded)
    return not runs.missing(missing, store)


def _compute(experiments: list[Experiment], store: Store, profile: Profile) -> None:
    from oefsmc_lib.engine import execute as parallel

    try:
        parallel.compute(experiments, store, profile.name)
    except runs.RunsFailed as error:
        print(error)  # the notebooks leave these out and say so


def _attempt(path: Path, into: Path, parameters: dict[str, Any]) -> tuple[str, str | None]:
    """Run a notebook; its name, and why it failed if it did."""
    try:
        execute(path, into, parameters)
    except NotebookFailed as error:
        return path.stem, str(error)
    return path.stem, None
