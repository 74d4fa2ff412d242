"""Measured costs: the CSV files that ``bench/`` writes to ``outputs/bench/``."""

from pathlib import Path

from oefsmc_lib.errors import InputError
from oefsmc_lib.evidence.paper import METHOD_NAMES as NAMES
from oefsmc_lib.files import outputs_folder, project_root


def newest(part: str) -> Path | None:
    """The latest ``<date>_<cpu or gpu>_<torch>_<part>.csv``, own measurements before those of the repository."""
    for folder in (outputs_folder(), project_root() / "outputs"):
        if found := sorted((folder / "bench").glob(f"*_{part}.csv")):
            return found[-1]
    return None


def table(part: str, columns: tuple[str, ...] = (), path: Path | None = None):
    """The newest file of a part, or the one at ``path``, as a :class:`pandas.DataFrame`; None where nothing was measured.

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
    """A timing (the newest) as a table: seconds of the released procedure and of ours, and their ratio, by number of images.

    Where it was timed, the ratio of the released procedure with its own loader of images stands behind.
    """
    found = table("timing", ("method", "network", "num", "literal_s", "ours_s", "ratio", "loaded_ratio"), path)
    if found is None:
        return "not measured"
    nums = sorted(found.num.unique())
    lines = [
        f"| compressor | network | {' | '.join(f'{num} images' for num in nums)} |",
        "| --- " * (2 + len(nums)) + "|",
    ]
    for (method, network), own in found.groupby(["method", "network"], sort=False):
        cells = {
            row.num: f"{_seconds(row.literal_s)} → {_seconds(row.ours_s)} s, {row.ratio:.3g}×"
            for row in own.itertuples()
        }
        for row in own[own.loaded_ratio.notna()].itertuples():
            cells[row.num] += f" ({row.loaded_ratio:.3g}× with its loader)"
        name = NAMES[method] + (" (scoring)" if method == "practise" else "")
        lines.append(f"| {name} | {network} | " + " | ".join(cells.get(num, "not run") for num in nums) + " |")
    return "\n".join(lines)


def quality_markdown(path: Path | None = None) -> str:
    """A comparison of quality (the newest) as a table: what the released procedure and ours make of the same images.

    Means over the draws. "Other units" are draws in which PRACTISE's two scorings dropped different units.
    """
    shown = {"fit": "error on the few", "error": "error on unseen images", "accuracy": "top-1 on these, %"}
    columns = [f"{side}_{what}" for what in shown for side in ("literal", "ours")]
    found = table("quality", ("method", "network", "num", "same_units", *columns), path)
    if found is None:
        return "not measured"
    lines = [f"| compressor | network | images | draws | {' | '.join(shown.values())} |", "| --- " * 7 + "|"]
    for method in NAMES:
        for (network, num), draws in found[found.method == method].groupby(["network", "num"]):
            other = int(draws.same_units.eq(False).sum())  # empty for the other compressors
            units = f" (other units in {other})" if other else " (the same units)" if method == "practise" else ""
            mean = draws[columns].mean()
            cells = [f"{mean[f'literal_{what}']:.3g} → {mean[f'ours_{what}']:.3g}" for what in shown]
            lines.append(f"| {NAMES[method]}{units} | {network} | {num} | {len(draws)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
