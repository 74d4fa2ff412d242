"""When a training stops: the distance to the teacher on OOD images that no stage trains on.

Section 4.3 of the paper stops fine-tuning early, without saying what is watched. No validation images exist, and test
images must not be looked at, so this package watches how far the student is from its teacher on the watch set. The
weights of the smallest distance are kept. Fine-tuning has this rule in every variant, mimicking where it is asked for.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oefsmc_lib.compressors import losses
from oefsmc_lib.errors import InputError

PATIENCE = 5  # looks without progress after which the training ends
WATCH_BATCH = 64  # fastest on CPUs


@dataclass(frozen=True)
class Watch:
    """The distance between teacher and student on the watch set: mean KL(P_T || P_S), eq. (2), in nats.

    ``images`` (W, C, H, W) are normalised and on the device of the networks; ``target`` (W, K) are the teacher's
    logits, computed once. The student runs in float32: at a rate of 1e-5 one epoch changes the distance by less than
    bfloat16 rounds away.
    """

    images: Tensor
    target: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, teacher: nn.Module, images: Tensor) -> "Watch":
        return cls(images, torch.cat([teacher(part) for part in images.split(WATCH_BATCH)]))

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> float:
        training = model.training
        model.eval()
        logits = torch.cat([model(part) for part in self.images.split(WATCH_BATCH)])
        model.train(training)
        # Six digits are what float32 carries; so that a row says what was compared, they are what is compared.
        return float(f"{float(losses.distillation_kl(self.target, logits)):.6g}")


class Stop:
    """When a training ends before its full length; no rule sees test images.

    ``watch`` ends after ``PATIENCE`` looks (one an epoch) without a smaller distance and keeps the weights of the
    smallest; ``train_loss`` ends after as many without a training loss that fell by 1 %; ``fixed`` never ends early.
    ``diverged(look)`` makes the error that is raised where a distance is not finite.
    """

    def __init__(self, kind: str, model: nn.Module, watch: Watch | None, diverged):
        self.kind, self.model, self.watch, self.diverged = kind, model, watch, diverged
        self.best, self.best_look, self.look = math.inf, 0, 0
        self.state: dict | None = None
        self.distances: list[float] = []
        if kind == "watch":
            self._see_distance()

    def now(self, train_loss: float) -> bool:
        """Whether to end after this look."""
        self.look += 1
        if self.kind == "watch":
            self._see_distance()
        elif train_loss < 0.99 * self.best:
            self.best, self.best_look = train_loss, self.look
        return self.kind != "fixed" and self.look - self.best_look >= PATIENCE

    def _see_distance(self) -> None:
        if self.watch is None:
            raise InputError("The run has no watch set to stop by; choose another rule of stopping.")
        distance = self.watch(self.model)
        if not math.isfinite(distance):
            raise self.diverged(self.look)
        self.distances.append(distance)
        if distance < self.best:
            self.best, self.best_look = distance, self.look
            self.state = copy.deepcopy(self.model.state_dict())

    def restore(self) -> int:
        """Put back the weights that ``watch`` found closest to the teacher; returns the look that they are of."""
        if self.state is None:
            return self.look
        self.model.load_state_dict(self.state)
        return self.best_look
