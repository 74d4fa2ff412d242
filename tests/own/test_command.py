"""``oefsmc compress`` and ``oefsmc teacher import`` on folders as people have them, and every bad input in one sentence."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import pictures, randomise
from nets import tiny
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from oefsmc_lib.cli import app
from oefsmc_lib.errors import InputError
from oefsmc_lib.own import choose, folder, job, measure, network, report, weights
from oefsmc_lib.student import saved
from oefsmc_lib.teacher import teachers

CLASSES = ("ash", "birch", "cedar")
COUNTS = {"ash": 6, "birch": 3, "cedar": 0}                                          # none of the few shows the third


@pytest.fixture(autouse=True)
def beside_the_users_module(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def photograph(seed, size=24):
    return Image.fromarray(pictures(1, 3, size, seed)[0].permute(1, 2, 0).numpy())


def in_many_ways(path, number):
    """One image in the modes and sizes that folders of people have."""
    image = photograph(number, 24 + 8 * (number % 3))
    kind = number % 6
    if kind == 0:
        image.convert("L").save(path.with_suffix(".png"))
    elif kind == 1:
        image.convert("P").save(path.with_suffix(".gif"))
    elif kind == 2:
        image.convert("RGBA").save(path.with_suffix(".png"))
    elif kind == 3:
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(path.with_suffix(".png"))
    elif kind == 4:
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(path.with_suffix(".jpg"), exif=exif)
    else:
        image.resize((50, 31)).save(path.with_suffix(".png"))


@pytest.fixture
def trees(tmp_path):
    """train/ and val/ with natural counts, a corrupt and a hidden file, and a folder of other images."""
    number = 0
    for name in CLASSES:
        for part, count in (("train", COUNTS[name]), ("val", 4)):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for at in range(count):
                number += 1
                in_many_ways(tmp_path / "data" / part / name / f"{at}", number)
    (tmp_path / "data/train/ash/torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    (tmp_path / "data/train/ash/.hidden.png").write_bytes(b"no image")
    (tmp_path / "data/train/.cache").mkdir()
    (tmp_path / "else").mkdir()
    for at in range(40):
        photograph(1000 + at).save(tmp_path / "else" / f"{at}.png")
    return tmp_path


@pytest.fixture
def checkpoint(tmp_path):
    model = randomise(tiny(3), "tiny")
    torch.save({"epoch": 4, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.pt")
    return tmp_path / "w.pt"


def ask(where, checkpoint, **changes):
    usual = {"data": where / "data", "model": "nets:tiny", "out": where / "out", "weights": checkpoint,
             "elsewhere": where / "else", "normalise": "half", "size": 16}
    return job.Ask(**usual | changes)


def words(where, checkpoint, *more):
    return ["compress", "--data", str(where / "data"), "--model", "nets:tiny", "--weights", str(checkpoint), "--elsewhere",
            str(where / "else"), "--normalise", "half", "--size", "16", "--out", str(where / "out"), *more]


# --- from a folder to a student --------------------------------------------------------------------------
def test_one_command_leaves_a_student_a_card_and_a_report(trees, checkpoint):
    done = CliRunner().invoke(app, words(trees, checkpoint, "--target-macs", "60%"))
    assert done.exit_code == 0, (done.output, done.exception)
    card, text = (json.loads((trees / "out/card.json").read_text()), (trees / "out/report.html").read_text())
    assert card["counts"] == COUNTS and card["tested"]["how"] == "held out"
    assert card["tested"]["student"]["images"] == 12 and len(card["tested"]["classes"]) == 3
    assert card["cost"]["student"]["macs"] <= 0.6 * card["cost"]["teacher"]["macs"]
    assert any("torn.png" in note for note in card["notes"]) and not any("hidden" in note for note in card["notes"])
    assert any("module." in note for note in card["notes"]) and any("state_dict" in note for note in card["notes"])
    student = saved.load(trees / "out")
    assert student.model[0].out_channels == card["kept"]["0"] < 8
    assert "None of the few images shows cedar" in text and text.count("<svg") == 2 and "http" not in re.sub(r"http://www.w3.org\S+", "", text.split("<body>")[1].split("<svg")[0])


def test_keep_1_prunes_nothing_so_that_int8_can_be_had_alone(trees, checkpoint):
    card = job.run(ask(trees, checkpoint, keep=1.0), say=lambda _: None)
    assert card["kept"] == {} and card["cost"]["student"]["macs"] == card["cost"]["teacher"]["macs"]
    whole = {name.removeprefix("module."): value for name, value in torch.load(checkpoint, weights_only=True)["state_dict"].items()}
    state = saved.load(trees / "out").model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.items())
    assert json.loads((trees / "out/plan.json").read_text())["images"]["classes"] == list(CLASSES)      # oefsmc export reads it


def test_a_folder_that_is_a_link_does_not_lead_out_of_its_class(trees, checkpoint):
    (trees / "data/train/ash/up").symlink_to(trees / "data", target_is_directory=True)
    with pytest.raises(InputError, match="is a link to the folder"):
        job.ready(ask(trees, checkpoint))


@pytest.mark.parametrize("words", ["40G%", "M", "0", "-3M", "1e9", "two", "", "1.5"])
def test_a_target_that_is_no_number_is_refused(words):
    with pytest.raises(InputError, match="no share and no number"):
        choose.macs_target(words, 1000)


def test_a_target_that_is_missed_when_measured_again_is_said(trees, checkpoint, monkeypatch):
    monkeypatch.setattr(job.latency, "milliseconds", lambda models, *_: torch.full((len(models), 3), 9.0 if models[1:] else 0.0))
    card = job.run(ask(trees, checkpoint, target_latency=1.0, folds=0), say=lambda _: None)
    assert "the target of 1 ms was met when the plan was chosen; now it takes 9 ms" in card["notes"]


def test_without_labels_it_works_and_says_what_is_skipped(trees, checkpoint):
    card = job.run(ask(trees, checkpoint, data=trees / "else", elsewhere=trees / "data"), say=lambda _: None)
    assert card["counts"] is None and "student" not in card["tested"] and card["tested"]["how"] == "cross-validated"
    assert any("no labels" in note for note in card["notes"])
    page = (trees / "out/report.html").read_text()
    assert "Nothing is known about its accuracy" in page and "Class by class" not in page


def test_photographs_of_installed_packages_serve_where_no_other_images_are_named(trees, checkpoint):
    ready = job.ready(ask(trees, checkpoint, elsewhere=None))
    assert ready.given.pool.shape[1:] == (3, 16, 16) and len(ready.given.pool) > 100 and len(ready.unseen) > 20
    assert any("photographs inside scikit-learn" in note for note in ready.notes)


def test_a_drop_that_is_allowed_is_held_by_cross_validation(trees, checkpoint):
    card = job.run(ask(trees, checkpoint, max_drop=100.0, folds=2), say=lambda _: None)
    assert min(card["kept"].values()) == 1                                # everything may go


def test_sizes_and_modes_come_out_alike_and_upright(tmp_path):
    (tmp_path / "a").mkdir()
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:10] = 255                                                     # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 6                                                      # turn by a quarter to the right
    Image.fromarray(pixels).save(tmp_path / "a/turned.png", exif=exif)
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "a/deep.png")
    found = folder.read([(path, 0) for path in folder.files_of(tmp_path)], folder.View(3, 16))
    deep, turned = found.images.float()
    assert deep[:, :4].min() > 250 and deep[:, -4:].max() < 5             # white above
    assert turned[:, :, -4:].min() > 250 and turned[:, :, :4].max() < 5   # white to the right


def test_pictures_of_the_data_and_classes_of_its_name_do_not_enter_the_other_images(trees):
    copied = trees / "data/val/ash"
    (trees / "else/birch").mkdir()
    photograph(5000).save(trees / "else/birch/x.png")
    for path in copied.iterdir():
        (trees / "else" / f"copy-{path.name}").write_bytes(path.read_bytes())
    view = folder.View(3, 16)
    few, held = folder.read_data(folder.listed(trees / "data"), view)
    found = folder.elsewhere(trees / "else", view, [few.images, held.images], CLASSES)
    assert len(found.pool) + len(found.watch) + len(found.unseen) == 40
    assert any("show a picture of the data" in note for note in found.notes) and any("birch" in note for note in found.notes)


def test_one_image_in_two_classes_is_a_warning_and_held_out_copies_do_not_count(trees):
    data = trees / "data"
    original = sorted((data / "train/ash").glob("[0-9]*"))[0]
    (data / "train/birch" / f"again{original.suffix}").write_bytes(original.read_bytes())
    (data / "val/ash" / f"again{original.suffix}").write_bytes(original.read_bytes())
    few, held = folder.read_data(folder.listed(data), folder.View(3, 16))
    assert any("one image in two classes, ash and birch" in note for note in few.notes)
    assert len(held) == 12 and any("also among the few" in note for note in held.notes)


# --- bad input ---------------------------------------------------------------------------------------------
class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('it ran')",))


def odd_class(where, _):
    (where / "data/val/elm").mkdir()


def single(where, _):
    for name in ("birch", "cedar"):
        for part in ("train", "val"):
            for path in (where / "data" / part / name).iterdir():
                path.unlink()
            (where / "data" / part / name).rmdir()


def unreadable(where, _):
    for path in (where / "data/train").rglob("*.*"):
        if path.is_file():
            path.write_bytes(b"no image")


def empty(where, _):
    for path in (where / "data/train").rglob("*"):
        if path.is_file():
            path.unlink()


def evil(_, checkpoint):
    torch.save({"state_dict": Evil()}, checkpoint)


def old_evil(_, checkpoint):
    checkpoint.write_bytes(pickle.dumps({"state_dict": Evil()}))


def torn(_, checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes()[:300])


def other_head(_, checkpoint):
    torch.save(tiny(5).state_dict(), checkpoint)


def other_network(_, checkpoint):
    state = tiny(3).state_dict()
    del state["3.weight"]
    torch.save({**state, "extra.weight": torch.ones(1), "0.bias": torch.ones(2)}, checkpoint)


def no_tensors(_, checkpoint):
    torch.save({"lr": 0.1}, checkpoint)


def not_finite(_, checkpoint):
    state = tiny(3).state_dict()
    state["0.weight"][0] = torch.nan
    torch.save(state, checkpoint)


def file_in_the_way(where, _):
    (where / "out").write_text("a file")


def fewer_others(where, _):
    for path in sorted((where / "else").iterdir())[3:]:
        path.unlink()


def nothing(*_):
    pass


BAD = [
    (odd_class, {}, "elm is in .*val but not in .*train"),
    (single, {}, "a single class folder, ash"),
    (unreadable, {}, "No image in .* can be read"),
    (empty, {}, "holds no image files"),
    (evil, {}, "wants to call exec when it is read"),
    (old_evil, {}, "holds more than plain tensors"),
    (torn, {}, "no checkpoint of torch"),
    (other_head, {}, "has 5 outputs, but the folder has 3 classes"),
    (other_network, {}, r"lacks 3.weight; it has beside them extra.weight; it has in another shape 0.bias \(2,\) instead of \(8,\)"),
    (no_tensors, {}, "holds no tensors by name"),
    (not_finite, {}, "0.weight in .* is not finite"),
    (file_in_the_way, {}, "a file stands in its way"),
    (fewer_others, {}, "five are the fewest"),
    (nothing, {"model": "nets:raising"}, "could not be called .RuntimeError: no weather today"),
    (nothing, {"model": "nets:nothing"}, "returned a str and no torch.nn.Module"),
    (nothing, {"model": "nets:missing"}, "AttributeError"),
    (nothing, {"model": "nets:crooked", "weights": None}, "its layer late raised RuntimeError"),
    (nothing, {"model": "resnet81"}, "Unknown model 'resnet81'; did you mean resnet18"),
    (nothing, {"model": "resnet18", "weights": None}, "no weights of yours"),
    (nothing, {"size": None}, "--size 224"),
    (nothing, {"normalise": None}, "--normalise imagenet"),
    (nothing, {"normalise": "0.5/x"}, "nor numbers by channel"),
    (nothing, {"data": Path("/no/such")}, "There is no folder"),
    (nothing, {"weights": Path("/no/such.pt")}, "/no/such.pt is not there"),
    (nothing, {"weights": Path("/")}, "/ is a folder; name the file"),
    (nothing, {"keep": 0.5, "max_drop": 2.0}, "exclude each other"),
    (nothing, {"target_macs": "much"}, "--target-macs 'much'"),
    (nothing, {"target_macs": "0.01"}, "cannot be reached"),
    (nothing, {"keep": 2.0}, "keep=2.0"),
    (nothing, {"method": "magic"}, "no method 'magic'"),
]


@pytest.mark.parametrize("harm, changes, sentence", BAD, ids=[sentence[:30] for _, _, sentence in BAD])
def test_bad_input_is_said_in_one_sentence_and_nothing_is_written(trees, checkpoint, harm, changes, sentence):
    harm(trees, checkpoint)
    with pytest.raises(InputError, match=sentence) as refusal:
        job.run(ask(trees, checkpoint, **changes), say=lambda _: None)
    assert "\n" not in str(refusal.value) and str(refusal.value)[-1] in ".?"
    assert not list((trees / "out").glob("*")) if (trees / "out").is_dir() else True


@pytest.mark.parametrize("words, share", [("0.5", 0.5), ("50%", 0.5), (" 62.5% ", 0.625), ("1", 1.0)])
def test_a_share_is_a_number_or_percent(words, share):
    assert choose.share(words) == share


@pytest.mark.parametrize("words", ["", "half", "0,5", "-1", "50 %%", "nan"])
def test_what_is_no_share_is_refused(words):
    with pytest.raises(InputError, match="write 0.5 or 50%"):
        choose.share(words)


def test_plain_tensors_come_out_of_any_wrapping(tmp_path):
    state = tiny(3).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    torch.save({"model": {"net": {f"_orig_mod.module.{k}": v for k, v in state.items()}}, "best": 0.9}, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        found, _ = weights.read(tmp_path / name)
        found, prefix = weights.without_prefix(found, set(state))
        assert found.keys() == state.keys() and prefix == ("" if "safe" in name else "_orig_mod.module.")


def test_the_normalisation_is_the_networks_own(monkeypatch):
    view = network.view_of("resnet18", None, {})
    assert (view["size"], view["mean"][0], round(view["margin"], 3)) == (224, 0.485, round(256 / 224, 3))
    model = tiny(3)
    model.pretrained_cfg = {"mean": (0.1, 0.2, 0.3), "std": (1, 1, 1), "input_size": (3, 20, 20), "crop_pct": 0.8}
    assert network.view_of("nets:tiny", model, {}) == {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "margin": 1.25, "size": 20}


# --- measures and the page -----------------------------------------------------------------------------
def test_intervals_hold_the_share_and_shrink():
    assert measure.wilson(0, 0) == (0.0, 100.0) and measure.wilson(10, 10)[1] == pytest.approx(100)
    wide, narrow = measure.wilson(8, 10), measure.wilson(800, 1000)
    assert wide[0] < narrow[0] < 80 < narrow[1] < wide[1]


def test_cross_validation_never_tests_a_student_on_what_it_saw():
    labels, seen = torch.tensor([0] * 5 + [1] * 3 + [2]), []
    parts = measure.folds(labels, len(labels), 3)
    few = torch.arange(len(labels)).float().view(-1, 1, 1, 1)

    def fit(held):
        known = few[~held].flatten()

        def model(x):
            seen.extend(x.flatten().tolist())
            assert not set(x.flatten().tolist()) & set(known.tolist())
            return torch.zeros(len(x), 3)
        return model

    assert len(measure.cross_validated(few, parts, fit, lambda x: x)) == 9 and sorted(seen) == list(range(9))
    assert all(len(labels[(parts == fold) & (labels == 0)]) in (1, 2) for fold in range(3))


def test_what_a_user_names_is_escaped_in_the_page(trees, checkpoint):
    (trees / "data/train/cedar").rename(trees / "data/train/<script>")
    (trees / "data/val/cedar").rename(trees / "data/val/<script>")
    job.run(ask(trees, checkpoint), say=lambda _: None)
    page = (trees / "out/report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page


def test_the_advice_follows_the_figures():
    share = measure.share
    card = {"cost": {"teacher": {"macs": 100, "bytes": 100}, "student": {"macs": 50, "bytes": 40}}, "counts": {"a": 3, "b": 0},
            "latency_ms": {"1": {"teacher": [1, 2, 3], "student": [1, 1.99, 3]}},
            "tested": {"student": share(torch.arange(20) < 10), "teacher": share(torch.arange(20) < 19), "lost": 9, "won": 0}}
    said = " ".join(report.advice(card))
    assert "not faster" in said and "a loss you would notice" in said and "shows b" in said and "Hold 200" in said
    card["latency_ms"]["1"]["student"] = [1, 1, 3]
    card["tested"] |= {"lost": 0}
    said = " ".join(report.advice(card))
    assert "takes 50 % of the teacher's time" in said and "would notice" not in said


# --- a teacher for grids -------------------------------------------------------------------------------
def test_an_imported_teacher_has_a_card_and_serves_a_run(trees, checkpoint, monkeypatch):
    monkeypatch.setenv("OEFSMC_DATA", str(trees / "cache"))
    arguments = ["teacher", "import", "--data", str(trees / "data"), "--model", "nets:tiny", "--weights", str(checkpoint),
                 "--normalise", "half", "--size", "16"]
    (trees / "data/train/ash/torn.png").unlink()
    photograph(7).save(trees / "data/train/cedar/7.png")                  # a data set of a grid shows every class
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    card = next(iter(teachers.available()))
    assert "problem" not in card and card["imported"] and 0 <= card["test_accuracy"] <= 1
    made = teachers.load("nets:tiny", 1.0, f"folder:{trees / 'data'}", 3, 3, 16)
    assert made.architecture.build()[0].out_channels == 8 and f"{100 * card['test_accuracy']:.2f}" in done.output
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, InputError) and "there already" in str(again.exception)
