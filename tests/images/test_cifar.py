"""CIFAR by torchvision: its own files, their checksums, and the cache."""

import hashlib
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
from made_images import batch, cifar_arrays, mark, pixels, publish, remove, save, save_batches, sentence, truncate
from torchvision import datasets

from oefsmc_lib.images import sets
from oefsmc_lib.images.sources import SOURCES

pytestmark = pytest.mark.usefixtures("home")


def test_fingerprint_is_of_content_not_of_the_file(home, monkeypatch):
    arrays = save(home)
    from_npz, both = sets.load("cifar10", "train"), mark("cifar10")
    assert len(both) == 12 and int(both, 16) >= 0
    for path in home.iterdir():
        path.unlink()
    folder = save_batches(home, monkeypatch, arrays)
    from_batches = sets.load("cifar10", "train")
    assert torch.equal(from_batches.images, from_npz.images) and torch.equal(from_batches.labels, from_npz.labels)
    assert from_batches.fingerprint == from_npz.fingerprint and mark("cifar10") == both

    for path in home.glob("cifar10*"):
        path.unlink()
    with tarfile.open(home / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(folder, "cifar-10-batches-py")
    remove(folder)
    checksum = hashlib.md5((home / "cifar-10-python.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", checksum)
    assert mark("cifar10") == both


def test_cifar_is_cached_at_first_reading_and_then_needs_no_source(home, monkeypatch):
    arrays = cifar_arrays()
    folder = save_batches(home, monkeypatch, arrays)
    sets.load("cifar10", "test")
    remove(folder)
    images = sets.load("cifar10", "train")
    assert np.array_equal(images.images.permute(0, 2, 3, 1), arrays["x_train"])
    assert sets.get("cifar10") == str(home / "cifar10.npz")
    assert not [path for path in home.iterdir() if path.suffix == ".tmp"]
    with np.load(home / "cifar10.npz", allow_pickle=False) as cached:
        assert set(cached.files) == set(arrays)


def test_cifar100_reads_fine_labels(home, monkeypatch):
    arrays = {"x_train": pixels(3, 32), "y_train": [99, 0, 8], "x_test": pixels(1, 32), "y_test": [8]}
    save_batches(home, monkeypatch, arrays, "CIFAR100")
    images = sets.load("cifar100", "train")
    assert [images.class_names[label] for label in images.labels] == ["worm", "apple", "bicycle"]


def test_a_batch_written_by_python_2_is_read(home, monkeypatch):
    """As in the published files: strings of bytes as BINSTRING, which only ``latin1`` turns into pixels."""
    x = pixels(1, 32)
    content = x.transpose(0, 3, 1, 2).tobytes()
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    text = (b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
            b"(K\x01K\x01M\x00\x0c\x86" + dtype + b"\x89T\x00\x0c\x00\x00" + content + b"tbU\x06labels]K\x05au.")
    assert pickle.loads(text, encoding="latin1")["labels"] == [5]
    folder = save_batches(home, monkeypatch, cifar_arrays())
    (folder / "test_batch").write_bytes(text)
    publish(folder, monkeypatch, datasets.CIFAR10)
    images = sets.load("cifar10", "test")
    assert np.array_equal(images.images.permute(0, 2, 3, 1), x) and images.labels.tolist() == [5]


def test_standard_class_names():
    assert SOURCES["cifar10"].classes.split()[8:] == ["ship", "truck"]
    names = SOURCES["cifar100"].classes.split()
    assert len(set(names)) == 100 and list(names) == sorted(names)
    assert {"bus", "pickup_truck", "streetcar", "tractor", "tank"} <= set(names)


def test_a_batch_that_would_run_code_is_refused(home, monkeypatch):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(home / "owned"),)

    folder = save_batches(home, monkeypatch, cifar_arrays())
    (folder / "data_batch_3").write_bytes(pickle.dumps({"data": Evil(), "labels": []}, protocol=2))
    sentence(lambda: sets.load("cifar10", "train"), folder, "published files", "delete it")
    assert not (home / "owned").exists()


@pytest.mark.parametrize("fault", ["truncated", "missing", "labels"])
def test_damaged_batches_are_named_and_not_cached(home, monkeypatch, fault):
    folder = save_batches(home, monkeypatch, cifar_arrays())
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


def test_a_file_that_is_not_the_published_one_is_not_even_opened(home, monkeypatch):
    """Here the checksums are torchvision's own, so made batches are refused, however whole they are."""
    with monkeypatch.context() as patch:
        folder = save_batches(home, patch, cifar_arrays())
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("a pickle was read"))
    sentence(lambda: sets.load("cifar10", "train"), folder, "published files of cifar10", "delete it")


def test_get_without_a_network_says_so(home, monkeypatch):
    def unreachable(*_):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(datasets.CIFAR10, "download", unreachable)
    sentence(lambda: sets.get("cifar10"), "Network is unreachable", "cifar-10-python.tar.gz", home)


def test_get_downloads_by_torchvision_and_caches(home, monkeypatch):
    monkeypatch.setattr(datasets.CIFAR10, "download", lambda _: save_batches(home, monkeypatch, cifar_arrays()))
    assert sets.get("cifar10") == str(home / "cifar10.npz")


def test_nothing_is_downloaded_unasked(home, monkeypatch):
    monkeypatch.setattr(datasets.CIFAR10, "download", lambda _: pytest.fail("a download began"))
    for call in (lambda: sets.load("cifar10", "train"), lambda: sets.check("cifar10")):
        sentence(call, "oefsmc data get cifar10")
    assert sets.class_counts("cifar10") is None
