"""Whether an OOD source has enough images for a run, known before anything is computed."""

from collections.abc import Sequence

from oefsmc_lib.errors import InputError
from oefsmc_lib.images import sets
from oefsmc_lib.parameters.experiment import Experiment

WATCHED = 128  # images of the watch set; a fifth of a source below 640


def watch_size(usable: int) -> int:
    """Images of the watch set for a source with ``usable`` images, its excluded classes aside."""
    return min(WATCHED, usable // 5)


def excluded_classes(experiment: Experiment, class_names: Sequence[str]) -> list[int]:
    """Labels of the source's classes that ``ood_exclude`` names; refuses a name that the source does not have."""
    if unknown := sorted(set(experiment.ood_exclude) - set(class_names)):
        raise InputError(f"ood_exclude names {unknown[0]!r}, but {experiment.ood_source} has no such class.")
    return [class_names.index(name) for name in experiment.ood_exclude]


def usable_images(experiment: Experiment) -> int | None:
    """Images of the source without the excluded classes, by its labels alone; None where the source is not here.

    Raises :class:`InputError` for a name in ``ood_exclude`` that the source does not have, and for a source that
    cannot be read.
    """
    counts = sets.class_counts(experiment.ood_source)
    if counts is None:
        return None
    excluded = excluded_classes(experiment, [name for name, _ in counts])
    return sum(count for label, (_, count) in enumerate(counts) if label not in excluded)


def unwatched(experiment: Experiment) -> str:
    """The switches that make a run do without the watch set, as a person types them."""
    fixed = ["finetune.stop=fixed"] if experiment.finetuning == "common" and experiment.finetune.stop == "watch" else []
    return " and ".join(fixed + ([f"{experiment.method}.stop=none"] if experiment.recovery_watches else []))


def shortage(experiment: Experiment, usable: int, watched: int | None = None) -> str | None:
    """Why a source with so many usable images cannot serve a run, and the way out; None where it can.

    ``watched`` of them are the watch set, by default as many as :func:`watch_size` says. Before a run, ``usable`` is
    counted by labels; after the purity filter it is what the filter left.
    """
    watch = watch_size(usable) if watched is None else watched
    room = usable - watch
    has = f"the OOD source {experiment.ood_source} has {usable} usable images" + (
        " without the classes of ood_exclude" if experiment.ood_exclude else ""
    )
    if experiment.draws_pool and experiment.pool_size > room:
        # n is by default the larger of 500 and m, so a lower m alone helps only where 500 images would do.
        lower = ["n"] if experiment.n is not None or room < 500 else []
        lower += [] if experiment.aux_size <= room else ["m"] if experiment.m is not None else ["m (by default num)"]
        way_out = f"set {' and '.join(lower)} to at most {room}, or " if room else ""
        return (
            f"needs a pool of n={experiment.pool_size} images, but {has}, of which {watch} are set aside as the watch "
            f"set; {way_out}name a larger ood_source, such as folder:PATH"
        )
    if experiment.watches and not watch:
        return (
            f"needs images to watch while it trains, but {has}, and the watch set is a fifth of them at most; name a "
            f"larger ood_source, such as folder:PATH, or set {unwatched(experiment)}"
        )
    return None
