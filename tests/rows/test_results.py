"""Rows, and the store that loses none."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oefsmc_lib import files
from oefsmc_lib.errors import InputError
from oefsmc_lib.parameters.experiment import METHODS, VARIANTS, Experiment
from oefsmc_lib.rows.row import Row
from oefsmc_lib.rows.store import Store, merge, pack

ROOT = Path(__file__).resolve().parents[2]


def row(seed=0, top1=80.0, id=None, experiment=None, **changes):
    experiment = experiment or Experiment(seed=seed)
    measured = dict(
        id=id or f"{experiment.key}-t1", data_fingerprint="d1", network="vgg16-w0.25", teacher_sha256="t1",
        teacher_accuracy=98.6, counts=[6, 4], order=[1, 0], few_indices=[3, 1], aux_counts=[1, 2], top1=top1,
        balanced_accuracy=top1, per_class=[top1, None], macs=10, params=5, macs_cut=50.0, params_cut=50.0,
        kept={"features.0": 8}, device="cpu", threads=2, torch="2", torchvision="0", oefsmc="0.1.0", python="3.12",
        time="2026-01-01T00:00:00Z")
    return Row.of(experiment, **{**measured, **changes})


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


# --- the row -----------------------------------------------------------------------------------
def test_row_is_flat_json_and_comes_back(store):
    one = row()
    path = store.write(one)
    values = json.loads(path.read_text())
    assert values["num"] == 10 and values["fskd.rho"] == 1e-4 and values["lam"] == 0.5 and "switches" not in values
    assert store.rows() == [one]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_row_names_every_switch_of_its_run(method, variant, store):
    experiment = Experiment(method=method, variant=variant, num=20)
    one = row(experiment=experiment)
    assert {name: one.flat()[name] for name in experiment.switches()} == json.loads(json.dumps(experiment.switches()))


@pytest.mark.parametrize("settings", [
    dict(variant="native"), dict(variant="ours", importance="native"), dict(variant="native", importance="class_aware"),
    dict(imbalance="counts", counts=(6, 4)), dict(imbalance="balanced"), dict(variant="ours", ood_exclude=("a", "b")),
    dict(method="cd", variant="wo_comp", m=5, n=9), dict(aux="augmented_few"), dict(**{"finetune": {"epochs": 3}})])
def test_a_stored_row_gives_its_experiment_back(settings, store):
    experiment = Experiment.parse(settings)
    store.write(row(experiment=experiment))
    assert store.rows()[0].experiment().key == experiment.key


@pytest.mark.parametrize("change, named", [
    ({"surprise": 1}, "unknown column 'surprise'"), ({"top1": 101}, "top1"), ({"top1": math.nan}, "top1"),
    ({"counts": "many"}, "counts"), ({"id": "../x"}, "id")])
def test_a_row_that_is_not_one_is_refused_by_name(change, named, store):
    path = store.write(row())
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=named) as refused:
        store.rows()
    assert str(path) in str(refused.value) and "delete it and run again" in str(refused.value)


def test_importing_results_and_summaries_loads_nothing_heavy():
    code = "import sys, oefsmc_lib.evidence.tables; print([m for m in ('torch', 'pandas', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- the store ---------------------------------------------------------------------------------
def test_a_fresh_store_is_empty(store):
    assert store.rows() == [] and store.find("x") == []
    assert not store.folder.exists()                       # reading creates nothing


def test_find(store):
    one, two = row(0), row(1)
    store.write(one)
    assert store.find(one.key) == [one] and store.find(two.key) == []
    store.write(two)                                       # seen though the first reading was kept in memory
    assert store.rows({two.key}) == [two]
    store.write(row(1, top1=70.0))
    assert [row.top1 for row in store.find(two.key)] == [70.0]


@pytest.mark.parametrize("content", [b"", b"{", b'{"id": "x"', b"\xff\x00", b"[]", b"null"])
def test_a_corrupt_row_is_named_or_passed_over(content, store):
    good = row(0)
    store.write(good)
    bad = store.folder / "rows" / "bad.json"
    bad.write_bytes(content)
    for read in (store.rows, lambda: store.find("bad")):
        with pytest.raises(InputError, match="bad.json .*delete it and run again"):
            read()
    for _ in range(2):                                     # said every time, not only at the first reading
        with pytest.warns(UserWarning, match="bad.json"):
            assert store.rows(on_error="warn") == [good]
    with pytest.warns(UserWarning, match="bad.json"):
        assert store.find("bad", on_error="warn") == []    # so it is computed again


def test_a_row_under_another_name_is_refused(store):
    path = store.write(row(0))
    path.rename(path.with_name("other.json"))
    with pytest.raises(InputError, match="another run"):
        store.rows()


def test_a_corrupt_line_of_a_tidy_file_is_named(store):
    pack([row(0), row(1)], store.folder / "table1.jsonl")
    with (store.folder / "table1.jsonl").open("a") as file:
        file.write('{"id": ')
    with pytest.raises(InputError, match="table1.jsonl, line 3, "):
        store.rows()
    with pytest.warns(UserWarning):
        assert len(store.rows(on_error="warn")) == 2


def test_a_row_in_two_places_counts_once(store):
    pack([row(0), row(1)], store.folder / "table1.jsonl")
    pack([row(1)], store.folder / "table2.jsonl")
    store.write(row(0, seconds_total=9.0, device="cuda", time="2027-01-01T00:00:00Z"))
    assert len(store.rows()) == 2


def test_two_results_of_one_run_are_a_conflict(store):
    pack([row(0)], store.folder / "table1.jsonl")
    store.write(row(0, top1=81.0))
    with pytest.raises(InputError, match="two results: .*json and .*table1.jsonl differ in top1"):
        store.rows()
    with pytest.warns(UserWarning, match="two results"):
        assert len(store.rows(on_error="warn")) == 1


CHILD = """
import os, sys, time
from oefsmc_lib import files
from tests.rows.test_results import row, Store
store = Store(sys.argv[1])
def stuck(*_):
    print("written, not renamed", flush=True)
    time.sleep(60)
files.os.replace = stuck
store.write(row(0, top1=11.0))
"""


@pytest.mark.parametrize("before", [False, True])
def test_a_kill_while_writing_leaves_the_old_row_or_none(before, store):
    if before:
        store.write(row(0))
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(store.folder)], cwd=ROOT, stdout=subprocess.PIPE,
                             env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert b"not renamed" in child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert len(list((store.folder / "rows").iterdir())) == 1 + before    # the temporary is there ...
    assert store.rows() == ([row(0)] if before else [])                  # ... and nobody reads it
    store.write(row(0))
    assert store.rows() == [row(0)]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_nothing_half_written(call, store, monkeypatch):
    store.write(row(0))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, call, full)
    for one in (row(0, top1=50.0), row(1)):
        with pytest.raises(InputError, match="No space left on device"):
            store.write(one)
    monkeypatch.undo()
    assert [path.name for path in (store.folder / "rows").iterdir()] == [f"{row(0).id}.json"]
    assert store.rows() == [row(0)]


def test_a_store_under_a_file_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "results")
    assert store.rows() == []
    with pytest.raises(InputError, match="a file stands in its way"):
        store.write(row())


WRITER = """
import sys
from tests.rows.test_results import row, Store
store = Store(sys.argv[1])
for turn in range(20):
    for seed in range(5):
        store.write(row(seed, top1=float(turn)))
"""


def test_two_writers_and_a_reader_on_one_folder(store):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(store.folder)], cwd=ROOT,
                                env={**os.environ, "PYTHONPATH": str(ROOT)}) for _ in range(2)]
    while any(writer.poll() is None for writer in writers):
        store.rows()                                       # never a half row
        time.sleep(0.01)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [one.top1 for one in store.rows()] == [19.0] * 5
    assert all(path.suffix == ".json" for path in (store.folder / "rows").iterdir())


def test_merge_takes_each_row_once(tmp_path):
    here, there, far = (Store(tmp_path / name) for name in ("here", "there", "far"))
    here.write(row(0))
    there.write(row(0, device="cuda"))
    there.write(row(1))
    pack([row(1), row(2)], far.folder / "table1.jsonl")
    assert merge([there.folder, far.folder], here) == (2, 2)
    assert [one.seed for one in here.rows()] == [0, 1, 2]
    assert merge([there.folder, far.folder], here) == (0, 4)


def test_merge_names_a_conflict_and_writes_nothing(tmp_path):
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    here.write(row(1))
    there.write(row(0))
    there.write(row(1, top1=1.0))
    with pytest.raises(InputError, match="two results: .*here and .*there differ in top1"):
        merge([there.folder], here)
    assert [one.seed for one in here.rows()] == [1]
    with pytest.raises(InputError, match="holds no rows"):
        merge([tmp_path / "nowhere"], here)


def test_pack_is_sorted_and_exact(tmp_path):
    rows = [row(2, top1=100 / 3), row(0), row(1)]
    for name, order in (("a", rows), ("b", rows[::-1])):
        pack(order, tmp_path / f"{name}.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert [one.top1 for one in Store(tmp_path).rows()] == [80.0, 80.0, 100 / 3]
