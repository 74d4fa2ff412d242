"""Small mistakes and odd inputs that people made, each with what must happen instead."""

import os
import shlex

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from oefsmc_lib.cli.words import print_table, settings_of
from oefsmc_lib.engine import kernels, runs
from oefsmc_lib.errors import InputError
from oefsmc_lib.files import data_folder, short, take, writable_folder
from oefsmc_lib.images import fewshot, folders, sets
from oefsmc_lib.parameters import grid
from oefsmc_lib.parameters.experiment import Experiment
from oefsmc_lib.parameters.parse import from_yaml, value_of
from oefsmc_lib.parameters.profiles import read_yaml
from oefsmc_lib.rows.store import Store
from oefsmc_lib.teacher import cost, networks, teachers
from oefsmc_lib.teacher.networks import Architecture
from made_images import picture, sentence, tree


# --- numbers and words in YAML -----------------------------------------------------------------
@pytest.mark.parametrize("text, value", [
    ("010", 10), ("-007", -7), ("1e-4", 1e-4), ("5.", 5.0), ("true", True), ("no", "no"), ("off", "off"), ("y", "y"),
    ("1:30", "1:30"), ("0x10", "0x10"), ("1_000", "1_000"), ("2020-01-01", "2020-01-01"), ("null", None), ("~", None),
])
def test_numbers_and_words_mean_what_people_wrote(text, value):
    assert from_yaml(text) == value_of(text) == value
    assert from_yaml(f"[{text}]") == [value]


def test_four_seeds_with_leading_zeros_are_four_runs(tmp_path):
    (tmp_path / "g.yaml").write_text("blocks: [{seed: [008, 009, 010, 011]}]")
    assert [e.seed for e in grid.load_grid(str(tmp_path / "g.yaml")).experiments] == [8, 9, 10, 11]


@pytest.mark.parametrize("key", ["num", "seed", "ratio", "lam", "fskd.rho", "finetune.momentum", "n"])
def test_a_boolean_is_no_number(key):
    sentence(lambda: Experiment.parse({key: True}), key, "no boolean")


def test_a_name_that_yaml_reads_as_something_else_is_named_with_the_way_to_quote_it():
    assert Experiment.parse(settings_of(["ood_exclude=[no, on]"])).ood_exclude == ("no", "on")
    sentence(lambda: Experiment.parse(settings_of(["ood_exclude=[true]"])), "ood_exclude", "write it in quotes")
    sentence(lambda: Experiment.parse(settings_of(["ood_exclude=[7]"])), "'\"7\"'")


@pytest.mark.parametrize("text", ["num: 10\nnum: 20\n", "a: [1\n", "a: !!python/object/apply:os.system [ls]\n",
                                  "a: " + "9" * 5000, "a: " + "[" * 1000, "? [1]\n: 2\n", "a: \x00"])
def test_yaml_that_says_nothing_clear_is_refused(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    sentence(lambda: read_yaml(tmp_path / "a.yaml"), "a.yaml")


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path):
    (tmp_path / "g.yaml").write_bytes(b"\xef\xbb\xbfblocks:\r\n  - seed: [0, 1]\r\n    num: 20\r\n")
    assert [(e.seed, e.num) for e in grid.load_grid(str(tmp_path / "g.yaml")).experiments] == [(0, 20), (1, 20)]


# --- paths -------------------------------------------------------------------------------------
ODD = ["set #1", "a: b", "{x}", "{}", "100%", "$HOME", "it's", 'a "b"', "[red]", "&a", "*", "ä é 数", "a b", "- a", "!x"]


@pytest.mark.parametrize("name", ODD)
def test_a_path_on_the_command_line_is_taken_as_it_stands(tmp_path, home, name, capsys):
    root = tree(tmp_path / name)
    settings = settings_of([f"dataset=folder:{root}"])
    assert settings == {"dataset": f"folder:{root}"}
    assert len(sets.load(settings["dataset"], "train")) == 6
    print_table(name, ["what"], [[name]])
    assert capsys.readouterr().out.count(name) == 2          # no markup, no emoji
    with pytest.raises(InputError) as caught:                # the command that is suggested can be typed as it is
        teachers.load("vgg16", 0.25, settings["dataset"], 2, 3, 32)
    words = shlex.split(str(caught.value).split("`")[-2])
    assert settings_of(words[3:])["dataset"] == settings["dataset"]


@pytest.mark.parametrize("name", ["out{x}", "{batch}", "{}", "a}b"])
def test_notebooks_run_into_folders_with_braces(tmp_path, monkeypatch, name):
    import nbformat
    import papermill

    monkeypatch.setenv("OEFSMC_OUTPUTS", str(tmp_path / name))
    monkeypatch.setenv("OEFSMC_DATA", str(tmp_path / name))
    (tmp_path / name).mkdir()
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("a = 1", metadata={"tags": ["parameters"]})])
    book.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(book, tmp_path / name / "in.ipynb")
    monkeypatch.setattr(papermill.execute.papermill_engines, "execute_notebook_with_engine", lambda engine, nb, **_: nb)
    kernels.execute(tmp_path / name / "in.ipynb", tmp_path / name / "out.ipynb", {"a": 2})
    assert "a = 2" in (tmp_path / name / "out.ipynb").read_text()


def test_names_of_files_are_short_however_long_the_path_is(tmp_path):
    path = "folder:/" + "x" * 250
    (tmp_path / "g.yaml").write_text(f"blocks: [{{dataset: '{path}', variant: native}}]")
    (label,) = grid.load_grid(str(tmp_path / "g.yaml")).batches()
    assert len(label) < 120 and len(teachers.name_of("vgg16", 1, path)) < 100
    assert short("a" * 60) == "a" * 60 and short("a" * 61) != short("a" * 62)


@pytest.mark.parametrize("words", [{"dataset": "a/b"}, {"model": "a/b"}, {"model": "../x"}, {"model": "resnet81"}])
def test_names_are_checked_before_a_file_is_named_after_them(home, words):
    asked = {"dataset": "mnist5k", "model": "vgg16", "width": 1.0} | words
    sentence(lambda: teachers.train(**asked), "Unknown")
    assert not list(home.rglob("*.lock"))
    if "model" in words:
        sentence(lambda: teachers.load(asked["model"], 1.0, "cifar10", 10, 3, 32), "Unknown model")


# --- folders that cannot be written ------------------------------------------------------------
def test_a_folder_that_cannot_be_made_names_the_variables(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise OSError(30, "Read-only file system")
    monkeypatch.setattr("pathlib.Path.mkdir", fails)
    sentence(lambda: writable_folder(tmp_path / "a"), "read-only file system", "OEFSMC_DATA", "OEFSMC_OUTPUTS")


def test_a_lock_that_cannot_be_made_names_the_variables(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise PermissionError(13, "Permission denied")
    monkeypatch.setattr("filelock.FileLock.acquire", fails)
    sentence(lambda: take(tmp_path / ".lock"), "Permission denied", "OEFSMC_DATA")


def test_an_unknown_home_names_the_variable(monkeypatch):
    monkeypatch.setenv("OEFSMC_DATA", "~no-such-user/data")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    sentence(data_folder, "set OEFSMC_DATA")


# --- folders of images -------------------------------------------------------------------------
def test_images_that_are_not_square_are_counted_as_they_are(tmp_path, home):
    root = tree(tmp_path / "set", size=(48, 32))
    images = sets.load(f"folder:{root}", "train")
    assert images.shape == (3, 32, 48)
    wide = Architecture("vgg16", 2, 3, 0.125, 32, 48)
    square = Architecture("vgg16", 2, 3, 0.125, 32)
    network = wide.build()
    assert wide.example().shape == (1, 3, 32, 48)
    assert cost.macs(network, wide) > 1.4 * cost.macs(network, square)


def test_a_teacher_of_images_that_are_not_square_says_so(tmp_path, home):
    root = tree(tmp_path / "set", size=(40, 32), count=8)
    made = teachers.train(f"folder:{root}", "vgg16", 0.0625, epochs=1)
    assert (made.card["image_size"], made.card["image_width"]) == (32, 40)
    again = teachers.load("vgg16", 0.0625, f"folder:{root}", 2, 3, 32, 40)
    assert again.architecture.example().shape == (1, 3, 32, 40)
    sentence(lambda: teachers.load("vgg16", 0.0625, f"folder:{root}", 2, 3, 32), "image_width=40")


def test_a_link_to_a_folder_inside_a_class_is_refused(tmp_path):
    root = tree(tmp_path / "set")
    (root / "train" / "cat" / "all").symlink_to(root)
    sentence(lambda: folders.list_tree(root), root / "train" / "cat" / "all", "link")


def test_links_to_files_and_class_folders_are_a_subset_but_no_picture_counts_twice(tmp_path):
    whole = tree(tmp_path / "whole")
    root = tmp_path / "subset"
    (root / "val").mkdir(parents=True)
    for name in ("cat", "dog"):
        (root / "train" / name).mkdir(parents=True)
        (root / "train" / name / "a.png").symlink_to(whole / "train" / name / "0.png")
        (root / "val" / name).symlink_to(whole / "val" / name)
    assert [len(paths) for paths, _ in folders.list_tree(root).files.values()] == [2, 6]
    (root / "train" / "dog" / "b.png").symlink_to(whole / "train" / "cat" / "0.png")
    sentence(lambda: folders.list_tree(root), "cat/a.png", "dog/b.png", "count twice")


def test_hidden_folders_and_pipes_are_passed_over(tmp_path):
    root = tree(tmp_path / "set")
    picture(root / "train" / "cat" / ".thumbnails" / "0.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(root / "train" / "cat" / "pipe.png")
    assert len(folders.list_tree(root).files["train"][0]) == 6


def test_files_of_a_format_that_cannot_be_read_are_counted_and_said(tmp_path, home):
    root = tree(tmp_path / "set")
    for i in range(3):
        (root / "train" / "cat" / f"{i}.HEIC").write_bytes(b"?")
    (root / "train" / "cat" / "boxes.txt").write_text("0 0 1 1")
    for _ in range(2):                                        # from the folder, and from the cache
        with pytest.warns(UserWarning, match=r"3 files .*0\.HEIC"):
            assert sets.load(f"folder:{root}", "train").unread == 3
    (root / "train" / "cat" / "3.heic").write_bytes(b"?")     # noticed, although every picture is as before
    with pytest.warns(UserWarning, match="4 files"):
        sets.load(f"folder:{root}", "train")


@pytest.mark.parametrize("turn", range(1, 9))
def test_turned_pictures_are_read_upright(tmp_path, turn):
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = 255                                        # a bright corner, up and left as people see it
    back = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270}
    image = Image.fromarray(pixels)
    image = image.transpose(back[turn]) if turn in back else image
    exif = Image.Exif()
    exif[0x0112] = turn
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            image.save(tmp_path / split / name / "0.png", exif=exif)
    read = folders.read_tree(folders.list_tree(tmp_path), None)
    assert np.array_equal(read["x_train"][0], pixels)


# --- few images of a class ---------------------------------------------------------------------
def test_a_class_with_one_image_is_known_before_the_grid_starts(tmp_path, home):
    root = tree(tmp_path / "set", classes=("cat", "dog", "emu"), count=9)
    for i in range(1, 9):
        (root / "train" / "dog" / f"{i}.png").unlink()
    (tmp_path / "g.yaml").write_text(f"blocks: [{{dataset: 'folder:{root}', num: 6, seed: [0, 1, 2, 3]}}]")
    said = sentence(lambda: runs.check_missing([grid.load_grid(str(tmp_path / "g.yaml"))], Store(tmp_path)), "(dog)",
                    "has 1 training images", "for every seed")
    largest = int(said.split(" for seed")[0].split()[-1])
    every = int(said.split(" for every seed")[0].split()[-1])
    seed = int(said.split(" for seed ")[1].split()[0])
    assert 1 <= every <= largest < 6

    def fits(num, seed):
        try:
            return fewshot.counts_of(Experiment(dataset=f"folder:{root}", num=num, seed=seed), [9, 1, 9])
        except InputError:
            return None
    assert fits(largest, seed) and not any(fits(num, seed) for num in range(largest + 1, 7))
    assert all(fits(every, seed) for seed in range(20))


# --- networks ----------------------------------------------------------------------------------
QUICK = ("alexnet", "googlenet", "maxvit_t", "mnasnet0_5", "regnet_x_400mf", "resnet18", "shufflenet_v2_x0_5", "vit_b_16")


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
                                  for name in models.list_models(module=models)])
def test_every_network_of_torchvision_reads_the_images_or_is_refused_before_any_work(name):
    try:
        Architecture(name, 4, 3, 1.0, 32).check()
        works = True
    except InputError as error:
        assert f"{name} cannot read images of 32x32" in str(error)
        works = False
    refused = ("alexnet", "inception_v3", "maxvit_t", "vit_")
    assert works == (not name.startswith(refused))


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "squeezenet1_1", *(
    pytest.param(name, marks=pytest.mark.slow) for name in ("densenet121", "vit_b_16", "mobilenet_v3_small"))])
def test_the_default_plan_is_the_networks_own_or_refused_before_any_work(name):
    asked = Experiment.parse({"model": name, "width": 1, "dataset": "tiny-imagenet", "method": "fskd",
                              "image_size": 224 if name == "vit_b_16" else 64})
    if name in ("densenet121", "mobilenet_v3_small", "squeezenet1_1"):
        runs.check_networks([asked])
    else:
        sentence(lambda: runs.check_networks([asked]), name, "use another")


def test_batch_counters_in_a_file_of_weights_are_ignored(home):
    made = teachers.train("mnist5k", "vgg16", 0.0625, epochs=0)
    path = teachers.folder() / "vgg16-w0.0625_mnist5k.safetensors"
    from safetensors.torch import load_file, save
    tensors = load_file(path) | {"features.1.num_batches_tracked": torch.tensor(7)}
    again = teachers.assemble(save(tensors), made.card, path)
    assert torch.equal(again.model.classifier.weight, made.model.classifier.weight)


def test_weights_of_a_network_that_asks_for_versions_are_filled_in():
    one, other = (Architecture("mnasnet0_5", 2).build() for _ in range(2))
    networks.fill(other, dict(one.state_dict()))
    assert torch.equal(one.layers[0].weight, other.layers[0].weight)


