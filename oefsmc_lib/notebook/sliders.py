"""Sliders that teach, each around a pure drawing function and with a static twin.

``draw_...`` turns numbers into a figure; ``..._explorer`` puts sliders around it; ``..._panel`` shows
a few telling settings side by side, for batch runs, print and the web. ipywidgets loads only where
sliders are built.
"""

import io
from dataclasses import dataclass

from oefsmc_lib.evidence import answers, paper
from oefsmc_lib.evidence.figures import marks
from oefsmc_lib.progress import has_frontend

FEW, AUX, EVEN = "#0173b2", "#de8f05", "#444444"  # seaborn's colour-blind palette: few, OOD images; the even share
TELLING = ((10, 10, 100, 10), (10, 10, 100, 30), (100, 10, 10, 100))  # num, classes, ratio, m


@dataclass(frozen=True)
class Prior:
    """Eq. (4) for one long tail and what m OOD images make of it; by rank, head class first."""

    num: int
    m: int
    counts: list[int]  # m_j
    rates: list[float]  # Gamma_j
    balance: float  # the m from which on the mixture is even: M (K alpha - 1)

    @property
    def classes(self) -> int:
        return len(self.counts)

    @property
    def mixed(self) -> list[float]:
        """Expected class shares of D_few and D_aux together: (m_j + m Gamma_j) / (M + m)."""
        return [(count + self.m * rate) / (self.num + self.m) for count, rate in zip(self.counts, self.rates)]

    @property
    def spread(self) -> float:
        """Largest over smallest class share of the mixture; infinite while a class is empty."""
        return max(self.mixed) / min(self.mixed) if min(self.mixed) > 0 else float("inf")


def prior(num: int, classes: int, ratio: float, m: int) -> Prior:
    """The numbers behind :func:`draw_prior`, from the library's own counts and rates."""
    import torch

    from oefsmc_lib.images import elsewhere, fewshot

    counts = fewshot.long_tailed_counts(num, classes, ratio)
    beta = torch.tensor(counts).double() / num
    balance = num * float(classes * (beta.max() + beta.min()) - 1)
    return Prior(num, m, counts, elsewhere.rates(beta).tolist(), balance)


def draw_prior(num: int = 10, classes: int = 10, ratio: float = 100, m: int = 10):
    """Three pictures: counts m_j and shares beta_j; rates Gamma_j and weights gamma_j; the mixture. A Figure."""
    figure, axes = _canvas(1, 3, (12, 3.4), left=0.06, right=0.98, bottom=0.16, top=0.8, wspace=0.62)
    found = prior(num, classes, ratio, m)
    for draw, ax in zip((_draw_counts, _draw_rates, _draw_mixture), axes.flat):
        draw(ax, found)
    figure.suptitle(
        f"{num} images of {classes} classes at ratio {ratio:g}, and {m} OOD images: "
        f"an even mixture needs m = {found.balance:.0f}"
    )
    return figure


def prior_panel():
    """The static twin of :func:`prior_explorer`: three settings, a column each. A Figure."""
    figure, axes = _canvas(
        3, len(TELLING), (11, 8), left=0.07, right=0.93, bottom=0.07, top=0.87, wspace=0.62, hspace=0.35
    )
    for column, (num, classes, ratio, m) in zip(axes.T, TELLING):
        found = prior(num, classes, ratio, m)
        for draw, ax in zip((_draw_counts, _draw_rates, _draw_mixture), column):
            draw(ax, found)
        column[0].set_title(f"M = {num}, ratio {ratio}, m = {m}\n{column[0].get_title()}", fontsize="small")
    for ax in axes[:, 1:].flat:
        ax.set_ylabel("")
    for ax in axes[:, :-1].flat:
        for second in ax.child_axes:
            second.set_ylabel("")
    for ax in axes[:-1].flat:
        ax.set_xlabel("")
    for ax in axes[-1, 1:]:
        ax.get_legend().remove()
    first = prior(*TELLING[0])
    figure.suptitle(
        f"As many OOD images flatten the long tail to {first.spread:.1f} : 1; "
        f"to level it takes {first.balance / first.num:.0f} times as many"
    )
    return figure


def prior_explorer():
    """Sliders for ratio, K, M and m around :func:`draw_prior`."""
    return _explorer(
        draw_prior,
        {
            "ratio": ("ratio", 100, 1, 200),
            "classes": ("classes K", 10, 2, 100),
            "num": ("images M", 10, 1, 200),
            "m": ("OOD images m", 10, 0, 600),
        },
    )


# --- stored rows ---------------------------------------------------------------------------------
def draw_classes(rows, method: str, num: int, variant: str):
    """Recall by class, the most frequent first, of a variant and of the base beside it: seeds as dots. A Figure."""
    figure, axes = _canvas(1, 1, (9, 3.6), left=0.08, right=0.98, bottom=0.16, top=0.84)
    _draw_classes(axes[0, 0], rows, method, num, variant)
    return figure


def classes_panel(rows, method: str, num: int):
    """The static twin of :func:`classes_explorer`: every variant of one compressor and training size. A Figure."""
    variants = [v for v in answers.VARIANT_WORDS if answers.select(rows, method=method, num=num, variant=v)]
    figure, axes = _canvas(
        max(1, len(variants)),
        1,
        (9, 1 + 2.4 * max(1, len(variants))),
        left=0.08,
        right=0.98,
        bottom=0.09,
        top=0.93,
        hspace=0.75,
    )
    for ax, variant in zip(axes[:, 0], variants or ["ours"]):
        _draw_classes(ax, rows, method, num, variant)
    return figure


def classes_explorer(rows):
    """Sliders for compressor, training size and variant around :func:`draw_classes`."""
    options = {
        name: [value for value in order if value in set(answers.values_of(rows, name))]
        for name, order in (("method", list(paper.METHOD_NAMES)), ("variant", list(answers.VARIANT_WORDS)))
    }
    return _explorer(
        lambda **chosen: draw_classes(rows, **chosen),
        {
            "method": ("method", options["method"]),
            "num": ("images M", answers.values_of(rows, "num")),
            "variant": ("variant", options["variant"]),
        },
    )


def _draw_classes(ax, rows, method: str, num: int, variant: str) -> None:
    chosen = answers.select(rows, method=method, num=num, imbalance="long_tail")
    words = f"{paper.METHOD_NAMES[method]}, {num} images: {answers.VARIANT_WORDS[variant]}"
    shown = dict.fromkeys((answers.BASE, variant))  # the base beside it, unless it is the base
    for name in shown:
        colour, label = marks.VARIANT_LOOKS[name].colour if name == variant else EVEN, answers.VARIANT_WORDS[name]
        own = answers.select(chosen, variant=name)
        recalls = [answers.by_rank(row, row.per_class) for row in own]
        ranks = range(len(recalls[0]) if recalls else 0)
        means = [_mean([r[rank] for r in recalls]) for rank in ranks]
        if name == variant:
            _bars(ax, means, colour)
            for seed in recalls:
                ax.plot(ranks, seed, ".", color="black", alpha=0.35, markersize=4)
        else:
            ax.plot(ranks, means, "_", color=colour, markersize=16, markeredgewidth=2, label=label)
    own = answers.select(chosen, variant=variant)
    if not own:
        ax.set_title(f"{words}: {answers.NOT_RUN}", fontsize="small")
        return
    groups = {g: [v for row in own if (v := getattr(row, f"{g}_accuracy")) is not None] for g in answers.GROUPS}
    said = ", ".join(f"{g} {_mean(v):.0f} %" for g, v in groups.items() if v)
    ax.set(ylim=(0, 104), ylabel="recall, %")
    ax.set_title(f"{words}: {_mean([row.top1 for row in own]):.1f} % ({said})", fontsize="small", loc="left")
    if variant != answers.BASE:  # the title names the bars
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize="x-small")


def draw_sweep(rows, name: str, value: float):
    """Accuracy and recall by group at one value of λ (``lam``) or η (``eta``), a bar group a training size. A Figure."""
    figure, axes = _canvas(1, 1, (8, 3.6), left=0.09, right=0.98, bottom=0.16, top=0.84)
    _draw_sweep(axes[0, 0], rows, name, value)
    return figure


def sweep_panel(rows, name: str):
    """The static twin of :func:`sweep_explorer`: the smallest, the paper's and the largest value. A Figure."""
    values = answers.values_of(rows, name)
    telling = sorted({values[0], values[len(values) // 2], values[-1]}) if values else [0.0]
    figure, axes = _canvas(
        1, len(telling), (4.2 * len(telling), 3.6), left=0.06, right=0.98, bottom=0.16, top=0.82, wspace=0.2
    )
    for ax, value in zip(axes[0], telling):
        _draw_sweep(ax, rows, name, value)
    return figure


def sweep_explorer(rows, name: str):
    """A slider over the stored values of λ or η around :func:`draw_sweep`."""
    return _explorer(lambda value: draw_sweep(rows, name, value), {"value": (name, answers.values_of(rows, name))})


def _draw_sweep(ax, rows, name: str, value: float) -> None:
    own = answers.select(rows, **{name: value})
    nums = answers.values_of(own, "num")
    bars = {"top-1": "top1", "head": "head_accuracy", "tail": "tail_accuracy", "absent": "absent_accuracy"}
    for number, ((label, column), colour) in enumerate(zip(bars.items(), ("#333333", "#8c8c8c", "#bdbdbd", "#dedede"))):
        means = [_mean([getattr(row, column) for row in own if row.num == num]) for num in nums]
        ax.bar([p + 0.2 * (number - 1.5) for p in range(len(nums))], means, 0.2, color=colour, label=label, linewidth=0)
    ax.set_xticks(range(len(nums)), [f"{num} images" for num in nums])
    ax.set(ylim=(0, 104), ylabel="accuracy or recall, %")
    symbol = {"lam": "λ", "eta": "η"}[name]
    ax.set_title(
        f"{symbol} = {value:g}" if own else f"{symbol} = {value:g}: {answers.NOT_RUN}", fontsize="small", loc="left"
    )
    if own:
        ax.legend(
            loc="lower right", bbox_to_anchor=(1, 1), fontsize="x-small", ncols=4, columnspacing=0.8, handlelength=1
        )


def _mean(values) -> float:
    values = [value for value in values if value is not None]
    return sum(values) / len(values) if values else float("nan")


def show(static, explorer) -> None:
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


# --- how it is done -----------------------------------------------------------------------------
def _canvas(rows: int, columns: int, size: tuple[float, float], **margins: float):
    """A figure that only its caller shows: Jupyter displays every open one a second time.

    Margins are fixed; a layout that is solved for takes longer than the drawing, at every move of a slider.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(rows, columns, figsize=size, layout="none", squeeze=False)
    figure.subplots_adjust(**margins)
    plt.close(figure)
    return figure, axes


def _bars(ax, heights, color, label=None, bottom=0) -> None:
    ranks = range(len(heights))
    ax.bar(ranks, heights, width=0.8 if len(heights) <= 30 else 1, color=color, bottom=bottom, label=label, linewidth=0)
    ax.set(xlabel="class, head first", xlim=(-0.7, len(heights) - 0.3))
    ax.locator_params(axis="y", nbins=5)
    if len(heights) <= 10:
        ax.set_xticks(ranks, [str(rank + 1) for rank in ranks])


def _draw_counts(ax, found: Prior) -> None:
    _bars(ax, found.counts, FEW)
    ax.set_ylabel("images $m_j$")
    _second_scale(ax, 1 / found.num, r"share $\beta_j$")
    empty = found.counts.count(0)
    ax.set_title(f"{empty} of {found.classes} classes are empty" if empty else "no class is empty", fontsize="small")


def _draw_rates(ax, found: Prior) -> None:
    _bars(ax, found.rates, AUX)
    _even(ax, found)
    ax.set_ylabel(r"rate $\Gamma_j$")
    _second_scale(ax, found.classes, r"weight $\gamma_j$")
    ax.set_title(rf"eq. 4: $\Gamma_{{head}}$ = {found.rates[0]:.2f}", fontsize="small")


def _draw_mixture(ax, found: Prior) -> None:
    total = found.num + found.m
    few = [count / total for count in found.counts]
    _bars(ax, few, FEW, "few")
    _bars(ax, [share - own for share, own in zip(found.mixed, few)], AUX, "OOD images", bottom=few)
    _even(ax, found)
    ax.set_ylabel("share of the mixture")
    ax.set_ylim(0, 1.1 * max(found.mixed))
    ax.legend(loc="upper right", fontsize="x-small")
    ax.set_title(
        "mixture: some classes stay empty"
        if found.spread == float("inf")
        else "mixture: even"
        if found.spread < 1.05
        else f"mixture: {found.spread:.1f} : 1",
        fontsize="small",
    )


def _even(ax, found: Prior) -> None:
    ax.axhline(1 / found.classes, color=EVEN, linestyle="--", linewidth=1)


def _second_scale(ax, factor: float, label: str) -> None:
    ax.grid(False)  # two scales: lines of one would cross the ticks of the other
    second = ax.secondary_yaxis("right", functions=(lambda value: value * factor, lambda value: value / factor))
    second.set_ylabel(label)
    second.locator_params(axis="y", nbins=5)


def _explorer(draw, controls: dict[str, tuple]):
    """Controls for the arguments of ``draw``, over its picture; redrawn when one is let go.

    A control is (label, value, low, high), a slider over whole numbers, or (label, options), a slider over a list.
    """
    import ipywidgets

    common = {"continuous_update": False, "style": {"description_width": "90px"}, "layout": {"width": "480px"}}
    sliders = {}
    for name, (label, *rest) in controls.items():
        sliders[name] = (
            ipywidgets.SelectionSlider(options=rest[0], description=label, **common)
            if len(rest) == 1
            else ipywidgets.IntSlider(*rest, description=label, **common)
        )
    picture = ipywidgets.Image(format="png")

    def redraw(_change=None):
        picture.value = _png(draw(**{name: slider.value for name, slider in sliders.items()}))

    for slider in sliders.values():
        slider.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([*sliders.values(), picture])


def _png(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
