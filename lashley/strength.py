"""How strong an edit is where. Each of these returns a function from an engram to ``{layer: alpha}``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from lashley.engram import Delta, Engram, widest
from lashley.errors import EditError
from lashley.geometry import effective_rank as _effective_rank

__all__ = ["Strength", "effective_rank", "uniform", "weight_norm"]

Strength = Callable[[Engram], Mapping[str, float]]


def uniform(alpha: float = 1.0) -> Strength:
    """The same strength in every layer."""
    return lambda engram: dict.fromkeys(engram, alpha)


def weight_norm(alpha: float = 1.0) -> Strength:
    """Proportional to ``||E||_F / ||W||_F``, the largest ratio getting ``alpha`` (paper section 7 and E.3).

    The ratios depend on the spectral cut; weights only, without biases.

    Raises:
        EditError: when called with a sum of engrams that were solved for different weights, which has no such ratio.
    """

    def strength(engram: Engram) -> Mapping[str, float]:
        ratios = engram.weight_norms()
        if unknown := [name for name, ratio in ratios.items() if math.isnan(ratio)]:
            raise EditError(
                f"Expected an engram of one network, got a sum over different weights in layer {unknown[0]!r}, where "
                "||E|| / ||W|| is not defined. Give {layer: alpha} yourself, or use effective_rank()."
            )
        return _scaled(ratios, alpha)

    return strength


def effective_rank(alpha: float = 1.0) -> Strength:
    """Proportional to the share of its directions that the engram uses, the largest share getting ``alpha``.

    The share is the effective rank of the delta (`lashley.geometry.effective_rank`) over the most it could have; a
    convolution with groups takes the mean over them.
    """
    return lambda engram: _scaled({name: _share(delta) for name, delta in engram.items()}, alpha)


def _share(delta: Delta) -> float:
    matrices = [_core(delta)] if delta.factors is not None else delta.layer.matrix(delta.weight)
    ranks = [_effective_rank(matrix) for matrix in matrices]
    return sum(ranks) / len(ranks) / min(delta.layer.out, delta.layer.dim)


def _core(delta: Delta) -> torch.Tensor:
    """A small matrix with the singular values of ``A B``: what the orthogonal parts of both factors leave."""
    assert delta.factors is not None
    a, b = (factor.to(widest(factor.device)) for factor in delta.factors)
    return torch.linalg.qr(a, mode="r").R @ torch.linalg.qr(b.T, mode="r").R.T


def _scaled(values: Mapping[str, float], alpha: float) -> dict[str, float]:
    largest = max(values.values(), default=0.0)
    return {name: alpha * value / largest if largest > 0 else 0.0 for name, value in values.items()}
