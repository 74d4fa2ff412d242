"""``oefsmc latency``: how long a network and its compressed form take on this machine."""

import copy
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from oefsmc_lib.cli.words import AnyProfile, AsJson, Settings, print_table, settings_of
from oefsmc_lib.errors import InputError
from oefsmc_lib.parameters import profiles

BATCHES = [1, 4, 16, 64, 256]
COLUMNS = ("batch", "network ms", "quartiles", "student ms", "quartiles", "faster")


def latency(
    settings: Settings = None,
    profile: AnyProfile = None,
    student: Annotated[Path | None, typer.Option(help="a folder that `oefsmc run --save` wrote")] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, max=4096, help="images a pass; may be given again")] = None,
    threads: Annotated[int, typer.Option(min=1, help="of the processor")] = 1,
    seconds: Annotated[float, typer.Option(min=0, help="a batch size is timed for this long")] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Milliseconds of a network and its student in turn: of a saved student, or of a plan (model=... method=...)."""
    from oefsmc_lib.teacher import cost
    from oefsmc_lib.teacher.latency import milliseconds

    chosen = settings_of(settings)
    if student and (chosen or profile):
        raise InputError("A saved student names its own network; give --student alone, or settings without it.")
    models, architecture, device = _saved(student) if student else _planned(chosen, profile)
    times = {size: milliseconds(models, architecture, size, seconds, threads).tolist() for size in batch or BATCHES}
    macs = [cost.macs(model, architecture) for model in models]
    if as_json:
        print(json.dumps({"device": str(device), "threads": threads, "macs": macs, "milliseconds": times}))
        return
    place = f"{threads} thread{'s' * (threads > 1)} of the CPU" if device.type == "cpu" else str(device)
    title = f"{architecture.name}, {macs[0] / 1e6:.1f} million multiply-accumulates an image, against a student"
    print(f"{title}\nof {macs[1] / 1e6:.1f} million ({100 * macs[1] / macs[0]:.0f} %); float32, {place}")
    print_table("Median and quartiles of forward passes in turn", COLUMNS, [_line(*each) for each in times.items()], 80)


def _line(size: int, times: list[list[float]]) -> list[Any]:
    cells: list[Any] = [size]
    for lower, median, upper in times:
        cells += [f"{median:.3g}", f"{lower:.3g}–{upper:.3g}"]
    return [*cells, f"{times[0][1] / times[1][1]:.2f}×"]


def _saved(folder: Path) -> tuple[list, Any, Any]:
    """The network of a saved student, untrained, and the student; weights do not change how long a pass takes."""
    from oefsmc_lib.student import saved
    from oefsmc_lib.teacher.devices import device_named

    found, device = saved.load(folder), device_named("auto")
    architecture = found.structure.architecture
    return _placed([architecture.build(), found.model], device), architecture, device


def _planned(chosen: dict[str, Any], profile: str | None) -> tuple[list, Any, Any]:
    """The network of some settings, untrained, and what its plan makes of it: the first channels stay."""
    from oefsmc_lib.compressors import plans, surgery
    from oefsmc_lib.images.sources import source_of
    from oefsmc_lib.parameters.experiment import EMBEDDED
    from oefsmc_lib.teacher.devices import device_named
    from oefsmc_lib.teacher.networks import Architecture

    e = profiles.profile_for(chosen, profile).experiment(chosen)
    if e.method == "practise":
        raise InputError(
            "Which blocks PRACTISE drops depends on images; save a student with `oefsmc run method=practise --save "
            "FOLDER` and give --student FOLDER."
        )
    channels, classes = 1 if e.dataset == EMBEDDED else 3, len(source_of(e.dataset).classes.split()) or 1000
    architecture, device = Architecture(e.model, classes, channels, e.width, e.image_size or 32), device_named(e.device)
    network = architecture.build().eval()
    widths = plans.plan_widths(e.resolved_plan, network, architecture)
    student = copy.deepcopy(network)
    surgery.remove_channels(student, {name: list(range(width)) for name, width in widths.items()}, architecture)
    return _placed([network, student], device), architecture, device


def _placed(models: list, device) -> list:
    import torch

    return [model.eval().to(device, memory_format=torch.channels_last) for model in models]
