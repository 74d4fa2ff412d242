"""What is made of rows: tables, means over seeds with 95 % intervals, paired differences, and the fixed rule.

Nothing here loads torch; pandas and scipy load where they are used.
"""

import difflib
import json
import math
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from oefsmc_lib.errors import InputError
from oefsmc_lib.files import write_whole
from oefsmc_lib.rows.row import SWITCHES, Row


def frame(rows: Iterable[Row]):
    """A pandas table with a row a run; a switch that a run did not read is missing there."""
    import pandas as pd

    return pd.DataFrame([row.flat() for row in rows])


def to_csv(table, path: Path | str) -> None:
    """Write a table's plain columns; lists (indices, counts, recalls) stay in the rows."""
    plain = [name for name in table.columns if not table[name].map(lambda value: isinstance(value, (list, dict))).any()]
    write_whole(Path(path), table[plain].to_csv(index=False, float_format="%.10g"))


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean, standard deviation (n - 1) and the t-interval's half-width t_{(1+level)/2, n-1} sd / sqrt(n).

    The last two are NaN for a single value: one seed says nothing about the spread.
    """
    import numpy as np
    from scipy import stats

    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return (float(values[0]) if len(values) else math.nan), math.nan, math.nan
    sd = float(values.std(ddof=1))
    return float(values.mean()), sd, float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * sd / math.sqrt(len(values))


def summary(rows: Iterable[Row], by: Sequence[str], value: str = "top1"):
    """``by`` columns, then n, mean, sd, half, low, high: seeds and their 95 % t-interval a cell.

    Warns when the rows are of several ALGORITHM_VERSIONs. Raises :class:`InputError` when a cell
    mixes teachers or data, or has a seed twice (then ``by`` lacks a column).
    """
    import pandas as pd

    table = frame(rows)
    _warn_of_versions(table)
    records = []
    for cell, part in _cells(table, by, value):
        records.append(cell | _spread(part[value].dropna().tolist()))
    return pd.DataFrame(records)


def means(rows: Sequence[Row]):
    """:func:`summary` of every setting that these rows have."""
    return summary(rows, varying_columns(rows))


def verdict(low: float, high: float) -> Literal["reproduced", "not reproduced", "undecided"]:
    """The fixed rule for the 95 % interval of a paired difference: above 0, below 0, or neither (NaN too)."""
    return "reproduced" if low > 0 else "not reproduced" if high < 0 else "undecided"


def _spread(values: list[float]) -> dict[str, float]:
    mean, sd, half = t_interval(values)
    return {"n": len(values), "mean": mean, "sd": sd, "half": half, "low": mean - half, "high": mean + half}


def _cells(table, by: Sequence[str], value: str, pair: str | None = None):
    """Yield ``({column: value}, rows)`` of each cell: of one teacher, one data set and, a side, one row a seed."""
    if table.empty:
        return
    _known_columns(table, [*by, value])
    if not table[value].dropna().map(lambda entry: isinstance(entry, (int, float))).all():
        raise InputError(f"The column {value!r} holds no numbers; choose one such as top1 or balanced_accuracy.")
    # a list (ood_exclude) names a cell by its text
    table = table.assign(
        **{name: table[name].map(lambda entry: json.dumps(entry) if isinstance(entry, list) else entry) for name in by}
    )
    for names, part in table.groupby(list(by), dropna=False) if by else [((), table)]:
        cell = dict(zip(by, names, strict=True))
        place = ", ".join(f"{name}={shown}" for name, shown in cell.items()) or "the whole table"
        for column in ("teacher_sha256", "data_fingerprint"):
            if part[column].nunique() > 1:
                raise InputError(
                    f"Rows of different {column} meet in one cell ({place}); summarise them apart, or by {column}."
                )
        once = ["seed"] + ([pair] if pair else [])
        repeated = part[part.duplicated(once, keep=False)]
        if len(repeated):
            raise InputError(_repeated(repeated, once, place))
        yield cell, part


def _repeated(rows, once: list[str], place: str) -> str:
    """Which switches tell the rows of one seed apart, as a sentence."""
    _, same = next(iter(rows.groupby(once)))
    names = sorted((SWITCHES | {"network", "algorithm", "ood_fingerprint"}) & set(same) - {"counts", "device"})
    differ = [name for name in names if same[name].map(str).nunique() > 1]
    return (
        f"Seed {same['seed'].iloc[0]} occurs {len(same)} times in one cell ({place}), with different "
        f"{', '.join(differ) or 'teachers or data'}; select one or summarise by it."
    )


def _known_columns(table, names: Sequence[str]) -> None:
    for name in names:
        if len(table.columns) and name not in table.columns:
            near = difflib.get_close_matches(name, list(table.columns), n=1) or ["top1"]
            raise InputError(f"The rows have no column {name!r}; did you mean {near[0]}?")


def _warn_of_versions(table) -> None:
    versions = sorted(set(table["algorithm"])) if len(table) else []
    if len(versions) > 1:
        warnings.warn(
            f"These rows are of several versions of the algorithm ({', '.join(map(str, versions))}), "
            "so their numbers may not compare; run the old ones again.",
            stacklevel=3,
        )


def varying_columns(rows: Sequence[Row]) -> list[str]:
    """Columns that tell the cells of these rows apart: the usual ones, and each switch that varies
    within a method and variant (a grid over lam, say)."""
    base = ["dataset", "network", "method", "num", "imbalance", "variant"]
    seen: dict[tuple, dict[str, set]] = {}
    for row in rows:
        flat = row.flat()
        group = seen.setdefault((row.dataset, row.network, row.method, row.variant, row.num, flat.get("imbalance")), {})
        for name in (*row.switches, "plan", "solver", "ratio", "ood_source"):
            group.setdefault(name, set()).add(str(flat.get(name)))
    varying = {name for group in seen.values() for name, values in group.items() if len(values) > 1}
    return base + sorted(varying - set(base))
