"""Sliders that teach, each around a pure drawing function and with a static twin.

``..._panel`` shows a few telling settings side by side, for batch runs, print and the web. ``..._explorer``
puts sliders around one of them. ipywidgets loads only where sliders are built.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from oefsmc_lib.evidence import answers, paper
from oefsmc_lib.evidence.figures import marks, ranks
from oefsmc_lib.progress import has_frontend
from oefsmc_lib.rows.row import Row

FEW, AUX, EVEN = marks.BLUE, marks.ORANGE, "#444444"  # few images, OOD images, the even share
TELLING = ((10, 10, 100, 10), (10, 10, 100, 30), (100, 10, 10, 100))  # num, classes, ratio, m
GROUP_LOOKS = {
    "top1": marks.Look("top-1", "#333333", "o"),
    "head_accuracy": marks.Look("head", marks.BLUE, "s"),
    "tail_accuracy": marks.Look("tail", marks.GREEN, "^"),
    "absent_accuracy": marks.Look("absent", marks.ORANGE, "D"),
}


@dataclass(frozen=True)
class Prior:
    """Eq. (4) for one long tail and what m OOD images make of it; by rank, head class first."""

    counts: list[int]  # m_j
    rates: list[float]  # Gamma_j
    few: list[float]  # the part of the mixture that D_few is: m_j / (M + m)
    mixed: list[float]  # expected class shares of D_few and D_aux together: (m_j + m Gamma_j) / (M + m)
    spread: float  # largest over smallest class share of the mixture; infinite while a class is empty
    balance: float  # the m from which on the mixture is even: M (K alpha - 1)


def prior(num: int, classes: int, ratio: float, m: int) -> Prior:
    """The numbers behind :func:`draw_prior`, from the library's own counts and rates."""
    import torch

    from oefsmc_lib.images import elsewhere, fewshot

    counts = fewshot.long_tailed_counts(num, classes, ratio)
    beta = torch.tensor(counts).double() / num
    rates = elsewhere.rates(beta).tolist()
    few = [count / (num + m) for count in counts]
    mixed = [(count + m * rate) / (num + m) for count, rate in zip(counts, rates)]
    spread = max(mixed) / min(mixed) if min(mixed) > 0 else float("inf")
    return Prior(counts, rates, few, mixed, spread, num * float(classes * (beta.max() + beta.min()) - 1))


def draw_prior(num: int = 10, classes: int = 10, ratio: float = 100, m: int = 10):
    """:func:`prior_panel` of one setting. A Figure."""
    return prior_panel([(num, classes, ratio, m)])


def prior_panel(settings: Sequence[tuple] = TELLING):
    """A row of pictures for each (num, classes, ratio, m). A Figure.

    They show the counts m_j and shares beta_j, the rates Gamma_j and weights gamma_j, and the mixture.
    The static twin of :func:`prior_explorer`, which shows one setting at a time.
    """
    rows = len(settings)
    margins = {"bottom": 0.16 / rows, "top": 1 - 0.2 / rows, "wspace": 0.62, "hspace": 0.65}
    figure, axes = _canvas(rows, 3, 12, 3.4 * rows, left=0.06, right=0.98, **margins)
    for row, (num, classes, ratio, m) in zip(axes, settings):
        found = prior(num, classes, ratio, m)
        _draw_prior(row, found)
        words = f"{num} images of {classes} classes at ratio {ratio:g}, and {m} OOD images"
        said = f"{words}: an even mixture needs m = {found.balance:.0f}"
        row[0].annotate(said, (0, 1), (0, 24), xycoords="axes fraction", textcoords="offset points", fontsize="large")
    return figure


def prior_explorer():
    """Sliders for ratio, K, M and m around :func:`draw_prior`."""
    return _explorer(draw_prior, ratio=(1, 200), classes=(2, 100), num=(1, 200), m=(0, 600))


def _draw_prior(axes, found: Prior) -> None:
    classes, empty = len(found.counts), found.counts.count(0)
    counts, rates, mixture = axes
    _bars(counts, found.counts, FEW)
    _label(counts, "images $m_j$", f"{empty} of {classes} classes are empty" if empty else "no class is empty")
    _second_scale(counts, 1 / sum(found.counts), r"share $\beta_j$")
    _bars(rates, found.rates, AUX)
    _label(rates, r"rate $\Gamma_j$", rf"eq. 4: $\Gamma_{{head}}$ = {found.rates[0]:.2f}")
    _second_scale(rates, classes, r"weight $\gamma_j$")
    _bars(mixture, found.few, FEW, label="few")
    aux = [share - few for share, few in zip(found.mixed, found.few)]
    _bars(mixture, aux, AUX, label="OOD images", bottom=found.few)
    even = "even" if found.spread < 1.05 else f"largest to smallest share {found.spread:.1f} : 1"
    left = even if found.spread < float("inf") else "some classes stay empty"
    _label(mixture, "share of the mixture", f"mixture: {left}")
    mixture.set_ylim(0, 1.5 * max(found.mixed))  # room for the legend
    for ax in (rates, mixture):
        ax.axhline(1 / classes, color=EVEN, linestyle="--", linewidth=1, label="even share")
    mixture.legend(loc="upper right", fontsize="x-small")


def _second_scale(ax, factor: float, label: str) -> None:
    ax.grid(False)  # two scales: lines of one would cross the ticks of the other
    second = ax.secondary_yaxis("right", functions=(lambda value: value * factor, lambda value: value / factor))
    second.set_ylabel(label)
    second.locator_params(axis="y", nbins=5)


def classes_panel(rows: Sequence[Row], method: str, num: int, variants: Sequence[str] = ()):
    """Recall by class, the most frequent first, of each variant and of the base beside it; seeds are dots. A Figure.

    More than twenty classes stand in ten bins.

    The static twin of :func:`classes_explorer`: without ``variants`` it shows every one that has rows.
    """
    found = {v: answers.select(rows, method=method, num=num, variant=v) for v in answers.VARIANT_WORDS}
    shown = variants or [variant for variant, own in found.items() if own] or ["ours"]
    bottom, top = (0.2, 0.84) if len(shown) == 1 else (0.06, 0.96)
    height = 0.8 + 1.9 * len(shown)
    figure, axes = _canvas(len(shown), 1, 9, height, left=0.08, right=0.98, bottom=bottom, top=top, hspace=0.75)
    for ax, variant in zip(axes[:, 0], shown):
        own, base = (answers.select(found[v], imbalance="long_tail") for v in (variant, answers.BASE))
        base = [row for row in base if row.seed in {one.seed for one in own}]  # a panel compares the same draws
        _draw_classes(ax, own, base if variant != answers.BASE else [], marks.VARIANT_LOOKS[variant].colour)
        words = f"{paper.METHOD_NAMES[method]}, {num} images: {answers.VARIANT_WORDS[variant]}"
        ax.set_title(f"{words}: {_accuracies(own)}, {len(own)} seeds", fontsize="small", loc="left")
    return figure


def classes_explorer(rows: Sequence[Row]):
    """Sliders for compressor, training size and variant around :func:`classes_panel`."""
    methods, variants = (answers.values_of(rows, name) for name in ("method", "variant"))
    return _explorer(
        lambda method, num, variant: classes_panel(rows, method, num, [variant]),
        method=[name for name in paper.METHOD_NAMES if name in methods],
        num=answers.values_of(rows, "num"),
        variant=[name for name in answers.VARIANT_WORDS if name in variants],
    )


def _draw_classes(ax, rows: Sequence[Row], base: Sequence[Row], colour: str) -> None:
    recalls, beside = ([_in_bins(answers.by_rank(row, row.per_class)) for row in part] for part in (rows, base))
    if beside:
        look = {"color": EVEN, "markersize": 16, "markeredgewidth": 2, "label": answers.VARIANT_WORDS[answers.BASE]}
        ax.plot([_mean(values) for values in zip(*beside)], "_", **look)
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize="x-small")
    _bars(ax, [_mean(values) for values in zip(*recalls)], colour)
    for seed in recalls:
        ax.plot(seed, ".", color="black", alpha=0.35, markersize=4)
    ax.set(ylim=(0, 104), ylabel="recall, %")
    parts = ranks.bins(len(rows[0].per_class)) if rows else []
    ax.set_xticks(range(len(parts)), [f"{part[0]}–{part[-1]}" if len(part) > 1 else f"{part[0]}" for part in parts])


def _in_bins(recalls: Sequence[float | None]) -> list[float]:
    return [_mean([recalls[rank - 1] for rank in part]) for part in ranks.bins(len(recalls))]


def _accuracies(rows: Sequence[Row]) -> str:
    if not rows:
        return answers.NOT_RUN
    groups = {group: _mean([getattr(row, f"{group}_accuracy") for row in rows]) for group in answers.GROUPS}
    said = ", ".join(f"{group} {mean:.0f} %" for group, mean in groups.items() if mean == mean)
    return f"{_mean([row.top1 for row in rows]):.1f} % ({said})"


def sweep_panel(rows: Sequence[Row], name: str, values: Sequence[float] = ()):
    """Accuracy and recall by group at each value of λ (``lam``) or η (``eta``), with intervals over seeds. A Figure.

    Shows one compressor: FSKD, or the first that has rows.
    The static twin of :func:`sweep_explorer`: without ``values`` it shows the smallest, the middle and the largest.
    """
    methods, stored = answers.values_of(rows, "method"), answers.values_of(rows, name) or [0.0]
    method = "fskd" if "fskd" in methods or not methods else methods[0]
    shown = values or sorted({stored[0], stored[len(stored) // 2], stored[-1]})
    width = max(8, 4.2 * len(shown))
    figure, axes = _canvas(1, len(shown), width, 3.6, left=0.06, right=0.98, bottom=0.16, top=0.82, wspace=0.2)
    for ax, value in zip(axes[0], shown):
        own = answers.select(rows, method=method, **{name: value})
        title = f"{paper.METHOD_NAMES[method]}, { {'lam': 'λ', 'eta': 'η'}[name] } = {value:g}"
        ax.set_title(title if own else f"{title}: {answers.NOT_RUN}", fontsize="small", loc="left")
        if own:
            _draw_groups(ax, own)
    return figure


def sweep_explorer(rows: Sequence[Row], name: str):
    """A slider over the stored values of λ or η around :func:`sweep_panel`."""
    return _explorer(lambda value: sweep_panel(rows, name, [value]), value=answers.values_of(rows, name))


def _draw_groups(ax, rows: Sequence[Row]) -> None:
    nums, entries = answers.values_of(rows, "num"), []
    for column, look in GROUP_LOOKS.items():
        cells = [answers.select(rows, num=num) for num in nums]
        values = [[found for row in cell if (found := getattr(row, column)) is not None] for cell in cells]
        entries.append((look, enumerate(map(marks.mean_of, values))))
    marks.compare(ax, entries, nums, "few images (bars: 95 % intervals)")
    ax.set(ylim=(0, 104), ylabel="accuracy or recall, %")
    ax.legend(loc="lower center", ncols=4, fontsize="x-small", columnspacing=1)


def show(static, explorer: Callable) -> None:
    """Display a static figure, and under it the sliders that ``explorer()`` makes where someone can move them."""
    from IPython.display import display

    display(static)
    if not has_frontend():
        return
    try:
        display(explorer())
    except ModuleNotFoundError as error:
        if error.name != "ipywidgets":
            raise
        print("The sliders need ipywidgets: pip install ipywidgets")


def _explorer(draw: Callable, **controls: list | tuple[int, int]):
    """Sliders for the arguments of ``draw``, each over a list or from a lowest to a highest whole number.

    The picture is drawn again when a slider is let go.
    """
    import ipywidgets

    made = {
        name: ipywidgets.SelectionSlider(options=of) if isinstance(of, list) else of for name, of in controls.items()
    }
    box = ipywidgets.interactive(draw, {"auto_display": True}, **made)
    for slider in box.kwargs_widgets:
        slider.continuous_update = False
    return box


def _canvas(rows: int, columns: int, width: float, height: float, **margins: float):
    """A figure that only its caller shows: Jupyter displays every open one a second time.

    Margins are fixed; a layout that is solved for takes longer than the drawing, at every move of a slider.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(rows, columns, figsize=(width, height), layout="none", squeeze=False)
    figure.subplots_adjust(**margins)
    plt.close(figure)
    return figure, axes


def _bars(ax, heights: Sequence[float], color: str, **options) -> None:
    ranks = range(len(heights))
    ax.bar(ranks, heights, width=0.8 if len(heights) <= 30 else 1, color=color, linewidth=0, **options)
    ax.set(xlabel="class, head first", xlim=(-0.7, len(heights) - 0.3))
    ax.locator_params(axis="y", nbins=5)
    if len(heights) <= 10:
        ax.set_xticks(ranks, [str(rank + 1) for rank in ranks])


def _label(ax, scale: str, title: str) -> None:
    ax.set_ylabel(scale)
    ax.set_title(title, fontsize="small")


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")
