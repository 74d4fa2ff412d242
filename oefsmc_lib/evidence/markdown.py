"""Verdicts and comparisons as Markdown, as they stand in the README and in ``outputs/verdict.md``."""

import math
from collections.abc import Iterable, Mapping, Sequence

from oefsmc_lib.engine import batches, runs
from oefsmc_lib.evidence import answers, paper, verdict
from oefsmc_lib.parameters import grid
from oefsmc_lib.rows.row import Row
from oefsmc_lib.rows.store import Store

WITHOUT_IMAGES = ("imagenet",)  # sets that nobody who ran these grids has had


CHANGES = (
    "What each step of OE-FSMC changes, in points: means over the cells that have all of them, ± half the 95 % interval over\n"
    "seeds. The table is no claim of the paper. Eq. 5 has no column: the criteria of FSKD, MiR and CD look at no image, so it\n"
    "changes nothing in them."
)


def markdown(rows: Mapping[str, Sequence[Row]]) -> str:
    """The cells of Table 2, the claims, and what each step adds, as three Markdown tables, as they stand in the README."""
    own = rows.get("table2", ())
    table = verdict.cells(own)
    if "gain" not in table:
        return f"Table 2: {answers.NOT_RUN}."
    where, beside = ["dataset", "network", "method", "num"], {}
    for variant in BESIDE:
        others = verdict.cells(own, variant)
        beside[variant] = (
            {tuple(cell[name] for name in where): points(cell) for cell in others.to_dict("records")}
            if "gain" in others
            else {}
        )
    head = [
        "data",
        "compressor",
        "images",
        "seeds",
        "base",
        "OE-FSMC",
        "difference",
        "verdict",
        "the paper's base",
        "the paper's difference",
        *(f"{title} − base" for title in BESIDE.values()),
    ]
    lines = [line(head), line(["---"] * len(head))]
    for cell in table.to_dict("records"):
        base, gain, place = cell[f"paper {answers.BASE}"], cell["paper gain"], tuple(cell[name] for name in where)
        said = "" if unprinted(gain) else verdict.signed(gain)
        lines.append(
            line(
                [
                    cell["dataset"],
                    cell["method"],
                    str(cell["num"]),
                    str(cell["seeds"]),
                    f"{cell[answers.BASE]:.1f}",
                    f"{cell['ours']:.1f}",
                    points(cell),
                    cell["verdict"],
                    "" if unprinted(base) else f"{base:.1f}",
                    f"{said} (doubted)" if said and doubted(cell) else said,
                    *(of.get(place, answers.NOT_RUN) for of in beside.values()),
                ]
            )
        )
    teachers = sorted({f"{row.network} on {row.dataset} {row.teacher_accuracy:.1f}" for row in own})
    lines += [
        "",
        f"Teachers: {', '.join(teachers)}.",
        "",
        line(["claim of the paper", "verdict", "numbers"]),
        line(["---"] * 3),
    ]
    lines += [line([one.claim.sentence, one.verdict, one.numbers]) for one in verdict.judge(rows)]
    return "\n".join([*lines, "", CHANGES, "", steps_markdown(rows)])


# Shown beside Table 2's difference: variant -> its title.
BESIDE = {
    "extra_images": "OOD images, labels ignored",
    answers.REDRAWN: "labels redrawn (journal)",
    "whole_pool": "whole pool (this package's)",
}


def found_markdown(rows: Mapping[str, Sequence[Row]], dataset: str = "cifar10", num: int = 10) -> str:
    """What was found, in three sentences for the README: what the tail costs, what OE-FSMC adds, what the whole pool adds.

    From the cells with ``num`` images of ``dataset``; a sentence without its rows says "not run".
    """
    table1, table2 = ([row for row in rows.get(name, ()) if row.dataset == dataset] for name in ("table1", "table2"))
    sentences = []
    costs = {m: cost for m in sorted(paper.METHOD_NAMES) if (cost := answers.tail_cost(table1, num, method=m))}
    if costs:
        parts = [
            f"{paper.METHOD_NAMES[m]} {verdict.interval(-cost['mean'], cost['half'])}" for m, cost in costs.items()
        ]
        sentences.append(
            f"Against balanced images, {num} long-tailed images of {DATA_NAMES[dataset]} change the compressors' accuracy "
            f"by these points: {', '.join(parts)}."
        )
    gains = {m: found for m in sorted(paper.METHOD_NAMES) if (found := answers.gain(table2, num, method=m))}
    if gains:
        parts = [
            f"{paper.METHOD_NAMES[m]} {verdict.interval(found['mean'], found['half'])}" for m, found in gains.items()
        ]
        helps = verdict.cells(list(rows.get("table2", ())))["verdict"].tolist()
        sentences.append(
            f"With {num} long-tailed images of {DATA_NAMES[dataset]}, OE-FSMC as the paper describes it changes the "
            f"compressors' accuracy by these points: {', '.join(parts)}. Over all cells of Table 2 that were run it is "
            f"significantly above its base in {helps.count('reproduced')} of {len(helps)} and significantly below it in "
            f"{helps.count('not reproduced')}."
        )
    pool = answers.select(table2, num=num, variant="whole_pool", method="fskd", imbalance="long_tail")
    if pool:
        level, teacher = sum(row.top1 for row in pool) / len(pool), pool[0].teacher_accuracy
        sentences.append(
            f"Using the whole pool of {answers.column(pool[0], 'n')} OOD images in the recovery, which is this package's own "
            f"recommendation, takes FSKD to {level:.1f} % with {num} images, {teacher - level:.1f} points below the teacher."
        )
    return " ".join(sentences) or f"What was found: {answers.NOT_RUN}."


DATA_NAMES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet": "ILSVRC-2012"}
STEPS = (  # what is subtracted, as (variant, the one before it)
    ("recovery by eq. 7 instead of on the few: w/o FT − base", "wo_ft", answers.BASE),
    ("fine-tuning by eq. 8–9 instead of on the few: OE-FSMC − w/o FT", "ours", "wo_ft"),
    ("both: OE-FSMC − base", "ours", answers.BASE),
    ("the whole pool instead of m images in eq. 7: whole pool − OE-FSMC", "whole_pool", "ours"),
)


def steps_markdown(rows: Mapping[str, Sequence[Row]]) -> str:
    """What each step of OE-FSMC changes, averaged over the cells that have all of them, as a Markdown table.

    Rows of Table 2 and Fig. 3a, of seeds that have every variant, so that the steps add up to OE-FSMC − base.
    """
    needed = {variant for _, *pair in STEPS for variant in pair}
    cells: dict[tuple, dict[int, list[Row]]] = {}
    for row in {
        row.id: row for name in ("table2", "fig3a") for row in answers.select(rows.get(name, ()), imbalance="long_tail")
    }.values():
        cells.setdefault(verdict.place(row), {}).setdefault(row.seed, []).append(row)
    whole = {
        cell: own
        for cell in sorted(cells, key=str)
        if (
            own := [
                row
                for draw in cells[cell].values()
                if needed <= {answers.column(row, "variant") for row in draw}
                for row in draw
            ]
        )
    }
    if not whole:
        return f"What each step changes: {answers.NOT_RUN}."
    groups = {cell[:-1]: [cell[0], verdict.length_name(cell[2], cell[3])] for cell in whole}
    lines = [
        line(["data", "compressor", "images", "cells", *(title for title, *_ in STEPS)]),
        line(["---"] * (4 + len(STEPS))),
    ]
    for group, names in [*groups.items(), *([((), ["all", ""])] if len(groups) > 1 else [])]:
        some = {cell: own for cell, own in whole.items() if cell[: len(group)] == group}
        found = [
            verdict.over(sum(some.values(), []), verdict._is(variant=one), verdict._is(variant=other))
            for _, one, other in STEPS
        ]
        sizes = ", ".join(str(cell[-1]) for cell in sorted(some, key=lambda cell: cell[-1])) if group else ""
        lines.append(
            line(
                [
                    *names,
                    sizes,
                    str(len(some)),
                    *(verdict.interval(one.mean, one.half) if one else answers.NOT_RUN for one in found),
                ]
            )
        )
    return "\n".join(lines)


def solver_markdown(rows: Sequence[Row]) -> str:
    """The base and OE-FSMC with the released solver and with this package's, in the cells that have both, as a Markdown table.

    ``rows`` are those of the grid ``literal``.
    """
    head = ["data", "compressor", "images", "solver", "seeds", "base", "OE-FSMC", "difference"]
    titles, found = {"literal": "released", "default": "this package's"}, []
    for solver, title in titles.items():
        table = verdict.cells(answers.select(rows, solver=solver))
        found += [cell | {"title": title} for cell in table.to_dict("records") if "gain" in cell]
    where = [(cell["dataset"], cell["method"], cell["num"]) for cell in found]
    found = [cell for cell, place in zip(found, where) if where.count(place) == len(titles)]
    if not found:
        return f"Released solvers: {answers.NOT_RUN}."
    lines = [line(head), line(["---"] * len(head))]
    for cell in sorted(found, key=lambda cell: (cell["dataset"], cell["method"], cell["num"])):
        lines.append(
            line(
                [
                    cell["dataset"],
                    cell["method"],
                    str(cell["num"]),
                    cell["title"],
                    str(cell["seeds"]),
                    f"{cell[answers.BASE]:.1f}",
                    f"{cell['ours']:.1f}",
                    points(cell),
                ]
            )
        )
    return "\n".join(lines)


def missing_markdown(profile: str, store: Store) -> str:
    """Runs of a profile's grids that the store has no row of, with the command that computes them, as a Markdown table.

    A run that several grids share stands in the first. Hours are those of one core, as :func:`runs.estimate` has them.
    """
    head = ["data", "grid", "compressor", "images", "runs missing", "hours", "command"]
    lines, todo = [line(head), line(["---"] * len(head))], {}
    for batch in batches.of_grids(grid.grids_of(profile), store):
        method = batch.experiments[0].method
        todo.setdefault((batch.grid.profile.name, batch.grid.name, method), (batch.grid, method, []))[2].extend(
            batch.experiments
        )
    for each, method, left in todo.values():
        whole = [e for e in each.experiments if e.method == method]
        nums, every = (sorted({e.num for e in group}) for group in (left, whole))
        some = "".join(f" --only num={num}" for num in nums) if nums != every else ""
        dataset, seconds = left[0].dataset, runs.estimate(left, store)
        hours = (
            "not run: no images here"
            if dataset in WITHOUT_IMAGES
            else "unknown"
            if seconds is None
            else f"{seconds / 3600:.1f}"
        )
        lines.append(
            line(
                [
                    dataset,
                    each.name,
                    paper.METHOD_NAMES[method],
                    ", ".join(map(str, nums)),
                    f"{len(left)} of {len(whole)}",
                    hours,
                    f"`oefsmc grid run {each.name} --profile {each.profile.name} --only method={method}{some}`",
                ]
            )
        )
    return "\n".join(lines) if len(lines) > 2 else "Nothing is missing."


def doubted(cell: Mapping) -> bool:
    """One of the two numbers behind the paper's difference is in doubt (:data:`paper.DOUBTS`)."""
    return any(
        one.doubt
        and (one.dataset, paper.METHOD_NAMES[one.method], one.num, one.quantity)
        == (cell["dataset"], cell["method"], cell["num"], "top1")
        for one in paper.TABLE2
    )


def unprinted(number: float | None) -> bool:
    """The paper does not print it."""
    return number is None or math.isnan(number)


def line(values: Iterable[str]) -> str:
    return f"| {' | '.join(values)} |"


def points(cell: Mapping) -> str:
    """The paired difference of a cell of :func:`verdict.cells`, with half its interval."""
    return verdict.interval(cell["gain"], cell["±"])
