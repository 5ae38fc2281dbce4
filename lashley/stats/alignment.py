"""Dimensional alignment: how much of the forget features lies in the principal subspace of the retain features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lashley.errors import DataError
from lashley.stats.inputs import Array, matrix

__all__ = ["Alignment", "dimensional_alignment"]

_TIE = 1e-12  # a cumulative share this far below the energy asked for has reached it


class Alignment(NamedTuple):
    """Attributes:
    value: the share of the forget features inside the subspace, in [0, 1].
    k: how many directions the subspace has.
    """

    value: float
    k: int


def dimensional_alignment(
    forget_features: Array,
    retain_features: Array,
    *,
    energy: float = 0.95,
    k: int | None = None,
    centre: str | None = None,
    squared: bool = True,
) -> Alignment:
    """``DA = ||Z_F U_k||_F^2 / ||Z_F||_F^2`` with ``U_k`` the first k eigenvectors of ``Z_R^T Z_R``.

    Direction: the retrained network's value is the target. In [0, 1]: 1 when the forget features use only the
    directions of the retain features, k / D on average for features without any direction.

    Which variant: the measure is named in Seo et al. and in *AI Engram* (arXiv 2606.14997, table 2), which describe it as
    how well forget features align with the principal subspace of the retain features. Neither formula, nor k, nor the
    energy is published. This is our reading: uncentred second moments, squared norms, k by energy. Values of another
    reading are not comparable with these, so say k and the options beside the number.

    Args:
        forget_features, retain_features: ``[N, D]`` of one network; the inputs of the classifier head are meant, of
            training samples, in evaluation mode and without augmentation.
        energy: k is the smallest for which the first k eigenvalues hold this share of their sum.
        k: this many directions instead; the number of retained classes is natural where classes collapse to points.
        centre: None, or "retain_mean": the mean of the retain features is subtracted from both. This can reverse the
            order of methods.
        squared: False takes the root of the ratio.

    Returns:
        ``(value, k)``.

    Raises:
        DataError: features of different width, empty, not finite or all zero; a k of more directions than the retain
            features have; an energy outside (0, 1].
    """
    forget, retain = matrix(forget_features, "forget_features"), matrix(retain_features, "retain_features")
    if forget.shape[1] != retain.shape[1]:
        raise DataError(
            f"Expected features of one network, got {forget.shape[1]} and {retain.shape[1]} features a sample."
        )
    if centre == "retain_mean":
        mean = retain.mean(0)
        forget, retain = forget - mean, retain - mean
    elif centre is not None:
        raise DataError(f'Expected centre to be None or "retain_mean", got {centre!r}.')
    if not 0 < energy <= 1:
        raise DataError(f"Expected energy in (0, 1], got {energy}.")
    whole = forget.square().sum()
    if not whole > 0:
        raise DataError("Expected forget features with a direction, got only zeros.")
    values, vectors = torch.linalg.eigh(retain.T @ retain)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    k = _directions(values, energy, k)
    ratio = ((forget @ vectors[:, :k]).square().sum() / whole).clamp(max=1).item()
    return Alignment(ratio if squared else ratio**0.5, k)


def _directions(values: Tensor, energy: float, k: int | None) -> int:
    dim = len(values)
    rank = int((values > values[0] * dim * torch.finfo(values.dtype).eps).sum())
    if not rank:
        raise DataError("Expected retain features with a direction, got only zeros.")
    if k is None:
        shares = values.cumsum(0) / values.sum()
        return min(rank, int((shares < energy - _TIE).sum()) + 1)
    if not 1 <= k <= dim or (k > rank and k < dim):  # all of them are the whole space, whatever the rank
        raise DataError(
            f"Expected k between 1 and {rank}, the directions that the retain features use, got {k}. "
            "Give more retain samples or a smaller k."
        )
    return k
