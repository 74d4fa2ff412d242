"""A student as an ONNX file: the same logits for any number of images, nearly the same classes in int8; whole or absent."""

import json
import os
import sys

import pytest
import torch
from conftest import CLASSES, MOBILENET, RESNET, VGG, inputs, make_teacher, needs_onnx, pictures
from PIL import Image

from oefsmc_lib.cli import main
from oefsmc_lib.compressors import surgery
from oefsmc_lib.errors import InputError
from oefsmc_lib.student import export, saved

ABOUT = {"mean": [0.5] * 3, "std": [0.25] * 3, "classes": [f"class {j}" for j in range(CLASSES)]}


def student_of(architecture):
    teacher = make_teacher(architecture)
    return surgery.Student(teacher.model, surgery.Structure(architecture), {"images": ABOUT})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved student, exported by many tests."""
    place = tmp_path_factory.mktemp("student")
    saved.save(student_of(RESNET), place)
    return place


@pytest.fixture(scope="module")
def content():
    """The float32 file of a small VGG-16."""
    return export.to_onnx(make_teacher(VGG).model, VGG, ABOUT)


@pytest.fixture
def photos(tmp_path):
    """A folder of images, one of them deeper."""
    for number, pixels in enumerate(pictures(12, size=20)):
        place = tmp_path / "photos" / ("deeper" if number == 0 else "")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(place / f"{number}.png")
    return tmp_path / "photos"


# --- the files -----------------------------------------------------------------------------------
@needs_onnx
@pytest.mark.parametrize("architecture", [RESNET, pytest.param(MOBILENET, marks=pytest.mark.slow)], ids=lambda a: a.name)
def test_the_file_computes_what_torch_computes_for_any_number_of_images(architecture):
    teacher = make_teacher(architecture)
    made = export.to_onnx(teacher.model, architecture, ABOUT)
    for count in (1, 2, 7):
        wanted = teacher.model(inputs(count, architecture))  # normalised by torch; the file does that itself
        found = export.classify(made, pictures(count, architecture.channels, architecture.image_size))
        assert found.shape == wanted.shape and (found - wanted).abs().max() < 1e-4 * max(1, float(wanted.abs().max()))


@needs_onnx
def test_the_file_says_what_it_expects(content):
    runs = export.session(content)
    about = runs.get_modelmeta().custom_metadata_map
    assert about["input"] == "uint8 (N, 3, 32, 32), pixels from 0 to 255" and about["precision"] == "float32"
    assert {key: json.loads(about[key]) for key in ABOUT} == ABOUT
    entry, = runs.get_inputs()
    assert (entry.name, entry.type, entry.shape[1:]) == ("images", "tensor(uint8)", [3, 32, 32])


@needs_onnx
def test_int8_keeps_the_class_where_float32_is_sure_and_is_a_quarter_of_the_size(content):
    pixels = pictures(60)
    small = export.to_int8(content, pixels[:30])
    exact, found = export.classify(content, pixels), export.classify(small, pixels)
    error = float((found - exact).abs().mean())
    assert 0 < error < 0.5 * float(exact.std())
    first, second = exact.topk(2).values.unbind(1)
    sure = first - second > 4 * error                       # a lead that two errors of that size do not make up
    assert sure.sum() >= 10 and (found.argmax(1) == exact.argmax(1))[sure].double().mean() > 0.8
    assert len(small) < 0.45 * len(content)                 # a quarter, and the graph itself, which counts in a small file
    assert export.session(small).get_modelmeta().custom_metadata_map["precision"] == "int8, calibrated on 30 images"


@needs_onnx
def test_the_file_of_small_vgg_is_right_and_that_of_another_network_is_refused(content):
    pixels, teacher = pictures(5), make_teacher(VGG)
    export.check(content, export.Pixels(teacher.model, ABOUT["mean"], ABOUT["std"]), pixels)
    other = export.Pixels(teacher.model, [0.501] * 3, ABOUT["std"])               # a mean that is off by a thousandth
    with pytest.raises(InputError, match="nothing was written"):
        export.check(content, other, pixels)
    other.model.classifier.bias[0] = float("nan")
    with pytest.raises(InputError, match="differ by nan"):
        export.check(content, other, pixels)


# --- from folder to file -------------------------------------------------------------------------
@needs_onnx
def test_from_a_folder_to_a_file(folder, photos, tmp_path, monkeypatch, capsys):
    made = tmp_path / "new" / "student.onnx"
    monkeypatch.setattr(sys, "argv", ["oefsmc", "export", str(folder), "--onnx", str(made)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code and "onnxruntime's logits are torch's" in capsys.readouterr().out
    student = saved.load(folder).model
    with torch.no_grad():
        wanted = student(inputs(3, RESNET))
    assert (export.classify(made.read_bytes(), pictures(3, size=16)) - wanted).abs().max() < 1e-4 * max(1, wanted.abs().max())
    (photos / "torn.png").write_bytes(b"no picture")             # it is left out and named
    report = export.export(folder, made, int8=True, calibrate=[photos])
    assert [said.startswith(f"{photos / 'torn.png'} does not decode (") for said in report["broken"]] == [True]
    assert report["images"] == 12 and report["bytes"] == made.stat().st_size < report["float_bytes"]
    assert 0.5 < report["agreement"] <= 1
    assert [path.name for path in made.parent.iterdir()] == ["student.onnx"]


@needs_onnx
@pytest.mark.parametrize("change, words", [
    (lambda kit: kit | {"folder": kit["empty"]}, "No student in"),
    (lambda kit: kit | {"path": kit["empty"] / "student.tflite"}, "does not end in .onnx"),
    (lambda kit: kit | {"int8": True}, "go together"),
    (lambda kit: kit | {"calibrate": [kit["photos"]]}, "go together"),
    (lambda kit: kit | {"int8": True, "calibrate": [kit["empty"]]}, "No image to calibrate on"),
    (lambda kit: kit | {"int8": True, "calibrate": [kit["empty"] / "nowhere"]}, "No image to calibrate on"),
    (lambda kit: kit | {"int8": True, "calibrate": [kit["broken"]]}, "None of the 1 images to calibrate on can be read"),
    (lambda kit: kit | {"folder": kit["old"]}, "does not say which mean and std"),
    (lambda kit: kit | {"path": kit["photos"] / "1.png" / "student.onnx"}, "stands in its way|Not a directory"),
])
def test_what_cannot_be_exported_is_refused_in_one_sentence_and_nothing_is_written(folder, photos, tmp_path, change, words):
    kit = {"folder": folder, "path": tmp_path / "student.onnx", "int8": False, "calibrate": (), "photos": photos,
           **{name: tmp_path / name for name in ("empty", "broken", "old")}}
    kit["empty"].mkdir()
    kit["broken"].mkdir()
    (kit["broken"] / "a.png").write_bytes(b"no picture")
    student = student_of(RESNET)
    student.notes.clear()                                    # as earlier versions saved it
    saved.save(student, kit["old"])
    asked = change(kit)
    with pytest.raises(InputError, match=words) as refusal:
        export.export(*(asked[key] for key in ("folder", "path", "int8", "calibrate")))
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.rglob("*.onnx*"))


@needs_onnx
def test_a_file_that_was_there_stays_whole_when_the_disk_is_full(folder, tmp_path, monkeypatch):
    made = tmp_path / "student.onnx"
    made.write_bytes(b"before")

    def full(_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(export, "to_onnx", lambda *_: b"after")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        export.export(folder, made)
    assert made.read_bytes() == b"before" and list(tmp_path.iterdir()) == [made]


def test_a_missing_package_is_named_with_the_command_that_gets_it(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(InputError, match="pip install onnxruntime`") as refusal:
        export.export(folder, tmp_path / "student.onnx")
    assert "\n" not in str(refusal.value)


def test_a_saved_student_says_which_images_it_reads(folder, tmp_path):
    assert saved.load(folder).notes["images"] == ABOUT
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["images"] == ABOUT and {"architecture", "dropped", "kept"} <= plan.keys()
