"""The stored rows of the embedded set, which ``make test`` shows the notebooks with: complete, and they come out again."""

from pathlib import Path

import pytest

from oefsmc_lib.engine import recheck
from oefsmc_lib.notebook import session
from oefsmc_lib.parameters import grid
from oefsmc_lib.parameters.experiment import ALGORITHM_VERSION
from oefsmc_lib.rows.store import Store

STORED = Path(__file__).with_name("rows.jsonl")
RENEW = "`make test-rows` computes them anew"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    (folder / STORED.name).symlink_to(STORED)
    return Store(folder).rows()


def test_there_is_one_for_every_run_that_a_notebook_reads(stored):
    wanted = {e.key for name in session.DRAWN for e in grid.load_grid(name, "embedded").experiments}
    assert {row.key for row in stored} == wanted, RENEW
    assert {row.algorithm for row in stored} == {ALGORITHM_VERSION}, RENEW
    assert len({(row.teacher_sha256, row.data_fingerprint, row.torch, row.device) for row in stored}) == 1, "of one machine"


# Half a point is what a stored row is allowed elsewhere; a network that is trained may drift a little further.
ALLOWED = {"fskd": 0.5, "cd": 0.5, "mir": 1.0, "practise": 1.0}
AGAIN = {"fskd": (("native_ft", "ours", "whole_pool"), 4), "cd": (("native_ft", "ours"), 2), "mir": (("native",), 1),
         "practise": (("native",), 1)}


@pytest.mark.parametrize("method", AGAIN)
def test_some_come_out_again_on_this_machine(stored, method, tmp_path, monkeypatch):
    monkeypatch.setenv("OEFSMC_DATA", str(tmp_path))       # with the teacher that comes with the library
    variants, seeds = AGAIN[method]
    profile = grid.load_profile("embedded")
    keys = {profile.experiment({"method": method, "num": 10, "variant": variant, "seed": seed}).key
            for variant in variants for seed in range(seeds)}
    found = list(recheck.recheck(row for row in stored if row.key in keys))
    assert len(found) == len(keys) == len(variants) * seeds
    off = {f"{each.stored.variant} {each.stored.seed}": each.now.top1 - each.stored.top1 for each in found}
    assert max(map(abs, off.values())) <= ALLOWED[method], off
    assert abs(sum(off.values())) <= 0.3 * len(off) or len(off) == 1, off
