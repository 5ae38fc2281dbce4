"""A delta as a product of two thin matrices: exact where it already is one, else cut by energy.

The energy of a product of rank k is ``||B A||_F^2 / ||E||_F^2``; the best one of its rank misses ``sqrt(1 - energy)``
of ``||E||_F`` (Eckart and Young).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lashley.engram import Delta, widest

__all__ = ["LowRank", "low_rank", "realised_error"]

_EXACT = 2.0**-48  # share of the energy that float32 rounding takes anyway: (2^-24)^2
_PIECE = 2**22  # numbers of a delta that are multiplied out together


@dataclass(frozen=True)
class LowRank:
    """``left @ right`` is the delta's matrix; directions by falling energy.

    Attributes:
        left: ``[O, k]``.
        right: ``[k, D]``; what column i and row i of the two contribute is orthogonal to all else.
        energies: ``[k]``, squared singular values.
        exact: whether nothing was approximated: the delta has been a product already.
    """

    left: Tensor
    right: Tensor
    energies: Tensor
    exact: bool

    def rank(self, energy: float = 1.0) -> int:
        """How many directions hold this share of the energy; of all of it, but for what float32 could not hold."""
        total = self.energies.sum().item()
        if total == 0.0:
            return 0
        missing = self.energies.flip(0).cumsum(0).flip(0)  # what is lost when the cut is before each
        allowed = max(1.0 - energy, _EXACT) * total
        return int((missing > allowed).sum())

    def cut(self, rank: int, strength: float) -> tuple[Tensor, Tensor]:
        """``strength`` times the best product of that rank: ``(B [O, rank], A [rank, D])``, of equal norms."""
        root = self.energies[:rank].sqrt().sqrt()
        scale = self.right[:rank].norm(dim=1)
        scale = torch.where(scale > 0, root / scale, 0.0)  # right carries the singular values, or left does
        other = torch.where(scale > 0, 1 / scale, 0.0)
        return strength * self.left[:, :rank] * other, self.right[:rank] * scale.unsqueeze(1)


def low_rank(delta: Delta) -> LowRank:
    """The delta of a layer with one matrix, in its principal directions."""
    if delta.factors is not None:
        a, b = (factor.to(widest(factor.device)) for factor in delta.factors)
        q, core_a = torch.linalg.qr(a)
        p, core_b = torch.linalg.qr(b.T)
        u, values, v = torch.linalg.svd(core_a @ core_b.T, full_matrices=False)
        return LowRank(q @ u, (values.unsqueeze(1) * v) @ p.T, values.square(), exact=True)
    matrix = delta.layer.matrix(delta.weight)[0]
    matrix = matrix.to(widest(matrix.device))
    if matrix.shape[0] <= matrix.shape[1]:  # the smaller Gram matrix; it knows 8 digits of the singular values
        energies, left = _eigh(matrix @ matrix.T)
        return LowRank(left, left.T @ matrix, energies, exact=False)
    energies, right = _eigh(matrix.T @ matrix)
    return LowRank(matrix @ right, right.T, energies, exact=False)


def _eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, falling, and eigenvectors."""
    values, vectors = torch.linalg.eigh(gram)
    return values.clamp(min=0.0).flip(0), vectors.flip(1)


def realised_error(delta: Delta, strength: float, b: Tensor, a: Tensor) -> float:
    """``||B A - strength E||_F / ||strength E||_F``, of the factors as they are stored."""
    wide = widest(a.device)
    right = a.to(wide)
    missed = asked = 0.0
    for start, rows in _rows(delta):
        wanted = strength * rows
        missed += (b[start : start + len(rows)].to(wide) @ right - wanted).square().sum().item()
        asked += wanted.square().sum().item()
    return math.sqrt(missed / asked) if asked else 0.0


def _rows(delta: Delta) -> Iterator[tuple[int, Tensor]]:
    """The delta's matrix a block of rows at a time."""
    count = max(1, _PIECE // delta.layer.dim)
    if delta.factors is None:
        matrix = delta.layer.matrix(delta.weight)[0]
        for start in range(0, len(matrix), count):
            rows = matrix[start : start + count]
            yield start, rows.to(widest(rows.device))
        return
    a, b = (factor.to(widest(factor.device)) for factor in delta.factors)
    for start in range(0, len(a), count):
        yield start, a[start : start + count] @ b
