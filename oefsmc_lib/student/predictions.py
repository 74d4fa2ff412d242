"""Predicted classes of many images, in float32 or as if: bfloat16 runs first where the processor multiplies it."""

import torch
from torch import Tensor, nn

from oefsmc_lib.teacher.devices import multiplies_bfloat16

EVALUATION_BATCH = 64  # fastest on CPUs; larger batches fall out of cache
SAMPLE, CAUTION, WORTHWHILE = 200, 2.0, 0.2  # of `predicted` in bfloat16


@torch.no_grad()
def predicted(model: nn.Module, images, normalise, device) -> Tensor:
    """Predicted classes (N,) of an :class:`~oefsmc_lib.images.sets.ImageSet` in eval mode, by float32.

    A processor that multiplies bfloat16 runs all images so first, in up to half the time. A class can only differ
    from float32's where the lead of the largest logit is smaller than what bfloat16 took from it or gave another
    one. How much that is, a sample shows that runs both ways; then every image whose lead is below ``CAUTION``
    times the most that any checked image lost is run in float32, too, until none is left. Where the sample says
    that this would be a large part (many classes, close together), float32 runs alone.

    So a class is float32's unless an image lost more than ``CAUTION`` times what all checked ones did. None was
    seen (``bench/evaluation.py``), and rows from before are equal class by class, so ``ALGORITHM_VERSION`` stayed.
    """
    model = model.eval().to(device).to(memory_format=torch.channels_last)

    def run(indices: Tensor) -> Tensor:
        return logits(model, images, indices, normalise, device)

    every = torch.arange(len(images))
    device = torch.device(device)
    if device.type != "cpu" or not multiplies_bfloat16(device) or len(images) < 2 * SAMPLE:
        return run(every).argmax(1)
    sample = every[:: len(images) // SAMPLE]
    with torch.autocast("cpu", torch.bfloat16):
        rough = run(sample)
    shift = _most_lost(rough, run(sample))
    if len(_doubtful(rough, shift)) > WORTHWHILE * len(sample):
        return run(every).argmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        rough = run(every)
    guessed, seen = rough.argmax(1), torch.zeros(len(images), dtype=torch.bool)
    while len(again := _doubtful(rough, shift, seen)):
        exact = run(again)
        shift = max(shift, _most_lost(rough[again], exact))
        guessed[again], seen[again] = exact.argmax(1), True
    return guessed


def _most_lost(rough: Tensor, exact: Tensor) -> float:
    """The most by which the largest logit of ``rough`` leads another one too far, over finite images (n, K)."""
    error = exact - rough
    lost = error.amax(1) - error.gather(1, rough.argmax(1, keepdim=True))[:, 0]
    return float(lost[lost.isfinite()].max()) if lost.isfinite().any() else 0.0


def _doubtful(rough: Tensor, shift: float, seen: Tensor | bool = False) -> Tensor:
    """Indices of images whose largest logit leads by too little; a NaN leads by too little."""
    first, second = rough.topk(2, dim=1).values.unbind(1)
    return (~(first - second > CAUTION * shift) & ~torch.as_tensor(seen)).nonzero()[:, 0]


@torch.no_grad()
def logits(model: nn.Module, images, indices: Tensor, normalise, device) -> Tensor:
    """Logits (n, K) of these images, float32 on the CPU, a batch at a time."""
    batch = EVALUATION_BATCH if torch.device(device).type == "cpu" else 1024
    found = []
    for part in indices.split(batch):
        x = normalise(images.take(part)).to(device, memory_format=torch.channels_last)
        found.append(model(x).float().cpu())
    return torch.cat(found)
