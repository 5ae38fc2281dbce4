"""Project out the direction of a concept's mean that the other concepts' means do not span (after DAMP, 2026).

    d = mu_f - R R^+ mu_f,     R = [mu_r]  over the retained concepts,     P = d d^T / d^T d

What it promises: the target's mean is taken to its part in the span of the other means, and no other mean moves. Of
single rows it says nothing. DAMP makes the strength depend on depth; here a strength does that.
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
        rtol: what counts as zero: singular values of R as a share of the largest, and the length of d as a share of
            that of ``mu_f``. A mean that the others span has no direction of its own, and its engram is zero.
    """

    rtol: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 < self.rtol < 1:
            raise SolveError(f"Expected rtol in (0, 1), got {self.rtol}.")

    def operator(self, site: SiteMoments) -> Operator:
        mean = site.target.sum / max(site.target.count, 1)
        direction = mean
        if others := site.means:
            u, s, _ = torch.linalg.svd(torch.stack(list(others.values()), dim=1), full_matrices=False)
            u = u[:, s > self.rtol * s[0]]
            direction = mean - u @ (u.T @ mean)
        length = direction.norm()
        left = direction[:, None] / length if length > self.rtol * mean.norm() else mean.new_zeros(len(mean), 0)
        if site.augmented:
            left = torch.cat([left, left.new_zeros(1, left.shape[1])])
        solution = Solution.plain("mean direction", site, rank=left.shape[1])
        return Operator(left, left.T, low_rank=True, solution=solution)
