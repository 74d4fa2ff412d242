"""A network and images of your own: ``oefsmc compress`` and ``oefsmc teacher import``."""

from pathlib import Path
from typing import Annotated

import typer

from oefsmc_lib.cli.words import print_table

Model = Annotated[str, typer.Option(help="a network of torchvision or timm, or your own as module:function")]
Weights = Annotated[Path | None, typer.Option(help="its weights: safetensors, or a torch file of plain tensors")]
Normalise = Annotated[
    str | None, typer.Option(help="imagenet, cifar10, half, none, or MEAN/STD as in 0.5,0.5,0.5/0.2,0.2,0.2")
]
Size = Annotated[int | None, typer.Option(min=8, help="height and width of the images that the network reads")]


def compress(
    data: Annotated[Path, typer.Option(help="your images: a folder per class, alone or under train/ and val/")],
    model: Model,
    out: Annotated[Path, typer.Option(help="the folder that student, card and report are written to")],
    weights: Weights = None,
    elsewhere: Annotated[
        Path | None, typer.Option(help="images of other things (OOD); two installed photographs without")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="share of channels that each layer keeps, as 0.5 or 50%; 0.5 without a target")
    ] = None,
    target_macs: Annotated[str | None, typer.Option(help="at most so many MACs: 0.4, 40%, 300M")] = None,
    target_latency: Annotated[float | None, typer.Option(help="at most so many ms an image, here")] = None,
    max_drop: Annotated[float | None, typer.Option(help="at most so many points of accuracy, cross-validated")] = None,
    method: Annotated[str, typer.Option(help="fskd, cd or mir")] = "fskd",
    normalise: Normalise = None,
    size: Size = None,
    folds: Annotated[int | None, typer.Option(min=0, help="folds of the cross-validation; 0 for none")] = None,
    threads: Annotated[int, typer.Option(min=1, help="threads of the measured latency")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="the seed of every draw")] = 0,
) -> None:
    """Compress your own network with a folder of your own images, and say with intervals what it cost."""
    from oefsmc_lib.own import choose, job, report

    ask = job.Ask(
        data, model, out, weights, elsewhere, None if keep is None else choose.share(keep), target_macs,
        target_latency, max_drop, method, normalise, size, folds, threads, seed,
    )  # fmt: skip
    card = job.run(ask)
    cost, tested, latency = card["cost"], card["tested"], card["latency_ms"]["1"]
    rows: list[list] = []
    if "student" in tested:
        rows += [["accuracy", report.share(tested["teacher"]), report.share(tested["student"])]]
    rows += [["same answer as the teacher", None, report.share(tested["agreement"])]]
    rows += [["MACs", *(report.number(cost[who]["macs"]) for who in ("teacher", "student"))]]
    rows += [["bytes", *(report.number(cost[who]["bytes"]) for who in ("teacher", "student"))]]
    rows += [["ms an image", *(report.milliseconds(latency[who]) for who in ("teacher", "student"))]]
    images = {"held out": "images held out", "seen": "the few images, which the student has seen: too good"}
    where = images.get(tested["how"], "the few images, cross-validated")
    print_table(f"On {where}", ["what", "teacher", "student"], rows)
    print(f"{out}: student.safetensors, plan.json, card.json, report.html")


def teacher_import(
    model: Model,
    data: Annotated[Path, typer.Option(help="the data set: train/<class>/ and val/<class>/ or test/<class>/")],
    weights: Weights = None,
    normalise: Normalise = None,
    size: Size = None,
) -> None:
    """Make a trained network of yours a teacher for runs and grids, with a card and its measured accuracy."""
    from oefsmc_lib.own import imported

    for line in imported.teacher(model, weights, data, normalise, size):
        print(line)
