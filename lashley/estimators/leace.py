"""LEACE (Belrose et al. 2023): the smallest change of the input after which no linear reader finds the concept.

With ``m = s / n``, ``C = S / n - m m^T`` and ``sig_c = n_c (mu_c - m) / n``, the cross-covariance of input and membership:

    x -> x - A (x - m),     A = sig (sig^T C^+ sig)^+ sig^T C^+

``A`` is the projection onto ``range(sig)`` that is orthogonal in the metric of ``C^+``: the paper's
``C^(1/2) U U^T C^(+1/2)`` with ``U = orth(C^(+1/2) sig)``, without the square roots. On the augmented input it is
``P = [[A, -A m], [0, 0]]``, of rank one per concept.

What it promises: on the recorded rows, after the edit, no affine reader of *this layer's input as the edited weight sees it*
beats the constant. What it does not: features before the layer stay readable, and a nonlinearity after it may bring the
concept back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from lashley.estimators.base import OffsetEstimator, Operator, SiteMoments, Solution
from lashley.spectrum import Cut

__all__ = ["Leace"]


@dataclass(frozen=True)
class Leace(OffsetEstimator):
    """``E~ = W~ [[A, -A m], [0, 0]]``.

    Args:
        separate: erase every concept of a list on its own (rank K) instead of their pool against the rest (rank one).
        cut: which eigenvalues of the centred second moment count as zero.
        missing_bias: what to do where a layer has no bias to take the offset; see `OffsetEstimator`. By keyword.
    """

    separate: bool = False
    cut: Cut = field(default_factory=Cut)

    def operator(self, site: SiteMoments) -> Operator:
        targets = [site.concept(name) for name in site.names] if self.separate else [site.target]
        total = site.reference.moment.to(site.reference.device)
        mean = total.sum / max(total.count, 1)
        sig = torch.stack([(t.sum - t.count * mean) / max(total.count, 1) for t in targets])  # [K, D]
        white = site.reference.centred.whiten(self.cut)
        pulled = white.divide(sig) * total.count  # sig^T C^+: the factor holds n C
        right = torch.linalg.pinv(pulled @ sig.T, hermitian=True) @ pulled
        left = torch.cat([sig, sig.new_zeros(len(sig), 1)], dim=1).T
        right = torch.cat([right, -(right @ mean)[:, None]], dim=1)
        return Operator(left, right, low_rank=True, solution=Solution.cut(white.info, site))
