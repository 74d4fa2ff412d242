"""A folder per class: names, formats, faults, broken images, the cache, Tiny-ImageNet and ImageNet."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from made_images import WNIDS, imagenet, mark, picture, published_tiny_imagenet, sentence, tree, truncate
from PIL import Image

from oefsmc_lib.images import folders, sets

pytestmark = pytest.mark.usefixtures("home")


# --- a folder per class ------------------------------------------------------------------------
def test_folder_reads_classes_labels_and_both_names_of_the_held_out_split(tmp_path):
    for held_out in ("val", "test"):
        root = tree(tmp_path / held_out, ("train", held_out))
        train, test = (sets.load(f"folder:{root}", split) for split in ("train", "test"))
        assert train.class_names == ("cat", "dog")
        assert train.labels.tolist() == [0, 0, 0, 1, 1, 1] and train.shape == (3, 8, 8)
        assert train.images[4, :, 0, 0].tolist() == [11, 100, 200]
        assert test.images[4, :, 0, 0].tolist() == [11, 100, 50]


def test_folder_may_have_train_alone(tmp_path):
    root = tree(tmp_path / "set", ("train",))
    assert len(sets.load(f"folder:{root}", "train")) == 6
    sentence(lambda: sets.load(f"folder:{root}", "test"), root, "only train", "add val/ or test/")


def test_val_is_the_test_split_when_test_has_no_classes(tmp_path):
    root = tree(tmp_path / "set")
    picture(root / "test" / "0.png")
    assert len(sets.load(f"folder:{root}", "test")) == 6


@pytest.mark.parametrize("suffix, mode", [("png", "RGBA"), ("png", "P"), ("png", "L"), ("png", "1"), ("png", "LA"),
                                          ("png", "I;16"), ("tif", "CMYK"), ("jpg", "CMYK"), ("gif", "P"),
                                          ("bmp", "RGB"), ("webp", "RGB"), ("JPEG", "L"), ("tiff", "I;16")])
def test_any_format_and_mode_becomes_rgb(tmp_path, suffix, mode):
    root = tmp_path / "set"
    for name in ("a", "b"):
        path = root / "train" / name / f"0.{suffix}"
        path.parent.mkdir(parents=True)
        gray = np.full((8, 8), 128, np.uint8)
        if mode == "I;16":
            image = Image.fromarray(gray.astype(np.uint16) * 257)
        else:
            image = Image.fromarray(np.stack([gray] * 3, axis=-1)).convert(mode, palette=Image.Palette.ADAPTIVE)
        image.save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = sets.load(f"folder:{root}", "train").images
    assert images.shape == (2, 3, 8, 8)
    if mode == "1":
        assert set(images.unique().tolist()) <= {0, 255}
    else:
        assert (images.int() - 128).abs().max() <= 3


def test_palette_with_transparency_in_bytes_does_not_warn(tmp_path):
    path = picture(tmp_path / "a.png", mode="P", transparency=bytes([0, 128, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert folders.decode(str(path)).shape == (8, 8, 3)


def test_image_size_resizes_the_shorter_side_and_crops_the_centre(tmp_path):
    root = tmp_path / "set"
    for name in ("a", "b"):
        wide = np.zeros((10, 30, 3), np.uint8)
        wide[:, 10:20] = 255
        (root / "train" / name).mkdir(parents=True)
        Image.fromarray(wide).save(root / "train" / name / "wide.png")
        Image.fromarray(wide.transpose(1, 0, 2)).save(root / "train" / name / "high.png")
    images = sets.load(f"folder:{root}", "train", image_size=10)
    assert images.shape == (3, 10, 10) and int(images.images.min()) == 255
    assert sets.load(f"folder:{root}", "train", image_size=5).shape == (3, 5, 5)


def test_sizes_that_differ_need_image_size(tmp_path):
    root = tree(tmp_path / "set")
    odd = picture(root / "val" / "dog" / "odd.png", size=(9, 8))
    sentence(lambda: sets.load(f"folder:{root}", "train"), odd, "9x8", "8x8", "image_size")
    assert len(sets.load(f"folder:{root}", "test", image_size=8)) == 7


def test_files_that_are_no_images_are_ignored(tmp_path):
    root = tree(tmp_path / "set")
    for name in ("notes.txt", "Thumbs.db", ".DS_Store", "._0.png", ".hidden.png"):
        (root / "train" / "cat" / name).write_bytes(b"no image")
    (root / "train" / "README.md").write_text("no class")
    picture(root / "train" / ".ipynb_checkpoints" / "0.png")
    assert len(sets.load(f"folder:{root}", "train")) == 6


def test_folder_faults_are_one_sentence(tmp_path):
    sentence(lambda: sets.load(f"folder:{tmp_path / 'absent'}", "train"), tmp_path / "absent")
    one = tree(tmp_path / "one", classes=("cat",))
    sentence(lambda: sets.load(f"folder:{one}", "train"), one / "train", "1 class")
    flat = tmp_path / "flat"
    picture(flat / "cat" / "0.png")
    sentence(lambda: sets.load(f"folder:{flat}", "train"), flat, "no folder train")
    empty = tree(tmp_path / "empty")
    (empty / "train" / "emu").mkdir()
    picture(empty / "val" / "emu" / "0.png")
    sentence(lambda: sets.load(f"folder:{empty}", "train"), empty / "train" / "emu", "no images")


@pytest.mark.parametrize("more, less", [("train", "val"), ("val", "train")])
def test_classes_must_be_the_same_in_both_splits(tmp_path, more, less):
    root = tree(tmp_path / "set")
    picture(root / more / "emu" / "0.png")
    sentence(lambda: sets.load(f"folder:{root}", "train"), "emu", f"is in {root / more}", f"not in {root / less}")


# --- images that do not decode -----------------------------------------------------------------
def broken_file(root, kind):
    path = root / "train" / "cat" / "broken.jpg"
    if kind == "truncated jpeg":
        truncate(picture(path, size=(64, 64)))
    elif kind == "truncated png":
        path = truncate(picture(path.with_suffix(".png"), size=(64, 64)))
    elif kind == "text":
        path.write_text("no image")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "link":
        path.symlink_to(root / "nowhere.jpg")
    else:
        path = path.with_suffix(".tiff")
        Image.fromarray(np.zeros((8, 8), np.float32)).save(path)
    return path


@pytest.mark.parametrize("kind", ["truncated jpeg", "truncated png", "text", "empty", "link", "float"])
def test_broken_image_is_named_or_left_out_and_counted(tmp_path, kind):
    root = tree(tmp_path / "set")
    path = broken_file(root, kind)
    for call in (lambda: sets.load(f"folder:{root}", "train"), lambda: sets.check(f"folder:{root}")):
        sentence(call, path, "skip_broken=true")
    train, test = (sets.load(f"folder:{root}", split, skip_broken=True) for split in ("train", "test"))
    assert (len(train), train.broken, len(test), test.broken) == (6, 1, 6, 0)
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    again = sets.load(f"folder:{root}", "train", skip_broken=True)
    assert again.broken == 1                               # from the cache too
    assert sets.check(f"folder:{root}", skip_broken=True)["splits"]["train"]["broken"] == 1


def test_all_broken_images_are_counted(tmp_path):
    root = tree(tmp_path / "set")
    path, other = broken_file(root, "text"), broken_file(root, "truncated png")
    said = sentence(lambda: sets.load(f"folder:{root}", "train"), path, "and 1 more do not", "skip_broken=true")
    assert str(other) not in said
    assert sets.load(f"folder:{root}", "train", skip_broken=True).broken == 2


def test_class_whose_images_are_all_broken_is_refused(tmp_path):
    root = tree(tmp_path / "set")
    for path in (root / "train" / "dog").iterdir():
        path.write_bytes(b"")
    sentence(lambda: sets.load(f"folder:{root}", "train", skip_broken=True), "dog", root)
    for path in (root / "train" / "cat").iterdir():
        path.write_bytes(b"")
    sentence(lambda: sets.load(f"folder:{root}", "train", skip_broken=True), root / "train")


def test_tiny_imagenet_cache_with_broken_images_is_not_used_without_skip_broken(home):
    root = tree(home / "tiny-imagenet-200", size=(64, 64))
    path = truncate(picture(root / "train" / "cat" / "x.png", size=(64, 64)))
    assert sets.load("tiny-imagenet", "train", skip_broken=True).broken == 1
    sentence(lambda: sets.load("tiny-imagenet", "train"), path)


# --- the cache of folders ----------------------------------------------------------------------
def test_folder_cache_decodes_once(tmp_path, monkeypatch):
    name = f"folder:{tree(tmp_path / 'set')}"
    first = sets.load(name, "train")
    monkeypatch.setattr(folders, "decode", lambda *_: pytest.fail("an image was decoded again"))
    again = sets.load(name, "train")
    assert torch.equal(again.images, first.images) and again.fingerprint == first.fingerprint
    assert again.class_names == first.class_names and len(sets.load(name, "test")) == 6


def test_folder_caches_of_two_sizes_do_not_mix(tmp_path):
    name = f"folder:{tree(tmp_path / 'set')}"
    assert [sets.load(name, "train", image_size=size).shape[1] for size in (4, 6, 4)] == [4, 6, 4]
    assert len({mark(name, image_size=size) for size in (4, 6)}) == 2


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "edited", "touched"])
def test_folder_cache_follows_the_files(tmp_path, change):
    root = tree(tmp_path / "set")
    name = f"folder:{root}"
    before = sets.load(name, "train")
    file = root / "train" / "cat" / "1.png"
    if change == "added":
        picture(root / "train" / "cat" / "9.png", color=(1, 2, 3))
    elif change == "removed":
        file.unlink()
    elif change == "renamed":
        file.rename(file.with_name("9.png"))
    elif change == "edited":
        picture(file, color=(1, 2, 3))
        os.utime(file, ns=(1, 1))
    else:
        os.utime(file, ns=(1, 1))
    after = sets.load(name, "train")
    assert len(after) == {"added": 7, "removed": 5}.get(change, 6)
    assert (after.fingerprint == before.fingerprint) == (change == "touched")
    assert (mark(name) == sets.check(name)["fingerprint"])


def test_reading_goes_on_where_nothing_can_be_cached(tmp_path, monkeypatch):
    root = tree(tmp_path / "set")
    blocked = tmp_path / "file"
    blocked.write_text("stands in the way")                # as good as read-only, and true for root too
    monkeypatch.setenv("OEFSMC_DATA", str(blocked / "data"))
    with pytest.warns(RuntimeWarning, match="not cached"):
        images = sets.load(f"folder:{root}", "test")
    assert len(images) == 6 and images.class_names == ("cat", "dog")
    with pytest.warns(RuntimeWarning, match="not cached"):
        uncached = mark(f"folder:{root}")
    monkeypatch.setenv("OEFSMC_DATA", str(tmp_path / "data"))
    assert mark(f"folder:{root}") == uncached


def test_folder_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "LARGEST", 1000)
    sentence(lambda: sets.load(f"folder:{tree(tmp_path / 'set')}", "train"), "image_size", "imagenet")


# --- Tiny-ImageNet -----------------------------------------------------------------------------
def test_tiny_imagenet_as_published(home):
    published_tiny_imagenet(home)
    train, test = sets.load("tiny-imagenet", "train"), sets.load("tiny-imagenet", "test")
    assert train.class_names == ("goldfish", "crane, a bird", "crane, a machine")
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2] and train.shape == (3, 64, 64)
    assert test.labels.tolist() == [2, 0, 1]
    assert [round(red / 50) for red in test.images[:, 0].float().mean((1, 2)).tolist()] == [2, 0, 1]


def test_tiny_imagenet_with_a_folder_per_class(home):
    root = tree(home / "tiny-imagenet-200", classes=WNIDS, suffix="JPEG", size=(64, 64))
    (root / "classes.tsv").write_text(f"{WNIDS[0]}\tgoldfish\n{WNIDS[1]}\tcrane\n")
    test = sets.load("tiny-imagenet", "test")
    assert len(test) == 9 and test.class_names == ("goldfish", "crane", WNIDS[2])


def test_tiny_imagenet_outlives_its_folder_and_follows_its_changes(home):
    root = published_tiny_imagenet(home)
    first, before = sets.load("tiny-imagenet", "train"), mark("tiny-imagenet")
    picture(root / "train" / WNIDS[0] / "images" / "more.JPEG", (64, 64))
    assert len(sets.load("tiny-imagenet", "train")) == 7
    (root / "train" / WNIDS[0] / "images" / "more.JPEG").unlink()
    assert mark("tiny-imagenet") == before
    root.rename(home / "elsewhere")
    again = sets.load("tiny-imagenet", "train")
    assert torch.equal(again.images, first.images) and again.class_names == first.class_names
    assert sets.check("tiny-imagenet")["fingerprint"] == before


def test_tiny_imagenet_annotation_of_an_unknown_class(home):
    root = published_tiny_imagenet(home)
    with open(root / "val" / "val_annotations.txt", "a") as file:
        file.write("val_3.JPEG\tn00000000\t0\t0\t9\t9\n")
    sentence(lambda: sets.load("tiny-imagenet", "train"), "Line 4", root / "val" / "val_annotations.txt")


# --- ImageNet ----------------------------------------------------------------------------------


def test_imagenet_decodes_only_what_is_taken(home, monkeypatch):
    imagenet(home)
    opened = []
    decode = folders.decode
    monkeypatch.setattr(folders, "decode", lambda path, *rest: opened.append(Path(path).name) or decode(path, *rest))
    images = sets.load("imagenet", "train")
    assert images.shape == (3, 224, 224) and len(images) == 6 and images.class_names == ("goldfish", "crane")
    assert mark("imagenet") and opened == []
    taken = images.take(torch.tensor([4, 0]))
    assert taken.shape == (2, 3, 224, 224) and taken.dtype == torch.uint8 and opened == ["1.JPEG", "0.JPEG"]
    assert [round(red / 10) for red in taken[:, 0].float().mean((1, 2)).tolist()] == [1, 0]
    assert images.take(images.labels == 1).shape[0] == 3
    assert [len(x) for x, _ in images.batches(4)] == [4, 2]
    assert not list(home.glob("*.npz"))


def test_imagenet_crops_seven_eighths_of_the_shorter_side(home):
    root = imagenet(home)
    frame = np.zeros((256, 320, 3), np.uint8)
    frame[16:240, 48:272] = 255                            # the central 224 x 224
    Image.fromarray(frame).save(root / "train" / WNIDS[0] / "0.JPEG", quality=100)
    image = sets.load("imagenet", "train").take([0])
    assert image.float().mean() > 254
    assert sets.load("imagenet", "train", image_size=112).take([0]).shape == (1, 3, 112, 112)


def test_imagenet_faults(home):
    root = imagenet(home)
    path = truncate(root / "train" / WNIDS[1] / "2.JPEG")
    images = sets.load("imagenet", "train")
    assert len(images.take([0, 1])) == 2
    sentence(lambda: images.take([5]), path, "does not decode")
    sentence(lambda: sets.check("imagenet"), path, "does not decode")
    sentence(lambda: sets.load("imagenet", "train", skip_broken=True), "oefsmc data check imagenet")
    path.unlink()
    assert sets.check("imagenet")["splits"]["train"]["images"] == 5


def test_imagenet_fingerprint_follows_names_and_size(home):
    root = imagenet(home)
    first = mark("imagenet")
    assert mark("imagenet") == first == mark("imagenet", image_size=224) == sets.check("imagenet")["fingerprint"]
    assert mark("imagenet", image_size=112) != first
    (root / "val" / WNIDS[0] / "0.JPEG").unlink()
    assert mark("imagenet") != first
