r"""Mimicking: train a student end to end until its last map equals the teacher's; MiR's core and
PRACTISE's second half.

    L = lambda mean_few (f_S - f_T)^2 + (1 - lambda) mean_aux (f_S - f_T)^2,        eq. (7)

with f the map before the final pooling (:func:`oefsmc_lib.teacher.networks.feature_module`) and means over all
elements of a set. The head is the teacher's and stays.

The views of a step and the teacher's maps of them come from a bank (:mod:`oefsmc_lib.compressors.banks`).
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oefsmc_lib.compressors import losses, taps
from oefsmc_lib.compressors.banks import views_of
from oefsmc_lib.compressors.watch import Stop
from oefsmc_lib.errors import InputError
from oefsmc_lib.images.fewshot import generator
from oefsmc_lib.progress import bar
from oefsmc_lib.teacher.devices import multiplies_bfloat16
from oefsmc_lib.teacher.networks import feature_module

LOOK = 50  # steps between two looks at the watch set


def last_map(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Run a network: the map before its final pooling, and its logits."""
    seen: list[Tensor] = []
    with taps.tapped(model, [feature_module(model)], lambda _name, tap: seen.append(tap.output)):
        logits = model(images)
    return seen[0], logits


def batches(count: int, size: int, source: torch.Generator, device) -> Iterator[Tensor]:
    """Endless index batches of min(size, count); an incomplete last batch of a pass is dropped."""
    size = min(size, count)
    while True:
        order = torch.randperm(count, generator=source).to(device)
        yield from order[: count - count % size].split(size)


Picked = list[tuple[float, Tensor, list[Tensor]]]  # of each set: its share, views (n, C, H, W), what was made of them


def draws(task, batch: int, banks, order: str, views: str) -> Iterator[Picked]:
    """Endless steps' worth of views of the sets that eq. (7) reads; ``order`` and ``views`` name the generators."""
    seed, sets = task.experiment.seed, task.sets()
    orders = [batches(len(s), batch, generator(seed, f"{order}-{name}"), s.device) for s, _, name in sets]
    source = generator(seed, views)
    while True:
        yield [(share, *bank.pick(next(o), source)) for (_, share, _), bank, o in zip(sets, banks, orders)]


def joint_loss(maps: Tensor, targets: list[tuple[float, Tensor]], logits: Tensor | None = None, guesses=()) -> Tensor:
    """Eq. (7) of one step: the sum over sets of share * mean (f_S - f_T)^2; with logits the KL of eq. (2) is added.

    ``maps`` and ``logits`` are the student's for all sets in turn, ``targets`` (share, the teacher's maps) of each.
    """
    terms, at = [], 0
    for number, (share, target) in enumerate(targets):
        part = slice(at, at + len(target))
        at += len(target)
        term = F.mse_loss(maps[part], target)
        if logits is not None:
            term = term + losses.distillation_kl(guesses[number], logits[part])
        terms.append(share * term)
    return torch.stack(terms).sum()


def sgd(parameters, lr: float, iterations: int):
    """SGD, momentum 0.9, weight decay 1e-4; the rate falls to a tenth every 40 % of the steps."""
    # foreach: a few calls for all parameters instead of a few for each; the same sums.
    optimiser = torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=1e-4, foreach=True)
    return optimiser, torch.optim.lr_scheduler.StepLR(optimiser, max(1, int(0.4 * iterations)), 0.1)


def arithmetic(settings, device: torch.device):
    """The context of a student's forward pass. bfloat16 is autocast: the layers multiply in it and their weights stay
    float32, as do batch norms' statistics, what the teacher gives, and losses (of ``maps.float()``)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision(settings, device) == "bfloat16")


def precision(settings, device: torch.device) -> str:
    """What a step multiplies in: a device that would emulate bfloat16 takes float32, which is twice as fast there."""
    return settings.precision if multiplies_bfloat16(device) else "float32"


def descend(loss: Tensor, optimiser, schedule) -> float:
    """One step; the loss before it."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    schedule.step()
    return float(loss.detach())


def mimic(model: nn.Module, task, settings) -> dict:
    """Train ``model`` in place to match the teacher's map.

    ``settings`` is ``experiment.mir`` or ``experiment.practise``. Returns ``steps`` (run), ``loss`` (of each), ``kept``
    (the step whose weights the model has) and ``distances`` (of ``stop=watch``: before the first step and after every
    ``LOOK``), ``precision`` (of the steps).
    Raises :class:`InputError` when the maps do not have one shape, when train-mode batch norms would see a single
    value, or when the loss or the distance stops being finite.
    """
    experiment, kl = task.experiment, task.experiment.kd == "kl"
    # Surgery leaves its weights in another layout than the teacher's, in which convolutions are slower.
    model.requires_grad_(True).to(memory_format=torch.channels_last)
    _check(model, task, settings)
    history: list[float] = []

    @torch.no_grad()
    def look(images):
        maps, logits = last_map(task.teacher.model, images)
        return (maps.clone(), logits) if kl else (maps.clone(),)

    banks = [views_of(s, experiment, settings, look, f"views-{n}", settings.iterations) for s, _, n in task.sets()]
    optimiser, schedule = sgd(list(model.parameters()) if kl else backbone(model), settings.lr, settings.iterations)
    kind = "watch" if experiment.recovery_watches else "fixed"
    stop = Stop(kind, model, task.watch, lambda look: not_finite(experiment.method, LOOK * look))
    model.train(settings.bn == "train")
    steps = bar(range(settings.iterations), experiment.method)
    for _, picked in zip(steps, draws(task, settings.batch, banks, "batches", "views")):
        # One forward over both sets: batch norms see one batch, as they do for the few alone.
        views = torch.cat([views for _, views, _ in picked])
        with arithmetic(settings, views.device):
            maps, logits = last_map(model, views)
        targets, guesses = [(share, made[0]) for share, _, made in picked], [made[-1] for *_, made in picked]
        loss = joint_loss(maps.float(), targets, logits.float() if kl else None, guesses)
        history.append(descend(loss, optimiser, schedule))
        if not math.isfinite(history[-1]):
            raise not_finite(experiment.method, len(history))
        if len(history) % LOOK == 0 and stop.now(history[-1]):
            break
    kept = stop.restore() * LOOK if kind == "watch" else len(history)
    model.eval().requires_grad_(False)
    report = {"steps": len(history), "loss": history, "kept": kept, "distances": stop.distances}
    return report | {"precision": precision(settings, task.few.images.device)}


def not_finite(method: str, step: int) -> InputError:
    """What is said where mimicking diverges."""
    return InputError(f"{method}'s loss is not finite at step {step}; lower {method}.lr or check the teacher.")


def backbone(model: nn.Module) -> list[nn.Parameter]:
    """Parameters up to the matched map; the head behind it is the teacher's and is left alone."""
    names = [name for name, _ in model.named_children()]
    names = names[: names.index(feature_module(model).split(".")[0]) + 1]
    return [parameter for name, parameter in model.named_parameters() if name.split(".")[0] in names]


@torch.no_grad()
def _check(model: nn.Module, task, settings) -> None:
    smallest: list[int] = []
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    image, batch = task.few.images[:1], sum(min(settings.batch, len(images)) for images, _, _ in task.sets())
    with taps.tapped(model.eval(), norms, lambda _name, tap: smallest.append(tap.output[0, 0].numel())):
        ours, theirs = (last_map(net, image)[0].shape for net in (model, task.teacher.model))
    if ours != theirs:
        raise InputError(
            f"The plan changes the map that is matched from {tuple(theirs[1:])} to {tuple(ours[1:])}; "
            "MiR and PRACTISE need it whole, so use a plan that keeps the last layer, such as cfg_a."
        )
    if settings.bn == "train" and smallest and batch * min(smallest) < 2:
        raise InputError("One image with 1x1 maps is too few for batch norms in train mode; raise num, or set bn=eval.")
