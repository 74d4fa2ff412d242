"""Verdicts and comparisons as Markdown, as they stand in the README, in ``docs/`` and in ``outputs/verdict.md``."""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from oefsmc_lib.engine import batches, runs
from oefsmc_lib.evidence import answers, paper, verdict
from oefsmc_lib.evidence.answers import BASE, NOT_RUN, select
from oefsmc_lib.evidence.pairs import Paired, cell_of, grouped, over
from oefsmc_lib.evidence.tables import to_markdown
from oefsmc_lib.parameters import grid
from oefsmc_lib.parameters.experiment import Experiment
from oefsmc_lib.rows.row import Row
from oefsmc_lib.rows.store import Store

NAMES_OF_DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
WITHOUT_IMAGES = ("imagenet",)  # sets that nobody who ran these grids has had
# What stands beside Table 2's difference: variant -> its title.
BESIDE = {
    "extra_images": "OOD images, labels ignored",
    answers.REDRAWN: "labels redrawn (journal)",
    "whole_pool": "whole pool (this package's)",
}
# What OE-FSMC is compared with beside its base: variant -> the column's title.
INSTEAD = {"extra_images": "OE-FSMC − labels ignored", "native": "OE-FSMC − compressor alone"}
# What each step of OE-FSMC adds: title -> (variant, the one before it).
STEPS = {
    "recovery by eq. 7 instead of on the few: w/o FT − base": ("wo_ft", BASE),
    "fine-tuning by eq. 8–9 instead of on the few: OE-FSMC − w/o FT": ("ours", "wo_ft"),
    "both: OE-FSMC − base": ("ours", BASE),
    "the whole pool instead of m images in eq. 7: whole pool − OE-FSMC": ("whole_pool", "ours"),
}
# What the README lists: where the paper has it -> what it asks, the grid and the notebook.
ARTEFACTS = {
    "Table 1": ("what imbalance costs", "table1", "01_problem_demonstration"),
    "Table 2": ("what OE-FSMC adds", "table2", "03_effectiveness"),
    "Fig. 3(a)": ("ablation", "fig3a", "04_ablations"),
    "Fig. 3(b)": ("size of the auxiliary set", "fig3b", "05_sensitivity"),
    "Fig. 3(c)": ("λ", "fig3c", "05_sensitivity"),
    "Fig. 3(d)": ("η", "fig3d", "05_sensitivity"),
}
CHANGES = """\
What each step of OE-FSMC changes, in points: means over the cells that have all of them, ± half the 95 % interval over
seeds. The table is no claim of the paper. Eq. 5 has no column: the criteria of FSKD, MiR and CD look at no image, so it
changes nothing in them."""


def markdown(rows: Mapping[str, Sequence[Row]]) -> str:
    """Markdown tables: the cells of Table 2, what students cost, the claims, and what each step of OE-FSMC changes."""
    own = rows.get("table2", ())
    if not (lines := verdict.lines(own)):
        return f"Table 2: {NOT_RUN}."
    beside = {f"{title} − base": verdict.lines(own, variant) for variant, title in BESIDE.items()}
    beside |= {title: verdict.lines(own, "ours", variant) for variant, title in INSTEAD.items()}
    cells = [
        _levels(line)
        | {"verdict": line["verdict"]}
        | _printed(line)
        | {title: _difference(found.get(cell)) for title, found in beside.items()}
        for cell, line in lines.items()
    ]
    teachers = sorted({f"{row.network} on {row.dataset} {row.teacher_accuracy:.1f}" for row in own})
    claims = verdict.claim_table(verdict.judge(rows)).drop(columns="where")
    parts = [to_markdown(cells), f"Teachers: {', '.join(teachers)}.", costs_markdown([*rows.get("table1", ()), *own])]
    parts += [to_markdown(claims.rename(columns={"claim": "claim of the paper"})), CHANGES, steps_markdown(rows)]
    return "\n\n".join(parts)


def costs_markdown(rows: Iterable[Row]) -> str:
    """A Markdown table of what the students of Tables 1 and 2 cost beside their teachers, by compressor."""
    table = []
    for family, own in sorted(grouped({row.id: row for row in rows}.values(), lambda row: cell_of(row)[:-1]).items()):
        line = {"data": family[0], "compressor": cell_of(own[0]).compressor}
        for title, name in (("multiply-accumulates left", "macs_cut"), ("parameters left", "params_cut")):
            line[title] = f"{100 - statistics.median(getattr(row, name) for row in own):.0f} %"
        table.append(line | {f"milliseconds, batch {batch}": _latency(own, batch) for batch in (1, 64)})
    return to_markdown(table)


def _latency(rows: Sequence[Row], batch: int) -> str:
    """Teacher → student, and how many times faster, each the median over the rows in which both were timed."""
    name = "latency_ms" if batch == 1 else f"latency_{batch}_ms"
    pairs = [(getattr(row, f"teacher_{name}"), getattr(row, name)) for row in rows]
    timed = [(teacher, student, teacher / student) for teacher, student in pairs if teacher and student]
    if not timed:
        return "not measured"
    teacher, student, ratio = map(statistics.median, zip(*timed))
    return f"{teacher:.3g} → {student:.3g}, {ratio:.2f}×"


def stopping_markdown(rows: Iterable[Row]) -> str:
    """A Markdown table of where fine-tuning stops: the epoch that is kept, and the student's distance to its teacher.

    The epoch is the median over seeds, and the distances, on the watch set before fine-tuning and at that epoch, are
    means. Without the variants that share their fine-tuning with one of these.
    """
    table = []
    cells = grouped(select(rows, imbalance="long_tail"), cell_of)
    for cell in sorted(cells, key=lambda cell: (cell.dataset, cell.compressor, cell.num)):
        own: Sequence[Row] = cells[cell]
        line: dict[str, Any] = {"data": cell.dataset, "compressor": cell.compressor, "images": cell.num}
        for variant in (BASE, "extra_images", "ours"):
            tuned = [row for row in select(own, variant=variant) if row.finetune_distances]
            ends = [(row.finetune_kept or 0, row.finetune_distances[0], min(row.finetune_distances)) for row in tuned]
            epoch, before, after = zip(*ends) if ends else ((), (), ())
            line[answers.VARIANT_WORDS[variant]] = (
                f"epoch {statistics.median(epoch):g}; {statistics.mean(before):.3f} → {statistics.mean(after):.3f}"
                if ends
                else NOT_RUN
            )
        table.append(line)
    return to_markdown(table) if table else f"Where fine-tuning stops: {NOT_RUN}."


def solver_markdown(rows: Sequence[Row]) -> str:
    """A Markdown table of the cells that have both the released solver and this package's, two lines a cell.

    ``rows`` are those of the grid ``literal``.
    """
    released, own = (verdict.lines(select(rows, solver=solver)) for solver in ("literal", "default"))
    table = []
    for cell in released:
        if cell in own:
            table += [_levels(released[cell], solver="released"), _levels(own[cell], solver="this package's")]
    return to_markdown(table) if table else f"Released solvers: {NOT_RUN}."


def _levels(line: Mapping[str, Any], **beside: str) -> dict[str, Any]:
    """A cell of OE-FSMC: its names, those of ``beside`` among them, both accuracies and their difference."""
    return {
        "data": line["dataset"],
        "compressor": line["method"],
        "images": line["num"],
        **beside,
        "seeds": line["seeds"],
        "base": f"{line[BASE]:.1f}",
        "OE-FSMC": f"{line['ours']:.1f}",
        "difference": _difference(line),
    }


def _difference(line: Mapping[str, Any] | None) -> str:
    return verdict.interval(line["gain"], line["±"]) if line else NOT_RUN


def _printed(line: Mapping[str, Any]) -> dict[str, str]:
    """The paper's numbers of a cell, empty where it prints none; a difference may rest on a doubted one."""
    base, gain = line[f"paper {BASE}"], line["paper gain"]
    doubt = " (doubted)" if paper.doubt_about(line["dataset"], line["method"], line["num"]) else ""
    return {
        "the paper's base": "" if base is None else f"{base:.1f}",
        "the paper's difference": "" if gain is None else verdict.signed(gain) + doubt,
    }


def steps_markdown(rows: Mapping[str, Sequence[Row]]) -> str:
    """A Markdown table of what each step of OE-FSMC changes, averaged over the cells that have all of them.

    Rows of Table 2 and Fig. 3a, of seeds that have every variant, so that the steps add up to OE-FSMC − base.
    """
    both = [row for name in ("table2", "fig3a") for row in select(rows.get(name, ()), imbalance="long_tail")]
    unique = {row.id: row for row in both}.values()  # the two grids share runs
    needed = {variant for step in STEPS.values() for variant in step}
    draws = grouped(unique, lambda row: (cell_of(row), row.seed)).values()
    whole = [row for draw in draws if needed <= set(answers.values_of(draw, "variant")) for row in draw]
    families = grouped(whole, lambda row: cell_of(row)[:-1])
    table = []
    for own in (families[family] for family in sorted(families, key=str)):
        images = ", ".join(map(str, answers.values_of(own, "num")))
        table.append(_steps(own, data=own[0].dataset, compressor=cell_of(own[0]).compressor, images=images))
    if len(table) > 1:
        table.append(_steps(whole, data="all", compressor="", images=""))
    return to_markdown(table) if table else f"What each step changes: {NOT_RUN}."


def _steps(rows: Sequence[Row], **names: str) -> dict[str, Any]:
    """One line of :func:`steps_markdown`."""
    line: dict[str, Any] = {**names, "cells": len({cell_of(row) for row in rows})}
    for title, (one, other) in STEPS.items():
        found = over(select(rows, variant=one), select(rows, variant=other))
        line[title] = verdict.interval(found["mean"], found["half"]) if found else NOT_RUN
    return line


def found_markdown(rows: Mapping[str, Sequence[Row]]) -> str:
    """What was found, in sentences for the README: what the tail costs, what OE-FSMC adds, what images alone add.

    From the cells with 10 images of CIFAR-10, and from all cells where it says so; what has no rows is left out.
    """
    table1, table2 = (select(rows.get(name, ()), dataset="cifar10", num=10) for name in ("table1", "table2"))
    every, sentences = select(rows.get("table2", ()), imbalance="long_tail"), []
    if costs := _by_method(lambda m: answers.tail_cost(table1, 10, method=m), "from"):
        sentences.append(f"Ten long-tailed images of CIFAR-10 instead of ten balanced ones take {costs}.")
    if gains := _by_method(lambda m: answers.gain(table2, 10, method=m), "to"):
        words = [line["verdict"] for line in verdict.lines(every).values()]
        absent = [name for method, name in paper.METHOD_NAMES.items() if not select(every, method=method)]
        below = sorted(
            {
                f"{c.compressor} on {NAMES_OF_DATA.get(c.dataset, c.dataset)}"
                for c, line in verdict.lines(every).items()
                if line["verdict"] == "not reproduced"
            }
        )
        without = f" ({_listed(absent)} {'have' if absent[1:] else 'has'} no rows yet)" if absent else ""
        sentences.append(
            f"With these images, OE-FSMC as the paper describes it adds {gains}; of the {len(words)} cells that were "
            f"run, it is significantly above the base in {words.count('reproduced')} and significantly below it in "
            f"{words.count('not reproduced')}{f', {_listed(below)}' if below else ''}{without}."
        )
    if alone := _by_method(lambda m: answers.gain(table2, 10, "extra_images", method=m), "to"):
        rest = over(select(every, variant="ours"), select(every, variant="extra_images"))
        sentences.append(
            f"The same OOD images without labels, in the recovery alone, add {alone}"
            + (
                f": over all {rest['cells']} cells, labels add {verdict.interval(rest['mean'], rest['half'])} points"
                if rest
                else ""
            )
            + "."
        )
    if pool := select(table2, variant="whole_pool", method="fskd", imbalance="long_tail"):
        level, n = answers.mean(pool), answers.column(pool[0], "n")
        sentences.append(
            f"With all {n} images of the pool in the recovery, which is this package's own recommendation, FSKD "
            f"reaches {level:.1f} %; the teacher has {pool[0].teacher_accuracy:.1f} %, and the student needs "
            f"{100 - pool[0].macs_cut:.0f} % of its multiplications."
        )
    return " ".join(sentences) or f"What was found: {NOT_RUN}."


def _by_method(question: Callable[[str], Paired | None], to: str) -> str:
    """``1.2 ± 0.3 points of accuracy to CD and 0.4 ± 0.1 to FSKD``: the answers that there are."""
    found = {name: question(method) for method, name in sorted(paper.METHOD_NAMES.items())}
    said = [(verdict.interval(one["mean"], one["half"]).removeprefix("+"), name) for name, one in found.items() if one]
    words = [f"{points}{'' if i else ' points of accuracy'} {to} {name}" for i, (points, name) in enumerate(said)]
    return _listed(words)


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def artefacts_markdown(rows: Mapping[str, Sequence[Row]]) -> str:
    """For the README: the paper's tables and figures, how to redo each, and what became of its claims."""
    judged, table = verdict.judge(rows), []
    for place, (question, name, book) in ARTEFACTS.items():
        words = Counter(one.verdict for one in judged if one.claim.where.startswith(place))
        own = select(rows.get(name, ()), dataset="cifar10")
        asked = len({e.key for e in grid.load_grid(name, "cifar10").experiments})
        hours = f"{sum(row.seconds_total for row in own) / 3600:.1f} h, {len(own)}/{asked} runs" if own else NOT_RUN
        line = {"in the paper": f"{place}, {question}", "notebook": f"[{book[:2]}](notebooks/{book}.ipynb)"}
        line |= {"command": f"`oefsmc grid run {name} --profile cifar10`", "time of the rows here, one core": hours}
        table.append(line | {"its claims": ", ".join(f"{n} {word}" for word, n in words.items())})
    return to_markdown(table)


def missing_markdown(profile: str, store: Store) -> str:
    """A Markdown table of a profile's runs that the store has no row of, with the command that computes them.

    A run that several grids share stands in the first. Hours are those of one core, as :func:`runs.estimate` has them.
    """
    todo: dict[tuple[str, str, str], tuple[grid.Grid, list[Experiment]]] = {}
    for batch in batches.of_grids(grid.grids_of(profile), store):
        place = batch.grid.profile.name, batch.grid.name, batch.experiments[0].method
        todo.setdefault(place, (batch.grid, []))[1].extend(batch.experiments)
    table = [_missing(each, left, store) for each, left in todo.values()]
    return to_markdown(table) if table else "Nothing is missing."


def _missing(each: grid.Grid, left: Sequence[Experiment], store: Store) -> dict[str, Any]:
    """One line of :func:`missing_markdown`: the runs of one method that a grid still lacks."""
    method, dataset = left[0].method, left[0].dataset
    whole = [e for e in each.experiments if e.method == method]
    nums, every = (sorted({e.num for e in group}) for group in (left, whole))
    only = f"method={method}" + "".join(f" --only num={num}" for num in nums if nums != every)
    seconds = runs.estimate(left, store)
    hours = "unknown" if seconds is None else f"{seconds / 3600:.1f}"
    return {
        "data": dataset,
        "grid": each.name,
        "compressor": paper.METHOD_NAMES[method],
        "images": ", ".join(map(str, nums)),
        "runs missing": f"{len(left)} of {len(whole)}",
        "hours": "not run: no images here" if dataset in WITHOUT_IMAGES else hours,
        "command": f"`oefsmc grid run {each.name} --profile {each.profile.name} --only {only}`",
    }
