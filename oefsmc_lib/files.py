"""Files that are there whole or not at all."""

import os
import uuid
from pathlib import Path

from oefsmc_lib.errors import InputError
from oefsmc_lib.paths import writable_folder


def write_whole(path: Path, content: bytes | str) -> None:
    """Write ``content`` to ``path`` so that no reader, crash or full disk ever sees a part of it.

    A temporary file in the same folder is written, synced and renamed. Its name starts with a dot
    and ends in ``.tmp``: a kill leaves it behind, and every reader passes over it.
    Raises :class:`InputError` when the disk is full or the folder cannot be written; what was
    under the name before is then still there.
    """
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        writable_folder(path.parent)
        with open(temporary, "xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror or error}; nothing was changed, "
                         "so make room or name another folder and run again.") from error
    finally:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)
