"""Findings: what the titles of figures say, with their numbers ("The long tail costs 9.5 points at 10 images").

Computed from rows alone, whatever they say; where rows are missing the text is "not run".
"""

from collections.abc import Sequence

from oefsmc_lib.evidence import paper, tables, verdict
from oefsmc_lib.evidence.answers import (
    BASE,
    GROUPS,
    NOT_RUN,
    REMEDIES,
    VARIANT_WORDS,
    against,
    class_groups,
    column,
    gain,
    group_recalls,
    points,
    select,
    tail_cost,
    undecided,
    values_of,
)
from oefsmc_lib.rows.row import Row


def _of(variant: str):
    """Rows of a variant; those with redrawn labels are a variant of their own."""
    return lambda row: column(row, "variant") == variant


def _signed(found: dict) -> str:
    return verdict.signed(found["mean"]) + undecided(found)


def draw(counts: Sequence[int]) -> str:
    """What a draw gives the classes."""
    return (
        f"{sum(counts)} images for {len(counts)} classes: the largest class has {max(counts)}, "
        f"and {sum(m == 0 for m in counts)} classes have none"
    )


def elsewhere(counts: Sequence[int], drawn: Sequence[int]) -> str:
    """Where the drawn labels of eq. 4 go."""
    absent = sum(a for a, m in zip(drawn, counts, strict=True) if m == 0)
    return f"{absent} of {sum(drawn)} OOD images are labelled as a class that has no image of its own"


def shares(predicted: dict[str, Sequence[float]], counts: Sequence[int]) -> str:
    """How often each network predicts a class without an image, against how often they occur."""
    kinds = class_groups(counts)
    parts = [
        f"{sum(float(s) for s, kind in zip(share, kinds) if kind == 'absent'):.0f} % ({label})"
        for label, share in predicted.items()
    ]
    occur = 100 * kinds.count("absent") / len(kinds)
    return f"Classes without an image occur in {occur:.0f} % of the images and are predicted in {', '.join(parts)}"


def problem(rows: Sequence[Row], nums: Sequence[int]) -> str:
    """What the long tail costs at the smallest and the largest training set; for several methods at the smallest."""
    costs = {(m, n): d for m in values_of(rows, "method") for n in nums if (d := tail_cost(rows, n, method=m))}
    if not costs:
        return f"What does the long tail cost? {NOT_RUN.capitalize()}"
    if len({m for m, _ in costs}) == 1:
        (_, first), (_, last) = min(costs), max(costs)
        parts = [f"{points(costs[_, n], 'costs', 'adds')} at {n} images" for n in dict.fromkeys((first, last))]
        return f"The long tail {' and '.join(parts)}"
    first = min(n for _, n in costs)
    parts = [f"{paper.METHOD_NAMES[m]} {_signed(d)}" for (m, n), d in costs.items() if n == first]
    return f"Points that the long tail costs at {first} images: {', '.join(parts)}"


def rescue(rows: Sequence[Row], num: int, method: str = "fskd") -> str:
    """The cost of the tail at one training size, and what OE-FSMC and the whole pool change about it."""
    cost = tail_cost(rows, num, method=method)
    back, more = (" back", " another") if cost is not None and cost["mean"] > 0 else ("", "")
    parts = [] if cost is None else [f"the long tail costs {_points(cost)}"]
    for variant, name in (("ours", "OE-FSMC"), ("whole_pool", "the whole pool")):
        if found := gain(rows, num, variant, method=method):
            parts.append(
                f"{name} {f'wins{back}' if found['mean'] > 0 else f'loses{more}'} {_points(found, signed=False)}"
            )
    return f"With {num} images " + ", ".join(parts) if parts else f"Problem and rescue: {NOT_RUN}"


def _points(found: dict, signed: bool = True) -> str:
    """``9.5 ± 2.6 points``, and "undecided" where the interval holds 0."""
    mean = found["mean"] if signed else abs(found["mean"])
    half = f" ± {found['half']:.1f}" if found["half"] == found["half"] else ""
    return f"{mean:.1f}{half} points{undecided(found)}"


def classes(rows: Sequence[Row], num: int, variant: str = BASE, method: str = "fskd") -> str:
    """The groups with the lowest and the highest recall."""
    found = group_recalls(rows, num, variant, method)
    if not found:
        return f"Which classes pay? {NOT_RUN.capitalize()}"
    low, high = min(found, key=found.get), max(found, key=found.get)
    return (
        f"With {num} long-tailed images {low} classes have the lowest recall, {found[low]:.0f} %, "
        f"against {found[high]:.0f} % of {high} classes"
    )


def stages(rows: Sequence[Row], num: int, method: str = "fskd") -> str:
    """What fine-tuning on the few long-tailed images changes, by group."""
    found = {g: gain(rows, num, BASE, "native", f"{g}_accuracy", method=method) for g in GROUPS}
    parts = [f"{group} {_signed(d)}" for group, d in found.items() if d is not None]
    return f"Points of recall that fine-tuning on {num} long-tailed images adds: " + (", ".join(parts) or NOT_RUN)


def effect(rows: Sequence[Row], variant: str = "ours") -> str:
    """What OE-FSMC adds to each compressor's base, averaged over its training sizes within each seed."""
    parts = []
    for method, name in paper.METHOD_NAMES.items():
        own = select(rows, method=method, imbalance="long_tail")
        found = verdict.over(own, _of(variant), _of(BASE))
        if found:
            parts.append(f"{name} {_signed(vars(found) | {'low': found.low, 'high': found.high})}")
    return f"Points against the base, {VARIANT_WORDS[variant]}: {', '.join(parts) or NOT_RUN}"


def gains(rows: Sequence[Row]) -> str:
    """In how many cells each remedy is significantly above and below the base."""
    parts = []
    for variant in REMEDIES:
        table = verdict.cells(rows, variant)
        if "verdict" in table:
            words = list(table["verdict"])
            above, below = (
                sum(word in pair for word in words) for pair in (("reproduced", "above"), ("not reproduced", "below"))
            )
            parts.append(f"{VARIANT_WORDS[variant]}: above it in {above}, below it in {below} of {len(words)} cells")
    return f"Against the fine-tuned base: {'; '.join(parts) or NOT_RUN}"


def groups(rows: Sequence[Row], num: int) -> str:
    """What OE-FSMC does to the recall of the rarest class group that these draws have, method by method."""
    found = {
        (g, name): d
        for g in GROUPS
        for method, name in paper.METHOD_NAMES.items()
        if (d := gain(rows, num, value=f"{g}_accuracy", method=method))
    }
    rarest = max((g for g, _ in found), key=GROUPS.index, default=GROUPS[-1])
    parts = [f"{name} {_signed(d)}" for (g, name), d in found.items() if g == rarest]
    return f"Points of recall that OE-FSMC adds to {rarest} classes at {num} images: {', '.join(parts) or NOT_RUN}"


def ablation(rows: Sequence[Row]) -> str:
    """What either part alone and both together add to the base, averaged over sizes and the compressors with the most seeds."""
    rows = select(rows, imbalance="long_tail")
    seeds = {m: len({row.seed for row in select(rows, method=m)}) for m in paper.METHOD_NAMES}
    most = [m for m, count in seeds.items() if count == max(seeds.values())]
    some = (
        f" with {' and '.join(paper.METHOD_NAMES[m] for m in most)}"
        if len(most) < sum(map(bool, seeds.values()))
        else ""
    )
    rows = [row for row in rows if row.method in most]
    found = {v: verdict.over(rows, _of(v), _of(BASE)) for v in ("wo_comp", "wo_ft", "ours", "whole_pool")}
    parts = [f"{VARIANT_WORDS[v]} {_signed(vars(d) | {'low': d.low, 'high': d.high})}" for v, d in found.items() if d]
    return f"Points against neither part (w/o all){some}: {', '.join(parts) or NOT_RUN}"


def settings(entries: dict[str, Sequence[Row]], reference: str, value: str = "top1") -> str:
    """Which settings are significantly above the reference, and which below."""
    words: dict[str, list[str]] = {"reproduced": [], "not reproduced": []}
    found = {label: against(rows, entries[reference], value) for label, rows in entries.items() if label != reference}
    for label, difference in found.items():
        if difference and (word := tables.verdict(difference["low"], difference["high"])) in words:
            words[word].append(f"{label} ({verdict.signed(difference['mean'])})")
    if not any(found.values()):
        return f"Against {reference}: {NOT_RUN}"
    above, below = ("; ".join(group) for group in words.values())
    if not above and not below:
        return f"No other setting differs detectably from {reference}"
    if not above:
        return f"Significantly below {reference}: {below}"
    return f"Significantly above {reference}: {above}" + (f". Below: {below}" if below else "")


def against_base(entries: dict[str, dict[str, Sequence[Row]]]) -> str:
    """What the last remedy adds to the base of each setting, in points."""
    *_, remedy = next(iter(entries.values()))
    found = {setting: against(rows[remedy], rows["base"]) for setting, rows in entries.items()}
    parts = [f"{setting} {_signed(one)}" for setting, one in found.items() if one]
    return f"Points against the base, {remedy}: {', '.join(parts) or NOT_RUN}"


def stopping(entries: dict[str, Sequence[Row]]) -> str:
    """The epoch whose weights each kind of fine-tuning keeps, and the epochs that it ran, means over runs."""
    parts = []
    for label, rows in entries.items():
        if own := [row for row in rows if row.finetune_distances]:
            kept, ran = (
                sum(values) / len(own) for values in zip(*((row.finetune_kept, row.finetune_epochs) for row in own))
            )
            parts.append(f"{label} after epoch {kept:.0f} of {ran:.0f}")
    return f"Closest to the teacher{' on average' * any(len(rows) > 1 for rows in entries.values())}: {', '.join(parts) or NOT_RUN}"


def criteria(entries: dict[str, Sequence[Row]]) -> str:
    """The recall of classes without images under each criterion of eq. 5."""
    parts = [
        f"{label} {sum(found) / len(found):.0f} %"
        for label, rows in entries.items()
        if (found := [row.absent_accuracy for row in rows if row.absent_accuracy is not None])
    ]
    return f"Recall of absent classes: {', '.join(parts) or NOT_RUN}"


def solvers(rows: Sequence[Row]) -> str:
    """What each compressor's released solver adds to this package's under the long tail, averaged over its training sizes."""
    parts = []
    for method, name in paper.METHOD_NAMES.items():
        own = select(rows, method=method, imbalance="long_tail")
        for variant in ("native", "native_ft", "extra_images", "ours"):
            found = verdict.over(
                select(own, variant=variant), lambda row: row.solver == "literal", lambda row: row.solver == "default"
            )
            if found:
                parts.append(
                    f"{name}, {VARIANT_WORDS[variant]} {_signed(vars(found) | {'low': found.low, 'high': found.high})}"
                )
    return f"Released solver − this package's, long-tailed, mean over sizes: {'; '.join(parts) or NOT_RUN}"


def features(classes: dict[str, float]) -> str:
    """How many classes the teacher sees in the images of each source."""
    first, *rest = (f"{number:.1f}{{}} in {source}" for source, number in classes.items())
    return f"The teacher sees {', '.join([first.format(' classes'), *(each.format('') for each in rest)])}"


def channels(kept: dict[str, Sequence[int]], channels: int) -> str:
    """How many channels two criteria both keep, and how many by chance."""
    (one, a), (other, b) = kept.items()
    both = len(set(a) & set(b))
    return (
        f"{one} and {other} both keep {both} of {len(a)} channels; two choices by chance would share "
        f"{len(a) * len(b) / channels:.0f}"
    )
