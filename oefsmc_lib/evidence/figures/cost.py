"""What the methods cost, from the benches' tables (:mod:`oefsmc_lib.evidence.timings`)."""

import textwrap

from oefsmc_lib.evidence.answers import NOT_RUN
from oefsmc_lib.evidence.figures.marks import GREY, METHOD_LOOKS, explain, panels

AXES = {
    "num": ("few images", "seconds of the recovery stage"),
    "width": ("width of the network", "seconds of the recovery stage"),
    "seeds": ("seeds in one process", "seconds of whole runs"),
    "processes": ("processes that share 32 seeds", "seconds of whole runs"),
}


def growth(table):
    """Cost over the number of images, the network's width, seeds and processes; each panel's title says how it grows.

    ``table`` has the columns axis, value, method, seconds, device, threads, torch; None draws "not run".
    """
    figure, axes = panels([""] * len(AXES), "", 11, 7.2, rows=2, sharey=False)
    for ax, (axis, (label, unit)) in zip(axes, AXES.items()):
        ax.set(xlabel=label, ylabel=unit)
        own = None if table is None else table[table.axis == axis]
        if own is None or own.empty:
            ax.annotate(NOT_RUN, (0.5, 0.5), xycoords="axes fraction", ha="center", color=GREY)
        else:
            _over(ax, axis, own.sort_values("value"))
    if table is not None:
        about = [*table.device.unique(), *(f"threads: {n}" for n in table.threads.unique())]
        about += [f"torch {version}" for version in table.torch.unique()]
        text = "VGG-16 on 32x32 images (quarter width, 100 images where they are not the axis; PRACTISE: its scoring)"
        explain(figure, f"{text}; dotted: in proportion. {'; '.join(about)}")
    return figure


def _over(ax, axis: str, table) -> None:
    """The seconds of each method over one axis, what they would be in proportion, and the title."""
    from matplotlib.ticker import LogLocator

    values, times = sorted(table.value.unique()), []
    for method, look in METHOD_LOOKS.items():
        line = table[table.method == method]
        if line.empty:
            continue
        x, y = line.value.tolist(), line.seconds.tolist()
        ax.plot(x, y, marker=look.marker, color=look.colour, label=look.label)
        ideal = [y[0] * x[0] / value if axis == "processes" else y[-1] * value / x[-1] for value in x]
        ax.plot(x, ideal, ":", color=look.colour, linewidth=1, alpha=0.7)
        if (x[0], x[-1]) == (values[0], values[-1]):  # a line that was cut short has another ratio
            times.append(f"{look.label} {y[-1] / y[0]:.3g}")
    ax.set(xscale="log", yscale="log")
    ax.set_xticks(values, [f"{value:g}" for value in values])
    ax.minorticks_off()
    wide = table.seconds.max() > 300 * table.seconds.min()
    ax.yaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    ax.yaxis.set_major_formatter(lambda value, _place: f"{value:g}")
    what = "images" if axis == "num" else axis
    title = f"{values[-1] / values[0]:g} times the {what} multiply the seconds by: {', '.join(times)}"
    ax.set_title(textwrap.fill(title, 58), loc="left", fontsize=9.5)
