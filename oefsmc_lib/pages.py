"""Verdicts and comparisons as Markdown, as they stand in the README and in ``outputs/verdict.md``."""

import math
from collections.abc import Iterable, Mapping, Sequence

from oefsmc_lib import claims, paper, verdict
from oefsmc_lib.results import Row


def markdown(rows: Mapping[str, Sequence[Row]]) -> str:
    """The cells of Table 2 and the claims as two Markdown tables, as they stand in the README."""
    own = rows.get("table2", ())
    table = verdict.cells(own)
    if "gain" not in table:
        return f"Table 2: {claims.NOT_RUN}."
    control = verdict.cells(own, "extra_images")
    where = ["dataset", "network", "method", "num"]
    beside = {tuple(cell[name] for name in where): points(cell) for cell in control.to_dict("records")} if "gain" in control else {}
    head = ["data", "compressor", "images", "seeds", "base", "OE-FSMC", "difference", "verdict", "the paper's difference",
            "control − base"]
    lines = [line(head), line(["---"] * len(head))]
    for cell in table.to_dict("records"):
        printed, place = cell["paper gain"], tuple(cell[name] for name in where)
        said = "" if printed is None or math.isnan(printed) else verdict.signed(printed)
        lines.append(line([cell["dataset"], cell["method"], str(cell["num"]), str(cell["seeds"]), f"{cell[claims.BASE]:.1f}",
                           f"{cell['ours']:.1f}", points(cell), cell["verdict"],
                           f"{said} (doubted)" if said and doubted(cell) else said, beside.get(place, claims.NOT_RUN)]))
    lines += ["", line(["claim of the paper", "verdict", "numbers"]), line(["---"] * 3)]
    return "\n".join(lines + [line([one.claim.sentence, one.verdict, one.numbers]) for one in verdict.judge(rows)])


def solver_markdown(rows: Sequence[Row]) -> str:
    """The base and OE-FSMC with the released solver and with ours, in the cells that have both, as a Markdown table.

    ``rows`` are those of the grid ``literal``.
    """
    head = ["data", "compressor", "images", "solver", "seeds", "base", "OE-FSMC", "difference"]
    titles, found = {"literal": "released", "default": "ours"}, []
    for solver, title in titles.items():
        table = verdict.cells(claims.select(rows, solver=solver))
        found += [cell | {"title": title} for cell in table.to_dict("records") if "gain" in cell]
    where = [(cell["dataset"], cell["method"], cell["num"]) for cell in found]
    found = [cell for cell, place in zip(found, where) if where.count(place) == len(titles)]
    if not found:
        return f"Released solvers: {claims.NOT_RUN}."
    lines = [line(head), line(["---"] * len(head))]
    for cell in sorted(found, key=lambda cell: (cell["dataset"], cell["method"], cell["num"])):
        lines.append(line([cell["dataset"], cell["method"], str(cell["num"]), cell["title"], str(cell["seeds"]),
                           f"{cell[claims.BASE]:.1f}", f"{cell['ours']:.1f}", points(cell)]))
    return "\n".join(lines)


def doubted(cell: Mapping) -> bool:
    """One of the two numbers behind the paper's difference is in doubt (:data:`paper.DOUBTS`)."""
    return any(one.doubt and (one.dataset, paper.METHOD_NAMES[one.method], one.num, one.quantity) ==
               (cell["dataset"], cell["method"], cell["num"], "top1") for one in paper.TABLE2)


def line(values: Iterable[str]) -> str:
    return f"| {' | '.join(values)} |"


def points(cell: Mapping) -> str:
    """The paired difference of a cell of :func:`verdict.cells`, with half its interval."""
    return verdict.signed(cell["gain"]) + ("" if math.isnan(cell["±"]) else f" ± {cell['±']:.1f}")
