"""Progress bars for people; silence in batch."""

import os
import sys


def bar(iterable, label: str, total: int | None = None):
    """tqdm over ``iterable``, shown on a terminal or in a notebook that someone watches.

    Quiet under papermill and on pipes (``OEFSMC_QUIET=1`` silences it everywhere).
    """
    quiet = os.environ.get("OEFSMC_QUIET") == "1" or not sys.stderr.isatty()
    if quiet:
        return iterable
    from tqdm.auto import tqdm
    return tqdm(iterable, desc=label, total=total, leave=False)
