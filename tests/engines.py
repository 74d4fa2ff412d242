"""What the tests of engines share: a grid of six short runs, commands as processes, and what is in a store."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from oefsmc_lib.files import data_folder, project_root
from oefsmc_lib.rows.store import Store

ROOT = project_root()
MINI = """title: mini
blocks:
  - {method: fskd, num: [10, 20], variant: native, seed: [0, 1, 2]}
"""


class Place:
    """A folder of outputs, a grid in it, and the commands that are run there; none outlives its test."""

    def __init__(self, folder: Path, text: str = MINI):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.outputs, self.grid = folder, folder / "outputs", folder / "mini.yaml"
        self.grid.write_text(text)
        self.started: list[subprocess.Popen] = []

    @property
    def environment(self):
        named = {"OEFSMC_OUTPUTS": str(self.outputs), "OEFSMC_DATA": str(data_folder()), "OEFSMC_QUIET": "1",
                 "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "200"}
        return {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"} | named

    def start(self, *words, engine="oefsmc_lib"):
        process = subprocess.Popen([sys.executable, "-m", engine, *map(str, words)], cwd=self.folder, text=True,
                                   env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.started.append(process)
        return process

    def oefsmc(self, *words):
        """A command to its end: exit code, and all that it said."""
        return finish(self.start(*words))

    def run(self, *more):
        return self.oefsmc("grid", "run", self.grid, *more)

    def snakemake_words(self, *more, profile="local"):
        return ("-s", ROOT / "Snakefile", "--workflow-profile", ROOT / "params" / "workflow-profiles" / profile, *more,
                "--config", f"grid={self.grid}", "profile=embedded")

    def snakemake(self, *more, **options):
        return finish(self.start(*self.snakemake_words(*more, **options), engine="snakemake"))

    @property
    def store(self):
        return Store(self.outputs / "results")

    def row_files(self):
        """``{file: (inode, time)}``: a row that is written again is another file."""
        found = {}
        for path in (self.outputs / "results" / "rows").glob("[!.]*.json"):
            stat = path.stat()
            found[path.name] = stat.st_ino, stat.st_mtime_ns
        return found

    def runs_folder(self):
        return self.outputs / "runs" / "embedded-mini"

    def log(self, num):
        return next(self.runs_folder().glob(f"fskd-mnist5k-{num}-*.log")).read_text()

    def notebook(self, num):
        return next(self.runs_folder().glob(f"fskd-mnist5k-{num}-*.ipynb"))

    def end(self):
        for process in self.started:
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()
                process.communicate()


def finish(process, timeout=280):
    out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def children(process, word):
    """Living descendants of a process whose command has ``word`` in it."""
    found = []
    try:
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                if word in " ".join(child.cmdline()):
                    found.append(child)
            except psutil.Error:
                continue                                   # it ended while it was looked at
    except psutil.Error:
        pass
    return found


def until(condition, process=None, timeout=120):
    """The condition's first true value; fails with the process's words when that ends before."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if value := condition():
            return value
        if process is not None and process.poll() is not None and not condition():
            raise AssertionError(f"ended too early: {process.communicate()}")
        time.sleep(0.02)
    raise AssertionError("waited in vain")
