"""Grids of experiments: ``oefsmc grid check``, ``list``, ``status``, ``run`` and ``batch``."""

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from oefsmc_lib.cli.words import AnyProfile, Profile, alternatives_of, print_table
from oefsmc_lib.engine import batches, runs
from oefsmc_lib.errors import InputError
from oefsmc_lib.parameters import grid
from oefsmc_lib.rows.store import Store

app = typer.Typer(no_args_is_help=True, help="Grids of experiments: check, list, status, run or batch.")

GridName = Annotated[
    str | None, typer.Argument(help="a grid in params/grids, or a path; left out: all grids of the profile")
]
Only = Annotated[
    list[str] | None, typer.Option(help="KEY=VALUE, may be repeated; a run must fit every key, with any of its values")
]


@app.command("check")
def grid_check(name: GridName = None, profile: Profile = "embedded") -> None:
    """Check grids without running them: networks, plans, and the sizes of OOD sources."""
    found = grid.chosen(name, profile)
    runs.check_networks(e for each in found for e in each.experiments)
    runs.check_draws(e for each in found for e in each.experiments)
    notes = runs.check_sources(found, Store())
    for each in found:
        counts = f"{len(each.experiments)} runs in {len(each.batches())} batches"
        print(f"{each.name} ({each.profile.name}): {counts}, all valid")
    for note in notes:
        print(f"note: {note}")


@app.command("list")
def grid_list(name: GridName = None, profile: Profile = "embedded") -> None:
    """List batches: runs, those that are done or missing, and the time that is left, from stored rows."""
    store, columns = Store(), ["runs", "done", "missing"]
    for title, states in _states(name, profile, store):
        body = []
        for batch, state in states:
            seconds = runs.estimate(batch.missing(store), store)
            time = "unknown" if seconds is None else f"{seconds / 60:.1f} min" if state["missing"] else ""
            body.append([batch.label, *(state[column] for column in columns), time])
        print_table(title, ["batch", *columns, "estimate"], body)


@app.command("status")
def grid_status(name: GridName = None, profile: Profile = "embedded") -> None:
    """Show which batches are done, missing, failed or at work, and for each failure its log."""
    failures, columns = [], ["runs", "done", "missing", "failed"]
    for title, states in _states(name, profile, Store()):
        body = [[b.label, *(s[column] for column in columns), "at work" if s["at_work"] else ""] for b, s in states]
        print_table(title, ["batch", *columns, "now"], body)
        failures += [
            f"{batch.label}: {state['last']}\n    {state['log']}" for batch, state in states if state["failed"]
        ]
    for failure in failures:
        print(failure)


def _states(name: str | None, profile: str, store) -> Iterator[tuple[str, list]]:
    """The title of each grid, and its batches with their states."""
    for found in grid.chosen(name, profile):
        states = [(batch, batches.state(batch, store)) for batch in batches.of_grids([found])]
        yield f"{found.title} ({found.profile.name})", states


@app.command("run")
def grid_run(
    name: GridName = None,
    profile: AnyProfile = None,
    only: Only = None,
    jobs: Annotated[int, typer.Option(min=1, help="how many batches at a time")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would run, and run nothing")] = False,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="compute here, without papermill and Jupyter")
    ] = False,
) -> None:
    """Compute the missing rows of grids. It may be killed at any moment; the same command goes on."""
    if name is None and profile is None:
        raise InputError("Name a grid, as in `oefsmc grid run smoke`, or a profile for all of its grids.")
    if in_process and jobs > 1:
        raise InputError("--in-process runs one batch at a time; leave it or --jobs out.")
    found, store = grid.chosen(name, profile or "embedded", alternatives_of(only)), Store()
    todo = batches.of_grids(found, store)
    for each in found:
        left = len(runs.missing(each.experiments, store))
        print(f"{each.title} ({each.profile.name}): {len(each.experiments)} runs, {left} missing")
    if dry_run or not todo:
        for batch in todo:
            print("\n".join(f"  {runs.describe(experiment)}" for experiment in batch.experiments))
        return
    for note in runs.check_missing(found, store):
        print(f"note: {note}", file=sys.stderr)
    if failed := batches.run(todo, store, jobs, in_process):
        again = f"oefsmc grid status {shlex.quote(name) if name else ''} --profile {profile or 'embedded'}".replace(
            "  ", " "
        )
        print(
            f"{len(failed)} of {len(todo)} batches failed ({', '.join(failed)}), the others are done; `{again}` "
            "says why, and the same command computes what is missing.",
            file=sys.stderr,
        )
        raise typer.Exit(1)


@app.command("batch")
def grid_batch(
    name: Annotated[str, typer.Argument(help="a grid in params/grids, or a path")],
    batch: Annotated[str, typer.Argument(help="a batch of it, as `oefsmc grid list` names them")],
    profile: Profile = "embedded",
    keys: Annotated[str, typer.Option(help="the keys of the only experiments to run, with commas")] = "",
    threads: Annotated[int | None, typer.Option(min=1, help="threads, unless OMP_NUM_THREADS is set")] = None,
    marker: Annotated[Path | None, typer.Option(help="a file for the row ids, once all are there")] = None,
    wait: Annotated[bool, typer.Option(help="wait for another runner of this batch")] = True,
) -> None:
    """Run one batch with papermill, as every engine does.

    It exits with 1 where rows are missing, and with 75 where another runner has the batch.
    """
    chosen, store = batches.find_batch(name, profile, batch, keys), Store()
    if threads:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads slow down a shared machine
    try:
        batches.run_batch(chosen, store, wait)
    except batches.BatchFailed as error:
        print(f"oefsmc: {chosen.label}: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    except batches.Busy as error:
        raise typer.Exit(batches.BUSY) from error
    if marker:
        batches.write_marker(chosen, store, marker)
