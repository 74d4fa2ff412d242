"""The tests on every supported Python that is on this machine, with the lowest and the highest torch: ``make matrix``.

Each pair has an environment of its own below ``.matrix/``; what is not here is said to be skipped. Arguments go to pytest.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


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


def try_pair(python: str, place: Path, pins: list[str], words: list[str]) -> tuple[bool, str]:
    """Whether the tests pass there, and pytest's last line, or the step that failed."""
    program = str(place / "bin" / "python")
    for step in ([python, "-m", "venv", str(place)], [program, "-m", "pip", "install", "-q", "-e", f"{ROOT}[notebooks,test]", *pins]):
        if (done := subprocess.run(step, cwd=ROOT, capture_output=True, text=True)).returncode:
            return False, f"{' '.join(step[:4])} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    ask = "import platform, torch; print(f'Python {platform.python_version()}, torch {torch.__version__}')"
    what = subprocess.run([program, "-c", ask], capture_output=True, text=True).stdout.strip()
    done = subprocess.run([program, "-m", "pytest", "-q", *(words or ["tests"])], cwd=ROOT, capture_output=True, text=True)
    (place / "pytest.log").write_text(done.stdout + done.stderr)
    return done.returncode == 0, f"{what}: {(done.stdout.strip().splitlines() or ['nothing'])[-1].strip('= ')}"


if __name__ == "__main__":
    failed = False
    for version in supported():
        if (python := python_of(version)) is None:
            print(f"Python {version} is not on this machine: skipped", flush=True)
            continue
        for name, pins in TORCHES.items():
            good, said = try_pair(python, ROOT / ".matrix" / f"{version}-{name}", pins, sys.argv[1:])
            print(f"{'passed' if good else 'FAILED'}  {version}, {name} torch: {said}", flush=True)
            failed |= not good
    sys.exit(failed)
