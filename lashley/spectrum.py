"""Cutting and factorising a moment: one factorisation serves every concept, subset, cut and strength. Tensors only.

With ``S = U L U^T`` (eigenvalues descending) and a cut that keeps the first ``k``:

    B = U_k L_k^{-1/2}      so that      B^T S B = I_k    and    B B^T = S^+

Every estimator of the projection family needs ``B`` only in such products, and any ``B Q`` with orthogonal ``Q``
serves as well. So when no eigenvalue falls under the cut, a Cholesky factor ``S = C C^T`` gives ``B = C^{-T}`` without
an eigendecomposition, which is some twenty times dearer. Whether one falls under ``tau = rtol lambda_max`` is mostly
plain from the two extreme eigenvalues, which `_extreme` finds to a few per cent and a factor of `_SLACK` brackets.
Where it is not, ``S - tau' I`` tells: if it has a Cholesky factor for a ``tau' >= tau``, none does. Where ``tau'`` is
too high, nothing is lost but time.

Legend: D size of the matrix solved (one more than the columns when augmented), k kept rank, n rows of a thin moment.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lashley.errors import SolveError
from lashley.kernels import full_precision, matmul
from lashley.moments import Moment, all_finite

__all__ = ["Cut", "Eigen", "Factor", "Spectrum", "Whitening", "eigh"]

EPS32 = 2.0**-23
EPS64 = 2.0**-52
# An upper bound of the rounding noise of products, in units in the last place of the largest eigenvalue. Rows with a
# mean have less of it than Gaussian ones, with which tests/test_spectrum.py compares it.
_NOISE_ULPS = 16
_STEPS, _WIDTH = 6, 8  # of the block Lanczos iteration that finds extreme eigenvalues,
_SLACK = 4  # and at most so many times what it finds is the truth, but for a chance of 1e-11 at D = 1e5


@dataclass(frozen=True)
class Cut:
    """Which eigenvalues of the reference moment count as zero. Explicit, and independent of any dtype.

    At most one of the first four may be given. Under every cut, eigenvalues up to ``D * 2**-52 * lambda_max`` are
    dropped: they are the rounding of the decomposition itself.

    Args:
        rtol: keep eigenvalues above ``rtol * lambda_max``. None (default) means ``D * 2**-23``, with D the size of
            the matrix that is solved (the cut of the authors' package).
        rank: keep the largest ``rank``.
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
        if self.rank is not None and (self.rank < 1 or self.rank != int(self.rank)):
            raise SolveError(f"Expected rank to be a whole number of at least 1, got {self.rank}.")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise SolveError(f"Expected energy in (0, 1], a share of the trace; got {self.energy}.")
        if self.condition is not None and not self.condition >= 1:
            raise SolveError(f"Expected a condition of at least 1, got {self.condition}.")
        if not 0 < self.ulp < 1:
            raise SolveError(f"Expected ulp in (0, 1), got {self.ulp}. It only scales the default; give rtol instead.")

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
        if self.rank is not None or self.energy is not None:
            return None
        if self.rtol is not None:
            share = self.rtol
        elif self.condition is not None:
            share = 1 / self.condition
        else:
            share = dim * self.ulp
        return max(share, dim * EPS64)

    def keep(self, values: Tensor, dim: int) -> int:
        """How many of the descending eigenvalues ``values`` are kept, for a matrix of size ``dim``."""
        above_rounding = _above_rounding(values, dim)
        relative = self.relative(dim)
        if relative is not None:
            return min(int((values > relative * values[:1]).sum()), above_rounding)
        if self.rank is not None:
            return min(self.rank, above_rounding)
        assert self.energy is not None
        cumulative = values[:above_rounding].cumsum(0)
        short = cumulative < self.energy * cumulative[-1:] * (1 - 1e-12)  # all of the energy, to rounding, is all of it
        return min(int(short.sum()) + 1, above_rounding)

    def __repr__(self) -> str:
        if self == Cut.notebook():
            return "Cut.notebook()"
        given = [f"{f.name}={value!r}" for f in fields(self) if (value := getattr(self, f.name)) != f.default]
        return f"Cut({', '.join(given)})"

    def __str__(self) -> str:
        for name in ("rtol", "rank", "energy", "condition"):
            if (value := getattr(self, name)) is not None:
                return f"{name} {value:g}"
        return f"rtol D x 2^{math.log2(self.ulp):g}"

    def to_json(self) -> dict[str, Any]:
        """The settings, for manifests; ``Cut(**settings)`` is its inverse."""
        return asdict(self)


@dataclass(frozen=True)
class Spectrum:
    """What a cut did to a reference moment.

    Attributes:
        dim: D, the size of the matrix solved.
        rank: k, how many eigenvalues were kept.
        rtol: the smallest kept share of the largest eigenvalue that the cut allowed (None for rank and energy cuts).
        largest, smallest: the largest and the smallest kept eigenvalue.
        eigengap: smallest kept / largest dropped eigenvalue; None when nothing above zero was dropped. Near 1, the cut
            goes through a dense part of the spectrum and another cut would give another engram.
        solver: "cholesky", "eigh" or "svd" (the fallback). With Cholesky the two extreme eigenvalues are estimates,
            good to a few per cent.
        noise: an upper bound of the rounding noise of the moment's products, as a share of the largest eigenvalue.
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
        """Largest / smallest kept eigenvalue; None when none was kept."""
        return self.largest / self.smallest if self.smallest > 0 else None

    @property
    def near_noise(self) -> bool:
        """Whether the cut lies within ten times of the rounding noise of float32 products."""
        if not self.rank or self.noise <= EPS64 * _NOISE_ULPS:
            return False
        return (self.rtol if self.rtol is not None else self.smallest / self.largest) < 10 * self.noise


class Eigen(NamedTuple):
    """Eigenvalues of a moment and its whitener.

    Attributes:
        values: descending; all of them, or the n that are not zero by construction for n < D rows.
        basis: ``U L^{-1/2}``, ``[D, m]``, for the m values above ``D * 2**-52`` of the largest. Those below are
            rounding, and no cut keeps them.
        solver: "eigh" or "svd".
    """

    values: Tensor
    basis: Tensor
    solver: str


class Factor:
    """The factorisation of one reference moment, augmented or not. Work is done when first asked for, and kept.

    Kept are the whitener, or a Cholesky factor as long as there is no dense inverse, and of these the last that was
    asked for: every concept, subset and strength asks for the same one.

    Args:
        moment: the reference.
        augmented: factorise ``S~`` instead of ``S``.
        device: where to solve; None: where the moment lives.
        removed: the eigenvalue that was taken off the moment after its products had been rounded, if one was.
        users: how many concepts it may have to serve; with many, a dense inverse pays.
    """

    def __init__(
        self,
        moment: Moment,
        augmented: bool = False,
        device: torch.device | None = None,
        removed: float = 0.0,
        users: int = 1,
    ) -> None:
        self.moment = moment
        self.augmented = augmented
        self.device = moment.sum.device if device is None else device
        self.dim = moment.dim + int(augmented)
        self._eigen: Eigen | None = None
        self._lower: Tensor | None = None  # the Cholesky factor C
        self._extremes: tuple[float, float] | None = None  # eigenvalues, where there is a Cholesky factor
        # Shares of lambda_max: below the first no eigenvalue lies, the second was too high to tell without eigenvalues.
        self._full_rank_to, self._unsure_from = -1.0, math.inf
        self._pinv: tuple[tuple[int, torch.dtype], Tensor] | None = None
        self._ridge: tuple[float, Tensor] | None = None
        self._centred: Factor | None = None
        self._removed = removed
        self._users = users

    @property
    def centred(self) -> Factor:
        """The factor of ``n C = S - s s^T / n``, never augmented."""
        if self._centred is None:
            mean = self.moment.sum.square().sum().item() / max(self.moment.count, 1)  # s s^T / n
            self._centred = Factor(self.moment.centred(), False, self.device, mean)
        return self._centred

    @property
    def thin(self) -> bool:
        """Whether there are fewer rows than columns, and S is seen from their side."""
        return self.moment.thin and self.moment.count < self.dim

    @property
    def matrix(self) -> Tensor:
        """S or S~ on the device where it is solved; built at each call."""
        return _finite(self.moment.matrix(self.augmented).to(self.device))

    def whiten(self, cut: Cut) -> Whitening:
        """B for this cut. How it is found depends on S and the cut alone, never on what was asked before."""
        relative = cut.relative(self.dim)
        if relative is not None and self._without_eigen(relative):
            assert self._extremes is not None
            info = self._spectrum(self.dim, relative, *self._extremes, None, "cholesky")
            return Whitening(info, lower=self.lower)
        values, basis, solver = self.eigen()
        k = cut.keep(values, self.dim)
        largest = values[0].item() if len(values) else 0.0
        smallest = values[k - 1].item() if k else 0.0
        dropped = values[k].item() if k < len(values) else 0.0
        gap = smallest / dropped if k and dropped > 0 else None
        info = self._spectrum(k, relative, largest, smallest, gap, solver)
        return Whitening(info, basis=basis[:, :k])

    def eigen(self) -> Eigen:
        """The eigendecomposition, of the ``n x n`` products of the rows where there are fewer of them than columns."""
        if self._eigen is None:
            if self.thin:
                rows = _finite(self.moment.design(self.augmented).to(self.device))
                values, vectors, solver = eigh(rows @ rows.T)
                m = _above_rounding(values, self.dim)
                # If v is an eigenvector of X X^T with value l, then X^T v / sqrt(l) is the unit one of X^T X.
                basis = rows.T @ (vectors[:, :m] / values[:m])
            else:
                values, vectors, solver = eigh(self.matrix)
                m = _above_rounding(values, self.dim)
                basis = vectors[:, :m] * values[:m].rsqrt()
            self._eigen = Eigen(values, basis, solver)
        return self._eigen

    def pinv(self, white: Whitening, dtype: torch.dtype = torch.float64) -> Tensor:
        """``S^+ = B B^T`` under the cut of ``white``, ``[D, D]``; computed in float64 and kept in ``dtype``."""
        key = white.info.rank, dtype
        if self._pinv is None or self._pinv[0] != key:
            self._pinv = key, white.pinv().to(dtype)
            self._lower = None  # of use to other estimators only
        return self._pinv[1]

    def lower(self) -> Tensor:
        """C with ``S = C C^T``, which `whiten` has found to exist; kept until there is a dense inverse."""
        if self._lower is None:
            self._lower = torch.linalg.cholesky(self.matrix)
        return self._lower

    def divide(self, white: Whitening, rows: Tensor) -> Tensor:
        """``X S^+`` under the cut of ``white``, ``[n, D] -> [n, D]``, in the dtype of X; the dense inverse is made
        where all users together bring many rows.
        """
        with full_precision(rows.device):
            if len(rows) * self._users < self.dim:
                return white.divide(rows)
            return matmul(rows, self.pinv(white, rows.dtype))

    def ridge(self, lam: float) -> Tensor:
        """``(S + lam I)^-1``, ``[D, D]``."""
        if self._ridge is None or self._ridge[0] != lam:
            matrix = self.matrix
            matrix.diagonal().add_(lam)
            lower, info = torch.linalg.cholesky_ex(matrix)
            # A pivot that is zero but for rounding can come out positive, and the inverse would be noise.
            least = self.dim * EPS64 * matrix.diagonal().max()
            if info.item() != 0 or lower.diagonal().min().square() <= least:
                raise _too_little(lam)
            self._ridge = lam, torch.cholesky_inverse(lower)
        return self._ridge[1]

    def damped(self, rows: Tensor, lam: float) -> Tensor:
        """``X (S + lam I)^-1`` for ``X [n, D]``, without a ``D x D`` matrix where S has few rows."""
        if not self.thin:
            return rows @ self.ridge(lam)
        values, basis, _ = self.eigen()
        if len(values) and lam <= self.dim * EPS64 * values[0].item():
            raise _too_little(lam)
        # With U = B sqrt(l): 1 / lam outside the span of U, 1 / (l + lam) inside.
        kept = values[: basis.shape[1]]
        inside = kept * (1 / (kept + lam) - 1 / lam)
        return rows @ basis * inside @ basis.T + rows / lam

    def _without_eigen(self, relative: float) -> bool:
        """Whether it is certain that every eigenvalue exceeds ``relative * lambda_max``; leaves the factor behind."""
        if self.moment.count < self.dim:
            return False  # the rank is at most n
        if relative >= self._unsure_from:
            return False
        if relative <= self._full_rank_to:
            return True
        matrix = self.matrix
        above = min(torch.linalg.vector_norm(matrix, 1, dim=0).max().item(), torch.linalg.matrix_norm(matrix).item())
        if self._extremes is None:
            lower, info = torch.linalg.cholesky_ex(matrix)
            # The smallest eigenvalue is no larger than the smallest pivot, and Lanczos cannot divide by rounding.
            if info.item() != 0 or lower.diagonal().min().square() <= relative * matrix.diagonal().max():
                self._unsure_from = relative
                return False
            largest = _extreme(lambda columns: (columns.T @ matrix).T, matrix)  # so many columns: faster as rows
            inverse = _extreme(lambda columns: _solve(lower, columns), matrix)
            self._lower, self._extremes = lower, (largest, 1 / inverse)
        largest, smallest = self._extremes
        above = min(above, _SLACK * largest)
        if smallest <= _SLACK * relative * above:
            matrix.diagonal().sub_(relative * above)
            if torch.linalg.cholesky_ex(matrix).info.item() != 0:
                self._unsure_from = relative
                return False
        self._full_rank_to = relative
        return True

    def _spectrum(
        self, rank: int, rtol: float | None, largest: float, smallest: float, gap: float | None, solver: str
    ) -> Spectrum:
        ulp = EPS64
        if self.moment.product == torch.float32:
            ulp = EPS32 * (1 + self._removed / largest if largest > 0 else 1)
        return Spectrum(self.dim, rank, rtol, largest, smallest, gap, solver, _NOISE_ULPS * ulp)


class Whitening:
    """B under one cut, as products, each in the dtype of the rows it is given. Held in float64 as ``basis [D, k]``, or
    implicitly as ``C^{-T}`` for a Cholesky factor C, which is asked for each time.
    """

    def __init__(
        self, info: Spectrum, *, basis: Tensor | None = None, lower: Callable[[], Tensor] | None = None
    ) -> None:
        self.info = info
        self._basis = basis
        self._lower = lower

    def project(self, rows: Tensor) -> Tensor:
        """``X B``: ``[n, D] -> [n, k]``."""
        if self._basis is not None:
            return rows @ self._basis.to(rows.dtype)
        assert self._lower is not None
        return torch.linalg.solve_triangular(self._lower().to(rows.dtype), rows.T, upper=False).T

    def back(self, rows: Tensor) -> Tensor:
        """``Y B^T``: ``[n, k] -> [n, D]``."""
        if self._basis is not None:
            return rows @ self._basis.T.to(rows.dtype)
        assert self._lower is not None
        return torch.linalg.solve_triangular(self._lower().T.to(rows.dtype), rows.T, upper=True).T

    def divide(self, rows: Tensor) -> Tensor:
        """``X S^+``: ``[n, D] -> [n, D]``."""
        if self._lower is not None:
            return torch.cholesky_solve(rows.T, self._lower().to(rows.dtype)).T
        return self.back(self.project(rows))

    def share(self, square: Tensor) -> Tensor:
        """``R = B^T S_c B``: the share of each kept direction that the concept owns, symmetric ``[k, k]``."""
        share = self.project(self.project(square).T)
        return (share + share.T) / 2

    def sandwich(self, inner: Tensor) -> Tensor:
        """``B G B^T`` for a symmetric G: ``[k, k] -> [D, D]``."""
        return self.back(self.back(inner).T)

    def pinv(self) -> Tensor:
        """``S^+ = B B^T``, ``[D, D]``. Built at each call: `Factor.pinv` keeps it."""
        if self._basis is not None:
            return self._basis @ self._basis.T
        assert self._lower is not None
        return torch.cholesky_inverse(self._lower())


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor, str]:
    """Eigenvalues (descending), eigenvectors and the solver of a symmetric positive semi-definite float64 matrix.

    The device's solver first, then the host's (float64 ``eigh`` of a large low-rank matrix can fail on a GPU), then the
    singular values, which for such a matrix are the same numbers from an algorithm that fails on other inputs.
    """
    for device in dict.fromkeys([matrix.device, torch.device("cpu")]):
        try:
            values, vectors = torch.linalg.eigh(matrix.to(device))
        except torch.linalg.LinAlgError:
            continue
        return values.flip(0).to(matrix.device), vectors.flip(1).to(matrix.device), "eigh"
    vectors, values, _ = torch.linalg.svd(matrix.cpu())
    return values.to(matrix.device), vectors.to(matrix.device), "svd"


def _above_rounding(values: Tensor, dim: int) -> int:
    """How many of the descending eigenvalues of a matrix of size ``dim`` are more than its rounding."""
    return int((values > dim * EPS64 * values[0]).sum()) if len(values) and values[0] > 0 else 0


def _finite(tensor: Tensor) -> Tensor:
    if not all_finite(tensor):
        raise SolveError("Expected a finite moment, got nan or inf. Was the model's input or an activation not finite?")
    return tensor


def _too_little(lam: float) -> SolveError:
    return SolveError(
        f"Expected S + lam I to be positive definite, got lam = {lam:g}, which is below the rounding noise of S. "
        "Raise lam, or use Projection, whose cut treats small eigenvalues as zero."
    )


def _extreme(apply: Callable[[Tensor], Tensor], like: Tensor) -> float:
    """The largest eigenvalue of a symmetric positive definite operator, by block Lanczos: never above it, and close.

    From one random vector, k steps find less than a share ``1 - e`` of it with a chance below
    ``1.65 sqrt(D) exp(-sqrt(e) (2 k - 1))`` (Kuczynski and Wozniakowski 1992). A block finds no less than the best of
    its vectors, and they are independent.

    Args:
        apply: the operator on columns ``[D, m]``.
        like: a square matrix whose size, dtype and device it has.
    """
    dim = like.shape[0]
    if dim <= _STEPS * _WIDTH:
        return torch.linalg.eigvalsh(_symmetric(apply(torch.eye(dim, dtype=like.dtype, device=like.device))))[-1].item()
    start = torch.randn(dim, _WIDTH, generator=torch.Generator().manual_seed(0), dtype=like.dtype)
    basis = torch.linalg.qr(start.to(like.device)).Q
    fresh = images = apply(basis)
    for _ in range(_STEPS - 1):
        fresh, sizes, _ = torch.linalg.svd(fresh - basis @ (basis.T @ fresh), full_matrices=False)
        fresh = fresh[:, sizes > dim * EPS64 * images.norm()]  # what is left of the others is rounding
        # Once more: dividing by a small size has magnified what the first time left.
        fresh = torch.linalg.qr(fresh - basis @ (basis.T @ fresh)).Q
        basis = torch.cat([basis, fresh], dim=1)
        fresh = apply(fresh)
        images = torch.cat([images, fresh], dim=1)
    return torch.linalg.eigvalsh(_symmetric(basis.T @ images))[-1].item()


def _solve(lower: Tensor, columns: Tensor) -> Tensor:
    """``S^-1 X`` from a Cholesky factor, for a few columns: in half the time of `torch.cholesky_solve`."""
    half = torch.linalg.solve_triangular(lower, columns, upper=False)
    return torch.linalg.solve_triangular(lower.mT, half, upper=True)


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2
