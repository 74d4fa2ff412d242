"""The command line: ``oefsmc doctor | data | teacher | run | show | figures | grid | results``.

Every command is a thin layer over the library. Bad input ends in one sentence on standard error and
exit code 2. Torch loads only in the commands that compute.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from oefsmc_lib.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Compress a network with few, class-imbalanced images and out-of-distribution (OOD) images (OE-FSMC).",
)
data_app = typer.Typer(no_args_is_help=True, help="The image sets: which are here, how to get the others.")
teacher_app = typer.Typer(no_args_is_help=True, help="The networks to compress: train, list, check.")
grid_app = typer.Typer(no_args_is_help=True, help="Grids of experiments: check, list, status, run.")
results_app = typer.Typer(no_args_is_help=True, help="Stored rows: merge, pack, export.")
for name, part in (("data", data_app), ("teacher", teacher_app), ("grid", grid_app), ("results", results_app)):
    app.add_typer(part, name=name)

Settings = Annotated[list[str] | None, typer.Argument(help="switches as KEY=VALUE, e.g. num=20 fskd.rho=0.1")]
ProfileOption = Annotated[str | None, typer.Option("--profile", "-p", help="embedded, cifar10, cifar10+cpu, ...")]


def main() -> None:
    """Entry point: runs a command; an :class:`InputError` becomes its sentence and exit code 2."""
    try:
        app(standalone_mode=True)
    except InputError as error:
        print(f"oefsmc: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # `oefsmc show | head` closes the pipe early; that is no fault.
        sys.stderr.close()
        sys.exit(0)


def settings_of(pairs: list[str] | None) -> dict[str, Any]:
    """``["num=20", "ood_exclude=[bus, tank]"]`` -> plain values, read as YAML; a key that comes twice is refused."""
    found = {}
    for key, value in _pairs(pairs):
        if key in found:
            raise InputError(f"{key} is given twice, as {found[key]!r} and as {value!r}; leave one out.")
        found[key] = value
    return found


def alternatives_of(pairs: list[str] | None) -> dict[str, list]:
    """``["num=10", "num=20", "seed=0"]`` -> the values that each key may have."""
    found: dict[str, list] = {}
    for key, value in _pairs(pairs):
        found.setdefault(key, []).append(value)
    return found


def _pairs(pairs: list[str] | None):
    import yaml

    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError(f"{pair!r} is not KEY=VALUE; write for example num=20.")
        try:
            yield key.strip(), yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(
                f"The value of {key} is not readable ({value!r}); quote it, as in {key}='[a, b]'."
            ) from error


def print_table(title: str, columns: list[str], rows: list[list]) -> None:
    """A rich table; numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], (int, float)) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    # A pipe has no width; rows there must not be folded to 80 columns.
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(table)


@app.command()
def doctor() -> None:
    """Versions, device, folders, data and teachers: what is here, what is missing, how to get it."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from oefsmc_lib import files
    from oefsmc_lib.images import sets
    from oefsmc_lib.teacher import teachers

    rows = [["python", platform.python_version()]]
    for package in ("torch", "torchvision", "torch-pruning", "papermill", "jupyterlab", "snakemake"):
        try:
            rows.append([package, version(package)])
        except PackageNotFoundError:
            rows.append([package, "not installed; pip install -e '.[all]'"])
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows += [
        ["device", ", ".join(gpus) or f"CPU, {torch.get_num_threads()} threads"],
        ["data folder", f"{files.data_folder()} (OEFSMC_DATA)"],
        ["outputs", f"{files.outputs_folder()} (OEFSMC_OUTPUTS)"],
    ]
    print_table("This machine", ["what", "here"], rows)
    print_table(
        "Images",
        ["set", "found", "where", "get it with"],
        [
            [s["name"], "yes" if s["found"] else "no", s["where"], "" if s["found"] else s["command"]]
            for s in sets.sources()
        ],
    )
    _teacher_table(teachers)


def _teacher_table(teachers) -> None:
    cards = teachers.available()
    print_table(
        "Teachers",
        ["teacher", "test accuracy %", "problem"],
        [
            [c["name"], f"{100 * c['test_accuracy']:.2f}" if "test_accuracy" in c else None, c.get("problem")]
            for c in cards
        ]
        or [["none yet", None, "the embedded one is trained on first use (a minute)"]],
    )


@data_app.command("list")
def data_list() -> None:
    """Every image set that the library knows, and where it looks for it."""
    from oefsmc_lib.images import sets

    print_table(
        "",
        ["set", "found", "what", "where"],
        [[s["name"], "yes" if s["found"] else "no", s["description"], s["where"]] for s in sets.sources()],
    )


@data_app.command("get")
def data_get(name: str) -> None:
    """Download a set, or build its cache; says what to do for one that cannot be downloaded."""
    from oefsmc_lib.images import sets

    print(f"{name}: {sets.get(name)}")


@data_app.command("check")
def data_check(name: str, image_size: int | None = None, skip_broken: bool = False) -> None:
    """Read a set whole: counts, shapes, fingerprint, images that do not decode."""
    from oefsmc_lib.images import sets

    print(json.dumps(sets.check(name, image_size=image_size, skip_broken=skip_broken), indent=1))


@teacher_app.command("train")
def teacher_train(
    settings: Settings = None,
    profile: ProfileOption = None,
    epochs: int | None = None,
    seed: int = 0,
    again: bool = False,
) -> None:
    """Train a teacher: dataset=... model=... [width=...] [image_size=...]. Resumes where it was killed."""
    from oefsmc_lib.parameters import profiles
    from oefsmc_lib.teacher import teachers

    chosen = settings_of(settings)
    unknown = sorted(set(chosen) - {"dataset", "model", "width", "image_size", "device"})
    if unknown:
        raise InputError(
            f"A teacher has no switch {unknown[0]!r}; it has dataset, model, width, image_size and device."
        )
    experiment = profiles.profile_for(chosen, profile).experiment(chosen)
    name = teachers.name_of(experiment.model, experiment.width, experiment.dataset)
    if teachers.exists(name) and not again:
        raise InputError(f"The teacher {name} is there already; --again trains it anew, which makes other rows.")
    teacher = teachers.train(
        experiment.dataset,
        experiment.model,
        experiment.width,
        image_size=experiment.image_size,
        epochs=epochs,
        seed=seed,
        device=experiment.device,
    )
    print(f"{name}: test accuracy {100 * teacher.card['test_accuracy']:.2f} %, in {teachers.folder()}")


@teacher_app.command("list")
def teacher_list() -> None:
    """The teachers in the data folder."""
    from oefsmc_lib.teacher import teachers

    _teacher_table(teachers)


@teacher_app.command("check")
def teacher_check(name: str, evaluate: Annotated[bool, typer.Option(help="run it on all test images")] = False) -> None:
    """Verify a teacher's checksum and weights."""
    from oefsmc_lib.teacher import teachers

    print(json.dumps(teachers.check(name, evaluate), indent=1))


@app.command()
def run(
    settings: Settings = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="a YAML file of switches")] = None,
    profile: ProfileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the whole row as JSON")] = False,
    save: Annotated[Path | None, typer.Option(help="write the student here")] = None,
    again: Annotated[bool, typer.Option(help="compute although the row is there")] = False,
) -> None:
    """One run, one row. Without a data set the embedded one; its defaults come from the data set's profile."""
    from oefsmc_lib.parameters import profiles
    from oefsmc_lib.rows.store import Store

    chosen = (profiles.read_yaml(file) if file else {}) | settings_of(settings)
    used = profiles.profile_for(chosen, profile)
    experiment = used.experiment(chosen, str(file) if file else "the settings")
    store = Store()
    rows = [] if again or save else store.find(experiment.key)
    if not rows:
        from oefsmc_lib import pipeline
        from oefsmc_lib.files import writable_folder

        writable_folder(store.folder / "rows")  # refused before the work, not after it
        student, row = pipeline.run(experiment, profile=used.name)
        store.write(row)
        if save:
            from oefsmc_lib.student import saved

            saved.save(student, save)
        rows = [row]
    if as_json:
        print(json.dumps(rows[0].flat()))
        return
    row = rows[0].flat()
    names = [
        "id",
        "dataset",
        "network",
        "method",
        "variant",
        "plan",
        "num",
        "seed",
        "teacher_accuracy",
        "top1",
        "balanced_accuracy",
        "head_accuracy",
        "tail_accuracy",
        "absent_accuracy",
        "macs_cut",
        "params_cut",
        "seconds_total",
        "device",
    ]
    print_table(
        f"Profile {row['profile']}; percent and seconds",
        ["what", "value"],
        [[n, round(row[n], 2) if isinstance(row[n], float) else row[n]] for n in names],
    )


@app.command()
def show(
    settings: Settings = None,
    profile: ProfileOption = None,
    grid_name: Annotated[str | None, typer.Option("--grid", help="only the rows of this grid")] = None,
    value: Annotated[str, typer.Option(help="the column to summarise")] = "top1",
) -> None:
    """Stored rows as a table: means over seeds with 95 % t-intervals. KEY=VALUE selects."""
    from oefsmc_lib.rows.store import Store

    if grid_name:
        from oefsmc_lib.engine import runs

        rows, absent = runs.stored(grid_name, profile or "embedded", Store())
    else:
        rows, absent = [r for r in Store().rows() if profile is None or r.profile == profile], []
    for key, wanted in settings_of(settings).items():
        if rows and all(key not in row.flat() for row in rows):
            raise InputError(f"No row has a switch {key!r}; try dataset, method, variant, num or seed.")
        rows = [row for row in rows if str(row.flat().get(key)) == str(wanted)]
    if not rows:
        raise InputError("No rows fit; compute some with `oefsmc run` or `oefsmc grid run`.")
    from oefsmc_lib.evidence.tables import summary, varying_columns

    by = varying_columns(rows)
    table = summary(rows, by, value)
    body = [
        [
            *(None if v != v else v for v in record[: len(by)]),
            int(record.n),
            round(record.mean, 2),
            "" if record.half != record.half else f"± {record.half:.2f}",
        ]
        for record in table.itertuples(index=False)
    ]
    print_table(f"{value}, mean over seeds and 95 % t-interval", [*by, "seeds", value, "95 %"], body)
    if absent:
        print(
            f"{len(absent)} runs of the grid are missing: oefsmc grid run {grid_name} --profile {profile or 'embedded'}"
        )


@app.command()
def figures(
    profile: ProfileOption = None,
    only: Annotated[list[str] | None, typer.Option(help="names of notebooks, e.g. 01")] = None,
    rows_only: Annotated[bool, typer.Option("--rows-only", help="compute what they read, and run none")] = False,
) -> None:
    """Run the notebooks: figures to outputs/figures/, executed copies to outputs/executed/."""
    from oefsmc_lib.notebook import session

    if rows_only:
        session.fill(profile or "embedded")
    else:
        session.run_all(profile or "embedded", only)


@app.command("verdict")
def print_verdict(
    profile: ProfileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="print claims and cells as JSON")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="print them as in the README")] = False,
) -> None:
    """Which claims of the paper hold in the stored rows of a profile, by the fixed rule, and every cell behind them."""
    from oefsmc_lib.evidence import markdown as pages
    from oefsmc_lib.evidence import verdict
    from oefsmc_lib.rows.store import Store

    rows = verdict.rows_by_grid(profile or "embedded", Store())
    if markdown:
        print(pages.markdown(rows))
        return
    judged, cells = verdict.judge(rows), verdict.cells(rows.get("table2", ()))
    if as_json:
        print(
            json.dumps(
                {
                    "claims": {j.name: {"verdict": j.verdict, "numbers": j.numbers} for j in judged},
                    "cells": json.loads(cells.to_json(orient="records")),
                },
                indent=1,
            )
        )
        return
    if not any(rows.values()):
        raise InputError(
            f"The profile {profile or 'embedded'} has no rows yet; compute some with "
            f"`oefsmc grid run --profile {profile or 'embedded'}`."
        )
    print_table(
        f"Claims, profile {profile or 'embedded'}",
        ["claim", "where", "verdict", "numbers"],
        [[j.name, j.claim.where, j.verdict, j.numbers] for j in judged],
    )
    shown = cells.round(2).astype(object).where(cells.notna(), None)
    print_table("Table 2: OE-FSMC − fine-tuned base, percent and points", list(shown.columns), shown.values.tolist())


@app.command()
def report(profile: ProfileOption = None) -> None:
    """One HTML page of executed notebooks, tables and verdict: outputs/report/PROFILE.html."""
    from oefsmc_lib.notebook import report as pages

    print(pages.write(profile or "embedded"))


@app.command()
def exercises(folder: Annotated[Path | None, typer.Option(help="instead of notebooks/exercises")] = None) -> None:
    """Write the student versions of the notebooks, without solutions."""
    from oefsmc_lib.notebook import exercises as courses

    for path in courses.write_exercises(folder):
        print(path)


GridName = Annotated[
    str | None, typer.Argument(help="a grid in params/grids, or a path; all of the profile's if left out")
]
Only = Annotated[list[str] | None, typer.Option(help="KEY=VALUE; repeated: every key must fit, with any of its values")]


@grid_app.command("check")
def grid_check(name: GridName = None, profile: ProfileOption = None) -> None:
    """Validate grids as a whole, with networks, plans and the sizes of OOD sources, and run nothing."""
    from oefsmc_lib.engine import runs
    from oefsmc_lib.parameters import grid
    from oefsmc_lib.rows.store import Store

    found = grid.chosen(name, profile or "embedded")
    runs.check_networks(e for each in found for e in each.experiments)
    notes = runs.check_sources(found, Store())
    for each in found:
        print(
            f"{each.name} ({each.profile.name}): {len(each.experiments)} runs in {len(each.cells())} cells, all valid"
        )
    for note in notes:
        print(f"note: {note}")


@grid_app.command("list")
def grid_list(name: GridName = None, profile: ProfileOption = None) -> None:
    """Cells, runs, done, missing, and an estimate of the time from stored rows."""
    from oefsmc_lib.engine import runs
    from oefsmc_lib.parameters import grid
    from oefsmc_lib.rows.store import Store

    store = Store()
    for found in grid.chosen(name, profile or "embedded"):
        absent, body = {e.key for e in runs.missing(found, store)}, []
        for label, experiments in found.cells().items():
            left = [e for e in experiments if e.key in absent]
            seconds = runs.estimate(left, store)
            body.append(
                [
                    label,
                    len(experiments),
                    len(experiments) - len(left),
                    len(left),
                    "" if not left else "unknown" if seconds is None else f"{seconds / 60:.1f} min",
                ]
            )
        print_table(f"{found.title} ({found.profile.name})", ["cell", "runs", "done", "missing", "estimate"], body)


@grid_app.command("status")
def grid_status(name: GridName = None, profile: ProfileOption = None) -> None:
    """Done, missing and failed runs by cell, and which cells are at work; of a failure the last line and the log."""
    from oefsmc_lib.engine import batches
    from oefsmc_lib.parameters import grid
    from oefsmc_lib.rows.store import Store

    store, failures = Store(), []
    for found in grid.chosen(name, profile or "embedded"):
        states = {cell.label: batches.state(cell, store) for cell in batches.cells([found])}
        print_table(
            f"{found.title} ({found.profile.name})",
            ["cell", "runs", "done", "missing", "failed", "now"],
            [
                [
                    label,
                    *(s[column] for column in ("runs", "done", "missing", "failed")),
                    "at work" if s["at_work"] else "",
                ]
                for label, s in states.items()
            ],
        )
        failures += [(label, s) for label, s in states.items() if s["failed"]]
    for label, s in failures:
        print(f"{label}: {s['last']}\n    {s['log']}")


@grid_app.command("run")
def grid_run(
    name: GridName = None,
    profile: ProfileOption = None,
    only: Only = None,
    jobs: Annotated[int, typer.Option(min=1, help="cells at a time")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would run")] = False,
    in_process: Annotated[bool, typer.Option("--in-process", help="without Jupyter")] = False,
) -> None:
    """Compute the missing rows of grids; can be killed at any moment and goes on where it was."""
    from oefsmc_lib.engine import batches, runs
    from oefsmc_lib.parameters import grid
    from oefsmc_lib.rows.store import Store

    if name is None and profile is None:
        raise InputError("Name a grid, as in `oefsmc grid run smoke`, or a profile for all of its grids.")
    if in_process and jobs > 1:
        raise InputError("--in-process runs one cell at a time; leave it or --jobs out.")
    found, store = grid.chosen(name, profile or "embedded", alternatives_of(only)), Store()
    todo = batches.cells(found, store)
    for each in found:
        print(
            f"{each.title} ({each.profile.name}): {len(each.experiments)} runs, {len(runs.missing(each, store))} missing"
        )
    if dry_run or not todo:
        for cell in todo:
            print("\n".join(f"  {runs.describe(experiment)}" for experiment in cell.experiments))
        return
    for note in runs.check_missing(found, store):
        print(f"note: {note}", file=sys.stderr)
    failed = batches.run_in_process(todo, store) if in_process else batches.run_cells(todo, jobs)
    if failed:
        again = f"{name or ''} --profile {profile or 'embedded'}".strip()
        print(
            f"{len(failed)} of {len(todo)} cells failed ({', '.join(failed)}), the others are done; `oefsmc grid status "
            f"{again}` says why, and the same command computes what is missing.",
            file=sys.stderr,
        )
        raise typer.Exit(1)


@grid_app.command("cell")
def grid_cell(
    name: str,
    cell: str,
    profile: ProfileOption = None,
    keys: Annotated[str, typer.Option(help="only these experiments, joined by commas")] = "",
    threads: Annotated[int | None, typer.Option(min=1, help="cores, unless OMP_NUM_THREADS is set")] = None,
    marker: Annotated[Path | None, typer.Option(help="write the row ids here once all are there")] = None,
    wait: Annotated[bool, typer.Option(help="for another runner of this cell")] = True,
) -> None:
    """Run one cell with papermill, as every engine does. Exits 1 with rows missing, 75 if another runner has it."""
    import os

    from oefsmc_lib.engine import batches, locks
    from oefsmc_lib.rows.store import Store

    chosen, store = batches.find_cell(name, profile or "embedded", cell, keys), Store()
    if threads:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads slow down a shared machine
    try:
        batches.run_cell(chosen, store, wait)
    except batches.CellFailed as error:
        print(f"oefsmc: {chosen.label}: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    except locks.Busy as error:
        raise typer.Exit(batches.BUSY) from error
    if marker:
        batches.write_marker(chosen, store, marker)


@results_app.command("merge")
def results_merge(folders: list[Path]) -> None:
    """Take in rows from other machines' folders; identical ones count once, conflicts are named."""
    from oefsmc_lib.rows import store as results

    new, same = results.merge(folders, results.Store())
    print(f"{new} new rows, {same} known ones")


@results_app.command("pack")
def results_pack(name: str, profile: ProfileOption = None) -> None:
    """Write a grid's rows as one tidy file, outputs/results/PROFILE-GRID.jsonl."""
    from oefsmc_lib.engine import runs
    from oefsmc_lib.rows import store as results

    store = results.Store()
    rows, absent = runs.stored(name, profile or "embedded", store)
    if not rows:
        raise InputError(f"The grid {name} has no rows yet; compute them with `oefsmc grid run {name}`.")
    path = store.folder / f"{profile or 'embedded'}-{name}.jsonl"
    results.pack(rows, path)
    print(f"{path}: {len(rows)} rows, {len(absent)} still missing")


def _rows_of(profile: str | None) -> list:
    """Stored rows that a profile, or a member of a union such as ``paper``, computed; all of them without one."""
    from oefsmc_lib.parameters import profiles
    from oefsmc_lib.rows import store as results

    named = {profile, *(profiles.union(profile) or ())} if profile else None
    return [row for row in results.Store().rows() if named is None or row.profile in named]


@results_app.command("check")
def results_check(
    profile: ProfileOption = None,
    count: Annotated[int, typer.Option(min=1, help="rows to compute again")] = 10,
    seed: Annotated[int, typer.Option(help="which rows")] = 0,
) -> None:
    """Compute some stored rows again: the same top-1 on the same device and versions, else within half a point."""
    from oefsmc_lib.engine import recheck

    drawn, differing = recheck.choose(_rows_of(profile), count, seed), 0
    for found in recheck.recheck(drawn):  # a line at a time: a run may take minutes
        row, differing = found.stored, differing + (not found.agrees)
        elsewhere = (
            f" (other {', '.join(found.differs_in)}: {recheck.TOLERANCE} points are allowed)"
            if found.differs_in
            else ""
        )
        print(
            f"{row.id} {row.method} {row.variant} num={row.num} seed={row.seed}: top-1 {row.top1:g} then, "
            f"{found.now.top1:g} now, {'agrees' if found.agrees else 'DIFFERS'}{elsewhere}",
            flush=True,
        )
    print(f"{len(drawn) - differing} of {len(drawn)} rows agree")
    if differing:
        raise typer.Exit(1)


@results_app.command("table")
def results_table(
    path: Path,
    profile: ProfileOption = None,
    grid_name: Annotated[str | None, typer.Option("--grid", help="only the rows of this grid")] = None,
    means: Annotated[bool, typer.Option("--means", help="mean, sd and 95 % interval over seeds")] = False,
) -> None:
    """Export stored rows as CSV: a line a run, or a line for all seeds of a setting."""
    from oefsmc_lib.evidence import tables
    from oefsmc_lib.parameters import grid
    from oefsmc_lib.rows import store as results

    if grid_name:
        wanted = {e.key for found in grid.chosen(grid_name, profile or "embedded") for e in found.experiments}
        rows = results.Store().rows(wanted)
    else:
        rows = _rows_of(profile)
    if not rows:
        raise InputError("No rows fit; compute some with `oefsmc run` or `oefsmc grid run`.")
    table = tables.means(rows) if means else tables.frame(rows)
    tables.to_csv(table, path)
    print(f"{path}: {len(table)} lines of {len(rows)} rows")
