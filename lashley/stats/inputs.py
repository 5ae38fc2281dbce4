"""What the measures take, checked once: arrays of any number type on any device, labels as numbers or strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lashley.errors import DataError
from lashley.moments import all_finite, wide

__all__ = ["Array", "Label", "Labels", "class_order", "label_list", "matrix", "numbers", "same_width", "vector"]

Array: TypeAlias = Tensor | np.ndarray | Sequence[Any]
Label: TypeAlias = int | str
Labels: TypeAlias = Tensor | np.ndarray | Sequence[Label]


def numbers(values: Array, name: str) -> Tensor:
    """The values in float64 and without a graph, on their own device; all finite."""
    try:
        # Copied: torch takes no array that is read backwards, and warns of one that cannot be written.
        tensor = values.detach() if isinstance(values, Tensor) else torch.as_tensor(np.array(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"Expected {name} to be an array of numbers, got {type(values).__name__}: {error}") from error
    if tensor.is_complex():
        raise DataError(f"Expected {name} to be real, got {tensor.dtype}.")
    tensor = wide(tensor)
    if tensor.numel() and not all_finite(tensor):
        count = int((~torch.isfinite(tensor)).sum())
        raise DataError(f"Expected {name} to be finite, got {count} of {tensor.numel()} values that are nan or inf.")
    return tensor


def matrix(values: Array, name: str, least: int = 1) -> Tensor:
    """``[N, D]`` in float64 with N at least ``least``."""
    tensor = numbers(values, name)
    if tensor.ndim != 2 or not tensor.shape[1]:
        raise DataError(
            f"Expected {name} of shape [samples, features], got {list(tensor.shape)}. "
            "Pool or flatten each sample first."
        )
    return _enough(tensor, least, name)


def vector(values: Array, name: str, least: int = 1) -> Tensor:
    """``[N]`` in float64 with N at least ``least``."""
    tensor = numbers(values, name)
    if tensor.ndim != 1:
        raise DataError(f"Expected {name} of shape [samples], got {list(tensor.shape)}.")
    return _enough(tensor, least, name)


def same_width(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two sets of features of one network, on the device of the first."""
    if first.shape[1] != second.shape[1]:
        raise DataError(
            f"Expected features of one network, got {first.shape[1]} and {second.shape[1]} features a sample."
        )
    return first, second.to(first.device)


def label_list(labels: Labels, name: str, count: int | None = None) -> list[Label]:
    """The labels as Python's own ints or strings; ``count`` of them where it is given."""
    found = labels.tolist() if isinstance(labels, Tensor | np.ndarray) else list(labels)
    found = [label.item() if isinstance(label, Tensor | np.generic) else label for label in found]
    if not all(isinstance(label, str) for label in found):
        for label in found:
            # Floats pass where they are whole: classes that a float tensor carried.
            if not isinstance(label, int | float) or label % 1 != 0:
                raise DataError(
                    f"Expected {name} to be whole numbers, or all of them strings, one per sample; got {label!r}."
                )
        found = [int(label) for label in found]
    if count is not None and len(found) != count:
        raise DataError(f"Expected one label per sample, got {len(found)} in {name} for {count} samples.")
    return found


def class_order(labels: Sequence[Label]) -> list[Label]:
    """The distinct labels, sorted; they are all ints or all strings."""
    return sorted(set(labels))


def _enough(tensor: Tensor, least: int, name: str) -> Tensor:
    if len(tensor) < least:
        raise DataError(f"Expected at least {least} sample{'s' * (least > 1)} in {name}, got {len(tensor)}.")
    return tensor
