"""Project out the direction of a concept's mean that the other concepts' means do not span (after DAMP, 2026).

    d = mu_f - R R^+ mu_f,     R = [mu_r]  over the retained concepts,     P = d d^T / d^T d

No eigenproblem and no covariance. DAMP makes the strength depend on depth; here that is what a strength is for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lashley.errors import SolveError
from lashley.estimators.base import Estimator, Operator, SiteMoments, Solution

__all__ = ["MeanDirection"]


@dataclass(frozen=True)
class MeanDirection(Estimator):
    """``E = W d d^T / d^T d``; the bias is left alone.

    Args:
        rtol: singular values of R below this share of the largest count as zero.
    """

    rtol: float = 1e-6

    def operator(self, site: SiteMoments) -> Operator:
        if not site.target.count:
            raise SolveError("Expected a target with rows, got none: it has no mean.")
        mean = site.target.sum / site.target.count
        others = [c for c in map(site.concept, site.retained) if c.count]
        direction = mean
        if others:
            means = torch.stack([o.sum / o.count for o in others], dim=1)  # [D, K]
            u, s, _ = torch.linalg.svd(means, full_matrices=False)
            u = u[:, s > self.rtol * s[0]]
            direction = mean - u @ (u.T @ mean)
        size = direction @ direction
        if not size > (1e-12 * mean.norm()) ** 2:
            direction, size = torch.zeros_like(direction), torch.ones_like(size)  # spanned by the others: nothing to take
        if site.augmented:
            direction = torch.cat([direction, direction.new_zeros(1)])
        return Operator(direction[:, None], direction[None] / size, True, Solution.plain("mean direction", site))
