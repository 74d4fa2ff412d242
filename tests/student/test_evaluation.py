"""Evaluation gives the classes of float32, also where bfloat16 runs first."""

import dataclasses

import pytest
import torch
from conftest import normal, randomise
from torch import nn

from oefsmc_lib import pipeline
from oefsmc_lib.parameters.experiment import Experiment
from oefsmc_lib.student import predictions

CPU = torch.device("cpu")


@pytest.fixture
def native(monkeypatch):
    """As on a processor that multiplies bfloat16; elsewhere torch emulates it, slowly, with the same rounding."""
    monkeypatch.setattr(predictions, "multiplies_bfloat16", lambda device: device.type == "cpu")


@pytest.fixture
def passes(monkeypatch):
    """How many images ran in each data type."""
    seen = {"bfloat16": 0, "float32": 0}

    def counted(model, images, indices, normalise, device, own=predictions.logits):
        seen["bfloat16" if torch.is_autocast_enabled("cpu") else "float32"] += len(indices)
        return own(model, images, indices, normalise, device)
    monkeypatch.setattr(predictions, "logits", counted)
    return seen


class Points:
    """Vectors that stand for images: what an ImageSet must have."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def take(self, indices):
        return self.values[torch.as_tensor(indices)]


def points(number=2000, width=16, seed=0):
    return Points(normal((number, width, 1, 1), "points", seed))


def linear(classes, seed=1):
    made = randomise(nn.Sequential(nn.Flatten(), nn.Linear(16, classes)), "linear", seed)
    made[1].weight.data = normal((classes, 16), "linear", seed)
    return made


def same(x):
    return x


@pytest.mark.parametrize("method", ["fskd", "cd"])
def test_students_predict_what_they_predict_in_float32(method, native, passes):
    experiment = Experiment.parse({"method": method, "variant": "native", "num": 10, "width": 0.25})
    ready = pipeline.prepare(experiment)
    student, _ = pipeline.recover(experiment, ready)
    images = dataclasses.replace(ready.train, images=ready.train.take(range(0, 4000, 4)), labels=ready.train.labels[:4000:4])
    found = predictions.predicted(student.model, images, ready.teacher.normalise, CPU)
    assert passes["bfloat16"] >= 200
    exact = predictions.logits(student.model, images, torch.arange(1000), ready.teacher.normalise, CPU)
    with torch.autocast("cpu", torch.bfloat16):
        rough = predictions.logits(student.model, images, torch.arange(1000), ready.teacher.normalise, CPU)
    # Which student there is depends on the teacher that this machine has trained, and so does how much its images lose.
    # What is promised is float32's class for every image that lost no more than CAUTION times the most in the sample.
    # A little less is asked for: another order of adding may move either logits by a rounding.
    error = exact - rough
    lost = error.amax(1) - error.gather(1, rough.argmax(1, keepdim=True))[:, 0]
    first, second = exact.topk(2).values.unbind(1)
    promised = (lost < 0.9 * predictions.CAUTION * lost[::5].max()) & (first - second > 1e-4)
    assert int(promised.sum()) > 900 and torch.equal(found[promised], exact.argmax(1)[promised])


def tied(model, images, number=100, lead=1e-3):
    """These images with the first ``number`` moved to where their largest logit leads by no more than ``lead``: far more
    than float32 rounds, and far less than bfloat16 does, which turns about half of them.

    How many of any others bfloat16 turns depends on the order in which a processor adds: once it was none.
    """
    weight = model[1].weight.detach()
    for point in images.values[:number].flatten(1):
        first, second = model(point[None])[0].topk(2).indices
        across = weight[first] - weight[second]
        leads = across @ point + (model[1].bias[first] - model[1].bias[second]).detach()
        point -= (leads - lead) / (across @ across) * across
    return images


def test_every_image_that_bfloat16_turns_is_turned_back(native, passes):
    model = linear(5)
    images = tied(model, points())
    exact = predictions.logits(model, images, torch.arange(2000), same, CPU)
    with torch.autocast("cpu", torch.bfloat16):
        turned = predictions.logits(model, images, torch.arange(2000), same, CPU).argmax(1) != exact.argmax(1)
    assert turned.any()
    passes.update(bfloat16=0, float32=0)
    assert torch.equal(predictions.predicted(model, images, same, CPU), exact.argmax(1))
    assert passes["bfloat16"] == 2200 and passes["float32"] < 1000        # the sample, all, and in float32 the doubtful


def test_classes_that_lie_close_together_are_left_to_float32(native, passes):
    model, images = linear(200), points()
    model[1].weight.data = model[1].weight[:1] + 0.02 * model[1].weight
    predictions.predicted(model, images, same, CPU)
    assert passes["bfloat16"] < 500 and passes["float32"] >= 2000
    assert torch.equal(predictions.predicted(model, images, same, CPU),
                       predictions.logits(model, images, torch.arange(2000), same, CPU).argmax(1))


def test_few_images_and_other_processors_never_see_bfloat16(passes, monkeypatch):
    monkeypatch.setattr(predictions, "multiplies_bfloat16", lambda device: False)
    predictions.predicted(linear(5), points(), same, CPU)
    monkeypatch.setattr(predictions, "multiplies_bfloat16", lambda device: True)
    predictions.predicted(linear(5), points(300), same, CPU)
    assert passes == {"bfloat16": 0, "float32": 2300}


class Rounded(nn.Module):
    """Five logits that bfloat16 gets wrong by ``error`` (n,) in favour of the class that it puts first."""

    def __init__(self, lead, error):
        super().__init__()
        self.lead, self.error = lead, error

    def forward(self, x):
        number = x[:, 0, 0, 0].long()
        rough = torch.zeros(len(x), 5)
        rough[:, 0] = self.lead[number]
        return rough if torch.is_autocast_enabled("cpu") else rough - self.error[number, None] * torch.eye(5)[0]


def test_what_a_second_round_shows_calls_for_a_third(native, passes):
    """The sample sees small errors; among the images that it makes doubtful is one with a larger error, and so on."""
    numbers = Points(torch.arange(2000.0).view(-1, 1, 1, 1))
    lead, error = torch.full((2000,), 9.0), torch.full((2000,), 0.1)
    lead[[3, 13, 23]], error[[3, 13, 23]] = torch.tensor([0.15, 0.9, 3.0]), torch.tensor([0.5, 2.0, 4.0])
    found = predictions.predicted(Rounded(lead, error), numbers, same, CPU)
    assert (found != 0).nonzero()[:, 0].tolist() == [3, 13, 23]
    assert passes == {"bfloat16": 2200, "float32": 203}


def test_a_gpu_runs_float32_alone(passes, monkeypatch):
    monkeypatch.setattr(predictions, "multiplies_bfloat16", lambda device: True)      # as a GPU does
    counted = predictions.logits
    monkeypatch.setattr(predictions, "logits", lambda model, images, indices, normalise, device: counted(
        linear(5), images, indices, normalise, CPU))
    predictions.predicted(linear(5), points(), same, torch.device("meta"))          # any that is no CPU
    assert passes == {"bfloat16": 0, "float32": 2000}


@pytest.mark.parametrize("broken", [slice(0, 1), slice(1000, 1010)], ids=["every image", "some images"])
def test_what_is_not_a_number_is_what_it_is_in_float32(broken, native, passes):
    model, images = linear(5), points()
    if broken.start:
        images.values[broken] = float("nan")
    else:
        model[1].weight.data[broken] = float("nan")
    assert torch.equal(predictions.predicted(model, images, same, CPU),
                       predictions.logits(model, images, torch.arange(2000), same, CPU).argmax(1))
