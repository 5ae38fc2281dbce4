"""The paper's estimator and its sharpened family.

With ``B`` from the reference (``B^T S B = I``, `lashley.spectrum`) and ``R = B^T S_c B``, whose eigenvalues ``r`` in
[0, 1] say which share of a direction the concept owns:

    P = S_c B g(R) B^T,     g(r) = f(r) / r,     f(r) = r^p / (r^p + u^p (1 - r)^p),     u = t / (1 - t)

``p = 1, t = 1/2`` gives ``g = 1`` and ``P = S_c S^+``: AI Engram (arXiv 2606.14997), eq. 4 and 6. A larger sharpness
``p`` keeps what the concept owns to more than ``t`` and leaves what it shares; ``p -> infinity`` is a projector.

For integer ``p`` no eigendecomposition of R is needed: ``g(R) = R^(p-1) (R^p + u^p (I - R)^p)^-1``, by Cholesky. The
eigenvalues of the matrix to invert lie within a factor of ``(2 max(u, 1/u))^p``, so it is used while that is small.

For a thin target, ``S_c = X^T X`` and ``Y = X B``: ``B g(Y^T Y) B^T`` seen from ``X`` is ``g(Y Y^T) Y B^T``, so
everything happens on the ``n x n`` side and ``P = X^T . g(Y Y^T) Y B^T`` has rank n.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from lashley.errors import SolveError
from lashley.estimators.base import DiagonalOperator, Estimator, Operator, SiteMoments, Solution, check_cut
from lashley.spectrum import Cut, eigh

__all__ = ["Projection", "filter_eigen", "filter_integer"]

_CHOLESKY_UP_TO = 1e6  # condition up to which the integer form agrees with the eigenvalues to 1e-9


@dataclass(frozen=True)
class Projection(Estimator):
    """``E = W S_c B g(R) B^T``. The default is the paper's ``E = W S_c S^+``.

    Args:
        sharpness: p >= 1, finite. 1 with threshold 1/2 is the paper's formula; 2 already spares most of what is
            shared; 1e6 is a hard projector for all purposes.
        threshold: t in (0, 1), the share at which a direction counts half.
        cut: which eigenvalues of the reference count as zero.
    """

    sharpness: float = 1.0
    threshold: float = 0.5
    cut: Cut = field(default_factory=Cut)

    def __post_init__(self) -> None:
        if not self.sharpness >= 1:
            raise SolveError(
                f"Expected a sharpness of at least 1, got {self.sharpness}: below 1 the filter f(r)/r is unbounded "
                "where a concept owns next to nothing. 1 is the paper's formula."
            )
        if self.sharpness == math.inf:
            raise SolveError("Expected a finite sharpness, got inf. 1e6 is a hard projector for all purposes.")
        if not 0 < self.threshold < 1:
            raise SolveError(f"Expected a threshold inside (0, 1), got {self.threshold}. 0.5 is the paper's.")
        check_cut(self.cut)

    @property
    def plain(self) -> bool:
        """Whether this is the paper's formula, ``g = 1``."""
        return self.sharpness == 1 and self.threshold == 0.5

    def operator(self, site: SiteMoments) -> Operator:
        """P; of rank n for a thin target of n rows."""
        white = site.reference.whiten(self.cut)
        precision = torch.float64 if white.info.near_noise else site.reference.moment.product
        target = site.target
        clipped = 0.0
        thin = target.thin and target.count < site.dim
        divide: Callable[[Tensor], Tensor] | None = None
        right: Tensor | None
        # The filter below solves with S_c; the plain formula only multiplies it.
        low = self.plain and precision == site.weights == torch.float32
        dtype = torch.float32 if low else torch.float64
        if thin:
            rows = target.design(site.augmented, dtype)
            left, right = rows.T, rows
        else:
            left, right = target.matrix(site.augmented, dtype), None
        if self.plain:
            divide = partial(site.reference.divide, white)
        elif thin:
            projected = white.project(rows)
            inner, clipped = self._gain(projected @ projected.T, site.contained)
            right = white.back(inner @ projected)
        else:
            inner, clipped = self._gain(white.share(left), site.contained)
            right = white.sandwich(inner)
        solution = Solution.cut(white.info, site, clipped=clipped)
        return Operator(left, right, thin, solution, divide, precision)

    def diagonal(self, site: SiteMoments) -> DiagonalOperator:
        """``f(r)`` with ``r = c_target / c``, the share of an index's occurrences; 0 for one that never came."""
        total = site.reference.moment.sum.to(site.target.sum.device)
        r = torch.where(total > 0, site.target.sum / total.clamp(min=1), 0.0)
        clipped = max(0.0, r.max().item() - 1) if len(r) and not self.plain else 0.0
        if not self.plain:
            r = r.clamp(0, 1)
            r = r * gain(r, self.sharpness, self.threshold)
        solution = Solution.plain("diagonal", site, rank=int((total > 0).sum()), clipped=clipped)
        return DiagonalOperator(r, solution)

    def _gain(self, share: Tensor, contained: bool) -> tuple[Tensor, float]:
        """g(R), and by how much the largest eigenvalue of R was clipped."""
        odds = self.threshold / (1 - self.threshold)
        condition = (2 * max(odds, 1 / odds)) ** min(self.sharpness, 64)
        if contained and self.sharpness == int(self.sharpness) and condition <= _CHOLESKY_UP_TO:
            inner = filter_integer(share, int(self.sharpness), self.threshold)
            if inner is not None:
                return inner, 0.0
        inner, excess = filter_eigen(share, self.sharpness, self.threshold)
        return inner, 0.0 if contained else excess


def filter_integer(share: Tensor, p: int, t: float) -> Tensor | None:
    """``g(R)`` for integer p without eigenvalues, or None where rounding put those of R too far outside [0, 1].

    That happens when the cut lies within the noise of the products, so that S and S_c disagree on what is kept.
    """
    odds = t / (1 - t)
    rest = -share
    rest.diagonal().add_(1)
    lower_power = torch.linalg.matrix_power(share, p - 1)
    total = lower_power @ share + odds**p * torch.linalg.matrix_power(rest, p)
    lower, info = torch.linalg.cholesky_ex((total + total.T) / 2)
    if info.item() != 0:
        return None
    gain = torch.cholesky_solve(lower_power, lower)
    return (gain + gain.T) / 2


def filter_eigen(share: Tensor, p: float, t: float) -> tuple[Tensor, float]:
    """``g(R)`` from the eigenvalues of R, clipped to [0, 1]; and by how much the largest exceeded 1."""
    values, vectors, _ = eigh(share)
    excess = max(0.0, values[0].item() - 1) if len(values) else 0.0
    return vectors * gain(values.clamp(0, 1), p, t) @ vectors.T, excess


def gain(r: Tensor, p: float, t: float) -> Tensor:
    """``g(r) = r^(p-1) / (r^p + s^p)``, ``s = u (1 - r)``, in a form whose powers neither underflow nor meet 0 / 0."""
    s = t / (1 - t) * (1 - r)
    return 1 / (r + s * (s / r) ** (p - 1))
