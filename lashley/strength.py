"""How strong an edit is where. Each of these returns a function from an engram to ``{layer: alpha}``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lashley.engram import Engram
from lashley.geometry import effective_rank as _effective_rank

__all__ = ["Strength", "effective_rank", "uniform", "weight_norm"]

Strength = Callable[[Engram], Mapping[str, float]]


def uniform(alpha: float = 1.0) -> Strength:
    """The same strength in every layer."""
    return lambda engram: dict.fromkeys(engram, alpha)


def weight_norm(alpha: float = 1.0) -> Strength:
    """Proportional to ``||E||_F / ||W||_F``, the largest ratio getting ``alpha`` (paper section 7 and E.3).

    The ratios depend on the spectral cut; weights only, without biases.
    """
    return lambda engram: _scaled(engram.weight_norms(), alpha)


def effective_rank(alpha: float = 1.0) -> Strength:
    """Proportional to the share of its directions that the engram uses, the largest share getting ``alpha``.

    The share is the effective rank of the delta (`lashley.geometry.effective_rank`) over the most it could have; a
    convolution with groups takes the mean over them.
    """

    def strength(engram: Engram) -> Mapping[str, float]:
        shares = {}
        for name, delta in engram.items():
            matrices = delta.layer.matrix(delta.weight)
            ranks = [_effective_rank(matrix) for matrix in matrices]
            shares[name] = sum(ranks) / len(ranks) / min(delta.layer.out, delta.layer.dim)
        return _scaled(shares, alpha)

    return strength


def _scaled(values: Mapping[str, float], alpha: float) -> dict[str, float]:
    largest = max(values.values(), default=0.0)
    return {name: alpha * value / largest if largest > 0 else 0.0 for name, value in values.items()}
