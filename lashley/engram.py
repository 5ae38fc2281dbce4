"""The engram: one delta per layer, an algebra of such deltas, and their file.

An engram owns its tensors: it never looks at the model or the recording again.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from lashley.errors import EditError, SelectionError, SolveError, StoreError, nearest
from lashley.estimators import Estimator, Solution
from lashley.layers import Layer
from lashley.moments import all_finite
from lashley.provenance import digest, environment
from lashley.select import Patterns, match_names
from lashley.store import Reader, writing

__all__ = ["Delta", "Engram", "check_finite", "widest"]

_KIND, _VERSION = "engram", 1


class Delta:
    """The engram in one layer.

    Attributes:
        layer: the layer's description.
        bias: the delta of the bias, in the bias's shape, or None where none is asked for. Also for a layer without one,
            when the estimator moves its output by a constant: an edit then adds a bias, unless there is a ``fold``.
        fold: the BatchNorm whose running mean takes the constant instead of a bias; "" where none does.
        factors: ``(A [O, r], B [r, D])`` with ``A @ B`` the delta of the layer's matrix, when the target had fewer
            rows than columns and than outputs; else None. As a LoRA adapter: ``lora_B = A``, ``lora_A = B``.
        base: fingerprint of the weight the engram was solved for; "" for a sum over different weights.
        base_norm: ``||W||_F`` of that weight; nan for such a sum.
        solutions: how each matrix was solved, or () for a sum of engrams.
    """

    __slots__ = ("_dense", "base", "base_norm", "bias", "factors", "fold", "layer", "solutions")

    def __init__(
        self,
        layer: Layer,
        *,
        weight: Tensor | None = None,
        factors: tuple[Tensor, Tensor] | None = None,
        bias: Tensor | None = None,
        fold: str = "",
        base: str = "",
        base_norm: float = math.nan,
        solutions: tuple[Solution, ...] = (),
    ) -> None:
        if (weight is None) == (factors is None):
            raise EditError("A delta has a weight or factors: expected one of them, got both or neither.")
        self.layer = layer
        self._dense = weight
        self.factors = factors
        self.bias = bias
        self.fold = fold
        self.base = base
        self.base_norm = base_norm
        self.solutions = solutions

    @property
    def weight(self) -> Tensor:
        """The delta of the weight, in the module's own shape. Multiplied out at each call when held as factors."""
        if self._dense is not None:
            return self._dense
        assert self.factors is not None
        a, b = self.factors
        wide = widest(a.device)  # and out of reach of autocast and TF32
        return self.layer.weight((a.to(wide) @ b.to(wide)).to(a.dtype).unsqueeze(0))

    @property
    def touches(self) -> tuple[str, ...]:
        """Which tensors of the layer an edit changes: "weight", and "bias" unless none is asked for or it is folded."""
        return ("weight",) if self.bias is None or self.fold else ("weight", "bias")

    @property
    def norm(self) -> float:
        """``||E||_F`` of the weight's delta, without the bias."""
        if self.factors is None:
            return torch.linalg.vector_norm(self.weight, dtype=widest(self.weight.device)).item()
        a, b = (factor.to(widest(factor.device)) for factor in self.factors)
        return math.sqrt(max(0.0, ((a.T @ a) * (b @ b.T)).sum().item()))  # ||A B||^2 = tr(A'A B B')

    def to(self, device: torch.device | str) -> Delta:
        """The delta with its tensors on ``device``."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device)

        return self._map(move, move)

    def scaled(self, factor: float) -> Delta:
        """``factor`` times the delta."""
        return self._map(lambda tensor: tensor * factor, lambda tensor: tensor)

    def _map(self, f: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor]) -> Delta:
        """``f`` of every tensor, but ``second`` of the second factor."""
        return Delta(
            self.layer,
            weight=None if self._dense is None else f(self._dense),
            factors=None if self.factors is None else (f(self.factors[0]), second(self.factors[1])),
            bias=None if self.bias is None else f(self.bias),
            fold=self.fold,
            base=self.base,
            base_norm=self.base_norm,
            solutions=self.solutions,
        )

    def fits(self, layer: Layer) -> bool:
        """Whether ``layer`` reads its weight the way this delta's layer does."""
        ours = self.layer
        return type(ours) is type(layer) and (ours.shape, ours.matrices) == (layer.shape, layer.matrices)

    def plus(self, other: Delta) -> Delta:
        """The sum of two deltas of one layer; of factors, as long as that is smaller, else dense.

        Raises:
            EditError: the layers are of different types or shapes, or what one adds to a bias the other folds.
        """
        if not self.fits(other.layer):
            raise EditError(
                f"Expected layer {self.layer.name!r} to be the same in both engrams, got {self.layer.type} "
                f"{list(self.layer.shape)} and {other.layer.type} {list(other.layer.shape)}. They are of different "
                "models; use select() to leave the layer out."
            )
        biases = [b for b in (self.bias, other.bias) if b is not None]
        folds = {d.fold for d in (self, other) if d.bias is not None}
        if len(folds) > 1:
            raise EditError(
                f"Expected the offset of layer {self.layer.name!r} to go to one place in both engrams, got "
                + " and ".join(f"the running mean of {fold!r}" if fold else "a bias" for fold in sorted(folds))
                + ". Solve both with the same missing_bias."
            )
        same = self.base == other.base
        layer = max(self.layer, other.layer, key=lambda layer: layer.bias)  # a bias that was absorbed must be there
        common: dict[str, Any] = {
            "bias": biases[0] + biases[1] if len(biases) == 2 else biases[0] if biases else None,
            "fold": "".join(folds),
            "base": self.base if same else "",
            "base_norm": self.base_norm if same else math.nan,
            "solutions": self.solutions if self.solutions == other.solutions else (),
        }
        if self.factors is not None and other.factors is not None:
            rank = self.factors[0].shape[1] + other.factors[0].shape[1]
            if rank < min(self.layer.out, self.layer.dim):  # beyond that the dense matrix is smaller
                a = torch.cat([self.factors[0], other.factors[0]], dim=1)
                b = torch.cat([self.factors[1], other.factors[1]], dim=0)
                return Delta(layer, factors=(a, b), **common)
        return Delta(layer, weight=self.weight + other.weight, **common)

    def __repr__(self) -> str:
        rank = f", rank {self.factors[0].shape[1]}" if self.factors is not None else ""
        bias = f", folded into {self.fold!r}" if self.fold else ", with bias" if self.bias is not None else ""
        return f"Delta({self.layer.name!r}, {list(self.layer.shape)}{rank}{bias})"


class Engram(Mapping[str, Delta]):
    """What the concepts are responsible for: ``{layer: Delta}`` in the model's order.

    ``a + b``, ``a - b``, ``-a``, ``0.5 * a`` and ``a / 2`` work layer by layer, and so does ``sum([a, b])``; a layer
    that only one of them has is taken as zero in the other.

    Attributes:
        concepts: ``{name: weight}``; a pooled list has the weight 1 for each.
        estimator: that made it, or None for a sum of engrams of different estimators.
        made_by: versions and machine (`lashley.provenance.environment`).
    """

    __array_ufunc__ = None  # NumPy's numbers leave the multiplication to us

    def __init__(
        self,
        deltas: Mapping[str, Delta],
        concepts: Mapping[str, float],
        estimator: Estimator | None,
        made_by: Mapping[str, Any] | None = None,
    ) -> None:
        self._deltas = dict(deltas)
        self.concepts = dict(concepts)
        self.estimator = estimator
        self.made_by = dict(made_by) if made_by is not None else environment()

    def __getitem__(self, layer: str) -> Delta:
        try:
            return self._deltas[layer]
        except KeyError:
            raise SelectionError(
                f"Expected a layer of this engram, got {layer!r}. {nearest(str(layer), self._deltas)}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._deltas)

    def __len__(self) -> int:
        return len(self._deltas)

    def __contains__(self, layer: object) -> bool:
        return layer in self._deltas

    def __repr__(self) -> str:
        concepts = ", ".join(f"{n!r}: {w:g}" for n, w in self.concepts.items())
        return f"Engram({{{concepts}}}, {len(self)} layers, {self.estimator or 'of several estimators'})"

    @property
    def base_fingerprint(self) -> str:
        """Fingerprint of the weights the engram was solved for; "" for a sum over different models."""
        bases = {name: delta.base for name, delta in self.items()}
        return digest(*sorted(bases.items())) if all(bases.values()) else ""

    def weight_norms(self) -> dict[str, float]:
        """``{layer: ||E||_F / ||W||_F}``, without biases (W-Norm, paper section 7).

        It moves several-fold with the spectral cut: never report it without ``engram.estimator``. Of a layer whose
        weight is all zeros it is 0, and of a sum over different weights nan.
        """
        return {name: delta.norm / delta.base_norm if delta.base_norm else 0.0 for name, delta in self.items()}

    def select(self, patterns: Patterns) -> Engram:
        """The engram in some layers only; patterns as in `lashley.record`'s ``target_modules``."""
        names = match_names(patterns, self._deltas, "select()")
        return self._with({name: self._deltas[name] for name in names})

    def to(self, device: torch.device | str) -> Engram:
        """The engram with its tensors on ``device``."""
        return self._with({name: delta.to(device) for name, delta in self.items()})

    def _with(self, deltas: Mapping[str, Delta]) -> Engram:
        return Engram(deltas, self.concepts, self.estimator, self.made_by)

    def __mul__(self, factor: float) -> Engram:
        if not isinstance(factor, Real) or isinstance(factor, bool):
            return NotImplemented
        factor = float(factor)
        if not math.isfinite(factor):
            raise EditError(f"Expected a finite factor, got {factor}.")
        scaled = {name: delta.scaled(factor) for name, delta in self.items()}
        return Engram(scaled, {n: w * factor for n, w in self.concepts.items()}, self.estimator, self.made_by)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Engram:
        if not isinstance(divisor, Real) or isinstance(divisor, bool):
            return NotImplemented
        if divisor == 0:
            raise EditError("Expected a divisor other than 0.")
        return self * (1 / float(divisor))

    def __neg__(self) -> Engram:
        return self * -1.0

    def __add__(self, other: Engram) -> Engram:
        if not isinstance(other, Engram):
            return NotImplemented
        deltas = dict(self._deltas)
        for name, delta in other.items():
            deltas[name] = deltas[name].plus(delta) if name in deltas else delta
        concepts = dict(self.concepts)
        for name, weight in other.concepts.items():
            concepts[name] = concepts.get(name, 0.0) + weight
        return Engram(deltas, concepts, self.estimator if self.estimator == other.estimator else None, self.made_by)

    def __radd__(self, other: int) -> Engram:
        return self if isinstance(other, int) and other == 0 else NotImplemented  # where sum() starts

    def __sub__(self, other: Engram) -> Engram:
        return self + -other if isinstance(other, Engram) else NotImplemented

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the engram to a folder, complete or not at all.

        Raises:
            StoreError: the folder has other files in it, or it could not be written; what was there is untouched.
        """
        tensors: dict[str, Tensor] = {}
        entries = []
        for number, (name, delta) in enumerate(self.items()):
            parts = {"weight": delta.weight} if delta.factors is None else dict(zip("AB", delta.factors, strict=True))
            if delta.bias is not None:
                parts["bias"] = delta.bias
            tensors |= {f"{number}.{part}": tensor for part, tensor in parts.items()}
            entries.append(
                {
                    "name": name,
                    "layer": delta.layer.to_json(),
                    "fold": delta.fold,
                    "base": delta.base,
                    "base_norm": delta.base_norm if math.isfinite(delta.base_norm) else None,
                    "solutions": [s.to_json() for s in delta.solutions],
                }
            )
        with writing(path) as folder:
            folder.tensors("engram.safetensors", tensors)
            folder.manifest(
                _KIND,
                _VERSION,
                {
                    "concepts": self.concepts,
                    "estimator": None if self.estimator is None else self.estimator.to_json(),
                    "layers": entries,
                    "made_by": self.made_by,
                },
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Engram:
        """Read an engram that `save` wrote; its tensors are on the CPU.

        Raises:
            StoreError: not an engram, damaged, or written by a newer version.
        """
        reader = Reader(path, _KIND, _VERSION)
        tensors = reader.tensors("engram.safetensors")
        deltas = {}
        for number, entry in enumerate(reader.manifest["layers"]):
            weight, a, b, bias = (tensors.get(f"{number}.{part}") for part in ("weight", "A", "B", "bias"))
            if weight is None and (a is None or b is None):
                raise StoreError(
                    f"Expected the delta of layer {entry['name']!r} in {path}, got none. Copy the folder again."
                )
            deltas[entry["name"]] = Delta(
                Layer.from_json(entry["layer"]),
                weight=weight,
                factors=(a, b) if a is not None and b is not None else None,
                bias=bias,
                fold=entry["fold"],
                base=entry["base"],
                base_norm=math.nan if entry["base_norm"] is None else entry["base_norm"],
                solutions=tuple(Solution.from_json(s) for s in entry["solutions"]),
            )
        made = reader.manifest["estimator"]
        estimator = None if made is None else Estimator.from_json(made)
        return cls(deltas, reader.manifest["concepts"], estimator, reader.manifest["made_by"])


def widest(device: torch.device) -> torch.dtype:
    """The widest floating point type a device has: float64, but for Apple's GPUs."""
    return torch.float32 if device.type == "mps" else torch.float64


def check_finite(name: str, *tensors: Tensor | None) -> None:
    """Refuse a delta with nan or inf before anyone can apply it."""
    if not all(all_finite(t) for t in tensors if t is not None):
        raise SolveError(
            f"Expected a finite engram in layer {name!r}, got nan or inf. Is its weight finite? If so, loosen the cut "
            "(a larger rtol)."
        )
