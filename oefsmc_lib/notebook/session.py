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
from oefsmc_lib.files import outputs_folder, project_root, writable_folder
from oefsmc_lib.parameters import grid
from oefsmc_lib.parameters.experiment import EMBEDDED
from oefsmc_lib.rows.row import Row
from oefsmc_lib.rows.store import Store

# Grids that the notebooks read where the profile computes; another one would be computed by its notebook.
DRAWN = ("problem", "table2", "fig3a", "fig3b", "fig3c", "fig3d", "literal", "beyond")
MOST_NOTEBOOKS = 4  # at once: each kernel holds torch, pandas and pictures


class Book:
    """What a narrative notebook works with: its profile, its rows, and where its figures go."""

    def __init__(self, profile: str = "embedded", compute: bool | None = None):
        self.profile = grid.load_profile(profile)
        self.compute = self.profile.compute if not compute else True
        self.store = Store()

    def experiment(self, **settings):
        """An experiment of this profile."""
        return self.profile.experiment(settings)

    def rows(self, name: str, only: dict[str, Any] | None = None) -> list[Row]:
        """The rows of a grid under this profile, computed first where the profile computes.

        What is missing is said, with the command that computes it and an estimate.
        """
        if self.compute:
            from oefsmc_lib.engine import execute as parallel

            try:
                parallel.compute(
                    runs.missing(grid.load_grid(name, self.profile, only), self.store), self.store, self.profile.name
                )
            except runs.RunsFailed as error:
                print(error)
        rows, absent = runs.stored(name, self.profile, self.store, only)
        if absent:
            seconds = runs.estimate(absent, self.store)
            long = "an unknown time" if seconds is None else f"about {max(1, round(seconds / 60))} min"
            print(
                f"{len(absent)} of {len(absent) + len(rows)} runs are not in the store and are left out below; "
                f"compute them with `oefsmc grid run {name} --profile {self.profile.name}` ({long}), "
                "or set compute=True."
            )
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
        for name in (wanted.dataset, wanted.ood_source):
            if sets.locate(name) is None:
                print(
                    f"{name} is not in the data folder, so this cell is left out (`{commands.get(name, 'oefsmc doctor')}`)."
                )
                return False
        if wanted.dataset != EMBEDDED and not teachers.exists(
            teachers.name_of(wanted.model, wanted.width, wanted.dataset)
        ):
            print(
                "The profile's teacher is not in the data folder, so this cell is left out "
                f"(`oefsmc teacher train --profile {self.profile.name}`)."
            )
            return False
        return True

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
    print(
        f"oefsmc {__version__}, torch {torch.__version__}, Python {platform.python_version()}; {device}; "
        f"profile {book.profile.name}"
    )
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

    loaded = grid.load_profile(profile)
    chosen = [path for path in narrative() if not only or any(path.stem.startswith(name) for name in only)]
    if not chosen:
        raise InputError(
            f"No notebook starts with {only[0]!r}; there are {', '.join(path.stem for path in narrative())}."
        )
    folder = writable_folder(outputs_folder() / "executed" / profile)
    if loaded.compute and not only:
        fill(profile)
    # One notebook alone fills the cores itself.
    jobs = 1 if loaded.compute and only else min(locks.cores(), MOST_NOTEBOOKS)
    asked = [(path, folder / path.name, {"profile": profile}) for path in chosen]
    failed = []
    for number, (path, error) in enumerate(
        _one_by_one(asked) if jobs == 1 else parallel.each(_attempt, asked, jobs), 1
    ):
        print(f"[{number}/{len(chosen)}] {path.stem}", flush=True)
        if error:
            failed.append(error)
            print(f"    failed: {error}", file=sys.stderr)
    print(f"executed copies: {folder}\nfigures: {outputs_folder() / 'figures' / profile}")
    if failed:
        raise SystemExit(1)


def fill(profile: str) -> None:
    """Compute the rows that the notebooks of a profile read and the store lacks; none where the profile leaves that to grids."""
    from oefsmc_lib.engine import execute as parallel

    loaded, store = grid.load_profile(profile), Store()
    wanted = {e.key: e for name in DRAWN for e in grid.load_grid(name, loaded).experiments} if loaded.compute else {}
    if missing := runs.without_row(list(wanted.values()), store):
        print(f"{len(missing)} of {len(wanted)} rows are missing; computing them", flush=True)
        try:
            parallel.compute(missing, store, loaded.name)
        except runs.RunsFailed as error:
            print(error)  # the notebooks leave these out and say so


def _one_by_one(asked: Sequence[tuple]):
    for one in asked:
        print(f"{one[0].stem} ...", flush=True)
        yield _attempt(*one)


def _attempt(path: Path, into: Path, parameters: dict[str, Any]) -> tuple[Path, str | None]:
    """Run a notebook; the path, and why it failed if it did."""
    try:
        execute(path, into, parameters)
    except NotebookFailed as error:
        return path, str(error)
    return path, None
