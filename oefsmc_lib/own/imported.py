"""A trained network of one's own as a teacher for runs and grids: ``oefsmc teacher import``."""

from dataclasses import asdict
from pathlib import Path

import torch

from oefsmc_lib.errors import InputError
from oefsmc_lib.images import sets
from oefsmc_lib.own import network
from oefsmc_lib.teacher import teachers, training


def teacher(name: str, weights: Path | None, data: Path, normalise: str | None, size: int | None) -> list[str]:
    """Save the network beside the other teachers, measured once on the test images; what to say and to run next.

    Weights are kept in float16 and vectors in float32 as all teachers are, and the card's accuracy is theirs. Raises
    :class:`InputError` as :func:`oefsmc_lib.own.network.load` does, for a folder that is no data set, and for a teacher
    of this name that is there already.
    """
    dataset = f"{sets.FOLDER}{data}"
    counts = sets.class_counts(dataset)
    if counts is None:
        raise InputError(f"There is no folder {data}; check the path after --data.")
    made, margin, notes = network.load(name, weights, len(counts), normalise, size)
    network.prunable(made)
    architecture = made.architecture
    own = teachers.name_of(architecture.name, architecture.width, dataset)
    if teachers.exists(own):
        raise InputError(f"The teacher {own} is there already; remove its two files from {teachers.folder()} first.")
    test = sets.load(dataset, "test", image_size=architecture.image_size)
    about = asdict(architecture)
    card = made.card | {"model": about.pop("name"), "dataset": dataset, **about, "imported": made.sha256}
    card |= {"weights": "float16 (vectors float32)", "recipe": "imported"}
    teachers.save(own, training.pack(made.model), card, test, torch.device("cpu"))
    found = 100 * teachers.read(own).card["test_accuracy"]
    notes += [] if margin == 1 else ["runs and grids resize the shorter side to the input, without a margin"]
    command = f"oefsmc run dataset={dataset} model={architecture.name} image_size={architecture.image_size} width=1"
    return [
        *(f"note: {note}" for note in notes),
        f"{own}: test accuracy {found:.2f} %, in {teachers.folder()}",
        f"Compress it with `{command} ood_source=photos num=10`.",
    ]
