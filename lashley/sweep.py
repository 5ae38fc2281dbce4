"""The same edit at several strengths: each is one scaled subtraction, nothing is solved again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch import nn

from lashley.edit import ablated
from lashley.edit.apply import Alpha
from lashley.engram import Engram

__all__ = ["sweep"]

T = TypeVar("T")


def sweep(
    model: nn.Module,
    engram: Engram,
    alphas: Iterable[Alpha],
    score: Callable[[nn.Module], T],
    **edit: Any,
) -> list[tuple[Alpha, T]]:
    """``[(alpha, score(model ablated with alpha)), ...]``; the model is given back to the byte.

    Args:
        alphas: anything that `lashley.ablate_` takes; a negative number injects.
        score: called with the edited model; it should not change it.
        edit: further arguments of `lashley.ablated`, such as ``tied``.
    """
    results = []
    for alpha in alphas:
        with ablated(model, engram, alpha, **edit):
            results.append((alpha, score(model)))
    return results
