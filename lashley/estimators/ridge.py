"""Ridge-damped removal, the closed form of Unified Concept Editing (Gandikota et al. 2024) towards zero.

    P = S_f (S + lam I)^-1        W' = W - W P

It differs from the paper's engram in how small eigenvalues of S are treated: damped by ``lam`` instead of cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lashley.errors import SolveError
from lashley.estimators.base import DiagonalOperator, Estimator, Operator, SiteMoments, Solution

__all__ = ["Ridge"]


@dataclass(frozen=True)
class Ridge(Estimator):
    """``E = W S_f (S + lam I)^-1``.

    Args:
        lam: damping, > 0, in the units of S: a sum of squared activations over all reference rows. It is bound to the
            scale and the number of rows; an absolute value copied from another model means something else here.

    Raises:
        SolveError: when solving, if ``lam`` is below the rounding noise of a singular S.
    """

    lam: float

    def __post_init__(self) -> None:
        if not (self.lam > 0 and math.isfinite(self.lam)):
            raise SolveError(
                f"Expected a finite lam > 0, got {self.lam}. For no damping use Projection, which cuts instead."
            )

    def operator(self, site: SiteMoments) -> Operator:
        """P; of rank n for a thin target of n rows."""
        target, reference = site.target, site.reference
        thin = target.thin and target.count < site.dim
        if thin:
            rows = target.design(site.augmented)
            left, right = rows.T, reference.damped(rows, self.lam)
        else:
            left = target.matrix(site.augmented)
            right = reference.ridge(self.lam)
        return Operator(left, right, thin, Solution.plain("ridge", site))

    def diagonal(self, site: SiteMoments) -> DiagonalOperator:
        """``c_target / (c + lam)`` for every index."""
        total = site.reference.moment.sum.to(site.target.sum.device)
        solution = Solution.plain("diagonal", site, rank=int((total > 0).sum()))
        return DiagonalOperator(site.target.sum / (total + self.lam), solution)
