"""What the measures take: arrays of any float dtype on any device, labels of any kind; checked once, here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lashley.errors import DataError
from lashley.moments import all_finite, wide

__all__ = ["Array", "Label", "Labels", "class_order", "label_list", "matrix", "numbers", "vector"]

Array: TypeAlias = Tensor | np.ndarray | Sequence[Any]
Label: TypeAlias = int | str
Labels: TypeAlias = Tensor | np.ndarray | Sequence[Label]


def numbers(values: Array, name: str) -> Tensor:
    """The values as float64 without a graph, where they are; finite."""
    try:
        tensor = wide(values.detach() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values)))
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"Expected {name} to be an array of numbers, got {type(values).__name__} ({error}).") from error
    if tensor.numel() and not all_finite(tensor):
        count = int((~torch.isfinite(tensor)).sum())
        raise DataError(f"Expected {name} to be finite, got {count} of {tensor.numel()} values that are nan or inf.")
    return tensor


def matrix(values: Array, name: str, least: int = 1) -> Tensor:
    """``[N, D]`` in float64 with N at least ``least``."""
    tensor = numbers(values, name)
    if tensor.ndim != 2:
        raise DataError(
            f"Expected {name} of shape [samples, features], got {list(tensor.shape)}. Pool or flatten every sample first."
        )
    _enough(len(tensor), least, name)
    if not tensor.shape[1]:
        raise DataError(f"Expected {name} with at least one feature, got {list(tensor.shape)}.")
    return tensor


def vector(values: Array, name: str, least: int = 1) -> Tensor:
    """``[N]`` in float64 with N at least ``least``."""
    tensor = numbers(values, name)
    if tensor.ndim != 1:
        raise DataError(f"Expected {name} of shape [samples], got {list(tensor.shape)}.")
    _enough(len(tensor), least, name)
    return tensor


def label_list(labels: Labels, name: str, count: int | None = None) -> list[Label]:
    """The labels as Python's own ints or strings, ``count`` of them."""
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu().numpy()
    array = np.asarray(labels)
    if array.ndim != 1:
        raise DataError(f"Expected {name} of shape [samples], one label each, got {list(array.shape)}.")
    if array.dtype.kind == "f" and np.array_equal(array, np.floor(array)):
        array = array.astype(np.int64)  # classes that a float tensor carried
    if array.dtype.kind not in "biuUS" and len(array):
        raise DataError(f"Expected {name} to be whole numbers or strings, got {array.dtype} like {array[0]!r}.")
    if count is not None and len(array) != count:
        raise DataError(f"Expected one label per sample, got {len(array)} in {name} for {count} samples.")
    found: list[Label] = array.astype(np.int64).tolist() if array.dtype.kind in "biu" else array.astype(str).tolist()
    return found


def class_order(labels: Sequence[Label]) -> list[Label]:
    """The distinct labels, sorted."""
    return sorted(set(labels))  # type: ignore[type-var]  # one array holds one kind


def _enough(count: int, least: int, name: str) -> None:
    if count < least:
        raise DataError(f"Expected at least {least} sample{'s' * (least > 1)} in {name}, got {count}.")
