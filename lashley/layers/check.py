"""Does a module compute ``W x + b``? Subclasses count as their base, and some of them do something else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lashley.layers.base import Layer

__all__ = ["deviation"]

_ROWS, _OUTPUTS = 16, 64  # looked at per matrix: enough to see another formula, too few to cost anything


def deviation(layer: Layer, module: nn.Module, x: Tensor, output: Tensor) -> float:
    """How far the module's output is from ``rows(x) @ matrix(weight).T + bias``.

    Looks at the first 16 rows and 64 outputs of every matrix, in float64 where the device has it.

    Args:
        x, output: the module's input and what it made of it, samples first; ``x`` may hold only the first few samples.

    Returns:
        the largest difference over the largest expected number: rounding noise where the layer type fits its module.
    """
    weight, bias = layer.effective(module), layer.tensor(module, "bias") if layer.bias else None
    assert weight is not None
    place = weight.device  # a model spread over devices may bring the input here only inside the call
    wide = torch.float32 if place.type == "mps" else torch.float64
    with torch.no_grad(), torch.autocast(place.type, enabled=False):
        rows = layer.rows(x).flatten(1, -2)[:, :_ROWS].to(place, wide)
        expected = rows @ layer.matrix(weight)[:, :_OUTPUTS].to(wide).mT
        if isinstance(bias, Tensor):
            expected = expected + layer.biases(bias)[:, None, :_OUTPUTS].to(wide)
        got = layer.responses(output).flatten(1, -2)[:, : rows.shape[1], :_OUTPUTS].to(place, wide)
        told = torch.isfinite(got)  # what overflowed says nothing about the formula
        if not told.any():
            return 0.0
        off, scale = (got - expected)[told].abs().max().item(), expected[told].abs().max().item()
    return off / scale if scale else float(off > 0)
