"""The tables of `bench/ship.py`: paired differences, the sentence, the figure; what was not run is said."""

import os
import subprocess
import sys

import matplotlib.pyplot as plt
import pytest
from conftest import needs_onnx

from oefsmc_lib.evidence import figures, pairs, shipping
from oefsmc_lib.evidence.answers import NOT_RUN
from oefsmc_lib.files import outputs_folder, project_root

TOP1 = {("teacher", "float32"): 92.0, ("teacher", "int8"): 91.9, ("pruned", "float32"): 90.5, ("pruned", "int8"): 90.0}
MS = {("teacher", "float32"): 8.0, ("teacher", "int8"): 2.0, ("pruned", "float32"): 4.0, ("pruned", "int8"): 1.0}
SIZE = {("teacher", "float32"): 60e6, ("teacher", "int8"): 15e6, ("pruned", "float32"): 20e6, ("pruned", "int8"): 5e6}


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Writes the tables of three draws; ``leave`` says which lines to leave out."""
    monkeypatch.setenv("OEFSMC_OUTPUTS", str(tmp_path))

    def write(leave=lambda **_: False):
        lines = [",".join([*shipping.COLUMNS])]
        for seed in range(3):
            for (network, precision), top1 in TOP1.items():
                for place, calibration in enumerate(shipping.CALIBRATIONS if precision == "int8" else ("",)):
                    line = dict(seed=seed, imbalance="long_tail", network=network, precision=precision, calibration=calibration)
                    if not leave(**line):
                        # A draw moves both networks alike, so paired differences do not vary; absent classes are empty in draw 0.
                        values = [top1 + seed + 0.1 * place, 95, 90, "" if seed == 0 else 80, SIZE[network, precision]]
                        lines.append(",".join(map(str, [*line.values(), *values])))
        folder = outputs_folder() / "bench"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "2026-01-01_cpu_2.0_ship.csv").write_text("\n".join(lines) + "\n")
        times = ["network,precision,repeat,cpu_low_ms,cpu_median_ms,cpu_high_ms"]
        times += [f"{n},{p},{r},{ms - 0.1},{ms + off},{ms + 0.1}" for (n, p), ms in MS.items() for r, off in enumerate((-0.05, 0, 0.05))]
        (folder / "2026-01-01_cpu_2.0_ship-latency.csv").write_text("\n".join(times) + "\n")
    yield write
    plt.close("all")


def test_the_sentence_is_computed_from_paired_differences_and_medians(measured):
    measured()
    said = shipping.sentence()
    assert "4.0 times as fast and 4.0 times smaller, and its top-1 changes by +0.0 ± 0.0 points" in said
    assert "8.0 times as fast and 12.0 times smaller, and its top-1 changes by −1.9 ± 0.0 points" in said


def test_a_difference_pairs_the_seeds_that_both_have(measured):
    measured(lambda seed, network, precision, **_: seed == 2 and (network, precision) == ("pruned", "int8"))
    found = shipping.rows()
    small, exact = (shipping.values(found, ("pruned", precision)) for precision in ("int8", "float32"))
    assert sorted(small) == [0, 1] and pairs.minus(small, exact) == pytest.approx({0: -0.4, 1: -0.4})
    line = next(line for line in shipping.changes(found) if line["network"] == "pruned" and line["few images"] == "long-tailed")
    assert (line["few"], line["few + OOD"], line["OOD"]) == ("−0.5 ± 0.0", "−0.4 ± 0.0", "−0.3 ± 0.0")
    assert sorted(shipping.values(found, ("pruned", "float32"), "absent")) == [1, 2]


def test_what_was_not_run_is_said(measured):
    measured()
    page = shipping.markdown()
    balanced = [line for line in page.splitlines() if "| balanced" in line]
    assert len(balanced) == 2 and all(line.count(NOT_RUN) == 3 for line in balanced)
    assert "| pruned, int8 | 5.0 | 1.00 (0.90–1.10) |" in page
    measured(lambda precision, **_: precision == "int8")
    assert shipping.sentence().endswith(f"{NOT_RUN}.") and NOT_RUN in figures.shipping_title()


@pytest.mark.parametrize("leave", [lambda **_: False, lambda network, **_: network == "pruned", lambda seed, **_: seed > 0])
def test_the_figure_draws_what_there_is(measured, leave):
    measured(leave)
    figure = figures.shipping_files()
    speed, groups, change = figure.axes
    assert [label.get_text() for label in change.get_xticklabels()] == list(shipping.CALIBRATIONS)
    assert [label.get_text() for label in groups.get_xticklabels()] == list(shipping.GROUPS)
    files = {line.get_label() for line in speed.lines if not line.get_label().startswith("_")}
    assert files == {title for (network, _), title in shipping.FILES.items() if not leave(network=network, seed=0)}
    assert figure.get_suptitle() == figures.shipping_title()
    # Each mark of the last panel is int8 minus the float32 file of its own network, and grows by 0.1 from place to place.
    bars = {tuple(float(y) for y in bar.lines[0].get_ydata()) for bar in change.containers}
    wanted = {network: TOP1[network, "int8"] - TOP1[network, "float32"] for network, _ in TOP1 if not leave(network=network, seed=0)}
    assert {round(y, 6) for bar in bars for y in bar} == {round(gap + 0.1 * place, 6) for gap in wanted.values() for place in range(3)}


def test_without_tables_the_figure_says_so(monkeypatch):
    monkeypatch.setattr(shipping, "rows", lambda: None)
    figure = figures.shipping_files()
    assert [ax.texts[0].get_text() for ax in figure.axes] == [NOT_RUN] * 3
    assert NOT_RUN in shipping.sentence() and NOT_RUN in shipping.markdown()
    plt.close(figure)


@needs_onnx
def test_the_bench_goes_on_where_it_was_stopped(measured, monkeypatch):
    measured(lambda seed, **_: seed > 0)
    monkeypatch.syspath_prepend(str(project_root() / "bench"))
    import ship
    line = {"seed": 1, "imbalance": "long_tail", "network": "teacher", "precision": "float32", "calibration": "", "top1": 92.5}
    sheet = ship.Sheet("ship", ship.KEYS, ship.MEASURED)
    assert sheet.has(0, "long_tail", "pruned", "int8", "OOD") and not sheet.has(1, "long_tail", "teacher", "float32", "")
    sheet.add(line)
    again = ship.Sheet("ship", ship.KEYS, ship.MEASURED)
    assert again.path == sheet.path and again.has(1, "long_tail", "teacher", "float32", "") and len(again.lines) == 9
    assert shipping.values(shipping.rows(), ("teacher", "float32")) == {0: 92.0, 1: 92.5}


@needs_onnx
def test_the_bench_refuses_to_choose_on_draws_of_the_tables():
    done = subprocess.run([sys.executable, "bench/ship.py", "development", "--seeds", "4"], cwd=project_root(),
                          env=os.environ | {"PYTHONPATH": str(project_root())}, capture_output=True, text=True)
    assert done.returncode == 1 and "seeds from 100 up" in done.stderr
