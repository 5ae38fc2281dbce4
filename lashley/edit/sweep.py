"""The same edit at several strengths: each is one scaled subtraction, nothing is solved again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from torch import nn

from lashley.edit.apply import Alpha, ablated
from lashley.engram import Engram
from lashley.errors import EditError

__all__ = ["sweep"]

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")


def sweep(
    model: M, engram: Engram, alphas: Iterable[Alpha], score: Callable[[M], T], *, tied: str = "skip"
) -> list[tuple[Alpha, T]]:
    """``[(alpha, score(model ablated with alpha)), ...]``; the model is given back to the byte, whatever happens.

    Args:
        alphas: each anything that `lashley.ablate_` takes; a negative number injects, 0 is the model as it is.
        score: called with the edited model; it should not change it.
        tied: as in `lashley.ablate_`.

    Raises:
        EditError: alphas is a single strength, or one of them is refused by `lashley.ablate_`.
    """
    if isinstance(alphas, Mapping) or not isinstance(alphas, Iterable):
        raise EditError(f"Expected alphas to be a list of strengths, got {type(alphas).__name__}. Wrap it: [alpha].")
    results = []
    for alpha in alphas:
        with ablated(model, engram, alpha, tied=tied):
            results.append((alpha, score(model)))
    return results
