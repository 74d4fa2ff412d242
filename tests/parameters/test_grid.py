"""Profiles, unions and grids: expanded and refused as a whole, and runs that fail beside runs that do not."""

import numpy as np
import pytest
from conftest import experiment
from made_rows import made

from oefsmc_lib import pipeline
from oefsmc_lib.engine import runs
from oefsmc_lib.errors import InputError
from oefsmc_lib.parameters import grid
from oefsmc_lib.parameters.experiment import Experiment
from oefsmc_lib.rows.store import Store


def refused(tmp_path, text, profile="embedded"):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        found = grid.load_grid(str(path), profile)
        runs.check_networks(found.experiments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("text, said", [
    ("blocks: [{nun: 3}]", "Unknown key 'nun' in mine.yaml, block 1; did you mean num?"),
    ("blocks: [{num: 3}, {fskd.rh: 3}]", "block 2; did you mean fskd.rho?"),
    ("blocks: [{num: ten}]", "num='ten'"),
    ("blocks: [{num: 0}]", "num=0"),
    ("blocks: [{variant: [ours, our]}]", "variant='our'"),
    ("blocks: [{seed: []}]", "seed is an empty list"),
    ("blocks: [{seed: $seds}]", "did you mean $seeds?"),
    ("blocks: [{num: 10, m: MM}]", "write 20, 2M or M/2"),
    ("blocks: [3]", "block 1"),
    ("blocks: []", "needs a list `blocks`"),
    ("blocks: {num: 3}", "needs a list `blocks`"),
    ("block: [{num: 3}]", "it has 'block'"),
    ("blocks: [{num: 3}\n", "mine.yaml, line"),
    ("", "should hold `key: value` lines"),
    ("blocks: [{method: practise, plan: half}]", "practise drops blocks"),
    ("blocks: [{method: practise, plan: drop99}]", "droppable ones"),
    ("blocks: [{method: fskd, plan: skip_first}]", "'skip_first' is not one for vgg16"),
    ("blocks: [{method: fskd, model: resnet20, plan: prune_a}]", "'prune_a' is not one for resnet20"),
    ("blocks: [{model: vgg17}]", "vgg17"),
])
def test_a_faulty_grid_is_refused_in_one_sentence(tmp_path, text, said):
    assert said in refused(tmp_path, text)


@pytest.mark.parametrize("text, said", [
    ("default: {num: 3}", "did you mean defaults?"),
    ("defaults: [num]", "defaults should be a dict"),
    ("compute: 'yes'", "compute should be a bool"),
    ("defaults: {nun: 3}", "did you mean num?"),
    ("profiles: {cifar10: table1}", "a list of grids for each profile"),
    ("profiles: {cifar11: [table1]}", "did you mean cifar10"),
    ("profiles: {cifar10: [tabel1]}", "did you mean table1"),
    ("grids: [tabel1]", "did you mean table1"),
])
def test_a_faulty_profile_is_refused_in_one_sentence(tmp_path, monkeypatch, text, said):
    from oefsmc_lib.parameters import profiles
    (tmp_path / "params" / "grids").mkdir(parents=True)
    for path in (profiles.project_root() / "params").glob("**/*.yaml"):
        if "workflow" not in str(path):
            target = tmp_path / path.relative_to(profiles.project_root())
            target.write_text(path.read_text())
    (tmp_path / "params" / "mine.yaml").write_text(text)
    monkeypatch.setattr(profiles, "project_root", lambda: tmp_path)
    with pytest.raises(InputError) as error:
        grid.grids_of("mine")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_every_grid_of_every_profile_is_valid():
    for profile in ("paper", "embedded", "cifar10", "cifar10+cpu", "cifar100", "imagenet"):
        found = grid.grids_of(profile)
        assert found and all(each.experiments for each in found)
    whole = {e.key: e for each in grid.grids_of("paper") + grid.grids_of("embedded") for e in each.experiments}
    runs.check_networks(whole.values())


def test_the_paper_is_the_union_of_its_grids():
    named = [(each.profile.name, each.name) for each in grid.grids_of("paper")]
    assert set(named) == {("cifar10", name) for name in ("table1", "table2", "fig3a", "literal", "fig3b", "fig3c", "fig3d", "beyond")} \
        | {("imagenet", "table2")} | {("cifar100", each) for each in ("table1", "table2", "fig3a", "literal")}
    assert len(named) == len(set(named))
    assert {each.name for each in grid.chosen("table2", "paper")} == {"table2"}
    assert [each.profile.name for each in grid.chosen("table2", "paper")] == ["cifar10", "cifar100", "imagenet"]
    lengths = {e.mir.iterations for each in grid.grids_of("paper") for e in each.experiments if e.method == "mir"}
    assert lengths == {2000}                               # the published length
    with pytest.raises(InputError, match="did you mean table1"):
        grid.chosen("tabel1", "paper")
    with pytest.raises(InputError, match="name one of cifar10, cifar100, imagenet"):
        grid.load_profile("paper")


def test_smoke_is_no_part_of_a_profile():
    assert "smoke" not in [each.name for each in grid.grids_of("embedded")]
    assert [each.name for each in grid.chosen("smoke", "embedded")] == ["smoke"]


@pytest.mark.parametrize("only, count", [({"seed": 0}, 4), ({"method": "cd", "seed": "1"}, 2), ({"plan": "half"}, 4),
                                         ({"fskd.rho": "1e-4"}, 8), ({"seed": [0, 1]}, 8),
                                         ({"method": ["cd", "mir"], "seed": [0]}, 2)])
def test_only_keeps_what_has_these_values(only, count):
    assert len(grid.load_grid("smoke", only=only).experiments) == count


def test_only_that_keeps_nothing_is_refused():
    with pytest.raises(InputError, match="No experiment of smoke .* has method=cdd"):
        grid.chosen("smoke", "embedded", {"method": "cdd"})
    with pytest.raises(InputError, match="has method=cdd or mri"):
        grid.chosen("smoke", "embedded", {"method": ["cdd", "mri"]})
    with pytest.raises(InputError, match="did you mean seed"):
        grid.chosen("smoke", "embedded", {"sed": 1})


def test_a_folder_of_images_makes_a_batch_that_is_a_file_name(tmp_path):
    (tmp_path / "mine.yaml").write_text("blocks: [{dataset: 'folder:/my/images', variant: native}]")
    (label,) = grid.load_grid(str(tmp_path / "mine.yaml")).batches()
    assert "/" not in label and ":" not in label


# --- sources that are too small ----------------------------------------------------------------
def checked(tmp_path, *blocks, store=None, profile="embedded"):
    """The notes of a grid of these blocks."""
    (tmp_path / "mine.yaml").write_text("blocks:\n" + "".join(f"  - {block}\n" for block in blocks))
    found = grid.load_grid(str(tmp_path / "mine.yaml"), profile)
    return runs.check_sources([found], store or Store(tmp_path / "results"))


@pytest.mark.parametrize("block, said", [
    ("{n: 1822}", None),                                   # 1,950 patches, 128 of them watched
    ("{n: 1823}", "fskd ours num=10 long_tail seed=0 [{key}] needs a pool of n=1823 images, but the OOD source outlines has "
                  "1950 usable images, of which 128 are set aside as the watch set; set n to at most 1822, or name a larger "
                  "ood_source, such as folder:PATH."),
    ("{num: [10, 1822]}", None),
    ("{num: [10, 1823, 2000]}", "n=2000 images, but the OOD source outlines has 1950 usable images, of which 128 are set "
                                "aside as the watch set; set m (by default num) to at most 1822, or"),
    ("{m: 1823}", "set m to at most 1822, or"),
    ("{m: 1823, n: 2000}", "set n and m to at most 1822, or"),
    ("{n: 1000, ood_exclude: [[flower]]}", "has 975 usable images without the classes of ood_exclude, of which 128 are set "
                                           "aside as the watch set; set n to at most 847, or"),
    ("{ood_exclude: [[china, flower]]}", "has 0 usable images without the classes of ood_exclude, of which 0 are set aside "
                                         "as the watch set; name a larger ood_source"),
    ("{variant: native_ft, ood_exclude: [[china, flower]]}", "[{key}] needs images to watch while it trains, but the OOD "
     "source outlines has 0 usable images without the classes of ood_exclude, and the watch set is a fifth of them at most; "
     "name a larger ood_source, such as folder:PATH, or set finetune.stop=fixed."),
    ("{ood_source: noise-blob, n: 2872}", None), ("{ood_source: noise-blob, n: 2873}", "noise-blob has 3000 usable images"),
    ("{ood_exclude: [[flowers]]}", "ood_exclude names 'flowers', but outlines has no such class."),
    ("{ood_source: photo}", "did you mean photos?"),
    # What reads no pool needs none, and what reads neither pool nor watch set needs no source.
    ("{n: 5000, variant: [native, native_ft]}", None), ("{n: 5000, aux: augmented_few}", None),
    ("{ood_source: photo, variant: native}", None),
    ("{variant: native_ft, ood_exclude: [[china, flower]], finetune.stop: fixed}", None)])
def test_a_source_that_is_too_small_is_refused_in_one_sentence(tmp_path, block, said):
    if said is None:
        assert checked(tmp_path, block) == []
        return
    with pytest.raises(InputError) as error:
        checked(tmp_path, "{variant: native}", block)
    text = str(error.value)
    key = text.partition("[")[2].partition("]")[0]
    assert said.replace("{key}", key) in text and "\n" not in text and text.endswith((".", "?"))
    assert ("needs" not in text) or text.startswith("In mine (embedded), fskd ")


def test_a_folder_of_images_is_counted(tmp_path):
    folder = tmp_path / "pictures" / "train"
    for name, count in (("one", 4), ("two", 5)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.png").touch()      # nothing is decoded
    source = f"ood_source: 'folder:{tmp_path / 'pictures'}', m: 1"
    assert checked(tmp_path, f"{{{source}, n: 8}}") == []
    with pytest.raises(InputError, match="has 9 usable images, of which 1 are set aside .*; set n to at most 8, or"):
        checked(tmp_path, f"{{{source}, n: 9}}")
    with pytest.raises(InputError, match="needs images to watch while it trains, but .* has 4 usable images"):
        checked(tmp_path, f"{{{source}, n: 2, ood_exclude: [[two]]}}")


def test_an_experiment_that_has_a_row_needs_no_source(tmp_path):
    store = Store(tmp_path / "results")
    done, missing = "{n: 1900, seed: 0}", "{n: 1901, seed: 1}"
    (tmp_path / "mine.yaml").write_text(f"blocks: [{done}]")
    (one,) = grid.load_grid(str(tmp_path / "mine.yaml")).experiments
    store.write(made(one, 90.0))
    assert checked(tmp_path, done, store=store) == []
    with pytest.raises(InputError, match="n=1901"):
        checked(tmp_path, done, missing, store=store)


def test_a_source_that_is_not_here_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("OEFSMC_DATA", str(tmp_path / "data"))
    notes = checked(tmp_path, "{num: [10, 600]}", "{ood_source: scenes, variant: native_ft}",
                    "{ood_source: noise-blob, ood_exclude: [[]]}", profile="cifar10")
    assert notes == [
        "The OOD source cifar100 is not on this machine, so its size is not checked; these runs need up to 600 images for "
        "the pool and 128 images for the watch set (`oefsmc doctor` says where it looks).",
        "The OOD source scenes is not on this machine, so its size is not checked; these runs need up to 128 images for "
        "the watch set (`oefsmc doctor` says where it looks)."]
    with pytest.raises(InputError, match="noise-blob has 3000"):                      # the others are checked all the same
        checked(tmp_path, "{num: 10}", "{ood_source: noise-blob, ood_exclude: [[]], n: 3000}", profile="cifar10")


def test_imagenet_is_refused_with_the_textures_of_ten_classes(tmp_path, monkeypatch):
    monkeypatch.setenv("OEFSMC_DATA", str(tmp_path))
    np.savez(tmp_path / "textures.npz", x_train=np.zeros((1200, 1, 1, 3), np.uint8), y_train=np.arange(1200) % 10)
    with pytest.raises(InputError, match=r"In table2 \(imagenet\), .* n=3000 .* textures has 1200 .* at most 1072, or name"):
        runs.check_sources(grid.grids_of("imagenet"), Store(tmp_path / "results"))
    np.savez(tmp_path / "textures.npz", y_train=np.arange(3128) % 10)
    assert runs.check_sources(grid.grids_of("imagenet"), Store(tmp_path / "results")) == []


# --- runs that fail ----------------------------------------------------------------------------
def failing(monkeypatch, errors):
    """``pipeline.run`` fails for some seeds."""
    real = pipeline.run

    def run(one, shared, profile):
        if one.seed in errors:
            raise errors[one.seed]
        return real(one, shared, profile)
    monkeypatch.setattr(pipeline, "run", run)


def test_a_run_that_fails_stops_no_other_and_is_logged(tiny, tmp_path, monkeypatch):
    store = Store(tmp_path / "results")
    asked = [experiment(method="fskd", variant="native", seed=seed) for seed in range(4)]
    failing(monkeypatch, {1: InputError("The loss is not finite."), 2: RuntimeError("out of memory\nallocated 3 GiB")})
    with pytest.raises(runs.RunsFailed) as error:
        runs.compute(asked, store, "embedded")
    said = str(error.value)
    assert said.startswith("2 of 4 runs failed, the others are done") and "\n" not in said
    assert "seed=1" in said and "The loss is not finite." in said and "out of memory allocated 3 GiB" in said
    assert {row.seed for row in store.rows()} == {0, 3}
    assert [e.seed for e in runs.missing(asked, store)] == [1, 2]
    log = runs.failure_log(asked[1], store).read_text()
    assert "Traceback" in log and log.strip().endswith("InputError: The loss is not finite.")
    monkeypatch.undo()


def test_a_run_that_succeeds_later_leaves_no_failure(tiny, tmp_path, monkeypatch):
    store, run = Store(tmp_path / "results"), experiment(method="fskd", variant="native")
    with monkeypatch.context() as broken:
        failing(broken, {0: MemoryError()})
        with pytest.raises(runs.RunsFailed, match="MemoryError"):
            runs.compute([run], store, "embedded")
    assert runs.failure_log(run, store).is_file()
    runs.compute([run], store, "embedded")
    assert not runs.failure_log(run, store).exists() and len(store.rows()) == 1


def test_a_fault_of_the_program_and_a_full_disk_stop_at_once(tiny, tmp_path, monkeypatch):
    store = Store(tmp_path / "results")
    asked = [experiment(method="fskd", variant="native", seed=seed) for seed in range(2)]
    with monkeypatch.context() as broken:
        failing(broken, {0: TypeError("a fault of ours")})
        with pytest.raises(TypeError):
            runs.compute(asked, store, "embedded")
    with monkeypatch.context() as full:
        calls = []
        full.setattr(Store, "write", lambda *_: calls.append(1) or (_ for _ in ()).throw(InputError("Cannot write x")))
        with pytest.raises(InputError, match="Cannot write"):
            runs.compute(asked, store, "embedded")
        assert len(calls) == 1
    assert not store.rows()


def test_a_notebook_goes_on_with_the_rows_there_are(tiny, tmp_path, monkeypatch, capsys):
    from oefsmc_lib.notebook import session
    path = tmp_path / "mine.yaml"
    path.write_text("blocks: [{dataset: tiny, ood_source: elsewhere, width: 0.125, plan: half, variant: native, "
                    "device: cpu, augment: crop, seed: [0, 1]}]")
    failing(monkeypatch, {1: InputError("The loss is not finite.")})
    book = session.Book("embedded", compute=True)
    book.store = Store(tmp_path / "results")
    assert [row.seed for row in book.rows(str(path))] == [0]
    said = capsys.readouterr().out
    assert "The loss is not finite." in said and "1 of 2 runs are not in the store" in said


# --- how long the missing runs take ----------------------------------------------------------------
@pytest.fixture
def timed(tmp_path):
    """A store of rows that took this long: FSKD at 10 and 100 images, MiR of 500 steps at 10."""
    store = Store(tmp_path)
    cases = [({"num": 10, "seed": seed}, seconds) for seed, seconds in enumerate([10.0, 20.0, 90.0])]
    cases += [({"num": 100}, 100.0), ({"method": "mir", "mir.iterations": 500}, 300.0), ({"method": "cd"}, 5.0)]
    for switches, seconds in cases:
        row = made(Experiment.parse({"method": "fskd", "variant": "native", **switches}), 90.0)
        store.write(row.model_copy(update={"seconds_total": seconds}))
    return store


@pytest.mark.parametrize("switches, seconds", [
    ({"num": 10, "seed": 7}, 40),                         # the mean of those with as many images: rows share students
    ({"num": 20}, 80),                                    # twice the images of the nearest
    ({"num": 90}, 100),                                   # fewer images are not said to be quicker
    ({"method": "mir", "mir.iterations": 500, "num": 20}, 600),
    ({"method": "mir", "num": 20}, 2400),                 # four times the steps, too
    ({"fskd.solver": "minnorm"}, None), ({"method": "cd"}, 5), ({"method": "cd", "cd.solver": "adam"}, None),
    ({"dataset": "cifar10", "width": 1.0}, None)])
def test_times_are_estimated_from_like_runs(timed, switches, seconds):
    wanted = Experiment.parse({"method": "fskd", "variant": "native", **switches})
    assert runs.estimate([wanted], timed) == seconds
    if seconds is not None:
        assert runs.estimate([wanted, wanted], timed) == 2 * seconds
