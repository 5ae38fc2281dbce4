"""Cutting and factorising a moment: one factorisation serves every concept, subset, cut and strength. Tensors only.

With ``S = U L U^T`` (eigenvalues descending) and a cut that keeps the first ``k``:

    B = U_k L_k^{-1/2}      so that      B^T S B = I_k    and    B B^T = S^+

Every estimator of the projection family needs ``B`` only in such products, and any ``B Q`` with orthogonal ``Q``
serves as well. So when no eigenvalue falls under the cut, a Cholesky factor ``S = C C^T`` gives ``B = C^{-T}`` without
an eigendecomposition, which is some twenty times dearer. Whether any eigenvalue falls under ``tau = rtol lambda_max``
is decided exactly in one direction: if ``S - tau' I`` has a Cholesky factor for a ``tau' >= tau``, none does.

Legend: D size of the matrix solved (one more than the columns when augmented), k kept rank, n rows of a thin moment.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lashley.errors import SolveError
from lashley.moments import Moment

__all__ = ["Cut", "Factor", "Spectrum", "Whitening"]

EPS32 = 2.0**-23
EPS64 = 2.0**-52
# Rounding noise of a product, relative to the largest eigenvalue: half an ulp per term, growing with the square root
# of the 1024 rows that are gathered for one product.
_NOISE_ULPS = 16


@dataclass(frozen=True)
class Cut:
    """Which eigenvalues of the reference moment count as zero. Explicit, and independent of any dtype.

    At most one of the first four may be given.

    Args:
        rtol: keep eigenvalues above ``rtol * lambda_max``. None (default) means ``D * 2**-23``, with D the size of
            the matrix that is solved (the cut of the authors' package).
        rank: keep the largest ``rank`` (fewer if the matrix has fewer above ``D * 2**-52``).
        energy: keep the fewest whose sum reaches this share of the trace, in (0, 1].
        condition: keep eigenvalues above ``lambda_max / condition``.
        ulp: what the default is a multiple of: ``rtol = D * ulp``.
    """

    rtol: float | None = None
    rank: int | None = None
    energy: float | None = None
    condition: float | None = None
    ulp: float = EPS32

    def __post_init__(self) -> None:
        given = [name for name in ("rtol", "rank", "energy", "condition") if getattr(self, name) is not None]
        if len(given) > 1:
            raise SolveError(f"Expected one of rtol, rank, energy, condition; got {' and '.join(given)}. Drop one.")
        if self.rtol is not None and not 0 <= self.rtol < 1:
            raise SolveError(f"Expected rtol in [0, 1), a share of the largest eigenvalue; got {self.rtol}.")
        if self.rank is not None and self.rank < 1:
            raise SolveError(f"Expected a rank of at least 1, got {self.rank}.")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise SolveError(f"Expected energy in (0, 1], a share of the trace; got {self.energy}.")
        if self.condition is not None and not self.condition >= 1:
            raise SolveError(f"Expected a condition of at least 1, got {self.condition}.")

    @classmethod
    def paper(cls) -> Cut:
        """``1e-6 * lambda_max`` (arXiv 2606.14997, appendix B.3)."""
        return cls(rtol=1e-6)

    @classmethod
    def notebook(cls) -> Cut:
        """``D * 2**-52``: what ``torch.linalg.pinv`` does in float64, as the paper's figures were made."""
        return cls(ulp=EPS64)

    def relative(self, dim: int) -> float | None:
        """The threshold as a share of the largest eigenvalue, or None when it depends on the whole spectrum."""
        if self.rtol is not None:
            return self.rtol
        if self.condition is not None:
            return 1 / self.condition
        if self.rank is not None or self.energy is not None:
            return None
        return dim * self.ulp

    def keep(self, values: Tensor, dim: int) -> int:
        """How many of the descending eigenvalues ``values`` are kept, for a matrix of size ``dim``."""
        if not len(values) or values[0] <= 0:
            return 0
        relative = self.relative(dim)
        if relative is not None:
            return int((values > relative * values[0]).sum())
        above_noise = int((values > dim * EPS64 * values[0]).sum())
        if self.rank is not None:
            return min(self.rank, above_noise)
        assert self.energy is not None
        cumulative = values.clamp(min=0).cumsum(0)
        reached = int((cumulative < self.energy * cumulative[-1] * (1 - 1e-12)).sum()) + 1
        return min(reached, above_noise)

    def __str__(self) -> str:
        for name in ("rtol", "rank", "energy", "condition"):
            if (value := getattr(self, name)) is not None:
                return f"{name} {value:g}"
        return f"rtol D x 2^{math.log2(self.ulp):g}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Spectrum:
    """What a cut did to a reference moment.

    Attributes:
        dim: D, the size of the matrix solved.
        rank: k, how many eigenvalues were kept.
        rtol: the smallest kept share of the largest eigenvalue that the cut allowed (None for rank and energy cuts).
        largest, smallest: the largest and the smallest kept eigenvalue.
        condition: largest / smallest; None when nothing was kept.
        eigengap: smallest kept / largest dropped eigenvalue; None when nothing was dropped. Near 1, the cut goes
            through a dense part of the spectrum and another cut would give another engram.
        solver: "cholesky", "eigh" or "svd" (the fallback). Cholesky knows the two extreme eigenvalues only to a few
            per cent, from power iteration.
        noise: rounding noise of the moment's products as a share of the largest eigenvalue.
    """

    dim: int
    rank: int
    rtol: float | None
    largest: float
    smallest: float
    eigengap: float | None
    solver: str
    noise: float

    @property
    def condition(self) -> float | None:
        return self.largest / self.smallest if self.smallest > 0 else None

    @property
    def near_noise(self) -> bool:
        """Whether the cut lies within ten times of the rounding noise of float32 products."""
        if not self.rank or self.noise <= EPS64 * _NOISE_ULPS:
            return False
        return (self.rtol if self.rtol is not None else self.smallest / self.largest) < 10 * self.noise


class Factor:
    """The factorisation of one reference moment, augmented or not. Work is done when first asked for, and kept.

    Args:
        moment: the reference.
        augmented: factorise ``S~`` instead of ``S``.
        device: where to solve; None: where the moment lives.
    """

    def __init__(self, moment: Moment, augmented: bool = False, device: torch.device | None = None) -> None:
        self.moment = moment if device is None else moment.to(device)
        self.augmented = augmented
        self.dim = moment.dim + int(augmented)
        self._eigen: tuple[Tensor, Tensor, str] | None = None
        self._cholesky: tuple[Tensor, float, float] | None = None
        self._full_rank_to = -1.0  # the largest share of lambda_max below which no eigenvalue is known to lie
        self._pinv: dict[int, Tensor] = {}
        self._ridge: dict[float, Tensor] = {}

    @property
    def matrix(self) -> Tensor:
        return self.moment.matrix(self.augmented)

    def whiten(self, cut: Cut) -> Whitening:
        """B for this cut."""
        relative = cut.relative(self.dim)
        if self._eigen is None and relative is not None and self._without_eigen(relative):
            assert self._cholesky is not None
            lower, largest, smallest = self._cholesky
            info = self._spectrum(self.dim, relative, largest, smallest, None, "cholesky")
            return Whitening(self, info, lower=lower)
        values, vectors, solver = self.eigen()
        k = cut.keep(values, self.dim)
        smallest = values[k - 1].item() if k else 0.0
        dropped = values[k].item() if k < len(values) else 0.0
        largest = values[0].item() if len(values) else 0.0
        gap = smallest / dropped if dropped > 0 else None
        info = self._spectrum(k, relative, largest, smallest, gap, solver)
        return Whitening(self, info, basis=vectors[:, :k] * values[:k].rsqrt())

    def eigen(self) -> tuple[Tensor, Tensor, str]:
        """Eigenvalues (descending), eigenvectors ``[D, m]`` and the solver; thin moments have ``m = n`` of them."""
        if self._eigen is None:
            if self.moment.thin and self.moment.count < self.dim:
                rows = self.moment.design(self.augmented)
                values, left, solver = _eigh(rows @ rows.T)
                # The eigenvectors of X^T X are X^T v / sqrt(lambda): only those above rounding can be told apart.
                seen = values > self.dim * EPS64 * values[0] if len(values) else values > 0
                values, left = values[seen], left[:, seen]
                self._eigen = values, rows.T @ left * values.rsqrt(), solver
            else:
                self._eigen = _eigh(self.matrix)
        return self._eigen

    def pinv(self, white: Whitening) -> Tensor:
        """S^+ under the cut of ``white``, ``[D, D]``; kept per kept rank."""
        k = white.info.rank
        if k not in self._pinv:
            self._pinv[k] = white.dense_pinv()
        return self._pinv[k]

    def ridge(self, lam: float) -> Tensor:
        """``(S + lam I)^-1``, ``[D, D]``; kept per ``lam``."""
        if lam not in self._ridge:
            matrix = self.matrix
            matrix.diagonal().add_(lam)
            self._ridge[lam] = torch.cholesky_inverse(_cholesky_or_explain(matrix, lam))
        return self._ridge[lam]

    def _without_eigen(self, relative: float) -> bool:
        """Whether it is certain that every eigenvalue exceeds ``relative * lambda_max``; leaves the factor behind."""
        if self.moment.thin or self.moment.count < self.dim:
            return False  # rank at most n < D
        if relative <= self._full_rank_to:
            return True
        matrix = self.matrix
        bound = min(matrix.abs().sum(0).max().item(), torch.linalg.matrix_norm(matrix).item())
        shifted = matrix.clone()
        shifted.diagonal().sub_(relative * bound)
        if torch.linalg.cholesky_ex(shifted).info.item() != 0:
            return False
        if self._cholesky is None:
            del shifted
            lower = torch.linalg.cholesky(matrix)
            self._cholesky = (lower, _largest(matrix), _smallest(lower))
        self._full_rank_to = relative
        return True

    def _spectrum(
        self, rank: int, rtol: float | None, largest: float, smallest: float, gap: float | None, solver: str
    ) -> Spectrum:
        ulp = EPS32 if self.moment.product == torch.float32 else EPS64
        return Spectrum(self.dim, rank, rtol, largest, smallest, gap, solver, _NOISE_ULPS * ulp)


class Whitening:
    """B under one cut, as products. Held as ``basis [D, k]``, or implicitly as ``C^{-T}`` for a Cholesky factor C."""

    def __init__(
        self, factor: Factor, info: Spectrum, *, basis: Tensor | None = None, lower: Tensor | None = None
    ) -> None:
        self.factor = factor
        self.info = info
        self._basis = basis
        self._lower = lower

    def project(self, rows: Tensor) -> Tensor:
        """``X B``: ``[n, D] -> [n, k]``."""
        if self._lower is not None:
            return torch.linalg.solve_triangular(self._lower, rows.T, upper=False).T
        return rows @ self._basis

    def back(self, rows: Tensor) -> Tensor:
        """``Y B^T``: ``[n, k] -> [n, D]``."""
        if self._lower is not None:
            return torch.linalg.solve_triangular(self._lower.T, rows.T, upper=True).T
        assert self._basis is not None
        return rows @ self._basis.T

    def share(self, square: Tensor) -> Tensor:
        """``R = B^T S_c B``: the share of each kept direction that the concept owns, symmetric ``[k, k]``."""
        half = self.project(square)
        share = self.project(half.T)
        return (share + share.T) / 2

    def sandwich(self, inner: Tensor) -> Tensor:
        """``B G B^T``: ``[k, k] -> [D, D]``."""
        return self.back(self.back(inner).T)

    def pinv(self) -> Tensor:
        """``S^+ = B B^T``, ``[D, D]``."""
        return self.factor.pinv(self)

    def dense_pinv(self) -> Tensor:
        if self._lower is not None:
            return torch.cholesky_inverse(self._lower)
        assert self._basis is not None
        return self._basis @ self._basis.T


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor, str]:
    """Eigenpairs of a symmetric positive semi-definite float64 matrix, descending.

    The device's solver first, then the host's (float64 ``eigh`` of a large low-rank matrix can fail on a GPU), then the
    singular values, which for such a matrix are the same numbers from an algorithm that fails on other inputs.
    """
    if not torch.isfinite(matrix).all():
        raise SolveError("Expected a finite moment, got nan or inf. Was the model's input or an activation not finite?")
    for attempt in (matrix, matrix.cpu()):
        try:
            values, vectors = torch.linalg.eigh(attempt)
        except torch.linalg.LinAlgError:
            continue
        return values.flip(0).to(matrix.device), vectors.flip(1).to(matrix.device), "eigh"
    vectors, values, _ = torch.linalg.svd(matrix.cpu())
    return values.to(matrix.device), vectors.to(matrix.device), "svd"


def _cholesky_or_explain(matrix: Tensor, lam: float) -> Tensor:
    lower, info = torch.linalg.cholesky_ex(matrix)
    if info.item() != 0:
        raise SolveError(
            f"Expected S + lam I to be positive definite, got a failure at column {info.item()} with lam = {lam:g}: lam "
            "is below the rounding noise of S. Raise lam, or use Projection, whose cut treats small eigenvalues as zero."
        )
    return lower


def _largest(matrix: Tensor, steps: int = 24) -> float:
    """The largest eigenvalue to a few per cent, by power iteration from a fixed start."""
    vector = torch.ones(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
    vector[::2] += 0.5  # the all-ones vector can be an exact eigenvector of a small matrix
    value = 0.0
    for _ in range(steps):
        vector = vector / vector.norm()
        vector = matrix @ vector
        value = vector.norm().item()
    return value


def _smallest(lower: Tensor, steps: int = 12) -> float:
    """The smallest eigenvalue of ``C C^T`` to a few per cent, by inverse iteration from a fixed start."""
    vector = torch.ones(lower.shape[0], 1, dtype=lower.dtype, device=lower.device)
    vector[::2] += 0.5
    value = 1.0
    for _ in range(steps):
        vector = vector / vector.norm()
        vector = torch.cholesky_solve(vector, lower)
        value = vector.norm().item()
    return 1 / value
