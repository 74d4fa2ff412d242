"""What is made of rows: tables, means over seeds with 95 % intervals, and the fixed rule.

Nothing here loads torch; pandas, tabulate and scipy load where they are used.
"""

import json
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from oefsmc_lib.errors import InputError
from oefsmc_lib.files import write_whole
from oefsmc_lib.parameters.parse import hint
from oefsmc_lib.rows.row import SWITCHES, Row

if TYPE_CHECKING:
    from pandas import DataFrame

Verdict = Literal["reproduced", "not reproduced", "undecided"]
# What may tell two rows of one seed apart.
TELLING = (SWITCHES | {"network", "algorithm", "ood_fingerprint"}) - {"counts", "device"}


def frame(rows: Iterable[Row]) -> "DataFrame":
    """A pandas table with a row a run; a switch that a run did not read is missing there."""
    import pandas as pd

    return pd.DataFrame([row.flat() for row in rows])


def to_csv(table: "DataFrame", path: Path | str) -> None:
    """Write a table's plain columns; lists (indices, counts, recalls) stay in the rows."""
    plain = [name for name in table.columns if not table[name].map(lambda value: isinstance(value, (list, dict))).any()]
    write_whole(Path(path), table[plain].to_csv(index=False, float_format="%.10g"))


def to_markdown(table: "DataFrame | Sequence[Mapping[str, Any]]") -> str:
    """Texts and whole numbers as a Markdown table without padding, so that a longer entry changes its own line only."""
    import pandas as pd
    from tabulate import DataRow, TableFormat

    line = DataRow("| ", " | ", " |")
    plain = TableFormat(None, lambda widths, _: "|" + " --- |" * len(widths), None, None, line, line, 0, None)
    table = pd.DataFrame(table)
    return table.to_markdown(index=False, tablefmt=plain, disable_numparse=True, stralign=None, numalign=None)


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, standard deviation (n - 1) and the half-width of the 95 % t-interval, t_{0.975, n-1} sd / sqrt(n).

    The last two are NaN for a single value, because one seed says nothing about the spread.
    """
    import numpy as np
    from scipy import stats

    if len(values) < 2:
        return (float(values[0]) if len(values) else math.nan), math.nan, math.nan
    array = np.asarray(values, dtype=float)
    sd = float(array.std(ddof=1))
    return float(array.mean()), sd, float(stats.t.ppf(0.975, len(array) - 1)) * sd / math.sqrt(len(array))


def verdict(low: float, high: float) -> Verdict:
    """The fixed rule for the 95 % interval of a paired difference: above 0, below 0, or neither (NaN too)."""
    return "reproduced" if low > 0 else "not reproduced" if high < 0 else "undecided"


def by_seed(rows: Iterable[Row], value: str = "top1") -> dict[int, float]:
    """seed -> value, of the rows of one cell; a seed whose row lacks the value is left out.

    Raises :class:`InputError` when the rows are of several teachers or images, and when a seed occurs twice.
    """
    rows = list(rows)
    _check_cell(rows)
    return {row.seed: getattr(row, value) for row in rows if getattr(row, value) is not None}


def summary(rows: Iterable[Row], by: Sequence[str] = (), value: str = "top1") -> "DataFrame":
    """A line a cell: the columns ``by`` (else :func:`varying_columns`), with seeds, mean, sd, half, low and high.

    ``half`` is half the width of the 95 % t-interval from ``low`` to ``high``.

    Warns when the rows are of several ALGORITHM_VERSIONs. Raises :class:`InputError` for an unknown column, for a value
    that is no number, and when a cell mixes teachers or images or has a seed twice (then ``by`` lacks a column).
    """
    import pandas as pd

    rows = list(rows)
    by, table = by or varying_columns(rows), frame(rows)
    if table.empty:
        return table
    _check_columns(table, by, value)
    versions = sorted(set(table["algorithm"]))
    if len(versions) > 1:
        warnings.warn(
            f"These rows are of several versions of the algorithm ({', '.join(map(str, versions))}), "
            "so their numbers may not compare; run the old ones again.",
            stacklevel=2,
        )
    # A list (ood_exclude) cannot name a group, so its text does.
    keys = {name: table[name].map(lambda entry: json.dumps(entry) if isinstance(entry, list) else entry) for name in by}
    records = []
    for names, part in table.assign(**keys).groupby(list(by), dropna=False):
        cell = dict(zip(by, names, strict=True))
        _check_cell([rows[number] for number in part.index], cell)
        values = part[value].dropna().tolist()
        mean, sd, half = t_interval(values)
        found = {"seeds": len(values), "mean": mean, "sd": sd, "half": half, "low": mean - half, "high": mean + half}
        records.append(cell | found)
    return pd.DataFrame(records)


def varying_columns(rows: Iterable[Row]) -> list[str]:
    """Columns that tell the cells of these rows apart.

    These are the usual ones, each switch that varies within such a cell (a grid over lam, say), and several ratios.
    """
    base = ["dataset", "network", "method", "num", "imbalance", "variant"]
    seen: dict[tuple, dict[str, set[str]]] = {}
    for row in rows:
        flat = row.flat()
        cell = seen.setdefault(tuple(flat.get(name) for name in base), {})
        for name in (*row.switches, "plan", "solver", "ratio", "ood_source"):
            cell.setdefault(name, set()).add(str(flat.get(name)))
    varying = {name for cell in seen.values() for name, values in cell.items() if len(values) > 1}
    ratios = {ratio for cell in seen.values() for ratio in cell["ratio"]} - {"None"}  # balanced images have none
    varying |= {"ratio"} if len(ratios) > 1 else set()
    return base + sorted(varying - set(base))


def by_setting(rows: Sequence[Row], value: str = "top1") -> tuple[list[str], list[dict[str, Any]]]:
    """The columns that tell the cells of these rows apart, and the lines of :func:`summary` over them."""
    by = varying_columns(rows)
    lines = summary(rows, by, value).to_dict("records")
    return by, [{str(name): _plain(found) if name in by else found for name, found in line.items()} for line in lines]


def merge_settings(lines: list[dict[str, Any]], names: Sequence[str]) -> str:
    """Write these switches into one column as ``name=value``, but not the value that most lines have; returns those."""
    usual: dict[str, Any] = {}
    for name in names:
        known = [str(line[name]) for line in lines if line[name] is not None]
        value, count = Counter(known).most_common(1)[0]
        usual |= {name: value} if 2 * count > len(lines) else {}
    for line in lines:
        own = [name for name in names if line[name] is not None and str(line[name]) != usual.get(name)]
        line["settings"] = ", ".join(f"{name}={line[name]}" for name in own) or None
    return ", ".join(f"{name}={value}" for name, value in usual.items())


def _plain(value: Any) -> Any:
    """None for NaN, where runs do not read the switch, and 10 for the 10.0 that pandas makes of it beside NaN."""
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    return value


def joined(words: Sequence[str]) -> str:
    """``CD, FSKD and MiR``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def _check_columns(table: "DataFrame", by: Sequence[str], value: str) -> None:
    for name in (*by, value):
        if name not in table.columns:
            others = "; try dataset, method, variant, num or top1."
            raise InputError(f"The rows have no column {name!r}{hint(name, table.columns, others)}")
    if not table[value].dropna().map(lambda entry: isinstance(entry, (int, float))).all():
        raise InputError(f"The column {value!r} holds no numbers; choose one such as top1 or balanced_accuracy.")


def _check_cell(rows: Sequence[Row], cell: Mapping[str, Any] | None = None) -> None:
    """Refuse rows of several teachers or images, and two rows of one seed; ``cell`` is what the message names."""
    place = f" ({', '.join(f'{name}={shown}' for name, shown in cell.items())})" if cell else ""
    for name in ("teacher_sha256", "data_fingerprint"):
        if len({getattr(row, name) for row in rows}) > 1:
            raise InputError(
                f"Rows of different {name} meet in one cell{place}; keep those of one teacher and one data set, "
                f"or summarise by {name}."
            )
    for seed, times in Counter(row.seed for row in rows).items():
        if times > 1:
            same = [row.flat() for row in rows if row.seed == seed]
            differ = [name for name in sorted(TELLING) if len({str(flat.get(name)) for flat in same}) > 1]
            raise InputError(
                f"Seed {seed} occurs {times} times in one cell{place}, with different "
                f"{', '.join(differ) or 'teachers or data'}; select one or summarise by it."
            )
