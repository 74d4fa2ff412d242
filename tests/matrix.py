"""The tests on every supported Python that is on this machine, with the lowest and the highest torch: ``make matrix``.

Each pair has an environment of its own below ``.matrix/``. A Python that is not here is said to be skipped. The result of
each pair is written there as soon as it is known. A pair that passed at this commit is not tried again, so that an interrupted
matrix goes on where it was. At the end outputs/bench/<date>_cpu_matrix.csv has all of them; earlier it would change what
the tests of the next pair compare. Arguments go to pytest, and nothing is written then.
"""

import csv
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COUNTS = ("passed", "failed", "skipped")
KNOWN = ROOT / ".matrix" / "results.csv"
TESTS = ["-n", "logical", "--maxprocesses", "8", "--dist", "loadfile", "tests"]


def lowest(package: str) -> str:
    """``torch==2.11.*`` for the requirement ``torch>=2.11``."""
    (found,) = (match for each in PROJECT["dependencies"] if (match := re.fullmatch(rf"{package}>=([\d.]+)", each)))
    return f"{package}=={found[1]}.*"


TORCHES = {"lowest": [lowest("torch"), lowest("torchvision")], "highest": []}


def supported() -> list[str]:
    """``3.11``, ``3.12``, ... as pyproject.toml says."""
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
    return [f"3.{minor}" for minor in range(int(low), int(high))]


def python_of(version: str) -> str | None:
    """An interpreter of this version that starts; a name of pyenv's may be there without one behind it."""
    path = shutil.which(f"python{version}")
    if path and subprocess.run([path, "--version"], capture_output=True).returncode == 0:
        return path
    return None


def try_pair(python: str, place: Path, pins: list[str], words: list[str]) -> tuple[bool, dict, str]:
    """Whether the tests pass there; versions, counts and seconds; and pytest's last line, or the step that failed."""
    program = str(place / "bin" / "python")
    for step in ([python, "-m", "venv", str(place)], [program, "-m", "pip", "install", "-q", "-e", f"{ROOT}[all]", *pins]):
        if (done := subprocess.run(step, cwd=ROOT, capture_output=True, text=True)).returncode:
            return False, {}, f"{' '.join(step[:4])} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    ask = "import platform, torch, torchvision; print(platform.python_version(), torch.__version__, torchvision.__version__)"
    versions = subprocess.run([program, "-c", ask], capture_output=True, text=True).stdout.split()
    start = time.monotonic()
    done = subprocess.run([program, "-m", "pytest", "-q", *(words or TESTS)], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    seconds = round(time.monotonic() - start)
    (place / "pytest.log").write_text(done.stdout + done.stderr)
    last = (done.stdout.strip().splitlines() or ["nothing"])[-1].strip("= ")
    counts = {name: int(found[1]) if (found := re.search(rf"(\d+) {name}", last)) else 0 for name in COUNTS}
    line = dict(zip(("python", "torch", "torchvision"), versions)) | counts | {"seconds": seconds}
    return done.returncode == 0, line, f"Python {', torch '.join(versions[:2])}: {last}"


def commit() -> str:
    """The commit that is tested; ``+`` behind it where files of the checkout differ, which counts as no commit at all."""
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return git("rev-parse", "--short=12", "HEAD") + "+" * bool(git("status", "--porcelain", "--untracked-files=no"))


def known(at: str) -> dict[str, dict]:
    """Lines of the pairs that were tried at this commit."""
    if "+" in at or not KNOWN.is_file():
        return {}
    with open(KNOWN, newline="") as file:
        return {line["pair"]: line for line in csv.DictReader(file) if line["git_commit"] == at}


def write(lines: dict[str, dict], path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", newline="") as file:
        columns = ["pair", "python", "torch", "torchvision", "result", *COUNTS, "seconds", "git_commit"]
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines.values())


def main(words: list[str]) -> int:
    at, failed = commit(), False
    lines = known(at)
    for version in supported():
        if (python := python_of(version)) is None:
            print(f"Python {version} is not on this machine: skipped", flush=True)
            continue
        for name, pins in TORCHES.items():
            pair = f"{version}-{name}"
            if not words and lines.get(pair, {}).get("result") == "passed":
                print(f"passed  {version}, {name} torch: at this commit already", flush=True)
                continue
            good, line, said = try_pair(python, ROOT / ".matrix" / pair, pins, words)
            print(f"{'passed' if good else 'FAILED'}  {version}, {name} torch: {said}", flush=True)
            failed |= not good
            if line and not words:
                lines[pair] = {"pair": pair, "result": "passed" if good else "failed"} | line | {"git_commit": at}
                write(lines, KNOWN)
    if lines and not words:
        write(lines, ROOT / "outputs" / "bench" / f"{date.today()}_cpu_matrix.csv")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
