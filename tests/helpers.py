"""Assertions on tensors that say where two of them differ, and random tensors that depend on nothing but their seed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

WORST_SHOWN = 5


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal float64 tensor that does not depend on what was drawn before."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def relative_error(actual: Any, expected: Any) -> float:
    """`||actual - expected||_F / ||expected||_F` in float64; 0 where both are zero, inf where only `expected` is."""
    a, e = _pair(actual, expected)
    error, scale = (a - e).norm().item(), e.norm().item()
    if error == 0.0:
        return 0.0
    return error / scale if scale else float("inf")


def assert_close(actual: Any, expected: Any, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Every entry satisfies `|actual - expected| <= atol + rtol * |expected|`.

    Compared in float64, shapes must be equal, nan is close to nothing. With both tolerances at their default of 0 the
    values must be equal. A failure names the worst entries.
    """
    __tracebackhide__ = True
    a, e = _pair(actual, expected)
    # An infinity minus itself is nan, so equality is asked separately.
    bad = ~((a == e) | ((a - e).abs() <= atol + rtol * e.abs()))
    if bad.any():
        raise AssertionError(f"{_report(a, e, bad)}\n  tolerance: atol={atol:g} rtol={rtol:g}")


def assert_near(actual: Any, expected: Any, *, rel: float) -> None:
    """The Frobenius norm of the difference is at most `rel` times that of `expected`.

    The measure for solved matrices, whose small entries carry the rounding of the large ones.
    """
    __tracebackhide__ = True
    a, e = _pair(actual, expected)
    error = relative_error(a, e)
    if not error <= rel:
        raise AssertionError(f"{_report(a, e, a != e)}\n  relative error {error:.3g}, allowed {rel:g}")


def _pair(actual: Any, expected: Any) -> tuple[Tensor, Tensor]:
    __tracebackhide__ = True
    a, e = (torch.as_tensor(x).detach().to("cpu", torch.float64) for x in (actual, expected))
    if a.shape != e.shape:
        raise AssertionError(f"shapes differ: actual {tuple(a.shape)}, expected {tuple(e.shape)}")
    return a, e


def _report(a: Tensor, e: Tensor, bad: Tensor) -> str:
    # nan compares with nothing and would sort anywhere: it counts as infinitely far.
    error = torch.where(bad, (a - e).abs(), torch.zeros_like(a)).nan_to_num(nan=float("inf"))
    lines = [f"{int(bad.sum())} of {bad.numel()} entries differ, shape {tuple(a.shape)}; the worst:"]
    for flat in error.flatten().argsort(descending=True)[: min(WORST_SHOWN, int(bad.sum()))]:
        index = tuple(int(i) for i in torch.unravel_index(flat, a.shape)) if a.ndim else ()
        lines.append(f"  {list(index)}: actual {a[index]:.10g}, expected {e[index]:.10g}, apart {error[index]:.3g}")
    return "\n".join(lines)
