"""Overviews as Markdown: what was found and how to redo it, for the README; which runs are missing."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from oefsmc_lib.engine import batches, runs
from oefsmc_lib.evidence import answers, paper, verdict
from oefsmc_lib.evidence.answers import BASE, NOT_RUN, select
from oefsmc_lib.evidence.pairs import Paired, against, by_cell
from oefsmc_lib.evidence.tables import joined, to_markdown
from oefsmc_lib.parameters import grid
from oefsmc_lib.parameters.experiment import Experiment
from oefsmc_lib.rows.row import Row
from oefsmc_lib.rows.store import Store

WITHOUT_IMAGES = ("imagenet",)  # sets that nobody who ran these grids has had
# What the README lists: where the paper has it -> what it asks, the grid and the notebook.
ARTEFACTS = {
    "Table 1": ("what imbalance costs", "table1", "01_problem_demonstration"),
    "Table 2": ("what OE-FSMC adds", "table2", "03_effectiveness"),
    "Fig. 3(a)": ("ablation", "fig3a", "04_ablations"),
    "Fig. 3(b)": ("size of the auxiliary set", "fig3b", "05_sensitivity"),
    "Fig. 3(c)": ("λ", "fig3c", "05_sensitivity"),
    "Fig. 3(d)": ("η", "fig3d", "05_sensitivity"),
    "§4.3": ("size of the pool", "beyond", "06_beyond_the_paper"),
}


def found_markdown(rows: Mapping[str, Sequence[Row]]) -> str:
    """What was found, in sentences for the README: what the tail costs, what OE-FSMC adds, what images alone add.

    From the cells with 10 images of CIFAR-10, and from all cells where it says so; what has no rows is left out.
    """
    table1, table2 = (select(rows.get(name, ()), dataset="cifar10", num=10) for name in ("table1", "table2"))
    every, sentences = select(rows.get("table2", ()), imbalance="long_tail"), []
    if costs := _by_method(lambda m: answers.tail_cost(table1, 10, method=m), "from"):
        sentences.append(f"Ten long-tailed images of CIFAR-10 instead of ten balanced ones take {costs}.")
    if gains := _by_method(lambda m: answers.gain(table2, 10, method=m), "to"):
        absent = [name for method, name in paper.METHOD_NAMES.items() if not select(every, method=method)]
        without = f" ({joined(absent)} {'have' if absent[1:] else 'has'} no rows yet)" if absent else ""
        cells = _in_cells(every, "ours") + without
        sentences.append(f"With these images, OE-FSMC as the paper describes it adds {gains}; it is {cells}.")
    if alone := _by_method(lambda m: answers.gain(table2, 10, "extra_images", method=m), "to"):
        cells = _in_cells(every, "extra_images")
        sentences.append(f"The same OOD images without labels, in the recovery alone, add {alone}, and are {cells}.")
        copies = select(rows.get("beyond", ()), method="fskd", num=10, aux="augmented_few", imbalance="long_tail")
        if one := against(copies, select(table2, method="fskd", variant=BASE, imbalance="long_tail")):
            points = verdict.interval(one["mean"], one["half"]).removeprefix("+")
            sentences.append(f"Augmented copies of the few images in their place add {points} points to FSKD.")
        labels = by_cell(select(every, variant="ours"), select(every, variant="extra_images"))
        changed = joined(verdict.by_data(labels, "{1} points on {0}"))
        sentences.append(f"The labels drawn for OOD images change accuracy on average by {changed}.")
    if pool := select(table2, variant="whole_pool", method="fskd", imbalance="long_tail"):
        sentences.append(
            "With the whole pool in the recovery, this package's own recommendation, OE-FSMC is "
            f"{_in_cells(every, 'whole_pool')}. With ten images of CIFAR-10 FSKD reaches {answers.mean(pool):.1f} % "
            f"and needs {100 - pool[0].macs_cut:.0f} % of the teacher's multiplications; the teacher has "
            f"{pool[0].teacher_accuracy:.1f} %."
        )
    return " ".join(sentences) or f"What was found: {NOT_RUN}."


def _in_cells(rows: Sequence[Row], variant: str) -> str:
    """``significantly above the base in 10 of all 15 cells and below it in 2, CD on CIFAR-100``."""
    lines = verdict.lines(rows, variant)
    above = [cell for cell, line in lines.items() if line["gain"] > line["±"]]
    below = [cell for cell, line in lines.items() if line["gain"] < -line["±"]]
    names = sorted({f"{cell.compressor} on {paper.NAMES_OF_DATA.get(cell.dataset, cell.dataset)}" for cell in below})
    fewer = f"{len(below)}, {joined(names)}" if names else "none"
    return f"significantly above the base in {len(above)} of all {len(lines)} cells and below it in {fewer}"


def _by_method(question: Callable[[str], Paired | None], to: str) -> str:
    """``1.2 ± 0.3 points of accuracy to CD and 0.4 ± 0.1 to FSKD``: the answers that there are."""
    found = {name: question(method) for method, name in sorted(paper.METHOD_NAMES.items())}
    said = [(verdict.interval(one["mean"], one["half"]).removeprefix("+"), name) for name, one in found.items() if one]
    words = [f"{points}{'' if i else ' points of accuracy'} {to} {name}" for i, (points, name) in enumerate(said)]
    return joined(words)


def artefacts_markdown(rows: Mapping[str, Sequence[Row]]) -> str:
    """For the README: the paper's tables and figures, how to redo each, and what became of its claims."""
    judged, table = verdict.judge(rows), []
    for place, (question, name, book) in ARTEFACTS.items():
        words = Counter(one.verdict for one in judged if place in one.claim.where)
        own = select(rows.get(name, ()), dataset="cifar10")
        asked = len({e.key for e in grid.load_grid(name, "cifar10").experiments})
        hours = f"{sum(row.seconds_total for row in own) / 3600:.1f} h, {len(own)}/{asked} runs" if own else NOT_RUN
        line = {"in the paper": f"{place}, {question}", "notebook": f"[{book[:2]}](notebooks/{book}.ipynb)"}
        line |= {"grid": f"`{name}`", "hours so far, CIFAR-10": hours}
        table.append(line | {"its claims": ", ".join(f"{n} {word}" for word, n in words.items())})
    return to_markdown(table)


def devices_markdown(rows: Mapping[str, Sequence[Row]]) -> str:
    """How many rows each processor or GPU made, as a sentence; a row of several grids counts once."""
    every = {row.id: row for own in rows.values() for row in own}.values()
    made = Counter(row.device.removeprefix("cpu: ") for row in every)
    return f"Rows by processor: {joined([f'{n} of {device}' for device, n in made.most_common()]) or NOT_RUN}."


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
