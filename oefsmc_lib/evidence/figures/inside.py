"""What the networks see and guess: images by class, predictions, features, channels, the course of fine-tuning."""

from collections.abc import Mapping, Sequence

from oefsmc_lib.evidence import answers, findings, paper
from oefsmc_lib.evidence.figures.marks import BLUE, GREY, ORANGE, PALE, PINK, canvas, finish
from oefsmc_lib.evidence.figures.ranks import rank_ticks, shade
from oefsmc_lib.rows.row import Row


def gallery(
    sets: dict[str, tuple],
    class_names: Sequence[str],
    order: Sequence[int],
    profile,
    finding: str,
    expected: dict[str, Sequence[float]] | None = None,
):
    """Images by class, most frequent first: ``{title: (images (N, C, H, W) uint8, labels (N,))}``, a panel each.

    ``expected`` are ``{title: numbers by class}`` that stand beside the numbers of images, such as m Gamma_j.
    """
    import numpy as np

    shown = list(order) if len(order) <= 12 else [*order[:7], None, *order[-4:]]
    widest = {
        title: max(2, max(sum(int(y) == j for y in labels) for j in shown)) for title, (_, labels) in sets.items()
    }
    limit, expected = 20, expected or {}  # images in a row
    beside = {title: 4.6 if title in expected else 1.6 for title in sets}  # room for the numbers
    figure, axes = canvas(
        1,
        len(sets),
        width=6 if len(sets) == 1 else 8.5,
        height=0.36 * len(shown) + 1.1,
        width_ratios=[min(w, limit) + beside[title] + 0.4 for title, w in widest.items()],
    )
    for ax, (title, (images, labels)) in zip(axes[0], sets.items()):
        for row, j in enumerate(shown):
            own = [np.asarray(image).transpose(1, 2, 0) for image, y in zip(images, labels) if int(y) == j]
            for place, image in enumerate(own[:limit]):
                flat = image[..., 0] if image.shape[-1] == 1 else image
                ax.imshow(flat, cmap="gray", extent=(place, place + 0.92, row + 0.92, row), interpolation="nearest")
            if j is not None:
                said = f", {expected[title][j]:.1f} expected" if title in expected else ""
                ax.text(
                    min(len(own), limit) + 0.15,
                    row + 0.46,
                    f"{len(own) or 'none'}{said}",
                    va="center",
                    color=GREY,
                    fontsize=9,
                )
        ax.set(
            xlim=(-0.1, min(widest[title], limit) + beside[title]),
            ylim=(len(shown), -0.1),
            xticks=[],
            yticks=[r + 0.46 for r in range(len(shown))],
            yticklabels=["…" if j is None else str(class_names[j]) for j in shown],
        )
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
        ax.bar(
            [r + 1 + wide * (number - (len(predicted) - 1) / 2) for r in range(len(values))],
            values,
            wide,
            label=label,
            color=colour,
        )
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


def channels(
    contributions,
    kept: dict[str, Sequence[int]],
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
    scaled = values / np.nanmax(values, axis=0, where=~np.isnan(values), initial=1e-12)
    first = set(next(iter(kept.values())))
    order = sorted(range(values.shape[1]), key=lambda k: (k not in first, -np.nanmean(values[:, k])))
    figure, axes = canvas(
        2,
        1,
        width=11,
        height=0.3 * len(class_names) + 0.42 * len(kept) + 2,
        sharex=True,
        height_ratios=[len(class_names), 1.2 * len(kept)],
    )
    top, below = axes[:, 0]
    shown = top.imshow(
        np.ma.masked_invalid(scaled[:, order]), aspect="auto", cmap="cividis", interpolation="nearest", vmin=0, vmax=1
    )
    figure.colorbar(shown, ax=top, label="contribution, 1: the\nchannel's largest", pad=0.01)
    top.set_facecolor("#e6e6e6")
    top.set_yticks(range(len(class_names)), [f"{name} ({count})" for name, count in zip(class_names, counts)])
    top.set_ylabel(f"class ({counted})")
    for row, (name, channel) in enumerate(kept.items()):
        own = set(channel)
        below.imshow(
            [[0.15 if k in own else 0.9 for k in order]],
            aspect="auto",
            cmap="gray",
            vmin=0,
            vmax=1,
            extent=(-0.5, len(order) - 0.5, row + 0.42, row - 0.42),
            interpolation="nearest",
        )
    below.set(
        ylim=(len(kept) - 0.5, -0.5),
        yticks=range(len(kept)),
        yticklabels=list(kept),
        xlabel=f"channels, sorted: those that {next(iter(kept))} keeps first, then by mean contribution (dark: kept)",
    )
    for ax in (top, below):
        ax.grid(False)
    return finish(figure, finding, profile, [])


def densities(x, cases: Mapping[str, tuple], alone: float, profile, finding: str):
    """Theorem 1 on a line: P_mix(x|y) P_mix(y) of two classes, the OOD images, and both boundaries, a panel a case.

    ``cases``: title -> (class 1, class 2, OOD images, boundary), the first three over ``x``; ``alone`` is the boundary
    without OOD images.
    """
    figure, axes = canvas(1, len(cases), width=13, height=3.6, sharey=True)
    for ax, (title, (first, second, ood, moved)) in zip(axes[0], cases.items()):
        ax.fill_between(x, ood, color=PALE, label="OOD images (all labels)")
        ax.plot(x, first, color=BLUE, label="class 1, mixed")
        ax.plot(x, second, color=PINK, label="class 2, mixed")
        ax.axvline(alone, color="#b8b8b8", linewidth=5, zorder=1.5, label="boundary without OOD images")
        ax.axvline(moved, color="black", linestyle="--", linewidth=1.5, label="boundary with them")
        ax.set_title(title, loc="left")
        ax.set_xlabel("$x$")
        ax.set_ylim(bottom=0)
    axes[0, 0].set_ylabel(r"$P_{mix}(x|y)\; P_{mix}(y)$")
    return finish(figure, finding, profile, [])


def trajectories(entries: Mapping[str, Sequence[Row]], profile):
    """The teacher-student distance over the epochs of fine-tuning: a line a run, the epoch whose weights are kept marked.

    ``entries`` are label -> rows that stopped by the watch set; a panel a compressor. Distances are percent of that
    before the first epoch, since students start at different ones.
    """
    methods = answers.values_of([row for rows in entries.values() for row in rows], "method") or ["fskd"]
    figure, axes = canvas(1, len(methods), width=9 if len(methods) == 1 else 12, height=4)
    for ax, method in zip(axes[0], methods):
        for (label, rows), colour, marker in zip(entries.items(), (PINK, BLUE, ORANGE, GREY), "Dos^"):
            own = [row for row in answers.select(rows, method=method) if row.finetune_distances]
            for row in own:
                change = [100 * distance / row.finetune_distances[0] for distance in row.finetune_distances]
                ax.plot(range(len(change)), change, ".-", color=colour, linewidth=1.1, markersize=3, alpha=0.55)
                ax.scatter(row.finetune_kept, change[row.finetune_kept], 60, color=colour, marker=marker, zorder=3)
            ax.plot([], [], f"{marker}-", color=colour, label=f"{label} (mark: the epoch that is kept)")
        ax.axhline(100, color=GREY, linewidth=1)
        ax.set_title(paper.METHOD_NAMES[method], loc="left")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_xlabel("epoch of fine-tuning")
    axes[0, 0].set_ylabel("distance to the teacher\n(before fine-tuning: 100)")
    return finish(figure, findings.stopping(entries), profile, [])
