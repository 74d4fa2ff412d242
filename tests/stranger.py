"""One run as on a stranger's machine; ``python tests/stranger.py`` says what was hostile and whether the run came through.

All at once: the home and the system's cache cannot be written, the locale is C, every path has spaces and letters beyond
ASCII, there is no git, one core, and no network; the grid's YAML has Windows line ends. The peak of memory is printed.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30
# Without the right to pass over permissions, which root in a container has; and every connection is refused.
START = r"""
import os, re, socket, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
def refuse(*_, **__):
    raise AssertionError("the network was asked")
socket.socket.connect = socket.getaddrinfo = refuse
from oefsmc_lib.cli import main
try:
    main()
finally:
    with open("/proc/self/status") as status, open(os.environ["PEAKS"], "a") as peaks:
        print(re.search(r"VmHWM:\s*(\d+) kB", status.read())[1], file=peaks)
"""


def stranger(place: Path, *words: str) -> subprocess.CompletedProcess:
    """A command on the hostile machine, in a copy of the project below ``place``."""
    environment = {
        "HOME": "/proc/no-home", "LANG": "C", "LC_ALL": "C", "PATH": str(place / "nothing"), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(place / "projet à moi"), "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OEFSMC_QUIET": "1",
        "OEFSMC_DATA": str(place / "données 数"), "OEFSMC_OUTPUTS": str(place / "out put é"), "MPLCONFIGDIR": str(place / "mpl"),
        "PEAKS": str(place / "peaks")}
    return subprocess.run([sys.executable, "-c", START, *words], cwd=place / "projet à moi", env=environment,
                          capture_output=True, encoding="utf-8", errors="replace")


def try_all(place: Path) -> dict:
    """The row of the run; raises ``AssertionError`` with what went wrong."""
    copy = place / "projet à moi"
    for name in ("oefsmc_lib", "params", "notebooks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    grid = copy / "params" / "grids" / "fenêtres.yaml"
    grid.write_bytes("title: à Windows\r\nblocks:\r\n  - variant: native\r\n    num: 10\r\n    seed: [000]\r\n".encode())
    for words in (("doctor",), ("grid", "check", "fenêtres"), ("grid", "run", "fenêtres", "--in-process"), ("show",)):
        done = stranger(place, *words)
        assert done.returncode == 0 and "Traceback" not in done.stderr, f"{words}: {done.stderr[-2000:]}"
    (row,) = (place / "out put é" / "results" / "rows").glob("*.json")
    # Of these processes alone: ru_maxrss would count what the parent and its other children had before.
    peak = max(map(int, (place / "peaks").read_text().split())) * 1024
    assert peak < 2 * GIB, f"the peak of memory is {peak / GIB:.2f} GiB"
    return json.loads(row.read_text(encoding="utf-8")) | {"peak": peak}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="étranger ") as folder:
        row = try_all(Path(folder))
    print(f"no home, no git, no network, C locale, one core, odd paths: top-1 {row['top1']:.2f} %, {row['peak'] / GIB:.2f} GiB")
    assert row["git_commit"] is None
