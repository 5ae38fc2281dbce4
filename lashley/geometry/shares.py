"""What a concept owns of a layer's input: the paper's operator in coordinates where the reference is the identity.

With ``B^T S B = I`` on the k directions that a cut keeps (`lashley.spectrum`),

    R_c = B^T S_c B,   symmetric [k, k],   with the eigenvalues r of the operator  P_c = S_c S^+ = S_c B B^T

(whose other D - k are 0). Here P_c is R_c: a similarity turns one into the other, so that eigenvalues, traces and
"idempotent or not" are the same, while norms are not, because P_c is not symmetric. Norms of R do not depend on the
units of the input; those of P_c do. Where the concepts divide the reference's rows among them, the R_c add to I.

Sums over directions need no eigenvalues: ``tr(R_a R_b)`` is a sum of products, and for thin concepts, ``R = Y^T Y``
with ``Y = X_c B [n, k]``, it is ``||Y_a Y_b^T||^2``. Diagonal moments (embeddings) have the indices for directions.

Legend: D size of the matrix solved, k kept rank, n rows of a concept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lashley.errors import SolveError
from lashley.estimators import SiteMoments
from lashley.spectrum import Whitening, eigh

__all__ = ["Ownership", "Share", "cosines", "raw_non_idempotence"]

_ZERO = 2.0**-40  # a share below it is the rounding of one that is 0


class Share:
    """R of one concept at one matrix, in the cheapest form it has: thin rows, a square, or a diagonal.

    Args:
        site: the moments of the concept and its reference.
        white: B of that reference; shares are comparable when it is the same object. None where moments are diagonal.

    Attributes:
        kept: k.
    """

    def __init__(self, site: SiteMoments, white: Whitening | None) -> None:
        target = site.target
        self._half: Tensor | None = None
        self._square: Tensor | None = None
        self._diagonal: Tensor | None = None
        if white is None:
            total = site.reference.moment.sum.to(target.sum.device)
            seen = total > 0
            self._diagonal = target.sum[seen] / total[seen]
            self.kept = len(self._diagonal)
            return
        self.kept = white.info.rank
        if target.thin and target.count < self.kept:
            self._half = white.project(target.design(site.augmented))
        else:
            self._square = white.share(target.matrix(site.augmented))

    @property
    def values(self) -> Tensor:
        """The eigenvalues r, ``[k]``, descending. Below 1 where the reference has the concept's rows."""
        return self._eigen[0]

    @property
    def trace(self) -> float:
        """``tr R``, the number of directions that the concept would own if it owned them whole."""
        return self.inner(None)

    def inner(self, other: Share | None) -> float:
        """``tr(R_a R_b)``; None stands for the identity.

        Over ``tr R_a`` it says which part of what a owns is owned by b: where the concepts divide the rows, these parts
        add to 1 over all b, and that of a itself is 1 exactly when R_a is idempotent.
        """
        if other is None:
            if self._half is not None:
                return self._half.square().sum().item()
            own = self._diagonal if self._diagonal is not None else self._of_square().diagonal()
            return own.sum().item()
        if other.kept != self.kept:
            raise SolveError(f"Expected shares of one reference, got {self.kept} and {other.kept} directions.")
        if self._diagonal is not None and other._diagonal is not None:
            return self._diagonal.dot(other._diagonal).item()
        if self._half is not None and other._half is not None:
            return (self._half @ other._half.T).square().sum().item()
        if self._half is not None:
            return (self._half @ other._of_square() * self._half).sum().item()
        if other._half is not None:
            return other.inner(self)
        return (self._of_square() * other._of_square()).sum().item()

    def owned(self, threshold: float) -> Tensor:
        """An orthonormal basis ``[k, m]`` of the directions with ``r > threshold``, which is at least 0."""
        values, vectors = self._eigen
        chosen = values[: vectors.shape[1]] > max(threshold, _ZERO)
        return vectors[:, chosen]

    def indices(self, threshold: float) -> Tensor | None:
        """Where moments are diagonal, which directions these are, as a bool ``[k]``; else None."""
        return None if self._diagonal is None else self._diagonal > max(threshold, _ZERO)

    def _of_square(self) -> Tensor:
        assert self._square is not None
        return self._square

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        """All eigenvalues, and eigenvectors of those that are not zero by construction (none where diagonal)."""
        if self._diagonal is not None:
            return self._diagonal.sort(descending=True).values, self._diagonal.new_zeros(self.kept, 0)
        if self._half is not None:
            values, left, _ = eigh(self._half @ self._half.T)
            m = int((values > _ZERO).sum())
            zeros = values.new_zeros(self.kept - m)
            return torch.cat([values[:m], zeros]), self._half.T @ left[:, :m] * values[:m].rsqrt()
        values, vectors, _ = eigh(self._of_square())
        return values.clamp(min=0), vectors


@dataclass(frozen=True)
class Ownership:
    """What is read off one concept's shares at one matrix.

    Attributes:
        values: r, float64 ``[k]`` on the host, descending.
        dim: D, the size of the matrix solved; P has D - k more eigenvalues, all 0.
        rows, reference_rows: of the concept and of its reference.
        raw: ``||P^2 - P||_F / ||P||_F`` of the operator as it stands, which is not symmetric and depends on the units
            of the input and on the cut (`raw_non_idempotence`).
    """

    values: Tensor
    dim: int
    rows: int
    reference_rows: int
    raw: float

    @property
    def kept(self) -> int:
        """k."""
        return len(self.values)

    @property
    def prior(self) -> float:
        """The concept's part of the reference's rows: what it owns of a direction that has nothing to do with it."""
        return self.rows / self.reference_rows if self.reference_rows else 0.0

    @property
    def median(self) -> float:
        """Of r; 0 where nothing is kept."""
        return self.values.median().item() if self.kept else 0.0

    @property
    def largest(self) -> float:
        """Of r."""
        return self.values[0].item() if self.kept else 0.0

    @property
    def excess(self) -> float:
        """By how much the largest r is above 1: rounding, unless the reference lacks the concept's rows."""
        return max(0.0, self.largest - 1)

    @property
    def trace(self) -> float:
        """``tr R``."""
        return self.values.sum().item()

    @property
    def effective_rank(self) -> float:
        """``exp(H)`` of r over its sum: over how many directions the operator is spread. 0 for no rows."""
        total = self.values.sum()
        return torch.exp(torch.special.entr(self.values / total).sum()).item() if total > 0 else 0.0

    @property
    def non_idempotence(self) -> float:
        """``||R^2 - R||_F / ||R||_F = sqrt(sum r^2 (1 - r)^2 / sum r^2)``; 0 exactly where every r is 0 or 1."""
        size = self.values.norm().item()
        return (self.values * (1 - self.values)).norm().item() / size if size else 0.0

    @property
    def own(self) -> float:
        """``sum r^2 / sum r``: which part of what the concept owns is owned by no other. 1 for a projector."""
        return self.values.square().sum().item() / self.trace if self.trace else 0.0

    def above(self, threshold: float) -> int:
        """How many directions are owned to more than the threshold."""
        return int((self.values > threshold).sum())

    def sparing(self, leak: float = 0.01, sharpness: float = 2.0) -> float:
        """The threshold t at which the sharpened filter takes the part ``leak`` of a direction owned as the median is.

        The bulk of the directions has a share near the median, and most of what an edit does to others comes from
        there. ``f(m) = leak`` solves to ``u = t / (1 - t) = m / (1 - m) (1 / leak - 1)^(1/p)``. A threshold far above
        it spares nothing more and takes less of the concept. It looks at the spectrum alone: how much of what is
        owned above it the network uses, only an edit shows.

        Raises:
            SolveError: a leak outside (0, 1) or a sharpness below 1.
        """
        if not 0 < leak < 1 or not 1 <= sharpness < math.inf:
            raise SolveError(
                f"Expected a leak inside (0, 1) and a finite sharpness of at least 1, got {leak} and {sharpness}."
            )
        median = self.median
        if median >= 1:
            return 1.0
        odds = median / (1 - median) * (1 / leak - 1) ** (1 / sharpness)
        return odds / (1 + odds)


def raw_non_idempotence(site: SiteMoments, white: Whitening | None) -> float:
    """``||P^2 - P||_F / ||P||_F`` of ``P = S_c S^+`` itself; 0 for no rows.

    With ``X`` the rows of a thin concept and ``Z = X S^+``, ``P = X^T Z`` and ``P^2 - P = X^T (Z X^T - I) Z``, whose
    norms are those of ``n x n`` matrices, between the triangular factors of X^T and Z^T.
    """
    target = site.target
    if white is None:
        total = site.reference.moment.sum.to(target.sum.device)
        r = torch.where(total > 0, target.sum / total.clamp(min=1), 0.0)
        size, rest = r.norm(), (r * r - r).norm()
    elif target.thin and target.count < site.dim:
        rows = target.design(site.augmented)
        divided = site.reference.divide(white, rows)
        left, right = (torch.linalg.qr(part.T, mode="r").R for part in (rows, divided))
        middle = divided @ rows.T
        middle.diagonal().sub_(1)
        size, rest = (left @ right.T).norm(), (left @ middle @ right.T).norm()
    else:
        operator = site.reference.divide(white, target.matrix(site.augmented))
        size, rest = operator.norm(), (operator @ operator - operator).norm()
    return (rest / size).item() if size > 0 else 0.0


def cosines(a: Share, b: Share, threshold: float = 0.5) -> Tensor:
    """Cosines of the principal angles between what two concepts own to more than the threshold, descending.

    Angles are those in which the reference is the identity. Above 1/2 no direction can belong to both whole: a unit
    vector with ``v^T R_a v > 1/2`` has ``v^T R_b v < 1/2``.

    Returns:
        ``[m]``, m the smaller number of directions; empty where one of them owns none. The mean of the squares is the
        part of the smaller space that lies in the larger.
    """
    first, second = a.indices(threshold), b.indices(threshold)
    if first is not None and second is not None:
        both, fewer = int((first & second).sum()), int(min(first.sum(), second.sum()))
        return torch.cat([torch.ones(both), torch.zeros(fewer - both)]).double()
    return torch.linalg.svdvals(a.owned(threshold).T @ b.owned(threshold)).clamp(max=1).cpu()
