"""Rows: ``oefsmc run`` makes one, ``show`` and ``results`` are about those that are stored."""

import json
import math
import shlex
from pathlib import Path
from typing import Annotated

import typer

from oefsmc_lib.cli.words import AnyProfile, AsJson, OfGrid, Profile, Settings, print_short, print_table, settings_of
from oefsmc_lib.engine import recheck, runs
from oefsmc_lib.errors import InputError
from oefsmc_lib.evidence import tables
from oefsmc_lib.evidence.answers import BASE
from oefsmc_lib.files import writable_folder
from oefsmc_lib.parameters import grid, profiles
from oefsmc_lib.parameters.experiment import Experiment
from oefsmc_lib.rows import store
from oefsmc_lib.rows.row import Row

results = typer.Typer(no_args_is_help=True, help="Stored rows: merge, pack, check or export them.")

# What `run` prints of a row.
SHOWN: tuple[str, ...] = ("id", "dataset", "network", "method", "variant", "plan", "num", "seed", "teacher_accuracy")
SHOWN += ("top1", "balanced_accuracy", "head_accuracy", "tail_accuracy", "absent_accuracy", "macs_cut", "params_cut")
SHOWN += ("teacher_latency_ms", "latency_ms", "teacher_latency_64_ms", "latency_64_ms", "seconds_total", "device")
# What `show` has columns for, and under which name where it is another one.
COLUMNS = ("dataset", "network", "method", "num", "imbalance", "variant")
TITLES = {"dataset": "data", "method": "compressor", "num": "images"}


# --- one run -------------------------------------------------------------------------------------
def run(
    settings: Settings = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="a YAML file of switches; those on the command line count more")
    ] = None,
    profile: AnyProfile = None,
    as_json: AsJson = False,
    save: Annotated[Path | None, typer.Option(help="a folder to write the student to")] = None,
    again: Annotated[bool, typer.Option("--again", help="compute although the store has the row")] = False,
) -> None:
    """Compress a network once and store the outcome as one row.

    Without a data set, the embedded one is used. Defaults come from the profile of the data set.
    """
    chosen = (profiles.read_yaml(file) if file else {}) | settings_of(settings)
    used, rows = profiles.profile_for(chosen, profile), store.Store()
    experiment = used.experiment(chosen, str(file) if file else "the settings")
    found = [] if again or save else rows.find(experiment.key)
    row = found[0] if found else _compute(experiment, rows, used.name, save)
    flat = row.flat()
    if as_json:
        print(json.dumps(flat))
        return
    body = [[name, round(flat[name], 2) if isinstance(flat[name], float) else flat[name]] for name in SHOWN]
    print_table(f"Profile {row.profile}; percent and seconds", ["what", "value"], body)
    if found:
        print(f"The row comes from the store (written on {row.time[:10]}); --again computes it anew.")
    base = experiment.model_copy(update={"variant": BASE, "importance": "variant"})
    marks = row.teacher_sha256, row.data_fingerprint
    others = [r for r in rows.find(base.key, on_error="warn") if (r.teacher_sha256, r.data_fingerprint) == marks]
    for other in others if row.variant != BASE else []:
        points = f"{row.top1 - other.top1:+.2f}".replace("-", "−")
        print(f"The base ({BASE}, row {other.id}) has a top-1 of {other.top1:.2f}.\nThe difference is {points} points.")
    if not others:
        print(f"The base has no row of this draw yet; variant={BASE} makes it.")


def _compute(experiment: Experiment, rows: store.Store, profile: str, save: Path | None) -> Row:
    """Run an experiment and store its row; ``save`` is where the student is written to."""
    from oefsmc_lib import pipeline
    from oefsmc_lib.student import saved

    writable_folder(rows.folder / "rows")  # refused before the work, not after it
    student, row = pipeline.run(experiment, profile=profile)
    rows.write(row)
    if save:
        saved.save(student, save)
    return row


# --- stored rows ---------------------------------------------------------------------------------
def rows_of(profile: str | None, grid_name: str | None) -> tuple[list[Row], list[Experiment]]:
    """Stored rows of a grid, or of a profile or a union such as ``paper``, or all; and a grid's runs without a row."""
    if grid_name is None:
        named = {profile, *(profiles.union(profile) or ())} if profile else None
        return [row for row in store.Store().rows() if named is None or row.profile in named], []
    grids = grid.chosen(grid_name, profile or "embedded")
    return runs.stored([e for each in grids for e in each.experiments], store.Store())


def show(
    settings: Settings = None,
    profile: AnyProfile = None,
    grid_name: OfGrid = None,
    value: Annotated[str, typer.Option(help="the column to summarise, such as balanced_accuracy")] = "top1",
    everything: Annotated[bool, typer.Option("--all", help="give each switch that varies a column of its own")] = False,
) -> None:
    """Show stored rows: means over seeds with half their 95 % t-intervals. KEY=VALUE selects."""
    rows, absent = rows_of(profile, grid_name)
    for key, wanted in settings_of(settings).items():
        if rows and all(key not in row.flat() for row in rows):
            raise InputError(f"No row has a switch {key!r}; try dataset, method, variant, num or seed.")
        rows = [row for row in rows if str(row.flat().get(key)) == str(wanted)]
    _refuse_none(rows)
    title = f"{value}, mean over seeds ± half the 95 % t-interval"
    by, lines = tables.by_setting(rows, value)
    for line in lines:
        line[value] = " ± ".join(f"{line[name]:.2f}" for name in ("mean", "half") if not math.isnan(line[name]))
    if everything:
        columns = [*by, "seeds", value]
        print_table(title, columns, [[line[name] for name in columns] for line in lines])
    else:
        for line in (line for line in lines if line.get("m") == line["num"]):
            line["m"] = "M"  # as many OOD images as training images, at every training size
        columns = [*COLUMNS, "settings", "seeds", value]
        usual = tables.merge_settings(lines, [name for name in by if name not in COLUMNS])
        networks = sorted({f"{line['network']} on {line['dataset']}" for line in lines})
        if len(networks) == len({line["dataset"] for line in lines}) > 1:  # the network follows from the data
            columns.remove("network")
            title += f"; {', '.join(networks)}"
        usual = usual.replace("m=M", "m=M (the number of few images)")
        title += f"; where settings do not say otherwise, {usual}" * bool(usual)
        for data in dict.fromkeys(line["dataset"] for line in lines):
            body = [[line[name] for name in columns] for line in lines if line["dataset"] == data]
            print_short(title, [TITLES.get(name, name) for name in columns], body)
            title = ""
    if absent:
        command = f"oefsmc grid run {shlex.quote(grid_name or '')} --profile {profile or 'embedded'}"
        print(f"{len(absent)} runs of the grid are missing: {command}")


def _refuse_none(rows: list[Row]) -> None:
    if not rows:
        raise InputError("No rows fit; compute some with `oefsmc run` or `oefsmc grid run`.")


@results.command("merge")
def results_merge(folders: Annotated[list[Path], typer.Argument(help="folders with rows")]) -> None:
    """Take in rows from other folders. Identical rows count once; conflicts are named and stop it."""
    new, same = store.merge(folders, store.Store())
    print(f"{new} new rows, {same} known ones")


@results.command("pack")
def results_pack(
    name: Annotated[str, typer.Argument(help="a grid in params/grids")], profile: Profile = "embedded"
) -> None:
    """Write a grid's rows as one tidy file, outputs/results/PROFILE-GRID.jsonl."""
    rows, absent = rows_of(profile, name)
    if not rows:
        raise InputError(f"The grid {name} has no rows yet; compute them with `oefsmc grid run {shlex.quote(name)}`.")
    path = store.Store().folder / f"{profile}-{name}.jsonl"
    store.pack(rows, path)
    print(f"{path}: {len(rows)} rows, {len(absent)} still missing")


@results.command("check")
def results_check(
    profile: AnyProfile = None,
    count: Annotated[int, typer.Option(min=1, help="how many rows")] = 10,
    seed: Annotated[int, typer.Option(help="draws which rows")] = 0,
) -> None:
    """Compute some stored rows again and compare.

    The top-1 has to be the same on the same device and versions, and within half a point elsewhere.
    """
    drawn, agreeing = recheck.choose(rows_of(profile, None)[0], count, seed), 0
    for found in recheck.recheck(drawn):
        print(found, flush=True)  # a line at a time, because a run may take minutes
        agreeing += found.agrees
    print(f"{agreeing} of {len(drawn)} rows agree")
    if agreeing < len(drawn):
        raise typer.Exit(1)


@results.command("table")
def results_table(
    path: Annotated[Path, typer.Argument(help="the CSV file to write")],
    profile: AnyProfile = None,
    grid_name: OfGrid = None,
    means: Annotated[bool, typer.Option("--means", help="write mean, sd and 95 % interval over seeds")] = False,
) -> None:
    """Export stored rows as CSV: a line for each run, or with --means one for all seeds of a setting."""
    rows, absent = rows_of(profile, grid_name)
    _refuse_none(rows)
    table = tables.summary(rows) if means else tables.frame(rows)
    tables.to_csv(table, path)
    print(f"{path}: {len(table)} lines of {len(rows)} rows" + (f", {len(absent)} still missing" if absent else ""))
