"""The problem: balanced against long-tailed (Table 1), by class and by stage."""

from collections.abc import Sequence
from dataclasses import replace

from oefsmc_lib.evidence import answers, findings, paper
from oefsmc_lib.evidence.answers import BASE, GROUPS, NOT_RUN, select
from oefsmc_lib.evidence.figures.marks import (
    GREY,
    LOOKS,
    METHOD_LOOKS,
    Look,
    base_rows,
    canvas,
    finish,
    mark,
    num_axis,
    nums_of,
    series,
    teacher_line,
)
from oefsmc_lib.evidence.figures.ranks import by_rank, group_recall, rank_axis
from oefsmc_lib.rows.row import Row


def problem(rows: Sequence[Row], profile):
    """Top-1 over num, balanced against long-tailed: for each method alone and fine-tuned on the few images."""
    nums, methods = nums_of(rows, profile), answers.values_of(rows, "method") or ["fskd"]
    tall = len(methods) > 1
    shape = (2, len(methods)) if tall else (1, 2)
    figure, axes = canvas(*shape, width=max(9, 3.2 * shape[1]), height=3.6 * shape[0] + 0.6, sharey=True)
    for index, method in enumerate(methods):
        panels = axes[:, index] if tall else axes[0]
        for ax, variant, words in zip(panels, ("native", BASE), (" alone", ", fine-tuned on the few images")):
            own = select(rows, method=method, variant=variant)
            for number, name in enumerate(("balanced", "long_tail")):
                look = LOOKS[name]
                series(ax, select(own, imbalance=look.where["imbalance"]), nums, look, 0.16 * (number - 0.5))
            teacher_line(ax, own)
            ax.set_title(f"{paper.METHOD_NAMES[method]}{words}", loc="left")
            num_axis(ax, nums)
    for ax in axes[:, 0]:
        ax.set_ylabel("test accuracy, %")
    return finish(figure, findings.problem(rows, nums), profile, base_rows(rows))


def losses(rows: Sequence[Row], profile, methods: Sequence[str] = ()):
    """Table 1's arrows: balanced - long-tailed in points over num, a colour a method, paired by seed."""
    nums, methods = nums_of(rows, profile), list(methods) or answers.values_of(rows, "method") or ["fskd"]
    figure, axes = canvas(1, 1, width=8.5, height=4.2)
    ax = axes[0, 0]
    for number, method in enumerate(methods):
        colour, marker = METHOD_LOOKS[method]
        look = Look(paper.METHOD_NAMES[method], colour, marker, {}, "")
        shift = 0.7 / len(methods) * (number - (len(methods) - 1) / 2)
        for place, num in enumerate(nums):
            found = answers.tail_cost(rows, num, method=method)
            own = select(rows, method=method, num=num, variant=BASE)
            printed = [answers.paper_value(own[0], kind) for kind in ("balanced", "long_tail")] if own else [None]
            mark(ax, place + shift, found, look, None if None in printed else printed[0] - printed[1])
        ax.plot([], [], marker, color=colour, label=look.label)
    ax.axhline(0, color=GREY, linewidth=1)
    num_axis(ax, nums)
    ax.set_ylabel("balanced − long-tailed, points")
    return finish(figure, findings.problem(rows, nums), profile, base_rows(rows))


def rescue(rows: Sequence[Row], profile):
    """The problem and the rescue: teacher, balanced, long-tailed, OE-FSMC, and the whole pool."""
    nums = nums_of(rows, profile)
    figure, axes = canvas(1, 1, width=9, height=4.6)
    ax = axes[0, 0]
    for number, name in enumerate(("balanced", "long_tail", "ours", "whole_pool")):
        series(ax, select(rows, **LOOKS[name].where), nums, LOOKS[name], 0.13 * (number - 1.5))
    teacher_line(ax, rows)
    num_axis(ax, nums)
    ax.set_ylabel("test accuracy, %")
    return finish(figure, findings.rescue(rows, nums[0]) if nums else NOT_RUN, profile, rows)


def by_class(rows: Sequence[Row], profile, num: int | None = None, method: str = "fskd"):
    """Recall by rank of the class, head to absent: what the tail does on the left, the remedies on the right."""
    nums = nums_of(rows, profile)
    num = nums[0] if num is None and nums else num
    own = select(rows, num=num, method=method)
    figure, axes = canvas(1, 2, width=11, height=4.4, sharey=True)
    for ax, names, words in zip(
        axes[0],
        (("balanced", "long_tail"), ("long_tail", "ours", "whole_pool")),
        ("balanced and long-tailed", "without and with OOD images"),
    ):
        counts = rank_axis(ax, own)
        for number, name in enumerate(names):
            shift = 0.22 * (number - (len(names) - 1) / 2)
            by_rank(ax, select(own, **LOOKS[name].where), len(counts), LOOKS[name], shift)
        ax.set_title(words, loc="left", pad=18)
        ax.set_ylim(-4, 104)
    axes[0, 0].set_ylabel("recall on test images, %")
    return finish(figure, findings.classes(rows, num, method=method), profile, own)


def stages(rows: Sequence[Row], profile, method: str = "fskd"):
    """Recall of head, tail and absent classes over num, before (dotted) and after fine-tuning on the few images."""
    nums, own = nums_of(rows, profile), select(rows, method=method)
    figure, axes = canvas(1, 3, width=11.5, height=4.2, sharey=True)
    for ax, group in zip(axes[0], GROUPS):
        for number, name in enumerate(("balanced_native", "balanced", "long_tail_native", "long_tail")):
            look = LOOKS[name]
            after = {"balanced": "balanced, after", "long_tail": "long-tailed, after"}.get(name, look.label)
            look = replace(look, label=after)
            shift = 0.16 * (number - 1.5)
            series(ax, select(own, **look.where), nums, look, shift, group_recall(own, group), hollow_paper=False)
        ax.set_title(f"{group} classes of the long tail", loc="left")
        num_axis(ax, nums)
    axes[0, 0].set_ylabel("recall on test images, %")
    return finish(figure, findings.stages(rows, nums[0], method) if nums else NOT_RUN, profile, base_rows(own))
