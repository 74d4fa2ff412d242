"""Measured costs: the CSV files that ``bench/`` writes to ``outputs/bench/``."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from oefsmc_lib.errors import InputError
from oefsmc_lib.evidence.paper import METHOD_NAMES
from oefsmc_lib.evidence.tables import t_interval, to_markdown
from oefsmc_lib.files import outputs_folder, project_root

if TYPE_CHECKING:
    from pandas import DataFrame


def newest(part: str) -> Path | None:
    """The latest ``<date>_<cpu or gpu>_<torch>_<part>.csv``, own measurements before those of the repository."""
    for folder in (outputs_folder(), project_root() / "outputs"):
        if found := sorted((folder / "bench").glob(f"*_{part}.csv")):
            return found[-1]
    return None


def table(part: str, columns: tuple[str, ...] = (), path: Path | None = None) -> "DataFrame | None":
    """The newest file of a part, or the one at ``path``, as a pandas table; None where nothing was measured.

    Raises :class:`InputError` for a column that is missing.
    """
    import pandas as pd

    path = path or newest(part)
    if path is None:
        return None
    found = pd.read_csv(path)
    if missing := sorted(set(columns) - set(found.columns)):
        raise InputError(f"{path} has no column {missing[0]!r}; move it away, or measure again with `make bench`.")
    return found


def timing_markdown(path: Path | None = None) -> str:
    """A timing (the newest) as a table: seconds of the released procedure and of ours, and their ratio, by num.

    Where it was timed, the ratio of the released procedure with its own loader of images stands behind.
    """
    found = table("timing", ("method", "network", "num", "literal_s", "ours_s", "ratio", "loaded_ratio"), path)
    if found is None:
        return "not measured"
    lines = []
    for (method, network), own in found.groupby(["method", "network"], sort=False):
        line = {"compressor": METHOD_NAMES[str(method)] + " (scoring)" * (method == "practise"), "network": network}
        line |= {f"{num} images": "not run" for num in sorted(found.num.unique())}
        for row in own.to_dict("records"):
            loader = "" if math.isnan(row["loaded_ratio"]) else f" ({row['loaded_ratio']:.3g}× with its loader)"
            seconds = f"{_seconds(row['literal_s'])} → {_seconds(row['ours_s'])} s"
            if not math.isnan(exact := row.get("float32_s", math.nan)):
                seconds += f" ({_seconds(exact)} s in float32)"
            line[f"{row['num']} images"] = f"{seconds}, {row['ratio']:.3g}×{loader}"
        lines.append(line)
    return to_markdown(lines)


def quality_markdown(path: Path | None = None) -> str:
    """A comparison of quality (the newest) as a table: what the released procedure and ours make of the same images.

    Means over the draws. "Other units" are draws in which PRACTISE's two scorings dropped different units.
    """
    shown = {"fit": "error on the few", "error": "error on unseen images", "accuracy": "top-1 on these, %"}
    columns = [f"{side}_{what}" for what in shown for side in ("literal", "ours")]
    found = table("quality", ("method", "network", "num", "same_units", *columns), path)
    if found is None:
        return "not measured"
    lines = []
    for method, name in METHOD_NAMES.items():
        for (network, num), draws in found[found.method == method].groupby(["network", "num"]):
            other = int(draws.same_units.eq(False).sum())  # the column is empty for the other compressors
            units = f" (other units in {other})" if other else " (the same units)" if method == "practise" else ""
            mean = draws[columns].mean()
            line = {"compressor": name + units, "network": network, "images": num, "draws": len(draws)}
            line |= {
                title: f"{mean[f'literal_{what}']:.3g} → {mean[f'ours_{what}']:.3g}" for what, title in shown.items()
            }
            lines.append(line)
    return to_markdown(lines)


# Benches whose lines stand in a page as they are: the columns of the table, and what it shows of a line.
LINES = {
    "steps": (
        "network | images a step | float32 → bfloat16 | ratio",
        "{network} | {batch} | {float32_median_ms:.0f} → {bfloat16_median_ms:.0f} ms | {ratio:.2f}×",
    ),
    "latency": (
        "network | plan | images | multiply-accumulates left | network → student | faster",
        "{network} | {plan} | {batch} | {macs_left:.0f} % | {network_ms:.3g} → {student_ms:.3g} ms | {faster:.2f}×",
    ),
    "mutants": (
        "file | mutants tried | of all | killed | by taking too long",
        "`{file}` | {tried} | {mutants} | {killed} ({killed_percent:.0f} %) | {timeouts}",
    ),
    "matrix": (
        "Python | torch | torchvision | tests passed | failed | skipped",
        "{python} | {torch} | {torchvision} | {passed} | {failed} | {skipped}",
    ),
    "coverage": (
        "room | statements | branches | reached",
        "{room} | {num_statements} | {num_branches} | {percent:.0f} %",
    ),
}


def lines_markdown(part: str, path: Path | None = None) -> str:
    """The lines of a bench (the newest of its part) as a table, by ``LINES``."""
    found = table(part, (), path)
    if found is None:
        return "not measured"
    titles, shown = LINES[part]
    lines = (shown.format_map(line).split(" | ") for _, line in found.iterrows())
    return to_markdown([dict(zip(titles.split(" | "), line)) for line in lines])


def precision_markdown(path: Path | None = None) -> str:
    """Students that were trained in bfloat16 against those in float32 (the newest bench), as a table.

    Differences are paired by draw, bfloat16 minus float32, with half their 95 % interval.
    """
    cell = ["profile", "method", "settings", "num"]
    found = table("precision", (*cell, "seed", "precision", "accuracy", "error", "dropped"), path)
    if found is None:
        return "not measured"
    lines = []
    for names, own in found.fillna({"settings": "", "dropped": ""}).groupby(cell, sort=False):
        sides = [own[own.precision == side].set_index("seed") for side in ("float32", "bfloat16")]
        one, other = (side.loc[sides[0].index.intersection(sides[1].index)] for side in sides)
        if one.empty:
            continue
        gaps = [t_interval(list(gap)) for gap in (other.accuracy - one.accuracy, 100 * (other.error / one.error - 1))]
        profile, method, settings, num = names
        line = {"profile": profile, "compressor": METHOD_NAMES[str(method)], "settings": settings or "the profile's"}
        line |= {"images": num, "draws": len(one), "same blocks in": int((one.dropped == other.dropped).sum())}
        line |= {"top-1 in float32, %": f"{one.accuracy.mean():.1f}"}
        titles = ("top-1, points", "error of the last map, %")
        for title, (mean, _, half) in zip(titles, gaps):
            line[title] = f"{mean:+.2f}" + (" (one draw)" if math.isnan(half) else f" ± {half:.2f}")
        lines.append(line)
    return to_markdown(lines)


def agreement_markdown(path: Path | None = None) -> str:
    """Accuracies of other environments against those of the first one in the file (the newest), as a table.

    Differences are in points, paired by compressor, training size and draw, with half their 95 % interval.
    """
    place, run = ["torch", "python", "capability", "threads"], ["method", "num", "seed"]
    found = table("agreement", (*place, *run, "top1", "teacher_sha256"), path)
    if found is None:
        return "not measured"
    # Differences say something of environments where the teacher is one.
    own = found[found.teacher_sha256 == found.teacher_sha256[0]].set_index(run)
    groups, lines = dict(list(own.groupby(place, sort=False))), []
    first = next(iter(groups.values())).top1
    for names, other in groups.items():
        gaps = (other.top1 - first).dropna()
        mean, _, half = t_interval(list(gaps))
        line = dict(zip(("torch", "Python", "torch's instructions", "threads"), map(str, names))) | {"runs": len(gaps)}
        same = f"{int((gaps == 0).sum())} of {len(gaps)}"
        line |= {"the same top-1": same, "difference, points": f"{mean:+.2f} ± {half:.2f}".replace("-", "−")}
        lines.append(line | {"largest": f"{gaps.abs().max():.2f}"})
    return to_markdown([lines[0] | {"difference, points": "the reference"}, *lines[1:]])


def measured_with(path: Path) -> str:
    """The processors, the versions of torch and the commits of a bench, as a sentence below its table."""
    found = table("", (), path)
    parts = []
    for column, words in (("device", "on {}"), ("torch", "with torch {}"), ("git_commit", "at commit {}")):
        if found is not None and column in found:
            values = sorted(set(found[column].astype(str).str.removeprefix("cpu: ")))
            parts.append(words.format(", ".join(values)))
    return f"Measured {' '.join(parts)}."


# What a page can show of a file of outputs/bench/, by the last word of the file's name.
MARKDOWN: dict[str, Callable[[Path], str]] = {part: partial(lines_markdown, part) for part in LINES}
MARKDOWN |= {"timing": timing_markdown, "quality": quality_markdown}
MARKDOWN |= {"agreement": agreement_markdown, "precision": precision_markdown}


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
