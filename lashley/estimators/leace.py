"""LEACE (Belrose et al. 2023): the smallest change of the input after which no linear reader finds the concept.

With ``m = s / n``, ``C = S / n - m m^T`` and the covariance of input and membership, ``sig_c = n_c (mu_c - m) / n``:

    x -> x - A (x - m),     A = C^(1/2) U U^T C^(+1/2),     U = orth(C^(+1/2) [sig_c])

For any B with ``B B^T = C^+`` (`lashley.spectrum`) and ``B^T [sig_c] = V s U^T``: ``A = [sig_c] U s^-1 V^T B^T``, one
rank per independent concept. On the augmented input, ``P = [[A, -A m], [0, 0]]``.

What it promises: on the rows that were recorded, no affine reader of the edited input predicts membership better than a
constant does, and no smaller change of the input does that. What it does not: features before the layer stay readable,
and a nonlinearity after it may bring the concept back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from lashley.estimators.base import OffsetEstimator, Operator, SiteMoments, Solution, check_cut
from lashley.spectrum import Cut

__all__ = ["Leace"]

# The singular values are sqrt(n p (1 - p) R^2), R^2 of the best reader. Below this share of sqrt(n) they are rounding:
# of a concept that depends on the others, or that every row belongs to.
_READABLE = 1e-9


@dataclass(frozen=True)
class Leace(OffsetEstimator):
    """``E~ = W~ [[A, -A m], [0, 0]]``: no linear reader of the layer's input finds the concept afterwards.

    Args:
        separate: erase every concept of a list on its own (a rank each) instead of their pool against the rest (rank
            one). For concepts that should not be told apart from each other either.
        cut: which eigenvalues of ``n C`` count as zero.
        missing_bias: what to do where a layer has no bias to take the offset; see `OffsetEstimator`. By keyword.
    """

    separate: bool = False
    cut: Cut = field(default_factory=Cut)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_cut(self.cut)

    def operator(self, site: SiteMoments) -> Operator:
        targets = [site.concepts[name] for name in site.names] if self.separate else [site.target]
        mean, count = site.mean, site.reference.moment.count
        # n sig_c of every concept, [K, D]; the scale of sig and C is without meaning here
        sig = torch.stack([t.sum.to(mean.device) - t.count * mean for t in targets])
        white = site.reference.centred.whiten(self.cut)
        u, s, v = torch.linalg.svd(white.project(sig), full_matrices=False)
        kept = s > _READABLE * math.sqrt(count)
        left = sig.T @ (u[:, kept] / s[kept])
        right = white.back(v[kept])
        left = torch.cat([left, left.new_zeros(1, left.shape[1])])
        right = torch.cat([right, -(right @ mean)[:, None]], dim=1)
        return Operator(left, right, low_rank=True, solution=Solution.cut(white.info, site))
