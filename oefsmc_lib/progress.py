"""Progress bars for people; silence in batch."""

import os
import sys


def bar(iterable, label: str, total: int | None = None):
    """tqdm over ``iterable``, shown on a terminal or in a notebook that someone watches.

    Quiet under papermill and on pipes (``OEFSMC_QUIET=1`` silences it everywhere).
    """
    if os.environ.get("OEFSMC_QUIET") == "1" or not (sys.stderr.isatty() or has_frontend()):
        return iterable
    from tqdm.auto import tqdm

    return tqdm(iterable, desc=label, total=total, leave=False)


def has_frontend() -> bool:
    """Whether a person watches a notebook: Jupyter's client answers questions of a kernel, batch runners' do not."""
    if os.environ.get("OEFSMC_QUIET") == "1" or "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return bool(getattr(getattr(shell, "kernel", None), "_allow_stdin", False))
