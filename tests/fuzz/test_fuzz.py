"""Random inputs, as many as OEFSMC_FUZZ_MINUTES allow (``make fuzz MINUTES=10``): a sentence or a result, never a traceback,
never a hang, never a part of a file.

Each kind of input has the same share of the time. What hypothesis finds it shrinks, and prints as a small example.
"""

import io
import json
import os
import shutil
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from oefsmc_lib.cli.words import alternatives_of, settings_of
from oefsmc_lib.errors import InputError
from oefsmc_lib.files import write_whole
from oefsmc_lib.images import fewshot, folders, npz
from oefsmc_lib.parameters import grid
from oefsmc_lib.parameters.experiment import METHODS, VARIANTS, Experiment, known_keys
from oefsmc_lib.parameters.profiles import Profile, read_yaml
from oefsmc_lib.rows.row import COLUMNS, Row
from oefsmc_lib.rows.store import Store
from oefsmc_lib.student import saved
from oefsmc_lib.teacher import teachers

pytestmark = pytest.mark.fuzz
KINDS = 8
SECONDS = 60 * float(os.environ.get("OEFSMC_FUZZ_MINUTES", "1")) / KINDS
SLOWEST = 10.0                                                # seconds that one input may take on a busy machine
TRIED: dict[str, int] = {}


@pytest.fixture(scope="module", autouse=True)
def report_of_inputs():
    yield
    print(f"\ninputs tried: {sum(TRIED.values())} ({', '.join(f'{name} {count}' for name, count in TRIED.items())})")


def hammer(kind, strategy, act):
    """Give inputs to ``act`` while there is time; only an InputError of one sentence may come back."""
    end, TRIED[kind] = time.monotonic() + SECONDS, 0

    @settings(max_examples=500, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def one(value):
        if time.monotonic() > end + 20:                       # a round that began in time may end, a late one may not
            return
        begin = time.monotonic()
        try:
            act(value)
        except InputError as error:
            text = str(error)
            assert text and len(text.splitlines()) == 1, text
        assert time.monotonic() - begin < SLOWEST
        TRIED[kind] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while time.monotonic() < end:
            one()


@pytest.fixture
def scratch():
    folder = Path(tempfile.mkdtemp())
    yield folder
    shutil.rmtree(folder)


words = st.one_of(st.text(max_size=12), st.sampled_from(["null", "true", "no", "010", "1e-4", "1e999", "-0", ".nan", "{", "[", "2M",
                  "$nums", "M/0", "folder:", "folder:/x #1", "cuda:7", "{x}", "9" * 30, "é", "\x00", "drop1", "drop999999"]))
scalars = st.one_of(st.none(), st.booleans(), st.integers(-10**20, 10**20), st.floats(), words)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=6)
keys = st.one_of(st.sampled_from([*known_keys(), "fskd", "finetune", "blocks", "title"]), words)
switches = st.dictionaries(st.sampled_from(known_keys()), st.one_of(values, st.integers(0, 50), st.sampled_from([*METHODS, *VARIANTS])),
                           max_size=4)


def test_switches():
    def act(value):
        made = Experiment.parse(value)
        assert len(made.key) == 12 and Experiment.parse(made.model_dump()).key == made.key
    hammer("switches", st.dictionaries(keys, values, max_size=4) | switches, act)


def test_words_of_a_command():
    def act(pairs):
        alternatives_of(pairs)
        Experiment.parse(settings_of(pairs))
    hammer("commands", st.lists(st.tuples(keys, words).map("=".join) | words, max_size=4), act)


def test_yaml_and_grids(scratch):
    path = scratch / "g.yaml"

    def act(content):
        path.write_bytes(content)
        read_yaml(path)
        grid.load_grid(str(path), Profile("x"))
    as_json = st.dictionaries(words, values, max_size=2) | st.fixed_dictionaries({"blocks": st.lists(switches | values, max_size=2)})
    hammer("grids", as_json.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40)
           | st.text("ab:-[]{}#&*!|>'\"%@\n\t 01.?,", max_size=40).map(str.encode), act)


def row():
    numbers = dict.fromkeys(("width", "teacher_accuracy", "top1", "balanced_accuracy", "macs_cut", "params_cut"), 1.0)
    numbers |= dict.fromkeys(("num", "seed", "macs", "params", "threads"), 1)
    texts = dict.fromkeys(("id", "key", "dataset", "data_fingerprint", "network", "teacher_sha256", "method", "variant", "plan", "device",
                           "torch", "torchvision", "oefsmc", "python", "time"), "x")
    return numbers | texts | {"solver": "default", "counts": [1], "order": [0], "per_class": [None]}


def test_rows(scratch):
    place = scratch / "rows"
    place.mkdir()

    def act(change):
        content = change if isinstance(change, bytes) else json.dumps(row() | change).encode()
        (place / "x.json").write_bytes(content)
        for found in Store(scratch).rows():
            Store(scratch).write(found)
            assert Row.parse((place / "x.json").read_bytes(), "x").flat() == found.flat()
    Row(**row())
    hammer("rows", st.dictionaries(st.sampled_from(COLUMNS) | words, values, max_size=3) | st.binary(max_size=60), act)


def mutated(whole):
    """A file with some bytes changed, cut or repeated."""
    def change(parts):
        at, count, other = parts
        at = at % (len(whole) + 1)
        return whole[:at] + other + whole[at + count:]
    return st.tuples(st.integers(0, 2**30), st.integers(0, 2**12), st.binary(max_size=20)).map(change)


def test_archives(scratch):
    packed = io.BytesIO()
    np.savez(packed, x_train=np.zeros((4, 4, 4, 3), np.uint8), y_train=np.array([0, 1, 0, 1]), class_names=np.array(["a", "b"]))
    deflated = io.BytesIO()
    with zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x_train.npy", bytes(10**5))

    def act(content):
        (scratch / "a.npz").write_bytes(content)
        arrays = npz.read(scratch / "a.npz")
        npz.checked(arrays, "train", 2, "a")
    hammer("archives", mutated(packed.getvalue()) | mutated(deflated.getvalue()) | st.binary(max_size=60), act)


def pictures():
    for kind, options in (("PNG", {}), ("JPEG", {}), ("GIF", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {})):
        made = io.BytesIO()
        Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(made, kind, **options)
        yield kind.lower(), made.getvalue()


def test_image_folders(scratch):
    whole = dict(pictures())
    for name in ("a", "b"):
        (scratch / "train" / name).mkdir(parents=True)
    (scratch / "train" / "b" / "0.png").write_bytes(whole["png"])
    place = scratch / "train" / "a"

    def act(files):
        for path in place.iterdir():
            path.unlink()
        for number, (kind, content) in enumerate(files):
            (place / f"{number}.{kind}").write_bytes(content)
        arrays = folders.read_tree(folders.list_tree(scratch), None)
        assert arrays["x_train"].dtype == np.uint8 and len(arrays["x_train"]) == len(arrays["y_train"])
    kinds = st.sampled_from([*whole, "heic", "txt"])
    broken = kinds.flatmap(lambda kind: st.tuples(st.just(kind), mutated(whole.get(kind, b"x")) | st.just(whole.get(kind, b"x"))))
    hammer("image folders", st.lists(broken, min_size=1, max_size=3), act)


def test_checkpoints(scratch, monkeypatch):
    monkeypatch.setenv("OEFSMC_DATA", str(scratch))
    teachers.train("mnist5k", "vgg16", 0.03, epochs=0)
    name = "vgg16-w0.03_mnist5k"
    weights, card = (teachers.folder() / f"{name}{end}" for end in (".safetensors", ".json"))
    content, about = weights.read_bytes(), json.loads(card.read_text())
    (scratch / "s").mkdir()
    write_whole(scratch / "s" / "student.safetensors", content)

    def act(change):
        kind, value = change
        if kind == "weights":
            import hashlib
            weights.write_bytes(value)
            card.write_text(json.dumps(about | {"sha256": hashlib.sha256(value).hexdigest()}))
        else:
            card.write_text(json.dumps(about | value) if isinstance(value, dict) else value)
            (scratch / "s" / "plan.json").write_text(card.read_text())
            saved.load(scratch / "s")
        teachers.read(name)
    fields = st.dictionaries(st.sampled_from(sorted(about)), values, max_size=2)
    plans = st.fixed_dictionaries({"architecture": values | st.fixed_dictionaries({"name": words, "classes": scalars}),
                                   "kept": values, "dropped": values})
    hammer("checkpoints", st.tuples(st.just("weights"), mutated(content) | st.binary(max_size=40))
           | st.tuples(st.just("card"), fields | plans | st.text(max_size=20)), act)


def test_draws():
    def act(value):
        have, asked = value
        made = Experiment.parse(asked)
        counts = fewshot.counts_of(made, have)
        assert all(m <= n for m, n in zip(counts, have))
        assert made.rounding != "largest_remainder" or sum(counts) == made.num
    hammer("draws", st.tuples(st.lists(st.integers(0, 60), min_size=1, max_size=20), st.fixed_dictionaries({
        "num": st.integers(1, 200), "ratio": st.floats(1, 1e6), "seed": st.integers(0, 10**6),
        "imbalance": st.sampled_from(["long_tail", "step", "balanced"]),
        "rounding": st.sampled_from(["largest_remainder", "floor", "at_least_one"])})), act)
