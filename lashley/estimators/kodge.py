"""Kodge (Saha, Roy, TMLR 2024): remove what the target uses and the rest does not, by two soft projectors.

    q_i = S_i / tr S_i,     M_i = a_i q_i (I + (a_i - 1) q_i)^-1,     P = (I - M_r) M_f

``M_i`` has the eigenvectors of ``S_i`` and, for a share ``s`` of its trace, the eigenvalue ``a s / (1 + (a - 1) s)``:
the scaled importance of the paper, without its SVD. ``r`` is the rest of the reference.

What it promises: a direction that the target does not use is not touched, one that only the target uses goes as far as
``M_f`` says, and what both use is weighed softly. Nothing is exact: rows of the rest move a little.

For a thin target, ``S_f = X^T X``: ``M_f = a X^T (tr I + (a - 1) X X^T)^-1 X``, of rank n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lashley.errors import SolveError
from lashley.estimators.base import Estimator, Operator, SiteMoments, Solution

__all__ = ["Kodge"]


@dataclass(frozen=True)
class Kodge(Estimator):
    """``E = W (I - M_r) M_f``.

    Args:
        retain: a_r >= 1, how eagerly a direction counts as used by the rest.
        forget: a_f >= 1, likewise for the target. The authors chose them per network, on training data: (100, 3) for
            VGG on CIFAR-10, (1000, 30) for ResNet-18, (100, 10) on ImageNet.
    """

    retain: float = 100.0
    forget: float = 3.0

    def __post_init__(self) -> None:
        for name in ("retain", "forget"):
            if not (getattr(self, name) >= 1 and math.isfinite(getattr(self, name))):
                raise SolveError(f"Expected {name} to be a finite number of at least 1, got {getattr(self, name)}.")

    def operator(self, site: SiteMoments) -> Operator:
        spared = -_soft(rest := site.rest.matrix(site.augmented), self.retain, rest)
        spared.diagonal().add_(1)  # I - M_r
        target = site.target
        thin = target.thin and target.count < site.dim
        if thin:
            rows = target.design(site.augmented)
            left, right = spared @ rows.T, _soft(rows @ rows.T, self.forget, rows)
        else:
            square = target.matrix(site.augmented)
            left, right = spared, _soft(square, self.forget, square)
        return Operator(left, right, low_rank=thin, solution=Solution.plain("kodge", site))


def _soft(square: Tensor, a: float, rows: Tensor) -> Tensor:
    """``a (tr S I + (a - 1) S)^-1 X``; 0 where S is. For ``X = S`` that is M."""
    trace = square.diagonal().sum()
    if not trace > 0:
        return torch.zeros_like(rows)
    damped = (a - 1) * square
    damped.diagonal().add_(trace)
    return torch.cholesky_solve(a * rows, torch.linalg.cholesky(damped))
