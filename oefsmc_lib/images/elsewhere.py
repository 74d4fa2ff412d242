"""OOD images, images from elsewhere: eq. 4 and the labels of D_aux, the watch set, and the pool."""

from dataclasses import dataclass

import torch
from torch import Tensor

from oefsmc_lib.errors import InputError
from oefsmc_lib.images import purity, sets, supply
from oefsmc_lib.images.fewshot import generator, largest_remainder
from oefsmc_lib.images.views import augment
from oefsmc_lib.parameters.experiment import Experiment


# --- eq. 4 and the labels of D_aux -------------------------------------------------------------
def rates(beta: Tensor, alpha_min: str = "all") -> Tensor:
    r"""Eq. (4): complementary sampling rates Gamma_j = (alpha - beta_j) / (K alpha - 1).

    ``beta`` (K,) are the class shares of D_few, and alpha = max beta + min beta, so Gamma (K,) is never negative and
    sums to 1. ``alpha_min="nonzero"`` takes the minimum over the classes that have images: with an empty class,
    min beta = 0, and the head class gets no OOD image at all.
    """
    beta = beta.double()
    smallest = beta[beta > 0].min() if alpha_min == "nonzero" else beta.min()
    alpha = beta.max() + smallest
    # Gamma_j = (alpha - beta_j) / (K alpha - 1)
    return (alpha - beta) / (len(beta) * alpha - 1)


def class_weights(gamma_rates: Tensor, kind: str = "k_gamma") -> Tensor:
    """The class weights gamma_j of eq. (8), (K,) float32, from the rates Gamma of eq. (4).

    The paper does not define them. ``k_gamma`` is K Gamma_j, as in Open-Sampling (Wei et al., 2022); ``normalised``
    scales it so that its mean over drawn labels is 1; ``one`` weighs all classes alike.
    """
    k_gamma = len(gamma_rates) * gamma_rates
    mean = (gamma_rates * k_gamma).sum()  # sum_i Gamma_i K Gamma_i
    return {"k_gamma": k_gamma, "normalised": k_gamma / mean, "one": torch.ones_like(gamma_rates)}[kind].float()


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


# --- the watch set, the pool and D_aux ---------------------------------------------------------
@dataclass(frozen=True)
class Pool:
    """Unlabelled OOD images, in the shape of the data."""

    images: Tensor  # (n, C, H, W) uint8
    indices: list[int]  # (n,) positions in the source
    removed: int  # images that the purity filter took out
    fingerprint: str  # of the source


def draw_watch(experiment: Experiment, shape: tuple[int, int, int]) -> Pool:
    """The watch set: images of the source that only early stopping looks at.

    These are 128 pure images, or a fifth of a source that has fewer than five times as many. They have a
    generator of their own and are set aside before the pool is drawn, so neither n, m nor the rule of stopping changes
    either set. Raises :class:`InputError` when the source holds hardly anything but pictures of the data set.
    """
    source, allowed = _source(experiment, shape)
    size = supply.watch_size(len(allowed))
    watch = _pure(experiment, shape, source, allowed, "watch", size)
    if len(watch.indices) < size:
        raise InputError(
            f"Without pictures of {experiment.dataset}, the OOD source {experiment.ood_source} has "
            f"{len(watch.indices)} images, too few for the watch set of {size}; name another ood_source."
        )
    return watch


def draw_pool(experiment: Experiment, shape: tuple[int, int, int], watch: Pool) -> Pool:
    """n images of the source, without the excluded classes, the watch set, and pictures of the data set.

    The seed shuffles the source, which is then read until n pure images are found. A larger pool of a seed therefore
    contains the smaller one. Raises :class:`InputError` when the source has too few.
    """
    source, allowed = _source(experiment, shape)
    rest = allowed[~torch.isin(allowed, torch.tensor(watch.indices, dtype=torch.int64))]
    pool = _pure(experiment, shape, source, rest, "pool", experiment.pool_size)
    watched, found = len(watch.indices), len(pool.indices)
    if found < experiment.pool_size:
        raise InputError(f"The run {supply.shortage(experiment, watched + found, watched)}.")
    return pool


def draw_aux(pool: Pool, m: int, seed: int) -> Tensor:
    """Positions in the pool (m,) of the auxiliary images, without replacement; m grows by adding to it."""
    return torch.randperm(len(pool.images), generator=generator(seed, "aux"))[:m]


def augmented_copies(images: Tensor, m: int, experiment: Experiment) -> tuple[Tensor, Tensor]:
    """The control without OOD images: m augmented copies of the few in turn, and whose copy each is (m,)."""
    origin = torch.arange(m) % len(images)
    return augment(images[origin], experiment.augment, generator(experiment.seed, "aux")), origin


def _source(experiment: Experiment, shape: tuple[int, int, int]) -> tuple[sets.ImageSet, Tensor]:
    """The source's images, and the positions (n,) of those whose class is not excluded."""
    name = experiment.ood_source
    size = shape[1] if name.startswith(sets.FOLDER) else None
    source = sets.load(name, "train", image_size=size, skip_broken=experiment.skip_broken)
    excluded = torch.tensor(supply.excluded_classes(experiment, source.class_names), dtype=torch.int64)
    return source, (~torch.isin(source.labels, excluded)).nonzero().flatten()


def _pure(
    experiment: Experiment, shape: tuple[int, int, int], source: sets.ImageSet, allowed: Tensor, purpose: str, size: int
) -> Pool:
    """The first ``size`` pure images of these positions (fewer if there are no more), in the order of the seed."""
    known = purity.known(experiment.dataset, experiment.image_size, experiment.skip_broken)
    order = allowed[torch.randperm(len(allowed), generator=generator(experiment.seed, purpose))]
    kept: list[int] = []
    images, removed = [torch.empty(0, *shape, dtype=torch.uint8)], 0
    for chunk in order.split(max(size, 256)):
        if len(kept) == size:
            break
        candidates = sets.fit(source.take(chunk), shape)
        bad = purity.impure(candidates, *known)
        enough = (~bad).cumsum(0) <= size - len(kept)
        images.append(candidates[~bad & enough])
        kept += chunk[~bad & enough].tolist()
        removed += int((bad & enough).sum())
    return Pool(torch.cat(images), kept, removed, source.fingerprint)
