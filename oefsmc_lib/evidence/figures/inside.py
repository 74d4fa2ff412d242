"""What the networks see and guess: images by class, predictions, features, channels, the course of fine-tuning."""

from collections.abc import Mapping, Sequence
from typing import Any

from oefsmc_lib.evidence import answers, paper
from oefsmc_lib.evidence.answers import NOT_RUN
from oefsmc_lib.evidence.figures.marks import BLUE, GREY, ORANGE, PALE, PINK, finish, literal, panels
from oefsmc_lib.evidence.figures.ranks import rank_axis
from oefsmc_lib.rows.row import Row

FARTHEST = 112  # percent of the first distance: farther lines would flatten the others
IN_A_ROW = 20  # images of a gallery


def gallery(
    sets: Mapping[str, tuple],
    class_names: Sequence[str],
    order: Sequence[int],
    profile,
    finding: str,
    expected: Mapping[str, Sequence[float]] | None = None,
):
    """Images by class, most frequent first: ``{title: (images (N, C, H, W) uint8, labels (N,))}``, a panel each.

    ``expected`` are ``{title: numbers by class}`` that stand beside the numbers of images, such as m Gamma_j.
    """
    shown = list(order) if len(order) <= 12 else [*order[:7], None, *order[-4:]]
    wide = {}
    for title, (_, labels) in sets.items():
        most = max(2, *(sum(int(y) == j for y in labels) for j in shown))
        wide[title] = min(most, IN_A_ROW) + (4.6 if title in (expected or {}) else 1.6)  # room for the numbers
    shape = {"width_ratios": [w + 0.4 for w in wide.values()], "sharey": False}
    figure, axes = panels(list(sets), "", 6 if len(sets) == 1 else 8.5, 0.36 * len(shown) + 1.1, **shape)
    for ax, (title, (images, labels)) in zip(axes, sets.items()):
        for line, j in enumerate(shown):
            own = [image for image, y in zip(images, labels) if int(y) == j]
            said = f", {expected[title][j]:.1f} expected" if expected and title in expected and j is not None else ""
            _line_of_images(ax, line, own, "" if j is None else f"{len(own) or 'none'}{said}")
        names = ["…" if j is None else literal(class_names[j]) for j in shown]
        ax.set(xlim=(-0.1, wide[title]), ylim=(len(shown), -0.1), xticks=[], aspect="equal", frame_on=False)
        ax.set_yticks([line + 0.46 for line in range(len(shown))], names)
        ax.grid(False)
    return finish(figure, finding, profile, [])


def _line_of_images(ax, line: int, images: Sequence, words: str) -> None:
    """The images of one class, (C, H, W) each, and the words behind them."""
    import numpy as np

    for place, image in enumerate(images[:IN_A_ROW]):
        pixels = np.asarray(image).transpose(1, 2, 0)
        pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        ax.imshow(pixels, cmap="gray", extent=(place, place + 0.92, line + 0.92, line), interpolation="nearest")
    if words:
        ax.text(min(len(images), IN_A_ROW) + 0.15, line + 0.46, words, va="center", color=GREY, fontsize=9)


def draw_title(counts: Sequence[int]) -> str:
    """What a draw gives the classes: a title for :func:`gallery`."""
    empty = f"{sum(m == 0 for m in counts)} classes have none"
    return f"{sum(counts)} images for {len(counts)} classes: the largest class has {max(counts)}, and {empty}"


def elsewhere_title(counts: Sequence[int], drawn: Sequence[int]) -> str:
    """Where the drawn labels of eq. 4 go: a title for :func:`gallery`."""
    absent = sum(a for a, m in zip(drawn, counts, strict=True) if m == 0)
    return f"{absent} of {sum(drawn)} OOD images draw the label of an absent class"


def shares(predicted: Mapping[str, Sequence[float]], counts: Sequence[int], profile):
    """Share of predictions (percent) that falls on each class, by rank: one bar a network and class."""
    figure, (ax,) = panels([""], "share of predictions, %", 9, 4)
    wide = 0.8 / len(predicted)
    rank_axis(ax, counts)
    for number, ((label, values), colour) in enumerate(zip(predicted.items(), (BLUE, PALE, ORANGE, PINK))):
        first = 1 + wide * (number - (len(predicted) - 1) / 2)
        ax.bar([rank + first for rank in range(len(values))], values, wide, label=label, color=colour)
    ax.axhline(100 / len(counts), color=GREY, linestyle="--", linewidth=1, label="balanced share")
    return finish(figure, shares_title(predicted, counts), profile, [])


def shares_title(predicted: Mapping[str, Sequence[float]], counts: Sequence[int]) -> str:
    """How often each network predicts a class without an image, against how often they occur."""
    kinds, parts = answers.class_groups(counts), []
    for label, share in predicted.items():
        absent = sum(float(part) for part, kind in zip(share, kinds) if kind == "absent")
        parts.append(f"{label} {absent:.0f} %")
    fair = 100 * kinds.count("absent") / len(kinds)
    return f"Predictions of absent classes ({fair:.0f} % is fair): {'; '.join(parts)}"


def features(points: Mapping[str, Sequence], profile, finding: str, few_labels: Sequence[str] = ()):
    """Penultimate features on the first two principal components of the first group: ``{label: (N, D) array}``.

    The first group, unseen images of the classes, fixes the components; the others are laid over it.
    ``few_labels`` name the points of the second group.
    """
    import numpy as np

    arrays = {label: np.asarray(group, dtype=float) for label, group in points.items()}
    first, second, *_ = arrays
    centre = arrays[first].mean(0)
    _, spread, directions = np.linalg.svd(arrays[first] - centre, full_matrices=False)
    share = 100 * spread[:2] ** 2 / (spread**2).sum()
    figure, (ax,) = panels([""], f"second ({share[1]:.0f} %)", 8.5, 5.6)
    styles = [("#c9c9c9", "o", 9, 0.5), (ORANGE, "s", 46, 0.95), (PINK, "D", 34, 0.9), (BLUE, "^", 34, 0.9)]
    for (label, group), (colour, marker, size, alpha) in zip(arrays.items(), styles):
        flat = (group - centre) @ directions[:2].T
        ax.scatter(*flat.T, size, color=colour, marker=marker, alpha=alpha, label=label, linewidths=0)
        for point, name in zip(flat, few_labels if label == second else ()):
            ax.annotate(str(name), point, xytext=(4, 3), textcoords="offset points", fontsize=8, color=ORANGE)
    ax.set_xlabel(f"first principal component ({share[0]:.0f} % of the variance)")
    return finish(figure, finding, profile, [])


def features_title(classes: Mapping[str, float]) -> str:
    """How many classes the teacher sees in the images of each source: a title for :func:`features`."""
    return f"Classes that the teacher sees: {', '.join(f'{source} {number:.1f}' for source, number in classes.items())}"


def channels(
    contributions,
    kept: Mapping[str, Sequence[int]],
    class_names: Sequence[str],
    counts: Sequence[int],
    profile,
    finding: str,
    counted: str = "few images",
):
    """Class contributions s_kj of a layer's channels, and which channels each criterion keeps.

    ``contributions`` (K, C), classes by rank, the most frequent first, NaN for a class without images;
    ``kept`` criterion -> channels. Channels are sorted by the first criterion's choice, then by their mean.
    """
    import numpy as np

    values = np.asarray(contributions, dtype=float)
    scaled = np.ma.masked_invalid(values / np.nanmax(values, axis=0, where=~np.isnan(values), initial=1e-12))
    criterion, first = next(iter(kept.items()))
    order = sorted(range(values.shape[1]), key=lambda k: (k not in first, -np.nanmean(values[:, k])))
    high, shape = 0.3 * len(values) + 0.42 * len(kept) + 2, [len(values), 1.2 * len(kept)]
    figure, (top, below) = panels(["", ""], "", 11, high, rows=2, height_ratios=shape, sharex=True, sharey=False)
    look: Any = {"aspect": "auto", "interpolation": "nearest", "vmin": 0, "vmax": 1}
    shown = top.imshow(scaled[:, order], cmap="cividis", **look)
    figure.colorbar(shown, ax=top, label="contribution, 1: the\nchannel's largest", pad=0.01)
    top.set_facecolor("#e6e6e6")
    top.set_yticks(range(len(values)), [f"{literal(name)} ({count})" for name, count in zip(class_names, counts)])
    top.set_ylabel(f"class ({counted})")
    for line, own in enumerate(kept.values()):
        dark = [[0.15 if k in own else 0.9 for k in order]]
        below.imshow(dark, cmap="gray", extent=(-0.5, len(order) - 0.5, line + 0.42, line - 0.42), **look)
    below.set(ylim=(len(kept) - 0.5, -0.5), yticks=range(len(kept)), yticklabels=list(kept))
    below.set_xlabel(f"channels, sorted: those that {criterion} keeps first, then by mean contribution (dark: kept)")
    for ax in (top, below):
        ax.grid(False)
    return finish(figure, finding, profile, [])


def channels_title(kept: Mapping[str, Sequence[int]], channels: int) -> str:
    """How many channels two criteria both keep, and how many by chance: a title for :func:`channels`."""
    (one, a), (other, b) = kept.items()
    both, chance = len(set(a) & set(b)), len(a) * len(b) / channels
    return f"{one} and {other} share {both} of {len(a)} channels (by chance: {chance:.0f})"


def densities(x, cases: Mapping[str, tuple], alone: float, profile, finding: str):
    """Theorem 1 on a line: P_mix(x|y) P_mix(y) of two classes, the OOD images, and both boundaries, a panel a case.

    ``cases``: title -> (class 1, class 2, OOD images, boundary), the first three over ``x``; ``alone`` is the boundary
    without OOD images.
    """
    figure, axes = panels(list(cases), r"$P_{mix}(x|y)\; P_{mix}(y)$", 13, 3.6)
    for ax, (first, second, ood, moved) in zip(axes, cases.values()):
        ax.fill_between(x, ood, color=PALE, label="OOD images (all labels)")
        ax.plot(x, first, color=BLUE, label="class 1, mixed")
        ax.plot(x, second, color=PINK, label="class 2, mixed")
        ax.axvline(alone, color="#b8b8b8", linewidth=5, zorder=1.5, label="boundary without OOD images")
        ax.axvline(moved, color="black", linestyle="--", linewidth=1.5, label="boundary with them")
        ax.set_xlabel("$x$")
        ax.set_ylim(bottom=0)
    return finish(figure, finding, profile, [])


def trajectories(entries: Mapping[str, Sequence[Row]], profile):
    """The teacher-student distance over the epochs of fine-tuning: a line a run, a mark at the epoch that is kept.

    ``entries`` are label -> rows that stopped by the watch set; a panel a compressor. Distances are percent of that
    before the first epoch, since students start at different ones.
    """
    methods = answers.values_of([row for rows in entries.values() for row in rows], "method") or ["fskd"]
    size, titles = (9 if len(methods) == 1 else 12, 4), [paper.METHOD_NAMES[method] for method in methods]
    figure, axes = panels(titles, "distance to the teacher\n(before fine-tuning: 100)", *size, sharey=False)
    for ax, method in zip(axes, methods):
        for (label, rows), colour, marker in zip(entries.items(), (PINK, BLUE, ORANGE, GREY), "Dos^"):
            for row in answers.select(rows, method=method):
                change = [100 * distance / row.finetune_distances[0] for distance in row.finetune_distances]
                ax.plot(range(len(change)), change, ".-", color=colour, linewidth=1.1, markersize=3, alpha=0.55)
                if (kept := row.finetune_kept) is not None and change:
                    ax.scatter(kept, change[kept], 60, color=colour, marker=marker, alpha=0.6, zorder=3)
            ax.plot([], [], f"{marker}-", color=colour, label=f"{label} (mark: the epoch that is kept)")
        ax.axhline(100, color=GREY, linewidth=1)
        if ax.get_ylim()[1] > FARTHEST:
            ax.set_ylim(top=FARTHEST)
            ax.set_title(f"{ax.get_title(loc='left')} (cut at {FARTHEST})", loc="left")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_xlabel("epoch of fine-tuning")
    return finish(figure, stopping_title(entries), profile, [])


def stopping_title(entries: Mapping[str, Sequence[Row]]) -> str:
    """The epoch whose weights each kind of fine-tuning keeps, and the epochs that it ran, means over runs."""
    parts = []
    for label, rows in entries.items():
        if own := [row for row in rows if row.finetune_distances]:
            kept, ran = (sum(getattr(row, f"finetune_{name}") for row in own) / len(own) for name in ("kept", "epochs"))
            parts.append(f"{kept:.0f} of {ran:.0f} run with {label}")
    average = ", on average" if any(len(rows) > 1 for rows in entries.values()) else ""
    return f"Epoch that is kept{average}: {'; '.join(parts) or NOT_RUN}"
