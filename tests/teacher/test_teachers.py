"""Teachers: trained, saved, refused when anything about them is wrong, resumed bit for bit."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import numbers
from torch import nn

from oefsmc_lib import files
from oefsmc_lib.errors import InputError
from oefsmc_lib.images import sets
from oefsmc_lib.images.views import augment
from oefsmc_lib.teacher import teachers, training
from oefsmc_lib.teacher.networks import Architecture

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "teachers"
NAME = "vgg16-w0.0625_mnist5k"
TINY = ("vgg16", 0.0625, "mnist5k", 3, 1, 32)              # load's arguments


def tiny(name="mnist5k", split="train", *, image_size=None, skip_broken=False):
    """Three classes that differ in brightness."""
    labels = torch.arange(96) % 3
    images = torch.from_numpy(numbers("tiny", split).randint(0, 80, (96, 1, 32, 32))) + 80 * labels.view(-1, 1, 1, 1)
    return sets.ImageSet(name, images.to(torch.uint8), labels, ("a", "b", "c"), "0123456789ab")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("OEFSMC_DATA", str(tmp_path))
    monkeypatch.setattr(sets, "load", tiny)
    monkeypatch.setitem(training.RECIPES, "mnist5k", training.Recipe(epochs=3, lr=0.05, batch=16, augment="shift"))
    return tmp_path / "teachers"


def rewrite(home, change, fix_checksum=True):
    """Change the tensors of a trained teacher, and its card so that only they are wrong."""
    weights = safetensors.torch.load_file(home / f"{NAME}.safetensors")
    change(weights)
    content = safetensors.torch.save(weights)
    (home / f"{NAME}.safetensors").write_bytes(content)
    if fix_checksum:
        card = json.loads((home / f"{NAME}.json").read_text())
        (home / f"{NAME}.json").write_text(json.dumps(card | {"sha256": hashlib.sha256(content).hexdigest()}))


# --- training and loading ----------------------------------------------------------------------
def test_the_embedded_teacher_is_trained_unasked_and_kept(home, monkeypatch):
    teacher = teachers.load(*TINY)
    assert sorted(path.name for path in home.glob("[!.]*")) == [f"{NAME}.json", f"{NAME}.safetensors"]
    monkeypatch.setattr(training, "fit", None)             # a second training would fail
    again = teachers.load(*TINY)
    assert again.sha256 == teacher.sha256 == hashlib.sha256((home / f"{NAME}.safetensors").read_bytes()).hexdigest()
    assert not again.model.training and not any(p.requires_grad for p in again.model.parameters())
    assert {p.dtype for p in again.model.parameters()} == {torch.float32}


def test_the_card_tells_what_the_file_holds(home):
    teacher = teachers.train("mnist5k", "vgg16", 0.0625)
    card = teacher.card
    assert (card["width"], card["channels"], card["image_size"], card["classes"]) == (0.0625, 1, 32, 3)
    assert card["test_accuracy"] == teachers.accuracy(teacher, tiny(split="test"))
    assert teachers.check(NAME) == card and teachers.check(NAME, evaluate=True)["measured"] == card["test_accuracy"]
    assert "3 epochs" in card["recipe"] and "nothing selected on test images" in card["recipe"]
    weights = safetensors.torch.load_file(home / f"{NAME}.safetensors")
    assert {tensor.dtype for tensor in weights.values() if tensor.ndim > 1} == {torch.float16}
    assert {tensor.dtype for tensor in weights.values() if tensor.ndim <= 1} == {torch.float32}
    assert not any("num_batches_tracked" in key for key in weights)


def test_training_learns(home, monkeypatch):
    """A linear model of the mean brightness, since its loss is convex: any first weights lead to the end that tells the
    three classes apart. So narrow a VGG takes two classes for one with every other draw of first weights."""
    monkeypatch.setattr(Architecture, "build", lambda self: nn.Sequential(
        nn.AvgPool2d(32), nn.Flatten(), nn.Linear(1, self.classes)))
    assert teachers.train("mnist5k", "vgg16", 0.0625, lr=0.1, epochs=30).card["test_accuracy"] > 0.9


def test_images_are_normalised_by_the_card(home):
    teacher, images = teachers.train("mnist5k", "vgg16", 0.0625), tiny().images
    x = teacher.normalise(images)
    assert x.dtype == torch.float32 and abs(x.mean()) < 1e-3 and abs(x.std(correction=0) - 1) < 1e-3
    expected = (images.double() / 255 - teacher.card["mean"][0]) / teacher.card["std"][0]
    assert torch.allclose(x.double(), expected, atol=1e-5)
    assert images.dtype == torch.uint8 and images.max() > 1                # the images are as they were


def test_test_images_are_read_once_after_training(home, monkeypatch):
    asked = []

    class Watched(sets.ImageSet):
        def batches(self, size):
            asked.append("batches")
            return super().batches(size)

        def take(self, indices):
            raise AssertionError("a test image was drawn")

    def load(name, split, **settings):
        images = tiny(name, split)
        return Watched(**vars(images)) if split == "test" else images

    monkeypatch.setattr(sets, "load", load)
    monkeypatch.setattr(training, "fit", lambda *a, fit=training.fit: (fit(*a), asked.append("fitted"))[0])
    teachers.train("mnist5k", "vgg16", 0.0625)
    assert asked == ["fitted", "batches"]


def test_seeds_give_different_teachers_and_one_seed_the_same(home):
    sha = [teachers.train("mnist5k", "vgg16", 0.0625, seed=seed, epochs=1).sha256 for seed in (0, 0, 1)]
    assert sha[0] == sha[1] != sha[2]


def test_training_leaves_the_callers_random_numbers_alone(home):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    teachers.train("mnist5k", "vgg16", 0.0625, epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_a_training_that_diverges_is_refused(home):
    with pytest.raises(InputError, match="diverged in epoch 1 .*below lr=1e.30"):
        teachers.train("mnist5k", "vgg16", 0.0625, lr=1e30)
    assert not teachers.exists(NAME)


def test_rate_rises_then_falls_to_zero():
    recipe = training.Recipe(lr=0.1, warmup=0.2)
    rates = [training.rate(step, 100, recipe) for step in range(100)]
    assert rates[0] == pytest.approx(0.005) and max(rates) == rates[19] == pytest.approx(0.1)
    assert rates[19:] == sorted(rates[19:], reverse=True) and 0 < rates[-1] < 0.002


def test_shift_moves_each_image_onto_black():
    images = torch.zeros(200, 1, 9, 9, dtype=torch.uint8)
    images[:, 0, 4, 4] = 255
    moved = augment(images, "shift", torch.Generator().manual_seed(0))
    assert moved.dtype == torch.uint8 and (moved.flatten(1).sum(1) == 255).all()
    spots = {tuple(spot[1:].tolist()) for spot in moved[:, 0].nonzero()}
    assert spots == {(row, column) for row in range(2, 7) for column in range(2, 7)}


# --- interrupted -------------------------------------------------------------------------------
class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [1, 2, 3])
def test_interrupted_and_resumed_equals_uninterrupted(after, home, monkeypatch):
    whole = teachers.train("mnist5k", "vgg16", 0.0625)
    shutil.rmtree(home)
    writes = []

    def killed(path, content):
        files.write_whole(path, content)
        writes.append(path)
        if len(writes) == after:
            raise Killed

    monkeypatch.setattr(training, "write_whole", killed)
    with pytest.raises(Killed):
        teachers.train("mnist5k", "vgg16", 0.0625)
    assert not teachers.exists(NAME) and (home / f"{NAME}.partial.safetensors").is_file()
    epochs = []
    monkeypatch.setattr(training, "_epoch", lambda *a, run=training._epoch: (epochs.append(a[5]), run(*a))[1])
    resumed = teachers.train("mnist5k", "vgg16", 0.0625)
    assert epochs == list(range(after, 3))                 # what was done is not done again
    assert resumed.sha256 == whole.sha256 and resumed.card == whole.card
    assert not (home / f"{NAME}.partial.safetensors").exists()


@pytest.mark.parametrize("fault, said", [("other recipe", "another training"), ("cut off", "cannot be read")])
def test_a_checkpoint_that_does_not_fit_is_named_and_left(fault, said, home, monkeypatch):
    whole = teachers.train("mnist5k", "vgg16", 0.0625)
    monkeypatch.setattr(Path, "unlink", lambda *a, **k: None)              # the checkpoint stays
    teachers.train("mnist5k", "vgg16", 0.0625, seed=1)
    monkeypatch.undo()
    monkeypatch.setenv("OEFSMC_DATA", str(home.parent))
    monkeypatch.setattr(sets, "load", tiny)
    monkeypatch.setitem(training.RECIPES, "mnist5k", training.Recipe(epochs=3, lr=0.05, batch=16, augment="shift"))
    checkpoint = home / f"{NAME}.partial.safetensors"
    if fault == "cut off":
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=said):
        assert teachers.train("mnist5k", "vgg16", 0.0625).sha256 == whole.sha256


def test_a_kill_between_weights_and_card_leaves_no_teacher(home, monkeypatch):
    whole = teachers.train("mnist5k", "vgg16", 0.0625)

    def killed(path, content):
        if path.suffix == ".json":
            raise Killed
        files.write_whole(path, content)

    monkeypatch.setattr(teachers, "write_whole", killed)
    with pytest.raises(Killed):
        teachers.train("mnist5k", "vgg16", 0.0625, seed=1)
    assert not teachers.exists(NAME)                       # no old card beside new weights
    monkeypatch.setattr(teachers, "write_whole", files.write_whole)
    with pytest.warns(UserWarning, match="another training"):              # seed 1's
        assert teachers.load(*TINY).sha256 == whole.sha256


CHILD = """
from oefsmc_lib.images import sets
from oefsmc_lib.teacher import teachers, training
from tests.teacher.test_teachers import TINY, tiny
sets.load = tiny
training.RECIPES["mnist5k"] = training.Recipe(epochs=3, lr=0.05, batch=16, augment="shift")
fit = training.fit
training.fit = lambda *a: print("trained") or fit(*a)
print(teachers.load(*TINY).sha256)
"""


def test_two_processes_train_an_embedded_teacher_once(home):
    children = [subprocess.Popen([sys.executable, "-c", CHILD], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                                 env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}) for _ in range(2)]
    said = [child.communicate()[0].split() for child in children]
    assert sorted(map(len, said)) == [1, 2] and said[0][-1] == said[1][-1]


HOLDER = """
import sys, time
from pathlib import Path
from oefsmc_lib.files import alone
with alone(Path(sys.argv[1]), ""):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_waits_for_another_process_and_a_killed_one_leaves_no_lock(tmp_path, capsys):
    path = tmp_path / ".teacher.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    threading.Timer(0.5, holder.kill).start()
    with files.alone(path, "waiting for it"):
        assert holder.wait(timeout=10) != 0
    assert capsys.readouterr().err == "waiting for it\n"
    with files.alone(path, "waiting for it"):
        assert not capsys.readouterr().err


def test_a_folder_without_locks_is_refused(tmp_path):
    with pytest.raises(InputError, match="Cannot lock .*OEFSMC_DATA"), files.alone(tmp_path, ""):
        pass                                               # a folder in the lock's place


# --- refused -----------------------------------------------------------------------------------
@pytest.mark.parametrize("asked, command", [
    (("vgg16", 1.0, "cifar10", 10, 3, 32), "oefsmc teacher train dataset=cifar10 model=vgg16 width=1`"),
    (("resnet34", 1.0, "tiny-imagenet", 200, 3, 64), "oefsmc teacher train dataset=tiny-imagenet model=resnet34 width=1`"),
    (("vgg16", 0.5, "cifar10", 10, 3, 64), "dataset=cifar10 model=vgg16 width=0.5 image_size=64`"),
    (("resnet32", 1.0, "folder:/some/where", 5, 3, 32), "dataset=folder:/some/where model=resnet32 width=1 image_size=32`")])
def test_a_missing_teacher_is_refused_with_its_command(asked, command, home):
    with pytest.raises(InputError) as refused:
        teachers.load(*asked)
    assert command in str(refused.value) and str(home) in str(refused.value) and not home.exists()


def test_folders_of_one_name_have_their_own_teachers():
    one, two = (teachers.name_of("vgg16", 1, f"folder:/{place}/my cats") for place in ("a", "b"))
    assert one != two and one.startswith("vgg16_folder-my-cats-") and "/" not in one


def test_a_wrong_checksum_is_refused(home):
    teachers.train("mnist5k", "vgg16", 0.0625, epochs=1)
    rewrite(home, lambda weights: weights["classifier.bias"].add_(1), fix_checksum=False)
    with pytest.raises(InputError, match=f"checksum of .*{NAME}.safetensors is .*card says"):
        teachers.load(*TINY)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value, home):
    teachers.train("mnist5k", "vgg16", 0.0625, epochs=1)
    rewrite(home, lambda weights: weights["features.3.weight"].view(-1)[2:3].fill_(value))
    with pytest.raises(InputError, match="tensor features.3.weight of .* is not finite"):
        teachers.load(*TINY)


@pytest.mark.parametrize("change, named", [
    (lambda w: w.pop("classifier.bias"), "classifier.bias of .* is missing"),
    (lambda w: w.update(extra=torch.zeros(1)), "extra of .* does not belong"),
    (lambda w: w.update({"classifier.bias": torch.zeros(4)}), r"classifier.bias of .* shape \(4,\) instead of \(3,\)")])
def test_weights_that_do_not_fit_are_refused_by_name(change, named, home):
    teachers.train("mnist5k", "vgg16", 0.0625, epochs=1)
    rewrite(home, change)
    with pytest.raises(InputError, match=named):
        teachers.load(*TINY)


def test_weights_of_another_format_are_refused(home):
    teachers.train("mnist5k", "vgg16", 0.0625, epochs=1)
    (home / f"{NAME}.safetensors").write_bytes(b"PK" * 50)
    card = json.loads((home / f"{NAME}.json").read_text())
    (home / f"{NAME}.json").write_text(json.dumps(card | {"sha256": hashlib.sha256(b"PK" * 50).hexdigest()}))
    with pytest.raises(InputError, match="no safetensors file"):
        teachers.load(*TINY)


@pytest.mark.parametrize("change, named", [({"std": [0.0]}, "std.0"), ({"mean": [0.1, 0.2]}, "mean and std need 1"),
                                           ({"sha256": None}, "sha256"), ({"classes": "ten"}, "classes")])
def test_a_wrong_card_is_refused(change, named, home):
    teachers.train("mnist5k", "vgg16", 0.0625, epochs=1)
    path = home / f"{NAME}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=f"card .*{NAME}.json is not valid .*{named}"):
        teachers.load(*TINY)
    path.write_text("{")
    with pytest.raises(InputError, match="is not valid"):
        teachers.load(*TINY)


@pytest.mark.parametrize("place, value, field", [(3, 10, "classes=3"), (4, 3, "channels=1"), (5, 64, "image_size=32")])
def test_a_teacher_for_other_images_is_refused(place, value, field, home):
    teachers.train("mnist5k", "vgg16", 0.0625, epochs=1)
    asked = list(TINY)
    asked[place] = value
    with pytest.raises(InputError, match=f"has {field}, but mnist5k needs .*{value}"):
        teachers.load(*asked)


def test_available_lists_cards_and_what_is_wrong_with_them(home):
    (shipped,) = teachers.available()
    teachers.train("mnist5k", "vgg16", 0.0625, epochs=1)
    (home / "broken_cifar10.json").write_text("{")
    shutil.copy(home / f"{NAME}.json", home / "alone_mnist5k.json")
    found = {card["name"]: card.get("problem") for card in teachers.available()}
    assert list(found) == ["alone_mnist5k", "broken_cifar10", NAME, shipped["name"]] and found[NAME] is None
    assert "is missing" in found["alone_mnist5k"] and "not valid" in found["broken_cifar10"]


# --- real ones ---------------------------------------------------------------------------------
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared teachers are not on this machine")
@pytest.mark.parametrize("asked", [("vgg16", 1.0, "cifar10", 10, 3, 32), ("resnet32", 1.0, "cifar100", 100, 3, 32)])
def test_older_cards_are_read_with_their_defaults(asked, tmp_path, monkeypatch):
    monkeypatch.setenv("OEFSMC_DATA", str(tmp_path))
    (tmp_path / "teachers").symlink_to(SHARED)
    teacher = teachers.load(*asked)
    assert teacher.architecture == Architecture(asked[0], *asked[3:5], *asked[1:2], asked[5])
    assert teacher.model(teacher.normalise(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))).shape == (2, asked[3])


SHIPPED, SHIPPED_NAME = ("vgg16", 0.25, "mnist5k", 10, 1, 32), "vgg16-w0.25_mnist5k"


def test_the_embedded_profiles_teacher_comes_with_the_library(tmp_path, monkeypatch):
    monkeypatch.setenv("OEFSMC_DATA", str(tmp_path))
    monkeypatch.setattr(training, "fit", None)             # a training would fail
    teacher = teachers.load(*SHIPPED)
    (card,) = teachers.available()
    found = teachers.check(card["name"], evaluate=True)
    assert found["measured"] == pytest.approx(found["test_accuracy"], abs=0.003) and "problem" not in card
    assert found["recipe"] == str(training.RECIPES["mnist5k"])          # what would train it anew
    assert found["data_fingerprint"] == sets.load("mnist5k", "train").fingerprint
    assert all(weight.dtype == torch.float16 for weight in safetensors.torch.load_file(
        teachers.place(SHIPPED_NAME) / f"{SHIPPED_NAME}.safetensors").values() if weight.ndim > 1)
    assert teacher.sha256 == card["sha256"] and not list(tmp_path.iterdir())       # nothing is written


def test_a_teacher_of_ones_own_comes_before_the_librarys(tmp_path, monkeypatch):
    monkeypatch.setenv("OEFSMC_DATA", str(tmp_path))
    own = teachers.train("mnist5k", "vgg16", 0.25, epochs=0)
    assert teachers.load(*SHIPPED).sha256 == own.sha256
    assert [card["sha256"] for card in teachers.available()] == [own.sha256]


@pytest.mark.parametrize("left", ["json", "safetensors", "partial.safetensors"])
def test_a_card_weights_or_a_checkpoint_alone_are_ones_own_too(left, tmp_path, monkeypatch):
    monkeypatch.setenv("OEFSMC_DATA", str(tmp_path))
    assert teachers.exists(SHIPPED_NAME)
    (tmp_path / "teachers").mkdir()
    (tmp_path / "teachers" / f"{SHIPPED_NAME}.{left}").touch()
    assert not teachers.exists(SHIPPED_NAME) and "problem" in teachers.available()[0]   # so it is trained, or trained to its end


def test_another_size_is_refused_with_a_command_that_trains_it(tmp_path, monkeypatch):
    monkeypatch.setenv("OEFSMC_DATA", str(tmp_path))
    with pytest.raises(InputError, match="image_size=32, but mnist5k needs 48; train another in its place with `.*image_size=48 --again`"):
        teachers.load(*SHIPPED[:5], 48)


@pytest.mark.slow
def test_the_recipe_trains_a_good_embedded_teacher(tmp_path, monkeypatch):
    monkeypatch.setenv("OEFSMC_DATA", str(tmp_path))
    assert teachers.train("mnist5k", "vgg16", 0.25).card["test_accuracy"] >= 0.98
