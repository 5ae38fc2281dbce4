"""The two ways of naming concepts, ``{concept: batches}`` and one loader with ``concept_of``, as one `Stream`.

It gives every batch with its `Members`: which samples belong to which concept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lashley.data.batches import check_batches, total_batches
from lashley.errors import DataError

__all__ = ["Members", "Stream", "check_data"]


class Members(NamedTuple):
    """Who belongs where in one batch.

    Attributes:
        parts: concepts with the indices of their samples (None: all of them). Where concepts may overlap, the last
            part is ``(None, None)``: every sample once, whatever its concepts.
        samples: N, the number of labels; None where the whole batch is of one concept.
    """

    parts: list[tuple[str | None, Tensor | None]]
    samples: int | None = None


@dataclass(frozen=True)
class Stream:
    """All batches with their members, concept by concept or in the loader's order.

    Args:
        data, concept_of, names: as `lashley.record` takes them, checked by `check_data`.

    Raises:
        DataError: while it is read: labels of the wrong form or out of range; the batch is named.
    """

    data: Any
    concept_of: Callable[[Any], Any] | None = None
    names: Sequence[str] | None = None

    def __iter__(self) -> Iterator[tuple[Any, Members]]:
        if self.concept_of is None:
            for concept, batches in self.data.items():
                for batch in batches:
                    yield batch, Members([(concept, None)])
            return
        labels = _Labels(self.names)
        for number, batch in enumerate(self.data):
            try:
                members = labels.members(self.concept_of(batch))
            except DataError as error:
                raise DataError(f"Batch {number}: {error}") from None
            yield batch, members

    @property
    def mapping(self) -> bool:
        """Whether the data are ``{concept: batches}``, so that the concepts come one after another."""
        return self.concept_of is None

    @property
    def concepts(self) -> tuple[str, ...] | None:
        """In the order they are wanted; None where the labels will tell."""
        return tuple(self.data) if self.mapping else None if self.names is None else tuple(self.names)

    @property
    def once(self) -> bool:
        """Whether some of the data can be read once only."""
        return any(isinstance(batches, Iterator) for batches in self._iterables)

    @property
    def total(self) -> int | None:
        """How many batches there are, where all of the data know their length."""
        return total_batches(self._iterables)

    def only(self, concept: str) -> Stream:
        """The batches of one concept of a mapping."""
        return Stream({concept: self.data[concept]})

    @property
    def _iterables(self) -> list[Iterable[Any]]:
        return list(self.data.values()) if self.mapping else [self.data]


def check_data(data: object, concept_of: object, names: object = None) -> None:
    """Refuse what is not one of the two data forms, before anything runs."""
    if concept_of is None:
        _check_mapping(data)
        if names is not None:
            raise DataError("Expected concept_names only beside concept_of; a mapping names its concepts by its keys.")
        return
    if isinstance(data, Mapping):
        raise DataError(
            "Expected one iterable of batches beside concept_of, got a mapping. "
            "Give a mapping {concept: batches} alone, or one loader with concept_of."
        )
    if not callable(concept_of):
        raise DataError(f"Expected concept_of to be a function of a batch, got {type(concept_of).__name__}.")
    check_batches("the data", data)
    if names is None:
        return
    given = list(names) if isinstance(names, Iterable) and not isinstance(names, str) else None
    if not given or len(set(map(repr, given))) != len(given) or not all(isinstance(n, str) and n for n in given):
        raise DataError(f"Expected concept_names to be different non-empty texts, got {names!r}.")


def _check_mapping(data: object) -> None:
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
        check_batches(f"concept {name!r}", batches)
        if isinstance(batches, Iterator):
            if id(batches) in seen:
                raise DataError(
                    f"Concepts {seen[id(batches)]!r} and {name!r} are the same iterator, which can be read once only. "
                    "Give each its own, or a list or DataLoader."
                )
            seen[id(batches)] = name


class _Labels:
    """The labels of one loader, batch by batch: all of one kind."""

    def __init__(self, names: Sequence[str] | None) -> None:
        self.names = names
        self.columns: int | None = None  # K of bool labels; 0: not bool; None: none seen yet

    def members(self, labels: object) -> Members:
        """The members of one batch.

        Args:
            labels: ``[N]`` integers (indices into the names; without names, their own names), ``[N]`` texts, or bool
                ``[N, K]`` with a column per concept.
        """
        if isinstance(labels, np.ndarray):
            labels = labels.tolist()
        if isinstance(labels, (list, tuple)):
            if not labels:
                return Members([], 0)
            if all(isinstance(label, str) for label in labels):
                return self._texts(list(labels))
        elif not isinstance(labels, Tensor):
            raise DataError(f"{_WANTED}, got {type(labels).__name__}. One label per sample of the batch is needed.")
        try:
            values = torch.as_tensor(labels).cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"{_WANTED}, got {type(labels).__name__}: {error}.") from None
        if values.dtype == torch.bool:
            return self._columns(values)
        return self._integers(values)

    def _texts(self, labels: list[str]) -> Members:
        self._same_kind(0)
        found: dict[str, list[int]] = {}
        for index, label in enumerate(labels):
            found.setdefault(label, []).append(index)
        if self.names is not None and (unknown := [name for name in found if name not in self.names]):
            raise DataError(f"Labels out of range: expected one of {list(self.names)}, got {unknown[0]!r}.")
        return Members([(name, torch.tensor(indices)) for name, indices in found.items()], len(labels))

    def _integers(self, values: Tensor) -> Members:
        if values.dim() != 1 or values.dtype.is_floating_point or values.dtype.is_complex:
            raise DataError(f"{_WANTED}, got {values.dtype} of shape {list(values.shape)}.")
        self._same_kind(0)
        if not len(values):
            return Members([], 0)
        low, high = int(values.min()), int(values.max())
        if low < 0 or (self.names is not None and high >= len(self.names)):
            allowed = f"0 to {len(self.names) - 1}" if self.names is not None else "0 or more"
            raise DataError(
                f"Labels out of range: expected {allowed}, got {low if low < 0 else high}. Drop such samples, or give "
                "bool labels [N, K], where a sample may belong to no concept."
            )
        names = self.names if self.names is not None else [str(k) for k in range(high + 1)]
        parts = [(names[k], (values == k).nonzero().flatten()) for k in values.unique().tolist()]
        return Members([*parts], len(values))

    def _columns(self, values: Tensor) -> Members:
        if values.dim() != 2:
            raise DataError(f"Expected bool labels of shape [N, K], got {list(values.shape)}. One column per concept.")
        count = values.shape[1]
        if self.names is not None and len(self.names) != count:
            raise DataError(f"Expected bool labels with {len(self.names)} columns, one per name, got {count}.")
        self._same_kind(count)
        names = self.names if self.names is not None else [str(k) for k in range(count)]
        parts = [(name, values[:, k].nonzero().flatten()) for k, name in enumerate(names)]
        return Members([*parts, (None, None)], len(values))

    def _same_kind(self, columns: int) -> None:
        if self.columns is None:
            self.columns = columns
        elif self.columns != columns:
            kinds = [f"bool [N, {k}]" if k else "one per sample" for k in (self.columns, columns)]
            raise DataError(
                f"Expected labels of one kind throughout: {kinds[0]} in the batches before, got {kinds[1]}."
            )


_WANTED = "Expected labels [N] of integers or texts, or bool [N, K]"
