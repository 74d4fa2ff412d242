r"""CD, Cross Distillation (Bai, Wu, King and Lyu, AAAI 2020).

Input channels of convolutions are removed, layer by layer in forward order. With X_T and X_S the
layer's inputs in teacher and student and W_T the teacher's weight, the student's W minimises

    mu ||W * X_T - W_T * X_T||^2  +  (1 - mu) ||W * X_S - W_T * X_S||^2        (correction, imitation)

on the convolution's output, while the input channels of smallest group norm ||W[:, i]||_F are set to
zero on a schedule. ``solver=exact``: on a fixed set of channels this is least squares, with a closed
form; the schedule becomes a few milestones, between which channels leave by the block form of
Optimal Brain Surgeon. ``solver=adam``: the released procedure, 3,000 Adam steps a layer.

OE-FSMC: both sets by eq. (7): rows are scaled by sqrt(lambda / M) and sqrt((1 - lambda) / m). The group
norms look at no image, so eq. (5) leaves them as they are; with ``contribution=activation`` or
``evidence`` channels go by g_i sqrt(E_w[|X_i|^2]), the class-weighted share of the output.

Differs from the release: batch norms in eval mode by default (``cd.bn=train`` is the release's VGG
script), kept channels chosen by position (the release loses one now and then to rounding), and the
dead filters are cut out instead of zeroed.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oefsmc_lib.compressors import importance, layerwise, plans, surgery
from oefsmc_lib.compressors.fskd import joined
from oefsmc_lib.errors import InputError
from oefsmc_lib.teacher.networks import VGG

ROWS_AT_ONCE = 16_384
FINE = 1e-4  # below this ridge, float32 sums are too coarse


def compress(task, _once=None) -> surgery.Student:
    """Fit and prune every layer of the plan, then cut the dead filters out."""
    teacher, experiment = task.teacher, task.experiment
    widths = plans.plan_widths(experiment.resolved_plan, teacher.model, teacher.architecture)
    layers = surgery.weight_layers(teacher.model, teacher.architecture)
    readers = {name: surgery.consumer(layers, teacher.model, name) for name in widths}
    if len(set(readers.values())) < len(readers):
        raise InputError(
            f"The plan {experiment.resolved_plan!r} prunes two inputs of one layer of "
            f"{teacher.architecture.name}, which CD cannot fit; use method=fskd or mir."
        )
    weights = channel_weights(task, readers)
    model = copy.deepcopy(teacher.model)
    model.requires_grad_(False)
    reference = copy.deepcopy(teacher.model) if experiment.cd.bn == "train" else teacher.model
    images, shares = joined(task)
    producers = {reader: producer for producer, reader in readers.items()}
    mu = experiment.cd.mu if experiment.cd.mu is not None else 0.6 if isinstance(model, VGG) else 0.9
    settings = experiment.cd.model_copy(update={"rho": experiment.cd_rho})
    kept: dict[str, list[int]] = {}

    def start(name):
        producer = producers[name]
        return Fit(
            model.get_submodule(name),
            widths[producer],
            weights[producer],
            len(images),
            mu,
            settings,
            lambda channels: kept.__setitem__(producer, channels),
        )

    for net in (model, reference):
        net.train(experiment.cd.bn == "train")
    order = [name for name in layers if name in producers]
    layerwise.walk(model, reference, order, images, shares, start, per_pass=experiment.cd.bn == "train")
    model.eval()
    surgery.remove_channels(model, kept, teacher.architecture)
    return surgery.Student(model, surgery.Structure(teacher.architecture, kept=kept))


def channel_weights(task, readers) -> dict[str, Tensor | None]:
    """What a channel's group norm is multiplied by: sqrt(E_w[|X_i|^2]) of eq. (5), or None for CD's own rule."""
    if task.w is None:
        return dict.fromkeys(readers)
    squares = task.experiment.contribution in ("activation", "evidence", "evidence_max")
    return {
        name: score.clamp_min(0).sqrt() if squares else score
        for name, score in importance.class_aware_scores(task, readers, power=2).items()
    }


def patches(layer: nn.Module, x: Tensor) -> Tensor:
    """im2col: (N, Ci, H, W) -> P(X)^T (Ci k k, N H'W'), rows grouped by input channel; a linear layer's is X^T."""
    if isinstance(layer, nn.Linear):
        return x.T
    return F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride).transpose(0, 1).flatten(1)


class Fit:
    """One layer: collects A = [sqrt(mu) P(X_T); sqrt(1 - mu) P(X_S)], as A^T, or A^T A; then prunes and solves."""

    def __init__(self, layer, keep: int, weight: Tensor | None, images: int, mu: float, settings, report):
        self.layer, self.keep, self.weight, self.images = layer, keep, weight, images
        self.mu, self.settings, self.report = mu, settings, report
        self.rows: list[Tensor] = []
        self.gram: Tensor | None = None
        self.taps: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, student: layerwise.Tap, teacher: layerwise.Tap, shares: Tensor) -> None:
        """Inputs (N, Ci, H, W) of both networks' layer and the images' weights."""
        if self.settings.solver == "adam":
            self.taps.append((student.input.clone(), teacher.input.clone(), shares))
            return
        taps = teacher.output.shape[2:].numel()  # H'W', 1 for a linear layer
        parts = [(x, part) for x, part in ((teacher.input, self.mu), (student.input, 1 - self.mu)) if part > 0]
        dual = 2 * len(parts) * self.images * taps < self.layer.weight[0].numel()
        for x, part in parts:
            x = x * (part * shares).sqrt().view(-1, *[1] * (x.dim() - 1))
            for images in x.split(max(1, ROWS_AT_ONCE // taps)):
                a = patches(self.layer, images)
                a = a.double() if self.settings.rho < FINE else a
                if dual:
                    self.rows.append(a)
                else:
                    self.gram = a @ a.T if self.gram is None else self.gram.addmm_(a, a.T)

    def finish(self):
        """Write the fitted weight with its pruned inputs at zero; report the kept channels."""
        before = self.layer.weight.detach().clone()
        if self.settings.solver == "adam":
            weight, channels = fit_by_adam(self.layer, self.taps, self.keep, self.weight, self.mu, self.settings)
        else:
            teacher = before.flatten(1).T.double()  # (Ci k k, Co)
            size = before[0, 0].numel() if before.dim() == 4 else 1
            rows = torch.cat(self.rows, 1) if self.rows else None
            solved, channels = prune(teacher, rows, self.gram, size, self.keep, self.weight, self.settings)
            weight = solved.T.reshape(before.shape).to(before)
        self.layer.weight.copy_(weight)
        self.report(channels)
        return lambda x, _y: (
            self.layer(x)
            if isinstance(self.layer, nn.Linear)
            else self.layer._conv_forward(x, self.layer.weight, self.layer.bias)
        )


def schedule(channels: int, keep: int, milestones: int) -> list[int]:
    """Kept channels at each milestone: the release's linear descent from all to ``keep``, at even distances."""
    return [int((channels - keep) * (1 - step / milestones)) + keep for step in range(1, milestones + 1)]


def group_scores(weight: Tensor, size: int, channel_weight: Tensor | None) -> Tensor:
    """||W[:, i]||_F, times the class-weighted root mean square of the input: (Ci,). ``weight`` is (Ci k k, Co)."""
    norms = weight.unflatten(0, (-1, size)).flatten(1).norm(dim=1)
    return norms if channel_weight is None else norms * channel_weight.to(norms)


def prune(
    teacher: Tensor,
    rows: Tensor | None,
    gram: Tensor | None,
    size: int,
    keep: int,
    channel_weight: Tensor | None,
    settings,
) -> tuple[Tensor, list[int]]:
    """Milestones of {solve on the channels left; drop the weakest}, then the exact solution on the kept set.

    ``teacher`` (Ci k k, Co) in float64, and either ``rows`` A^T (Ci k k, R) or ``gram`` A^T A. Returns the
    full weight with zeros, and the kept channels. Raises :class:`InputError` for numbers that are not finite.
    """
    if not torch.isfinite(gram if rows is None else rows).all():
        raise InputError("CD met activations that are not finite; check the teacher's weights and the images.")
    mean_diagonal = float(gram.diagonal().mean() if rows is None else rows.square().sum() / len(rows))
    ridge = settings.rho * mean_diagonal
    # Along the path a ridge is needed even where the solution has none.
    path = (_PrimalPath if rows is None else _DualPath)(
        teacher, gram if rows is None else rows, max(ridge, 1e-9 * mean_diagonal, 1e-30)
    )
    channels = len(teacher) // size
    left = torch.arange(channels, device=teacher.device)
    for count in schedule(channels, keep, settings.milestones) if keep < channels else []:
        if count == len(left):
            continue
        scores = group_scores(path.weight, size, None if channel_weight is None else channel_weight[left])
        chosen = torch.tensor(importance.top_channels(scores, count), device=left.device)
        path.keep((chosen[:, None] * size + torch.arange(size, device=left.device)).flatten())
        left = left[chosen]
    weight = torch.zeros_like(teacher)
    columns = (left[:, None] * size + torch.arange(size, device=left.device)).flatten()
    weight[columns] = solve_on(columns, teacher, rows, gram, ridge)
    return weight, left.tolist()


def solve_on(columns: Tensor, teacher: Tensor, rows: Tensor | None, gram: Tensor | None, ridge: float) -> Tensor:
    r"""W_S = W_{T,S} + (A_S^T A_S + rho I)^{-1} A_S^T A_{S'} W_{T,S'}, primal or dual; rho = 0 is minimum change.

    The dual form A_S^T (A_S A_S^T + rho I)^{-1} is the same and cheaper where rows are fewer than columns.
    float64 throughout.
    """
    others = torch.ones(len(teacher), dtype=torch.bool, device=teacher.device)
    others[columns] = False
    if not others.any():
        return teacher[columns]  # nothing removed: the teacher's weight is optimal
    if rows is not None:
        a, lost = rows[columns].double(), rows[others].double().T @ teacher[others]
        if ridge == 0:
            return teacher[columns] + torch.linalg.pinv(a.T) @ lost
        return teacher[columns] + a @ torch.cholesky_solve(lost, _factor(a.T @ a, ridge))
    near = gram[columns]
    inner, lost = near[:, columns].double(), near[:, others].double() @ teacher[others]
    if ridge == 0:
        return teacher[columns] + torch.linalg.pinv(inner, hermitian=True) @ lost
    return teacher[columns] + torch.cholesky_solve(lost, _factor(inner, ridge))


def _factor(matrix: Tensor, ridge: float) -> Tensor:
    """The Cholesky factor of ``matrix`` + ridge I; the ridge grows while rounding leaves the sum indefinite."""
    while True:
        inner = matrix.clone()
        inner.diagonal().add_(ridge)
        factor, failed = torch.linalg.cholesky_ex(inner)
        if not failed:
            return factor
        ridge *= 10


class _PrimalPath:
    """Weights along the schedule from P = (G + rho I)^{-1}: dropping D is W -= P_{:,D} P_DD^{-1} W_D."""

    def __init__(self, teacher: Tensor, gram: Tensor, ridge: float):
        # The path only ranks channels, so the Gram matrix's own precision serves.
        self.inverse = torch.cholesky_inverse(_factor(gram, ridge))
        self.weight = teacher.to(gram)

    def keep(self, columns: Tensor) -> None:
        gone = torch.ones(len(self.weight), dtype=torch.bool, device=columns.device)
        gone[columns] = False
        tall = self.inverse[:, gone][columns]
        corner = torch.linalg.solve(self.inverse[gone][:, gone], torch.cat([self.weight[gone], tall.T], 1))
        self.weight = self.weight[columns] - tall @ corner[:, : self.weight.shape[1]]
        self.inverse = self.inverse[columns][:, columns] - tall @ corner[:, self.weight.shape[1] :]


class _DualPath:
    """The same weights from A itself, for fewer rows than columns: K = A_S A_S^T + rho I shrinks with S, and
    the output that is lost, A_D W_{T,D}, grows."""

    def __init__(self, teacher: Tensor, rows: Tensor, ridge: float):
        self.rows, self.weight, self.ridge = rows, teacher.to(rows), ridge
        self.teacher, self.lost = self.weight, torch.zeros(rows.shape[1], teacher.shape[1]).to(teacher)
        self.inner = rows.T.double() @ rows.double()

    def keep(self, columns: Tensor) -> None:
        gone = torch.ones(len(self.rows), dtype=torch.bool, device=columns.device)
        gone[columns] = False
        a = self.rows[gone].double()
        self.inner -= a.T @ a
        self.lost += a.T @ self.teacher[gone].double()
        self.rows, self.teacher = self.rows[columns], self.teacher[columns]
        change = torch.cholesky_solve(self.lost, _factor(self.inner, self.ridge))
        self.weight = self.teacher + self.rows @ change.to(self.rows)


@torch.enable_grad()
def fit_by_adam(layer, taps, keep: int, channel_weight: Tensor | None, mu: float, settings) -> tuple[Tensor, list[int]]:
    """The released solver: Adam on one fixed batch; over the first third of the steps channels are
    zeroed on a schedule with their gradients and moments, then the rate drops to a tenth."""
    x_s, x_t, shares = (torch.cat(parts) for parts in zip(*taps))
    teacher = layer.weight.detach().clone()
    weight = teacher.clone().requires_grad_(True)
    run = (
        (lambda x, w: F.linear(x, w))
        if isinstance(layer, nn.Linear)
        else (lambda x, w: layer._conv_forward(x, w, None))
    )
    with torch.no_grad():
        y_s, y_t = run(x_s, teacher), run(x_t, teacher)
    scale = shares.view(-1, *[1] * (y_s.dim() - 1)) / y_s[0].numel()
    channels, third = teacher.shape[1], settings.iterations // 3
    mask = torch.ones(channels, dtype=torch.bool, device=teacher.device)
    optimiser = torch.optim.Adam([weight], lr=settings.lr)
    shape = (1, -1) + (1,) * (teacher.dim() - 2)
    for step in range(1, settings.iterations + 1):
        count = int((channels - keep) * max(0.0, 1 - step / max(third, 1))) + keep
        if count < int(mask.sum()):
            scores = group_scores(weight.detach().transpose(0, 1).flatten(1), 1, channel_weight)
            mask[:] = False
            mask[importance.top_channels(scores, count)] = True
            with torch.no_grad():
                weight.mul_(mask.view(shape))
                for moment in ("exp_avg", "exp_avg_sq"):
                    if weight in optimiser.state:
                        optimiser.state[weight][moment].mul_(mask.view(shape))
        if step == third + 1:
            optimiser.param_groups[0]["lr"] = settings.lr * 0.1
        loss = (
            mu * (scale * (run(x_t, weight) - y_t).square()).sum()
            + (1 - mu) * (scale * (run(x_s, weight) - y_s).square()).sum()
        )
        optimiser.zero_grad()
        loss.backward()
        weight.grad.mul_(mask.view(shape))
        optimiser.step()
        if not torch.isfinite(loss):
            raise InputError(f"CD's loss is not finite at Adam step {step}; lower cd.lr or check the teacher.")
    return weight.detach(), mask.nonzero().flatten().tolist()
