"""What is on this machine, and how to get what is not: ``oefsmc doctor``, ``data`` and ``teacher``."""

import json
import math
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from oefsmc_lib import files
from oefsmc_lib.cli.words import AnyProfile, Settings, print_table, settings_of
from oefsmc_lib.engine import runs
from oefsmc_lib.errors import InputError
from oefsmc_lib.parameters import profiles

data = typer.Typer(no_args_is_help=True, help="The image sets: get, check.")
teacher = typer.Typer(no_args_is_help=True, help="The networks to compress: train, check.")

PACKAGES = ("torch", "torchvision", "torch-pruning", "papermill", "jupyterlab", "snakemake")
SWITCHES = ("dataset", "model", "width", "image_size", "device")  # those that a teacher has


def doctor() -> None:
    """Versions, device, folders, image sets and teachers: what is here, what is missing, how to get it."""
    import torch

    from oefsmc_lib.images import sets
    from oefsmc_lib.teacher import teachers

    rows = [["python", platform.python_version()]]
    for package in PACKAGES:
        try:
            rows.append([package, version(package)])
        except PackageNotFoundError:
            rows.append([package, "not installed; pip install -e '.[all]'"])
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows.append(["device", ", ".join(gpus) or f"CPU, {torch.get_num_threads()} threads"])
    rows.append(["data folder", f"{files.data_folder()} (OEFSMC_DATA)"])
    rows.append(["outputs", f"{files.outputs_folder()} (OEFSMC_OUTPUTS)"])
    print_table("This machine", ["what", "here"], rows)
    known = sets.sources()
    rows = [[s["name"], s["where"] if s["found"] else "not here", s["description"]] for s in known]
    print_table("Images", ["set", "where", "what"], rows)
    for s in known:
        if not s["found"]:
            print(f"{s['name']} was looked for as {s['where']}; get it with\n    {s['command']}")
    cards = [[c["name"], c.get("test_accuracy", math.nan), c.get("problem")] for c in teachers.available()]
    rows = [[name, "" if math.isnan(share) else f"{100 * share:.2f}", problem] for name, share, problem in cards]
    none = ["none yet", None, "the embedded one is trained on first use (a minute)"]
    print_table("\nTeachers", ["teacher", "test accuracy %", "problem"], rows or [none])


@data.command("get")
def data_get(name: str) -> None:
    """Download a set, or build its cache; says what to do for one that cannot be downloaded."""
    from oefsmc_lib.images import sets

    print(f"{name}: {sets.get(name)}")


@data.command("check")
def data_check(name: str, image_size: int | None = None, skip_broken: bool = False) -> None:
    """Read a set whole: counts, shapes, fingerprint, images that do not decode."""
    from oefsmc_lib.images import sets

    print(json.dumps(sets.check(name, image_size=image_size, skip_broken=skip_broken), indent=1))


@teacher.command("train")
def teacher_train(
    settings: Settings = None, profile: AnyProfile = None, epochs: int | None = None, seed: int = 0, again: bool = False
) -> None:
    """Train a teacher: dataset=... model=... [width=...] [image_size=...]. Resumes where it was killed."""
    from oefsmc_lib.teacher import teachers

    chosen = settings_of(settings)
    if unknown := sorted(set(chosen) - set(SWITCHES)):
        raise InputError(f"A teacher has no switch {unknown[0]!r}; it has {', '.join(SWITCHES)}.")
    e = profiles.profile_for(chosen, profile).experiment(chosen)
    name, size = teachers.name_of(e.model, e.width, e.dataset), e.image_size
    if teachers.exists(name) and not again:
        raise InputError(f"The teacher {name} is there already; --again trains it anew, which makes other rows.")
    runs.check_networks([e])  # a network that no compressor can change needs no teacher
    made = teachers.train(e.dataset, e.model, e.width, image_size=size, epochs=epochs, seed=seed, device=e.device)
    print(f"{name}: test accuracy {100 * made.card['test_accuracy']:.2f} %, in {teachers.folder()}")


@teacher.command("check")
def teacher_check(name: str, evaluate: Annotated[bool, typer.Option(help="run it on all test images")] = False) -> None:
    """Verify a teacher's checksum and weights."""
    from oefsmc_lib.teacher import teachers

    print(json.dumps(teachers.check(name, evaluate), indent=1))
