"""How many directions a matrix uses, how long it is, and how much two engrams overlap. Tensors only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lashley.errors import SolveError
from lashley.moments import wide

__all__ = ["effective_rank", "frobenius", "overlap"]

_CHUNK = 2**20  # elements of each vector that are held in float64 at a time
_PIECE = 2**18  # elements that are summed at a time: 2 MiB


def effective_rank(matrix: Tensor) -> float:
    """``exp(H(p))`` with ``p`` the singular values divided by their sum (Roy and Vetterli, EUSIPCO 2007).

    Between 1 (one direction) and the smaller side of the matrix (all equal), but 0 for a matrix of zeros.
    """
    values = torch.linalg.svdvals(wide(matrix))
    total = values.sum()
    if not total > 0:
        return 0.0
    return torch.exp(torch.special.entr(values / total).sum()).item()


def frobenius(tensor: Tensor) -> float:
    """``||A||_F`` in float64, in pieces that stay in the cache: a fraction of the time of one conversion."""
    pieces = (wide(piece) for piece in tensor.detach().reshape(-1).split(_PIECE))
    return torch.stack([piece.dot(piece) for piece in pieces]).sum().sqrt().item()


def overlap(vectors: Sequence[Sequence[Tensor]]) -> Tensor:
    """Cosines between lists of tensors, each list read as one long vector: ``[K, K]``, 0 where a list is all zeros.

    Args:
        vectors: K lists of tensors of the same shapes, for instance the deltas of K engrams.

    Returns:
        float64, on the host.

    Raises:
        SolveError: lists of different lengths or of tensors of different shapes.
    """
    shapes = [[list(part.shape) for part in parts] for parts in vectors]
    for other in shapes[1:]:
        if other != shapes[0]:
            raise SolveError(
                f"Expected lists of tensors of the same shapes, got {shapes[0]} and {other}. Compare engrams of one "
                "model, in the same layers."
            )
    count = len(vectors)
    inner = torch.zeros(count, count, dtype=torch.float64)
    for parts in zip(*vectors, strict=True):
        for pieces in zip(*(part.reshape(-1).split(_CHUNK) for part in parts), strict=True):
            flat = wide(torch.stack(pieces))
            inner += (flat @ flat.T).cpu()
    norms = inner.diagonal().sqrt()
    scale = torch.where(norms > 0, 1 / norms, 0.0)
    return scale[:, None] * inner * scale
