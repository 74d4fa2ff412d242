"""What rows say about the paper: ``oefsmc verdict``, and the notebooks by ``figures`` and ``exercises``."""

import json
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from oefsmc_lib.cli.words import WIDTH, AsJson, Profile, print_short
from oefsmc_lib.errors import InputError
from oefsmc_lib.evidence import markdown as markdowns
from oefsmc_lib.evidence import paper
from oefsmc_lib.evidence import verdict as verdicts
from oefsmc_lib.notebook import exercises as courses
from oefsmc_lib.notebook import session
from oefsmc_lib.rows.store import Store

# The columns of Table 2 that are printed, and under which name.
TITLES = {"dataset": "data", "solver": "solver", "method": "compressor", "num": "images"}
TITLES |= {"seeds": "seeds", "native_ft": "base", "ours": "OE-FSMC", "gain": "gain", "verdict": "verdict"}
TITLES |= {"paper gain": "paper"}


def verdict(
    profile: Profile = "embedded",
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="print the tables of docs/results.md")] = False,
) -> None:
    """Say which claims of the paper hold in the stored rows, by a fixed rule, and show the cells behind it."""
    rows = verdicts.rows_by_grid(profile, Store())
    if markdown:
        print(markdowns.markdown(rows))
        return
    judged, cells = verdicts.judge(rows), verdicts.cells(rows.get("table2", ()))
    if as_json:
        claims = {j.name: {"verdict": j.verdict, "numbers": j.numbers} for j in judged}
        print(json.dumps({"claims": claims, "cells": json.loads(cells.to_json(orient="records"))}, indent=1))
        return
    if not any(rows.values()):
        command = f"oefsmc grid run --profile {profile}"
        raise InputError(f"The profile {profile} has no rows yet; compute some with `{command}`.")
    print(f"Claims of the paper in the rows of {profile}")
    for j in judged:
        numbers = f" Measured: {j.numbers}." if j.numbers else ""
        said = f"{j.verdict:<23}{j.claim.sentence} ({j.claim.where}){numbers}"
        print("\n" + textwrap.fill(said, WIDTH, subsequent_indent=" " * 23))
    if "gain" in cells:
        networks = ", ".join(sorted({f"{one} on {data}" for one, data in zip(cells["network"], cells["dataset"])}))
        cells["gain"] = [verdicts.interval(mean, half) for mean, half in zip(cells["gain"], cells["±"])]
        doubts = [paper.doubt_about(*cell) for cell in cells[["dataset", "method", "num"]].itertuples(index=False)]
        cells = cells[list(TITLES)].rename(columns=TITLES).round(1).astype(object)
        title = f"Table 2 ({networks}): top-1 in percent, the gain with half its 95 % interval, the paper's gain"
        print()
        print_short(title, list(cells.columns), cells.where(cells.notna(), None).values.tolist())
        for doubt in filter(None, doubts):
            print(textwrap.fill(f"Doubted ({doubt.where}): {doubt.sentence} {doubt.reason}", WIDTH))


def figures(
    profile: Profile = "embedded",
    only: Annotated[
        list[str] | None, typer.Option(help="a notebook by its number, such as 01; may be repeated")
    ] = None,
    rows_only: Annotated[
        bool, typer.Option("--rows-only", help="compute the rows that they read, and run none")
    ] = False,
) -> None:
    """Run the notebooks. Figures go to outputs/figures/, executed copies to outputs/executed/."""
    if not rows_only:
        session.run_all(profile, only)
    elif not session.fill(profile):
        raise typer.Exit(1)


def exercises(
    folder: Annotated[Path | None, typer.Option(help="where to; left out: notebooks/exercises")] = None,
) -> None:
    """Write the student versions of the notebooks, without solutions."""
    for path in courses.write_exercises(folder):
        print(path)
