"""Does it help: Table 2 and the ablation of Fig. 3a; and does the solver matter."""

from collections.abc import Sequence

from oefsmc_lib.evidence import answers, findings, paper
from oefsmc_lib.evidence.answers import BASE, GROUPS, REMEDIES, column, select
from oefsmc_lib.evidence.figures.marks import (
    GREY,
    LOOKS,
    METHOD_LOOKS,
    VARIANT_LOOKS,
    Look,
    canvas,
    finish,
    mark,
    num_axis,
    nums_of,
    series,
    teacher_line,
    trained,
)
from oefsmc_lib.rows.row import Row


def effect(rows: Sequence[Row], profile, nums: str = "nums"):
    """Table 2: top-1 over num, a panel a compressor, a line a variant, the paper's values hollow."""
    return _by_method(
        rows, profile, ("native", BASE, "extra_images", "ours", "whole_pool"), findings.effect(rows), nums
    )


def ablation(rows: Sequence[Row], profile):
    """Fig. 3a: top-1 over num with either part of the method, with both and with none, and beside them the whole pool."""
    return _by_method(
        rows, profile, (BASE, "wo_comp", "wo_ft", "ours", "whole_pool"), findings.ablation(rows), "few_nums"
    )


def _by_method(rows: Sequence[Row], profile, variants: Sequence[str], finding: str, name: str):
    methods = list(paper.METHOD_NAMES)
    sizes = [nums_of(select(rows, method=m), profile, trained(m, name)) for m in methods]
    figure, axes = canvas(
        1, len(methods), width=13, height=4.4, sharey=True, width_ratios=[len(s) + 0.6 for s in sizes]
    )
    for ax, method, nums in zip(axes[0], methods, sizes):
        own = select(rows, method=method, imbalance="long_tail")
        for number, variant in enumerate(variants):
            shift = 0.14 * (number - (len(variants) - 1) / 2)
            series(ax, select(own, variant=variant), nums, VARIANT_LOOKS[variant], shift)
        teacher_line(ax, own)
        ax.set_title(paper.METHOD_NAMES[method], loc="left")
        num_axis(ax, nums)
        if ax is not axes[0, 0]:
            ax.set_xlabel("few images")
    axes[0, 0].set_ylabel("test accuracy, %")
    return finish(figure, finding, profile, [row for row in rows if column(row, "variant") in variants])


def gains(rows: Sequence[Row], profile):
    """Paired differences to the fine-tuned base, in points: OOD images without their labels, OE-FSMC, the whole pool."""
    figure, axes = canvas(1, len(REMEDIES), width=13, height=4.4, sharey=True)
    methods = [m for m in paper.METHOD_NAMES if select(rows, method=m)] or ["fskd"]
    nums = sorted({num for m in methods for num in nums_of(select(rows, method=m), profile, trained(m, "nums"))})
    for ax, variant in zip(axes[0], REMEDIES):
        for number, method in enumerate(methods):
            colour, marker = METHOD_LOOKS[method]
            look = Look(paper.METHOD_NAMES[method], colour, marker, {}, "")
            asked = nums_of(select(rows, method=method), profile, trained(method, "nums"))
            for num in asked:
                found = answers.gain(rows, num, variant, method=method)
                both = [select(rows, method=method, num=num, variant=v) for v in (variant, BASE)]
                printed = [answers.paper_value(own[0]) if own else None for own in both]
                x = nums.index(num) + 0.7 / len(methods) * (number - (len(methods) - 1) / 2)
                mark(ax, x, found, look, None if None in printed else printed[0] - printed[1])
            ax.plot([], [], marker, color=colour, label=look.label)
        ax.axhline(0, color=GREY, linewidth=1)
        ax.set_title(f"{VARIANT_LOOKS[variant].label.removeprefix('+ ')} − base", loc="left")
        num_axis(ax, nums)
    axes[0, 0].set_ylabel("points of accuracy, paired by seed")
    return finish(figure, findings.gains(rows), profile, rows)


def groups(rows: Sequence[Row], profile, num: int):
    """Where it helps: the change of recall of head, tail and absent classes, a panel a compressor."""
    methods = list(paper.METHOD_NAMES)
    figure, axes = canvas(1, len(methods), width=12, height=4.2, sharey=True)
    for ax, method in zip(axes[0], methods):
        for number, variant in enumerate(REMEDIES):
            for place, group in enumerate(GROUPS):
                found = answers.gain(rows, num, variant, value=f"{group}_accuracy", method=method)
                mark(ax, place + 0.22 * (number - 1), found, VARIANT_LOOKS[variant], None)
            look = VARIANT_LOOKS[variant]
            ax.plot([], [], look.marker, color=look.colour, label=f"{look.label.removeprefix('+ ')} − base")
        ax.axhline(0, color=GREY, linewidth=1)
        ax.set_xticks(range(len(GROUPS)), GROUPS)
        ax.set_xlim(-0.5, len(GROUPS) - 0.5)
        ax.set_title(paper.METHOD_NAMES[method], loc="left")
        ax.grid(axis="x", visible=False)
    axes[0, 0].set_ylabel("points of recall, paired by seed")
    return finish(figure, findings.groups(rows, num), profile, select(rows, num=num))


def solvers(rows: Sequence[Row], profile):
    """The released solver - this package's on the same draws, in points over num: a panel a variant, both imbalances."""
    variants, conditions = ("native", BASE, "extra_images", "ours"), ("balanced", "long_tail")
    methods = [method for method in paper.METHOD_NAMES if method == "fskd" or select(rows, method=method)]
    figure, axes = canvas(1, len(variants), width=13, height=4.2, sharey=True)
    for ax, variant in zip(axes[0], variants):
        own = select(rows, variant=variant)
        nums = nums_of(own, profile, "solver_nums")
        asked = [(m, i) for m in methods for i in conditions if i == "long_tail" or select(own, method=m, imbalance=i)]
        for number, (method, imbalance) in enumerate(asked):
            colour = LOOKS[imbalance].colour
            marker = METHOD_LOOKS[method][1]
            look = Look(f"{paper.METHOD_NAMES[method]}, {LOOKS[imbalance].label}", colour, marker, {})
            for place, num in enumerate(nums):
                found = answers.solver_gap(own, method=method, imbalance=imbalance, num=num)
                if (
                    found or method == "fskd" or num == nums[0] and variant in ("native", BASE)
                ):  # CD is asked there only
                    mark(ax, place + 0.2 * (number - (len(asked) - 1) / 2), found, look, None)
            ax.plot([], [], marker, color=colour, label=look.label)
        ax.axhline(0, color=GREY, linewidth=1)
        ax.set_title(VARIANT_LOOKS[variant].label, loc="left")
        num_axis(ax, nums)
    axes[0, 0].set_ylabel("points, released − this package's")
    twice = {
        (row.method, row.num, row.variant, column(row, "imbalance"), row.seed)
        for row in rows
        if row.solver == "literal"
    }
    own = [
        row
        for row in select(rows, solver="default")
        if (row.method, row.num, row.variant, column(row, "imbalance"), row.seed) in twice
    ]
    return finish(figure, findings.solvers(rows), profile, own)
