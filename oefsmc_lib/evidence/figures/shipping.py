"""Teacher and student as ONNX files (:mod:`oefsmc_lib.evidence.shipping`)."""

import math

from oefsmc_lib.evidence import shipping
from oefsmc_lib.evidence.answers import NOT_RUN
from oefsmc_lib.evidence.figures import marks
from oefsmc_lib.evidence.figures.marks import BLUE, BROWN, GREEN, GREY, ORANGE, PINK, Look, explain, panels
from oefsmc_lib.evidence.pairs import minus

LOOKS = {
    ("teacher", "float32"): Look("teacher", GREY, "o"),
    ("teacher", "int8"): Look("teacher, int8", BLUE, "s"),
    ("pruned", "float32"): Look("pruned", ORANGE, "^"),
    ("pruned", "int8"): Look("pruned, int8", PINK, "D"),
}
CALIBRATED = [
    ("teacher", "long_tail", Look("int8 − float32: teacher, long-tailed", BLUE, "s")),
    ("teacher", "balanced", Look("teacher, balanced", GREEN, "o")),
    ("pruned", "long_tail", Look("pruned, long-tailed", PINK, "D")),
    ("pruned", "balanced", Look("pruned, balanced", BROWN, "P")),
]


def shipping_files():
    """Top-1 over latency of the four files with their sizes; recall by class group; what calibration images change."""
    found, latency = shipping.rows(), shipping.milliseconds()
    titles = ["Faster to the left, better to the top", "By class group of the few images", "What int8 changes"]
    figure, (speed, group, change) = panels(titles, "top-1 in %", 14, 4.6, sharey=False)
    if found is None:
        for ax in figure.axes:
            ax.annotate(NOT_RUN, (0.5, 0.5), xycoords="axes fraction", ha="center", color=GREY)
        return figure
    _over_latency(speed, found, latency)
    entries = []
    for file, look in LOOKS.items():
        own = [marks.mean_of(list(shipping.values(found, file, name).values())) for name in shipping.GROUPS]
        entries.append((look, enumerate(own)))
    marks.compare(group, entries, shipping.GROUPS, "classes")
    group.set_ylabel("recall in %")
    entries = []
    for network, imbalance, look in CALIBRATED:
        exact = shipping.values(found, (network, "float32"), imbalance=imbalance)
        whole = [shipping.values(found, (network, "int8"), "top1", imbalance, name) for name in shipping.CALIBRATIONS]
        entries.append((look, enumerate([marks.mean_of(list(minus(own, exact).values())) for own in whole])))
    marks.compare(change, entries, shipping.CALIBRATIONS, "images that int8 is calibrated on", zero=True)
    change.set_ylabel("points of top-1, paired by seed")
    figure.suptitle(shipping_title(), x=0.01, ha="left", fontsize=12, fontweight="bold")
    seeds = found.seed.nunique()
    explain(figure, f"{ABOUT} Marks: means over at most {seeds} draws with 95 % t-intervals; small dots: single draws.")
    return figure


ABOUT = (
    "CIFAR-10, VGG-16, 10 images, FSKD with the whole pool; 10,000 test images; onnxruntime, one thread, batch 1, "
    "processor time; the first two panels: long-tailed images, int8 calibrated on few + OOD images."
)


def shipping_title() -> str:
    """How much faster and smaller the smallest file is than the teacher's, and at which price."""
    found, latency = shipping.rows(), shipping.milliseconds()
    if found is None or latency is None or not shipping.values(found, shipping.SMALL):
        return f"Pruned and int8 against the teacher: {NOT_RUN}"
    return f"Pruned and int8: {shipping.worth(found, latency, shipping.SMALL)}"


def _over_latency(ax, found, latency) -> None:
    for file, look in LOOKS.items():
        mark = marks.mean_of(list(shipping.values(found, file).values()))
        if mark is None or latency is None or file not in latency:
            continue
        place = latency[file][1]
        marks.mark(ax, place, mark, look)
        words = f"{shipping.megabytes(found, file)} MB"
        ax.annotate(words, (place, mark.mean), xytext=(8, 8), textcoords="offset points", color=look.colour, fontsize=9)
        ax.plot([], [], marker=look.marker, color=look.colour, linestyle="none", label=look.label)
    ax.set(xscale="log", xlabel="milliseconds for one image")
    ax.margins(x=0.3, y=0.15)  # room for the sizes
    low, high = ax.get_xlim()
    ticks = [tick for tick in (0.5, 1, 2, 4, 8, 16) if low < tick < high] or [math.sqrt(low * high)]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
