"""Notebooks as a person and as a batch run them: the first cell's greeting, rows, figures, papermill.

Papermill and Jupyter load only in the functions that execute notebooks.
"""

import os
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from oefsmc_lib.parameters import grid
from oefsmc_lib.errors import InputError
from oefsmc_lib.parameters.experiment import EMBEDDED
from oefsmc_lib.files import data_folder, outputs_folder, project_root, writable_folder
from oefsmc_lib.rows.store import Row, Store


# Grids that the notebooks read where the profile computes; another one would be computed by its notebook.
DRAWN = ("problem", "table2", "fig3a", "fig3b", "fig3c", "fig3d", "literal", "beyond")
MOST_NOTEBOOKS = 4                                         # at once: each kernel holds torch, pandas and pictures


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
                parallel.compute(grid.missing(grid.load_grid(name, self.profile, only), self.store), self.store,
                                 self.profile.name)
            except grid.RunsFailed as error:
                print(error)
        rows, absent = grid.rows_for(name, self.profile, self.store, False, only)
        if absent:
            seconds = grid.estimate(absent, self.store)
            long = "an unknown time" if seconds is None else f"about {max(1, round(seconds / 60))} min"
            print(f"{len(absent)} of {len(absent) + len(rows)} runs are not in the store and are left out below; "
                  f"compute them with `oefsmc grid run {name} --profile {self.profile.name}` ({long}), "
                  "or set compute=True.")
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
                print(f"{name} is not in the data folder, so this cell is left out (`{commands.get(name, 'oefsmc doctor')}`).")
                return False
        if wanted.dataset != EMBEDDED and not teachers.exists(teachers.name_of(wanted.model, wanted.width, wanted.dataset)):
            print("The profile's teacher is not in the data folder, so this cell is left out "
                  f"(`oefsmc teacher train --profile {self.profile.name}`).")
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
            figure.set_layout_engine("none")               # solved once; the SVG and the notebook's copy keep it
            figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})


def start_notebook(profile: str = "embedded", compute: bool | None = None) -> Book:
    """Print versions, device and profile, set the look of figures, and return the notebook's :class:`Book`."""
    import platform

    import torch

    from oefsmc_lib import __version__
    from oefsmc_lib.evidence import figures
    book = Book(profile, compute)
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"oefsmc {__version__}, torch {torch.__version__}, Python {platform.python_version()}; {device}; "
          f"profile {book.profile.name}")
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
    loaded = grid.load_profile(profile)
    chosen = [path for path in narrative() if not only or any(path.stem.startswith(name) for name in only)]
    if not chosen:
        raise InputError(f"No notebook starts with {only[0]!r}; there are "
                         f"{', '.join(path.stem for path in narrative())}.")
    folder = writable_folder(outputs_folder() / "executed" / profile)
    if loaded.compute and not only:
        fill(profile)
    # One notebook alone fills the cores itself.
    jobs = 1 if loaded.compute and only else min(parallel.cores(), MOST_NOTEBOOKS)
    asked = [(path, folder / path.name, {"profile": profile}) for path in chosen]
    failed = []
    for number, (path, error) in enumerate(_one_by_one(asked) if jobs == 1 else parallel.each(_attempt, asked, jobs), 1):
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
    if missing := grid.without_row(list(wanted.values()), store):
        print(f"{len(missing)} of {len(wanted)} rows are missing; computing them", flush=True)
        try:
            parallel.compute(missing, store, loaded.name)
        except grid.RunsFailed as error:
            print(error)                                   # the notebooks leave these out and say so


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


class NotebookFailed(RuntimeError):
    """A notebook raised, or its kernel died; the executed copy keeps the error."""

    def __init__(self, message: str, kernel_died: bool = False, traceback: str = ""):
        super().__init__(message)
        self.kernel_died, self.traceback = kernel_died, traceback


def execute(path: Path, into: Path, parameters: dict[str, Any]) -> None:
    """Run one notebook with papermill, in the notebook's own folder, with a progress bar on a terminal.

    Parameters are checked against the notebook's first (papermill itself only warns). Raises
    :class:`NotebookFailed`, and :class:`InputError` for a parameter that the notebook does not have
    and where the copy cannot be written.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError
    known = papermill.inspect_notebook(str(path))
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise InputError(f"{path.name} has no parameter {unknown[0]!r}; it has {', '.join(known)}.")
    # The kernel must read and write in this process's folders, though it starts in the notebook's.
    os.environ["OEFSMC_OUTPUTS"] = str(outputs_folder().resolve())
    os.environ["OEFSMC_DATA"] = str(data_folder().resolve())
    # The kernel talks to this process on loopback and says each time that it does so unencrypted.
    quiet = ["--IPKernelApp.log_level=ERROR"]
    try:
        papermill.execute_notebook(str(path), str(into), parameters, cwd=str(path.parent), start_timeout=300,
                                   progress_bar=sys.stderr.isatty(), kernel_name="python3", extra_arguments=quiet)
    except PapermillExecutionError as error:
        plain = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback))
        raise NotebookFailed(f"{path.name}: {error.ename}: {error.evalue} (see {into})", traceback=plain) from error
    except RuntimeError as error:
        # nbclient's DeadKernelError, or a kernel that never answered: killed, by memory or by hand.
        _keep_error(into, str(error))
        raise NotebookFailed(f"{path.name}: {error} (see {into})", kernel_died=True) from error
    except OSError as error:
        raise InputError(f"Cannot run {path.name} into {into}: {error.strerror or error}; make room or name another "
                         "folder with OEFSMC_OUTPUTS, and run again.") from error


def _keep_error(into: Path, message: str) -> None:
    """Papermill marks a cell that raised; a kernel that died leaves no mark, so it gets one here."""
    import nbformat
    if into.is_file():
        notebook = nbformat.read(into, as_version=4)
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(f"**The run ended here with an error:** {message}"))
        nbformat.write(notebook, into)
