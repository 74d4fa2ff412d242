"""Latency: models in turn, medians in rows that no comparison of rows reads."""

import pytest
import torch
from conftest import RESNET, experiment
from torch import nn

from oefsmc_lib import pipeline
from oefsmc_lib.rows.row import Row, difference
from oefsmc_lib.teacher import latency

COLUMNS = ("latency_ms", "latency_64_ms", "teacher_latency_ms", "teacher_latency_64_ms")


class Named(nn.Module):
    def __init__(self, name, seen, clock, cost):
        super().__init__()
        self.weight, self.name, self.seen, self.clock, self.cost = nn.Parameter(torch.zeros(1)), name, seen, clock, cost

    def forward(self, images):
        self.seen.append((self.name, len(images), self.training))
        self.clock[0] += self.cost * (3 if len(self.seen) == 5 else 1)         # the first timed pass is disturbed


def test_models_run_in_turn_and_the_median_survives_a_disturbance(monkeypatch):
    seen, clock = [], [0.0]
    monkeypatch.setattr(latency, "clock_of", lambda device: lambda: clock[0])
    models = [Named("teacher", seen, clock, 0.004), Named("student", seen, clock, 0.001)]
    found = latency.milliseconds(models, RESNET, batch=3, seconds=0)
    assert found[:, 1].tolist() == pytest.approx([4.0, 1.0]) and bool((found[:, 0] <= found[:, 2]).all())
    assert seen == [("teacher", 3, False), ("student", 3, False)] * (2 + latency.LEAST)
    seen.clear()
    latency.milliseconds(models, RESNET, seconds=1e9)
    assert len(seen) == 2 * (2 + latency.MOST)


def test_rows_have_latencies_that_make_no_difference_and_old_rows_load_without(tiny):
    row = pipeline.run(experiment(variant="native"))[1]
    assert all(getattr(row, name) > 0 for name in COLUMNS)
    slower = row.model_copy(update={name: 1e3 for name in COLUMNS})
    assert difference(row, slower) is None
    flat = {name: value for name, value in row.flat().items() if name not in COLUMNS and not name.startswith("mimic")}
    old = Row.model_validate(flat)
    assert old.latency_64_ms is None and old.mimic_kept is None and difference(row, old) is None
