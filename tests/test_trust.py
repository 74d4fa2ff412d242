"""Promises of docs/trust.md about security, determinism and numbers at the edge, each with the fault that would break it."""

import ast
import dataclasses
import hashlib
import io
import json
import os
import pickle
import re
import socket
import struct
import subprocess
import sys
import tomllib
import zipfile

import numpy as np
import pytest
import torch
from conftest import VGG, experiment, make_teacher, samples
from pydantic import ValidationError

from oefsmc_lib import pipeline
from oefsmc_lib.errors import InputError
from oefsmc_lib.files import project_root
from oefsmc_lib.images import folders, npz, sets
from oefsmc_lib.notebook.publish import packed_rows
from oefsmc_lib.parameters.experiment import METHODS
from oefsmc_lib.rows.row import Row, difference
from oefsmc_lib.rows.store import Store
from oefsmc_lib.teacher import teachers

ROOT = project_root()


# --- security ----------------------------------------------------------------------------------
def executes(node: ast.AST) -> str | None:
    """Why a piece of source could run what is in a file: pickles, evaluated text, shells."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        if ast.unparse(node) == "from pickle import UnpicklingError":                # what torch.load raises; it runs nothing
            return None
        names = {alias.name.split(".")[0] for alias in node.names} | {(getattr(node, "module", "") or "").split(".")[0]}
        return next(iter(names & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}), None)
    if not isinstance(node, ast.Call):
        return None
    called = ast.unparse(node.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if called in ("eval", "exec", "os.system", "os.popen"):
        return called
    if called in ("torch.load", "torch.save") and given.get("weights_only") != "True":
        return called
    if called == "yaml.load" and "Loader" not in ast.unparse(node) or called in ("yaml.unsafe_load", "yaml.full_load"):
        return called
    return next((f"{name}=True" for name in ("allow_pickle", "shell") if given.get(name) == "True"), None)


@pytest.mark.parametrize("source, found", [
    ("import pickle", True), ("from pickle import loads", True), ("from pickle import UnpicklingError", False), ("from joblib import load", True), ("torch.load(f)", True), ("np.load(f, allow_pickle=True)", True),
    ("torch.load(f, weights_only=True)", False), ("subprocess.run('x', shell=True)", True), ("model.eval()", False),
    ("yaml.unsafe_load(t)", True), ("yaml.safe_load(t)", False)])
def test_the_search_for_executed_files_finds_them(source, found):
    assert any(executes(node) for node in ast.walk(ast.parse(source))) == found


def test_nothing_that_is_read_is_executed():
    for path in [*(ROOT / "oefsmc_lib").rglob("*.py"), *(ROOT / "bench").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not executes(node), f"{path}:{node.lineno}: {executes(node)}"


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_checkpoint_that_wants_to_run_code_is_refused_and_does_not_run(home, tmp_path):
    made = teachers.train("mnist5k", "vgg16", 0.0625, epochs=0)
    weights = teachers.folder() / "vgg16-w0.0625_mnist5k.safetensors"
    torched = io.BytesIO()
    torch.save(Bomb(str(tmp_path / "ran")), torched)
    for content in (pickle.dumps(Bomb(str(tmp_path / "ran"))), torched.getvalue(), struct.pack("<Q", 2**62) + b"{}", b""):
        weights.write_bytes(content)
        card = made.card | {"sha256": hashlib.sha256(content).hexdigest()}
        weights.with_suffix(".json").write_text(json.dumps(card))
        with pytest.raises(InputError, match="no safetensors file"):
            teachers.read("vgg16-w0.0625_mnist5k")
    np.savez(tmp_path / "a.npz", x_train=np.array([Bomb(str(tmp_path / "ran"))], object))
    with pytest.raises(InputError, match="damaged"):
        npz.read(tmp_path / "a.npz")
    assert not (tmp_path / "ran").exists()


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x_train.npy", bytes(10**6))
    monkeypatch.setattr(npz, "LARGEST", 10**5)
    with pytest.raises(InputError, match="unpacked it would take"):
        npz.read(tmp_path / "a.npz")
    monkeypatch.undo()
    with pytest.raises(InputError, match="x_train.* is no array"):  # found by fuzzing
        npz.read(tmp_path / "a.npz")


def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path):
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", 70) + b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999,), }".ljust(69) + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x_train.npy", header)
    with pytest.raises(InputError, match="damaged"):
        npz.read(tmp_path / "a.npz")


def test_a_picture_of_a_billion_pixels_is_not_decoded(tmp_path, monkeypatch):
    from PIL import Image
    Image.new("L", (100, 100)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="decompression bomb"):
        folders.decode(str(tmp_path / "a.png"))


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/passwd", "a/b.png"])
def test_a_list_of_images_cannot_leave_its_folder(tmp_path, name):
    for class_name in ("a", "b"):
        (tmp_path / "train" / class_name).mkdir(parents=True)
        (tmp_path / "train" / class_name / "0.png").write_bytes(b"")
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "val_annotations.txt").write_text(f"{name}\ta\n")
    with pytest.raises(InputError, match="Line 1"):
        folders.list_tree(tmp_path)


def test_a_row_cannot_be_written_outside_its_store(tiny):
    row = pipeline.run(experiment(variant="native"))[1]
    for name in ("../x", "a/b", "", "a b"):
        with pytest.raises(ValidationError):
            Row(**row.flat() | {"id": name})


def test_nothing_asks_the_network(tiny, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    pipeline.run(experiment(variant="ours"))
    assert sets.sources() and teachers.available() is not None
    with pytest.raises(InputError):                           # a set that is not here is not fetched unasked
        sets.source_of("cifar99")


def test_dollars_in_a_class_name_are_no_formula():
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    from oefsmc_lib.evidence.figures import marks
    figure, axes = pyplot.subplots()
    axes.set_title(marks.literal(r"a $\frac b$ c"))
    figure.canvas.draw()
    pyplot.close(figure)


# --- determinism -------------------------------------------------------------------------------
def test_the_order_of_runs_changes_no_row(tiny):
    asked = [experiment(method=method, variant=variant) for method in ("fskd", "cd") for variant in ("native", "ours")]
    one, other = pipeline.Shared(), pipeline.Shared()
    forwards = {e.key: pipeline.run(e, one)[1] for e in asked}
    for e in reversed(asked):
        assert difference(forwards[e.key], pipeline.run(e, other)[1]) is None


DRAWS = """
from oefsmc_lib.parameters.experiment import Experiment
from oefsmc_lib.images import elsewhere, fewshot, sets
e = Experiment(seed=3, ood_exclude=("china",), n=100)
train = sets.load("mnist5k", "train")
watch = elsewhere.draw_watch(e, train.shape)
pool = elsewhere.draw_pool(e, train.shape, watch)
print(e.key, fewshot.draw(train.labels, 10, e), watch.indices, pool.indices, pool.fingerprint)
"""


def test_hash_seeds_and_threads_change_no_draw():
    said = set()
    for seed, threads in (("0", "1"), ("1", "2")):
        environment = os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)}
        said.add(subprocess.run([sys.executable, "-c", DRAWS], env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(said) == 1 and said.pop().strip()


# --- numbers at the edge -----------------------------------------------------------------------
def finite(row):
    assert all(np.isfinite(value) for value in row.flat().values() if isinstance(value, float))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fault", ["one image", "equal images", "dead channels"])
def test_singular_systems_give_a_finite_student(tiny, method, fault, monkeypatch):
    settings = {"method": method, "variant": "ours"}
    if fault == "one image":
        settings |= {"num": 1, "m": 1}
    elif fault == "equal images":
        flat = tiny["tiny", "train"]
        tiny["tiny", "train"] = dataclasses.replace(flat, images=torch.full_like(flat.images, 7))
    else:
        load = teachers.load

        def with_dead_channels(*asked):
            teacher = load(*asked)
            for module in teacher.model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.weight.data[::3] = 0
                    module.bias.data[::3] = -1                # behind the ReLU always zero
            return teacher
        monkeypatch.setattr(teachers, "load", with_dead_channels)
    student, row = pipeline.run(experiment(**settings))
    finite(row)
    assert all(tensor.isfinite().all() for tensor in student.model.state_dict().values())


def test_a_class_without_images_has_no_accuracy_and_harms_no_other(tiny):
    held = tiny["tiny", "test"]
    keep = held.labels != 2
    tiny["tiny", "test"] = dataclasses.replace(held, images=held.images[keep], labels=held.labels[keep])
    row = pipeline.run(experiment(variant="ours"))[1]
    assert row.per_class[2] is None and all(value is not None for j, value in enumerate(row.per_class) if j != 2)
    finite(row)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("column", ["top1", "balanced_accuracy", "macs_cut", "latency_ms"])
def test_no_nan_reaches_a_row(tiny, column, value, tmp_path):
    row = pipeline.run(experiment(variant="native"))[1]
    with pytest.raises(ValidationError):
        Row(**row.flat() | {column: value})
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / f"{row.id}.json").write_text(json.dumps(row.flat() | {column: value}))
    with pytest.raises(InputError):
        Store(tmp_path).rows()


def test_the_teachers_float32_is_close_to_float64():
    teacher, few = make_teacher(VGG), samples(8, VGG)
    with torch.no_grad():
        single = teacher.model(few.images)
        double = teacher.model.double()(few.images.double())
    assert (single - double).abs().max() < 1e-4 * double.abs().max()


# --- the environment of the committed rows -----------------------------------------------------
def test_the_lock_has_the_versions_of_the_committed_rows_and_a_hash_for_each_package(tmp_path):
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.M))
    assert len(re.findall(r"^[a-z0-9._-]+==[^\n]+\\\n    --hash=sha256:", text, re.M)) == len(locked) > 100
    rows = packed_rows(tmp_path).rows()                    # rows that a user's own `make figures` left do not count
    assert {row.torch.split("+")[0] for row in rows} == {locked["torch"]}
    assert {row.torchvision.split("+")[0] for row in rows} == {locked["torchvision"]}
    assert {row.python for row in rows} == set(re.findall(r"--python-version (\S+)", text))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(each for part in project["optional-dependencies"].values() for each in part)]
    names = {re.split(r"[<>=\[ ]", each)[0].lower() for each in asked} - {"oefsmc"}
    assert names <= set(locked)


# --- a stranger's machine ----------------------------------------------------------------------
@pytest.mark.slow
def test_a_run_on_a_strangers_machine(tmp_path):
    import stranger
    (tmp_path / "étranger et fils").mkdir()
    row = stranger.try_all(tmp_path / "étranger et fils")
    assert row["git_commit"] is None and row["top1"] > 50
