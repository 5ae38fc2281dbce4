"""What a batch is: a tensor, a tuple or list (its first item is the input), or a mapping (keyword arguments)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lashley.errors import DataError
from lashley.provenance import digest, fingerprint

__all__ = ["batch_digest", "batch_size", "call", "check_batches", "moved", "total_batches"]


def check_batches(what: str, batches: object) -> None:
    """Refuse what would not iterate batches.

    Args:
        what: how the message calls it.
    """
    if isinstance(batches, Tensor | np.ndarray):
        raise DataError(
            f"Expected {what} to be an iterable of batches, got a bare {type(batches).__name__} of shape "
            f"{list(batches.shape)}, which would iterate its samples. Wrap it: [tensor], or tensor.split(batch_size)."
        )
    if isinstance(batches, Mapping):
        raise DataError(
            f"Expected {what} to be an iterable of batches, got a single mapping with keys {list(batches)[:5]}. "
            "Wrap it in a list: [batch]."
        )
    if isinstance(batches, str | bytes) or not isinstance(batches, Iterable):
        raise DataError(
            f"Expected {what} to be an iterable of batches, got {type(batches).__name__}. Give a list of batches, or a "
            "DataLoader (which also makes batches of a dataset)."
        )


def call(model: nn.Module, batch: object) -> object:
    """The default forward: ``model(tensor)``, ``model(first item)`` or ``model(**mapping)``."""
    if isinstance(batch, Tensor):
        return model(batch)
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, (tuple, list)) and batch:
        return model(batch[0])
    raise DataError(
        f"Expected a batch to be a tensor, a tuple or list (its first item is the input) or a mapping, got "
        f"{type(batch).__name__}. Pass forward=lambda model, batch: ... for anything else."
    )


def moved(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on ``device``. A mapping comes back as a dict; the batch itself is not changed."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: moved(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(moved(value, device) for value in batch))
    if type(batch) in (tuple, list):
        return type(batch)(moved(value, device) for value in batch)
    return batch


def batch_size(batch: object) -> int | None:
    """How many samples a batch has: the first dim that its tensors agree on; None where they do not say."""
    if isinstance(batch, (tuple, list)):
        return batch_size(batch[0]) if batch else None
    tensors = [batch] if isinstance(batch, Tensor) else list(batch.values()) if isinstance(batch, Mapping) else []
    sizes = {t.shape[0] for t in tensors if isinstance(t, Tensor) and t.dim()}
    return sizes.pop() if len(sizes) == 1 else None


def total_batches(parts: Iterable[object]) -> int | None:
    """How many batches there are in all, if every part knows its length."""
    total = 0
    for part in parts:
        try:
            total += len(part)  # type: ignore[arg-type]
        except TypeError:
            return None  # a generator, or a loader over an iterable dataset: the bar shows a rate only
    return total


def batch_digest(batch: object, _above: tuple[object, ...] = ()) -> str:
    """A short hash of a batch's content, by which it is recognised later, also in another process."""
    if isinstance(batch, Tensor):
        return fingerprint(batch)
    if isinstance(batch, np.ndarray):
        return digest(str(batch.dtype), batch.shape, batch.tobytes() if batch.dtype != object else batch.tolist())
    if any(batch is one for one in _above):
        return digest("itself")
    above = (*_above, batch)
    if isinstance(batch, Mapping):
        return digest(*((str(key), batch_digest(value, above)) for key, value in batch.items()))
    if isinstance(batch, (tuple, list)):
        return digest(*(batch_digest(value, above) for value in batch))
    if isinstance(batch, (set, frozenset)):
        return digest(*sorted(batch_digest(value, above) for value in batch))
    if hasattr(batch, "__array_interface__"):  # a picture
        return batch_digest(np.asarray(batch))
    if attributes := getattr(batch, "__dict__", None):  # of a class of the user's own
        return digest(type(batch).__name__, batch_digest(attributes, above))
    # By its repr, in which addresses say nothing: better a copy that goes unseen than a false alarm.
    return digest(type(batch).__name__, re.sub(r" at 0x\w+", "", repr(batch)))
