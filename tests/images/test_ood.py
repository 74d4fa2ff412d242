"""Eq. 4, the labels of D_aux, the pool and its purity filter."""

import io

import numpy as np
import pytest
import torch
from conftest import experiment, image_set, numbers, pictures, source
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from oefsmc_lib.errors import InputError
from oefsmc_lib.images import elsewhere, fewshot, purity, sets, supply
from oefsmc_lib.images.views import augment
from oefsmc_lib.parameters.experiment import Experiment

counts = st.lists(st.integers(0, 60), min_size=2, max_size=40).filter(lambda c: sum(c) > 0)


def share(counts):
    return torch.tensor(counts).double() / sum(counts)


# --- eq. 4 ---------------------------------------------------------------------------------------
@given(counts, st.sampled_from(["all", "nonzero"]))
def test_rates_are_a_distribution_that_runs_against_the_shares(counts, alpha_min):
    beta = share(counts)
    gamma = elsewhere.rates(beta, alpha_min)
    assert float(gamma.sum()) == pytest.approx(1) and float(gamma.min()) >= -1e-15
    order = beta.argsort()
    assert bool((gamma[order].diff() <= 1e-15).all())     # the larger the share, the smaller the rate


@given(counts)
def test_rates_are_the_formula(counts):
    beta = share(counts)
    alpha = max(beta) + min(beta)
    by_hand = [(alpha - b) / (len(beta) * alpha - 1) for b in beta]
    assert elsewhere.rates(beta).tolist() == pytest.approx([float(value) for value in by_hand])


@given(st.integers(2, 50), st.integers(1, 9))
def test_balanced_shares_give_even_rates_and_weight_one(classes, each):
    gamma = elsewhere.rates(share([each] * classes))
    assert gamma.tolist() == pytest.approx([1 / classes] * classes)
    for kind in ("k_gamma", "one", "normalised"):
        assert elsewhere.class_weights(gamma, kind).tolist() == pytest.approx([1] * classes)


@given(counts, st.integers(0, 20))
def test_an_empty_class_leaves_the_head_nothing_unless_alpha_skips_it(counts, place):
    beta = share([*counts[:place], 0, *counts[place:], max(counts) + 1])
    assert float(elsewhere.rates(beta)[beta.argmax()]) == 0
    assert float(elsewhere.rates(beta, "nonzero").min()) > 0


def test_rates_of_the_papers_smallest_case():
    gamma = elsewhere.rates(share([4, 2, 2, 1, 1, 0, 0, 0, 0, 0]))
    assert float(gamma[0]) == 0 and float(gamma[9]) == pytest.approx(0.1333, abs=5e-5)
    assert float(elsewhere.class_weights(gamma)[9]) == pytest.approx(1.333, abs=5e-4)
    assert float((gamma * elsewhere.class_weights(gamma)).sum()) == pytest.approx(1.18, abs=5e-3)


@pytest.mark.parametrize("classes, num, flattest", [(10, 10, 3.0), (10, 100, 3.0), (100, 100, 4.0), (100, 200, 3.5),
                                                    (100, 500, 3.6)])
def test_m_equal_to_num_flattens_the_prior_without_evening_it(classes, num, flattest):
    beta = share(fewshot.long_tailed_counts(num, classes, 100))
    mixed = (beta + elsewhere.rates(beta)) / 2
    assert float(mixed.max() / mixed.min()) == pytest.approx(flattest, abs=0.05)


@given(counts)
def test_kinds_of_class_weights(counts):
    gamma = elsewhere.rates(share(counts))
    k_gamma, one, normalised = (elsewhere.class_weights(gamma, kind) for kind in ("k_gamma", "one", "normalised"))
    assert k_gamma.tolist() == pytest.approx((len(counts) * gamma).tolist(), rel=1e-5)
    assert float(k_gamma.mean()) == pytest.approx(1, rel=1e-5) and one.tolist() == [1] * len(counts)
    assert float((gamma * normalised).sum()) == pytest.approx(1, rel=1e-5)


# --- labels --------------------------------------------------------------------------------------
@given(counts, st.integers(0, 200), st.integers(0, 99))
def test_quota_labels_have_rounded_counts(counts, m, seed):
    gamma = elsewhere.rates(share(counts))
    labels = elsewhere.draw_labels(gamma, m, "quota", source(seed))
    found = torch.bincount(labels, minlength=len(counts))
    assert len(labels) == m and bool(((found - m * gamma).abs() < 1 + 1e-6).all())


@given(counts, st.integers(0, 200), st.integers(0, 99))
def test_iid_labels_fall_only_where_the_rate_is_positive(counts, m, seed):
    gamma = elsewhere.rates(share(counts))
    labels = elsewhere.draw_labels(gamma, m, "iid", source(seed))
    assert len(labels) == m and bool((gamma[labels] > 0).all())
    assert torch.equal(labels, elsewhere.draw_labels(gamma, m, "iid", source(seed)))


def test_iid_labels_follow_the_rates():
    gamma = elsewhere.rates(share([4, 2, 2, 1, 1, 0, 0, 0, 0, 0]))
    by_hand = torch.multinomial(gamma, 500, replacement=True, generator=source())
    assert torch.equal(elsewhere.draw_labels(gamma, 500, "iid", source()), by_hand)
    found = torch.bincount(elsewhere.draw_labels(gamma, 100_000, "iid", source()), minlength=10) / 1e5
    assert float((found - gamma).abs().max()) < 0.005


@pytest.mark.parametrize("sampling", ["iid", "quota"])
def test_no_labels_draw_nothing(sampling):
    generator = source()
    before, none = generator.get_state(), elsewhere.draw_labels(torch.ones(3).double() / 3, 0, sampling, generator)
    assert none.dtype == torch.int64 and none.tolist() == [] and torch.equal(before, generator.get_state())


def test_quota_breaks_ties_at_random_and_shuffles():
    gamma = torch.full((10,), 0.1).double()
    winners = {tuple(sorted(elsewhere.draw_labels(gamma, 3, "quota", source(seed)).tolist())) for seed in range(20)}
    assert len(winners) > 5
    for seed in range(5):                                 # which five of ten equal remainders win is the generator's matter
        assert torch.equal(*(elsewhere.draw_labels(gamma, 5, "quota", source(seed)) for _ in range(2)))
    labels = elsewhere.draw_labels(gamma, 50, "quota", source()).tolist()
    assert labels != sorted(labels) and torch.bincount(torch.tensor(labels)).tolist() == [5] * 10


# --- the pool ------------------------------------------------------------------------------------
SHAPE = (3, 32, 32)


def pool_of(e):
    """The pool that a run draws: without the images of its watch set."""
    return elsewhere.draw_pool(e, SHAPE, elsewhere.draw_watch(e, SHAPE))


def test_a_pool_has_n_images_of_the_source_without_repeats(tiny):
    pool = pool_of(experiment())
    assert len(pool.images) == len(set(pool.indices)) == 30 and pool.removed == 0
    assert torch.equal(pool.images, tiny["elsewhere", "train"].images[pool.indices])


def test_pools_of_a_seed_are_nested_and_seeds_differ(tiny):
    small, large, other = (pool_of(experiment(**s)) for s in ({"n": 20}, {"n": 50}, {"n": 20, "seed": 1}))
    assert large.indices[:20] == small.indices != other.indices


def test_adding_ood_images_leaves_the_few_as_they_were(tiny):
    labels = tiny["tiny", "train"].labels
    assert fewshot.draw(labels, 5, experiment(m=3)) == fewshot.draw(labels, 5, experiment(m=30, n=80))


def test_excluded_classes_stay_out(tiny):
    labels = tiny["elsewhere", "train"].labels
    pool = pool_of(experiment(ood_exclude=("elsewhere-1",)))
    assert set(labels[pool.indices].tolist()) == {0, 2}
    with pytest.raises(InputError, match="ood_exclude names 'bus', but elsewhere has no such class"):
        pool_of(experiment(ood_exclude=("bus",)))


def test_a_folder_of_ood_images_is_read_at_the_side_of_the_data(tiny, monkeypatch):
    tiny["folder:/photos", "train"], load, asked = tiny["elsewhere", "train"], sets.load, {}

    def see(name, split, image_size=None, skip_broken=False):
        asked[name] = image_size, skip_broken
        return load(name, split)
    monkeypatch.setattr(sets, "load", see)
    for name, size in (("folder:/photos", 32), ("elsewhere", None)):
        for skip in (False, True):
            pool_of(experiment(ood_source=name, skip_broken=skip))
            assert asked[name] == (size, skip)


def test_a_source_with_too_few_images_is_refused(tiny):
    with pytest.raises(InputError, match=r"^The run needs a pool of n=73 images, .* has 90 usable images, of which 18 "
                                         r"are set aside .*; set n to at most 72, or name a larger ood_source"):
        pool_of(experiment(n=73))


def test_the_watch_set_is_a_fifth_of_a_small_source_and_128_images_of_a_large_one(tiny):
    assert [supply.watch_size(count) for count in (4, 90, 639, 640, 50_000)] == [0, 18, 127, 128, 128]
    watch = elsewhere.draw_watch(experiment(), SHAPE)
    assert len(watch.images) == len(set(watch.indices)) == 18
    assert torch.equal(watch.images, tiny["elsewhere", "train"].images[watch.indices])


@pytest.mark.parametrize("settings", [{"n": 50}, {"m": 3}, {"n": 60, "m": 20}, {"finetune.stop": "fixed"}, {"num": 20}])
def test_sizes_of_pool_and_d_aux_do_not_move_the_watch_set_nor_the_rule_the_pool(tiny, settings):
    one, other = experiment(), experiment(**settings)
    assert elsewhere.draw_watch(one, SHAPE).indices == elsewhere.draw_watch(other, SHAPE).indices != \
        elsewhere.draw_watch(experiment(seed=1), SHAPE).indices
    shorter = min(one.pool_size, other.pool_size)
    assert pool_of(one).indices[:shorter] == pool_of(other).indices[:shorter]
    assert not set(pool_of(other).indices) & set(elsewhere.draw_watch(other, SHAPE).indices)


def test_d_aux_is_drawn_without_repeats_and_grows_by_adding(tiny):
    pool = pool_of(experiment())
    few, more = elsewhere.draw_aux(pool, 5, 0), elsewhere.draw_aux(pool, 12, 0)
    assert torch.equal(more[:5], few) and len(set(more.tolist())) == 12


def test_watch_set_pool_and_d_aux_by_hand(tiny):
    """Each has a generator of its own; the pool is drawn from what the watch set leaves."""
    source, e = tiny["elsewhere", "train"], experiment(seed=2)
    watch = elsewhere.draw_watch(e, SHAPE)
    pool = elsewhere.draw_pool(e, SHAPE, watch)
    assert watch.indices == torch.randperm(90, generator=fewshot.generator(2, "watch"))[:18].tolist()
    left = [i for i in range(90) if i not in watch.indices]
    assert pool.indices == [left[k] for k in torch.randperm(72, generator=fewshot.generator(2, "pool"))[:30]]
    assert pool.fingerprint == watch.fingerprint == source.fingerprint
    assert elsewhere.draw_aux(pool, 7, 2).tolist() == torch.randperm(30, generator=fewshot.generator(2, "aux"))[:7].tolist()


def test_augmented_copies_take_the_few_in_turn():
    images = pictures(3)
    copies, origin = elsewhere.augmented_copies(images, 7, experiment(augment="none", aux="augmented_few"))
    assert origin.tolist() == [0, 1, 2, 0, 1, 2, 0] and torch.equal(copies, images[origin])
    changed, _ = elsewhere.augmented_copies(images, 7, experiment(augment="crop", aux="augmented_few"))
    assert not torch.equal(changed[0], changed[3])
    e = experiment(augment="crop", aux="augmented_few", seed=2)
    assert torch.equal(elsewhere.augmented_copies(images, 7, e)[0], augment(images[origin], "crop", fewshot.generator(2, "aux")))


# --- the purity filter ---------------------------------------------------------------------------
def compressed(images, quality):
    """The same pictures through a JPEG file."""
    out = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        out.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
    return torch.stack(out)


COPIES = {
    "the same": lambda x: x,
    "JPEG": lambda x: compressed(x, 75),
    "brighter": lambda x: (x.float() * 0.8 + 20).round().to(torch.uint8),
    "less contrast": lambda x: (128 + 0.5 * (x.float() - 128)).round().to(torch.uint8),
    "enlarged and back": lambda x: torch.nn.functional.interpolate(torch.nn.functional.interpolate(
        x.float(), (64, 64), mode="bilinear"), (32, 32), mode="area").round().clamp(0, 255).to(torch.uint8),
}


def nearest(images, known):
    return (purity._thumbnails(images) @ purity._thumbnails(known).T)


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_found_and_different_pictures_are_not(kind):
    known, others = pictures(60, seed=10), pictures(60, seed=20)
    copies = COPIES[kind](known)
    assert float(nearest(copies, known).diagonal().min()) > 0.99
    hashes, thumbnails = frozenset(purity.hashes_of(known)), purity._thumbnails(known).half()
    assert bool(purity.impure(copies, hashes, thumbnails).all())
    assert not bool(purity.impure(others, hashes, thumbnails).any())


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", ["the same", "JPEG"])
def test_pictures_of_either_split_are_kept_out_of_the_pool(tiny, split, kind):
    stolen = COPIES[kind](tiny["tiny", split].images[:30])
    clean = tiny["elsewhere", "train"].images
    tiny["elsewhere", "train"] = image_set("elsewhere", 120, 3, 3)
    tiny["elsewhere", "train"].images[:30] = stolen
    tiny["elsewhere", "train"].images[30:] = clean
    watch, pool = elsewhere.draw_watch(experiment(), SHAPE), pool_of(experiment(n=66))      # 24 of 120 are watched
    assert sorted(watch.indices + pool.indices) == list(range(30, 120)) and pool.removed <= 30 and watch.removed <= 30
    with pytest.raises(InputError, match=r"n=67 images, .* has 90 usable images, of which 24 are set aside .* most 66"):
        pool_of(experiment(n=67))


def test_what_the_filter_takes_out_by_hand(tiny):
    """The source is read in parts of 256. Of the last part the filter's finds count up to the first image too many."""
    noise = torch.from_numpy(numbers("noise").randint(0, 256, (700, *SHAPE))).to(torch.uint8)
    noise[:450] = tiny["tiny", "train"].images[torch.arange(450) % 100]
    tiny["elsewhere", "train"] = sets.ImageSet("elsewhere", noise, torch.zeros(700).long(), ("any",), "print")
    e = experiment(n=40)
    watch, positions = elsewhere.draw_watch(e, SHAPE), list(range(700))
    for purpose, found, size in (("watch", watch, 128), ("pool", elsewhere.draw_pool(e, SHAPE, watch), 40)):
        order = [positions[k] for k in torch.randperm(len(positions), generator=fewshot.generator(0, purpose))]
        pure = [i for i in order if i >= 450]
        assert found.indices == pure[:size] and torch.equal(found.images, noise[found.indices])
        end = min(order.index(pure[size]), 256 * (order.index(pure[size - 1]) // 256 + 1))
        assert found.removed == sum(i < 450 for i in order[:end])
        positions = [i for i in positions if i not in watch.indices]


def test_the_filter_knows_the_pictures_as_the_run_reads_them(tiny, monkeypatch):
    asked, known = [], purity.known

    def knows(*how):
        asked.append(how)
        return known("tiny", None, False)
    knows.cache_clear = known.cache_clear
    monkeypatch.setattr(purity, "known", knows)
    elsewhere.draw_watch(experiment(image_size=16, skip_broken=True), SHAPE)
    assert asked == [("tiny", 16, True)]


def test_a_source_of_pictures_of_the_data_set_has_no_watch_set(tiny):
    tiny["elsewhere", "train"].images[:80] = tiny["tiny", "train"].images[:80]
    with pytest.raises(InputError, match=r"Without pictures of tiny, .* elsewhere has 10 images, too few .* of 18;"):
        elsewhere.draw_watch(experiment(), SHAPE)


def test_a_source_whose_classes_are_all_excluded_is_empty_and_refused(tiny):
    nothing = {"ood_exclude": tiny["elsewhere", "train"].class_names}
    assert elsewhere.draw_watch(experiment(**nothing), SHAPE).images.shape == (0, *SHAPE)
    with pytest.raises(InputError, match="has 0 usable images without the classes of ood_exclude, of which 0 are set"):
        pool_of(experiment(**nothing))


@pytest.mark.parametrize("exclude", [(), ("elsewhere-1",), ("elsewhere-0", "elsewhere-2")])
def test_a_source_is_said_to_be_too_small_exactly_where_the_draw_fails(tiny, monkeypatch, exclude):
    source = tiny["elsewhere", "train"]
    monkeypatch.setattr(sets, "class_counts", lambda name, **_: [(each, 30) for each in source.class_names])
    wanted = {"ood_exclude": list(exclude), "m": 1}
    usable = supply.usable_images(experiment(n=1, **wanted))
    assert usable == 90 - 30 * len(exclude)
    most = next(n for n in range(90, 0, -1) if supply.shortage(experiment(n=n, **wanted), usable) is None)
    assert len(pool_of(experiment(n=most, **wanted)).indices) == most == usable - supply.watch_size(usable)
    with pytest.raises(InputError) as refusal:
        pool_of(experiment(n=most + 1, **wanted))
    assert str(refusal.value) == f"The run {supply.shortage(experiment(n=most + 1, **wanted), usable)}."


def test_flat_images_are_no_duplicates_of_each_other():
    black, gray = torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.full((1, 3, 32, 32), 90, dtype=torch.uint8)
    assert not bool(purity.impure(gray, frozenset(purity.hashes_of(black)), purity._thumbnails(black)).any())


def test_gray_data_is_compared_with_coloured_sources(tiny):
    gray = pictures(5, channels=1)
    coloured = gray.expand(-1, 3, -1, -1).contiguous()
    assert float(nearest(coloured, gray).diagonal().min()) > 0.99


@pytest.mark.parametrize("settings, way_out", [
    ({}, "set finetune.stop=fixed"),
    ({"method": "practise", "variant": "native"}, "set practise.stop=none"),
    ({"method": "practise"}, "set finetune.stop=fixed and practise.stop=none"),
])
def test_the_way_out_without_a_watch_set_names_what_watches(settings, way_out):
    asked = Experiment.parse({"n": 1, "m": 1, **settings})
    assert supply.shortage(asked, 4, 0).endswith(way_out)
