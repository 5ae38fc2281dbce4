"""A padded batch in parts of like length: the same samples, with less padding behind them.

A batch is as wide as its longest sample, and what is behind a shorter one is computed and thrown away. Sorted by length
and cut where a part ends, most of that is spared. Which cuts are best, a small dynamic programme tells.

Only what is known to be per token is cut: in a batch that holds anything else, nothing is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lashley.data.concepts import Members

__all__ = ["Portion", "parts_of"]

_WORTH = 0.2  # of the batch's positions must be spared
_EVEN = 8  # lengths are multiples of it: libraries that make a kernel for every shape they meet meet fewer
_INPUTS = ("input_ids", "inputs_embeds")
_WHOLE_NUMBERS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "labels")  # [B, T]


class Portion(NamedTuple):
    """Some samples of a batch, with the padding cut off that all of them have.

    Attributes:
        batch: what `parts_of` was given, of these samples.
        samples: their indices in the whole batch, ascending: ``[N]``.
    """

    batch: dict[str, Any]
    samples: Tensor

    def members(self, members: Members) -> Members:
        """Who belongs where in this part, by who does in the whole batch."""
        if members.samples is None:
            return members
        place = torch.full((members.samples,), -1)
        place[self.samples] = torch.arange(len(self.samples))
        parts = [(concept, samples if samples is None else place[samples]) for concept, samples in members.parts]
        here = [(concept, samples if samples is None else samples[samples >= 0]) for concept, samples in parts]
        return Members(here, len(self.samples))


def parts_of(batch: object, overhead: int) -> list[Portion] | None:
    """The batch in parts, of which the shortest samples come first; None where that is impossible or not worth it.

    The number of positions in all parts, plus ``overhead`` for each, is the least there is. A sample is as long as the
    position of its last attended token says, rounded up to a multiple of 8; of what a row has before its first, nothing
    is cut. It is possible for a mapping with an ``attention_mask`` ``[B, T]`` and ``input_ids`` or ``inputs_embeds``
    that holds nothing else but ``token_type_ids``, ``position_ids``, ``labels`` (of tokens, or one per sample), and
    numbers, texts and None. It is worth it from a fifth of the positions on: batches sorted by length have less.

    Args:
        overhead: what a forward pass costs beyond its positions, in positions.
    """
    if not isinstance(batch, Mapping) or (shape := _shape(batch)) is None:
        return None
    lengths = _lengths(batch["attention_mask"])
    ends = _ends(lengths.unique(return_counts=True), overhead)
    begins = [0, *ends[:-1]]
    groups = [((lengths > low) & (lengths <= high)).nonzero().flatten() for low, high in zip(begins, ends, strict=True)]
    positions = sum(len(group) * end for group, end in zip(groups, ends, strict=True))
    if positions > (1 - _WORTH) * shape[0] * shape[1]:
        return None
    return [Portion(_cut(batch, shape, group, end), group) for group, end in zip(groups, ends, strict=True)]


def _shape(batch: Mapping[Any, Any]) -> tuple[int, int] | None:
    """B and T of a batch that can be cut."""
    mask = batch.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2 or not mask.numel() or not any(key in batch for key in _INPUTS):
        return None
    shape = (mask.shape[0], mask.shape[1])
    return shape if all(_known(key, value, shape) for key, value in batch.items()) else None


def _known(key: object, value: object, shape: tuple[int, int]) -> bool:
    """Whether it is clear what becomes of this when samples are chosen and positions cut off."""
    if not isinstance(value, Tensor):
        return value is None or isinstance(value, bool | int | float | str)
    if key == "inputs_embeds":
        return value.dim() == 3 and value.shape[:2] == shape
    if key == "labels" and value.dim() == 1:
        return len(value) == shape[0]
    # Labels [B, K] of other sizes or types are of samples, and might look like labels of tokens once T is smaller.
    return key in _WHOLE_NUMBERS and value.shape == shape and not value.is_floating_point() and not value.is_complex()


def _lengths(mask: Tensor) -> Tensor:
    """Of every sample, on the host: where its last attended token ends, rounded up to a multiple of `_EVEN`."""
    ends = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    last = ((mask != 0) * ends).amax(1).clamp(min=1).cpu()
    return ((last + _EVEN - 1) // _EVEN * _EVEN).clamp(max=mask.shape[1])


def _ends(found: tuple[Tensor, Tensor], overhead: int) -> list[int]:
    """The lengths of the best parts, ascending.

    Args:
        found: the different lengths, ascending, and how many samples have each.
    """
    lengths, counts = (values.tolist() for values in found)
    upto = [0]
    for count in counts:
        upto.append(upto[-1] + count)
    best, begin = [0], [0]  # of the samples with the first k lengths: the least cost, and where the last part begins
    for last in range(1, len(lengths) + 1):
        costs = [best[k] + (upto[last] - upto[k]) * lengths[last - 1] + overhead for k in range(last)]
        best.append(min(costs))
        begin.append(costs.index(best[-1]))
    ends = []
    last = len(lengths)
    while last:
        ends.append(lengths[last - 1])
        last = begin[last]
    return ends[::-1]


def _cut(batch: Mapping[Any, Any], shape: tuple[int, int], samples: Tensor, end: int) -> dict[str, Any]:
    """These samples of the batch, up to this position."""

    def cut(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        kept = value[:, :end] if value.dim() > 1 else value
        return kept.index_select(0, samples.to(value.device)) if len(samples) < shape[0] else kept.contiguous()

    return {key: cut(value) for key, value in batch.items()}
