"""From members and a mask to the rows that each concept gets at a site."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lashley.data.concepts import Members
from lashley.errors import DataError
from lashley.layers import Layer

__all__ = ["Pick", "indices_of", "pick", "rows_of"]

_CHUNK = 2**24  # elements of unfolded rows held at a time: 64 MiB of float32


@dataclass(frozen=True)
class Pick:
    """The rows of one concept in one input.

    Attributes:
        concept: its name; None for every concept and none, where they may overlap.
        samples: indices along the first dim, or None for all.
        mask: over the first two or more leading dims of these samples, or None for all positions.
        positions: the indices of what ``mask`` leaves, those dims flattened.
    """

    concept: str | None
    samples: Tensor | None
    mask: Tensor | None
    positions: Tensor | None


def pick(
    members: Members, mask: Tensor | None, layer: Layer, lead: tuple[int, ...], device: torch.device
) -> list[Pick]:
    """Who gets what of an input of the layer, whose rows have these leading dims. Who gets nothing is left out.

    Raises:
        DataError: the labels cannot be matched with the input's first dim.
    """
    if 0 in lead:
        return []
    if mask is not None:
        mask = mask.to(device)
    block = _rows_per_sample(members.samples, layer, lead)
    picks = []
    for concept, samples in members.parts:
        if samples is not None:
            samples = samples.to(device)
            if block > 1:  # positions were flattened into the first dim
                samples = (samples[:, None] * block + torch.arange(block, device=device)).flatten()
            if len(samples) == lead[0]:
                samples = None
        kept = mask if mask is None or samples is None else mask.index_select(0, samples)
        positions = None
        if kept is not None:
            positions = kept.flatten().nonzero().flatten()
            if len(positions) == kept.numel():
                kept = positions = None
            elif kept.dim() == 1:  # whole samples: the rest need not even be unfolded
                samples = positions if samples is None else samples[positions]
                kept = positions = None
        if (samples is None or len(samples)) and (positions is None or len(positions)):
            picks.append(Pick(concept, samples, kept, positions))
    return picks


def _rows_per_sample(samples: int | None, layer: Layer, lead: tuple[int, ...]) -> int:
    """How many consecutive entries of the first dim belong to one sample."""
    if not samples or lead[0] == samples:
        return 1
    block, rest = divmod(lead[0], samples)
    positions_first = not layer.samples_first and len(lead) > 1 and lead[1] == samples
    if rest or not block or positions_first:
        raise DataError(
            f"Expected {samples} labels to fit layer {layer.name!r}, whose rows have leading dims {list(lead)}: "
            "concept_of gives one label per sample, and samples come first. "
            + ("This input seems to have positions first (batch_first=False). " if positions_first else "")
            + "Give a mapping {concept: batches} instead, or leave the layer out with exclude_modules."
        )
    return block


def rows_of(layer: Layer, x: Tensor, chosen: Pick) -> Iterator[Tensor]:
    """The chosen rows ``[M, n, D]`` of an input with samples first, in pieces where unfolding makes them many."""
    if chosen.samples is not None:
        x = x.index_select(0, chosen.samples)
    lead = layer.lead(tuple(x.shape))
    elements = layer.matrices * layer.dim
    for size in lead:
        elements *= size
    if elements <= max(x.numel(), _CHUNK):
        rows = layer.rows(x)
        if chosen.mask is not None and chosen.positions is not None:
            rows = rows.flatten(1, chosen.mask.dim()).index_select(1, chosen.positions)
        yield rows.reshape(layer.matrices, -1, layer.dim)
        return
    step = max(1, lead[0] * _CHUNK // elements)
    for start in range(0, lead[0], step):
        rows = layer.rows(x[start : start + step])
        if chosen.mask is not None:
            rows = rows.flatten(1, chosen.mask.dim())[:, chosen.mask[start : start + step].flatten()]
        yield rows.reshape(layer.matrices, -1, layer.dim)


def indices_of(x: Tensor, chosen: Pick) -> Tensor:
    """The chosen positions of an input of indices, which are its rows: ``[n]``."""
    if chosen.samples is not None:
        x = x.index_select(0, chosen.samples)
    if chosen.mask is not None and chosen.positions is not None:
        x = x.flatten(0, chosen.mask.dim() - 1).index_select(0, chosen.positions)
    return x.reshape(-1)
