"""What the methods cost, from the benches' tables (:mod:`oefsmc_lib.evidence.timings`)."""

import textwrap

from oefsmc_lib.evidence import paper
from oefsmc_lib.evidence.answers import NOT_RUN
from oefsmc_lib.evidence.figures.marks import GREY, METHOD_LOOKS, canvas

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
    from matplotlib.ticker import LogLocator

    figure, axes = canvas(2, 2, width=11, height=7.2)
    for ax, (axis, (label, unit)) in zip(axes.flat, AXES.items()):
        own = table[table.axis == axis].sort_values("value") if table is not None else None
        ax.set(xlabel=label, ylabel=unit)
        if own is None or own.empty:
            ax.annotate(NOT_RUN, (0.5, 0.5), xycoords="axes fraction", ha="center", color=GREY)
            continue
        findings, values = [], sorted(own.value.unique())
        for method in [name for name in METHOD_LOOKS if name in set(own.method)]:
            colour, marker = METHOD_LOOKS[method]
            line = own[own.method == method]
            x, y = line.value.tolist(), line.seconds.tolist()
            ax.plot(x, y, marker=marker, color=colour, label=paper.METHOD_NAMES[method])
            ideal = [y[0] * x[0] / value if axis == "processes" else y[-1] * value / x[-1] for value in x]
            ax.plot(x, ideal, ":", color=colour, linewidth=1, alpha=0.7)
            if (x[0], x[-1]) == (values[0], values[-1]):  # a line that was cut short has another ratio
                findings.append(f"{paper.METHOD_NAMES[method]} {y[-1] / y[0]:.3g}")
        ax.set(xscale="log", yscale="log")
        ax.set_xticks(values, [f"{value:g}" for value in values])
        ax.minorticks_off()
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(lambda value, _place: f"{value:g}")
        times = " times, ".join(findings) + " times as long"
        ax.set_title(
            textwrap.fill(f"{values[-1] / values[0]:g} times the {axis if axis != 'num' else 'images'}: {times}", 58),
            loc="left",
            fontsize=9.5,
        )
    about = (
        ""
        if table is None
        else "; ".join(
            [
                *table.device.unique(),
                *(f"threads: {n}" for n in table.threads.unique()),
                *(f"torch {v}" for v in table.torch.unique()),
            ]
        )
    )
    labelled = {label: handle for ax in axes.flat for handle, label in zip(*ax.get_legend_handles_labels())}
    if labelled:
        text = (
            "VGG-16 on 32x32 images (quarter width and 100 images where they are not the axis; PRACTISE: its scoring); "
            f"dotted: in proportion. {about}"
        )
        legend = figure.legend(
            labelled.values(),
            labelled.keys(),
            loc="outside lower left",
            ncols=4,
            alignment="left",
            title=textwrap.fill(text, 150),
        )
        legend.get_title().set(fontsize=8.5, color=GREY)
    return figure
