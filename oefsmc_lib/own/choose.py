r"""Which layers give up how many channels: a scan of all layers by a closed form, and the way to a target.

For the layer whose channels S stay and S' go, with G = A^T A the Gram matrix of what its readers read,

    R = G_{S'S'} - G_{S'S} (G_SS + rho I)^{-1} G_{SS'},
    loss = sum_t tr(W_{t,S'} R W_{t,S'}^T) / sum_t tr(W_t G W_t^T)

is the share of the readers' output that no weights on the kept channels can give back: R is what is left of the lost
channels after the best prediction from the kept ones. Taps t of a kernel count as independent, so a layer takes
milliseconds. The scan sees the few and OOD images, never a held-out one.
"""

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from oefsmc_lib.compressors import importance, surgery, taps
from oefsmc_lib.errors import InputError
from oefsmc_lib.progress import bar
from oefsmc_lib.teacher import cost
from oefsmc_lib.teacher.teachers import Teacher

STEPS = 8  # a layer gives up its channels by eighths, and keeps at least one of them
ROWS, RIDGE = 8192, 1e-4

Groups = dict[str, list[str]]  # {convolution: the layers that read its channels}
Widths = dict[str, int]


@torch.no_grad()
def scan(teacher: Teacher, groups: Groups, images: Tensor) -> dict[str, list[float]]:
    """``{convolution: the loss with 7/8, 6/8, ... 1/8 of its channels}``."""
    model, readers = teacher.model, {readers[0] for readers in groups.values()}
    rows: dict[str, list[Tensor]] = {reader: [] for reader in readers}

    def see(name: str, tap: taps.Tap) -> None:
        seen = tap.input.permute(0, 2, 3, 1).flatten(0, 2)
        step = max(1, len(seen) * len(images) // len(tap.input) // ROWS)
        rows[name].append(seen[::step].double())

    with taps.tapped(model, readers, see):
        for part in images.split(32):
            model(part)
    found = {}
    for name, (reader, *_) in bar(groups.items(), "scanning layers"):
        weight = surgery.convolution(model, reader).weight.flatten(2)  # (Co, Ci, k k)
        a = torch.cat(rows[reader])
        score = surgery.convolution(model, name).weight.abs().sum((1, 2, 3))
        # Where several layers are read at once, the closed form does not know whose channels are whose.
        alone = a.shape[1] == len(score)
        found[name] = losses(a, weight.double(), score) if alone else [i / STEPS for i in range(1, STEPS)]
    return found


def losses(a: Tensor, weight: Tensor, score: Tensor) -> list[float]:
    """The loss of a reader with inputs (R, C) and weight (Co, C, taps) for each number of kept channels."""
    gram = a.T @ a / len(a)
    mix = torch.einsum("oct,odt->cd", weight, weight)  # sum_t W_t^T W_t
    whole, ridge = float((mix * gram).sum()), RIDGE * gram.diagonal().mean().clamp_min(1e-30)
    found = []
    for eighths in range(STEPS - 1, 0, -1):
        kept = torch.tensor(importance.top_channels(score, channels_at(len(score), eighths / STEPS)))
        gone = torch.ones(len(score), dtype=torch.bool)
        gone[kept] = False
        inner, across = gram[kept][:, kept], gram[kept][:, gone]
        inner = inner + ridge * torch.eye(len(kept), dtype=inner.dtype)
        # R = G_{S'S'} - G_{S'S} (G_SS + rho I)^{-1} G_{SS'}
        rest = gram[gone][:, gone] - across.T @ torch.linalg.solve(inner, across)
        found.append(max(0.0, float((mix[gone][:, gone] * rest).sum()) / max(whole, 1e-30)))
    return found


def channels_at(channels: int, share: float) -> int:
    """A share of a layer's channels, at least one; of 64 or more a multiple of eight, as vector registers are.

    >>> channels_at(96, 0.625), channels_at(10, 0.625), channels_at(3, 0.1)
    (64, 6, 1)
    """
    if channels < 64:
        return max(1, round(share * channels))
    return max(8, 8 * round(share * channels / 8))


def path(teacher: Teacher, groups: Groups, scanned: dict[str, list[float]]) -> list[Widths]:
    """Plans from nearly all channels to an eighth of each layer: each step takes an eighth where a MAC costs least."""
    model, macs = teacher.model, cost.macs_by_layer(teacher.model, teacher.architecture)
    full = {name: surgery.convolution(model, name).out_channels for name in groups}
    left, plans = dict.fromkeys(groups, STEPS), []
    weight = {name: macs[name] + sum(macs[reader] for reader in groups[name]) for name in groups}
    while any(eighths > 1 for eighths in left.values()):

        def price(name: str) -> float:
            marks = [0.0, *scanned[name]]
            at = STEPS - left[name]
            return (marks[at + 1] - marks[at] + 1e-9) / weight[name]

        chosen = min((name for name, eighths in left.items() if eighths > 1), key=price)
        left[chosen] -= 1
        plans.append({name: channels_at(full[name], n / STEPS) for name, n in left.items() if n < STEPS})
    return plans


def first_fitting(plans: list[Widths], measure: Callable[[Widths], float], target: float, what: str) -> Widths:
    """The plan that removes least among those whose measure is at most ``target``; measures fall along the path.

    Raises :class:`InputError` where even the smallest network is above it.
    """
    low, high = 0, len(plans) - 1
    if (least := measure(plans[high])) > target:
        raise InputError(
            f"{what} of {target:g} cannot be reached: with an eighth of the channels in every prunable layer it is "
            f"{least:.4g}; name a larger target."
        )
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if measure(plans[middle]) <= target else (middle + 1, high)
    return plans[high]


def smallest_within(plans: list[Widths], drop: Callable[[Widths], float], most: float) -> Widths:
    """The plan that removes most while its drop, which grows along the path, is at most ``most`` points."""
    low, high = -1, len(plans) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if drop(plans[middle]) <= most else (low, middle - 1)
    if low < 0:
        raise InputError(
            f"Removing an eighth of one layer costs more than {most:g} points by cross-validation; allow a larger "
            "drop, or leave the network as it is."
        )
    return plans[low]


def carved(teacher: Teacher, widths: Widths) -> nn.Module:
    """The network of a plan, not recovered: for counting and timing."""
    kept = {name: list(range(channels)) for name, channels in widths.items()}
    return surgery.pruned_copy(teacher, kept).model


def macs_of(teacher: Teacher, widths: Widths) -> int:
    """Multiply-accumulates of the network of a plan."""
    return cost.macs(carved(teacher, widths), teacher.architecture)


def share(words: str) -> float:
    """The share of channels that ``--keep`` names; ``compress.widths_of`` checks its range.

    >>> share("0.5"), share("50%")
    (0.5, 0.5)
    """
    found = re.fullmatch(r"(\d*\.?\d+)(%?)", words.strip())
    if not found:
        raise InputError(f"--keep {words!r} is no share of channels; write 0.5 or 50%.")
    return float(found[1]) / (100 if found[2] else 1)


def macs_target(words: str, whole: int) -> float:
    """``0.4`` or ``40%`` of the teacher's MACs, or ``300M``, ``1.2G``.

    >>> macs_target("40%", 1000), macs_target("0.4", 1000), macs_target("1.2G", 1)
    (400.0, 400.0, 1200000000.0)
    """
    units = {"": 1.0, "%": whole / 100, "M": 1e6, "G": 1e9}
    found = re.fullmatch(r"(\d*\.?\d+)([%MG]?)", words)
    number, unit = (float(found[1]), found[2]) if found else (0.0, "")
    if number == 0 or (not unit and number >= 1):
        raise InputError(f"--target-macs {words!r} is no share and no number; write 0.4, 40%, 300M or 1.2G.")
    return number * (units[unit] if unit else whole)
