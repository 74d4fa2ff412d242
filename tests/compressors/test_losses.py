"""Eq. 2, 7, 8 and 9 by hand."""


import pytest
import torch
import torch.nn.functional as F
from conftest import small, uniform
from hypothesis import given
from hypothesis import strategies as st

from oefsmc_lib.compressors import Task, losses
from oefsmc_lib.images.fewshot import Samples


def test_eq_2_is_the_mean_kl_from_teacher_to_student():
    teacher, student = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.0], [3.0, 1.0]])
    p, q = teacher.softmax(1), student.softmax(1)
    by_hand = sum(float(p[i, j] * (p[i, j] / q[i, j]).log()) for i in range(2) for j in range(2)) / 2
    assert float(losses.distillation_kl(teacher, student)) == pytest.approx(by_hand)
    assert float(losses.distillation_kl(teacher, teacher + 5)) == pytest.approx(0, abs=1e-6)


def image_weights(few, aux, lam):
    """The weights (N,) of ``Task.joined``; a set that is not forwarded counts with weight 0."""
    sets = [Samples(torch.zeros(count, 1, 1, 1), torch.zeros(count, dtype=torch.int64)) for count in (few, aux)]
    weights = Task(None, sets[0], small(lam=lam), sets[1], sets[1].images).joined()[1]
    nothing = torch.zeros(few + aux - len(weights))
    return torch.cat([weights, nothing] if lam else [nothing, weights])


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1))
def test_eq_7_as_image_weights(few, aux, lam):
    weights = image_weights(few, aux, lam)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
    values = uniform(few + aux, "values")
    joint = lam * values[:few].mean() + (1 - lam) * values[few:].mean()
    assert float((weights * values).sum()) == pytest.approx(float(joint), abs=1e-5)


@given(st.integers(1, 40))
def test_equal_sets_at_one_half_are_the_pooled_set(num):
    assert image_weights(num, num, 0.5).tolist() == pytest.approx([1 / (2 * num)] * (2 * num))


def test_eq_8_by_hand_and_as_open_sampling_divides():
    logits, labels = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.5, 0.5]]), torch.tensor([0, 0, 1])
    gamma = torch.tensor([0.5, 1.5])
    each = [gamma[y] * -logits[i].log_softmax(0)[y] for i, y in enumerate(labels)]
    assert float(losses.regulariser(logits, labels, gamma)) == pytest.approx(float(sum(each)) / 3)
    weighted = F.cross_entropy(logits, labels, weight=gamma)
    assert float(losses.regulariser(logits, labels, gamma, "weighted")) == pytest.approx(float(weighted))
    assert float(losses.regulariser(logits[:1], labels[:1], torch.zeros(2), "weighted")) == 0
    assert float(losses.regulariser(logits, labels, gamma / 100, "weighted")) == pytest.approx(float(weighted))


def test_eq_9_adds_eta_times_the_second_term():
    few, aux = torch.tensor(1.5), torch.tensor(2.0)
    assert float(losses.total(few, aux, 2.5)) == 6.5
