"""The switches of a run, as ``oefsmc run --help`` lists them.

Stages, defaults and explanations are those of the experiment's fields; there is no second list to keep.
"""

import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import yaml
from typer.core import TyperCommand

from oefsmc_lib.cli.words import WIDTH
from oefsmc_lib.parameters.experiment import Experiment
from oefsmc_lib.parameters.sections import Settings

LINE = re.compile(r"\n\n    # (.+)(?=\n)|\n    (\w+): .+? = \S.*?(?:  # (.+))?(?=\n)")


class Command(TyperCommand):
    """A command whose help ends with the switches."""

    def format_help(self, ctx, formatter):
        super().format_help(ctx, formatter)
        print(described())


def described() -> str:
    """Every switch under its stage, as ``name=default`` and what it is, in 80 columns."""
    lines = ["Switches by stage, with their defaults. A profile (params/*.yaml) changes some."]
    for stage, name, default, text in switches(Experiment):
        if stage:
            lines.append(f"\n{stage[0].upper()}{stage[1:]}")
        start = f"  {name}={default}".ljust(33) + " "
        lines += textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=" " * 34, break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def switches(model: type[Settings], section: str = "") -> Iterator[tuple[str, str, str, str]]:
    """(stage where a new one begins, name, default, explanation) of each field of an experiment or a section."""
    for stage, name, comment in _commented(model):
        field = model.model_fields[name]
        if inspect.isclass(field.annotation) and issubclass(field.annotation, Settings):
            yield from switches(field.annotation, f"{name}.")
            continue
        words = " | ".join(choices(field.annotation))
        text = "; ".join(part for part in (words, comment.replace("None:", "null:")) if part)
        default = yaml.safe_dump(field.default).removesuffix("...\n").strip() if field.default != () else "[]"
        yield stage, f"{section}{name}", default, text


def _commented(model: type[Settings]) -> Iterator[tuple[str, str, str]]:
    """(stage, field, comment beside it), read from the source of a section and of those that it extends."""
    for base in reversed(model.__mro__):
        stage = ""
        if issubclass(base, Settings) and base is not Settings:
            for found in LINE.finditer(inspect.getsource(base)):
                if found[2] in model.model_fields:
                    yield stage, found[2], found[3] or ""
                stage = found[1] or ""


def choices(annotation: Any) -> list[str]:
    """The words that a field may have; none where it takes numbers or any text."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [word for part in get_args(annotation) for word in choices(part)]
