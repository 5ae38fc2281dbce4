"""Numbers of samples, batch by batch, and what follows from them with its interval.

A statistic is a function of sums over the samples of each concept. Samples are drawn again concept by concept, the same
ones for every number, so that numbers of one check can be compared.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lashley.data.batches import batch_size
from lashley.data.concepts import Members, Stream
from lashley.errors import DataError
from lashley.ledger import Ledger, digest_of
from lashley.stats import Interval

__all__ = ["LEAST", "Group", "Samples", "Sheet", "Sums", "check_counts"]

LEAST = 10  # samples of the target, and of the others: fewer say nothing about their spread
_DRAWN = 2**24  # numbers of draws held at a time: 128 MiB


class Samples:
    """Samples to measure on, with their concepts: the same ones in the same order at every reading.

    Attributes:
        concepts: of every sample.
        shard: digest of all batches, by which a recording of the same data is known.

    Raises:
        DataError: samples of several concepts or of none, a batch that does not say how many samples it has; later,
            data that come in another order.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._first = ""
        self.concepts: list[str] = []
        ledger = Ledger()
        for number, (batch, members) in enumerate(stream):
            self.concepts += _concepts_of(number, batch, members)
            digest = digest_of(batch, members)
            self._first = self._first or digest
            ledger.enter(str(members.parts[0][0]) if stream.mapping and members.parts else "", digest)
        self.shard = ledger.shard()

    def __iter__(self) -> Iterator[tuple[Any, list[str]]]:
        """Every batch with the concept of each of its samples."""
        place = 0
        for number, (batch, members) in enumerate(self._stream):
            concepts = _concepts_of(number, batch, members)
            others = number == 0 and digest_of(batch, members) != self._first
            if others or concepts != self.concepts[place : place + len(concepts)]:
                raise _moved(f"others in batch {number}")
            place += len(concepts)
            yield batch, concepts
        if place < len(self.concepts):
            raise _moved(f"{place} of {len(self.concepts)}")


def _moved(what: str) -> DataError:
    return DataError(
        f"Expected the same samples in the same order at every reading, got {what}: every edit is measured on the same "
        "ones. Give a DataLoader with shuffle=False and nothing random."
    )


def _concepts_of(number: int, batch: Any, members: Members) -> list[str]:
    """The concept of each sample of a batch."""
    if any(concept is None for concept, _ in members.parts):
        raise DataError(
            f"Expected every sample to belong to one concept, got bool labels in batch {number}, with which it may "
            "belong to several or none. Give a mapping {concept: batches} of samples that do not overlap."
        )
    samples = members.samples if members.samples is not None else batch_size(batch)
    if samples is None:
        raise DataError(
            f"Expected batch {number} to say how many samples it has, by tensors with the same first dim; got "
            f"{type(batch).__name__}. Give one loader with concept_of, whose labels are counted."
        )
    concepts = [""] * samples
    for concept, index in members.parts:
        for place in range(samples) if index is None else index.tolist():
            concepts[place] = str(concept)
    return concepts


class Sheet:
    """A number per sample under every key, in the order of the batches; what a batch does not enter is 0."""

    def __init__(self) -> None:
        self._parts: dict[Hashable, list[tuple[int, Tensor]]] = {}
        self._start = self._stop = 0

    def begin(self, samples: int) -> None:
        """A new batch of so many."""
        self._start, self._stop = self._stop, self._stop + samples

    def add(self, key: Hashable, values: Tensor) -> None:
        """Numbers ``[N]`` of the batch; a second time under the same key they are added."""
        self._parts.setdefault(key, []).append((self._start, values.detach().to("cpu", torch.float64)))

    def __getitem__(self, key: Hashable) -> Tensor:
        column = torch.zeros(self._stop, dtype=torch.float64)
        for start, values in self._parts.get(key, ()):
            column[start : start + len(values)] += values
        return column

    def __contains__(self, key: object) -> bool:
        return key in self._parts

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._parts)


class Group:
    """The samples of a sheet by concept, and their draws.

    Args:
        concepts: of every sample.
        targets: the concepts in question.
        resamples, level, seed: of the bootstrap; 0 resamples: no intervals.

    Attributes:
        names: of the concepts, in the order in which they come.
        members: the indices of each one's samples.
        target, others: the places of the targets among the names, and of the rest.
        counts: of each one's samples.

    Raises:
        DataError: resamples below 0, or a level outside of (0, 1).
    """

    def __init__(
        self, concepts: Sequence[str], targets: Sequence[str], resamples: int, level: float, seed: int
    ) -> None:
        if resamples < 0 or not 0 < level < 1:
            raise DataError(
                f"Expected resamples of 0 or more and a level between 0 and 1, got {resamples} and {level}. A level of "
                "0.95 leaves one in twenty outside."
            )
        self.names = list(dict.fromkeys(concepts))
        place = {name: number for number, name in enumerate(self.names)}
        codes = torch.tensor([place[name] for name in concepts], dtype=torch.long)
        self.members = [(codes == number).nonzero().flatten() for number in range(len(self.names))]
        self.target = [place[name] for name in targets if name in place]
        self.others = [number for number in range(len(self.names)) if number not in self.target]
        self.counts = torch.tensor([len(index) for index in self.members], dtype=torch.float64)
        self._targets, self._resamples, self._level, self._seed = targets, resamples, level, seed

    def like(self, concepts: Sequence[str]) -> Group:
        """Of other samples, with the same settings."""
        return Group(concepts, self._targets, self._resamples, self._level, self._seed)

    def sums(self, columns: Mapping[Hashable, Tensor]) -> Sums:
        """Of columns ``[N]``: over the samples of each concept, as they are and drawn again."""
        keys = list(columns)
        stacked = torch.stack([columns[key] for key in keys], 1)
        found = torch.zeros(1 + self._resamples, len(self.names), len(keys), dtype=torch.float64)
        for number, index in enumerate(self.members):
            values = stacked[index]
            found[0, number] = values.sum(0)
            generator = torch.Generator().manual_seed(self._seed + zlib.crc32(self.names[number].encode()))
            step = max(1, _DRAWN // len(index))
            for start in range(0, self._resamples, step):
                rows = min(step, self._resamples - start)
                draws = torch.randint(len(index), (rows, len(index)), generator=generator)
                ones = torch.ones((), dtype=torch.float64).expand(draws.shape)
                weights = torch.zeros(rows, len(index), dtype=torch.float64).scatter_add_(1, draws, ones)
                found[1 + start : 1 + start + rows, number] = weights @ values
        return Sums(self, {key: found[:, :, place] for place, key in enumerate(keys)}, self._level)


class Sums:
    """Sums over the samples of each concept, ``[1 + R, concepts]``: as they are in row 0, drawn again in the others."""

    def __init__(self, group: Group, sums: Mapping[Hashable, Tensor], level: float) -> None:
        self.group, self._sums, self._level = group, sums, level

    def __contains__(self, key: object) -> bool:
        return key in self._sums

    def total(self, key: Hashable, concepts: Sequence[int]) -> Tensor:
        """Over some concepts: ``[1 + R]``."""
        return self._sums[key][:, list(concepts)].sum(1)

    def mean(self, key: Hashable, concepts: Sequence[int]) -> Tensor:
        """Over the samples of some concepts: ``[1 + R]``."""
        return self.total(key, concepts) / self.group.counts[list(concepts)].sum()

    def means(self, key: Hashable, concepts: Sequence[int]) -> Tensor:
        """Of each of some concepts: ``[1 + R, concepts]``."""
        return self._sums[key][:, list(concepts)] / self.group.counts[list(concepts)]

    def interval(self, values: Tensor) -> Interval | None:
        """The first of ``values [1 + R]`` and where the others fall; None where it is not defined."""
        value, draws = values[0].item(), values[1:][torch.isfinite(values[1:])]
        if not torch.isfinite(values[0]):
            return None
        if not len(draws):
            return Interval(value, value, value)
        ends = torch.tensor([(1 - self._level) / 2, (1 + self._level) / 2], dtype=torch.float64)
        low, high = draws.quantile(ends).tolist()
        return Interval(value, low, high)


def check_counts(concepts: Iterable[str], targets: Sequence[str]) -> None:
    """Refuse data that cannot tell.

    Raises:
        DataError: a target without samples, or fewer than `LEAST` of the target or of the others.
    """
    counts: dict[str, int] = {}
    for concept in concepts:
        counts[concept] = counts.get(concept, 0) + 1
    for target in targets:
        if target not in counts:
            raise DataError(
                f"Expected samples of {target!r}, got some of {', '.join(map(repr, sorted(counts))) or 'nothing'}. "
                "The criteria are measured on the concept's own samples and on others."
            )
    own = sum(counts[target] for target in targets)
    others = sum(counts.values()) - own
    for found, whose in ((own, f"of {' and '.join(map(repr, targets))}"), (others, "of other concepts")):
        if found < LEAST:
            raise DataError(
                f"Expected at least {LEAST} samples {whose}, got {found}: fewer do not say how sure a number is. "
                f"Give {LEAST - found} more, or leave data out: the criteria of the recording alone need no samples."
            )
