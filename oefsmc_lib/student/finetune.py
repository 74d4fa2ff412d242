r"""The fine-tuning stage, eq. 8 and 9, the same for every variant but for its loss.

    L_total = mean_few CE(f(x), y) + eta mean_aux gamma_y~ CE(f(x~), y~)

The paper gives a rate (5e-4), the batch (128) and eta; optimiser, length and the mode of batch norms are open.
Defaults: SGD at CD's own rate of fine-tuning (1e-5), momentum 0.9, weight decay 5e-4, at most 40 passes
over the few images, batch norms in eval mode.

Eq. (9) first moves the student towards its teacher; later it memorises labels that were drawn at random. So the stage
keeps the weights that were closest to the teacher on the watch set (:mod:`oefsmc_lib.compressors.watch`), by one rule
for every variant that has this stage.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oefsmc_lib.compressors import losses
from oefsmc_lib.compressors.mimic import batches
from oefsmc_lib.compressors.watch import Stop
from oefsmc_lib.errors import InputError
from oefsmc_lib.images import elsewhere
from oefsmc_lib.images.fewshot import Samples, generator
from oefsmc_lib.parameters.sections import Finetune
from oefsmc_lib.progress import bar
from oefsmc_lib.student import rebalance


def finetune(model: nn.Module, few: Samples, aux: Samples | None, gamma_rates: Tensor, experiment, watch=None) -> dict:
    """Fine-tune ``model`` in place.

    ``gamma_rates`` (K,) are eq. (4). ``aux`` is None for cross-entropy on the few images alone. ``watch(model)`` is the
    distance that ``finetune.stop=watch`` keeps smallest. Returns ``epochs`` (run), ``kept`` (the epoch whose weights
    the model has, 0 for those it came with), ``loss`` (one an epoch) and ``distances`` (before the first epoch and
    after each; empty for other rules). Raises :class:`InputError` when the loss or the distance stops being finite.

    >>> from oefsmc_lib import Experiment, pipeline
    >>> experiment = Experiment(num=10, finetune={"epochs": 3, "stop": "fixed"})
    >>> ready = pipeline.prepare(experiment)
    >>> model = ready.teacher.architecture.build()
    >>> report = finetune(model, ready.few, ready.aux, ready.gamma_rates, experiment)
    >>> report["epochs"], report["kept"]
    (3, 3)
    """
    settings, milestones = schedule_of(experiment, model)
    if experiment.eta == 0:
        aux = None  # eq. 9 without its second term forwards nothing
    model.requires_grad_(True)
    optimiser = torch.optim.SGD(
        model.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones, 0.1)
    steps = Steps(few, aux, gamma_rates, experiment, settings)
    stop, history = Stop(settings.stop, model, watch, diverged), []
    for _ in bar(range(settings.epochs), "fine-tuning"):
        model.train(settings.bn != "eval")
        seen = []
        for few_part, aux_part in list(steps.epoch()):
            loss = steps.loss(model, few_part, aux_part)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            seen.append(float(loss.detach()))
        schedule.step()
        history.append(sum(seen) / len(seen))
        if not math.isfinite(history[-1]):
            raise diverged(len(history))
        if stop.now(history[-1]):
            break
    kept = stop.restore()
    model.eval().requires_grad_(False)
    return {"epochs": len(history), "kept": kept, "loss": history, "distances": stop.distances}


def diverged(epoch: int) -> InputError:
    """What is said where a loss or a distance is not finite; epoch 0 is the student that the recovery left."""
    if epoch == 0:
        return InputError("The outputs are not finite before fine-tuning; check the teacher's weights.")
    return InputError(f"Fine-tuning diverged in epoch {epoch}; lower finetune.lr or eta.")


def schedule_of(experiment, model: nn.Module) -> tuple[Finetune, list[int]]:
    """The stage's settings, and the epochs before which the rate falls to a tenth.

    CD's own stage has CD's own settings whatever the common stage is set to: 40 epochs for VGG, 100 for residual
    networks.
    """
    settings = experiment.finetune
    if experiment.finetuning == "cd":
        settings = Finetune(recipe="cd", epochs=40 if hasattr(model, "features") else 100, stop="fixed")
    if settings.recipe == "cd":
        settings = settings.model_copy(update={"lr": 1e-5, "bn": "train"})
    return settings, [settings.epochs // 2, settings.epochs * 3 // 4] if settings.recipe == "cd" else []


class Steps:
    """The batches of an epoch and the loss of a step."""

    def __init__(self, few: Samples, aux: Samples | None, gamma_rates: Tensor, experiment, settings: Finetune):
        self.few, self.aux, self.experiment, self.settings = few, aux, experiment, settings
        self.device = few.images.device
        self.rates = gamma_rates
        self.gamma = elsewhere.class_weights(gamma_rates, experiment.gamma).to(self.device)
        self.counts = torch.tensor(few.counts(len(gamma_rates))).float()
        # Separate generators: with and without auxiliary images the few come in the same order.
        self.few_order = generator(experiment.seed, "finetune-few")
        self.aux_order = generator(experiment.seed, "finetune-aux")
        self.aux_parts = None if aux is None else batches(len(aux), settings.batch, self.aux_order, self.device)

    def epoch(self):
        """Pairs of positions: a batch of the few, and one of the auxiliary set, which cycles."""
        if self.settings.rebalance == "oversample":
            order = rebalance.oversampled(self.few.labels.cpu(), self.counts, self.few_order)
        else:
            order = torch.randperm(len(self.few), generator=self.few_order)
        for part in order.split(self.settings.batch):
            yield part.to(self.device), self.aux_parts and next(self.aux_parts)

    def loss(self, model: nn.Module, few_part: Tensor, aux_part: Tensor | None) -> Tensor:
        """Eq. (9) on one pair of batches."""
        x, y = self.few.images[few_part], self.few.labels[few_part]
        if aux_part is None or self.aux is None:
            return self._few_loss(model(x), y)
        x_aux, y_aux = self.aux.images[aux_part], self.aux.labels[aux_part]
        if self.experiment.redraw:
            y_aux = elsewhere.draw_labels(self.rates, len(x_aux), self.experiment.label_sampling, self.aux_order)
            y_aux = y_aux.to(self.device)
        if self.settings.bn == "separate":
            few_logits, aux_logits = model(x), _without_statistics(model, x_aux)
        else:
            few_logits, aux_logits = model(torch.cat([x, x_aux])).split([len(x), len(x_aux)])
        second = losses.regulariser(aux_logits, y_aux, self.gamma, self.experiment.gamma_mean)
        return losses.total(self._few_loss(few_logits, y), second, self.experiment.eta)

    def _few_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.settings.rebalance in ("class_weights", "logit_adjustment"):
            return rebalance.loss(self.settings.rebalance, logits, labels, self.counts)
        return F.cross_entropy(logits, labels)


def _without_statistics(model: nn.Module, images: Tensor) -> Tensor:
    """A forward pass in train mode that moves copies of the batch norms' running statistics."""
    copies = {name: buffer.clone() for name, buffer in model.named_buffers() if ".running_" in f".{name}"}
    return torch.func.functional_call(model, copies, (images,))
