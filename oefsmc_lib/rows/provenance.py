"""Where and with what a row was made."""

import platform
import re
import subprocess
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path


def here(device) -> dict:
    """Device, threads, versions, commit and time, as columns of a row; no host name."""
    import torch

    from oefsmc_lib import __version__

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "oefsmc": __version__,
        "python": platform.python_version(),
        "git_commit": _commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@lru_cache(maxsize=1)
def _processor() -> str:
    information = Path("/proc/cpuinfo")  # Linux, where `platform` knows the architecture alone
    model = re.search(r"^model name\s*:\s*(.+)$", information.read_text(), re.M) if information.is_file() else None
    return model[1].strip() if model else platform.processor() or platform.machine()


@lru_cache(maxsize=1)
def _commit() -> str | None:
    """The commit that the library is run from, ``-dirty`` with changes to its code; None outside a clone."""
    try:
        commit, changes = _git("rev-parse", "--short=12", "HEAD"), _git("status", "--porcelain", "--", "..")
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if changes else commit


def _git(*arguments: str) -> str:
    folder = Path(__file__).resolve().parent
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
