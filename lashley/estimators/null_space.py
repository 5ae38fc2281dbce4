"""Removal inside the null space of what is to be kept (AlphaEdit's constraint, ICLR 2025, applied to erasure).

With ``N`` the eigenvectors of ``S_r`` below a share of its largest eigenvalue, ``r`` the rest of the reference, and
``C_f = S_f / n_f``:

    P = C_f N (N^T C_f N + l I)^-1 N^T,     l = lam * (largest eigenvalue of N^T C_f N)

What it promises: rows without a part in ``range(N)`` are not moved at all, and the rest has next to none. Both scales
are relative: the absolute ones of AlphaEdit are bound to the scale of one model.

For a thin target, ``S_f = X^T X`` and ``Y = X N``: ``P = X^T (Y Y^T + n_f l I)^-1 Y N^T``, of rank n_f.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lashley.errors import SolveError
from lashley.estimators.base import Estimator, Operator, SiteMoments, Solution
from lashley.spectrum import eigh

__all__ = ["NullSpace"]


@dataclass(frozen=True)
class NullSpace(Estimator):
    """``E = W C_f N (N^T C_f N + l I)^-1 N^T``.

    Args:
        rtol: eigenvalues of the rest's moment up to this share of the largest span the null space, in [0, 1).
        lam: damping, > 0, as a share of the largest eigenvalue of the target's moment inside the null space.
    """

    rtol: float = 1e-3
    lam: float = 1e-2

    def __post_init__(self) -> None:
        if not 0 <= self.rtol < 1:
            raise SolveError(f"Expected rtol in [0, 1), got {self.rtol}.")
        if not (self.lam > 0 and math.isfinite(self.lam)):
            raise SolveError(f"Expected a finite lam > 0, got {self.lam}.")

    def operator(self, site: SiteMoments) -> Operator:
        values, vectors, _ = eigh(site.rest.matrix(site.augmented))
        free = vectors[:, values <= self.rtol * values[0].clamp(min=0)]  # N, [D, k]
        target = site.target
        thin = target.thin and target.count < site.dim
        if thin:
            rows = target.design(site.augmented)
            inside = rows @ free
            left, right = rows.T, _damped(inside @ inside.T, self.lam, inside @ free.T)
        else:
            left = target.matrix(site.augmented) @ free
            right = _damped(free.T @ left, self.lam, free.T)
        return Operator(left, right, thin, Solution.plain("null space", site, rank=free.shape[1]))


def _damped(square: Tensor, lam: float, rows: Tensor) -> Tensor:
    """``(S + lam s I)^-1 X`` with s the largest eigenvalue of S; 0 where S is."""
    scale = torch.linalg.eigvalsh(square)[-1:].sum()  # of no eigenvalue at all: 0
    if not scale > 0:
        return torch.zeros_like(rows)
    damped = (square + square.T) / 2
    damped.diagonal().add_(lam * scale)
    return torch.cholesky_solve(rows, torch.linalg.cholesky(damped))
