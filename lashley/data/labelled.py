"""Labelled samples in batches, as often as one likes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from lashley.errors import DataError, SelectionError, nearest

__all__ = ["BATCH_SIZE", "Batches", "LabelledBatches", "Samples"]

BATCH_SIZE = 256


class Samples(Protocol):
    """What can be batched: a tensor whose first dimension counts samples, or anything that hands them out by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor, /) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Batches:
    """Input batches of some of the samples, in order; iterating again starts again."""

    samples: Samples
    index: Tensor
    batch_size: int
    finish: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return -(-len(self.index) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        for chosen in self.index.split(self.batch_size):
            if len(chosen):  # an empty index splits into one empty chunk
                yield self.finish(self.samples[chosen])


@dataclass(frozen=True, eq=False)
class LabelledBatches:
    """A labelled data set that both data forms of `lashley.record` accept.

    ::

        data = lashley.data.load("sklearn:digits", flatten=True)
        lashley.record(model, data.by_concept())
        lashley.record(model, data, concept_of=lambda batch: batch[1], concept_names=data.concept_names)

    Iterating yields ``(inputs, labels)``, in the stored order and as often as asked. Every method returns a new view;
    the samples are shared, not copied.

    Args:
        samples: ``[N, ...]``, a tensor or any `Samples`.
        labels: ``[N]`` whole numbers, positions in ``concept_names``; or ``[N, K]`` bool when concepts may overlap.
        concept_names: the K names.
        batch_size: samples per batch; the last batch may be smaller.
        prepare: applied to every batch of samples, such as `lashley.data.Prepare`.
        dtype: what floating inputs become; None leaves them.
        index: which samples; None: all.

    Raises:
        DataError: no samples, another number of labels than samples, labels outside of ``concept_names``, names that
            repeat.
    """

    samples: Samples
    labels: Tensor
    concept_names: tuple[str, ...]
    batch_size: int = BATCH_SIZE
    prepare: Callable[[Tensor], Tensor] | None = None
    dtype: torch.dtype | None = None
    index: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.samples) if self.index is None else len(self.index)
        names = self.concept_names
        if count == 0:
            raise DataError("Expected samples, got none.")
        if len(self.labels) != count:
            raise DataError(f"Expected one label per sample, got {len(self.labels)} labels for {count} samples.")
        if self.batch_size < 1:
            raise DataError(f"Expected a batch size of at least 1, got {self.batch_size}.")
        if len(set(names)) != len(names):
            repeated = sorted({n for n in names if names.count(n) > 1})
            raise DataError(f"Concept names must differ, got {', '.join(map(repr, repeated))} more than once.")
        if self.overlapping:
            if self.labels.dim() != 2 or self.labels.shape[1] != len(names):
                raise DataError(
                    f"Overlapping labels are [N, K] with K = {len(names)} concept names, got shape "
                    f"{tuple(self.labels.shape)}."
                )
        elif self.labels.dim() != 1 or self.labels.is_floating_point():
            raise DataError(
                f"Expected labels [N] of whole numbers or [N, K] of bool, got {self.labels.dtype} "
                f"{tuple(self.labels.shape)}."
            )
        elif not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(names):
            raise DataError(
                f"Labels are positions in the {len(names)} concept names, so 0 to {len(names) - 1}; got "
                f"{int(self.labels.min())} to {int(self.labels.max())}."
            )

    @property
    def overlapping(self) -> bool:
        """Whether a sample may belong to several concepts, or to none."""
        return self.labels.dtype == torch.bool

    @property
    def size(self) -> int:
        """The number of samples."""
        return len(self.labels)

    @property
    def counts(self) -> dict[str, int]:
        """How many samples each concept has."""
        return dict(zip(self.concept_names, self._members().sum(0).tolist(), strict=True))

    def __len__(self) -> int:
        """The number of batches."""
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self._batches(self._index()), self.labels.split(self.batch_size), strict=True)

    def by_concept(self) -> dict[str, Batches]:
        """One re-iterable of input batches per concept that has samples, in the order of the names.

        Samples of two concepts would be counted twice in the total, so overlapping labels are refused here.
        """
        if self.overlapping:
            raise DataError(
                "These concepts may overlap, and a mapping of concepts would count shared samples twice. Use the form "
                "with one loader: lashley.record(model, data, concept_of=lambda batch: batch[1], "
                "concept_names=data.concept_names)."
            )
        index = self._index()
        parts = {name: index[self.labels == k] for k, name in enumerate(self.concept_names)}
        return {name: self._batches(part) for name, part in parts.items() if len(part)}

    def only(self, names: Sequence[str]) -> LabelledBatches:
        """The samples of these concepts, which become the concepts, in this order."""
        for name in names:
            if name not in self.concept_names:
                raise SelectionError(f"No concept is called {name!r}. {nearest(name, self.concept_names)}")
        columns = torch.tensor([self.concept_names.index(name) for name in names])
        members = self._members()[:, columns]
        kept = members.any(1)
        labels = members[kept] if self.overlapping else members[kept].int().argmax(1)
        if not len(labels):
            raise DataError(f"No sample belongs to {', '.join(map(repr, names))}.")
        return replace(self, labels=labels, concept_names=tuple(names), index=self._index()[kept])

    def limit(self, per_concept: int) -> LabelledBatches:
        """At most the first ``per_concept`` samples of every concept (more only where concepts overlap)."""
        if per_concept < 1:
            raise DataError(f"Expected at least 1 sample per concept, got {per_concept}.")
        members = self._members()
        kept = (members & (members.cumsum(0) <= per_concept)).any(1)
        return replace(self, labels=self.labels[kept], index=self._index()[kept])

    def _index(self) -> Tensor:
        return torch.arange(len(self.samples)) if self.index is None else self.index

    def _members(self) -> Tensor:
        """``[N, K]`` bool: which samples belong to which concept."""
        return self.labels if self.overlapping else self.labels[:, None] == torch.arange(len(self.concept_names))

    def _batches(self, index: Tensor) -> Batches:
        return Batches(self.samples, index, self.batch_size, self._finish)

    def _finish(self, stored: Tensor) -> Tensor:
        inputs = stored if self.prepare is None else self.prepare(stored)
        return inputs.to(self.dtype) if inputs.is_floating_point() and self.dtype is not None else inputs
