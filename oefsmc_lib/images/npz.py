"""Image sets as archives: npz files, which are also the cache of every other source, and CIFAR's batch files.

Nothing here knows the name of a data set; :mod:`oefsmc_lib.images.sets` turns names into these calls.
Arrays are ``x_train (N, H, W, C) uint8``, ``y_train (N,)`` and the same for ``test``.
"""

import hashlib
import io
import os
import pickle
import secrets
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from oefsmc_lib.errors import InputError

SPLITS = ("train", "test")


# --- npz archives ------------------------------------------------------------------------------
def read_npz(path: Path, splits: Sequence[str] = SPLITS, kinds: str = "xy") -> dict[str, np.ndarray]:
    """The arrays of an npz, without images (x) and labels (y) of the splits and kinds that are not asked for.

    Raises :class:`InputError` naming ``path`` when it is truncated, no zip, or holds pickles.
    """
    unwanted = {f"{kind}_{split}" for split in SPLITS for kind in "xy" if split not in splits or kind not in kinds}
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is truncated or no npz archive; delete it and get it again.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files if key not in unwanted}
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        NotImplementedError,
        struct.error,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise InputError(f"{path} is damaged ({first_line(error)}); delete it and get it again.") from error


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> bool:
    """Cache arrays; a folder that cannot be written to costs a warning and the next run's time, not this run."""
    if error := write_whole(path, lambda file: np.savez(file, **arrays)):
        warnings.warn(
            f"{path} was not cached ({first_line(error)}), so the next run reads the source again.",
            RuntimeWarning,
            stacklevel=2,
        )
    return error is None


def write_whole(path: Path, write) -> OSError | None:
    """Let ``write(file)`` fill ``path`` whole or not at all; returns what prevented it, or None."""
    # Not the process id: several machines may share the folder. Not tempfile: others may read the cache.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                write(file)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        return error
    return None


def checked(arrays: dict[str, np.ndarray], split: str, num_classes: int, where) -> tuple[np.ndarray, np.ndarray]:
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


def checked_labels(arrays: dict[str, np.ndarray], split: str, num_classes: int, where) -> np.ndarray:
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


def _fault(where, what: str) -> InputError:
    return InputError(f"{where} {what}; delete it and get it again.")


def digest(x: np.ndarray, y: np.ndarray) -> str:
    """12 hex digits of SHA-256 over shape, labels and pixels ``(N, H, W, C)``: content, not file."""
    sha = hashlib.sha256(str(tuple(int(size) for size in x.shape)).encode())
    sha.update(np.ascontiguousarray(y, dtype="<i8"))
    sha.update(np.ascontiguousarray(x))
    return sha.hexdigest()[:12]


# --- CIFAR's batch files -----------------------------------------------------------------------
class _ArraysOnly(pickle.Unpickler):
    """CIFAR's batches are pickles, and a pickle may run any code.

    torchvision's class guards against that with the MD5 of the published files, but then refuses
    any other file in their form, and needs an import of seconds. This one can only make NumPy
    arrays and plain containers, whatever the file says.
    """

    def find_class(self, module, name):
        made_by_numpy = {"_reconstruct": np.empty(0).__reduce__()[0], "ndarray": np.ndarray, "dtype": np.dtype}
        if module.partition(".")[0] == "numpy" and name in made_by_numpy:
            return made_by_numpy[name]  # by name: NumPy 2 renamed the module that Python 2 wrote
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes in old protocols
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no part of an image batch")


def read_batches(source: Path, batches: dict[str, list[str]], label_key: str) -> dict[str, np.ndarray]:
    """CIFAR from torchvision's folder or from the tar.gz, which is read in place."""
    arrays = {}
    try:
        with _opened(source) as read:
            for split, names in batches.items():
                parts = [_ArraysOnly(io.BytesIO(read(name)), encoding="latin1").load() for name in names]
                planes = np.concatenate([np.asarray(part["data"], dtype=np.uint8) for part in parts])
                pixels = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
                arrays[f"x_{split}"] = np.ascontiguousarray(pixels)
                arrays[f"y_{split}"] = np.concatenate([np.asarray(part[label_key], np.int64) for part in parts])
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
        EOFError,
        struct.error,
        zlib.error,
        tarfile.TarError,
        pickle.UnpicklingError,
    ) as error:
        raise InputError(f"{source} is damaged ({first_line(error)}); delete it and get it again.") from error
    return arrays


@contextmanager
def _opened(source: Path):
    """``with _opened(folder or tar.gz) as read: read("data_batch_1") -> bytes``; nothing is unpacked to disk."""
    if source.is_dir():
        yield lambda name: (source / name).read_bytes()
        return
    with tarfile.open(source) as tar:
        members = {Path(member.name).name: member for member in tar.getmembers() if member.isfile()}
        yield lambda name: tar.extractfile(members[name]).read()


def first_line(error: BaseException) -> str:
    """What an error says, in one line and without its full stop, to stand inside a sentence."""
    text = str(error).strip().splitlines()
    return text[0].rstrip(".") if text else type(error).__name__
