"""Experiments without a row become rows: what is missing, whether it can be computed here, how long it takes."""

import math
import statistics
import traceback
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from oefsmc_lib.errors import InputError
from oefsmc_lib.files import write_whole
from oefsmc_lib.parameters import keys
from oefsmc_lib.parameters.experiment import EMBEDDED, Experiment
from oefsmc_lib.parameters.grid import Grid
from oefsmc_lib.rows.row import Row
from oefsmc_lib.rows.store import Store

# A run that ends with one of these does not stop the next run: bad input, memory, and what torch reports (singular
# matrices, a full GPU). Anything else is a fault of the program and stops at once.
FAILURES = (InputError, MemoryError, RuntimeError)


class RunsFailed(RuntimeError):
    """Some runs failed and the others are done; the message names the failed ones, in one sentence."""


def stored(experiments: Iterable[Experiment], store: Store) -> tuple[list[Row], list[Experiment]]:
    """The rows of these experiments, and the experiments without one; a row that cannot be read counts as none."""
    experiments = list(experiments)
    rows = store.rows([experiment.key for experiment in experiments], on_error="warn")
    have = {row.key for row in rows}
    return rows, [experiment for experiment in experiments if experiment.key not in have]


def missing(experiments: Iterable[Experiment], store: Store) -> list[Experiment]:
    """Those of these experiments that the store has no readable row of."""
    return stored(experiments, store)[1]


def describe(experiment: Experiment) -> str:
    """An experiment for people, with its key for the logs."""
    return (
        f"{experiment.method} {experiment.variant} num={experiment.num} {experiment.imbalance} "
        f"seed={experiment.seed} [{experiment.key}]"
    )


def failure_log(experiment: Experiment, store: Store) -> Path:
    """Where the traceback of an experiment's last failure is kept until it has a row."""
    return store.folder / "failed" / f"{experiment.key}.log"


def check_missing(grids: list[Grid], store: Store) -> list[str]:
    """What every engine asks before it starts: networks and OOD sources of the experiments without a row.

    Raises :class:`InputError` for what can never be computed here; returns the notes of :func:`check_sources`.
    """
    check_networks(e for each in grids for e in missing(each.experiments, store))
    check_draws(e for each in grids for e in missing(each.experiments, store))
    return check_sources(grids, store)


def check_networks(experiments: Iterable[Experiment]) -> None:
    """Refuse a method or plan that its network cannot have. Builds each network, so this loads torch."""
    from oefsmc_lib.compressors import plans
    from oefsmc_lib.images.sources import source_of
    from oefsmc_lib.teacher.networks import Architecture, feature_module

    asked: dict[tuple[Architecture, str, str], None] = {}  # each once, in the order of the experiments
    built: dict[Architecture, Any] = {}
    for e in experiments:
        source = source_of(e.dataset)  # a folder's images have a size that is known once they are read
        size = e.image_size or source.size or (224 if source.own else 32)
        network = Architecture(e.model, 10, 1 if e.dataset == EMBEDDED else 3, e.width, size)
        asked[network, e.method, e.resolved_plan] = None
    for network, method, plan in asked:
        if network not in built:
            network.check()
            built[network] = network.build().eval()
        model = built[network]
        if method == "practise":
            plans.units_to_drop(plan, plans.droppable_units(model))
        else:
            plans.plan_widths(plan, model, network)
            _ = method == "mir" and feature_module(model)


def check_draws(experiments: Iterable[Experiment]) -> None:
    """Refuse a draw for which a class of a data set that is here has too few images; decodes no image."""
    from oefsmc_lib.images import fewshot, sets

    known: dict[str, list[tuple[str, int]] | None] = {}
    for e in experiments:
        if e.dataset not in known:
            known[e.dataset] = sets.class_counts(e.dataset)
        if classes := known[e.dataset]:
            names, have = zip(*classes)
            fewshot.counts_of(e, have, names)


def check_sources(grids: list[Grid], store: Store) -> list[str]:
    """Refuse a pool or watch set that its OOD source is too small for; returns a note for each source that is not here.

    Only experiments without a row count: one that has a row needs no source any more. Raises :class:`InputError` for
    the largest pool of the first grid at fault. Reads labels and lists files, but decodes no image; this loads torch.
    """
    from oefsmc_lib.images import supply

    usable: dict[tuple, int | None] = {}
    absent: dict[str, int] = {}  # a source that is not here -> the largest pool that is drawn from it
    for each in grids:
        faults: dict[int, str] = {}  # the size of a pool that is too large -> what is wrong
        for e in missing(each.experiments, store):
            if not e.reads_source:
                continue
            place, size = (e.ood_source, e.ood_exclude), e.pool_size if e.draws_pool else 0
            if place not in usable:
                usable[place] = supply.usable_images(e)
            if (count := usable[place]) is None:
                absent[e.ood_source] = max(size, absent.get(e.ood_source, 0))
            elif fault := supply.shortage(e, count):
                faults.setdefault(size, f"In {each.name} ({each.profile.name}), {describe(e)} {fault}.")
        if faults:
            raise InputError(faults[max(faults)])
    return [
        f"The OOD source {source} is not on this machine, so its size is not checked; these runs need up to "
        f"{f'{size} images for the pool and ' if size else ''}{supply.WATCHED} images for the watch set "
        "(`oefsmc doctor` says where it looks)."
        for source, size in absent.items()
    ]


def compute(experiments: Iterable[Experiment], store: Store, profile: str, shared=None) -> list[Row]:
    """Run what is missing, in this process, and write each row as it is finished; returns all rows.

    A run that fails is logged beside the rows and the others go on; :class:`RunsFailed` is raised
    at the end. A row that cannot be written stops everything, because no later row could be written either.
    """
    from oefsmc_lib import pipeline
    from oefsmc_lib.progress import bar

    experiments, shared, rows = sorted(experiments, key=_sharing_order), shared or pipeline.Shared(), []
    failed: dict[str, Experiment] = {}  # what is said of a failure -> the last run of which it is said
    count, cause = 0, None
    for experiment in bar(experiments, "runs"):
        found, log = store.find(experiment.key, on_error="warn"), failure_log(experiment, store)
        if not found:
            try:
                found = [pipeline.run(experiment, shared, profile)[1]]
            except FAILURES as error:
                write_whole(log, traceback.format_exc())
                failed[f"{type(error).__name__}: {' '.join(str(error).split())}"] = experiment
                count, cause = count + 1, cause or error
                continue
            store.write(found[0])
            log.unlink(missing_ok=True)
        rows += found
    if failed:
        reasons = "; ".join(f"{describe(experiment)}: {reason}" for reason, experiment in failed.items())
        raise RunsFailed(f"{count} of {len(experiments)} runs failed, the others are done ({reasons}).") from cause
    return rows


def _sharing_order(e: Experiment) -> tuple:
    """Variants that train alike stand next to each other, seed by seed, and of them those of one recovered student."""
    stages = [keys.digest(keys.reads(e, stage)) for stage in ("training", "recovery")]
    return e.dataset, e.method, e.num, e.imbalance, e.seed, *stages, e.variant


def estimate(experiments: Iterable[Experiment], store: Store) -> float | None:
    """Seconds that these runs will take, from stored rows of the same data, method and solver; None if a kind has none.

    Where no row has as many images and training steps, the nearest serves, and more of them take longer in proportion.
    Means are used, because a row that shares another row's student took little time and the other row took all of it.
    """
    known: dict[tuple, dict[tuple, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in store.rows(on_error="warn"):
        size = _size(row.method, row.num, row.switches)
        known[row.dataset, row.method, row.solver][size].append(row.seconds_total)
    total = 0.0
    for e in experiments:
        if (kind := (e.dataset, e.method, e.solver)) not in known:
            return None
        size, times = _size(e.method, e.num, e.switches()), known[kind]
        near = min(times, key=lambda other: (sum(abs(math.log(a / b)) for a, b in zip(size, other)), other))
        total += statistics.fmean(times[near]) * math.prod(max(1.0, a / b) for a, b in zip(size, near))
    return total


def _size(method: str, num: int, switches: dict[str, Any]) -> tuple[int, int]:
    """Images and training steps."""
    return num, switches.get(f"{method}.iterations") or 1
