"""Which rows of a batch count.

The default: where a mapping has token labels, the positions with a label (``!= -100``) at decoder sites; else its
``attention_mask``; else every row. Padding never counts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lashley.errors import DataError

__all__ = ["default_mask", "fit_mask"]


def default_mask(batch: object, encoder: bool) -> Tensor | None:
    """The mask of the default rule, or None for all rows.

    Args:
        encoder: whether the site lies in the encoder of an encoder-decoder model, where labels say nothing.
    """
    if not isinstance(batch, Mapping):
        return None
    attended, labels = batch.get("attention_mask"), batch.get("labels")
    attended = attended.bool() if isinstance(attended, Tensor) and attended.dim() == 2 else None
    if isinstance(labels, Tensor) and labels.dim() == 2 and not labels.is_floating_point() and not encoder:
        counted = labels != -100
        # Labels copied from the input ids without masking would count the padding.
        same = attended is not None and attended.shape == counted.shape and "decoder_input_ids" not in batch
        return counted & attended if same and attended is not None else counted
    return attended


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
    if not given and mask.dim() == 2 and lead and mask.shape[0] == lead[0]:
        return mask.any(1)
    raise DataError(
        f"A mask of shape {list(mask.shape)} does not fit site {site!r}, whose rows have leading dims {list(lead)}. "
        "Expected the first of these dims. "
        + ("Return another mask for this site," if given else "Pass rows=f(batch, site) with a mask for this site,")
        + " or leave the layer out with exclude_modules."
    )
