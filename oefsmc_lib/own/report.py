"""One HTML page about a student that a person without a background in networks can read."""

import io
from typing import Any

HOW = {
    "held out": "images of the folder val or test, which no stage saw",
    "cross-validated": "the few images themselves, each by a student that was made without it (cross-validation)",
    "seen": "the few images themselves, which the student was made with, so its figures are too good",
}


def page(card: dict[str, Any]) -> str:
    """The report of a card of :mod:`oefsmc_lib.own.job`: one file, pictures inside, everything escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("oefsmc_lib.own", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"share": share, "number": number, "milliseconds": milliseconds}
    figures = {"recall": recall_figure(card), "scan": scan_figure(card)}
    figures = {name: jinja2.utils.markupsafe.Markup(svg) for name, svg in figures.items()}
    return environment.get_template("report.html").render(
        card=card,
        figures=figures,
        advice=[said.replace("`", "") for said in advice(card)],
        how=HOW[card["tested"]["how"]],
    )


def share(found: dict[str, Any]) -> str:
    """``91.2 % (87.0 to 94.2)``; nothing is known of no images."""
    if found["percent"] is None:
        return "unknown: no image"
    return f"{found['percent']:.1f} % ({found['low']:.1f} to {found['high']:.1f})"


def number(value: float) -> str:
    """``1.2 billion``, ``11.7 million``, ``340 thousand``."""
    for size, word in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if value >= size:
            return f"{value / size:.3g} {word}"
    return str(value)


def milliseconds(quartiles: list[float]) -> str:
    """Median and, in brackets, the quartiles."""
    first, median, third = quartiles
    return f"{median:.3g} ({first:.3g} to {third:.3g})"


def advice(card: dict[str, Any]) -> list[str]:
    """What to do now, in a few sentences, from the figures alone."""
    said = []
    tested = card["tested"]
    cuts = {what: card["cost"]["student"][what] / card["cost"]["teacher"][what] for what in ("macs", "bytes")}
    quick = card["latency_ms"]["1"]["student"][1] / card["latency_ms"]["1"]["teacher"][1]
    said.append(
        f"The student needs {100 * cuts['macs']:.0f} % of the teacher's multiplications and "
        f"{100 * cuts['bytes']:.0f} % of its file."
    )
    if quick > 0.95:
        said.append(
            "On this machine it is not faster for one image at a time: what is left is bound by memory and by the "
            "number of layers, not by multiplications. Use it for its size, or choose int8 alone."
        )
    else:
        said.append(f"For one image at a time it takes {100 * quick:.0f} % of the teacher's time on this machine.")
    if "student" in tested:
        said += _about_accuracy(tested)
    else:
        said.append(
            f"Nothing is known about its accuracy, because the images have no labels; it gives the teacher's answer on "
            f"{share(tested['agreement'])} of them."
        )
    if empty := [name for name, count in (card["counts"] or {}).items() if count == 0]:
        said.append(
            f"None of the few images shows {', '.join(empty[:5])}{' and others' if len(empty) > 5 else ''}: look at "
            "these classes with images of your own before you rely on the student there."
        )
    said.append(
        "Add 8-bit numbers (`oefsmc export FOLDER --onnx FILE --int8 --calibrate IMAGES`): on CIFAR-10 they alone made "
        "the network faster and smaller at nearly no loss of accuracy, which pruning did not (see docs/shipping.md). "
        "Pruning is worth its loss on top of them, where they are not enough; `--keep 1` prunes nothing."
    )
    return said


def _about_accuracy(tested: dict[str, Any]) -> list[str]:
    from scipy.stats import binomtest

    student = tested["student"]
    wide = (student["high"] - student["low"]) / 2
    said = [
        f"Of {student['images']} images, the student gets {tested['lost']} wrong that the teacher gets right, and "
        f"{tested['won']} right that the teacher gets wrong."
    ]
    if wide > 5:
        said.append(
            f"With so few images its accuracy is known only to about ±{wide:.0f} points. Hold 200 or more images back, "
            "in a folder val, before you rely on it."
        )
    if tested["lost"] - tested["won"] > 0.05 * student["images"]:
        said.append("That is a loss you would notice: remove less (--target-macs 60%, or --max-drop 2).")
    elif tested["lost"] > tested["won"] and binomtest(tested["lost"], tested["lost"] + tested["won"]).pvalue < 0.05:
        said.append("The loss is small, but it is more than chance (sign test).")
    return said


# --- figures -----------------------------------------------------------------------------------
def _svg(figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
    return out.getvalue()[out.getvalue().index("<svg") :]


def _axes(height: float):
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, height))
    FigureCanvasSVG(figure)
    return figure, figure.subplots()


def recall_figure(card: dict[str, Any]) -> str:
    """Recall by class before and after, with 95 % intervals; empty without labels."""
    classes = [each for each in card["tested"].get("classes", []) if each["student"]["images"]][:40]
    if not classes:
        return ""
    figure, axes = _axes(1 + 0.35 * len(classes))
    for shift, who, colour, mark in ((-0.14, "teacher", "#0173b2", "o"), (0.14, "student", "#de8f05", "s")):
        for row, each in enumerate(classes):
            found = each[who]
            axes.plot([found["low"], found["high"]], [row + shift] * 2, color=colour, lw=2)
            label = who if row == 0 else None
            axes.plot(found["percent"], row + shift, mark, color=colour, label=label)
    axes.set_yticks(range(len(classes)), [f"{each['name']} ({each['student']['images']})" for each in classes])
    axes.invert_yaxis()
    axes.set(xlim=(-2, 102), xlabel="images of the class that are recognised, % with 95 % intervals")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(figure)


def scan_figure(card: dict[str, Any]) -> str:
    """The scan: what cannot be given back when a layer keeps half of its channels, and what each layer keeps."""
    scanned = card["scan"]
    figure, axes = _axes(1 + 0.22 * len(scanned))
    half = [100 * losses[len(losses) // 2] for losses in scanned.values()]
    axes.barh(range(len(scanned)), half, color=["#029e73" if name in card["kept"] else "#cccccc" for name in scanned])
    names = [f"{name}: {card['kept'].get(name, 'all')}" for name in scanned]
    axes.set_yticks(range(len(scanned)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("lost for good with half of the channels, % of what the next layer adds up")
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(figure)
