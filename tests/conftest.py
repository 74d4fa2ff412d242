"""What tests of the algorithm share: small random teachers, small images, and one temporary store."""

import copy
import os
import tempfile
from pathlib import Path

import pytest
import torch

from oefsmc_lib import data, teachers
from oefsmc_lib.experiment import Experiment
from oefsmc_lib.fewshot import Samples
from oefsmc_lib.models import Architecture

os.environ.setdefault("OEFSMC_QUIET", "1")
torch.set_num_threads(1)                                   # the networks are small: more threads only wait for each other
CLASSES = 5

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


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count, channels=3, size=32, seed=0):
    """Smooth random images, uint8 (N, C, H, W): neighbouring pixels agree, as in photographs."""
    coarse = torch.rand(count, channels, 6, 6, generator=source(seed))
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    noise = 0.05 * torch.randn(count, channels, size, size, generator=source(seed + 1))
    return (255 * (smooth + noise).clamp(0, 1)).to(torch.uint8)


def inputs(count, architecture, seed=0):
    """What a network reads: normalised float32 (N, C, H, W)."""
    raw = pictures(count, architecture.channels, architecture.image_size, seed).float() / 255
    return ((raw - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)


def samples(count, architecture, seed=0, classes=CLASSES):
    return Samples(inputs(count, architecture, seed), torch.arange(count) % classes)


def make_teacher(architecture, seed=0):
    """Random weights and random batch norms, whose statistics fit real activations; no training is needed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = architecture.build()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias, 0, 0.3)
                module.momentum = None                     # a plain average over the passes below
        with torch.no_grad():
            model.train()(inputs(64, architecture, seed=1000 + seed))
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.1
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
    from oefsmc_lib.methods.mimic import Feature
    with torch.no_grad(), Feature(copy.deepcopy(model)) as ours, Feature(copy.deepcopy(teacher.model)) as theirs:
        return float(torch.nn.functional.mse_loss(ours(x)[0], theirs(x)[0]))


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

    from oefsmc_lib import ood
    ood._known.cache_clear()
    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(data, "fingerprint", lambda name, **_: f"print-{name}")
    monkeypatch.setattr(teachers, "load", load_teacher)
    yield sets
    ood._known.cache_clear()


SHORT = {"mir.iterations": 4, "mir.views": 2, "practise.iterations": 4, "practise.views": 2,
         "practise.scoring_iterations": 2, "finetune.epochs": 2, "cd.milestones": 3, "cd.iterations": 30}


def experiment(**settings):
    """An experiment on the set in memory, with short trainings."""
    return Experiment.parse({**TINY, **SHORT, **settings})


def task(teacher, few, aux, experiment, w=None, joint=None):
    """What a compressor is given; eq. 7 reads ``aux`` where the variant says so, or the images of ``joint``."""
    from oefsmc_lib.methods import Task
    joint = aux if joint is None and experiment.recovers_jointly else joint
    return Task(teacher, few, experiment, aux, None if joint is None else joint.images, w)


def small(**settings):
    """An experiment for calling a method directly: only the switches that the method reads matter."""
    return Experiment.parse({**SHORT, "dataset": "tiny", "augment": "none", **settings})
