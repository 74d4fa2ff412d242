"""Does it help: Table 2 and the ablation of Fig. 3a; and does the solver matter."""

from collections.abc import Sequence
from dataclasses import replace

from oefsmc_lib.evidence import answers, verdict
from oefsmc_lib.evidence.answers import BASE, GROUPS, NOT_RUN, REMEDIES, VARIANT_WORDS, column, gain, select
from oefsmc_lib.evidence.figures import marks
from oefsmc_lib.evidence.figures.marks import ALL_CLASSES, LOOKS, METHOD_LOOKS, VARIANT_LOOKS, Look, finish, panels
from oefsmc_lib.evidence.pairs import Paired, cell_of, grouped, over
from oefsmc_lib.evidence.paper import METHOD_NAMES as NAMES
from oefsmc_lib.rows.row import Row

PARTS = ("wo_comp", "wo_ft", "ours", "whole_pool")  # what the ablation compares with the base
SHORT = {"extra_images": "labels ignored", "whole_pool": "whole pool"}  # in titles; the legend has the long names
SOLVED = ("native", BASE, "extra_images", "ours")  # what was run with the released solvers


def effect(rows: Sequence[Row], profile):
    """Table 2: top-1 over num, a panel a compressor, a line a variant, the paper's values hollow."""
    return _by_method(rows, profile, ("native", BASE, *REMEDIES), effect_title(rows), "nums")


def effect_title(rows: Sequence[Row], variant: str = "ours") -> str:
    """What OE-FSMC adds to each compressor's base, averaged over its training sizes within each seed."""
    tail = select(rows, imbalance="long_tail", variant=variant)
    sizes, found = answers.values_of(tail, "num"), {}
    for method, name in NAMES.items():
        own = answers.values_of(select(tail, method=method), "num")
        few = f" (only {', '.join(map(str, own))})" if own != sizes else ""
        found[name + few] = _over_base(select(rows, method=method, imbalance="long_tail"), variant)
    return marks.listed(f"Mean over sizes, {VARIANT_WORDS[variant]} − base", found)


def ablation(rows: Sequence[Row], profile):
    """Fig. 3a: top-1 over num with either part of the method, with both, with none, and with the whole pool."""
    return _by_method(rows, profile, (BASE, *PARTS), ablation_title(rows), "few_nums")


def ablation_title(rows: Sequence[Row]) -> str:
    """What either part and both add to the base, averaged over sizes and the compressors with the most seeds."""
    rows = select(rows, imbalance="long_tail")
    seeds = {m: len({row.seed for row in rows if row.method == m}) for m in NAMES}
    most = [m for m, count in seeds.items() if count == max(seeds.values())]
    some = f" ({', '.join(NAMES[m] for m in most)})" if len(most) < sum(map(bool, seeds.values())) else ""
    cells = grouped([row for row in rows if row.method in most], cell_of).values()
    # One set of cells for all parts: those that have them all.
    own = [row for cell in cells if all(select(cell, variant=one) for one in (BASE, *PARTS)) for row in cell]
    found = {SHORT.get(variant, VARIANT_WORDS[variant]): _over_base(own, variant) for variant in PARTS}
    whole = len({cell_of(row) for row in own})
    some = some or (f" ({whole} cells)" if 0 < whole < len(cells) else "")
    return marks.listed(f"Points over base{some}", found)


def _over_base(rows: Sequence[Row], variant: str) -> Paired | None:
    """A variant - the base by seed, averaged over the cells of these rows; None without a pair."""
    return over(select(rows, variant=variant), select(rows, variant=BASE))


def _by_method(rows: Sequence[Row], profile, variants: Sequence[str], finding: str, name: str):
    sizes = marks.sizes_of(rows, profile, name)
    widths = [len(nums) + 0.6 for nums in sizes.values()]
    titles = [NAMES[method] for method in sizes]
    figure, axes = panels(titles, "test accuracy, %", 13, 4.4, width_ratios=widths, sharey=False)
    for ax, (method, nums) in zip(axes, sizes.items()):
        own = select(rows, method=method, imbalance="long_tail")
        marks.lines(ax, own, [VARIANT_LOOKS[variant] for variant in variants], nums)
    for ax in axes[1:]:
        ax.set_xlabel("few images")
    shown = [row for row in rows if column(row, "variant") in variants]
    return finish(figure, finding, profile, shown, [NAMES[m] for m in NAMES if m not in sizes])


def gains(rows: Sequence[Row], profile):
    """Paired differences to the fine-tuned base, in points: OOD images with labels ignored, OE-FSMC, the whole pool."""
    sizes, tail = marks.sizes_of(rows, profile), select(rows, imbalance="long_tail")
    nums = sorted({num for asked in sizes.values() for num in asked})
    looks = [_minus_base(variant) for variant in REMEDIES]
    figure, axes = panels([look.label for look in looks], "points of accuracy, paired by seed", 13, 4.4)
    for ax, look in zip(axes, looks):
        entries = []
        for method, asked in sizes.items():
            found = marks.differences(select(tail, method=method), asked, look.where, {"variant": BASE})
            entries.append((METHOD_LOOKS[method], zip(map(nums.index, asked), found)))
        marks.compare(ax, entries, nums, ALL_CLASSES, zero=True)
    return finish(figure, gains_title(rows), profile, rows)


def _minus_base(variant: str) -> Look:
    look = VARIANT_LOOKS[variant]
    return replace(look, label=f"{look.label.removeprefix('+ ')} − base", line="")


def gains_title(rows: Sequence[Row]) -> str:
    """In how many cells each remedy is significantly above and below the base."""
    every = {variant: list(verdict.cells(rows, variant).get("verdict", [])) for variant in REMEDIES}
    parts, worse = list[str](), list[str]()
    for variant, words in every.items():
        above, below = (sum(map(words.count, pair)) for pair in (("reproduced", "above"), ("not reproduced", "below")))
        if words:
            named = SHORT.get(variant, VARIANT_WORDS[variant])
            parts.append(f"{named} {above}/{len(words)}")
            worse += [f"{named} {below}"] * bool(below)
    if not parts:
        return f"Against the base: {NOT_RUN}"
    return f"Cells significantly above base: {', '.join(parts)}; below: {', '.join(worse) or 'none'}"


def groups(rows: Sequence[Row], profile, num: int):
    """Where it helps: the change of recall of head, tail and absent classes, a panel a compressor."""
    methods = marks.sizes_of(rows, profile)
    words = f"points of recall, {num} images"
    figure, axes = panels(map(NAMES.__getitem__, methods), words, 12, 4.2, sharey=False)
    for ax, method in zip(axes, methods):
        entries = []
        for variant in REMEDIES:
            found = [gain(rows, num, variant, value=f"{group}_accuracy", method=method) for group in GROUPS]
            entries.append((_minus_base(variant), enumerate(map(marks.paired, found))))
        marks.compare(ax, entries, GROUPS, zero=True)
    missing = [NAMES[m] for m in NAMES if m not in methods]
    return finish(figure, groups_title(rows, num), profile, select(rows, num=num), missing)


def groups_title(rows: Sequence[Row], num: int) -> str:
    """What OE-FSMC, and the same images without labels, add to the recall of the rarest class group of these draws."""

    def added(group: str, variant: str = "ours") -> dict[str, Paired | None]:
        return {NAMES[m]: gain(rows, num, variant, value=f"{group}_accuracy", method=m) for m in NAMES}

    rarest = next((group for group in reversed(GROUPS) if any(added(group).values())), GROUPS[-1])
    ignored = added(rarest, "extra_images")
    found = ", ".join(
        f"{name} {marks.signed(one)}" + (f" / {marks.signed(other)}" if (other := ignored[name]) else "")
        for name, one in added(rarest).items()
        if one
    )
    return f"Recall of {rarest} classes, OE-FSMC / labels ignored: {found or NOT_RUN}"


def solvers(rows: Sequence[Row], profile):
    """The released solver - this package's on the same draws, in points over num, a panel a variant."""
    looks = []
    for method in (m for m in NAMES if m == "fskd" or select(rows, method=m)):
        for kind in ("balanced", "long_tail"):
            words, where = f"{NAMES[method]}, {LOOKS[kind].label}", {"method": method, "imbalance": kind}
            looks.append(Look(words, LOOKS[kind].colour, METHOD_LOOKS[method].marker, where))
    figure, axes = panels([VARIANT_LOOKS[v].label for v in SOLVED], "points, released − this package's", 13, 4.2)
    for ax, variant in zip(axes, SOLVED):
        variants, entries = select(rows, variant=variant), []
        nums = marks.nums_of(variants, profile, "solver_nums")
        for look in looks:
            own = select(variants, **look.where)
            asked = nums if look.where["method"] == "fskd" else answers.values_of(own, "num")  # CD has one size only
            found = marks.differences(own, asked, {"solver": "literal"}, {"solver": "default"}, printed=False)
            if own or look.where["imbalance"] == "long_tail":
                entries.append((look, zip(map(nums.index, asked), found)))
        marks.compare(ax, entries, nums, ALL_CLASSES, zero=True)
    return finish(figure, solvers_title(rows), profile, select(rows, solver="literal"))


def solvers_title(rows: Sequence[Row]) -> str:
    """What each compressor's released solver adds to the long-tailed base, averaged over its training sizes."""
    found = {}
    for method, name in NAMES.items():
        own = select(rows, method=method, imbalance="long_tail", variant=BASE)
        released, this = (select(own, solver=solver) for solver in ("literal", "default"))
        found[name] = over(released, this)
    return marks.listed("Released solver − this package's, long-tailed base, points", found)
