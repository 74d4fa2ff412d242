"""Running one notebook with papermill, in a kernel of its own."""

import os
import re
import sys
from pathlib import Path
from typing import Any

from oefsmc_lib.errors import InputError
from oefsmc_lib.files import data_folder, outputs_folder


class NotebookFailed(RuntimeError):
    """A notebook raised, or its kernel died; the executed copy keeps the error."""

    def __init__(self, message: str, kernel_died: bool = False, traceback: str = ""):
        super().__init__(message)
        self.kernel_died, self.traceback = kernel_died, traceback


def execute(path: Path, into: Path, parameters: dict[str, Any]) -> None:
    """Run one notebook with papermill, in the notebook's own folder, with a progress bar on a terminal.

    Parameters are checked against the notebook's first, because papermill itself only warns. Raises
    :class:`NotebookFailed`, and :class:`InputError` for a parameter that the notebook does not have
    and where the copy cannot be written.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    known = papermill.inspect_notebook(_literal(path))
    if unknown := sorted(set(parameters) - set(known)):
        raise InputError(f"{path.name} has no parameter {unknown[0]!r}; it has {', '.join(known)}.")
    # The kernel must read and write in this process's folders, though it starts in the notebook's.
    os.environ["OEFSMC_OUTPUTS"] = str(outputs_folder().resolve())
    os.environ["OEFSMC_DATA"] = str(data_folder().resolve())
    options = {
        "cwd": str(path.parent),
        "kernel_name": "python3",
        "start_timeout": 300,
        "progress_bar": sys.stderr.isatty(),
        # Else it says that it talks to this process unencrypted, which it does on loopback, and how it was ended.
        "extra_arguments": ["--IPKernelApp.log_level=CRITICAL"],
    }
    try:
        papermill.execute_notebook(_literal(path), _literal(into), parameters, **options)
    except PapermillExecutionError as error:
        plain = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback))
        raise NotebookFailed(f"{path.name}: {error.ename}: {error.evalue} (see {into})", traceback=plain) from error
    except RuntimeError as error:  # nbclient's: the kernel died, or never answered; killed by memory or by hand
        _keep_error(into, str(error))
        raise NotebookFailed(f"{path.name}: {error} (see {into})", kernel_died=True) from error
    except OSError as error:
        raise InputError(
            f"Cannot run {path.name} into {into}: {error.strerror or error}; make room or name another "
            "folder with OEFSMC_OUTPUTS, and run again."
        ) from error


def _literal(path: Path) -> str:
    """A path as papermill takes it: papermill fills in names that stand in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _keep_error(into: Path, message: str) -> None:
    """Papermill marks a cell that raised; a kernel that died leaves no mark, so it gets one here."""
    import nbformat

    if into.is_file():
        notebook = nbformat.read(into, as_version=4)
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(f"**The run ended here with an error:** {message}"))
        nbformat.write(notebook, into)
