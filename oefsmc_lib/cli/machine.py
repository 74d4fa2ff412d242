"""What is on this machine, and how to get what is not: ``oefsmc doctor``, ``data`` and ``teacher``."""

import json
import math
import platform
import textwrap
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from oefsmc_lib import files
from oefsmc_lib.cli.words import WIDTH, AnyProfile, Settings, print_table, settings_of
from oefsmc_lib.engine import runs
from oefsmc_lib.errors import InputError
from oefsmc_lib.parameters import profiles

data = typer.Typer(no_args_is_help=True, help="Image sets: get or check one.")
teacher = typer.Typer(no_args_is_help=True, help="Teachers, the networks to compress: train or check one.")

Set = Annotated[str, typer.Argument(help="a set that `oefsmc doctor` lists, or folder:PATH")]
Size = Annotated[int | None, typer.Option(help="resize and crop images of folders to this")]
Skip = Annotated[bool, typer.Option("--skip-broken", help="leave out images that do not decode")]

PACKAGES = ("torch", "torchvision", "torch-pruning", "papermill", "jupyterlab", "snakemake")
SWITCHES = ("dataset", "model", "width", "image_size", "device")  # those that a teacher has


def doctor() -> None:
    """Say what is here (versions, device, folders, images, teachers), what is missing and how to get it."""
    import torch

    from oefsmc_lib.images import sets
    from oefsmc_lib.teacher import devices, teachers

    rows = [["python", platform.python_version()]]
    for package in PACKAGES:
        try:
            rows.append([package, version(package)])
        except PackageNotFoundError:
            rows.append([package, "not here; python -m pip install -e '.[all]'"])
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows.append(["device", ", ".join(gpus) or f"CPU, threads: {torch.get_num_threads()}"])
    has_bfloat16 = devices.multiplies_bfloat16(devices.device_named("auto"))
    rows.append(["bfloat16", "native" if has_bfloat16 else "not here; float32 in its place"])
    print_table("This machine", ["what", "here"], rows, WIDTH)
    print(f"Images and teachers (OEFSMC_DATA): {files.data_folder()}")
    print(f"Rows and figures (OEFSMC_OUTPUTS): {files.outputs_folder()}\n")
    known = sets.sources()
    places = [s["where"].removeprefix(f"{files.data_folder()}/") if s["found"] else "not here" for s in known]
    rows = [[s["name"], place, s["description"]] for s, place in zip(known, places)]
    print_table("Images", ["set", "where", "what"], rows, WIDTH)
    for s in known:
        if not s["found"]:
            _say(f"{s['name']} was looked for as {s['where']}; {s['way']}", s["command"])
    cards = [[c["name"], c.get("test_accuracy", math.nan), c.get("problem")] for c in teachers.available()]
    rows = [[name, "" if math.isnan(share) else f"{100 * share:.2f}", problem] for name, share, problem in cards]
    print_table("\nTeachers", ["teacher", "test accuracy %", "problem"], rows, WIDTH)
    for name in profiles.names("params"):
        if profiles.union(name):
            continue
        e = profiles.load_profile(name).experiment({})
        if not teachers.exists(wanted := teachers.name_of(e.model, e.width, e.dataset)):
            _say(f"The profile {name} needs the teacher {wanted}; train it with", f"oefsmc teacher train -p {name}")


def _say(text: str, command: str) -> None:
    """A sentence of 80 columns, and under it a command that can be copied whole."""
    print(textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False))
    if command:
        print(f"    {command}")


@data.command("get")
def data_get(name: Set) -> None:
    """Download a set or build its cache. Where that cannot be done, say what to do."""
    from oefsmc_lib.images import sets

    print(f"{name}: {sets.get(name)}")


@data.command("check")
def data_check(name: Set, image_size: Size = None, skip_broken: Skip = False) -> None:
    """Read a set whole and print its counts, shapes, fingerprint, and images that do not decode."""
    from oefsmc_lib.images import sets

    print(json.dumps(sets.check(name, image_size=image_size, skip_broken=skip_broken), indent=1))


@teacher.command("train")
def teacher_train(
    settings: Settings = None,
    profile: AnyProfile = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="how many; left out: the data set's recipe")] = None,
    seed: Annotated[int, typer.Option(help="of the first weights and the order of images")] = 0,
    again: Annotated[bool, typer.Option("--again", help="train although the teacher is there")] = False,
) -> None:
    """Train a teacher, as in `oefsmc teacher train dataset=cifar10 model=vgg16 width=1`.

    The switches are dataset, model, width, image_size and device. A training that was killed goes on where it was.
    """
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
def teacher_check(
    name: Annotated[str, typer.Argument(help="a teacher, as `oefsmc doctor` lists them")],
    evaluate: Annotated[bool, typer.Option("--evaluate", help="run it on all test images")] = False,
) -> None:
    """Verify a teacher's checksum and weights."""
    from oefsmc_lib.teacher import teachers

    print(json.dumps(teachers.check(name, evaluate), indent=1))
