"""What the networks see and guess: images by class, predictions, features, channels."""

from collections.abc import Sequence

from oefsmc_lib import findings
from oefsmc_lib.figures.marks import BLUE, GREY, ORANGE, PALE, PINK, canvas, finish
from oefsmc_lib.figures.ranks import rank_ticks, shade


def gallery(sets: dict[str, tuple], class_names: Sequence[str], order: Sequence[int], profile, finding: str):
    """Images by class, most frequent first: ``{title: (images (N, C, H, W) uint8, labels (N,))}``, a panel each."""
    import numpy as np
    shown = list(order) if len(order) <= 12 else [*order[:7], None, *order[-4:]]
    widest = {title: max(2, max(sum(int(y) == j for y in labels) for j in shown)) for title, (_, labels) in sets.items()}
    limit = 20                                             # images in a row
    figure, axes = canvas(1, len(sets), width=6 if len(sets) == 1 else 8.5, height=0.36 * len(shown) + 1.1,
                           width_ratios=[min(w, limit) + 2 for w in widest.values()])
    for ax, (title, (images, labels)) in zip(axes[0], sets.items()):
        for row, j in enumerate(shown):
            own = [np.asarray(image).transpose(1, 2, 0) for image, y in zip(images, labels) if int(y) == j]
            for place, image in enumerate(own[:limit]):
                flat = image[..., 0] if image.shape[-1] == 1 else image
                ax.imshow(flat, cmap="gray", extent=(place, place + 0.92, row + 0.92, row), interpolation="nearest")
            if j is not None:
                ax.text(min(len(own), limit) + 0.15, row + 0.46, str(len(own)) if own else "none", va="center",
                        color=GREY, fontsize=9)
        ax.set(xlim=(-0.1, min(widest[title], limit) + 1.6), ylim=(len(shown), -0.1), xticks=[],
               yticks=[r + 0.46 for r in range(len(shown))],
               yticklabels=["…" if j is None else str(class_names[j]) for j in shown])
        ax.set_title(title, loc="left")
        ax.grid(False)
        ax.set_aspect("equal")
        for side in ax.spines.values():
            side.set_visible(False)
    return finish(figure, finding, profile, [])


def shares(predicted: dict[str, Sequence[float]], counts: Sequence[int], profile):
    """Share of predictions (percent) that falls on each class, by rank: one bar a network and class."""
    figure, axes = canvas(1, 1, width=9, height=4)
    ax, wide = axes[0, 0], 0.8 / len(predicted)
    shade(ax, counts)
    for number, ((label, values), colour) in enumerate(zip(predicted.items(), (BLUE, PALE, ORANGE, PINK))):
        ax.bar([r + 1 + wide * (number - (len(predicted) - 1) / 2) for r in range(len(values))], values, wide,
               label=label, color=colour)
    ax.axhline(100 / len(counts), color=GREY, linestyle="--", linewidth=1, label="balanced share")
    rank_ticks(ax, counts)
    ax.set_ylabel("share of predictions, %")
    return finish(figure, findings.shares(predicted, counts), profile, [])


def features(points: dict[str, Sequence], profile, finding: str, few_labels: Sequence[str] = ()):
    """Penultimate features on the first two principal components of the first group: ``{label: (N, D) array}``.

    The first group, unseen images of the classes, fixes the components; the others are laid over it.
    ``few_labels`` name the points of the second group.
    """
    import numpy as np
    arrays = {label: np.asarray(group, dtype=float) for label, group in points.items()}
    first = next(iter(arrays.values()))
    centre = first.mean(0)
    _, spread, axes_of = np.linalg.svd(first - centre, full_matrices=False)
    share = 100 * spread[:2] ** 2 / (spread**2).sum()
    figure, axes = canvas(1, 1, width=8.5, height=5.6)
    ax = axes[0, 0]
    styles = [("#c9c9c9", "o", 9, 0.5), (ORANGE, "s", 46, 0.95), (PINK, "D", 34, 0.9), (BLUE, "^", 34, 0.9)]
    for (label, group), (colour, marker, size, alpha) in zip(arrays.items(), styles):
        flat = (group - centre) @ axes_of[:2].T
        ax.scatter(flat[:, 0], flat[:, 1], size, color=colour, marker=marker, alpha=alpha, label=label, linewidths=0)
        if label == list(arrays)[1]:
            for (x, y), name in zip(flat, few_labels):
                ax.annotate(str(name), (x, y), xytext=(4, 3), textcoords="offset points", fontsize=8, color=ORANGE)
    ax.set_xlabel(f"first principal component ({share[0]:.0f} % of the variance)")
    ax.set_ylabel(f"second ({share[1]:.0f} %)")
    return finish(figure, finding, profile, [])


def channels(contributions, kept: dict[str, Sequence[int]], class_names: Sequence[str], counts: Sequence[int], profile,
             finding: str, counted: str = "few images"):
    """Class contributions s_kj of a layer's channels, and which channels each criterion keeps.

    ``contributions`` (K, C), classes by rank, the most frequent first, NaN for a class without images;
    ``kept`` criterion -> channels. Channels are sorted by the first criterion's choice, then by their mean.
    """
    import numpy as np
    values = np.asarray(contributions, dtype=float)
    scaled = values / np.nanmax(values, axis=0, where=~np.isnan(values), initial=1e-12)
    first = set(next(iter(kept.values())))
    order = sorted(range(values.shape[1]), key=lambda k: (k not in first, -np.nanmean(values[:, k])))
    figure, axes = canvas(2, 1, width=11, height=0.3 * len(class_names) + 0.42 * len(kept) + 2, sharex=True,
                          height_ratios=[len(class_names), 1.2 * len(kept)])
    top, below = axes[:, 0]
    top.imshow(np.ma.masked_invalid(scaled[:, order]), aspect="auto", cmap="cividis", interpolation="nearest")
    top.set_facecolor("#e6e6e6")
    top.set_yticks(range(len(class_names)), [f"{name} ({count})" for name, count in zip(class_names, counts)])
    top.set_ylabel(f"class ({counted})")
    for row, (name, channel) in enumerate(kept.items()):
        own = set(channel)
        below.imshow([[0.15 if k in own else 0.9 for k in order]], aspect="auto", cmap="gray", vmin=0, vmax=1,
                     extent=(-0.5, len(order) - 0.5, row + 0.42, row - 0.42), interpolation="nearest")
    below.set(ylim=(len(kept) - 0.5, -0.5), yticks=range(len(kept)), yticklabels=list(kept),
              xlabel=f"channels, sorted: those that {next(iter(kept))} keeps first, then by mean contribution (dark: kept)")
    for ax in (top, below):
        ax.grid(False)
    return finish(figure, finding, profile, [])
