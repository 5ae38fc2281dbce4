"""What every estimator is given, and what it gives back.

An estimator builds an operator ``P`` on a layer's input from moments alone; the engram is ``E = W P``. It never sees a
weight, so one operator serves every layer that reads the site.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from lashley.errors import StoreError, nearest
from lashley.moments import Moment
from lashley.spectrum import Cut, Factor

__all__ = ["Estimator", "Operator", "SiteMoments", "Solution"]


@dataclass(frozen=True)
class SiteMoments:
    """The moments of one matrix at one site.

    Attributes:
        target: of the concepts whose engram is asked for.
        reference: the factorised moment of the rows that make S.
        contained: whether every target row is also a reference row; then the eigenvalues of ``S_c S^+`` lie in [0, 1].
    """

    target: Moment
    reference: Factor
    contained: bool = True

    @property
    def augmented(self) -> bool:
        """Whether the rows have a 1 appended, so that the bias is a column of the weight."""
        return self.reference.augmented


@dataclass(frozen=True)
class Solution:
    """How an operator was solved; travels with the engram.

    Attributes:
        dim: D, size of the matrix solved.
        rank: how many eigenvalues were kept.
        rtol: the cut as a share of the largest eigenvalue; None for a cut by rank or energy, or no cut at all.
        condition: largest / smallest kept eigenvalue; None when none was kept, or for an estimator without a cut.
        eigengap: smallest kept / largest dropped eigenvalue; None when nothing above zero was dropped.
        solver: "cholesky", "eigh", "svd" or "ridge".
        near_noise: whether the cut lies within ten times of the products' rounding noise.
        target_rows, reference_rows: row counts.
        clipped: by how much the largest share exceeded 1 before it was clipped; 0 when the reference has the target, or
            when nothing is clipped (the paper's formula, ridge).
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

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Solution:
        """The inverse of `to_json`."""
        return cls(**{f.name: values[f.name] for f in fields(cls)})

    def to_json(self) -> dict[str, Any]:
        """The values, for manifests."""
        return asdict(self)


@dataclass(frozen=True)
class Operator:
    """``P = left @ right``, kept as a product: ``(W left) right`` is cheaper than forming P where O is below D.

    Attributes:
        left: ``[D, r]``.  right: ``[r, D]``.
        low_rank: r is the number of rows of a thin target, and below D.
        solution: how it was solved.
    """

    left: Tensor
    right: Tensor
    low_rank: bool
    solution: Solution

    def apply(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The engram of ``weight [O, D]`` as two factors ``[O, r], [r, D]`` whose product it is."""
        return weight @ self.left, self.right

    def dense(self) -> Tensor:
        """P itself, ``[D, D]``."""
        return self.left @ self.right


class Estimator(ABC):
    """Moments in, operator out. A frozen dataclass of settings: equal settings are equal estimators."""

    _known: ClassVar[dict[str, type[Estimator]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Estimator._known[cls.__name__] = cls

    @abstractmethod
    def operator(self, site: SiteMoments) -> Operator:
        """The operator P on the input of this site."""

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
