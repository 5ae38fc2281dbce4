"""Kodge (Saha, Roy, TMLR 2024): remove what the target uses and the rest does not, by two soft projectors.

    q_i = S_i / tr S_i,     M_i = a_i q_i (I + (a_i - 1) q_i)^-1,     P = (I - M_r) M_f

``M_i`` has the eigenvectors of ``S_i`` and the eigenvalues ``a s / (1 + (a - 1) s)``, ``s`` the share of a direction in the
trace: the scaled importance of the paper, without its SVD. ``r`` is the rest of the reference.
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
        forget: a_f >= 1, likewise for the target. The authors' public settings: (100, 3) for VGG on CIFAR-10, (1000, 30)
            for ResNet-18, (100, 10) on ImageNet. They are chosen on training data, per network.
    """

    retain: float = 100.0
    forget: float = 3.0

    def __post_init__(self) -> None:
        for name in ("retain", "forget"):
            if not (getattr(self, name) >= 1 and math.isfinite(getattr(self, name))):
                raise SolveError(f"Expected {name} to be a finite number of at least 1, got {getattr(self, name)}.")

    def operator(self, site: SiteMoments) -> Operator:
        rest = site.rest.matrix(site.augmented)
        target = site.target
        keep = torch.eye(len(rest), dtype=rest.dtype, device=rest.device) - _soft(rest, self.retain)
        thin = target.thin and target.count < site.dim
        if thin:
            # M_f = a X^T (tr I + (a - 1) X X^T)^-1 X
            rows = target.design(site.augmented)
            gram = (self.forget - 1) * rows @ rows.T
            gram.diagonal().add_(rows.square().sum())
            left, right = keep @ rows.T, self.forget * torch.linalg.solve(gram, rows) if len(rows) else rows
        else:
            left, right = keep, _soft(target.matrix(site.augmented), self.forget)
        return Operator(left, right, low_rank=thin, solution=Solution.plain("kodge", site))


def _soft(square: Tensor, a: float) -> Tensor:
    """``a S (tr I + (a - 1) S)^-1``; 0 for a moment of zeros. The two factors commute."""
    trace = square.diagonal().sum()
    if not trace > 0:
        return torch.zeros_like(square)
    damped = (a - 1) * square
    damped.diagonal().add_(trace)
    soft = torch.cholesky_solve(a * square, torch.linalg.cholesky(damped))
    return (soft + soft.T) / 2
