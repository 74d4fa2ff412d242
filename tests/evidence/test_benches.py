"""The benches: what they count, how they scale, what they write; and the figure that is drawn from it."""

import csv
import os
import subprocess
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from oefsmc_lib.errors import InputError
from oefsmc_lib.evidence import figures, timings
from oefsmc_lib.files import project_root
from oefsmc_lib.parameters import grid
from oefsmc_lib.teacher.networks import Architecture

BENCH = project_root() / "bench"


@pytest.fixture
def bench(monkeypatch):
    """The scripts' own modules."""
    monkeypatch.syspath_prepend(str(BENCH))
    import floor
    import recovery
    import ridge
    import sheet
    import stages
    return {"floor": floor, "recovery": recovery, "ridge": ridge, "sheet": sheet, "stages": stages}


def test_flops_of_products_convolutions_and_factorisations(bench):
    a, b = torch.rand(6, 5), torch.rand(5, 4)

    def flops(work):
        return float(bench["floor"].flops(work).sum())
    assert flops(lambda: a @ b) == 2 * 6 * 5 * 4
    assert flops(lambda: a.double() @ b.double()) == 2 * 2 * 6 * 5 * 4
    assert flops(lambda: torch.addmm(torch.rand(6, 4), a, b)) == 2 * 6 * 5 * 4
    x, conv = torch.rand(2, 3, 8, 8), torch.nn.Conv2d(3, 7, 3, padding=1, bias=False)
    forward = 2 * 2 * 7 * 64 * 27
    assert flops(lambda: conv(x)) == forward
    assert flops(lambda: conv(x).sum().backward()) == 2 * forward                 # the images need no gradient
    assert bench["floor"].flops(lambda: (conv(x), a @ b)).tolist() == [forward, 2 * 6 * 5 * 4]
    assert flops(lambda: torch.rand(6, 4).addmm_(a, b)) == 2 * 6 * 5 * 4
    spd = torch.eye(6) + a @ a.T
    assert flops(lambda: torch.linalg.cholesky_ex(spd)) == 6**3 / 3
    assert flops(lambda: torch.cholesky_solve(torch.rand(6, 4), torch.linalg.cholesky(spd))) == 6**3 / 3 + 2 * 36 * 4
    assert flops(lambda: torch.linalg.solve(spd, torch.rand(6, 4))) == int(2 * 6**3 / 3 + 2 * 36 * 4)


def test_scoring_behind_bridges_is_timed_whole(bench):
    """It has no steps to shorten, and scores the units that a bridge can stand for."""
    ready = bench["stages"].synthetic(Architecture("vgg16", 10, 3, 0.25, 32), 6, torch.device("cpu"))
    side = bench["stages"].Side(grid.load_profile("cifar10"), {"method": "practise", "num": 10, "width": 0.25}, ready, share=0.01)
    assert side.short is None and side.share == 1.0
    assert "features.40" not in side.make() and len(side.make()) == 8


def test_a_share_of_a_loop_scales_to_the_whole(bench):
    """What comes before the first step counts once, steps count as often as there are."""
    side = object.__new__(bench["stages"].Side)
    side.factor = (2000 - 1) / (20 - 1)
    cost = {1: 7.0 + 1 * 0.25, 20: 7.0 + 20 * 0.25}
    for name, steps in (("single", 1), ("short", 20)):
        setattr(side, name, (lambda: None, lambda _, steps=steps: steps))
    assert side.measure(lambda work: cost[work()]) == pytest.approx(7.0 + 2000 * 0.25)


def test_the_released_loader_draws_the_same_views(bench):
    """Each is a crop of its image's reflected border; a pass is one batch of 8 of 9 images, the next one draws others."""
    loading = bench["stages"].loading
    mean, std = torch.tensor([0.3]).view(1, 1, 1), torch.tensor([0.2]).view(1, 1, 1)
    raw = torch.randint(0, 256, (9, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    images = (raw / 255 - mean) / std
    padded = torch.nn.functional.pad(images, (2,) * 4, mode="reflect")
    crops = torch.stack([padded[:, :, y:y + 16, x:x + 16] for y in range(5) for x in range(5)]).flatten(0, 1)
    teacher = SimpleNamespace(mean=mean, std=std)
    for workers in (0, 2):
        with loading.as_released(teacher, 8, workers):
            source = loading.banks.Fresh(images, "crop", lambda x: (x.sum((1, 2, 3)),))
            passes = [source.pick(None, None) for _ in range(3)]
        assert source.passing is None                      # no workers stay behind
        for views, (sums,) in passes:
            assert views.shape == (8, 1, 16, 16) and torch.equal(sums, views.sum((1, 2, 3)))
            assert all((crops - view).abs().amax((1, 2, 3)).min() < 1e-5 for view in views)
        assert not torch.equal(passes[0][0], passes[1][0])
    assert loading.banks.Fresh.__module__ == "oefsmc_lib.compressors.banks"


def test_mirs_literal_side_is_timed_with_the_loader_too(bench, monkeypatch):
    recovery, chosen = bench["recovery"], SimpleNamespace(share=0.01, repeats=1)
    monkeypatch.setattr(bench["stages"], "LEAST", 2)
    monkeypatch.setattr(recovery, "LENGTHS", {"mir.iterations": 3})
    line = recovery.timing("mir", "vgg16-w0.25", 10, 0, chosen)
    assert set(line) | {"method", "network", "num", "seed"} >= set(recovery.PARTS["timing"][1])
    assert line["loaded_s"] > line["literal_s"]            # the same steps, and processes that start at each
    assert not any(name.startswith("loaded") for name in recovery.timing("fskd", "vgg16-w0.25", 10, 0, chosen))


def test_quality_of_practise_is_that_of_the_trained_students(bench, monkeypatch):
    """Scoring decides which units go; how good the result is shows only after the training that follows."""
    recovery = bench["recovery"]
    monkeypatch.setattr(recovery, "LENGTHS", {"practise.start": "teacher", "practise.iterations": 3, "practise.scoring_iterations": 2, "practise.views": 2})
    monkeypatch.setitem(recovery.LITERAL, "practise", recovery.LITERAL["practise"] | {"practise.scoring_iterations": 2})
    line = recovery.quality("practise", "vgg16-w0.25", 10, 0, SimpleNamespace(keep_literal=False))
    assert set(line) | {"method", "network", "num", "seed"} >= set(recovery.PARTS["quality"][1])
    assert line["same_units"] == (line["literal_units"] == line["ours_units"]) and line["ours_units"]
    # Three steps on other views of the same images: not the same weights, nearly the same network.
    assert line["literal_error"] != line["ours_error"]
    if line["same_units"]:
        assert line["literal_error"] == pytest.approx(line["ours_error"], rel=0.5)


def test_quality_may_keep_an_earlier_released_side_and_its_commit(bench, monkeypatch, tmp_path):
    recovery, keep = bench["recovery"], SimpleNamespace(keep_literal=True)
    monkeypatch.setenv("OEFSMC_OUTPUTS", str(tmp_path))
    (tmp_path / "bench").mkdir()
    head, case = ",".join([*recovery.KEYS, *recovery.PARTS["quality"][1]]), "fskd,vgg16-w0.25,10,0"
    teacher = recovery.sides("fskd", "vgg16-w0.25", 10, 0, 1.0)[1].teacher.sha256[:12]
    (tmp_path / "bench" / "2026-01-02_cpu_2.15.0_quality.csv").write_text(f"{head}\n{case},1.5,9,2.5,9,12.5,9,,,,{teacher},abc\n")
    (tmp_path / "bench" / "2026-01-03_cpu_2.15.0_quality.csv").write_text(f"{head}\n")          # newer, without this case
    recovery_earlier = recovery.earlier
    line = recovery.quality("fskd", "vgg16-w0.25", 10, 0, keep)
    assert [line[f"literal_{what}"] for what in ("fit", "error", "accuracy", "commit")] == [1.5, 2.5, 12.5, "abc"]
    assert "literal_units" not in line and line["ours_accuracy"] != 9
    with pytest.raises(InputError, match=f"no earlier released side of fskd vgg16-w0.25 10 1 {teacher} was found; run it"):
        recovery.quality("fskd", "vgg16-w0.25", 10, 1, keep)
    monkeypatch.setattr(recovery, "earlier", lambda case: recovery_earlier(case | {"teacher": "another"}))
    with pytest.raises(InputError, match="10 0 another was found"):
        recovery.quality("fskd", "vgg16-w0.25", 10, 0, keep)


def test_the_default_ridges_line_is_that_of_quality(bench, monkeypatch):
    """Both judge the same student on the same unseen images."""
    profile = bench["recovery"].grid.load_profile("embedded")
    line, other = (bench["ridge"].judge(profile, {}, 10, 0, rho) for rho in (1e-3, 1e-1))
    monkeypatch.setitem(bench["recovery"].LITERAL, "cd", {"cd.rho": 1e-1})
    found = bench["recovery"].quality("cd", "vgg16-w0.25", 10, 0, SimpleNamespace(keep_literal=False))
    assert [line[what] for what in ("fit", "error", "accuracy")] == [found[f"ours_{what}"] for what in ("fit", "error", "accuracy")]
    assert [other[what] for what in ("fit", "error")] == [found[f"literal_{what}"] for what in ("fit", "error")]
    assert line["error"] != other["error"] and line["teacher"] == found["teacher"]


def test_a_case_without_images_is_named_and_left_out(bench, capsys):
    def measure(network, num):
        if network == "vgg16":
            raise InputError("cifar10 was not found")
        return {"network": network, "num": num}
    assert list(bench["sheet"].where_possible([("vgg16", 10), ("tiny", 10)], measure)) == [{"network": "tiny", "num": 10}]
    assert "left out vgg16 10: cifar10 was not found" in capsys.readouterr().out


def test_a_line_is_on_disk_before_the_next_is_measured(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("OEFSMC_OUTPUTS", str(tmp_path))

    def lines():
        yield {"what": "one", "seconds": 1}
        assert "one" in next((tmp_path / "bench").glob("*_cpu_*_trial.csv")).read_text()
        raise KeyboardInterrupt

    def record(lines, measured="seconds"):
        bench["sheet"].record("trial", ["what"], [measured], lines)
    with pytest.raises(KeyboardInterrupt):
        record(lines())
    record([{"what": "two", "seconds": 3}])
    record([{"what": "two", "seconds": 2}])               # measured again: the earlier line goes
    with pytest.raises(InputError, match="has other columns than this bench writes"):
        record([{"what": "three", "minutes": 1}], "minutes")
    with open(next((tmp_path / "bench").glob("*_trial.csv"))) as file:
        found = list(csv.DictReader(file))
    assert [line["what"] for line in found] == ["one", "two"] and found[0]["threads"] == str(torch.get_num_threads())
    assert timings.table("trial").seconds.tolist() == [1, 2]


@pytest.mark.timeout(120)
def test_peak_memory_of_a_small_case(tmp_path):
    words = [sys.executable, str(BENCH / "memory.py"), "--cases", "resnet32:4", "--methods", "fskd"]
    subprocess.run(words, check=True, env=os.environ | {"OEFSMC_OUTPUTS": str(tmp_path)}, capture_output=True)
    with open(next((tmp_path / "bench").glob("*_memory.csv"))) as file:
        line = next(csv.DictReader(file))
    assert line["method"] == "fskd" and 0 <= int(line["above_mb"]) < 500 < 10 * int(line["before_mb"])


def test_the_newest_file_is_read_and_a_foreign_one_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("OEFSMC_OUTPUTS", str(tmp_path))
    monkeypatch.setattr(timings, "project_root", lambda: tmp_path / "nowhere")
    assert timings.newest("growth") is None and timings.table("growth") is None
    (tmp_path / "bench").mkdir()
    for day, value in (("2026-01-02", 2), ("2026-01-10", 10), ("2025-12-31", 1)):
        (tmp_path / "bench" / f"{day}_cpu_2.15.0_growth.csv").write_text(f"axis,value\nnum,{value}\n")
    assert timings.table("growth").value.tolist() == [10]
    with pytest.raises(InputError, match="2026-01-10.*has no column 'seconds'; move it away"):
        timings.table("growth", ("axis", "seconds"))


def grown(**changes):
    lines = [{"axis": axis, "value": value, "method": method, "seconds": 0.5 * value, "device": "cpu: X", "threads": 2,
              "torch": "2.15.0"} for axis, values in (("num", (10, 100)), ("width", (0.25, 1.0)), ("seeds", (1, 4)), ("processes", (1, 2)))
             for value in values for method in (("fskd", "cd") if axis in ("num", "width") else ("fskd",))]
    return pd.DataFrame(lines).assign(**changes)


def test_cost_is_drawn_and_titles_count():
    figure = figures.growth(grown())
    titles = [ax.get_title(loc="left").replace("\n", " ") for ax in figure.axes]
    assert titles == ["10 times the images multiply the seconds by: FSKD 10, CD 10",
                      "4 times the width multiply the seconds by: FSKD 4, CD 4", "4 times the seeds multiply the seconds by: FSKD 4",
                      "2 times the processes multiply the seconds by: FSKD 2"]
    assert "cpu: X; threads: 2; torch 2.15.0" in figure.legends[0].get_title().get_text().replace("\n", " ")
    solid = [line for line in figure.axes[0].lines if line.get_linestyle() == "-"]
    assert [line.get_ydata().tolist() for line in solid] == [[5, 50], [5, 50]]
    short = grown()[lambda t: (t.axis != "num") | (t.method != "cd") | (t.value == 10)]
    assert figures.growth(short).axes[0].get_title(loc="left") == "10 times the images multiply the seconds by: FSKD 10"
    flat = figures.growth(grown(seconds=3.0))
    assert flat.axes[0].get_title(loc="left").replace("\n", " ").endswith("FSKD 1, CD 1")


def test_what_was_not_measured_says_so():
    figure = figures.growth(None)
    assert [ax.texts[0].get_text() for ax in figure.axes] == ["not run"] * 4
    figure = figures.growth(grown()[lambda t: t.axis == "num"])
    assert [len(ax.texts) for ax in figure.axes] == [0, 1, 1, 1]


def test_the_committed_tables_have_what_they_are_read_for():
    for part, columns in (("timing", ("method", "network", "num", "ratio")), ("quality", ("literal_fit", "ours_fit")),
                          ("scoring", ("same_units", "spearman")), ("ridge", ("rho", "error"))):
        assert timings.newest(part) is not None, part
        assert timings.table(part, columns).torch.notna().all()


def test_timing_as_a_table(tmp_path):
    path = tmp_path / "2026-01-02_cpu_2.15.0_timing.csv"
    path.write_text("method,network,num,literal_s,ours_s,ratio,loaded_ratio\nmir,vgg16,10,30,20,1.5,2.25\n"
                    "mir,vgg16,100,0.3,0.25,1.2,\npractise,vgg16,100,300,20,15,\n")
    assert timings.timing_markdown(path).splitlines()[2:] == [
        "| MiR | vgg16 | 30 → 20 s, 1.5× (2.25× with its loader) | 0.3 → 0.25 s, 1.2× |",
        "| PRACTISE (scoring) | vgg16 | not run | 300 → 20 s, 15× |"]
    path.write_text("method,network,num,literal_s,ours_s,ratio,loaded_ratio,float32_s\nmir,vgg16,10,30,15,2,,20\nfskd,vgg16,10,3,1,3,,\n")
    assert timings.timing_markdown(path).splitlines()[2:] == [
        "| MiR | vgg16 | 30 → 15 s (20 s in float32), 2× |", "| FSKD | vgg16 | 3 → 1 s, 3× |"]


def test_quality_as_a_table(tmp_path):
    path = tmp_path / "2026-01-02_cpu_2.15.0_quality.csv"
    sides = ",".join(f"{side}_{what}" for what in ("fit", "error", "accuracy") for side in ("literal", "ours"))
    path.write_text(f"method,network,num,same_units,{sides}\npractise,vgg16,10,False,1,2,3,4,50.4,60\n"
                    "practise,vgg16,10,True,2,4,3,4,50.4,62\n"
                    "fskd,vgg16,100,,0.12345,2,3,4,5,6\nfskd,vgg16,10,,1,2,3,4,5,6\npractise,tiny,10,True,1,2,3,4,5,6\n")
    assert timings.quality_markdown(path).splitlines()[2:] == [
        "| FSKD | vgg16 | 10 | 1 | 1 → 2 | 3 → 4 | 5 → 6 |", "| FSKD | vgg16 | 100 | 1 | 0.123 → 2 | 3 → 4 | 5 → 6 |",
        "| PRACTISE (the same units) | tiny | 10 | 1 | 1 → 2 | 3 → 4 | 5 → 6 |",
        "| PRACTISE (other units in 1) | vgg16 | 10 | 2 | 1.5 → 3 | 3 → 4 | 50.4 → 61 |"]


def test_precision_as_a_table_pairs_draws(tmp_path):
    path = tmp_path / "2026-01-02_cpu_2.15.0_precision.csv"
    path.write_text("profile,method,settings,num,seed,precision,accuracy,error,dropped\n"
                    "embedded,mir,,10,100,float32,90,0.1,\nembedded,mir,,10,101,float32,92,0.2,\nembedded,mir,,10,102,float32,1,1,\n"
                    "embedded,mir,,10,101,bfloat16,93,0.21,\nembedded,mir,,10,100,bfloat16,91,0.105,\n"
                    "cifar10,practise,practise.start=teacher,10,100,float32,50,1,a b\n"
                    "cifar10,practise,practise.start=teacher,10,100,bfloat16,49,1.5,a c\n")
    assert timings.precision_markdown(path).splitlines()[2:] == [
        "| embedded | MiR | the profile's | 10 | 2 | 2 | 91.0 | +1.00 ± 0.00 | +5.00 ± 0.00 |",
        "| cifar10 | PRACTISE | practise.start=teacher | 10 | 1 | 0 | 50.0 | -1.00 (one draw) | +50.00 (one draw) |"]


def test_agreement_as_a_table_is_against_the_first_environment(tmp_path):
    path = tmp_path / "2026-01-02_cpu_agreement.csv"
    path.write_text("torch,python,capability,threads,device,method,num,seed,top1,teacher_sha256,git_commit\n" + "".join(
        f"{torch},3.11.7,AVX2,{threads},cpu,fskd,10,{seed},{top1},{teacher},abc\n" for torch, threads, seed, top1, teacher in (
            ("2.14", 1, 0, 90.0, "a"), ("2.14", 1, 1, 80.0, "a"), ("2.11", 2, 1, 80.0, "a"), ("2.11", 2, 0, 90.5, "a"),
            ("2.11", 2, 2, 10.0, "a"), ("2.15", 1, 0, 10.0, "b"))))
    assert timings.agreement_markdown(path).splitlines()[2:] == [
        "| 2.14 | 3.11.7 | AVX2 | 1 | 2 | 2 of 2 | the reference | 0.00 |",
        "| 2.11 | 3.11.7 | AVX2 | 2 | 2 | 1 of 2 | +0.25 ± 3.18 | 0.50 |"]  # seed 2 and the other teacher have no partner


def test_lines_of_a_bench_as_a_table(tmp_path):
    path = tmp_path / "2026-01-02_cpu_2.15.0_steps.csv"
    path.write_text("network,batch,float32_median_ms,bfloat16_median_ms,ratio\nvgg16,64,1250.4,581,2.15\n")
    assert timings.lines_markdown("steps", path).splitlines()[2:] == ["| vgg16 | 64 | 1250 → 581 ms | 2.15× |"]


def test_precision_is_measured_on_unseen_images_and_by_the_step(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import latency
    import precision

    from oefsmc_lib import pipeline
    from oefsmc_lib.parameters import grid
    from oefsmc_lib.teacher.networks import Architecture
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: False)
    monkeypatch.setattr("sys.argv", ["precision.py", "steps"])
    with pytest.raises(SystemExit, match="does not multiply bfloat16"):
        precision.main()
    monkeypatch.setattr(precision.mimic, "multiplies_bfloat16", lambda device: True)
    line = precision.step_times("resnet20", 2, 3)
    assert set(line) == {"network", "batch", *precision.STEP} and line["float32_lower_ms"] <= line["float32_upper_ms"]
    found = {p: precision.judge(grid.load_profile("embedded"), pipeline.Shared(), "mir", "mir.iterations=3", 10, 100, p)
             for p in precision.PRECISIONS}
    one, other = found.values()
    assert set(one) == {*precision.KEYS, *precision.MEASURED} and one["steps"] == 3
    assert one["error"] != other["error"] and one["error"] == pytest.approx(other["error"], rel=0.1)
    small = Architecture("resnet20", 10, width=0.5)
    monkeypatch.setattr(latency, "CASES", [(small, ("skip_first", "drop layer1.1"))])
    timed = list(latency.lines([2], 0))
    assert [each["plan"] for each in timed] == ["skip_first", "drop layer1.1"] and all(0 < each["macs_left"] < 100 for each in timed)
    assert all(set(each) == {"network", "plan", "batch", *latency.MEASURED} for each in timed)
