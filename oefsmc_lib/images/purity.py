"""The purity filter: no picture of the data set, test images among them, may enter the pool as an OOD image."""

import hashlib
from collections.abc import Iterable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from oefsmc_lib.images import sets

# Cosine of two mean-free 16x16 luma thumbnails from which two images count as the same picture.
# Re-encoding, brightness and contrast leave it above 0.99; see tests/images/test_ood.py.
NEAR_DUPLICATE = 0.98


def impure(images: Tensor, hashes: frozenset[bytes], thumbnails: Tensor) -> Tensor:
    """Which images (N, C, H, W) are, exactly or nearly, in the known set: bool (N,)."""
    exact = torch.tensor([digest in hashes for digest in hashes_of(images)], dtype=torch.bool)
    vectors = _thumbnails(images)
    nearest = torch.full((len(images),), -1.0)
    for chunk in thumbnails.split(20_000):
        nearest = torch.maximum(nearest, (vectors @ chunk.float().T).amax(1))
    return exact | (nearest >= NEAR_DUPLICATE)


@lru_cache(maxsize=2)
def known(dataset: str, image_size: int | None, skip_broken: bool) -> tuple[frozenset[bytes], Tensor]:
    """Hashes and thumbnails (N, 256) of every training and test image; labels are not looked at."""
    splits = (sets.load(dataset, name, image_size=image_size, skip_broken=skip_broken) for name in ("train", "test"))
    return known_of(images for split in splits for images, _ in split.batches(2048))


def known_of(batches: Iterable[Tensor]) -> tuple[frozenset[bytes], Tensor]:
    """Hashes and thumbnails (N, 256) of all these images, uint8 (n, C, H, W) each."""
    hashes: set[bytes] = set()
    vectors = []
    for images in batches:
        hashes.update(hashes_of(images))
        vectors.append(_thumbnails(images).half())
    return frozenset(hashes), torch.cat(vectors)


def hashes_of(images: Tensor) -> list[bytes]:
    """A hash of each image's pixels."""
    return [hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest() for image in images.contiguous()]


def _thumbnails(images: Tensor) -> Tensor:
    """(N, C, H, W) uint8 -> (N, 256): 16x16 luma as mean-free vectors of length 1."""
    gray = sets.fit(images, (1, *images.shape[2:])).float()
    small = F.adaptive_avg_pool2d(gray, 16).flatten(1)
    small = small - small.mean(1, keepdim=True)
    return small / small.norm(dim=1, keepdim=True).clamp_min(1e-6)
