"""A student on file, without pickle: ``student.safetensors``, and ``plan.json`` to build the same network again.

What a student says of the images that it reads (``notes["images"]``: ``mean``, ``std`` and ``classes``) stands in
``plan.json``, too. Folders of earlier versions lack it.
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from oefsmc_lib.compressors.surgery import Structure, Student, drop_units, remove_channels
from oefsmc_lib.errors import InputError
from oefsmc_lib.files import writable_folder, write_whole
from oefsmc_lib.teacher.networks import Architecture, fill


def rebuild(structure: Structure, network: nn.Module | None = None) -> nn.Module:
    """An untrained network of this structure: build (or take ``network``), drop, remove channels."""
    model = (network or structure.architecture.build()).eval()
    drop_units(model, structure.dropped)
    remove_channels(model, structure.kept, structure.architecture)
    return model


def save(student: Student, folder: Path) -> None:
    """Write ``student.safetensors`` and ``plan.json``, each whole or not at all."""
    from safetensors.torch import save as to_bytes

    folder = writable_folder(Path(folder))
    tensors = {name: tensor.contiguous().cpu() for name, tensor in student.model.state_dict().items()}
    write_whole(folder / "student.safetensors", to_bytes(tensors))
    images = {"images": student.notes["images"]} if "images" in student.notes else {}
    write_whole(folder / "plan.json", json.dumps(asdict(student.structure) | images, indent=1))


def load(folder: Path, network: nn.Module | None = None) -> Student:
    """A saved student, in eval mode, without its teacher; the same logits bit for bit.

    ``network`` is an untrained network of the teacher's kind, where the plan names none that can be built; it is cut.
    Its memory is laid out channels last, as :mod:`oefsmc_lib.student.evaluation` runs it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        plan["architecture"] = Architecture(**plan["architecture"])
        notes = {"images": plan.pop("images")} if "images" in plan else {}
        structure = Structure(**plan)
        weights = folder / "student.safetensors"
        if not weights.is_file():
            raise FileNotFoundError(2, "no such file", str(weights))
        state = load_file(weights)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"No student in {folder}: {Path(error.filename).name} is missing; "
            "it is written by `oefsmc compress --out FOLDER` or `oefsmc run ... --save FOLDER`."
        ) from error
    except (ValueError, TypeError, KeyError, SafetensorError) as error:
        raise InputError(f"The student in {folder} is damaged ({error}); write it again.") from error
    if network is None and ":" in structure.architecture.name:
        network = structure.architecture.build()  # its own sentence where timm or a user's module is not here
    try:
        model = rebuild(structure, network)
        fill(model, state)
    except (RuntimeError, AttributeError, IndexError, TypeError, InputError) as error:
        raise InputError(
            f"student.safetensors in {folder} does not fit its plan.json; write both again, or, for a network "
            "that only your own code builds, call saved.load with network=..."
        ) from error
    return Student(model.eval().requires_grad_(False).to(memory_format=torch.channels_last), structure, notes)
