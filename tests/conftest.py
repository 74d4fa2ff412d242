"""What tests of the algorithm share: small random teachers, small images, and one temporary store.

No test may hang on the numbers that a version of torch draws or on the instructions of a processor. Weights and images
come from :func:`numbers`, and what is compared has a margin that holds for other numbers, too. Two variables try that:
OEFSMC_TEST_DRAW=1, 2, ... gives all tests other weights and images, OEFSMC_TEST_THREADS=2 gives torch more threads.
"""

import importlib.util
import os
import shutil
import tempfile
import zlib
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from oefsmc_lib.images import sets as data
from oefsmc_lib.images.fewshot import Samples
from oefsmc_lib.parameters.experiment import Experiment
from oefsmc_lib.student import export
from oefsmc_lib.teacher import teachers
from oefsmc_lib.teacher.networks import Architecture

os.environ.setdefault("OEFSMC_QUIET", "1")
# The networks are small: more threads than one only wait for each other.
torch.set_num_threads(int(os.environ.get("OEFSMC_TEST_THREADS", "1")))
DRAW = int(os.environ.get("OEFSMC_TEST_DRAW", "0"))
# How long an example takes is the machine's matter and no property of the code.
hypothesis.settings.register_profile("oefsmc", deadline=None)
# A mutant needs a failure, not the smallest one; the same examples for each mutant, so that a survivor survives again.
hypothesis.settings.register_profile("mutants", deadline=None, max_examples=30, derandomize=True,
                                     phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate])
hypothesis.settings.load_profile("oefsmc")
CLASSES = 5
ABSENT = [name for name in export.PACKAGES if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)} (pip install -e '.[onnx]')")

VGG = Architecture("vgg16", CLASSES, 3, 0.125, 32)
RESNET = Architecture("resnet20", CLASSES, 3, 0.5, 16)
MOBILENET = Architecture("mobilenet_v2", CLASSES, 3, 0.25, 32)
FAMILIES = {"vgg": VGG, "resnet": RESNET}


@pytest.fixture(scope="session", autouse=True)
def one_store():
    """Nothing is written into the checkout: every test and notebook of a session has one store elsewhere."""
    if os.environ.get("OEFSMC_OUTPUTS"):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="oefsmc-tests-") as folder:
        os.environ["OEFSMC_OUTPUTS"] = str(Path(folder) / "outputs")
        yield
        del os.environ["OEFSMC_OUTPUTS"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty data folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("OEFSMC_DATA", str(folder))
    return folder


def source(seed=0):
    """A generator for code that asks for torch's. What it draws is torch's matter, so no test may hang on it."""
    return torch.Generator().manual_seed(seed)


def numbers(*purpose):
    """Random numbers of the tests' own, other ones for each purpose: NumPy has frozen this stream, torch has not."""
    return np.random.RandomState(zlib.crc32(repr((DRAW, *purpose)).encode()))


def uniform(shape, *purpose, low=0.0, high=1.0):
    """float32 numbers of this shape between ``low`` and ``high``."""
    return torch.from_numpy(numbers(*purpose).uniform(low, high, shape)).float()


def normal(shape, *purpose):
    """float32 numbers of this shape, of mean 0 and variance 1."""
    return torch.from_numpy(numbers(*purpose).standard_normal(shape)).float()


def pictures(count, channels=3, size=32, seed=0):
    """Smooth random images, uint8 (N, C, H, W): neighbouring pixels agree, as in photographs."""
    random = numbers("pictures", channels, size, seed)
    made = []
    for _ in range(count):                                # one by one: more images of a seed begin with the fewer ones
        coarse = torch.from_numpy(random.random_sample((1, channels, 6, 6)))
        # In float64, so that no processor's rounding moves a pixel to the next of 256 levels.
        smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
        made.append(smooth + 0.05 * torch.from_numpy(random.standard_normal((1, channels, size, size))))
    return (255 * torch.cat(made).clamp(0, 1)).to(torch.uint8)


def inputs(count, architecture, seed=0):
    """What a network reads: normalised float32 (N, C, H, W)."""
    raw = pictures(count, architecture.channels, architecture.image_size, seed).float() / 255
    return ((raw - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)


def samples(count, architecture, seed=0, classes=CLASSES):
    return Samples(inputs(count, architecture, seed), torch.arange(count) % classes)


@torch.no_grad()
def randomise(model, *purpose):
    """Numbers of :func:`numbers` in place of those that torch drew, on the scale of torch's own layers: uniform up to
    one over the root of the inputs; scales of batch norms from 0.5 to 1.5 and biases with a deviation of 0.3."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.copy_(uniform(module.weight.shape, *purpose, name, "weight", low=0.5, high=1.5))
            module.bias.copy_(0.3 * normal(module.bias.shape, *purpose, name, "bias"))
        elif isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            bound = module.weight[0].numel() ** -0.5
            for kind, parameter in module.named_parameters():
                parameter.copy_(uniform(parameter.shape, *purpose, name, kind, low=-bound, high=bound))
    return model


def make_teacher(architecture, seed=0):
    """Random weights and random batch norms, whose statistics fit real activations; no training is needed."""
    with torch.random.fork_rng(devices=[]):
        model = architecture.build()
    randomise(model, seed)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None                              # a plain average over the pass below
    with torch.random.fork_rng(devices=[]), torch.no_grad():              # MobileNetV2 has a dropout before its head
        model.train()(inputs(64, architecture, seed=1000 + seed))
    for norm in norms:
        norm.momentum = 0.1
    card = {"model": architecture.name, "dataset": "tiny", "mean": [0.5] * architecture.channels,
            "std": [0.25] * architecture.channels, "test_accuracy": 0.5, "sha256": f"random-{seed}"}
    mean, std = (torch.tensor(card[key]).view(-1, 1, 1) for key in ("mean", "std"))
    return teachers.Teacher(model.eval().requires_grad_(False), architecture, card, card["sha256"], mean, std)


@pytest.fixture(scope="session")
def vgg():
    return make_teacher(VGG)


@pytest.fixture(scope="session")
def resnet():
    return make_teacher(RESNET)


@pytest.fixture(scope="session")
def mobilenet():
    return make_teacher(MOBILENET)


@pytest.fixture(params=list(FAMILIES))
def teacher(request):
    """Both families, one after the other."""
    return request.getfixturevalue(request.param)


def state_of(model):
    """A copy of every tensor of a model, to compare bit by bit later."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_state(before, after):
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def logits(model, x):
    with torch.no_grad():
        return model.eval()(x)


def map_error(model, teacher, x):
    """Mean squared distance between the two networks' last maps."""
    from oefsmc_lib.compressors.mimic import last_map
    with torch.no_grad():
        return float(torch.nn.functional.mse_loss(*(last_map(net, x)[0] for net in (model, teacher.model))))


def weight_layers(model):
    return [name for name, m in model.named_modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]


@pytest.fixture
def count_forwards():
    """Counts the images that a module sees: ``with count_forwards(module) as seen: ...; seen()``."""
    class Counter:
        def __init__(self, module):
            self.images, self.batches = 0, []
            self.handle = module.register_forward_pre_hook(self.see)

        def see(self, _module, x):
            self.images += len(x[0])
            self.batches.append(x[0].detach().clone())

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.handle.remove()
    return Counter


# --- a whole data set in memory ------------------------------------------------------------------
TINY = dict(dataset="tiny", ood_source="elsewhere", model="vgg16", width=0.125, num=10, n=30, augment="crop",
            device="cpu")


def image_set(name, count, classes, seed, size=32, label_seed=None):
    """Images whose brightness pattern depends on their class; labels in turn."""
    labels = torch.arange(count) % classes
    base = pictures(classes, 3, size, seed=500).float()
    images = (0.6 * base[labels] + 0.4 * pictures(count, 3, size, seed).float()).to(torch.uint8)
    if name == "elsewhere":
        images = pictures(count, 3, size, seed)
    names = tuple(f"{name}-{j}" for j in range(classes))
    return data.ImageSet(name, images, labels, names, f"print-{name}-{seed}-{count}")


@pytest.fixture
def tiny(monkeypatch):
    """``data.load`` and ``teachers.load`` answer from memory; the sets can be exchanged in a test."""
    sets = {("tiny", "train"): image_set("tiny", 100, CLASSES, 1), ("tiny", "test"): image_set("tiny", 40, CLASSES, 2),
            ("elsewhere", "train"): image_set("elsewhere", 90, 3, 3)}
    made = {}

    def load(name, split, **_):
        return sets[name, split]

    def load_teacher(model, width, dataset, num_classes, channels, image_size):
        architecture = Architecture(model, num_classes, channels, width, image_size)
        if architecture not in made:
            made[architecture] = make_teacher(architecture)
        return made[architecture]

    from oefsmc_lib.images import purity
    purity.known.cache_clear()
    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(teachers, "load", load_teacher)
    yield sets
    purity.known.cache_clear()


SHORT = {"mir.iterations": 4, "mir.views": 2, "practise.iterations": 4, "practise.views": 2,
         "practise.scoring_iterations": 2, "finetune.epochs": 2, "cd.milestones": 3, "cd.iterations": 30}


def experiment(**settings):
    """An experiment on the set in memory, with short trainings."""
    return Experiment.parse({**TINY, **SHORT, **settings})


def task(teacher, few, aux, experiment, w=None, joint=None):
    """What a compressor is given; eq. 7 reads ``aux`` where the variant says so, or the images of ``joint``."""
    from oefsmc_lib.compressors import Task
    joint = aux if joint is None and experiment.recovers_jointly else joint
    return Task(teacher, few, experiment, aux, None if joint is None else joint.images, w)


def small(**settings):
    """An experiment for calling a method directly: only the switches that the method reads matter."""
    return Experiment.parse({**SHORT, "dataset": "tiny", "augment": "none", **settings})


@pytest.fixture(scope="session")
def chromium():
    """Headless Chromium."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium here; install it (Debian: apt-get install chromium) to see pages in a browser")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install 'oefsmc[browser]')")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, headless=True, args=[
            "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"])
        yield browser
        browser.close()
