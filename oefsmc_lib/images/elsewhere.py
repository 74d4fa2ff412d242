"""OOD images, images from elsewhere: the pool and its purity filter, the watch set, eq. 4, and the labels of D_aux."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from oefsmc_lib.errors import InputError
from oefsmc_lib.images.fewshot import generator, largest_remainder

WATCHED = 128  # images of the watch set; a fifth of a source below 640

# Cosine of two mean-free 16x16 luma thumbnails from which two images count as the same picture.
# Re-encoding, brightness and contrast leave it above 0.99; see tests/images/test_ood.py.
NEAR_DUPLICATE = 0.98


def rates(beta: Tensor, alpha_min: str = "all") -> Tensor:
    r"""Eq. (4): complementary sampling rates Gamma_j = (alpha - beta_j) / (K alpha - 1).

    ``beta`` (K,) are the class shares of D_few; alpha = max beta + min beta, so Gamma >= 0 and
    sums to 1. ``alpha_min="nonzero"`` takes the minimum over classes that have images. With an
    empty class, min beta = 0 and the head class gets no OOD image at all.
    """
    beta = beta.double()
    smallest = beta[beta > 0].min() if alpha_min == "nonzero" else beta.min()
    alpha = beta.max() + smallest
    # Gamma_j = (alpha - beta_j) / (K alpha - 1)
    return (alpha - beta) / (len(beta) * alpha - 1)


def class_weights(gamma_rates: Tensor, kind: str = "k_gamma") -> Tensor:
    """The class weight gamma_j of eq. (8), undefined in the paper: K Gamma_j, as in Open-Sampling.

    ``one`` weighs all classes alike; ``normalised`` scales K Gamma so that its mean over drawn
    labels is 1. (K,), float32.
    """
    k_gamma = len(gamma_rates) * gamma_rates
    if kind == "one":
        return torch.ones_like(gamma_rates).float()
    if kind == "normalised":
        return (k_gamma / (gamma_rates * k_gamma).sum()).float()
    return k_gamma.float()


def draw_labels(gamma_rates: Tensor, m: int, sampling: str, source: torch.Generator) -> Tensor:
    """Labels (m,) of the auxiliary images: i.i.d. from Gamma, or a quota of round(m Gamma_j) in random order."""
    if m == 0:
        return torch.empty(0, dtype=torch.int64)
    if sampling == "iid":
        return torch.multinomial(gamma_rates, m, replacement=True, generator=source)
    # Equal remainders are broken at random, or low class numbers would always win.
    shuffle = torch.randperm(len(gamma_rates), generator=source)
    counts = torch.empty(len(gamma_rates), dtype=torch.int64)
    counts[shuffle] = torch.tensor(largest_remainder(gamma_rates[shuffle].tolist(), m))
    labels = torch.repeat_interleave(torch.arange(len(gamma_rates)), counts)
    return labels[torch.randperm(m, generator=source)]


@dataclass(frozen=True)
class Pool:
    """n unlabelled OOD images, as uint8 in the shape of the data."""

    images: Tensor  # (n, C, H, W)
    indices: list[int]  # positions in the source
    removed: int  # images that the purity filter took out
    fingerprint: str


def _thumbnails(images: Tensor) -> Tensor:
    """(N, C, H, W) uint8 -> (N, 256) mean-free unit vectors of 16x16 luma."""
    from oefsmc_lib.images.sets import fit

    gray = fit(images, (1, *images.shape[2:])).float()
    small = F.adaptive_avg_pool2d(gray, 16).flatten(1)
    small = small - small.mean(1, keepdim=True)
    return small / small.norm(dim=1, keepdim=True).clamp_min(1e-6)


def _hashes(images: Tensor) -> list[bytes]:
    return [hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest() for image in images.contiguous()]


@lru_cache(maxsize=2)
def _known(dataset: str, image_size: int | None, skip_broken: bool) -> tuple[frozenset, Tensor]:
    """Hashes and thumbnails of every training and test image; labels are not looked at."""
    from oefsmc_lib.images import sets

    hashes: set[bytes] = set()
    vectors = []
    for split in ("train", "test"):
        for images, _ in sets.load(dataset, split, image_size=image_size, skip_broken=skip_broken).batches(2048):
            hashes.update(_hashes(images))
            vectors.append(_thumbnails(images).half())
    return frozenset(hashes), torch.cat(vectors)


def impure(images: Tensor, hashes: frozenset, thumbnails: Tensor) -> Tensor:
    """Which images (N, C, H, W) are, exactly or nearly, in the known set: bool (N,)."""
    exact = torch.tensor([digest in hashes for digest in _hashes(images)])
    vectors = _thumbnails(images)
    nearest = torch.full((len(images),), -1.0)
    for chunk in thumbnails.split(20_000):
        nearest = torch.maximum(nearest, (vectors @ chunk.float().T).amax(1))
    return exact | (nearest >= NEAR_DUPLICATE)


def draw_watch(experiment, shape: tuple[int, int, int]) -> Pool:
    """The watch set: images of the source that only early stopping looks at, drawn by a generator of their own.

    ``WATCHED`` pure images, or a fifth of what the source has where it has fewer than five times as many. They are
    set aside before the pool is drawn, so neither n, m nor the rule of stopping changes either set.
    """
    source, allowed = _source(experiment, shape)
    size = watch_size(len(allowed))
    return (
        _pure(experiment, shape, source, allowed, "watch", size)
        if size
        else Pool(torch.empty(0, *shape, dtype=torch.uint8), [], 0, source.fingerprint)
    )


def watch_size(usable: int) -> int:
    """Images of the watch set for a source with ``usable`` images, its excluded classes aside."""
    return min(WATCHED, usable // 5)


def draw_pool(experiment, shape: tuple[int, int, int], watch: Pool) -> Pool:
    """n images of the source, without the excluded classes, the watch set, and pictures of the data set.

    The source is shuffled by the seed and read until n pure images are found; a larger pool of a
    seed contains the smaller one. Raises :class:`InputError` when the source has too few.
    """
    source, allowed = _source(experiment, shape)
    rest = allowed[~torch.isin(allowed, torch.tensor(watch.indices, dtype=torch.int64))]
    return _pure(experiment, shape, source, rest, "pool", experiment.pool_size)


def _source(experiment, shape: tuple[int, int, int]):
    """The source's images, and the positions (n,) of those whose class is not excluded."""
    from oefsmc_lib.images import sets

    source = sets.load(
        experiment.ood_source,
        "train",
        skip_broken=experiment.skip_broken,
        image_size=shape[1] if experiment.ood_source.startswith(sets.FOLDER) else None,
    )
    excluded = excluded_classes(experiment, source.class_names)
    return source, torch.tensor([label not in excluded for label in source.labels.tolist()]).nonzero().flatten()


def excluded_classes(experiment, class_names) -> set[int]:
    """Labels of the source's classes that ``ood_exclude`` names; refuses a name that the source does not have."""
    if unknown := sorted(set(experiment.ood_exclude) - set(class_names)):
        raise InputError(f"ood_exclude names {unknown[0]!r}, but {experiment.ood_source} has no such class.")
    return {class_names.index(name) for name in experiment.ood_exclude}


def usable_images(experiment) -> int | None:
    """Images of the source without the excluded classes, by its labels alone; None where the source is not here.

    Raises :class:`InputError` for a name in ``ood_exclude`` that the source does not have, and for a source that
    cannot be read.
    """
    from oefsmc_lib.images import sets

    counts = sets.class_counts(experiment.ood_source, skip_broken=experiment.skip_broken)
    if counts is None:
        return None
    excluded = excluded_classes(experiment, [name for name, _ in counts])
    return sum(count for label, (_, count) in enumerate(counts) if label not in excluded)


def shortage(experiment, usable: int) -> str | None:
    """Why a source with so many usable images cannot serve a run, and the way out; None where it can.

    Pictures of the data set, which the purity filter takes out, are not known here; :func:`too_few` is about them.
    """
    watch = watch_size(usable)
    room = usable - watch
    has = f"the OOD source {experiment.ood_source} has {usable} usable images" + (
        " without the classes of ood_exclude" if experiment.ood_exclude else ""
    )
    if experiment.draws_pool and experiment.pool_size > room:
        # n is by default the larger of 500 and m, so a lower m alone helps only where 500 images would do.
        lower = ["n"] if experiment.n is not None or room < 500 else []
        lower += [] if experiment.aux_size <= room else ["m"] if experiment.m is not None else ["m (by default num)"]
        way_out = f"set {' and '.join(lower)} to at most {room}, or " if room else ""
        return (
            f"needs a pool of n={experiment.pool_size} images, but {has}, of which {watch} are set aside as the watch "
            f"set; {way_out}name a larger ood_source, such as folder:PATH"
        )
    if experiment.watches and not watch:
        return (
            f"needs images to watch while fine-tuning, but {has}, and the watch set is a fifth of them at most; name a "
            "larger ood_source, such as folder:PATH, or set finetune.stop=fixed"
        )
    return None


def _pure(experiment, shape, source, candidates_at: Tensor, purpose: str, size: int) -> Pool:
    """The first ``size`` pure images among these positions of the source, in an order that seed and purpose decide."""
    from oefsmc_lib.images import sets

    order = candidates_at[torch.randperm(len(candidates_at), generator=generator(experiment.seed, purpose))]
    hashes, thumbnails = _known(experiment.dataset, experiment.image_size, experiment.skip_broken)
    kept, images, removed = [], [], 0
    for chunk in order.split(max(size, 256)):
        candidates = sets.fit(source.take(chunk), shape)
        bad = impure(candidates, hashes, thumbnails)
        enough = (~bad).cumsum(0) <= size - len(kept)
        images.append(candidates[~bad & enough])
        kept += chunk[~bad & enough].tolist()
        removed += int((bad & enough).sum())
        if len(kept) == size:
            return Pool(torch.cat(images), kept, removed, source.fingerprint)
    raise too_few(experiment, purpose, len(kept), size)


def too_few(experiment, purpose: str, usable: int, size: int) -> InputError:
    """What is said where a source cannot fill the pool or the watch set."""
    if purpose == "watch":
        return InputError(
            f"The OOD source {experiment.ood_source} has {usable} usable images, but early stopping watches "
            f"{size}; use another ood_source or finetune.stop=fixed."
        )
    return InputError(
        f"The OOD source {experiment.ood_source} has {usable} usable images besides the watch set, but the pool "
        f"needs n={size}; lower n and m, or name another ood_source."
    )


def draw_aux(pool: Pool, m: int, seed: int) -> Tensor:
    """Positions in the pool (m,) of the auxiliary images, without replacement; m grows by adding to it."""
    return torch.randperm(len(pool.images), generator=generator(seed, "aux"))[:m]


def augmented_copies(images: Tensor, m: int, experiment) -> tuple[Tensor, Tensor]:
    """The control without OOD images: m augmented copies of the few, in turn; and whose copy each is."""
    from oefsmc_lib.images.views import augment

    origin = torch.arange(m) % len(images)
    return augment(images[origin], experiment.augment, generator(experiment.seed, "aux")), origin
