r"""CD's least squares in two forms with one result: which inputs may go, and the weights on those that stay.

With A (R, n) the inputs of a layer as rows, W_T (n, Co) the teacher's weight, S the columns that stay and S' the rest,

    W_S = W_{T,S} + (A_S^T A_S + rho I)^{-1} A_S^T A_{S'} W_{T,S'}

:class:`Primal` solves this through A^T A (n, n). :class:`Dual` uses that A_S^T (A_S A_S^T + rho I)^{-1} is the same,
which is cheaper where rows are fewer than columns. Each also follows W_S along a path on which ever more columns leave.
"""

import torch
from torch import Tensor


def factor(matrix: Tensor, ridge: float) -> Tensor:
    """The Cholesky factor of ``matrix`` + ridge I; the ridge grows while rounding leaves the sum indefinite."""
    while True:
        inner = matrix.clone()
        inner.diagonal().add_(ridge)
        found, failed = torch.linalg.cholesky_ex(inner)
        if not failed:
            return found
        ridge *= 10


def without(columns: Tensor, count: int) -> Tensor:
    """The mask (count,) of all other columns."""
    others = torch.ones(count, dtype=torch.bool, device=columns.device)
    others[columns] = False
    return others


class Primal:
    """By the Gram matrix G = A^T A. The path keeps P = (G + rho I)^{-1}: dropping D is W -= P_{:,D} P_DD^{-1} W_D."""

    def __init__(self, gram: Tensor):
        self.gram = self.numbers = gram
        self.mean_diagonal = float(gram.diagonal().mean())

    def start(self, teacher: Tensor, ridge: float) -> None:
        """Begin a path at the teacher's weight; it only ranks channels, so the Gram matrix's own precision serves."""
        self.inverse = torch.cholesky_inverse(factor(self.gram, ridge))
        self.weight = teacher.to(self.gram)

    def keep(self, columns: Tensor) -> None:
        """Let all other columns leave; positions are among those that are left."""
        gone = without(columns, len(self.weight))
        tall = self.inverse[:, gone][columns]
        corner = torch.linalg.solve(self.inverse[gone][:, gone], torch.cat([self.weight[gone], tall.T], 1))
        self.weight = self.weight[columns] - tall @ corner[:, : self.weight.shape[1]]
        self.inverse = self.inverse[columns][:, columns] - tall @ corner[:, self.weight.shape[1] :]

    def solve(self, columns: Tensor, teacher: Tensor, ridge: float) -> Tensor:
        """W_S for the columns S in float64; a ridge of 0 is the minimum change."""
        others = without(columns, len(teacher))
        near = self.gram[columns]
        inner, lost = near[:, columns].double(), near[:, others].double() @ teacher[others]
        if ridge == 0:
            return teacher[columns] + torch.linalg.pinv(inner, hermitian=True) @ lost
        return teacher[columns] + torch.cholesky_solve(lost, factor(inner, ridge))


class Dual:
    """By the rows A^T (n, R). The path keeps K = A_S A_S^T + rho I, which shrinks with S, and the lost output
    A_D W_{T,D}, which grows."""

    def __init__(self, rows: Tensor):
        self.rows = self.numbers = rows
        self.mean_diagonal = float(rows.square().sum() / len(rows))

    def start(self, teacher: Tensor, ridge: float) -> None:
        """Begin a path at the teacher's weight."""
        self.left, self.weight, self.ridge = self.rows, teacher.to(self.rows), ridge
        self.teacher, self.lost = self.weight, torch.zeros(self.rows.shape[1], teacher.shape[1]).to(teacher)
        self.inner = self.rows.T.double() @ self.rows.double()

    def keep(self, columns: Tensor) -> None:
        """Let all other columns leave; positions are among those that are left."""
        gone = without(columns, len(self.left))
        a = self.left[gone].double()
        self.inner -= a.T @ a
        self.lost += a.T @ self.teacher[gone].double()
        self.left, self.teacher = self.left[columns], self.teacher[columns]
        change = torch.cholesky_solve(self.lost, factor(self.inner, self.ridge))
        self.weight = self.teacher + self.left @ change.to(self.rows)

    def solve(self, columns: Tensor, teacher: Tensor, ridge: float) -> Tensor:
        """W_S for the columns S in float64; a ridge of 0 is the minimum change."""
        others = without(columns, len(teacher))
        a, lost = self.rows[columns].double(), self.rows[others].double().T @ teacher[others]
        if ridge == 0:
            return teacher[columns] + torch.linalg.pinv(a.T) @ lost
        return teacher[columns] + a @ torch.cholesky_solve(lost, factor(a.T @ a, ridge))
