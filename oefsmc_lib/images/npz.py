"""Image sets as npz archives, which are also the cache of every other source on disk.

The arrays are ``x_train (N, H, W, C) uint8`` and ``y_train (N,)``, the same for ``test``, and ``class_names`` where the
record of the set does not fix them. The cache of a folder also has ``source``, the signature of the files that were
read, ``undecoded_<split>``, which names each image that does not decode, and ``unread_<split>``, which names the files
whose format cannot be read.
"""

import hashlib
import struct
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from oefsmc_lib.errors import InputError
from oefsmc_lib.files import write_whole

Arrays = dict[str, np.ndarray]
SPLITS = ("train", "test")
LARGEST = 64 * 2**30  # bytes that an archive may take unpacked; a small file can claim any number
# What NumPy and Pillow raise on damaged bytes.
DAMAGE: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, MemoryError)
DAMAGE += (ArithmeticError, AttributeError, NotImplementedError, struct.error, zlib.error, zipfile.BadZipFile)


def read(path: Path, splits: Sequence[str] = SPLITS, kinds: str = "xy") -> Arrays:
    """The arrays of an npz, without images (x) and labels (y) of the splits and kinds that are not asked for.

    Raises :class:`InputError` naming ``path`` when it is truncated, no zip, or holds pickles, which are never loaded.
    """
    unwanted = {f"{kind}_{split}" for split in SPLITS for kind in "xy" if split not in splits or kind not in kinds}
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is truncated or no npz archive; delete it and get it again.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if (size := sum(part.file_size for part in archive.zip.infolist())) > LARGEST:
                raise ValueError(f"unpacked it would take {size / 2**30:.0f} GiB")
            arrays = {key: archive[key] for key in archive.files if key not in unwanted}
            if bare := [key for key, value in arrays.items() if not isinstance(value, np.ndarray)]:
                raise ValueError(f"{bare[0]} is no array")
            return arrays
    except DAMAGE as error:
        raise InputError(f"{path} is damaged ({first_line(error)}); delete it and get it again.") from error


def write(path: Path, arrays: Arrays) -> bool:
    """Cache arrays; a folder that cannot be written to costs a warning and the next run's time, not this run."""
    try:
        write_whole(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]  # of allow_pickle, not given
    except InputError as error:
        message = f"{path} was not cached, so the next run reads the source again. {error}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return False
    return True


def checked(arrays: Arrays, split: str, num_classes: int, where: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """``(x (N, H, W, C) uint8, y (N,) int64)`` of one split, or an :class:`InputError` naming what is wrong."""
    if f"x_{split}" not in arrays:
        raise _fault(where, f"has no array x_{split}")
    x = arrays[f"x_{split}"]
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] not in (1, 3):
        raise _fault(where, f"holds x_{split} as {x.dtype} of shape {x.shape} instead of uint8 (N, H, W, 3)")
    y = checked_labels(arrays, split, num_classes, where)
    if len(x) != len(y):
        raise _fault(where, f"holds {len(x)} images but {len(y)} labels for {split}")
    return x, y


def checked_labels(arrays: Arrays, split: str, num_classes: int, where: Path | str) -> np.ndarray:
    """``y (N,) int64`` of one split, or an :class:`InputError` naming what is wrong; looks at no image."""
    if f"y_{split}" not in arrays:
        raise _fault(where, f"has no array y_{split}")
    y = arrays[f"y_{split}"]
    if not np.issubdtype(y.dtype, np.integer) or y.ndim != 1:
        raise _fault(where, f"holds y_{split} as {y.dtype} of shape {y.shape} instead of integers (N,)")
    if len(y) == 0:
        raise _fault(where, f"holds labels of 0 images for {split}")
    if y.min() < 0 or y.max() >= num_classes:
        raise _fault(where, f"has labels from {y.min()} to {y.max()} for {split}, but there are {num_classes} classes")
    return y.astype(np.int64)


def _fault(where: Path | str, what: str) -> InputError:
    return InputError(f"{where} {what}; delete it and get it again.")


def digest(x: np.ndarray, y: np.ndarray) -> str:
    """12 hex digits of SHA-256 over shape, labels and pixels ``(N, H, W, C)``: of the content, not of the file."""
    sha = hashlib.sha256(str(tuple(int(size) for size in x.shape)).encode())
    sha.update(np.ascontiguousarray(y, dtype="<i8").data)
    sha.update(np.ascontiguousarray(x).data)
    return sha.hexdigest()[:12]


def first_line(error: BaseException) -> str:
    """What an error says, in one line and without its full stop, to stand inside a sentence."""
    text = str(error).strip().splitlines()
    return text[0].rstrip(".") if text else type(error).__name__
