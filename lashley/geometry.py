"""Shapes of engrams: how many directions they use and how much two of them overlap. Tensors only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["effective_rank", "overlap"]


def effective_rank(matrix: Tensor) -> float:
    """``exp(H(p))`` with ``p`` the singular values divided by their sum (Roy and Vetterli, EUSIPCO 2007).

    Between 1 (one direction) and the smaller side of the matrix (all equal); 0 for a matrix of zeros.
    """
    values = torch.linalg.svdvals(matrix.double())
    total = values.sum()
    if not total > 0:
        return 0.0
    return torch.exp(torch.special.entr(values / total).sum()).item()


def overlap(vectors: Sequence[Sequence[Tensor]]) -> Tensor:
    """Cosines between lists of tensors, each list read as one long vector: ``[K, K]``, 0 where a list is all zeros.

    Args:
        vectors: K lists of tensors of the same shapes, for instance the deltas of K engrams.
    """
    count = len(vectors)
    inner = torch.zeros(count, count, dtype=torch.float64)
    for parts in zip(*vectors, strict=True):
        flat = torch.stack([p.reshape(-1).double() for p in parts])
        inner += flat @ flat.T
    norms = inner.diagonal().sqrt()
    scale = torch.where(norms > 0, 1 / norms, 0.0)
    return scale[:, None] * inner * scale
