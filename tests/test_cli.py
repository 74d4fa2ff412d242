"""The command line as a person meets it: every bad input is one sentence and exit code 2."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import typer
from made_rows import made

from oefsmc_lib import __version__, cli
from oefsmc_lib.cli import main
from oefsmc_lib.evidence import paper
from oefsmc_lib.files import data_folder, project_root
from oefsmc_lib.parameters import grid
from oefsmc_lib.parameters.experiment import known_keys
from oefsmc_lib.rows.store import Store
from oefsmc_lib.teacher import teachers


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Outputs of their own, and the data folder that is in force."""
    return {"OEFSMC_DATA": str(data_folder()), "OEFSMC_OUTPUTS": str(tmp_path_factory.mktemp("cli") / "outputs")}


def oefsmc(home, *words, **more):
    environment = os.environ | home | {"COLUMNS": "200"} | more
    return subprocess.run([sys.executable, "-c", "from oefsmc_lib.cli import main; main()", *words],
                          env=environment, capture_output=True, text=True)


def refused(done):
    """Exit code 2 and one sentence, no traceback."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().count("\n") == 0 and done.stderr.startswith("oefsmc: ")
    return done.stderr


def test_help_is_quick_and_loads_no_torch(home):
    before = psutil.Process().cpu_times()
    done = subprocess.run([sys.executable, "-X", "importtime", "-c",
                           "import sys; sys.argv = ['oefsmc', '--help']; from oefsmc_lib.cli import main; main()"],
                          env=os.environ | home, capture_output=True, text=True)
    assert done.returncode == 0 and "doctor" in done.stdout
    assert " torch" not in done.stderr
    after = psutil.Process().cpu_times()
    # Seconds of the command's own work, so that no other process on the machine counts.
    assert after.children_user - before.children_user < 30


def test_one_run_makes_one_row_and_a_second_call_computes_nothing(home):
    words = ("run", "variant=native", "num=10", "seed=3", "--json")
    first = json.loads(oefsmc(home, *words).stdout)
    again = json.loads(oefsmc(home, *words).stdout)
    assert first == again
    assert first["method"] == "fskd" and first["seed"] == 3 and sum(first["counts"]) == 10
    shown = oefsmc(home, "show", "method=fskd").stdout
    assert "fskd" in shown and "native" in shown


def test_a_file_of_switches_and_words_after_it(home, tmp_path):
    (tmp_path / "mine.yaml").write_text("variant: native\nnum: 10\nseed: 7\nfskd: {rho: 5.0e-4}\n")
    row = json.loads(oefsmc(home, "run", "-f", str(tmp_path / "mine.yaml"), "num=20", "--json").stdout)
    assert row["num"] == 20 and row["fskd.rho"] == 5e-4 and row["seed"] == 7


@pytest.fixture
def inside(home, monkeypatch, capsys):
    """The same entry point in this process: thirty new processes would only import torch thirty times."""
    def call(*words, **more):
        for name, value in (home | more).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["oefsmc", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return subprocess.CompletedProcess(words, ended.value.code, said.out, said.err)
    return call


@pytest.mark.parametrize("words, said", [
    (("run", "nun=3"), "did you mean num"),
    (("run", "fskd.rh=3"), "did you mean fskd.rho"),
    (("run", "num=0"), "num=0"),
    (("run", "ratio=-1"), "ratio=-1"),
    (("run", "lam=1.5"), "lam=1.5"),
    (("run", "num"), "not KEY=VALUE"),
    (("run", "num=[1"), "num"),
    (("run", "num=10", "num=20"), "num is given twice, as 10 and as 20"),
    (("run", "dataset=cifar10", "model=vgg16"), "oefsmc data get cifar10"),
    (("run", "dataset=cifar1"), "cifar10"),
    (("run", "ood_source=photo"), "did you mean photos"),
    (("run", "plan=cfg_z"), "cfg_z"),
    (("run", "--profile", "cifar11"), "did you mean cifar10"),
    (("run", "-f", "nowhere.yaml"), "nowhere.yaml"),
    (("run", "device=cuda:99"), "cuda:99"),
    (("grid", "check", "tabel1"), "did you mean table1"),
    (("data", "get", "cifar12"), "cifar10"),
    (("teacher", "train", "dataset=cifar10", "foo=1"), "foo"),
    (("data", "check", "folder:nowhere"), "nowhere"),
    (("results", "merge", "nowhere"), "nowhere"),
    (("results", "check", "--profile", "cifar11"), "no rows to compute again"),
])
def test_bad_input_is_one_sentence(inside, words, said, tmp_path):
    missing = {"OEFSMC_DATA": str(tmp_path / "no-data")} if "dataset=cifar10" in words else {}
    assert said in refused(inside(*words, **missing))


def test_bad_input_exits_with_2_from_a_shell(home):
    assert "did you mean num" in refused(oefsmc(home, "run", "nun=3"))


def test_an_output_path_under_a_file(inside, tmp_path):
    (tmp_path / "file").write_text("")
    said = refused(inside("run", "variant=native", "num=10", "seed=11",
                         OEFSMC_OUTPUTS=str(tmp_path / "file" / "outputs")))
    assert "a file stands in its way" in said


def test_a_teacher_whose_checksum_is_wrong(home, inside, tmp_path):
    copied = tmp_path / "data" / "teachers"
    shutil.copytree(teachers.place("vgg16-w0.25_mnist5k"), copied)
    weights = next(copied.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert "checksum" in refused(inside("run", "num=10", "seed=12", OEFSMC_DATA=str(tmp_path / "data")))


def test_doctor_says_what_is_missing_and_how_to_get_it(home, tmp_path):
    done = oefsmc(home, "doctor", OEFSMC_DATA=str(tmp_path))
    assert done.returncode == 0
    assert "oefsmc data get cifar10" in done.stdout and "torch" in done.stdout


def test_doctor_says_what_each_set_is_and_where_it_looks(inside, tmp_path):
    said = inside("doctor", OEFSMC_DATA=str(tmp_path)).stdout
    assert "5,000 handwritten digits" in said and f"textures was looked for as textures.npz in {tmp_path}" in " ".join(said.split())
    assert "no command can fetch it, so put a file textures.npz there" in " ".join(said.split())
    assert f"\n    curl -LO http" in said and f"&& unzip -q tiny-imagenet-200.zip -d {tmp_path}\n" in said  # whole, to be copied
    assert "The profile cifar10 needs the teacher vgg16_cifar10; train it with\n    oefsmc teacher train -p cifar10\n" in said
    assert "needs the teacher vgg16-w0.25_mnist5k" not in said            # it comes with the library
    assert "/path/to" not in said
    assert max(len(line) for line in said.splitlines() if not line.startswith(("    ", "Rows and figures")) and str(tmp_path) not in line) <= 80


def test_every_switch_has_its_stage_default_and_explanation_in_the_help_of_run(inside):
    said = inside("run", "--help").stdout
    assert max(map(len, said.splitlines())) <= 80
    lines = said[said.index("Switches by stage"):].splitlines()
    shown = dict(re.findall(r"^  ([a-z_.]+)=(\S+) +\S", "\n".join(lines), flags=re.M))
    assert set(shown) == set(known_keys())
    assert (shown["num"], shown["lam"], shown["plan"], shown["mir.stop"], shown["redraw"]) == ("10", "0.5", "null", "none", "false")
    assert [line for line in lines if line and line[0] != " "][1:] == [
        "What is compressed", "The few images", "OOD images", "The compression stage", "The fine-tuning stage",
        "Where it runs; no part of the key"]
    assert "native | native_ft | extra_images" in said


def test_every_command_explains_itself_in_80_columns_and_each_group_names_its_commands(inside):
    whole = typer.main.get_command(cli.app)
    groups = {"": whole} | {name: each for name, each in whole.commands.items() if hasattr(each, "commands")}
    for group, found in groups.items():
        named = inside(*group.split(), "--help").stdout
        for name, command in found.commands.items():
            said = inside(*group.split(), name, "--help").stdout
            assert max(map(len, said.splitlines())) <= 80 and f"│ {name} " in named, name
            assert all(parameter.help for parameter in getattr(command, "params", ())), name




def test_the_version(inside):
    assert inside("--version").stdout == f"oefsmc {__version__}\n"


def stored(folder, *settings):
    """A store in which the embedded runs of these settings have rows of known accuracies."""
    store = Store(folder / "results")
    for number, values in enumerate(settings):
        one = grid.load_profile("embedded").experiment(values)
        store.write(made(one, 80.0 + number).model_copy(update={"time": "2026-01-02T03:04:05Z"}))
    return {"OEFSMC_OUTPUTS": str(folder)}


def narrow(done):
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80, done.stdout
    return " ".join(done.stdout.split())


def test_a_stored_row_is_said_to_be_one_and_compared_with_its_base(inside, tmp_path):
    place = stored(tmp_path, {"variant": "native_ft"}, {"variant": "ours"}, {"variant": "native_ft", "seed": 1})
    said = inside("run", "variant=ours", **place).stdout
    assert "The row comes from the store (written on 2026-01-02); --again computes it anew." in said
    assert "The base (native_ft, row " in said and "a top-1 of 80.00.\nThe difference is +1.00 points.\n" in said
    assert narrow(inside("run", "variant=ours", **place))
    said = inside("run", "variant=native_ft", **place).stdout
    assert "comes from the store" in said and "The base" not in said
    said = inside("run", "variant=ours", **stored(tmp_path / "alone", {"variant": "ours"})).stdout
    assert "The base has no row of this draw yet; variant=native_ft makes it." in said
    assert json.loads(inside("run", "variant=ours", "--json", **place).stdout)["variant"] == "ours"


def test_show_fits_80_columns_and_says_once_what_is_constant(inside, tmp_path):
    place = stored(tmp_path, *({"variant": "ours", "lam": lam, "seed": seed, "m": 30}
                               for lam in (0.2, 0.5, 0.8) for seed in (0, 1)), {"variant": "native"})
    said = narrow(inside("show", **place))
    assert "data mnist5k" in said and "network vgg16" in said and "compressor fskd, images 10" in said
    assert said.count("fskd") == said.count("mnist5k") == 1
    assert "ours lam=0.2 2 80.50 ± 6.35" in said and "ours lam=0.8 2 84.50 ± 6.35" in said and "native 1 86.00" in said
    said = narrow(inside("show", "lam=0.5", **place))
    assert "variant ours" not in said and "ours" in said and "lam" not in said.replace("lambda", "")
    assert "mnist5k vgg16 fskd 10 long_tail ours 0.2 2" in " ".join(inside("show", "--all", **place).stdout.split())


def test_what_most_lines_have_stands_once_above_them(inside, tmp_path):
    place = stored(tmp_path, *({"variant": "ours", "num": num, **more} for num in (10, 20) for more in ({}, {"eta": 0.5})),
                   {"variant": "ours", "num": 50})
    said = narrow(inside("show", **place))
    assert "where settings do not say otherwise, eta=2.5" in said and said.count("eta=0.5") == 2


def test_the_verdict_is_sentences_of_80_columns(inside):
    rows = {"OEFSMC_OUTPUTS": str(project_root() / "outputs")}
    said = narrow(inside("verdict", "--profile", "cifar10", **rows))
    claims = json.loads(inside("verdict", "--profile", "cifar10", "--json", **rows).stdout)
    for name, claim in paper.CLAIMS.items():  # which outcome it is follows from the rows; that it is said is tested
        assert f"{claims['claims'][name]['verdict']} {claim.sentence} ({claim.where})" in said.replace("- ", "-")
    assert "Table 2 (vgg16 on cifar10)" in said and "data cifar10, " in said
    assert re.search(r"CD 10 \d\d\.\d \d\d\.\d \S[\d.]+ ± [\d.]+ [a-z ]+ 8\.6", said)
    assert "Doubted (Table 2, CD + Ours, CIFAR-10, 10 images): 78.90 would be 8.56 points above CD without OE-FSMC." in said
    assert {"claims", "cells"} == set(claims) and "paper gain" in claims["cells"][0]


@pytest.mark.parametrize("command", ["show", "verdict"])
def test_tables_of_two_data_sets_fit_without_broken_words(inside, command):
    done = inside(command, "--profile", "paper", OEFSMC_OUTPUTS=str(project_root() / "outputs"))
    said, spoken = done.stdout, narrow(done)
    assert max(map(len, said.splitlines())) <= 80 and "resnet32 on cifar100, vgg16 on cifar10" in spoken
    if command == "verdict":
        lines = [line for line in said.splitlines() if re.match("cifar100? ", line)]
        assert {line.split()[0] for line in lines} == {"cifar10", "cifar100"}
        assert all(re.search(r" (?:reproduced|undecided)(?: +\d+\.\d)? *$", line) for line in lines)
    else:                                                          # a table for each data set
        lines = [line for line in said.splitlines() if re.match("(?:cd|fskd|practise) ", line)]
        assert "data cifar10, " in spoken and "data cifar100, " in spoken and len(lines) > 50
        assert all(re.search(r" \d\d\.\d\d ± \d+\.\d\d *$", line) for line in lines)


@pytest.mark.parametrize("letters", [5, 19, 24, 60])
def test_a_long_setting_never_cuts_the_accuracy_beside_it(inside, tmp_path, letters):
    """The name of a folder stands among the settings; with it the table would not fit into 80 columns."""
    source = f"folder:/{'x' * letters}"
    place = stored(tmp_path, *({"variant": "ours", "seed": seed, **more} for seed in (0, 1) for more in ({}, {"ood_source": source})))
    said = inside("show", **place).stdout
    assert max(map(len, said.splitlines())) <= 80 and len(re.findall(r"\d\d\.\d\d ± \d+\.\d\d", said)) == 2


def test_a_profile_without_rows_has_no_verdict(inside, tmp_path):
    assert "has no rows yet" in refused(inside("verdict", OEFSMC_OUTPUTS=str(tmp_path)))


def test_dry_run_runs_nothing(home):
    done = oefsmc(home, "grid", "run", "smoke", "--dry-run", OEFSMC_OUTPUTS=home["OEFSMC_OUTPUTS"] + "-dry")
    assert "8 missing" in done.stdout and done.stdout.count("seed=") == 8
    assert not os.path.exists(home["OEFSMC_OUTPUTS"] + "-dry")


def test_stored_rows_are_computed_again_and_a_changed_one_is_found(home, tmp_path):
    outputs = {"OEFSMC_OUTPUTS": str(tmp_path), "OMP_NUM_THREADS": "1"}
    assert oefsmc(home, "run", "variant=native", "num=10", "seed=5", **outputs).returncode == 0
    done = oefsmc(home, "results", "check", **outputs)
    assert done.returncode == 0 and "now, agrees\n1 of 1 rows agree" in done.stdout, done.stderr
    path = next((tmp_path / "results" / "rows").glob("*.json"))
    row = json.loads(path.read_text())
    path.write_text(json.dumps(row | {"top1": row["top1"] - 0.01}))
    done = oefsmc(home, "results", "check", **outputs)
    assert done.returncode == 1 and "DIFFERS\n0 of 1" in done.stdout and "Traceback" not in done.stderr


# --- latency -----------------------------------------------------------------------------------------
def test_latency_of_a_plan_and_of_a_saved_student_fits_80_columns(inside, tmp_path):
    import torch

    from oefsmc_lib.compressors import plans, surgery
    from oefsmc_lib.student import saved
    from oefsmc_lib.teacher.networks import Architecture
    before = torch.get_num_threads()
    out = inside("latency", "method=mir", "--batch", "1", "--batch", "2", "--seconds", "0").stdout
    assert max(map(len, out.splitlines())) <= 80 and "1 thread of the CPU" in out and "student" in out and "×" in out
    architecture = Architecture("resnet20", 10, width=0.5)
    model = architecture.build().eval()
    dropped = plans.droppable_units(model)[:2]
    surgery.drop_units(model, dropped)
    saved.save(surgery.Student(model, surgery.Structure(architecture, dropped=dropped)), tmp_path / "student")
    found = json.loads(inside("latency", "--student", str(tmp_path / "student"), "--batch", "3", "--threads", "2",
                              "--seconds", "0", "--json").stdout)
    assert found["threads"] == 2 and found["macs"][1] < found["macs"][0] and len(found["milliseconds"]["3"]) == 2
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("words, named", [
    (("--student", "nowhere"), "No student in nowhere"), (("--student", "x", "num=10"), "give --student alone"),
    (("method=practise",), "Which blocks PRACTISE drops depends on images"), (("model=vgg1",), "Unknown model")])
def test_latency_refuses(inside, words, named):
    assert named in refused(inside("latency", *words))
