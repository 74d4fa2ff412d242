"""Batches: one at a time, on a GPU of its own, tried again only when the kernel died; the same rows through every engine."""

import os
import subprocess
import sys
import threading
import time
from itertools import groupby

import pytest
from conftest import experiment
from engines import ROOT, Place

from oefsmc_lib import cli, files
from oefsmc_lib.cli.grids import grid_check, grid_run
from oefsmc_lib.engine import batches, kernels, locks, runs
from oefsmc_lib.errors import InputError
from oefsmc_lib.notebook import session
from oefsmc_lib.parameters import grid, keys
from oefsmc_lib.parameters.experiment import VARIANTS, Experiment
from oefsmc_lib.rows.row import difference
from oefsmc_lib.rows.store import Store


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("OEFSMC_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


@pytest.fixture
def smoke(outputs):
    return batches.of_grids([grid.load_grid("smoke")])


# --- which batches there are ---------------------------------------------------------------------
def test_batches_hold_every_experiment_once():
    grids = grid.grids_of("cifar10")
    found = batches.of_grids(grids)
    keys = [e.key for batch in found for e in batch.experiments]
    assert sorted(keys) == sorted({e.key for each in grids for e in each.experiments})
    assert len({batch.marker for batch in found}) == len(found)
    for batch in found:
        shared = {(e.method, e.dataset, e.num, e.imbalance) for e in batch.experiments}
        assert len(shared) == 1


def test_a_batch_is_found_again_by_its_own_command(smoke):
    for batch in smoke:
        words = batch.command
        name, label, keys = words[5], words[6], words[-1]
        assert batches.find_batch(name, "embedded", label, keys).experiments == batch.experiments
    with pytest.raises(InputError, match="did you mean fskd-mnist5k-10-long_tail"):
        batches.find_batch("smoke", "embedded", "fskd-mnist5k-10")
    with pytest.raises(InputError, match="has no experiment abc"):
        batches.find_batch("smoke", "embedded", smoke[0].label, "abc")


# --- one batch ----------------------------------------------------------------------------------
class Notebook:
    """In place of papermill: fails as told, else writes the rows that the batch lacks."""

    def __init__(self, monkeypatch, batch, store, *failures):
        self.calls, self.batch, self.store, self.failures = 0, batch, store, list(failures)
        monkeypatch.setattr(kernels, "execute", self)

    def __call__(self, path, into, parameters):
        assert path.name == "batch.ipynb" and path.is_file() and into.parent == self.batch.folder
        assert set(parameters) == {"grid", "profile", "batch", "keys"}
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        from rows.test_results import row
        for e in self.batch.experiments:
            if e.key in parameters["keys"].split(","):
                self.store.write(row(experiment=e))


def died():
    return kernels.NotebookFailed("Kernel died", kernel_died=True)


def test_a_batch_with_all_its_rows_starts_no_kernel(smoke, monkeypatch):
    batch, store = smoke[0], Store()
    notebook = Notebook(monkeypatch, batch, store)
    batches.run_batch(batch, store)
    batches.run_batch(batch, store)
    assert notebook.calls == 1 and not batch.missing(store)
    batches.write_marker(batch, store, batch.marker)
    assert sorted(batch.marker.read_text().split()) == sorted(row.id for row in store.rows())


def test_a_dead_kernel_is_tried_again_once(smoke, monkeypatch):
    batch, store = smoke[0], Store()
    notebook = Notebook(monkeypatch, batch, store, died())
    batches.run_batch(batch, store)
    assert notebook.calls == 2 and "tried again: Kernel died" in batch.log.read_text() and batch.failure() is None
    batch = smoke[1]
    notebook = Notebook(monkeypatch, batch, store, died(), died())
    with pytest.raises(batches.BatchFailed, match="Kernel died"):
        batches.run_batch(batch, store)
    assert notebook.calls == 2 and batch.failure() == "Kernel died"


def test_a_notebook_that_raised_is_not_tried_again(smoke, monkeypatch):
    batch, store = smoke[0], Store()
    notebook = Notebook(monkeypatch, batch, store, kernels.NotebookFailed("ValueError: no", traceback="line 1\nValueError: no"))
    with pytest.raises(batches.BatchFailed, match="ValueError: no"):
        batches.run_batch(batch, store)
    assert notebook.calls == 1 and "  line 1\n" in batch.log.read_text()
    state = batches.state(batch, store)
    assert (state["missing"], state["failed"], state["last"], state["log"]) == (4, 4, "ValueError: no", batch.log)
    batches.run_batch(batch, store)                           # the next try succeeds: the failure is history
    assert batches.state(batch, store) == {"runs": 4, "done": 4, "missing": 0, "failed": 0, "at_work": False, "last": None,
                                         "log": None}


def test_a_batch_is_at_work_while_a_runner_has_its_lock(smoke):
    batch, other, store = *smoke[:2], Store()
    assert not batches.state(batch, store)["at_work"] and not batch.lock.exists()         # asking leaves nothing behind
    with files.alone(batch.lock, batch.label, False):
        assert batches.state(batch, store)["at_work"] and not batches.state(other, store)["at_work"]
    assert not batches.state(batch, store)["at_work"]


def test_a_notebook_that_ends_without_its_rows_has_failed(smoke, monkeypatch):
    monkeypatch.setattr(kernels, "execute", lambda *_: None)
    with pytest.raises(batches.BatchFailed, match="4 rows are missing although"):
        batches.run_batch(smoke[0], Store())


def test_exit_codes_of_a_batch(smoke, monkeypatch, capsys):
    def call(*more):
        monkeypatch.setattr(sys, "argv", ["oefsmc", *smoke[0].command[3:], *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code
    marker = smoke[0].folder / "x.rows"
    notebook = Notebook(monkeypatch, smoke[0], Store(), kernels.NotebookFailed("ValueError: no"))
    assert call("--marker", str(marker)) == 1 and not marker.exists()
    assert capsys.readouterr().err.count("\n") == 1
    lock = locks.take(smoke[0].folder / f".{smoke[0].label}.lock")
    assert call("--no-wait") == batches.BUSY
    lock.release()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert call("--marker", str(marker), "--threads", "3") == 0 and len(marker.read_text().split()) == 4
    assert os.environ.pop("OMP_NUM_THREADS") == "3" and notebook.calls == 2
    assert call("--keys", "abc") == 2


# --- locks and GPUs ----------------------------------------------------------------------------
def test_a_lock_ends_with_its_process(tmp_path):
    path = tmp_path / "x.lock"
    code = f"import time; from pathlib import Path; from oefsmc_lib.engine.locks import take; " \
           f"held = take(Path({str(path)!r})); print(held is not None, flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert other.stdout.readline() == "True\n"
    assert locks.take(path) is None
    with pytest.raises(files.Busy), files.alone(path, "x", False):
        pass
    other.kill()
    other.communicate()
    with files.alone(path, "x", False):
        assert locks.take(path) is None
    assert locks.take(path) is not None


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(locks, "gpus", lambda: ["GPU-a", "GPU-b"])
    monkeypatch.setattr(locks.tempfile, "gettempdir", lambda: str(tmp_path))


def test_a_gpu_takes_one_batch_at_a_time(two_gpus):
    one = [experiment(device="auto")]
    order = []

    def third():
        with locks.gpu_slot(one) as gpu:
            order.append(gpu)
    with locks.gpu_slot(one) as first:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == first == "GPU-a"
        del os.environ["CUDA_VISIBLE_DEVICES"]             # another process has an environment of its own
        with locks.gpu_slot(one) as second:
            assert os.environ["CUDA_VISIBLE_DEVICES"] == second == "GPU-b"
            del os.environ["CUDA_VISIBLE_DEVICES"]
            waiting = threading.Thread(target=third)
            waiting.start()
            time.sleep(0.3)
            assert order == []                             # both are taken
            os.environ["CUDA_VISIBLE_DEVICES"] = second
        waiting.join(10)
        assert order == ["GPU-b"]
        os.environ["CUDA_VISIBLE_DEVICES"] = first
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_pin_from_outside_and_a_named_device_are_left_alone(two_gpus, monkeypatch):
    with locks.gpu_slot([experiment(device="cpu")]) as gpu:
        assert gpu is None and "CUDA_VISIBLE_DEVICES" not in os.environ
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with locks.gpu_slot([experiment(device="auto")]) as gpu:
        assert gpu is None and os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_no_gpus_where_the_tool_is_missing_or_fails(monkeypatch):
    for command in (("no-such-tool",), (sys.executable, "-c", "print('error'); raise SystemExit(9)")):
        monkeypatch.setattr(locks, "_GPU", command)
        assert locks.gpus() == []
    monkeypatch.setattr(locks, "_GPU", (sys.executable, "-c", "print('GPU-1\\nGPU-2')"))
    assert locks.gpus() == ["GPU-1", "GPU-2"]


# --- every engine ------------------------------------------------------------------------------
ONE_BATCH = """blocks:
  - {method: fskd, num: 10, variant: native, seed: [0, 1]}
"""


def through_every_engine(tmp_path, text, runs, batches):
    """The rows of a grid through processes, in one process and Snakemake, compared; each then has nothing to do."""
    pytest.importorskip("snakemake")
    places = {name: Place(tmp_path / name, text) for name in ("run", "in-process", "snakemake")}
    done = places["run"].run("--jobs", "2")
    assert done.returncode == 0 and done.stdout.count("runs\n") == batches, done.stderr
    assert places["in-process"].run("--in-process").returncode == 0
    done = places["snakemake"].snakemake()
    assert done.returncode == 0, done.stderr
    again = places["snakemake"].snakemake()
    assert "Nothing to be done" in again.stderr and "0 missing" in places["run"].run().stdout
    assert len((places["snakemake"].outputs / "tables" / "embedded" / "mini.csv").read_text().splitlines()) > 1
    rows = {name: place.store.rows() for name, place in places.items()}
    assert [len(found) for found in rows.values()] == [runs] * 3
    for name in ("in-process", "snakemake"):
        assert [difference(one, other) for one, other in zip(rows["run"], rows[name], strict=True)] == [None] * runs


def test_a_batch_gives_the_same_rows_through_every_engine(tmp_path):
    through_every_engine(tmp_path, ONE_BATCH, 2, 1)


@pytest.mark.slow
def test_the_smoke_grid_gives_the_same_rows_through_every_engine(tmp_path):
    through_every_engine(tmp_path, (ROOT / "params" / "grids" / "smoke.yaml").read_text(), 8, 2)


def test_snakemake_shows_the_whole_paper(tmp_path):
    pytest.importorskip("snakemake")
    place = Place(tmp_path)
    done = subprocess.run([sys.executable, "-m", "snakemake", "-s", ROOT / "Snakefile", "-n", "--quiet", "rules"],
                          cwd=tmp_path, env=place.environment, capture_output=True, text=True)
    counts = dict(line.split() for line in (done.stdout + done.stderr).splitlines() if len(line.split()) == 2)
    grids = grid.grids_of("paper")
    assert counts["batch"] == str(len(batches.of_grids(grids))) and counts["table"] == str(len(grids))
    profiles = {each.profile.name for each in grids}
    assert int(counts["notebook"]) == len(profiles) * len(session.narrative()) and len(profiles) == 3


TOO_SMALL = """blocks:
  - {method: fskd, num: 10, variant: native}
  - {method: fskd, num: 10, variant: ours, n: 1900}
"""
SAID = "needs a pool of n=1900 images, but the OOD source outlines has 1950 usable images, of which 128 are set aside"


def test_a_source_that_is_too_small_is_refused_before_the_first_batch(tmp_path):
    place = Place(tmp_path, TOO_SMALL)
    for done in (place.oefsmc("grid", "check", place.grid), place.run(), place.run("--in-process")):
        assert done.returncode == 2 and SAID in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("oefsmc: In mini (embedded), fskd ours") and "valid" not in done.stdout
    assert not place.outputs.exists()
    assert place.run("--only", "variant=native", "--in-process").returncode == 0 and len(place.store.rows()) == 1


def test_snakemake_refuses_a_source_that_is_too_small_before_the_first_batch(tmp_path):
    pytest.importorskip("snakemake")
    place = Place(tmp_path, TOO_SMALL)
    done = place.snakemake()
    assert done.returncode == 1 and SAID in done.stderr, done.stderr
    assert not place.outputs.exists()
    assert not list((tmp_path / ".snakemake" / "locks").glob("*"))


def test_a_source_that_is_not_here_is_noted_by_check_and_run(tmp_path, outputs, monkeypatch, capsys):
    monkeypatch.setenv("OEFSMC_DATA", str(tmp_path / "data"))
    (tmp_path / "mine.yaml").write_text("blocks: [{ood_source: textures, seed: [0, 1]}]")
    monkeypatch.setattr(batches, "run", lambda *_: [])
    grid_check(str(tmp_path / "mine.yaml"))
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("2 runs in 1 batches, all valid") and len(said) == 2
    assert said[1].startswith("note: The OOD source textures is not on this machine, so its size is not checked")
    grid_run(str(tmp_path / "mine.yaml"), in_process=True)
    assert capsys.readouterr().err.splitlines() == [said[1]]


def test_what_a_command_refuses(tmp_path):
    place = Place(tmp_path)
    for words, said in ((("grid", "run"), "Name a grid"), (("grid", "run", "smoke", "--jobs", "2", "--in-process"), "one batch"),
                        (("grid", "batch", "smoke", "fskd"), "did you mean fskd-"),
                        (("results", "table", tmp_path / "x.csv", "--grid", "smoke"), "No rows fit")):
        done = place.oefsmc(*words)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not place.outputs.exists() and not (tmp_path / "x.csv").exists()


def test_runs_that_train_alike_stand_together():
    """Only the few latest of what runs share is kept, so nothing may stand between two runs that share it."""
    planned = [Experiment(method="practise", variant=variant, seed=seed) for variant in VARIANTS for seed in range(8)]
    for stage, kinds in (("training", 3), ("recovery", 4)):
        found = [keys.digest(keys.reads(e, stage)) for e in sorted(planned, key=runs._sharing_order)]
        assert len(list(groupby(found))) == len(set(found)) == 8 * kinds
