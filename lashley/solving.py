"""From operators to the engram of one layer, and what a reader of the solution should be warned of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from lashley.engram import Delta, check_finite
from lashley.estimators import DiagonalOperator, Operator, SiteMoments, Solution
from lashley.layers import Layer
from lashley.moments import Moment, wide
from lashley.parameters import Parameters, matrices_of
from lashley.products import Product
from lashley.spectrum import Cut, Factor

__all__ = ["Multiplied", "cautions", "combined", "delta_of", "some"]

_ENOUGH_ROWS = 2  # rows per column below which every share is near 0 or 1 and specificity looks perfect by itself


@dataclass(frozen=True)
class Multiplied(Operator):
    """An operator that was applied before: ``left`` is ``W~ S~_c``, and only the division is left."""

    @classmethod
    def of(cls, product: Product, factor: Factor, cut: Cut, matrix: Tensor, outputs: slice) -> Multiplied:
        """From the product of a site, for the layer that has these of its outputs.

        Args:
            matrix: ``[O, D]`` or ``[O, D + 1]`` of that layer.
        """
        white = factor.whiten(cut)
        left = product.augmented(matrix, outputs) if factor.augmented else product.matrix[outputs]
        solution = Solution.cut(white.info, SiteMoments(Moment.zero(product.sum.shape[0]), factor))
        solution = replace(solution, target_rows=product.count)
        return cls(left, None, False, solution, partial(factor.divide, white))

    def engram(self, weight: Tensor) -> Tensor:
        assert self.divide is not None
        return self.divide(self.left)

    @property
    def dim(self) -> int:
        return self.left.shape[1]


def delta_of(
    layer: Layer,
    now: Parameters,
    old: Parameters | None,
    operators: Sequence[Operator | DiagonalOperator],
    base: str,
    base_norm: float,
) -> Delta:
    """The engram in one layer: ``E = W~ P`` for each of its matrices, back in the module's shape.

    The bias is absorbed when the operators are one column larger than the layer.

    Args:
        old: of the model whose weights are subtracted first; None: nothing is.
        base, base_norm: fingerprint and Frobenius norm of the weight.
    """
    first = operators[0]
    place, device = first.device, now.weight.device
    keep = torch.float64 if now.weight.dtype == torch.float64 else torch.float32
    columns, augmented = layer.dim, first.dim > layer.dim
    matrices = matrices_of(layer, now, augmented, place, keep if old is None else torch.float64)
    if old is not None:
        matrices = (matrices - matrices_of(layer, old, augmented, place, torch.float64)).to(keep)
    bias, weight, factors = None, None, None
    if isinstance(first, Operator) and first.low_rank and layer.matrices == 1 and first.rank < layer.out:
        a, b = first.apply(matrices[0])
        factors = a.to(device, keep), b[:, :columns].to(device, keep).contiguous()
        bias = (wide(a) @ wide(b[:, columns])).to(device, keep) if augmented else None
    else:
        parts = [operator.engram(matrix) for operator, matrix in zip(operators, matrices, strict=True)]
        dense = torch.stack(parts) if len(parts) > 1 else parts[0].unsqueeze(0)
        weight = layer.weight(dense[..., :columns]).to(device, keep).contiguous()
        bias = dense[..., columns].reshape(-1).to(device, keep) if augmented else None
    check_finite(layer.name, *(t for t in (weight, bias, *(factors or ())) if t is not None))
    return Delta(
        layer,
        weight=weight,
        factors=factors,
        bias=bias,
        base=base,
        base_norm=base_norm,
        solutions=tuple(operator.solution for operator in operators),
    )


def combined(solutions: Sequence[Solution]) -> Solution:
    """How the parts of a weighted sum were solved: against one reference, so that only the target differs."""
    rows, clipped = sum(s.target_rows for s in solutions), max(s.clipped for s in solutions)
    gate = min((s.gate for s in solutions if s.gate is not None), default=None)
    return replace(solutions[0], target_rows=rows, clipped=clipped, gate=gate)


def cautions(solved: Mapping[str, Sequence[Solution]], outside: Sequence[str]) -> Iterator[str]:
    """What can be said against how layers were solved, a sentence or two each.

    Args:
        solved: ``{layer: a solution per matrix}``.
        outside: concepts that were asked for and are not in the reference.
    """
    few = [n for n, (s, *_) in solved.items() if s.solver != "diagonal" and s.reference_rows < _ENOUGH_ROWS * s.dim]
    if few:
        worst = min((solved[n][0] for n in few), key=lambda s: s.reference_rows / s.dim)
        yield (
            f"Fewer than {_ENOUGH_ROWS} rows per column in {some(few)} (fewest: {worst.reference_rows} rows for "
            f"{worst.dim} columns). Every direction then looks owned by one concept, and specificity looks perfect "
            "on the recorded data only. Record more data, or judge the edit on other data."
        )
    if near := [n for n, solutions in solved.items() if any(s.near_noise for s in solutions)]:
        yield (
            f"In {some(near)} the spectral cut lies within ten times of the rounding noise of float32 products. "
            "Record with dtype=torch.float64, or cut higher (a larger rtol)."
        )
    if outside:
        clipped = max((s.clipped for solutions in solved.values() for s in solutions), default=0.0)
        yield (
            f"The reference does not contain {list(outside)}: a share of a direction may exceed 1"
            + (f" (by up to {clipped:.3g}, clipped)" if clipped else "")
            + ". Add the target to reference=, unless you mean it."
        )


def some(layers: Sequence[str]) -> str:
    """The first three of many layers, for a message."""
    shown = ", ".join(repr(n) for n in layers[:3])
    return f"layers {shown} and {len(layers) - 3} more" if len(layers) > 3 else f"layer{'s'[: len(layers) > 1]} {shown}"
