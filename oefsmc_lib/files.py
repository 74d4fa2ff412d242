"""Where things are read from and written to, and how to write a file whole or not at all."""

import hashlib
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from oefsmc_lib.errors import InputError


def data_folder() -> Path:
    """``OEFSMC_DATA``, else a per-user cache folder (XDG on Linux)."""
    if named := os.environ.get("OEFSMC_DATA"):
        return expanded(named)
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "oefsmc"


def expanded(path: str) -> Path:
    """A path that a person gave, with ``~`` as a home folder; refused where that is unknown."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path} names a home folder that is unknown here; set OEFSMC_DATA to a folder.") from error


def short(name: str, limit: int = 60) -> str:
    """A part of a file name, which may not be long: beyond the limit it ends in a digest of the whole.

    >>> short("set"), short("x" * 250, 12)
    ('set', 'xxxxx-086d4a')
    """
    return name if len(name) <= limit else f"{name[: limit - 7]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def project_root() -> Path:
    """The folder that holds ``params/`` and ``notebooks/``, found by its ``pyproject.toml``.

    The caller's folder is searched upwards first, then the folder that the library is
    installed from, because papermill runs in the caller's folder and Jupyter in the notebook's.
    """
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "pyproject.toml").is_file() and (folder / "params").is_dir():
                return folder
    raise InputError(
        "No project found: neither this folder nor one above it has pyproject.toml and params/; "
        "change into a clone of the project."
    )


def outputs_folder() -> Path:
    """``OEFSMC_OUTPUTS``, else ``outputs/`` in the project."""
    if named := os.environ.get("OEFSMC_OUTPUTS"):
        return expanded(named)
    return project_root() / "outputs"


def writable_folder(folder: Path) -> Path:
    """Create ``folder`` and return it; refuse in one sentence when a file is in the way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(
            f"Cannot create the folder {folder}: a file stands in its way; remove the file or name another folder."
        ) from error
    except OSError as error:
        raise InputError(
            f"Cannot create the folder {folder}: {(error.strerror or str(error)).lower()}; name another folder "
            "with OEFSMC_OUTPUTS or OEFSMC_DATA."
        ) from error
    return folder


def write_whole(path: Path, content: bytes | str | Callable[[BinaryIO], object]) -> None:
    """Write ``content``, or let it write, so that no reader, crash or full disk ever sees a part of a file.

    A temporary file in the same folder is written, synced and renamed. Its name starts with a dot
    and ends in ``.tmp``: a kill leaves it behind, and every reader passes over it.
    Raises :class:`InputError` when the disk is full or the folder cannot be written; what was
    under the name before is then still there.
    """
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        writable_folder(path.parent)
        with open(temporary, "xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"Cannot write {path}: {error.strerror or error}; nothing was changed, "
            "so make room or name another folder (OEFSMC_OUTPUTS, OEFSMC_DATA) and run again."
        ) from error
    finally:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)


class Busy(RuntimeError):
    """Another process has it."""


@contextmanager
def alone(path: Path, busy: str, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file.

    Says ``busy`` while another process has it. Raises :class:`Busy` where waiting is not wanted, and
    :class:`InputError` where the file cannot be written or locked.
    """
    if (lock := take(path)) is None:
        print(busy, file=sys.stderr, flush=True)
        if not wait:
            raise Busy(busy)
        lock = take(path, wait=True)
    try:
        yield
    finally:
        lock.release()


def take(path: Path, wait: bool = False, poll: float = 0.5):
    """The lock of this file, held; None where another process has it and waiting is not wanted.

    The system drops it when the process ends, however it ends. Raises :class:`InputError` where it cannot be had.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, mode=0o666)  # other users must be able to open it, too
    try:
        lock.acquire(timeout=-1 if wait else 0, poll_interval=poll)
    except Timeout:
        return None
    except (OSError, NotImplementedError) as error:
        raise InputError(
            f"Cannot lock {path} ({getattr(error, 'strerror', None) or error}); name a folder that can be written, on "
            "a disk that has locks, with OEFSMC_DATA or OEFSMC_OUTPUTS."
        ) from error
    return lock
