"""What commands share: options, KEY=VALUE settings, and tables."""

import sys
import textwrap
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer

from oefsmc_lib.errors import InputError

_PROFILE = typer.Option("--profile", "-p", help="a profile in params/, such as embedded or cifar10")
Profile = Annotated[str, _PROFILE]
AnyProfile = Annotated[str | None, _PROFILE]  # for commands that do something else where it is left out
Settings = Annotated[list[str] | None, typer.Argument(help="switches as KEY=VALUE, such as num=20")]
OfGrid = Annotated[str | None, typer.Option("--grid", help="only the rows of this grid")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
WIDTH = 80  # columns of what is printed for people
WORD = 20  # letters of a word that a table keeps whole


def alternatives_of(pairs: list[str] | None) -> dict[str, list]:
    """``["num=10", "num=20", "seed=0"]`` -> the values that each key may have (:func:`.parse.value_of`)."""
    import yaml

    from oefsmc_lib.parameters.parse import value_of

    found: dict[str, list] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError(f"{pair!r} is not KEY=VALUE; write for example num=20.")
        try:
            found.setdefault(key.strip(), []).append(value_of(value))
        except yaml.YAMLError as error:
            raise InputError(
                f"The value of {key} is not readable ({value!r}); quote it, as in {key}='[a, b]'."
            ) from error
    return found


def settings_of(pairs: list[str] | None) -> dict[str, Any]:
    """``["num=20", "ood_exclude=[bus, tank]"]`` -> plain values; a key that comes twice is refused."""
    found = alternatives_of(pairs)
    for key, values in found.items():
        if len(values) > 1:
            raise InputError(f"{key} is given twice, as {values[0]!r} and as {values[1]!r}; leave one out.")
    return {key: values[0] for key, values in found.items()}


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence], width: int | None = None) -> None:
    """A rich table, numbers to the right, as wide as the terminal. A pipe has no width, so nothing is folded there."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    # Lines are broken between words; only words that are longer than WORD, such as paths, may be cut.
    words = [
        [word for cell in cells for word in str(cell).replace(" ± ", "_±_").split()] for cells in zip(columns, *rows)
    ]
    least = [max((len(word) for word in own if len(word) <= WORD), default=0) for own in words]
    if width and (excess := sum(least) + 2 * len(least) - 2 - width) > 0:
        least[least.index(max(least))] -= excess  # else the last column would be cut
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], (int, float)) for row in rows)
        justify: Literal["left", "right"] = "right" if numeric else "left"
        table.add_column(column, justify=justify, overflow="fold", min_width=least[index])
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    print(title + "\n")
    # What stands in a cell is a person's words, not rich's markup.
    Console(width=width or (None if sys.stdout.isatty() else 200), markup=False, emoji=False).print(table, "")


def print_short(title: str, columns: Sequence[str], rows: Sequence[Sequence]) -> None:
    """A table of 80 columns; what is the same in all of its rows stands once, above it."""
    same = [i for i in range(len(columns)) if len(rows) > 1 and len({row[i] for row in rows}) == 1]
    shown = [i for i in range(len(columns)) if i not in same]
    once = ", ".join(f"{columns[i]} {rows[0][i]}" for i in same if rows[0][i] is not None)
    title = "\n".join(textwrap.fill(line, WIDTH) for line in (title, once))
    print_table(title, [columns[i] for i in shown], [[row[i] for i in shown] for row in rows], WIDTH)
