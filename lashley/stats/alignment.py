"""Dimensional alignment: how much of the forget features lies in the principal subspace of the retain features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lashley.errors import DataError
from lashley.stats.inputs import Array, matrix, same_width

__all__ = ["Alignment", "dimensional_alignment"]

_TIE = 1e-12  # a cumulative share this far below the energy asked for has reached it


class Alignment(NamedTuple):
    """The share of the forget features inside the subspace, in [0, 1], and how many directions the subspace has."""

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

    Direction: the target is the retrained network's value. Range: [0, 1]; 1 when the forget features use no direction
    that the retain features do not, ``k / D`` on average when they point anywhere.

    Which variant: table 2 of *AI Engram* (arXiv 2606.14997) reports the measure as the alignment of forget features
    with the principal subspace of the retain features, after Seo et al.; neither formula, nor k, nor the energy is
    published. This is our reading: uncentred second moments, squared norms, k by energy. Say k and the options beside
    the number.

    Args:
        forget_features, retain_features: ``[N, D]`` of one network: the inputs of its classifier head, of training
            samples, in evaluation mode, without augmentation.
        energy: k is the smallest for which the first k eigenvalues hold this share of their sum.
        k: this many directions instead. The number of retained classes is natural where classes collapse to points.
        centre: None, or "retain_mean": the mean of the retain features is subtracted from both. That can reverse the
            order of methods.
        squared: False takes the square root of the ratio.

    Returns:
        ``(value, k)``.

    Raises:
        DataError: features of different widths, none, not finite or all zero; a k of more directions than the retain
            features use; an energy outside (0, 1]; an unknown centre.
    """
    forget, retain = same_width(matrix(forget_features, "forget_features"), matrix(retain_features, "retain_features"))
    if centre not in (None, "retain_mean"):
        raise DataError(f'Expected centre to be None or "retain_mean", got {centre!r}.')
    if not 0 < energy <= 1:
        raise DataError(f"Expected energy in (0, 1], got {energy}.")
    if centre:
        mean = retain.mean(0)
        forget, retain = forget - mean, retain - mean
    whole = forget.square().sum()
    if not whole > 0:
        raise DataError("Expected forget features that point somewhere, got only zeros.")
    values, vectors = torch.linalg.eigh(retain.T @ retain)
    k = _directions(values.flip(0).clamp(min=0), energy, k)
    ratio = ((forget @ vectors[:, -k:]).square().sum() / whole).clamp(max=1).item()
    return Alignment(ratio if squared else ratio**0.5, k)


def _directions(values: Tensor, energy: float, k: int | None) -> int:
    dim = len(values)
    rank = int((values > values[0] * dim * torch.finfo(values.dtype).eps).sum())
    if not rank:
        raise DataError("Expected retain features that point somewhere, got only zeros.")
    if k is None:
        shares = values.cumsum(0) / values.sum()
        return min(rank, int((shares < energy - _TIE).sum()) + 1)
    # Between rank and D the eigenvectors are arbitrary; all D of them are the whole space again.
    if not 1 <= k <= rank and k != dim:
        raise DataError(
            f"Expected k between 1 and {rank}, the number of directions that the retain features use, got {k}. "
            "Give more retain samples or a smaller k."
        )
    return k
