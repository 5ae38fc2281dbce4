"""Which weights a memory may move: disjoint masks of several shapes, so that its place is known.

A mask is ``{name: bool, in the shape of the weight}``. A weight is seen as the matrix ``[outputs, the rest]``; a block
of rows is some of a layer's units with all that enters them, a block of columns all that leaves some of its inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lashley.errors import DataError

__all__ = ["Mask", "masks_of"]

Mask = dict[str, Tensor]


def masks_of(plan: Sequence[Mapping[str, Any]], shapes: Mapping[str, torch.Size], seed: int) -> list[Mask]:
    """One mask per entry of the plan, none of them sharing a weight with another.

    Args:
        plan: each with "shape" ("layer", "rows", "columns" or "entries"), "layers" (names) and, but for "layer",
            "share": of the rows, of the columns, or of the entries. Earlier entries choose first; a later one gets of
            its choice what is free.

    Raises:
        DataError: a shape or a layer that does not exist, or a mask for which nothing is left.
    """
    draw = torch.Generator().manual_seed(seed)
    taken = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in shapes.items()}
    found = []
    for entry in plan:
        mask = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in shapes.items()}
        for layer in entry["layers"]:
            name = f"{layer}.weight"
            if name not in shapes:
                raise DataError(
                    f"Expected a mask in a layer of the network, got {layer!r}. It has {', '.join(shapes)}."
                )
            chosen = _chosen(entry, shapes[name], draw)
            mask[name] = chosen & ~taken[name]
            taken[name] |= chosen
        if not any(part.any() for part in mask.values()):
            raise DataError(f"Expected a mask with some weights, got none left for {dict(entry)}. Change the plan.")
        found.append(mask)
    return found


def _chosen(entry: Mapping[str, Any], shape: torch.Size, draw: torch.Generator) -> Tensor:
    matrix = torch.zeros(shape, dtype=torch.bool).flatten(1)
    rows, columns = matrix.shape
    if entry["shape"] == "layer":
        matrix[:] = True
    elif entry["shape"] == "rows":
        matrix[torch.randperm(rows, generator=draw)[: round(entry["share"] * rows)]] = True
    elif entry["shape"] == "columns":
        matrix[:, torch.randperm(columns, generator=draw)[: round(entry["share"] * columns)]] = True
    elif entry["shape"] == "entries":
        matrix = torch.rand(matrix.shape, generator=draw) < entry["share"]
    else:
        raise DataError(f"Expected a mask of the shape layer, rows, columns or entries, got {entry['shape']!r}.")
    return matrix.view(shape)
