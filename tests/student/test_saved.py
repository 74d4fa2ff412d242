"""Saving and loading a student: the same logits in a new process, and damage in one sentence."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from conftest import MOBILENET, RESNET, VGG, inputs, logits, make_teacher, normal, same_state, state_of, uniform
from safetensors.torch import load_file, save_file

from oefsmc_lib.compressors import importance, plans, surgery
from oefsmc_lib.errors import InputError
from oefsmc_lib.student import saved


def kept_by(teacher):
    plan = {"vgg16": "half", "resnet20": "all_inner"}.get(teacher.architecture.name, "inner_half")
    widths = plans.plan_widths(plan, teacher.model, teacher.architecture)
    return {name: importance.top_channels(teacher.model.get_submodule(name).weight.abs().sum((1, 2, 3)), keep)
            for name, keep in widths.items()}


READ = """
import sys
import torch
from safetensors.torch import load_file, save_file
from oefsmc_lib.student import saved
torch.set_num_threads(int(sys.argv[1]))                   # as many as wrote: more threads may add in another order
for folder in sys.argv[2:]:
    student = saved.load(folder)
    x = load_file(folder + "/input.safetensors")["x"].contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        save_file({"y": student.model(x)}, folder + "/output.safetensors")
    assert not any(p.requires_grad for p in student.model.parameters()) and not student.model.training
"""


def student_of(teacher, kind):
    if kind == "dropped":
        dropped = plans.droppable_units(teacher.model)[1:3]
        student = surgery.Student(copy.deepcopy(teacher.model), surgery.Structure(teacher.architecture, dropped=dropped))
        surgery.drop_units(student.model, dropped)
    else:
        student = surgery.pruned_copy(teacher, kept_by(teacher))
        pairs = surgery.trace(student.model, teacher.architecture)[1]
        for conv, norm in pairs.items():
            conv, norm = student.model.get_submodule(conv), student.model.get_submodule(norm)
            width = conv.out_channels
            q = uniform(width, "q") if conv.groups > 1 else torch.eye(width) + 0.01 * normal((width, width), "q")
            surgery.merge(q, conv, norm)
    student.model.to(memory_format=torch.channels_last)   # as evaluated; another layout adds in another order
    return student


def test_saved_students_have_the_same_logits_in_a_new_process(tmp_path):
    students, folders = [], []
    for architecture in (VGG, RESNET, MOBILENET):
        for kind in ("pruned and merged", "dropped"):
            students.append(student_of(make_teacher(architecture), kind))
            folders.append(tmp_path / f"{architecture.name} {kind}")
            saved.save(students[-1], folders[-1])
            save_file({"x": inputs(5, architecture).contiguous()}, folders[-1] / "input.safetensors")
    words = [sys.executable, "-c", READ, str(torch.get_num_threads()), *map(str, folders)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for student, folder in zip(students, folders):
        x = inputs(5, student.structure.architecture)
        assert torch.equal(load_file(folder / "output.safetensors")["y"], logits(student.model, x)), folder.name
        again = saved.load(folder)
        assert again.structure == student.structure and same_state(state_of(student.model), state_of(again.model))


@pytest.mark.parametrize("damage, words", [
    (lambda folder: (folder / "plan.json").unlink(), "plan.json is missing"),
    (lambda folder: (folder / "student.safetensors").unlink(), "student.safetensors is missing"),
    (lambda folder: (folder / "plan.json").write_text("{"), "is damaged"),
    (lambda folder: (folder / "plan.json").write_text('{"architecture": {}}'), "is damaged"),
    (lambda folder: (folder / "student.safetensors").write_bytes(b"no"), "is damaged"),
    (lambda folder: change(folder, kept={"features.0": [0, 1]}), "does not fit its plan.json"),
    (lambda folder: change(folder, kept={"no.such": [0, 1]}), "does not fit its plan.json"),
    (lambda folder: change(folder, dropped=["features.99"]), "does not fit its plan.json"),
    (lambda folder: change(folder, dropped=["features.3"]), "does not fit its plan.json"),
])
def test_a_damaged_student_is_refused_in_one_sentence(tmp_path, vgg, damage, words):
    saved.save(surgery.pruned_copy(vgg, kept_by(vgg)), tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=words) as refusal:
        saved.load(tmp_path)
    assert "\n" not in str(refusal.value)


def change(folder, **changes):
    plan = json.loads((folder / "plan.json").read_text()) | changes
    (folder / "plan.json").write_text(json.dumps(plan))
