"""Which rows of a batch count.

The default: where a mapping has token labels, the positions with a label (``!= -100``); else its ``attention_mask``;
else every row. Padding never counts. In an encoder-decoder model labels speak for what the decoder makes, and
``attention_mask`` for the encoder and for what the decoder's cross-attention reads of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from lashley.errors import DataError

__all__ = ["Part", "default_mask", "fit_mask"]

Part = Literal["whole", "encoder", "decoder"]


def default_mask(batch: object, part: Part = "whole") -> Tensor | None:
    """The mask of the default rule, or None for all rows.

    Args:
        part: where the rows come from: an encoder or a decoder, or the whole of a model that has no such parts.
    """
    if not isinstance(batch, Mapping):
        return None
    attended = _attended(batch, "decoder_attention_mask" if part == "decoder" else "attention_mask")
    labels = batch.get("labels")
    if part == "encoder" or not isinstance(labels, Tensor) or not _of_tokens(labels, batch, part):
        return attended
    counted = labels != -100
    # Labels copied from the input ids without masking would count the padding.
    return counted & attended if attended is not None and attended.shape == counted.shape else counted


def _attended(batch: Mapping[Any, Any], key: str) -> Tensor | None:
    mask = batch.get(key)
    return mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None


def _of_tokens(labels: Tensor, batch: Mapping[Any, Any], part: Part) -> bool:
    """Whether these are labels of tokens: ``[B, T]`` integers, one for every position that goes in."""
    if labels.dim() != 2 or labels.is_floating_point() or labels.dtype == torch.bool:
        return False
    if part == "decoder":
        return True  # the decoder's input is made from them
    inputs = [batch.get(key) for key in ("input_ids", "inputs_embeds", "attention_mask")]
    shapes = [x.shape[:2] for x in inputs if isinstance(x, Tensor)]
    return not shapes or labels.shape in shapes  # other integers [B, K] say what a sample is


def fit_mask(mask: object, lead: tuple[int, ...], site: str, given: bool) -> Tensor:
    """A bool mask over the first dims of ``lead``, the leading dims of a site's rows.

    A mask over positions also fits rows that a model has flattened to ``[B * T]``; the default mask also fits one
    row per sample (a pooled head), where a sample counts when any of its positions does.

    Args:
        given: the mask came from the user's ``rows``, not from the default rule.
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise DataError(f"Expected rows(batch, site) to return a bool tensor, got {kind} at site {site!r}.")
    if 0 < mask.dim() <= len(lead) and tuple(mask.shape) == lead[: mask.dim()]:
        return mask
    if mask.dim() > 1 and lead and mask.numel() == lead[0]:
        return mask.reshape(-1)
    if not given and mask.dim() == 2 and lead == (mask.shape[0],):
        return mask.any(1)
    raise DataError(
        f"A mask of shape {list(mask.shape)} does not fit site {site!r}, whose rows have leading dims {list(lead)}. "
        "Expected the first of these dims. "
        + ("Return another mask for this site," if given else "Pass rows=f(batch, site) with a mask for this site,")
        + " or leave the layer out with exclude_modules."
    )
