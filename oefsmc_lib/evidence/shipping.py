"""What a network is worth as an ONNX file: the tables that ``bench/ship.py`` writes, for ``docs/shipping.md``.

Four files are compared: teacher and pruned student, each in float32 and in int8. Seeds are draws of the few images, so
differences of two files are paired by seed.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from oefsmc_lib.evidence import tables, timings, verdict
from oefsmc_lib.evidence.answers import NOT_RUN
from oefsmc_lib.evidence.pairs import minus

if TYPE_CHECKING:
    from pandas import DataFrame

FILES = {
    ("teacher", "float32"): "teacher",
    ("teacher", "int8"): "teacher, int8",
    ("pruned", "float32"): "pruned",
    ("pruned", "int8"): "pruned, int8",
}
SMALL = ("pruned", "int8")  # the smallest file
USUAL = "few + OOD"  # the images that int8 is calibrated on where nothing else is said
CALIBRATIONS = ("few", USUAL, "OOD")
GROUPS = ("head", "tail", "absent")
KINDS = {"long_tail": "long-tailed", "balanced": "balanced"}
Latency = dict[tuple[str, str], list[float]]
COLUMNS = ("seed", "imbalance", "network", "precision", "calibration", "top1", *GROUPS, "bytes")


def rows() -> "DataFrame | None":
    """Accuracy and bytes, a line a file and draw; None where nothing was measured."""
    found = timings.table("ship", COLUMNS)
    if found is None:
        return None
    return found.assign(calibration=found.calibration.astype(object).where(found.calibration.notna(), ""))


def milliseconds() -> Latency | None:
    """Milliseconds of processor time for one image, file -> [lower quartile, median, upper one], over the repeats."""
    columns = ["cpu_low_ms", "cpu_median_ms", "cpu_high_ms"]
    found = timings.table("ship-latency", ("network", "precision", *columns))
    if found is None:
        return None
    return {(str(n), str(p)): own[columns].median().tolist() for (n, p), own in found.groupby(["network", "precision"])}


def values(
    found: "DataFrame",
    file: tuple[str, str],
    value: str = "top1",
    imbalance: str = "long_tail",
    calibration: str = USUAL,
) -> dict[int, float]:
    """seed -> value of a file; ``calibration`` is read for int8 alone. Seeds without the value are left out."""
    network, precision = file
    wanted = calibration if precision == "int8" else ""
    same = (found.network == network) & (found.precision == precision)
    own = found[same & (found.imbalance == imbalance) & (found.calibration == wanted)].dropna(subset=value)
    return dict(zip(own.seed.tolist(), own[value].tolist()))


def points(differences: Mapping[int, float]) -> str:
    """``−0.1 ± 0.1``, or "not run"."""
    mean, _, half = tables.t_interval(list(differences.values()))
    return verdict.interval(mean, half) if differences else NOT_RUN


def level(found: Mapping[int, float]) -> str:
    """``90.6 ± 0.4``: a mean in percent with half its interval, or "not run"."""
    mean, _, half = tables.t_interval(list(found.values()))
    return (f"{mean:.1f}" + (f" ± {half:.1f}" if half > 0 else "")) if found else NOT_RUN


def markdown() -> str:
    """The sentence, the four files, and what the choice of calibration images changes."""
    found, latency = rows(), milliseconds()
    if found is None:
        return f"ONNX files: {NOT_RUN}."
    lines = []
    for file, title in FILES.items():
        line = {"file": title, "MB": megabytes(found, file), "ms": NOT_RUN}
        if latency is not None and file in latency:
            low, middle, high = latency[file]
            line["ms"] = f"{middle:.2f} ({low:.2f}–{high:.2f})"
        line |= {f"top-1, {kind}": level(values(found, file, imbalance=key)) for key, kind in KINDS.items()}
        lines.append(line | {f"{group}, long-tailed": level(values(found, file, group)) for group in GROUPS})
    parts = [sentence(), tables.to_markdown(lines), "What int8 changes, in points of top-1, by its calibration images:"]
    return "\n\n".join([*parts, tables.to_markdown(changes(found))])


def changes(found: "DataFrame") -> list[dict[str, str]]:
    """int8 minus its own float32 file, paired by seed: a line a network and draw, a column a choice of images."""
    lines = []
    for network in ("teacher", "pruned"):
        for imbalance, kind in KINDS.items():
            exact = values(found, (network, "float32"), imbalance=imbalance)
            line = {"network": network, "few images": kind, "seeds": str(len(exact))}
            for name in CALIBRATIONS:
                whole = values(found, (network, "int8"), imbalance=imbalance, calibration=name)
                line[name] = points(minus(whole, exact))
            lines.append(line)
    return lines


def sentence() -> str:
    """What int8 and pruning give a user, in one sentence; "not run" without the rows."""
    found, latency = rows(), milliseconds()
    if found is None or latency is None or not values(found, SMALL):
        return f"Pruned and int8 against the teacher: {NOT_RUN}."
    alone, both = worth(found, latency, ("teacher", "int8")), worth(found, latency, SMALL)
    pruned = "pruned by 10 long-tailed images and in int8 it is"
    return f"Against the teacher in float32, the teacher in int8 is {alone}; {pruned} {both}."


def worth(found: "DataFrame", latency: Latency, file: tuple[str, str]) -> str:
    """How much faster and smaller a file is than the teacher in float32, and at which price."""
    cost = points(minus(values(found, file), values(found, ("teacher", "float32"))))
    speed, size = faster(latency, file), smaller(found, file)
    return f"{speed:.1f} times as fast and {size:.1f} times smaller, and its top-1 changes by {cost} points"


def faster(latency: Latency, file: tuple[str, str]) -> float:
    """The teacher's milliseconds in float32, divided by those of a file."""
    return latency["teacher", "float32"][1] / latency[file][1]


def _bytes(found: "DataFrame", file: tuple[str, str]) -> float:
    own = found[(found.network == file[0]) & (found.precision == file[1])]
    return float(own.bytes.median())


def smaller(found: "DataFrame", file: tuple[str, str]) -> float:
    """The bytes of the teacher in float32, divided by those of a file."""
    return _bytes(found, ("teacher", "float32")) / _bytes(found, file)


def megabytes(found: "DataFrame", file: tuple[str, str]) -> str:
    """The size of a file, ``14.8``."""
    size = _bytes(found, file)
    return NOT_RUN if size != size else f"{size / 1e6:.1f}"
