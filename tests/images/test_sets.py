"""Every set by one call: names, fingerprints, counts, sizes, and what a person asks for."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_images import (
    WNIDS,
    cifar_arrays,
    imagenet,
    mark,
    picture,
    pixels,
    published_tiny_imagenet,
    save,
    save_batches,
    sentence,
    tree,
    truncate,
)

from oefsmc_lib.images import cifar, embedded, folders, npz, sets
from oefsmc_lib.images.sources import SOURCES

REAL = os.environ.get("OEFSMC_TEST_DATA")
needs_real_data = pytest.mark.skipif(not REAL, reason="OEFSMC_TEST_DATA names no folder of real image sets")

pytestmark = pytest.mark.usefixtures("home")


def test_import_loads_no_heavy_package_and_touches_no_disk(tmp_path):
    code = ("import sys, oefsmc_lib.images.sets; print([m for m in ('torchvision', 'sklearn', 'mlxtend', 'PIL', "
            "'scipy', 'pandas') if m in sys.modules])")
    absent = tmp_path / "absent"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                             env=os.environ | {"OEFSMC_DATA": str(absent),
                                               "PYTHONPATH": str(Path(sets.__file__).parents[2])})
    assert printed.stdout.strip() == "[]" and not absent.exists()


# --- ImageSet ----------------------------------------------------------------------------------
def test_image_set_is_chw_contiguous_and_takes_in_order(home):
    arrays = save(home)
    images = sets.load("cifar10", "train")
    assert images.images.dtype == torch.uint8 and images.images.is_contiguous()
    assert images.labels.dtype == torch.int64 and images.num_classes == 10 and images.shape == (3, 32, 32)
    assert np.array_equal(images.images.permute(0, 2, 3, 1), arrays["x_train"])
    for indices in ([5, 2, 5], torch.tensor([5, 2, 5]), np.array([5, 2, 5])):
        assert torch.equal(images.take(indices), images.images[[5, 2, 5]])
    assert torch.equal(images.take(images.labels == 3), images.images[images.labels == 3])
    assert images.take([]).shape == (0, 3, 32, 32)


def test_batches_cover_everything_once_in_order(home):
    save(home)
    images = sets.load("cifar10", "train")
    parts = list(images.batches(8))
    assert [len(x) for x, _ in parts] == [8, 8, 4]
    assert torch.equal(torch.cat([x for x, _ in parts]), images.images)
    assert torch.equal(torch.cat([y for _, y in parts]), images.labels)


# --- fingerprints ------------------------------------------------------------------------------
@pytest.mark.parametrize("change", ["pixel", "label", "test pixel"])
def test_fingerprint_follows_every_pixel_and_label(home, change):
    arrays = save(home)
    before = mark("cifar10")
    key = {"pixel": "x_train", "label": "y_train", "test pixel": "x_test"}[change]
    arrays[key] = arrays[key].copy()
    arrays[key].flat[7] = (int(arrays[key].flat[7]) + 1) % 10
    np.savez(home / "cifar10.npz", **arrays)
    assert mark("cifar10") != before


def test_fingerprint_depends_on_image_size_only_where_it_changes_pixels(home):
    save(home)
    assert mark("cifar10", image_size=32) == mark("cifar10") != mark("cifar10", image_size=16)
    small = sets.load("cifar10", "train", image_size=16)
    assert small.shape == (3, 16, 16) and small.fingerprint != sets.load("cifar10", "train").fingerprint


# --- bad npz, bad names ------------------------------------------------------------------------
@pytest.mark.parametrize("name, near", [("cifar01", "cifar10"), ("texture", "textures"), ("folder:", "folder:PATH"),
                                        ("tinyimagenet", "tiny-imagenet"), ("zzz", "oefsmc doctor")])
def test_unknown_name_gives_the_nearest(name, near):
    for call in (lambda: sets.load(name, "train"), lambda: sets.class_counts(name), lambda: sets.locate(name),
                 lambda: sets.get(name), lambda: sets.check(name)):
        sentence(call, repr(name), near)


@pytest.mark.parametrize("name, command", [("cifar10", "oefsmc data get cifar10"), ("imagenet", "train/<wnid>/ and val/<wnid>/"),
                                           ("cifar100", "oefsmc data get cifar100"), ("scenes", "scenes.npz"),
                                           ("textures", "textures.npz"), ("tiny-imagenet", "curl")])
def test_missing_set_says_where_it_looked_and_the_command(home, name, command):
    for call in (lambda: sets.load(name, "train"), lambda: sets.check(name)):
        sentence(call, name, home, command)


def test_missing_data_folder_is_said(home):
    home.rmdir()
    sentence(lambda: sets.load("cifar10", "train"), home, "does not exist", "oefsmc data get cifar10")


def test_split_that_does_not_exist(home):
    save(home)
    sentence(lambda: sets.load("cifar10", "val"), "'val'", "train and test")
    save(home, "scenes", drop=("x_test", "y_test"), y_train=np.arange(20) % 6)
    sentence(lambda: sets.load("scenes", "test"), "scenes", "only train")


# --- images of each class ------------------------------------------------------------------------
def own_npz_beside_the_tree(home):
    published_tiny_imagenet(home)
    save(home, "tiny-imagenet", class_names=np.array([f"class-{j}" for j in range(10)]))


def unclean(home):
    root = tree(home / "unclean", ("train",), classes=("cat", "dog", "emu"))
    for name in ("notes.txt", ".DS_Store", "._0.png", ".hidden.png"):
        (root / "train" / "cat" / name).write_bytes(b"no image")
    picture(root / "train" / ".ipynb_checkpoints" / "0.png")
    picture(root / "train" / "dog" / "deeper" / "0.png", color=(1, 2, 3))


MADE = {                                                   # name -> what makes it in the data folder
    **dict.fromkeys(embedded.SETS, lambda home: None), "cifar10": save, "imagenet": imagenet,
    # three classes have none
    "scenes": lambda home: np.savez(home / "scenes.npz", x_train=pixels(9), y_train=np.arange(9) % 3),
    "cifar10 batches": lambda home: None, "tiny-imagenet": published_tiny_imagenet,
    "tiny-imagenet npz": own_npz_beside_the_tree, "folder:unclean": unclean}


@pytest.mark.parametrize("source", MADE)
def test_counts_agree_with_the_labels_and_cost_no_pixels(home, monkeypatch, source):
    MADE[source](home)
    if source == "cifar10 batches":
        save_batches(home, monkeypatch, cifar_arrays())
    name = source.split()[0].replace("folder:", f"folder:{home}/")
    before = sorted(home.rglob("*"))
    with monkeypatch.context() as blind:
        blind.setattr(folders, "decode", lambda *_: pytest.fail("an image was decoded"))
        counts = sets.class_counts(name)
        assert sorted(home.rglob("*")) == before           # nothing was written
    images = sets.load(name, "train")
    assert counts == list(zip(images.class_names, torch.bincount(images.labels, minlength=images.num_classes).tolist()))
    assert sets.class_counts(name) == counts               # from the cache too


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=10, max_size=10).filter(any), st.randoms())
def test_counts_are_those_of_any_labels(wanted, random):
    labels = [label for label, count in enumerate(wanted) for _ in range(count)]
    random.shuffle(labels)
    save(Path(os.environ["OEFSMC_DATA"]), x_train=pixels(len(labels)), y_train=np.array(labels))
    assert [count for _, count in sets.class_counts("cifar10")] == wanted
    assert torch.bincount(sets.load("cifar10", "train").labels, minlength=10).tolist() == wanted


def test_counts_read_the_labels_alone(home):
    save(home)
    path = home / "cifar10.npz"
    content = bytearray(path.read_bytes())
    content[5000] ^= 255                                   # a pixel: reading the images would fail their checksum
    path.write_bytes(content)
    assert sets.class_counts("cifar10") == [(name, 2) for name in SOURCES["cifar10"].classes.split()]


def test_counts_of_a_set_that_is_not_here_are_none(home, tmp_path):
    assert [sets.class_counts(name) for name in ("cifar10", "imagenet", f"folder:{tmp_path / 'absent'}")] == [None] * 3


def test_counts_of_a_faulty_set_are_refused(home, tmp_path):
    sentence(lambda: sets.class_counts("texture"), "did you mean textures")
    for changes, words in (({"drop": ("y_train",)}, ["no array y_train"]), ({"y_train": np.zeros(20)}, ["integers"]),
                           ({"y_train": np.arange(20)}, ["10 classes"]), ({"y_train": np.zeros(0, int)}, ["0 images"])):
        save(home, **changes)
        sentence(lambda: sets.class_counts("cifar10"), home / "cifar10.npz", *words)
    (home / "cifar10.npz").write_bytes(b"no zip")
    sentence(lambda: sets.class_counts("cifar10"), home / "cifar10.npz", "no npz archive")
    picture(tmp_path / "flat" / "cat" / "0.png")
    sentence(lambda: sets.class_counts(f"folder:{tmp_path / 'flat'}"), "no folder train")


def test_a_broken_image_counts_until_it_has_been_read(home):
    root = published_tiny_imagenet(home)
    truncate(picture(root / "train" / WNIDS[0] / "images" / "x.JPEG", size=(64, 64)))
    assert sets.class_counts("tiny-imagenet")[0] == ("goldfish", 3)
    sets.load("tiny-imagenet", "train", skip_broken=True)
    assert sets.class_counts("tiny-imagenet")[0] == ("goldfish", 2)


# --- fit ---------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(st.sampled_from([1, 3]), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]),
       st.integers(1, 40), st.integers(1, 40), st.integers(0, 3))
def test_fit_gives_the_shape_asked_for(channels, height, width, to_channels, to_height, to_width, count):
    images = torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8)
    fitted = sets.fit(images, (to_channels, to_height, to_width))
    assert fitted.shape == (count, to_channels, to_height, to_width)
    assert fitted.dtype == torch.uint8 and fitted.is_contiguous()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 255), st.sampled_from([1, 3]), st.sampled_from([1, 3]), st.integers(2, 50), st.integers(2, 50))
def test_fit_keeps_a_plain_gray_exactly(value, channels, to_channels, height, width):
    images = torch.full((1, channels, 20, 30), value, dtype=torch.uint8)
    assert set(sets.fit(images, (to_channels, height, width)).unique().tolist()) == {value}


def test_fit_leaves_what_fits_alone():
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert sets.fit(images, (3, 8, 8)) is images


def test_fit_colours_and_crop():
    red = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    red[:, 0] = 255
    assert sets.fit(red, (1, 4, 4)).unique().tolist() == [76]            # 0.299 * 255
    gray = torch.randint(0, 256, (1, 1, 4, 4), dtype=torch.uint8)
    assert torch.equal(sets.fit(gray, (3, 4, 4)), gray.expand(1, 3, 4, 4))
    wide = torch.zeros(1, 1, 4, 12, dtype=torch.uint8)
    wide[..., 4:8] = 9
    assert sets.fit(wide, (1, 4, 4)).unique().tolist() == [9]


def test_fit_averages_when_shrinking():
    stripes = torch.tensor([0, 200, 200, 0] * 4, dtype=torch.uint8).expand(1, 1, 16, 16)
    small = sets.fit(stripes, (1, 4, 4))
    assert (small.int() - 100).abs().max() < 50            # without antialiasing it would be 200


def test_fit_refuses_other_channels():
    with pytest.raises(ValueError, match="2"):
        sets.fit(torch.zeros(1, 2, 4, 4, dtype=torch.uint8), (3, 4, 4))


# --- sources, get, check -----------------------------------------------------------------------
def test_sources_say_what_is_found_and_read_no_pixels(home, monkeypatch):
    save(home)
    for room, reader in ((npz, "read"), (folders, "decode"), (cifar, "read")):
        monkeypatch.setattr(room, reader, lambda *_: pytest.fail("pixels were read"))
    rows = {row["name"]: row for row in sets.sources()}
    assert set(SOURCES) | {"folder:PATH"} == set(rows)
    assert all(row["description"] for row in rows.values())
    assert rows["cifar10"]["found"] and rows["cifar10"]["where"] == str(home / "cifar10.npz")
    assert not rows["cifar100"]["found"] and str(home) in rows["cifar100"]["where"]
    assert all(row["found"] or row["command"] or "no command can fetch it" in row["way"] for row in rows.values())
    assert not any("/path/to" in row["command"] for row in rows.values())        # a command works as it is
    assert rows["mnist5k"]["found"] and rows["noise-blob"]["found"]


def test_every_made_set_has_a_function_and_a_record():
    assert set(embedded.SETS) == {name for name, source in SOURCES.items() if source.reads == "made"}
    assert all(source.reads in ("made", "cifar", "npz", "tree", "lazy") for source in SOURCES.values())


def test_get_of_the_others(home, tmp_path):
    assert sets.get("mnist5k") and sets.get("photos")
    for name in ("scenes", "textures", "imagenet", "tiny-imagenet", "folder:" + str(tmp_path / "absent")):
        sentence(partial(sets.get, name))
    published_tiny_imagenet(home)
    assert sets.get("tiny-imagenet") == str(home / "tiny-imagenet.npz")


def test_check_reports_counts(home):
    save(home)
    report = sets.check("cifar10")
    assert report["fingerprint"] == mark("cifar10") and report["where"] == str(home / "cifar10.npz")
    assert report["splits"]["test"] == {"images": 10, "shape": (3, 32, 32), "classes": 10, "fewest": 1, "most": 1,
                                        "broken": 0, "unread": 0, "fingerprint": sets.load("cifar10", "test").fingerprint}
    assert set(sets.check("photos")["splits"]) == {"train"}
    json.dumps(report)


def test_check_refuses_splits_of_two_shapes(home):
    save(home, x_test=pixels(10, 8))
    sentence(lambda: sets.check("cifar10"), "cifar10", "image_size")


# --- real data, where a person has it ----------------------------------------------------------
@needs_real_data
@pytest.mark.parametrize("name, split, count, shape", [
    ("cifar10", "train", 50000, (3, 32, 32)), ("cifar10", "test", 10000, (3, 32, 32)),
    ("cifar100", "test", 10000, (3, 32, 32)), ("scenes", "train", 1500, (3, 64, 64)),
    ("textures", "train", 1200, (3, 64, 64))])
def test_real_sets(monkeypatch, name, split, count, shape):
    monkeypatch.setenv("OEFSMC_DATA", REAL)
    if sets.locate(name) is None:
        pytest.skip(f"{name} is not in OEFSMC_TEST_DATA")
    images = sets.load(name, split)
    assert len(images) == count and images.shape == shape
    assert len(images.labels.unique()) == images.num_classes
