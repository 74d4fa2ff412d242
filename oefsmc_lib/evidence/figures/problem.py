"""The problem: balanced against long-tailed (Table 1), by class and by stage. Rescue, classes and stages are FSKD's."""

from collections.abc import Sequence
from dataclasses import replace

from oefsmc_lib.evidence import answers, paper
from oefsmc_lib.evidence.answers import BASE, GROUPS, NOT_RUN, gain, select, tail_cost
from oefsmc_lib.evidence.figures import marks
from oefsmc_lib.evidence.figures.marks import ALL_CLASSES, LOOKS, METHOD_LOOKS, finish, panels
from oefsmc_lib.evidence.figures.ranks import by_rank, group_recall, rank_axis
from oefsmc_lib.rows.row import Row

PAIR = (LOOKS["balanced"], LOOKS["long_tail"])


def problem(rows: Sequence[Row], profile):
    """Top-1 over num, balanced against long-tailed: for each method alone and fine-tuned on the few images."""
    nums, methods = marks.nums_of(rows, profile), answers.values_of(rows, "method") or ["fskd"]
    words = {"native": " alone", BASE: ", fine-tuned on the few images"}
    shown = [(variant, method) for variant in words for method in methods]
    titles = [paper.METHOD_NAMES[method] + words[variant] for variant, method in shown]
    tall: dict = {"rows": 2, "sharey": "col"} if len(methods) > 1 else {}  # a column a method, which has one scale
    figure, axes = panels(titles, "test accuracy, %", max(9, 3.2 * len(methods)), 7.8 if tall else 4.2, **tall)
    for ax, (variant, method) in zip(axes, shown):
        looks = [replace(look, where=look.where | {"variant": variant}) for look in PAIR]
        marks.lines(ax, select(rows, method=method, variant=variant), looks, nums)
    return finish(figure, problem_title(rows, nums), profile, select(rows, variant=BASE))


def problem_title(rows: Sequence[Row], nums: Sequence[int]) -> str:
    """What the long tail costs at the smallest and the largest training size; of several methods at the smallest."""
    costs = {(n, m): d for m in answers.values_of(rows, "method") for n in nums if (d := tail_cost(rows, n, method=m))}
    if not costs:
        return f"What does the long tail cost? {NOT_RUN.capitalize()}"
    first, last = min(num for num, _ in costs), max(num for num, _ in costs)
    if len({method for _, method in costs}) > 1:
        found = {paper.METHOD_NAMES[method]: cost for (num, method), cost in costs.items() if num == first}
        return marks.listed(f"Cost of the long tail at {first} images, points", found)
    said = {num: marks.signed(cost).removeprefix("+") for (num, _), cost in costs.items()}
    more = f", {said[last]} at {last}" if last > first else ""
    return f"The long tail costs {said[first]} points at {first} images{more}"


def losses(rows: Sequence[Row], profile, methods: Sequence[str] = ()):
    """Table 1's arrows: balanced - long-tailed in points over num, a colour a method, paired by seed."""
    nums = marks.nums_of(rows, profile)
    paired = (m for m in answers.values_of(rows, "method") if any(tail_cost(rows, n, method=m) for n in nums))
    there = list(paired) or ["fskd"]
    figure, (ax,) = panels([""], "balanced − long-tailed, points", 8.5, 4.2)
    entries = []
    for look in map(METHOD_LOOKS.__getitem__, there):
        found = marks.differences(select(rows, **look.where), nums, PAIR[0].where, PAIR[1].where)
        entries.append((look, enumerate(found)))
    marks.compare(ax, entries, nums, ALL_CLASSES, zero=True)
    some = answers.values_of(rows, "method")  # these lack one of the two sides, which is the balanced one
    missing = [paper.METHOD_NAMES[m] + " with balanced images" * (m in some) for m in methods if m not in there]
    return finish(figure, losses_title(rows, nums), profile, select(rows, variant=BASE), missing)


def losses_title(rows: Sequence[Row], nums: Sequence[int]) -> str:
    """In how many cells, a method at a training size each, the long tail costs accuracy significantly."""
    methods = answers.values_of(rows, "method")
    costs = [cost for n in nums for m in methods if (cost := tail_cost(rows, n, method=m))]
    above = sum(cost["low"] > 0 for cost in costs)
    found = f" in {above} of {len(costs)} cells" if costs else f": {NOT_RUN}"
    return f"The long tail costs accuracy significantly{found}"


def rescue(rows: Sequence[Row], profile):
    """The problem and the rescue: teacher, balanced, long-tailed, OE-FSMC, and the whole pool."""
    nums = marks.nums_of(rows, profile)
    figure, (ax,) = panels([""], "test accuracy, %", 9, 4.6)
    marks.lines(ax, rows, LOOKS.values(), nums)
    return finish(figure, rescue_title(rows, nums[0]) if nums else NOT_RUN, profile, rows)


def rescue_title(rows: Sequence[Row], num: int) -> str:
    """The cost of the tail at one training size, and what OE-FSMC and the whole pool change about it."""
    cost = tail_cost(rows, num, method="fskd")
    parts = [f"the tail costs {marks.certain(cost).removeprefix('+')} points"] if cost else []
    for variant, name in (("ours", "OE-FSMC adds"), ("whole_pool", "the whole pool instead")):
        if found := gain(rows, num, variant, method="fskd"):
            parts.append(f"{name} {marks.certain(found)}")
    return f"At {num} images {', '.join(parts)}" if parts else f"Problem and rescue: {NOT_RUN}"


def by_class(rows: Sequence[Row], profile, num: int | None = None):
    """Recall by rank of the class, head to absent: what the tail does on the left, the remedies on the right."""
    num = min(marks.nums_of(rows, profile), default=0) if num is None else num
    own = select(rows, num=num, method="fskd")
    sides = {"balanced and long-tailed": PAIR, "without and with OOD images": [*LOOKS.values()][1:]}
    figure, axes = panels(sides, "recall on test images, %", 11, 4.4)
    for ax, looks in zip(axes, sides.values()):
        ax.set_ylim(-4, 104)
        if not (tails := select(own, imbalance="long_tail")):
            ax.annotate(NOT_RUN, (0.5, 0.5), xycoords="axes fraction", ha="center", color=marks.GREY)
            ax.set_xticks([])
            continue
        rank_axis(ax, answers.by_rank(tails[0], tails[0].counts))
        for number, look in enumerate(looks):
            by_rank(ax, select(own, **look.where), len(tails[0].counts), look, 0.22 * (number - (len(looks) - 1) / 2))
    return finish(figure, classes_title(rows, num), profile, own)


def classes_title(rows: Sequence[Row], num: int) -> str:
    """The class groups with the lowest and the highest recall of the base."""
    found = answers.group_recalls(rows, num)
    if not found:
        return f"Which classes pay? {NOT_RUN.capitalize()}"
    low, high = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
    lowest = f"At {num} long-tailed images, {low} classes have the lowest recall"
    return f"{lowest}: {found[low]:.0f} %; {high} classes {found[high]:.0f} %"


def stages(rows: Sequence[Row], profile):
    """Recall of head, tail and absent classes over num, before (dotted) and after fine-tuning on the few images."""
    nums, own, looks = marks.nums_of(rows, profile), select(rows, method="fskd"), []
    for after in PAIR:
        native = after.where | {"variant": "native"}
        looks.append(replace(after, label=f"{after.label}, before", where=native, line=":", alpha=0.55))
        looks.append(replace(after, label=f"{after.label}, after"))
    figure, axes = panels([f"{g} classes of the long tail" for g in GROUPS], "recall on test images, %", 11.5, 4.2)
    for ax, group in zip(axes, GROUPS):
        marks.lines(ax, own, looks, nums, group_recall(own, group))
    return finish(figure, stages_title(rows, nums[0]) if nums else NOT_RUN, profile, select(own, variant=BASE))


def stages_title(rows: Sequence[Row], num: int) -> str:
    """What fine-tuning on the few long-tailed images changes, by group."""
    found = {group: gain(rows, num, BASE, "native", f"{group}_accuracy", method="fskd") for group in GROUPS}
    return marks.listed(f"Points of recall that fine-tuning on {num} long-tailed images adds", found)
