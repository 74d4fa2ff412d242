"""Experiments without a row become rows: what is missing, whether it can be computed here, how long it takes."""

import math
import statistics
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from oefsmc_lib.errors import InputError
from oefsmc_lib.files import write_whole
from oefsmc_lib.parameters import grid, keys
from oefsmc_lib.parameters.experiment import EMBEDDED, Experiment
from oefsmc_lib.parameters.grid import Grid
from oefsmc_lib.parameters.keys import digest
from oefsmc_lib.parameters.profiles import Profile
from oefsmc_lib.rows.row import Row
from oefsmc_lib.rows.store import Store


def check_networks(experiments: Iterable[Experiment]) -> None:
    """Refuse a method or plan that its network cannot have. Builds each network, so this loads torch."""
    from oefsmc_lib.compressors import plans
    from oefsmc_lib.teacher import networks

    seen, built = set(), {}
    for e in experiments:
        size = e.image_size or 32
        network = networks.Architecture(e.model, 10, 1 if e.dataset == EMBEDDED else 3, e.width, size)
        if (network, e.method, e.resolved_plan) in seen:
            continue
        seen.add((network, e.method, e.resolved_plan))
        built[network] = built.get(network) or network.build().eval()
        if e.method == "practise":
            plans.units_to_drop(e.resolved_plan, plans.droppable_units(built[network]))
        else:
            plans.plan_widths(e.resolved_plan, built[network], network)


def check_sources(grids: Iterable[Grid], store: Store) -> list[str]:
    """Refuse a pool or watch set that its OOD source is too small for; returns a note for each source that is not here.

    Only experiments without a row count: one that has a row needs no source any more. Raises :class:`InputError` for
    the largest pool of the first grid at fault. Reads labels and lists files, but decodes no image; this loads torch.
    """
    from oefsmc_lib.images import elsewhere

    usable, absent = {}, {}  # absent: source -> the most images that a pool takes from it
    for each in grids:
        faults = []
        for e in missing(each, store):
            if not e.reads_source:
                continue
            source, size = (e.ood_source, e.ood_exclude, e.skip_broken), e.pool_size if e.draws_pool else 0
            if source not in usable:
                usable[source] = elsewhere.usable_images(e)
            if usable[source] is None:
                absent[e.ood_source] = max(size, absent.get(e.ood_source, 0))
            elif fault := elsewhere.shortage(e, usable[source]):
                faults.append((size, f"In {each.name} ({each.profile.name}), {describe(e)} {fault}."))
        if faults:
            raise InputError(max(faults, key=lambda fault: fault[0])[1])
    return [_not_here(source, size) for source, size in absent.items()]


def _not_here(source: str, size: int) -> str:
    from oefsmc_lib.images.elsewhere import WATCHED

    needed = (
        f"a pool of n={size} images besides a watch set of {WATCHED}" if size else f"a watch set of {WATCHED} images"
    )
    return (
        f"The OOD source {source} is not on this machine, so its size is not checked; these runs need up to {needed} "
        "(`oefsmc data list` says where it looks)."
    )


def check_missing(grids: list[Grid], store: Store) -> list[str]:
    """What every engine asks before its first cell: networks and sources of the experiments without a row.

    Raises :class:`InputError` for what can never be computed here; returns the notes of :func:`check_sources`.
    """
    check_networks(e for each in grids for e in missing(each, store))
    return check_sources(grids, store)


def missing(grid: Grid, store: Store) -> list[Experiment]:
    """Experiments of the grid that have no row yet; a row that cannot be read counts as none."""
    return without_row(grid.experiments, store)


def without_row(experiments: list[Experiment], store: Store) -> list[Experiment]:
    """Those of these experiments that the store has no readable row of."""
    have = {row.key for row in store.rows([e.key for e in experiments], on_error="warn")}
    return [experiment for experiment in experiments if experiment.key not in have]


class RunsFailed(RuntimeError):
    """Some runs failed and the others are done; the message names the failed ones, in one sentence."""


# What one run may fail of without a word about the next: its input, memory, and what torch reports (singular
# matrices, a full GPU). Anything else is a fault of the program and stops at once.
FAILURES = (InputError, MemoryError, RuntimeError)


def compute(
    experiments: Iterable[Experiment], store: Store, profile: str, again: bool = False, shared=None
) -> list[Row]:
    """Run what is missing, in this process, and write each row as it is finished.

    A run that fails is logged beside the rows and the others go on; :class:`RunsFailed` is raised
    at the end. A row that cannot be written stops everything: no later one could be.
    """
    from oefsmc_lib import pipeline
    from oefsmc_lib.progress import bar

    experiments, shared, rows = list(experiments), shared or pipeline.Shared(), []
    failed: dict[str, Experiment] = {}  # the last run that failed of each sentence
    count, cause = 0, None
    for experiment in bar(_in_sharing_order(experiments), "runs"):
        found = store.find(experiment.key, on_error="warn") if not again else []
        if not found:
            try:
                _, row = pipeline.run(experiment, shared, profile)
            except FAILURES as error:
                write_whole(failure_log(experiment, store), traceback.format_exc())
                failed[f"{type(error).__name__}: {' '.join(str(error).split())}"] = experiment
                count, cause = count + 1, cause or error
                continue
            store.write(row)
            failure_log(experiment, store).unlink(missing_ok=True)
            found = [row]
        rows += found
    if failed:
        reasons = "; ".join(f"{describe(experiment)}: {reason}" for reason, experiment in failed.items())
        raise RunsFailed(f"{count} of {len(experiments)} runs failed, the others are done ({reasons}).") from cause
    return rows


def describe(experiment: Experiment) -> str:
    """An experiment for people, with its key for the logs."""
    return (
        f"{experiment.method} {experiment.variant} num={experiment.num} {experiment.imbalance} "
        f"seed={experiment.seed} [{experiment.key}]"
    )


def failure_log(experiment: Experiment, store: Store) -> Path:
    """Where the traceback of an experiment's last failure is kept until it has a row."""
    return store.folder / "failed" / f"{experiment.key}.log"


def _in_sharing_order(experiments: list[Experiment]) -> list[Experiment]:
    """Variants that recover the same student next to each other, seed by seed."""
    return sorted(
        experiments,
        key=lambda e: (e.dataset, e.method, e.num, e.imbalance, e.seed, digest(keys.reads(e, "recovery")), e.variant),
    )


def stored(
    name: str, profile: str | Profile, store: Store, only: dict[str, Any] | None = None
) -> tuple[list[Row], list[Experiment]]:
    """The rows of a grid that the store has, and the experiments without one."""
    asked = grid.load_grid(name, profile, only)
    rows = store.rows([experiment.key for experiment in asked.experiments], on_error="warn")
    return rows, missing(asked, store)


def estimate(experiments: Iterable[Experiment], store: Store) -> float | None:
    """Seconds that these runs will take, from stored rows of the same data, method and solver; None if a kind has none.

    Where no row has as many images and training steps, the nearest serves, and more of them take longer in proportion.
    Means, since a row that shares another's student took little and the other one its time.
    """
    known: dict[tuple, dict[tuple[int, int], list[float]]] = {}
    for row in store.rows(on_error="warn"):
        kind = known.setdefault((row.dataset, row.method, row.solver), {})
        kind.setdefault(_size(row.method, row.num, row.switches), []).append(row.seconds_total)
    total = 0.0
    for experiment in experiments:
        times = known.get((experiment.dataset, experiment.method, experiment.solver))
        if times is None:
            return None
        size = _size(experiment.method, experiment.num, experiment.switches())
        near = min(times, key=lambda other: (sum(abs(math.log(a / b)) for a, b in zip(size, other)), other))
        total += statistics.fmean(times[near]) * math.prod(max(1.0, a / b) for a, b in zip(size, near))
    return total


def _size(method: str, num: int, switches: dict[str, Any]) -> tuple[int, int]:
    """Images and training steps."""
    return num, switches.get(f"{method}.iterations") or 1
