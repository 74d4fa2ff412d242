"""Nothing is lost: whatever is killed, full or broken, finished rows stay, and the rerun computes what is missing."""

import json
import os
import shutil
import signal
import subprocess

import pytest
from engines import MINI, Place, children, finish, until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
RUNS = 6                                                   # of the grid, in two batches


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path)
    yield made
    made.end()


def kill(process):
    os.kill(process.pid, signal.SIGKILL)


def whole(place, kept=None):
    """Every row once, and those that were there before are the same files."""
    files = place.row_files()
    assert len(files) == len(place.store.rows()) == RUNS   # rows() raises for a file that cannot be read
    assert len({row.key for row in place.store.rows()}) == RUNS
    for name, stamp in (kept or {}).items():
        assert files[name] == stamp, f"{name} was computed again"


def completed(place, kept, *more):
    """The rerun ends well and leaves nothing to do; returns what it said."""
    done = place.run(*more)
    assert done.returncode == 0, done.stderr
    whole(place, kept)
    assert " 0 missing" in place.run("--dry-run").stdout
    return done.stdout


def test_a_killed_kernel_is_started_once_more(place):
    runner = place.start("grid", "run", place.grid)
    until(place.row_files, runner)
    kept = place.row_files()
    kill(children(runner, "ipykernel")[0])
    done = finish(runner)
    assert done.returncode == 0, done.stderr
    whole(place, kept)
    assert "tried again" in place.log(10) and "tried again" not in place.log(20)


def test_a_kernel_that_dies_again_fails_its_batch_alone(place):
    runner = place.start("grid", "run", place.grid)
    killed = set()
    for _ in range(2):
        kernel = until(lambda: [k for k in children(runner, "ipykernel") if k.pid not in killed], runner)[0]
        killed.add(kernel.pid)
        kill(kernel)
    done = finish(runner)
    assert done.returncode == 1 and "1 of 2 batches failed" in done.stderr
    assert "died" in place.notebook(10).read_text()
    assert {row.num for row in place.store.rows()} == {20}
    status = place.oefsmc("grid", "status", place.grid).stdout
    assert "died" in status and str(place.runs_folder()) in status
    assert "3 missing" in completed(place, place.row_files(), "--in-process")


def test_a_killed_batch_fails_alone(place):
    runner = place.start("grid", "run", place.grid)
    until(place.row_files, runner)
    kill(children(runner, "grid batch")[0])
    done = finish(runner)
    assert done.returncode == 1 and "killed by signal 9" in done.stderr
    assert sum(row.num == 20 for row in place.store.rows()) == 3
    completed(place, place.row_files(), "--in-process")


def test_a_killed_runner_is_taken_up_again(place):
    runner = place.start("grid", "run", place.grid)
    until(place.row_files, runner)
    kept = place.row_files()
    kill(runner)
    completed(place, kept)                                 # at once, while the orphaned batch may still be at work


def test_a_run_without_jupyter_that_is_killed_is_taken_up_again(place):
    runner = place.start("grid", "run", place.grid, "--in-process")
    until(place.row_files, runner)
    kept = place.row_files()
    kill(runner)
    finish(runner)
    assert len(kept) < RUNS
    completed(place, kept, "--in-process")


def test_a_killed_snakemake_is_taken_up_again(place):
    pytest.importorskip("snakemake")
    first = place.start(*place.snakemake_words("rows"), engine="snakemake")
    until(place.row_files, first)
    kept = place.row_files()
    kill(first)
    done = place.snakemake("rows")
    assert done.returncode == 0, done.stderr
    whole(place, kept)
    assert "Nothing to be done" in place.snakemake("rows").stderr


def test_two_runners_on_one_folder_share_the_work(place):
    runners = [place.start("grid", "run", place.grid) for _ in range(2)]
    for runner in runners:
        done = finish(runner)
        assert done.returncode == 0, done.stderr
    whole(place)
    assert [place.log(num).count("started: 3 of 3") for num in (10, 20)] == [1, 1], "a batch was computed twice"


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "oefsmc-test", folder], capture_output=True, text=True)
    if not mounted or mounted.returncode:
        pytest.skip("this user cannot mount a small disk; test_results.py injects the same error")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("how", [[], ["--in-process"]], ids=["papermill", "in-process"])
def test_a_full_disk(place, small_disk, how):
    place.outputs = small_disk / "outputs"
    assert place.run("--only", "seed=0", "--in-process").returncode == 0
    kept = place.row_files()
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 512)
    done = place.run(*how)
    assert done.returncode in (1, 2)
    assert "No space left" in done.stderr and "Traceback" not in done.stderr
    files = place.row_files()                              # a log that gave way may have left room for a row
    assert kept.items() <= files.items() and 2 == len(kept) <= len(files) == len(place.store.rows()) < RUNS
    kept = files
    ballast.unlink()
    completed(place, kept, "--in-process")


def test_a_corrupt_row_is_computed_again_alone(place):
    assert place.run("--in-process").returncode == 0
    kept = place.row_files()
    broken = sorted((place.outputs / "results" / "rows").glob("*.json"))[0]
    broken.write_text(broken.read_text()[:100])
    del kept[broken.name]
    assert "1 missing" in completed(place, kept, "--in-process")


def test_a_row_that_is_lost_or_corrupt_is_no_longer_hidden_by_its_marker(place):
    pytest.importorskip("snakemake")
    assert place.run("--in-process").returncode == 0
    assert place.snakemake("rows").returncode == 0         # nothing is computed: the markers are written
    for spoil in (lambda path: path.unlink(), lambda path: path.write_text("{")):
        kept = place.row_files()
        name = sorted(kept)[0]
        del kept[name]
        spoil(place.outputs / "results" / "rows" / name)
        assert " batch 1 " in " ".join(place.snakemake("rows").stderr.split())
        whole(place, kept)


@pytest.fixture
def faulty(tmp_path):
    """A fourth run in the first batch, which is refused: its device is not here."""
    made = Place(tmp_path, MINI + '  - {method: fskd, num: 10, variant: native, seed: 7, device: "cuda:99"}\n')
    yield made
    made.end()


@pytest.mark.parametrize("how", [[], ["--in-process"], "snakemake"], ids=["papermill", "in-process", "snakemake"])
def test_a_run_that_fails_stops_no_other(faulty, how):
    if how == "snakemake":
        pytest.importorskip("snakemake")
        done = faulty.snakemake("rows")
    else:
        done = faulty.run(*how)
    assert done.returncode == 1
    assert "cuda:99" in done.stderr and "Traceback" not in done.stderr
    whole(faulty)
    status = faulty.oefsmc("grid", "status", faulty.grid).stdout
    assert "cuda:99" in status and ".log" in status
    if how != ["--in-process"]:
        outputs = [o for cell in json.loads(faulty.notebook(10).read_text())["cells"] for o in cell.get("outputs", [])]
        assert [o["ename"] for o in outputs if o["output_type"] == "error"] == ["RunsFailed"]
        assert "RunsFailed" in faulty.log(10)
    kept = faulty.row_files()
    faulty.grid.write_text(faulty.grid.read_text().replace("cuda:99", "cpu"))
    assert faulty.run("--in-process").returncode == 0
    assert len(faulty.row_files()) == RUNS + 1 and kept.items() <= faulty.row_files().items()
    assert not list((faulty.outputs / "results" / "failed").glob("*"))


def test_a_notebook_that_raises_is_kept_with_its_error_and_not_tried_again(place, monkeypatch):
    """A library that breaks in the kernel: the first batch that imports it raises."""
    broken = place.folder / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import sys\nif 'ipykernel_launcher' in ' '.join(sys.orig_argv): sys.modules['oefsmc_lib.notebook.session'] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(broken), prepend=os.pathsep)
    done = place.run()
    assert done.returncode == 1 and "2 of 2 batches failed" in done.stderr
    assert "ImportError" in place.notebook(10).read_text() or "ModuleNotFoundError" in place.notebook(10).read_text()
    assert place.log(10).count("started") == 1 and "tried again" not in place.log(10)
    (broken / "sitecustomize.py").unlink()
    completed(place, {}, "--in-process")
