"""Cells, claims and controls as Markdown tables, as they stand in ``docs/results.md``."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from oefsmc_lib.evidence import answers, paper, verdict
from oefsmc_lib.evidence.answers import BASE, NOT_RUN, select
from oefsmc_lib.evidence.pairs import cell_of, grouped, over
from oefsmc_lib.evidence.tables import by_setting, merge_settings, to_markdown
from oefsmc_lib.rows.row import Row

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
CHANGES = """\
What each step of OE-FSMC changes, in points: means over the cells that have all of them, ± half the 95 % interval over
seeds. The table is no claim of the paper. Eq. 5 has no column: the criteria of FSKD, MiR and CD do not split by class,
so it changes nothing in them. For the same reason w/o FT and *labels ignored* are one student there. With 500 images of
CIFAR-100 the auxiliary set is the whole pool, so whole pool and OE-FSMC are one student, too."""
LOSSES = "What imbalance costs (Table 1): balanced minus long-tailed draws, paired by seed."


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
    parts = [to_markdown(cells), f"Teachers: {', '.join(teachers)}.", LOSSES, losses_markdown(rows.get("table1", ()))]
    parts += [costs_markdown([*rows.get("table1", ()), *own])]
    parts += [to_markdown(claims.rename(columns={"claim": "claim of the paper"})), CHANGES, steps_markdown(rows)]
    return "\n\n".join(parts)


def losses_markdown(rows: Sequence[Row]) -> str:
    """A Markdown table of Table 1's cells: balanced and long-tailed draws, their difference, the paper's, and that of
    the compressor alone."""
    table, cells = [], grouped(rows, cell_of)
    for cell in sorted(cells, key=lambda cell: (cell.dataset, cell.compressor, cell.num)):
        sides = [select(cells[cell], variant=BASE, imbalance=kind) for kind in ("balanced", "long_tail")]
        base, alone = (
            answers.difference(cells[cell], "balanced", "long_tail", on="imbalance", variant=variant)
            for variant in (BASE, "native")
        )
        if base:
            line = {"data": cell.dataset, "compressor": cell.compressor, "images": cell.num}
            line |= {kind: f"{answers.mean(side):.1f}" for kind, side in zip(("balanced", "long-tailed"), sides)}
            line |= {"difference": verdict.interval(base["mean"], base["half"]), "verdict": base["verdict"]}
            printed = answers.paper_difference(sides[0][0], sides[1][0])
            line |= {"the paper's difference": "" if printed is None else verdict.signed(printed)}
            both = verdict.interval(alone["mean"], alone["half"]) if alone else NOT_RUN
            table.append(line | {"difference of the compressor alone": both})
    return to_markdown(table) if table else f"Table 1: {NOT_RUN}."


def costs_markdown(rows: Iterable[Row]) -> str:
    """A Markdown table of what the students of Tables 1 and 2 cost beside their teachers, by compressor."""
    table = []
    for family, own in sorted(grouped({row.id: row for row in rows}.values(), lambda row: cell_of(row)[:-1]).items()):
        line = {"data": family[0], "compressor": cell_of(own[0]).compressor}
        for title, name in (("multiply-accumulates left", "macs_cut"), ("parameters left", "params_cut")):
            low, *_, high = ends = sorted(round(100 - getattr(row, name)) for row in [*own, own[0]])
            line[title] = f"{statistics.median(ends):.0f} %" + (f" ({low}–{high})" if low < high else "")
        table.append(line | {f"milliseconds, batch {batch}": _latency(own, batch) for batch in (1, 64)})
    return to_markdown(table)


def _latency(rows: Sequence[Row], batch: int) -> str:
    """Teacher → student, and how many times faster, each the median over timings of both; rows share some of them."""
    name = "latency_ms" if batch == 1 else f"latency_{batch}_ms"
    pairs = {(getattr(row, f"teacher_{name}"), getattr(row, name)) for row in rows}
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
    for data in answers.values_of(whole, "dataset"):  # over all data sets, opposite effects would vanish
        if len(answers.values_of(own := select(whole, dataset=data), "method")) > 1:
            table.append(_steps(own, data=data, compressor="all", images=""))
    return to_markdown(table) if table else f"What each step changes: {NOT_RUN}."


def _steps(rows: Sequence[Row], **names: str) -> dict[str, Any]:
    """One line of :func:`steps_markdown`."""
    line: dict[str, Any] = {**names, "cells": len({cell_of(row) for row in rows})}
    for title, (one, other) in STEPS.items():
        found = over(select(rows, variant=one), select(rows, variant=other))
        line[title] = verdict.interval(found["mean"], found["half"]) if found else NOT_RUN
    return line


def settings_markdown(rows: Sequence[Row]) -> str:
    """A Markdown table of every setting of these rows, and the values that stand for what a line does not say."""
    if not rows:
        return "Controls: not run."
    by, lines = by_setting(rows)
    usual = merge_settings(lines, [name for name in by if name not in ("method", "num", "variant", "ood_exclude")])
    table = [
        {"compressor": paper.METHOD_NAMES[line["method"]], "images": line["num"], "variant": f"`{line['variant']}`"}
        | {
            "settings": line["settings"] or "",
            "seeds": line["seeds"],
            "top-1, %": f"{line['mean']:.1f} ± {line['half']:.1f}",
        }
        for line in lines
    ]
    return f"{to_markdown(table)}\n\nWhere a line says nothing else: {usual}."
