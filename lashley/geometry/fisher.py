"""The engram as a natural-gradient step (the paper's section 6), and what it leaves out.

K-FAC takes the Fisher matrix of a layer for ``A (x) G``: A the moment of its inputs, G that of the gradients at its
outputs, per row. The objective "answer nothing to the concept", ``1/2 ||W X_c||^2``, has the gradient ``W S_c``; with
``A = S`` and ``G = I`` its natural gradient is ``W S_c S^+``, the engram (corollary 6.3, with the scales written out).
With the real G it is ``G^-1 W S_c S^+``: the same directions of the input, other weights on the outputs.

The problem of theorem 6.1 asks for more: an E that does nothing at all to the reference, ``E X_-^T = 0``. In the
coordinates of `lashley.geometry.shares` that leaves the directions with ``r = 1`` alone, ``E = W S_c B V V^T B^T`` with
V the eigenvectors of r = 1: the sharpened family's limit for a threshold towards 1, and zero where no direction is
owned whole. The engram solves the soft problem, least squares over both sets of rows (`normal_residual`).

Legend: D size of the matrix solved, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lashley.errors import SolveError
from lashley.estimators import SiteMoments
from lashley.geometry.outputs import times
from lashley.geometry.shares import Share
from lashley.moments import wide
from lashley.spectrum import Whitening, eigh

__all__ = ["Agreement", "agreement", "normal_residual", "output_step", "spared"]


@dataclass(frozen=True)
class Agreement:
    """How one matrix compares with another.

    Attributes:
        cosine: of the angle between them; 0 where one is zero.
        ratio: of the norms, first over second; inf where the second is zero.
        error: ``||a - b|| / ||b||``; inf where only b is zero.
    """

    cosine: float
    ratio: float
    error: float


def agreement(a: Tensor, b: Tensor) -> Agreement:
    """Of ``a`` with ``b``, of any equal shape, in float64."""
    a, b = wide(a), wide(b)
    first, second, apart = a.norm().item(), b.norm().item(), (a - b).norm().item()
    cosine = (a * b).sum().item() / (first * second) if first and second else 0.0
    if not second:
        return Agreement(cosine, float("inf") if first else 1.0, float("inf") if first else 0.0)
    return Agreement(max(-1.0, min(1.0, cosine)), first / second, apart / second)


def output_step(engram: Tensor, factor: Tensor, damping: float) -> Tensor:
    """``G_d^-1 E``: K-FAC's step for an engram ``E [O, D]``, with the curvature ``G [O, O]`` of the outputs.

    G is scaled to a mean eigenvalue of 1 and damped to ``(G + d I) / (1 + d)``, so that an isotropic one, or an
    infinite damping, gives the engram itself.

    Raises:
        SolveError: a damping that is not positive, or a G of zeros.
    """
    if not damping > 0:
        raise SolveError(f"Expected a positive damping, got {damping}: G of a network is close to singular.")
    values, vectors, _ = eigh((wide(factor) + wide(factor).T) / 2)
    mean = values.mean()
    if not mean > 0:
        raise SolveError("Expected a curvature of the outputs, got zeros: no gradient reached the layer.")
    damped = (values.clamp(min=0) / mean + damping) / (1 + damping)
    return vectors / damped @ (vectors.T @ wide(engram))


def spared(weight: Tensor, site: SiteMoments, share: Share, white: Whitening | None, owned: float = 1 - 1e-6) -> Tensor:
    """The solution of theorem 6.1's problem as it is written, ``[O, D]``: best on the concept, nothing to the rest.

    Args:
        white: B of the reference; None where moments are diagonal.
        owned: the share from which a direction counts as owned whole.
    """
    if white is None:
        seen = site.reference.moment.sum.to(weight.device) > 0
        whole = share.indices(owned)
        assert whole is not None
        return wide(weight) * torch.zeros_like(seen).masked_scatter(seen, whole)
    basis = share.owned(owned)
    return white.back(white.project(times(wide(weight), site.target, site.augmented)) @ basis @ basis.T)


def normal_residual(weight: Tensor, engram: Tensor, site: SiteMoments) -> float:
    """``||E S - W S_c|| / ||W S_c||``: 0 where E is the least-squares answer to "as W on the concept, nothing on the
    rest" (eq. 2), whose normal equations these are. A cut leaves what it drops. 0 for a concept without rows.
    """
    product = times(wide(weight), site.target, site.augmented)
    reference = site.reference.moment.to(weight.device)
    size = product.norm().item()
    return (times(wide(engram), reference, site.augmented) - product).norm().item() / size if size else 0.0
