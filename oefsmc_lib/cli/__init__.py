"""The command line ``oefsmc``: a thin layer over the library.

:mod:`machine` says what is here, :mod:`rows` makes and shows rows, :mod:`pages` shows what they say, :mod:`grids` runs
many, :mod:`ship` writes a student for a device, :mod:`latency` times networks. Bad input ends in one sentence on
standard error and exit code 2. Torch, pandas and Jupyter load only in the commands that need them, so that
``oefsmc --help`` is quick.
"""

import io
import sys
from typing import Annotated

import typer

from oefsmc_lib import __version__
from oefsmc_lib.cli import grids, latency, machine, own, pages, rows, ship, switches
from oefsmc_lib.errors import InputError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(machine.doctor)
app.command(cls=switches.Command)(rows.run)
for command in (rows.show, own.compress, ship.export, latency.latency, pages.verdict, pages.figures, pages.exercises):
    app.command()(command)
machine.teacher.command("import")(own.teacher_import)
for name, group in (
    ("data", machine.data),
    ("teacher", machine.teacher),
    ("grid", grids.app),
    ("results", rows.results),
):
    app.add_typer(group, name=name)


def main() -> None:
    """Entry point: runs a command; an :class:`InputError` becomes its sentence and exit code 2."""
    for stream in (sys.stdout, sys.stderr):  # a terminal without ± or é gets a question mark in its place
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app(standalone_mode=True)
    except InputError as error:
        print(f"oefsmc: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # `oefsmc show | head` closes the pipe early, which is no fault.
        sys.stderr.close()
        sys.exit(0)


def _version(asked: bool) -> None:
    if asked:
        print(f"oefsmc {__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")]


@app.callback()
def oefsmc(version: Version = False) -> None:
    """Compress a network with few, class-imbalanced images and out-of-distribution (OOD) images (OE-FSMC)."""
