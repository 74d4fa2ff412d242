"""Small real image sets on disk, and broken ones, for the tests of this folder."""

import hashlib
import pickle

import numpy as np
import pytest
from PIL import Image

from oefsmc_lib.errors import InputError
from oefsmc_lib.images import sets


def mark(name, splits=("train", "test"), **settings):
    """The fingerprint of a set as a run has it, over all splits."""
    return sets.fingerprint(*(sets.load(name, split, **settings) for split in splits))


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


def save_batches(home, monkeypatch, arrays, reader="CIFAR10"):
    """torchvision's folder of a CIFAR with these images, and torchvision takes it for the published one."""
    from torchvision import datasets
    reader = getattr(datasets, reader)
    folder = home / reader.base_folder
    folder.mkdir()
    key = "fine_labels" if reader is datasets.CIFAR100 else "labels"
    for split, field in (("train", "train_list"), ("test", "test_list")):
        names = [name for name, _ in getattr(reader, field)]
        for name, x, y in zip(names, *(np.array_split(arrays[f"{kind}_{split}"], len(names)) for kind in "xy")):
            (folder / name).write_bytes(batch(x, y, key))
    (folder / reader.meta["filename"]).write_bytes(pickle.dumps({reader.meta["key"]: []}))
    publish(folder, monkeypatch, reader)
    return folder


def publish(folder, monkeypatch, reader):
    """Exchange torchvision's checksums of the published files for those of the files in ``folder``."""
    def md5(name):
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    for field in ("train_list", "test_list"):
        monkeypatch.setattr(reader, field, [[name, md5(name)] for name, _ in getattr(reader, field)])
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": md5(reader.meta["filename"])})


def remove(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


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
    assert "\n" not in text and len(text) < 500
    for word in words:
        assert str(word) in text, f"{word!r} is not in {text!r}"
    return text


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


def imagenet(home):
    root = tree(home / "imagenet", classes=WNIDS[:2], suffix="JPEG", size=(320, 256))
    (root / "LOC_synset_mapping.txt").write_text(f"{WNIDS[0]} goldfish, Carassius auratus\n{WNIDS[1]} crane\n")
    return root
