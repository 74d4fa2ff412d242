"""Set-up: one source of dependencies, a Makefile that installs once, an import that stays light."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import oefsmc_lib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def make(*arguments, cwd=ROOT):
    if shutil.which("make") is None:
        pytest.skip("make is not on this machine")
    # What an outer `make VENV=... test` passes on must not reach this one.
    outer = {"MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "VENV", "PYTHON", "PROFILE"}
    clean = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(["make", *arguments], cwd=cwd, env=clean, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path):
    """A folder with the Makefile and pyproject.toml alone."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_conda_and_pip_install_the_same():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    names = [entry for entry in listed if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in listed if isinstance(entry, dict)]
    assert pip == ["-e .[all]"]                    # pyproject.toml decides, not a second list
    assert sorted(re.split("[=<>]", name)[0] for name in names) == ["make", "pip", "python"]


def test_conda_python_is_supported():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (python,) = [entry for entry in listed if isinstance(entry, str) and entry.startswith("python=")]
    minor = int(python.split("=")[1].split(".")[1])
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
    assert int(low) <= minor < int(high)


def test_makefile_accepts_the_supported_pythons():
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
    found = re.search(r"\(3, (\d+)\) <= sys\.version_info\[:2\] <= \(3, (\d+)\)", (ROOT / "Makefile").read_text())
    assert found.groups() == (low, str(int(high) - 1))


def test_all_names_every_extra():
    extras = PROJECT["optional-dependencies"]
    (whole,) = extras["all"]
    named = re.fullmatch(r"oefsmc\[(.*)\]", whole).group(1).split(",")
    assert sorted(named) == sorted(set(extras) - {"all"})


def test_upper_pins_have_a_reason():
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    pinned = [i for i, line in enumerate(lines) if re.search(r'^\s*"[\w-]+.*(<|==|~=|!=)', line)]
    assert not [lines[i] for i in pinned if "#" not in lines[i] + lines[i - 1]]


def test_citation_has_what_readers_need():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == oefsmc_lib.__version__
    assert citation["authors"] == [{"name": "OE-FSMC reproducibility package contributors"}]
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Wu", "Lyu", "Chen", "Qu", "Ye"]
    assert paper["title"].startswith("Compressing Model with Few Class-Imbalance Samples")
    assert not {"doi", "identifiers"} & (set(citation) | set(paper))      # none is known: none is made up


@pytest.mark.parametrize("target", ["help", "figures", "test", "test-slow", "lab", "clean"])
def test_makefile_has_target(target):
    done = make("-n", target)
    assert done.returncode == 0, done.stderr


def test_help_lists_every_target():
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M).group(1).split()
    listed = [line.split()[0] for line in make("help").stdout.splitlines()[1:]]
    assert sorted(listed) == sorted(phony)


def test_second_call_installs_nothing(copy):
    assert "pip install" in make("-n", "test", cwd=copy).stdout
    stamp = copy / ".venv" / ".installed"
    stamp.parent.mkdir()
    stamp.touch()
    again = make("-n", "test", cwd=copy).stdout
    assert "pip install" not in again and "pytest" in again


def test_unsupported_python_is_refused_in_one_sentence(copy):
    done = make("PYTHON=no-such-python", "test", cwd=copy)
    assert done.returncode != 0 and not (copy / ".venv").exists()
    assert "no-such-python is not Python 3.11, 3.12 or 3.13" in done.stderr


def test_import_loads_no_torch():
    code = "import sys, oefsmc_lib; print([m for m in ('torch', 'torchvision', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
