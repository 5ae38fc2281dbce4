"""Removal inside the null space of what is to be kept (AlphaEdit's constraint, ICLR 2025, applied to erasure).

With ``N`` the eigenvectors of ``S_r / n_r`` below a share of its largest eigenvalue, and ``C_f = S_f / n_f``:

    P = C_f N (N^T C_f N + l I)^-1 N^T,     l = lam * (largest eigenvalue of N^T C_f N)

Rows that lie outside ``range(N)``, as nearly all retained rows do, are not moved. Both scales are relative: an absolute cut
is bound to the scale of one model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lashley.errors import SolveError
from lashley.estimators.base import Estimator, Operator, SiteMoments, Solution

__all__ = ["NullSpace"]


@dataclass(frozen=True)
class NullSpace(Estimator):
    """``E = W C_f N (N^T C_f N + l I)^-1 N^T``.

    Args:
        rtol: eigenvalues of the rest's moment below this share of the largest span the null space.
        lam: damping, as a share of the largest eigenvalue of the target's moment inside the null space.
    """

    rtol: float = 1e-3
    lam: float = 1e-2

    def __post_init__(self) -> None:
        if not 0 <= self.rtol < 1:
            raise SolveError(f"Expected rtol in [0, 1), got {self.rtol}.")
        if not self.lam > 0:
            raise SolveError(f"Expected lam > 0, got {self.lam}.")

    def operator(self, site: SiteMoments) -> Operator:
        rest = site.rest.matrix(site.augmented)
        values, vectors = torch.linalg.eigh(rest)
        free = vectors[:, values <= self.rtol * values[-1].clamp(min=0)]  # [D, k]
        target = site.target.matrix(site.augmented) / max(site.target.count, 1)
        left = target @ free
        inner = free.T @ left
        scale = torch.linalg.eigvalsh(inner)[-1] if len(inner) else inner.new_zeros(())
        if not scale > 0:
            return Operator(left[:, :0], free.T[:0], True, Solution.plain("null space", site, rank=0))
        inner.diagonal().add_(self.lam * scale)
        right = torch.cholesky_solve(free.T, torch.linalg.cholesky(inner))
        return Operator(left, right, low_rank=False, solution=Solution.plain("null space", site, rank=free.shape[1]))
