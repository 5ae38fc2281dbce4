"""The edit of one tensor, a few million numbers at a time, whoever holds the tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lashley.edit.receipt import Measure, dtype_name, measure, pieces
from lashley.engram import Delta, widest
from lashley.errors import EditError

__all__ = ["Part", "add", "blocks", "check", "rows"]

Part = tuple[Delta, str, float]  # of which delta "weight" or "bias" is added, times what


def blocks(tensor: Tensor, parts: Sequence[Part]) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of the tensor's rows, and what is added to them.

    The second is of a type wide enough for rounding to happen once, when the sum is stored.
    """
    wide = torch.float32 if tensor.dtype.itemsize < 4 else widest(tensor.device)
    start = 0
    for (piece,) in pieces(tensor):
        stop = start + len(piece)
        step = torch.zeros_like(piece, dtype=wide)
        for delta, which, strength in parts:
            step.add_(rows(delta, which, start, stop).to(step.device), alpha=strength)
        yield piece, step
        start = stop


def rows(delta: Delta, which: str, start: int, stop: int) -> Tensor:
    """``delta.weight[start:stop]`` or ``delta.bias[start:stop]``; of factors, only these rows are multiplied out."""
    if which == "bias":
        assert delta.bias is not None
        return delta.bias[start:stop]
    if delta.factors is None:
        return delta.weight[start:stop]
    a, b = delta.factors
    out, dim = delta.layer.out, delta.layer.dim
    wide = widest(a.device)
    # How the layer lays its matrix out shows on one without numbers.
    laid = delta.layer.weight(torch.empty(delta.layer.matrices, out, dim, device="meta"))
    if (laid.shape, laid.stride()) == ((out, dim), (dim, 1)):
        return (a[start:stop].to(wide) @ b.to(wide)).to(a.dtype)
    if (laid.shape, laid.stride()) == ((dim, out), (1, dim)):
        return (a.to(wide) @ b[:, start:stop].to(wide)).to(a.dtype).T
    return delta.weight[start:stop]


def check(name: str, tensor: Tensor, parts: Sequence[Part] = ()) -> None:
    """Refuse an edit that would not leave finite numbers, or has not; ``name`` is for the message."""
    for old, step in blocks(tensor, parts):
        if not torch.isfinite((old.to(step.dtype) + step).to(old.dtype)).all():
            raise EditError(
                f"Expected finite weights after the edit, got nan or inf in {name} ({dtype_name(old)}). "
                "Lower alpha, edit a float32 copy, or check that the weights were finite before."
            )


def add(tensor: Tensor, parts: Sequence[Part]) -> Measure:
    """Make the edit in the tensor, and say what became of it."""
    total = Measure(0.0, 0.0, 0, 0, 0.0, 0.0)
    for new, step in blocks(tensor, parts):
        old = new.clone()
        new.copy_(old.to(step.dtype) + step)
        total = total + measure(old, new, step)
    return total
