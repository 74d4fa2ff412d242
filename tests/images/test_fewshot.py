"""The draw of the few images: counts, class order, nesting."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oefsmc_lib.errors import InputError
from oefsmc_lib.images import fewshot
from oefsmc_lib.parameters.experiment import Experiment

LABELS = torch.arange(600) % 10
sizes = st.tuples(st.integers(1, 400), st.integers(1, 60), st.floats(1, 1e4))


# --- counts --------------------------------------------------------------------------------------
@pytest.mark.parametrize("num, counts", [
    (10, "4 2 2 1 1 0 0 0 0 0"), (20, "8 5 3 2 1 1 0 0 0 0"), (30, "12 7 4 3 2 1 1 0 0 0"),
    (50, "20 12 7 4 3 2 1 1 0 0"), (100, "40 24 15 9 5 3 2 1 1 0"),
])
def test_counts_of_ten_classes_at_ratio_100(num, counts):
    assert fewshot.long_tailed_counts(num, 10, 100) == [int(c) for c in counts.split()]


@pytest.mark.parametrize("classes, num, head, empty", [
    (100, 100, [5, 4, 4], 48), (100, 200, [9, 9, 8], 34), (100, 500, [23, 22, 21], 16),
    (1000, 1000, [5], 478), (1000, 2000, [9], 339), (1000, 3000, [14], 258),
])
def test_counts_of_many_classes(classes, num, head, empty):
    counts = fewshot.long_tailed_counts(num, classes, 100)
    assert counts[: len(head)] == head and counts.count(0) == empty and sum(counts) == num


@given(sizes)
def test_long_tail_adds_up_and_falls_with_the_rank(size):
    counts = fewshot.long_tailed_counts(*size)
    assert sum(counts) == size[0] and len(counts) == size[1] and min(counts) >= 0
    assert counts == sorted(counts, reverse=True)


@given(sizes)
def test_step_adds_up_and_has_two_levels(size):
    num, classes, ratio = size
    counts = fewshot.step_counts(num, classes, ratio)
    half = (classes + 1) // 2
    assert sum(counts) == num and counts == sorted(counts, reverse=True)
    assert max(counts[:half]) - min(counts[:half]) <= 1
    assert not counts[half:] or max(counts[half:]) - min(counts[half:]) <= 1


@given(st.integers(1, 400), st.integers(1, 60))
def test_balanced_differs_by_one_at_most(num, classes):
    counts = fewshot.counts_by_rank(Experiment(num=num, imbalance="balanced"), classes)
    assert sum(counts) == num and max(counts) - min(counts) <= 1


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=30), st.integers(0, 300))
def test_largest_remainder_rounds_every_share_by_less_than_one(weights, total):
    counts = fewshot.largest_remainder(weights, total)
    assert sum(counts) == total
    assert all(abs(count - weight * total / sum(weights)) < 1 + 1e-6 for count, weight in zip(counts, weights))


@given(sizes, st.sampled_from(["long_tail", "step"]))
def test_other_roundings_fall_with_the_rank_too(size, imbalance):
    num, classes, ratio = size
    e = {kind: Experiment(num=num, ratio=ratio, imbalance=imbalance, rounding=kind)
         for kind in ("largest_remainder", "floor", "at_least_one")}
    floor, most = fewshot.counts_by_rank(e["floor"], classes), fewshot.counts_by_rank(e["largest_remainder"], classes)
    assert all(0 <= few <= more <= few + 1 for few, more in zip(floor, most)) and sum(floor) <= num
    if num < classes:
        with pytest.raises(InputError, match=f"needs an image for each of {classes} classes, but num={num}"):
            fewshot.counts_by_rank(e["at_least_one"], classes)
        return
    counts = fewshot.counts_by_rank(e["at_least_one"], classes)
    assert sum(counts) == num and min(counts) >= 1 and counts == sorted(counts, reverse=True)


def test_other_roundings_of_the_papers_smallest_case():
    """A3: floor loses three of ten images, and one each makes ten images balanced."""
    assert fewshot.long_tailed_counts(10, 10, 100, "floor") == [4, 2, 1, 0, 0, 0, 0, 0, 0, 0]
    assert fewshot.long_tailed_counts(10, 10, 100, "at_least_one") == [1] * 10
    with pytest.raises(InputError, match="rounding=floor leaves no image of num=1"):
        fewshot.draw(LABELS, 10, Experiment(num=1, rounding="floor"))


def test_two_classes_keep_the_ratio_and_a_step_has_more_head_classes_of_an_odd_number():
    assert fewshot.long_tailed_counts(101, 2, 100) == [100, 1] and fewshot.long_tailed_counts(7, 1, 100) == [7]
    assert fewshot.step_counts(2020, 4, 100) == [1000, 1000, 10, 10] and fewshot.step_counts(201, 3, 100) == [100, 100, 1]


def test_rounding_errors_of_the_shares_decide_nothing():
    """0.1 + 0.2 is a little more than 0.3, and a third of 3 images a little less than 1."""
    assert fewshot.largest_remainder([0.3, 0.1 + 0.2], 1) == [1, 0]       # a tie, which goes to the earlier class
    assert fewshot.rounded([0.1, 0.1, 0.1], 3, "floor") == [1, 1, 1]


def test_explicit_counts_are_taken_as_they_are():
    e = Experiment(num=6, imbalance="counts", counts=(3, 2, 1))
    assert fewshot.counts_by_rank(e, 3) == [3, 2, 1]
    with pytest.raises(InputError, match="counts names 3 classes, but mnist5k has 10"):
        fewshot.counts_by_rank(e, 10)


# --- the draw ------------------------------------------------------------------------------------
@given(st.integers(1, 100), st.integers(0, 200), st.sampled_from(["long_tail", "step", "balanced"]))
def test_a_draw_has_its_counts_without_repeats(num, seed, imbalance):
    drawn = fewshot.draw(LABELS, 10, Experiment(num=num, seed=seed, imbalance=imbalance))
    assert len(drawn.indices) == len(set(drawn.indices)) == num
    assert torch.bincount(LABELS[drawn.indices], minlength=10).tolist() == drawn.counts
    assert sorted(drawn.order) == list(range(10))
    by_rank = [drawn.counts[j] for j in drawn.order]
    assert by_rank == sorted(by_rank, reverse=True)


@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 50))
def test_a_draw_with_no_fewer_images_of_any_class_contains_the_smaller(num, more, seed):
    small, large = (fewshot.draw(LABELS, 10, Experiment(num=n, seed=seed)) for n in (num, num + more))
    for j in range(10):
        ours, theirs = ({i for i in drawn.indices if LABELS[i] == j} for drawn in (small, large))
        assert ours <= theirs or theirs <= ours


def test_the_papers_sizes_are_nested():
    draws = [set(fewshot.draw(LABELS, 10, Experiment(num=num)).indices) for num in (10, 20, 50, 100)]
    assert draws[0] < draws[1] < draws[2] < draws[3]


def test_class_order_is_permuted_by_the_seed_or_by_index():
    orders = [fewshot.draw(LABELS, 10, Experiment(seed=seed)).order for seed in range(5)]
    assert len({tuple(order) for order in orders}) == 5
    by_index = [fewshot.draw(LABELS, 10, Experiment(seed=seed, class_order="index")) for seed in range(2)]
    assert by_index[0].order == by_index[1].order == list(range(10))
    assert by_index[0].counts == [4, 2, 2, 1, 1, 0, 0, 0, 0, 0]
    assert by_index[0].indices != by_index[1].indices


def test_imbalance_leaves_the_class_order_and_num_the_images_alone():
    long_tail, balanced = (fewshot.draw(LABELS, 10, Experiment(imbalance=kind)) for kind in ("long_tail", "balanced"))
    assert long_tail.order == balanced.order
    first = {int(LABELS[i]): i for i in reversed(long_tail.indices)}
    assert all(first[int(LABELS[i])] == i for i in balanced.indices if int(LABELS[i]) in first)


def test_purposes_have_generators_of_their_own():
    numbers = {purpose: torch.rand(3, generator=fewshot.generator(0, purpose)).tolist()
               for purpose in ("few", "pool", "labels")}
    assert len({tuple(value) for value in numbers.values()}) == 3
    assert numbers["few"] == torch.rand(3, generator=fewshot.generator(0, "few")).tolist()


def test_a_generator_is_seeded_by_a_digest_of_seed_and_purpose():
    """Rows hang on it. The number is the start of what `printf 3:few | sha256sum` prints."""
    assert fewshot.generator(3, "few").initial_seed() == 0xade0551061def0


def test_a_draw_by_hand():
    """A generator orders the classes; another one shuffles each class in turn, whose first images are taken."""
    ranks = torch.randperm(10, generator=fewshot.generator(4, "classes")).tolist()
    source, drawn = fewshot.generator(4, "few"), fewshot.draw(LABELS, 10, Experiment(num=20, seed=4))
    assert drawn.order == ranks
    for j in range(10):
        members = [i for i in range(600) if i % 10 == j]
        shuffled = [members[k] for k in torch.randperm(60, generator=source)]
        m_j = [8, 5, 3, 2, 1, 1, 0, 0, 0, 0][ranks.index(j)]
        assert [i for i in drawn.indices if i % 10 == j] == shuffled[:m_j] and drawn.counts[j] == m_j


def refusal(have, names=None, **settings):
    with pytest.raises(InputError) as refused:
        fewshot.counts_of(Experiment(**{"class_order": "index", **settings}), have, names)
    return str(refused.value)


def test_a_refused_draw_says_how_many_images_would_do():
    """By hand, ratio 100: 100 images are 90 9 1 and 56 are 50 5 1; 3 are 3 0 0, and 4 are 4 0 0."""
    assert refusal([50, 50, 3], "abc", num=100) == (
        "Class 0 (a) of mnist5k has 50 training images, but the draw needs 90; the largest possible num is 56 for seed 0 "
        "and 3 for every seed, or add images.")
    assert refusal([3, 3], num=6, imbalance="counts", counts=(1, 5)) == (
        "Class 1 of mnist5k has 3 training images, but the draw needs 5; lower counts, or add images.")
    assert "possible num is 0 for seed 0 and 0 for every" in refusal([0, 9, 9], num=5, rounding="at_least_one")
    assert "possible num is 3 for seed 0 and 3 for every" in refusal([1, 9, 9], num=5, rounding="at_least_one")
    assert "possible num is 9 for seed 0 and 9 for every" in refusal([3, 9, 9], num=40, imbalance="balanced")
    assert "possible num is 9 for seed 0 and 9 for every" in refusal([3, 3, 3], num=10, imbalance="balanced")
    assert "possible num is 1 for seed 0 and 1 for every" in refusal([1, 1], num=2)
    assert "possible num is 6 for seed 0 and 6 for every" in refusal([2] * 10, num=10)        # 2 2 1 1, but 7 are 3 2 1 1
    assert fewshot.counts_of(Experiment(num=9, imbalance="balanced"), [3, 3, 3]) == [3, 3, 3]


def test_a_class_without_images_has_its_rank_and_names_are_said():
    labels, e = LABELS[LABELS < 9], Experiment(class_order="index")
    assert fewshot.draw(labels, 10, e).counts == [4, 2, 2, 1, 1, 0, 0, 0, 0, 0]
    with pytest.raises(InputError, match=r"^Class 0 \(a\) of mnist5k has 60 training images"):
        fewshot.draw(LABELS, 10, e.model_copy(update={"num": 400}), "abcdefghij")


def test_a_class_with_too_few_images_is_refused():
    with pytest.raises(InputError, match=r"Class \d of mnist5k has 60 training images, but the draw needs \d+; the largest possible num"):
        fewshot.draw(LABELS, 10, Experiment(num=400))


def test_samples_count_the_images_of_every_class():
    few = fewshot.Samples(torch.zeros(4, 1, 2, 2), torch.tensor([2, 0, 2, 1]))
    assert few.counts(5) == [1, 1, 2, 0, 0] and len(few) == 4


def test_groups_are_head_tail_and_absent():
    assert fewshot.groups([4, 2, 2, 1, 1, 0, 0, 0, 0, 0]) == ["head"] * 3 + ["tail"] * 2 + ["absent"] * 5
    assert fewshot.groups([2, 2]) == ["tail", "tail"]                     # even: none is above M / K


def test_joined_samples_are_the_first_and_behind_them_the_others():
    one, other = (fewshot.Samples(torch.full((n, 1, 2, 2), float(n)), torch.full((n,), n)) for n in (2, 3))
    both = one.joined(other)
    assert both.images[:, 0, 0, 0].tolist() == both.labels.tolist() == [2, 2, 3, 3, 3] and both.images.shape[1:] == (1, 2, 2)
    assert one.joined(None) is one
