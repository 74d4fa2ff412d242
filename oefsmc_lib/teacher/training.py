"""Ordinary supervised training, resumable: how teachers come to be. No part of the paper's method."""

import json
import math
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from oefsmc_lib.errors import InputError
from oefsmc_lib.files import write_whole
from oefsmc_lib.images.sets import ImageSet
from oefsmc_lib.images.views import augment
from oefsmc_lib.progress import bar
from oefsmc_lib.teacher.networks import Architecture


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov momentum; the last epoch counts, and nothing is selected on test images."""

    epochs: int = 40
    lr: float = 0.1  # its peak: linear up over the warm-up, then linear to 0
    batch: int = 128
    augment: str = "crop_flip"  # of views.augment
    warmup: float = 0.15  # share of all steps
    momentum: float = 0.9
    weight_decay: float = 5e-4  # on matrices only
    seed: int = 0
    bf16: bool = False  # autocast

    def __str__(self) -> str:
        return (
            f"{self.epochs} epochs, batch {self.batch}, SGD Nesterov {self.momentum:g}, weight decay "
            f"{self.weight_decay:g} on matrices only, linear warm-up over {self.warmup:.0%} to {self.lr:g} then "
            f"linear to 0, {self.augment} views, cross-entropy, "
            f"{'bf16 autocast' if self.bf16 else 'fp32'}, seed {self.seed}; "
            "last epoch, nothing selected on test images"
        )


RECIPES = {
    # A mirrored digit is no digit, and one is never far off the middle: crops of 4 pixels cost half a point.
    "mnist5k": Recipe(epochs=10, lr=0.05, batch=64, augment="shift", weight_decay=2e-3),
    "cifar10": Recipe(epochs=20, lr=0.05),
    "cifar100": Recipe(epochs=36),
    "tiny-imagenet": Recipe(epochs=40),
    "imagenet": Recipe(epochs=90, batch=256, augment="resized_crop_flip"),
}


def rate(step: int, steps: int, recipe: Recipe) -> float:
    """The learning rate of one step: linear up, then linear to 0."""
    warm = max(1, round(recipe.warmup * steps))
    return recipe.lr * min((step + 1) / warm, (steps - step) / max(1, steps - warm))


def fit(
    architecture: Architecture, images: ImageSet, normalise, recipe: Recipe, checkpoint: Path, device: torch.device
) -> nn.Module:
    """Train a fresh network; after a kill, the same call goes on after the last finished epoch.

    All randomness of an epoch is seeded from (seed, epoch), so on a CPU an interrupted training
    ends bit for bit where an uninterrupted one does. The caller deletes the checkpoint.
    ``normalise`` maps uint8 views to the network's input. Raises :class:`InputError` on divergence.
    """
    with torch.random.fork_rng():  # the caller's random numbers stay as they were
        torch.manual_seed(recipe.seed)
        model = architecture.build().to(device).to(memory_format=torch.channels_last).train()
        optimiser = _sgd(model, recipe)
        about = {"architecture": asdict(architecture), "recipe": asdict(recipe), "data": images.fingerprint}
        done = _resume(checkpoint, json.dumps(about), model, optimiser)
        if isinstance(images.images, Tensor):
            images = replace(images, images=images.images.to(device))
        steps = max(1, len(images) // recipe.batch)  # a smaller last batch is left out
        ticks = iter(bar(range(done * steps, recipe.epochs * steps), f"training {architecture.name}"))
        for epoch in range(done, recipe.epochs):
            loss = _epoch(model, optimiser, images, normalise, recipe, epoch, steps, ticks)
            if not math.isfinite(loss):
                raise InputError(
                    f"The training diverged in epoch {epoch + 1} of {recipe.epochs}; use a rate below lr={recipe.lr:g}."
                )
            header = {"epoch": str(epoch + 1), "about": json.dumps(about)}
            tensors = {name: tensor.cpu().contiguous() for name, tensor in _state(model, optimiser).items()}
            write_whole(checkpoint, safetensors.torch.save(tensors, header))
        next(ticks, None)  # the bar goes when it is exhausted
    return model


def _epoch(model, optimiser, images: ImageSet, normalise, recipe: Recipe, epoch: int, steps: int, ticks) -> float:
    """One pass over the images, a step for each of ``ticks``; returns the mean loss."""
    seed = recipe.seed * 100_003 + epoch
    source = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # dropout, where a network has it
    device = next(model.parameters()).device
    total = torch.zeros((), device=device)
    order = torch.randperm(len(images), generator=source)
    for chosen, step in zip(order.split(recipe.batch)[:steps], ticks):  # as many steps as batches
        for group in optimiser.param_groups:
            group["lr"] = rate(step, recipe.epochs * steps, recipe)
        views = augment(images.take(chosen), recipe.augment, source)
        x = normalise(views.to(device)).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
            logits = model(x)
        loss = F.cross_entropy(logits.float(), images.labels[chosen].to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += loss.detach()
    return float(total) / steps


def _sgd(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=True)
    # Torch starts from no momentum, too, but makes these tensors at the first step: too late for a checkpoint to fill.
    for parameter in model.parameters():
        optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimiser


def pack(model: nn.Module) -> bytes:
    """Weights as they are kept: matrices in float16, vectors in float32, no batch counters."""
    return safetensors.torch.save(
        {
            key: tensor.detach().cpu().contiguous().to(torch.float16 if tensor.ndim > 1 else torch.float32)
            for key, tensor in model.state_dict().items()
            if not key.endswith("num_batches_tracked")
        }
    )


# --- checkpoints: one safetensors file, with the epoch and what is trained in its header ----------
def _state(model: nn.Module, optimiser: torch.optim.SGD) -> dict[str, Tensor]:
    """Every tensor of a training, not a copy: weights, statistics and momentum by name."""
    momentum = {name: optimiser.state[parameter]["momentum_buffer"] for name, parameter in model.named_parameters()}
    return {f"model.{name}": tensor for name, tensor in model.state_dict().items()} | {
        f"momentum.{name}": tensor for name, tensor in momentum.items()
    }


def _resume(checkpoint: Path, about: str, model: nn.Module, optimiser: torch.optim.SGD) -> int:
    """Load a checkpoint into model and optimiser; the number of finished epochs, 0 without one that fits."""
    if not checkpoint.is_file():
        return 0
    try:
        with safe_open(checkpoint, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("about") == about:
                for name, tensor in _state(model, optimiser).items():
                    tensor.copy_(file.get_tensor(name))
                return int(header["epoch"])
        fault = "is of another training (recipe, network, data or machine)"
    except SafetensorError as error:
        fault = f"cannot be read ({error})"
    warnings.warn(f"{checkpoint} {fault}; the training starts from the beginning.", stacklevel=3)
    return 0
