"""The authors' own procedures, where this package's default is another one: slower, and kept to compare with.

They are the ``literal`` solvers of the tables: ``fskd.solver=minnorm`` and ``cd.solver=adam``. Fresh views for MiR and
PRACTISE (``mir.views=0``, ``practise.cache=false``) are in :mod:`oefsmc_lib.compressors.mimic`.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oefsmc_lib.compressors import importance
from oefsmc_lib.errors import InputError


def minimum_norm(f_s: Tensor, f_t: Tensor, depthwise: bool) -> Tensor:
    """FSKD's least squares: the Q (C, C) of smallest norm that minimises ||F_S Q^T - F_T||, or its diagonal (C,)."""
    if depthwise:
        return (f_s * f_t).sum(0) / (f_s * f_s).sum(0).clamp_min(1e-12)
    # LAPACK's minimum-norm driver exists on the CPU only.
    return torch.linalg.lstsq(f_s.cpu(), f_t.cpu(), driver="gelsd").solution.T.to(f_s)


def group_norms(weight: Tensor, channel_weight: Tensor | None) -> Tensor:
    """||W[:, i]||_F of a layer's weight (Co, Ci, ...), times the channel's weight: (Ci,)."""
    norms = weight.transpose(0, 1).flatten(1).norm(dim=1)
    return norms if channel_weight is None else norms * channel_weight.to(norms)


@torch.enable_grad()
def cd_by_adam(layer, taps, keep: int, channel_weight: Tensor | None, settings) -> tuple[Tensor, list[int]]:
    """CD's layer fit by ``settings.iterations`` steps of Adam on one fixed batch: (weight, kept input channels).

    ``taps`` are (student's input, teacher's input, image weights of eq. 7) of several parts. Over the first third of
    the steps channels are set to zero on a schedule, with their gradients and moments; then the rate falls to a tenth.
    """
    x_s, x_t, shares = (torch.cat(parts) for parts in zip(*taps))
    run = _forward(layer)
    teacher = layer.weight.detach().clone()
    weight = teacher.clone().requires_grad_(True)
    with torch.no_grad():
        y_s, y_t = run(x_s, teacher), run(x_t, teacher)
    scale = shares.view(-1, *[1] * (y_s.dim() - 1)) / y_s[0].numel()
    channels, third, mu = teacher.shape[1], settings.iterations // 3, settings.mu
    mask = torch.ones(channels, dtype=torch.bool, device=teacher.device)
    shape = (1, -1) + (1,) * (teacher.dim() - 2)
    optimiser = torch.optim.Adam([weight], lr=settings.lr)
    for step in range(1, settings.iterations + 1):
        count = int((channels - keep) * max(0.0, 1 - step / max(third, 1))) + keep
        if count < int(mask.sum()):
            left = importance.top_channels(group_norms(weight.detach(), channel_weight), count)
            mask[:] = False
            mask[left] = True
            _zero(weight, optimiser, mask.view(shape))
        if step == third + 1:
            optimiser.param_groups[0]["lr"] = settings.lr * 0.1
        correction = (scale * (run(x_t, weight) - y_t).square()).sum()
        imitation = (scale * (run(x_s, weight) - y_s).square()).sum()
        loss = mu * correction + (1 - mu) * imitation
        optimiser.zero_grad()
        loss.backward()
        cast(Tensor, weight.grad).mul_(mask.view(shape))
        optimiser.step()
        if not torch.isfinite(loss):
            raise InputError(f"CD's loss is not finite at Adam step {step}; lower cd.lr or check the teacher.")
    return weight.detach(), mask.nonzero().flatten().tolist()


def _forward(layer: nn.Conv2d | nn.Linear):
    """The layer as a function of its input and a weight, without its bias."""
    if isinstance(layer, nn.Linear):
        return F.linear
    return lambda x, weight: layer._conv_forward(x, weight, None)


@torch.no_grad()
def _zero(weight: Tensor, optimiser: torch.optim.Optimizer, mask: Tensor) -> None:
    """Set what the mask leaves out to zero: the weight and Adam's moments of it."""
    weight.mul_(mask)
    for moment in ("exp_avg", "exp_avg_sq"):
        if weight in optimiser.state:
            optimiser.state[weight][moment].mul_(mask)
