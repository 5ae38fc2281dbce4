"""What a batch is, and how the two ways of naming concepts become one stream of ``(concept, batch)``.

A batch is a tensor, a tuple or list (its first item is the input), or a mapping (keyword arguments).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lashley.errors import DataError
from lashley.provenance import digest, fingerprint

__all__ = ["Membership", "batch_digest", "call", "check_concepts", "membership", "moved", "total_batches"]

# For every concept met in a batch: the indices of its samples, or None for all of them.
Membership = list[tuple[str, Tensor | None]]


def check_concepts(data: object, concept_of: object) -> None:
    """Refuse what is not one of the two data forms, before anything runs."""
    if concept_of is not None:
        if isinstance(data, Mapping):
            raise DataError(
                "Expected one iterable of batches beside concept_of, got a mapping. "
                "Give a mapping {concept: batches} alone, or one loader with concept_of."
            )
        if not callable(concept_of):
            raise DataError(f"Expected concept_of to be a function of a batch, got {type(concept_of).__name__}.")
        _check_batches("the data", data)
        return
    if not isinstance(data, Mapping):
        raise DataError(
            f"Expected a mapping {{concept: batches}} or one loader with concept_of=f, got {type(data).__name__} alone."
        )
    if not data:
        raise DataError("Expected at least one concept, got an empty mapping.")
    seen: dict[int, str] = {}
    for name, batches in data.items():
        if not isinstance(name, str) or not name:
            raise DataError(f"Expected concepts to be named by texts, got {name!r}. Use str({name!r}).")
        _check_batches(f"concept {name!r}", batches)
        if isinstance(batches, Iterator):
            if id(batches) in seen:
                raise DataError(
                    f"Concepts {seen[id(batches)]!r} and {name!r} are the same iterator, which can be read once only. "
                    "Give each its own, or a list or DataLoader."
                )
            seen[id(batches)] = name


def _check_batches(what: str, batches: object) -> None:
    if isinstance(batches, Tensor):
        raise DataError(
            f"Expected {what} to be an iterable of batches, got a bare tensor of shape {list(batches.shape)}, "
            "which would iterate its samples. Wrap it: [tensor], or tensor.split(batch_size)."
        )
    if isinstance(batches, Mapping):
        raise DataError(
            f"Expected {what} to be an iterable of batches, got a single mapping with keys {list(batches)[:5]}. "
            "Wrap it in a list: [batch]."
        )
    if isinstance(batches, str | bytes) or not isinstance(batches, Iterable):
        raise DataError(f"Expected {what} to be an iterable of batches, got {type(batches).__name__}.")


def total_batches(parts: Iterable[object]) -> int | None:
    """How many batches there are in all, if every part knows its length."""
    total = 0
    for part in parts:
        try:
            total += len(part)  # type: ignore[arg-type]
        except TypeError:
            return None  # a generator, or a loader over an iterable dataset: the bar shows a rate only
    return total


def membership(labels: object, names: Sequence[str] | None) -> tuple[Membership, int, bool]:
    """Who belongs where in one labelled batch.

    Args:
        labels: ``[N]`` integers, ``[N]`` texts, or bool ``[N, K]``.
        names: the concepts' names; an integer label is an index into them. None: the numbers themselves, as texts.

    Returns:
        per concept the indices of its samples, N, and whether concepts may overlap (bool labels).
    """
    if isinstance(labels, (list, tuple)) and labels and isinstance(labels[0], str):
        return _by_name(list(labels), names), len(labels), False
    try:
        values = torch.as_tensor(labels).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"Expected labels [N] of integers or texts, or bool [N, K]; got {type(labels).__name__}."
        ) from error
    if values.dtype == torch.bool:
        if values.dim() != 2:
            raise DataError(f"Expected bool labels of shape [N, K], got {list(values.shape)}. One column per concept.")
        if names is not None and len(names) != values.shape[1]:
            raise DataError(f"Expected bool labels with {len(names)} columns, one per name, got {values.shape[1]}.")
        found = names or [str(k) for k in range(values.shape[1])]
        return [(name, values[:, k].nonzero().flatten()) for k, name in enumerate(found)], len(values), True
    if values.dim() != 1 or values.dtype.is_floating_point or values.dtype.is_complex:
        raise DataError(
            f"Expected labels [N] of integers or bool [N, K], got {values.dtype} of shape {list(values.shape)}."
        )
    if not len(values):
        return [], 0, False
    low, high = int(values.min()), int(values.max())
    if low < 0 or (names is not None and high >= len(names)):
        allowed = f"0 to {len(names) - 1}" if names is not None else "0 or more"
        raise DataError(
            f"Labels out of range: expected {allowed}, got {low if low < 0 else high}. Drop such samples first."
        )
    return (
        [
            (names[k] if names is not None else str(k), (values == k).nonzero().flatten())
            for k in values.unique().tolist()
        ],
        len(values),
        False,
    )


def _by_name(labels: list[str], names: Sequence[str] | None) -> Membership:
    present = dict.fromkeys(labels)
    if names is not None and (unknown := [n for n in present if n not in names]):
        raise DataError(f"Labels out of range: expected one of {list(names)}, got {unknown[0]!r}.")
    return [(n, torch.tensor([i for i, label in enumerate(labels) if label == n])) for n in present]


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
    """The batch with its tensors on ``device``."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: moved(value, device) for key, value in batch.items()}
    if type(batch) in (tuple, list):
        return type(batch)(moved(value, device) for value in batch)
    return batch


def batch_digest(batch: object) -> str:
    """A short hash of a batch's tensors, by which a shard that was recorded twice is recognised."""
    if isinstance(batch, Tensor):
        return fingerprint(batch)
    if isinstance(batch, Mapping):
        return digest(*((str(key), batch_digest(value)) for key, value in batch.items()))
    if isinstance(batch, (tuple, list)):
        return digest(*(batch_digest(value) for value in batch))
    return digest(type(batch).__name__, batch if isinstance(batch, str | int | float | bool | None) else "")


Forward = Callable[[nn.Module, Any], object]
