"""Committed rows, computed again: what counts as the same, and what cannot be compared."""

import pytest
from conftest import experiment

from oefsmc_lib import pipeline
from oefsmc_lib.engine import recheck
from oefsmc_lib.errors import InputError


@pytest.fixture
def rows(tiny):
    settings = ({"method": "fskd", "variant": "ours"}, {"method": "cd", "variant": "native"},
                {"method": "mir", "variant": "wo_comp"}, {"method": "practise", "variant": "extra_images"},
                {"method": "fskd", "variant": "native_ft", "finetune.stop": "watch"})      # it reads OOD images, and no pool
    return [pipeline.run(experiment(**each), profile="trial")[1] for each in settings]


def changed(row, **columns):
    return row.model_copy(update=columns)


def test_every_method_comes_out_the_same(rows):
    for found in recheck.recheck(rows):
        assert found.agrees and not found.differs_in and found.now.per_class == found.stored.per_class
        assert found.now.id == found.stored.id


def test_the_last_bit_counts_on_the_same_machine_and_half_a_point_elsewhere(rows):
    row = rows[0]
    for points, machine, agrees in ((0.01, {}, False), (0.5, {"torch": "2.11.0"}, True), (0.5, {"device": "cpu: X"}, True),
                                    (0.51, {"device": "cpu: X"}, False), (0.51, {"torchvision": "0.26"}, False)):
        stored = changed(row, **machine)
        found = recheck.Recheck(stored, changed(row, top1=row.top1 + points))
        assert found.agrees is agrees and found.differs_in == list(machine), (points, machine)


def test_each_row_gets_its_own_number_of_threads(rows, monkeypatch):
    import torch
    before, seen, run = torch.get_num_threads(), [], pipeline.run
    monkeypatch.setattr(pipeline, "run", lambda *a: (seen.append(torch.get_num_threads()), run(*a))[1])
    list(recheck.recheck([changed(rows[0], threads=1), changed(rows[0], threads=2)]))
    assert seen == [1, 2] and torch.get_num_threads() == before


def test_another_teacher_or_other_images_are_named_before_the_run(rows, monkeypatch):
    monkeypatch.setattr(pipeline, "run", None)
    for column, value in (("teacher_sha256", "another"), ("ood_fingerprint", "another"), ("algorithm", 1), ("few_indices", [1, 2])):
        with pytest.raises(InputError, match=f"cannot be computed again here: {column} is .* in the row and .* here"):
            list(recheck.recheck([changed(rows[0], **{column: value})]))


def test_the_choice_is_a_draw_without_repeats_that_the_seed_decides(rows):
    ids = [row.id for row in recheck.choose(rows, 3, 1)]
    assert ids == [row.id for row in recheck.choose(list(reversed(rows)), 3, 1)] and len(set(ids)) == 3
    assert len({tuple(row.id for row in recheck.choose(rows, 2, seed)) for seed in range(9)}) > 1
    assert len(recheck.choose(rows, 10, 0)) == len(rows) == 5
    with pytest.raises(InputError, match="no rows to compute again"):
        recheck.choose([], 10, 0)


def test_a_union_has_the_rows_of_its_members(rows, monkeypatch, tmp_path):
    from oefsmc_lib.cli.rows import rows_of
    from oefsmc_lib.rows.store import Store
    monkeypatch.setenv("OEFSMC_OUTPUTS", str(tmp_path))
    names = ["cifar10", "cifar100", "embedded", None]
    for row, name in zip(rows, names):
        Store().write(changed(row, profile=name))
    for asked, expected in (("paper", {"cifar10", "cifar100"}), ("embedded", {"embedded"}), (None, set(names))):
        assert {row.profile for row in rows_of(asked, None)[0]} == expected
