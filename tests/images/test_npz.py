"""Archives: truncated, foreign and faulty ones are named, and a cache is written whole or not at all."""

import numpy as np
import pytest
from made_images import pixels, save, sentence, truncate

from oefsmc_lib.errors import InputError
from oefsmc_lib.files import write_whole
from oefsmc_lib.images import sets

pytestmark = pytest.mark.usefixtures("home")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"\x80\x04K\x01.", "half"])
def test_truncated_or_foreign_npz_is_named(home, content):
    save(home)
    path = home / "cifar10.npz"
    truncate(path) if content == "half" else path.write_bytes(content)
    for call in (lambda: sets.load("cifar10", "train"), lambda: sets.class_counts("cifar10"),
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


def test_a_cache_is_written_whole_or_not_at_all(home):
    path = home / "x.npz"
    path.write_bytes(b"old")

    def fails_halfway(file):
        file.write(b"half of the new")
        raise OSError("no space left")

    with pytest.raises(InputError, match="no space"):
        write_whole(path, fails_halfway)
    assert path.read_bytes() == b"old" and list(home.iterdir()) == [path]

    def killed(file):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, killed)
    assert path.read_bytes() == b"old" and list(home.iterdir()) == [path]
