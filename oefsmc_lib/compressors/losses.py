"""The losses of the paper, eq. 2, 7, 8 and 9, as functions of tensors."""

import torch.nn.functional as F
from torch import Tensor


def distillation_kl(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    r"""Eq. (2): mean over images of KL(P_T || P_S).

    Logits (N, K) each; nats. The four wrapped methods match features instead, so this is an option.
    """
    # L_KD = 1/M sum_i KL(P_T(Y|x_i) || P_S(Y|x_i))
    return F.kl_div(
        student_logits.log_softmax(1), teacher_logits.log_softmax(1), reduction="batchmean", log_target=True
    )


def regulariser(logits: Tensor, labels: Tensor, gamma: Tensor, mean: str = "plain") -> Tensor:
    r"""Eq. (8): class-weighted cross-entropy of auxiliary images under their drawn labels.

    Logits (m, K), labels (m,), gamma (K,). ``mean="plain"`` is the paper's expectation;
    ``"weighted"`` divides by the sum of weights, as the code of Open-Sampling does.
    """
    # L_reg = E_x~ [ gamma_y~ * l(f(x~), y~) ]
    weights = gamma[labels]
    loss = weights * F.cross_entropy(logits, labels, reduction="none")
    return loss.sum() / (weights.sum().clamp_min(1e-12) if mean == "weighted" else len(labels))


def total(few_loss: Tensor, aux_loss: Tensor, eta: float) -> Tensor:
    """Eq. (9): L_total = E_(x,y) [ l(f(x), y) ] + eta * L_reg."""
    return few_loss + eta * aux_loss
