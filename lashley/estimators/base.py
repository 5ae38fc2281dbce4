"""What every estimator is given, and what it gives back.

An estimator builds an operator ``P`` on a layer's input from moments alone; the engram is ``E = W P``. It never sees a
weight, so one operator serves every layer that reads the site.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lashley.errors import SolveError, StoreError, nearest
from lashley.kernels import full_precision, matmul, missing
from lashley.moments import Moment, pool
from lashley.spectrum import Cut, Factor, Spectrum

__all__ = ["DiagonalOperator", "Estimator", "OffsetEstimator", "Operator", "SiteMoments", "Solution", "check_cut"]


@dataclass(frozen=True)
class SiteMoments:
    """The moments of one matrix at one site.

    Attributes:
        target: of the concepts whose engram is asked for.
        reference: the factorised moment of the rows that make S.
        contained: whether every target row is also a reference row; then the eigenvalues of ``S_c S^+`` lie in [0, 1].
        names: the target's concepts.
        concepts: of every recorded concept.
        retained: the reference's concepts that are not the target's.
        exclusive: whether every row belongs to exactly one concept.
        weights: the dtype of the weights that the operator is for: of what an estimator need be no more precise.
    """

    target: Moment
    reference: Factor
    contained: bool = True
    names: tuple[str, ...] = ()
    concepts: Mapping[str, Moment] = field(default_factory=dict)
    retained: tuple[str, ...] = ()
    exclusive: bool = True
    weights: torch.dtype = torch.float64

    @property
    def augmented(self) -> bool:
        """Whether the rows have a 1 appended, so that the bias is a column of the weight."""
        return self.reference.augmented

    @property
    def dim(self) -> int:
        """D, one more when augmented."""
        return self.reference.dim

    @property
    def mean(self) -> Tensor:
        """Of the reference's rows, ``[D]``."""
        moment = self.reference.moment
        return moment.sum.to(self.reference.device) / max(moment.count, 1)

    @property
    def means(self) -> dict[str, Tensor]:
        """Of the retained concepts that have rows, ``[D]`` each."""
        kept = {name: self.concepts[name] for name in self.retained}
        return {name: m.sum.to(self.reference.device) / m.count for name, m in kept.items() if m.count}

    @property
    def rest(self) -> Moment:
        """Of the reference's rows that are not the target's."""
        if self.exclusive:
            rest = pool((self.concepts[name] for name in self.retained), self.target.dim)
            return rest.to(self.reference.device)
        if not self.contained:
            raise SolveError(
                "Expected the target inside the reference, to know what the rest is; got overlapping concepts of which "
                "only some are in the reference. Leave reference= out, or record the target's union as one concept."
            )
        return self.reference.moment.to(self.reference.device).without(self.target)


@dataclass(frozen=True)
class Solution:
    """How an operator was solved; travels with the engram.

    Attributes:
        dim: D, size of the matrix solved.
        rank: how many eigenvalues were kept; for an estimator without a cut, how many directions it works in.
        rtol: the cut as a share of the largest eigenvalue; None for a cut by rank or energy, or no cut at all.
        condition: largest / smallest kept eigenvalue; None when none was kept, or for an estimator without a cut.
        eigengap: smallest kept / largest dropped eigenvalue; None when nothing above zero was dropped.
        solver: "cholesky", "eigh" or "svd"; for an estimator without a cut, its own name.
        near_noise: whether the cut lies within ten times of the products' rounding noise.
        target_rows, reference_rows: row counts.
        clipped: by how much the largest share exceeded 1 before it was clipped; 0 when the reference has the target, or
            when nothing is clipped (the paper's formula, ridge).
        gate: R^2 of the gate, for an estimator that has one (`MixtureShift`).
    """

    dim: int
    rank: int
    rtol: float | None
    condition: float | None
    eigengap: float | None
    solver: str
    near_noise: bool
    target_rows: int
    reference_rows: int
    clipped: float = 0.0
    gate: float | None = None

    @classmethod
    def cut(cls, info: Spectrum, site: SiteMoments, *, clipped: float = 0.0, gate: float | None = None) -> Solution:
        """Of an estimator with a spectral cut."""
        return cls(
            dim=info.dim,
            rank=info.rank,
            rtol=info.rtol,
            condition=info.condition,
            eigengap=info.eigengap,
            solver=info.solver,
            near_noise=info.near_noise,
            target_rows=site.target.count,
            reference_rows=site.reference.moment.count,
            clipped=clipped,
            gate=gate,
        )

    @classmethod
    def plain(cls, name: str, site: SiteMoments, rank: int | None = None, *, clipped: float = 0.0) -> Solution:
        """Of an estimator without one."""
        return cls(
            dim=site.dim,
            rank=site.dim if rank is None else rank,
            rtol=None,
            condition=None,
            eigengap=None,
            solver=name,
            near_noise=False,
            target_rows=site.target.count,
            reference_rows=site.reference.moment.count,
            clipped=clipped,
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Solution:
        """The inverse of `to_json`."""
        return cls(**{f.name: values[f.name] for f in fields(cls)})

    def to_json(self) -> dict[str, Any]:
        """The values, for manifests."""
        return asdict(self)


@dataclass(frozen=True)
class Operator:
    """``P = left @ right``, or ``left @ right S^+`` with the division still to be done. What is cheapest to multiply
    first depends on how many outputs there are: `planned` decides.

    Attributes:
        left: ``[D, r]``.  right: ``[r, D]``, or None for the identity.
        low_rank: r is below D: the number of rows of a thin target, or of the directions of a rank-one method.
        solution: how it was solved.
        divide: ``X -> X S^+`` for rows X, where that is to be done last.
        precision: of the products with the weights and of the division, where the weights have it too: float32 where
            the moments were multiplied in float32 and the cut lies above their noise. Then these products err about
            as much as the moments did. The rest is float64, but for the product of float32 weights with a finished P:
            dividing by S magnifies what was rounded before, and nothing is divided after that.
    """

    left: Tensor
    right: Tensor | None
    low_rank: bool
    solution: Solution
    divide: Callable[[Tensor], Tensor] | None = None
    precision: torch.dtype = torch.float64

    def planned(self, outputs: int) -> Operator:
        """The same operator for weights of so many outputs in all: what is cheaper before the product with the weights
        is done now.
        """
        if self.low_rank and self.rank > outputs:
            return self._evened()  # no layer has its engram as two factors
        if self.low_rank:
            return self if self.divide is None else replace(self, right=self._divided(), divide=None)
        if self.dim * (self.rank + outputs) > 2 * self.rank * outputs:
            return self
        # Nothing is divided any more, so that the last product may round like the weights it is for.
        return replace(self, left=self.dense(), right=None, divide=None, precision=torch.float32)

    def apply(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The engram of ``weight [O, D]`` as two factors ``[O, r], [r, D]`` whose product it is."""
        return self._first(weight), self._divided()

    def engram(self, weight: Tensor) -> Tensor:
        """The engram of ``weight [O, D]``."""
        product = self._first(weight)
        product = product if self.right is None else _product(product, self.right, product.dtype)
        return product if self.divide is None else self.divide(product)

    def dense(self) -> Tensor:
        """P itself, ``[D, D]``."""
        product = self.left if self.right is None else _product(self.left, self.right, torch.float64)
        return product.to(self.precision) if self.divide is None else self.divide(product.to(self.precision))

    @property
    def rank(self) -> int:
        """r."""
        return self.left.shape[1]

    @property
    def dim(self) -> int:
        """D, one more when augmented."""
        return self.left.shape[0]

    @property
    def device(self) -> torch.device:
        return self.left.device

    def _evened(self) -> Operator:
        """The same with zeros between its factors, for products of a size that comes again."""
        left, right = self.left, self.right
        if right is None or left.dtype != right.dtype or not (odd := missing(right)):
            return self
        one = left.data_ptr() == right.data_ptr() and left.stride() == right.T.stride()  # a thin target's rows, twice
        right = torch.cat([right, right.new_zeros(odd, right.shape[1])])
        return replace(self, left=right.T if one else torch.cat([left, left.new_zeros(len(left), odd)], 1), right=right)

    def _divided(self) -> Tensor:
        """The right factor of a product of two."""
        right = torch.eye(self.dim, dtype=torch.float64, device=self.device) if self.right is None else self.right
        return right if self.divide is None else self.divide(right.to(self.precision))

    def _first(self, weight: Tensor) -> Tensor:
        """``W left``."""
        low = weight.dtype == self.precision == torch.float32
        return _product(weight, self.left, torch.float32 if low else torch.float64)


def _product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    with full_precision(left.device):
        return matmul(left.to(dtype), right.to(dtype))


@dataclass(frozen=True)
class DiagonalOperator:
    """``P = diag(gain)``, where the moments are diagonal.

    Attributes:
        gain: ``[D]``.
        solution: how it was solved.
    """

    gain: Tensor
    solution: Solution
    low_rank: ClassVar[bool] = False

    def planned(self, outputs: int) -> DiagonalOperator:
        """The operator itself: there is nothing to choose."""
        return self

    def engram(self, weight: Tensor) -> Tensor:
        """The engram of ``weight [O, D]``."""
        return weight * self.gain

    @property
    def dim(self) -> int:
        return len(self.gain)

    @property
    def device(self) -> torch.device:
        return self.gain.device


class Estimator(ABC):
    """Moments in, operator out. A frozen dataclass of settings: equal settings are equal estimators."""

    _known: ClassVar[dict[str, type[Estimator]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Estimator._known[cls.__name__] = cls

    @abstractmethod
    def operator(self, site: SiteMoments) -> Operator:
        """The operator P on the input of this site."""

    def diagonal(self, site: SiteMoments) -> DiagonalOperator:
        """The operator where the moments are diagonal: each column of the input is a direction of its own."""
        raise SolveError(
            f"Expected an estimator with a form for embeddings, got {type(self).__name__}. Projection and Ridge "
            "have one; or leave the embedding out with layers=."
        )

    def check(self, solutions: Mapping[str, Sequence[Solution]]) -> None:  # noqa: B027
        """Refuse an engram after all of its layers were solved; by default none is.

        Args:
            solutions: ``{layer: how each of its matrices was solved}``.
        """

    def to_json(self) -> dict[str, Any]:
        """Name and settings, for manifests."""
        return {"name": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Estimator:
        """The inverse of `to_json`.

        Raises:
            StoreError: no estimator of that name; one of your own is known once its module was imported.
        """
        settings = dict(values)
        name = settings.pop("name")
        if name not in Estimator._known:
            raise StoreError(
                f"Expected a known estimator, got {name!r}. {nearest(name, Estimator._known)} "
                "If it is your own class, import its module before loading."
            )
        if "cut" in settings:
            settings["cut"] = Cut(**settings["cut"])
        return Estimator._known[name](**settings)


@dataclass(frozen=True)
class OffsetEstimator(Estimator):
    """An estimator whose edit moves the layer's output by a constant, so that it needs a bias to put it in.

    Attributes:
        missing_bias: what to do where a layer has none. "refuse" it when the engram is solved; "add" a bias to the
            module when the edit is made (the state dict gets a key, so the edited weights load into a network with that
            bias only); or "fold" the constant into the running mean of the BatchNorm that alone reads the layer's
            output.
    """

    missing_bias: str = field(default="refuse", kw_only=True)

    def __post_init__(self) -> None:
        if self.missing_bias not in ("refuse", "add", "fold"):
            raise SolveError(f'Expected missing_bias to be "refuse", "add" or "fold", got {self.missing_bias!r}.')


def check_cut(cut: object) -> None:
    """Refuse what is not a `Cut`."""
    if not isinstance(cut, Cut):
        raise SolveError(f"Expected cut to be a lashley.Cut, got {cut!r}. Write Cut(rtol=...) for a tolerance.")
