"""Rows computed by several processes are those of one, and no process outlives the one that asked."""

import os
import signal
import subprocess
import sys
import time

import pytest

from oefsmc_lib.engine import execute, runs
from oefsmc_lib.parameters import grid
from oefsmc_lib.rows.row import difference
from oefsmc_lib.rows.store import Store

PROFILE = grid.load_profile("embedded")


def some_runs(seeds):
    return [PROFILE.experiment({"method": method, "variant": "native", "num": 10, "seed": seed})
            for method in ("cd", "fskd") for seed in seeds]


def test_tasks_keep_what_shares_a_draw_together_and_start_with_the_long_ones():
    experiments = grid.load_grid("fig3a", "embedded").experiments
    tasks = execute.tasks(experiments)
    assert sorted(e.key for task in tasks for e in task) == sorted(e.key for e in experiments)
    assert all(len({(e.method, e.num, e.seed) for e in task}) == 1 and len(task) == 5 for task in tasks)
    assert [task[0].method for task in tasks][:3] == ["practise"] * 3 and tasks[-1][0].method == "fskd"


def test_few_runs_and_gpus_need_no_further_process(monkeypatch):
    assert execute.workers(execute.ENOUGH - 1) == 1
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert execute.workers(1000) == 1


def test_rows_are_those_of_one_process_with_one_thread(tmp_path, monkeypatch):
    import torch
    monkeypatch.setattr(execute, "workers", lambda runs: 2)
    experiments = some_runs((0, 1))
    execute.compute(experiments, Store(tmp_path / "two"), "embedded")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = runs.compute(experiments, Store(tmp_path / "one"), "embedded")
    torch.set_num_threads(threads)
    together = {row.key: row for row in Store(tmp_path / "two").rows()}
    assert len(together) == len(alone) == 4
    for row in alone[1:]:                                  # the first was made by this process, with its threads
        assert difference(row, together[row.key]) is None


def test_a_failed_run_is_named_and_the_others_are_done(tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "workers", lambda runs: 2)
    broken = PROFILE.experiment({"method": "fskd", "variant": "native_ft", "num": 10, "finetune.lr": 1e12})
    with pytest.raises(runs.RunsFailed, match="diverged"):
        execute.compute([*some_runs((0,)), broken], Store(tmp_path), "embedded")
    assert len(Store(tmp_path).rows()) == 2


SLEEPER = """
import operator, os, time
from oefsmc_lib.engine import execute

if __name__ == "__main__":
    results = execute.each(operator.call, [(os.getpid,), (time.sleep, 300)], 1)
    print(next(results), flush=True)
    time.sleep(300)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kill -9 is of Unix")
def test_a_killed_parent_takes_its_processes_along(tmp_path):
    script = tmp_path / "sleeper.py"
    script.write_text(SLEEPER)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.2)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")


def test_each_gives_every_result_and_raises_what_a_process_raised():
    assert sorted(execute.each(pow, [(2, 3), (3, 2), (5, 1)], 2)) == [5, 8, 9]
    with pytest.raises(ZeroDivisionError):
        list(execute.each(divmod, [(1, 1), (1, 0)], 2))
