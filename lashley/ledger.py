"""Which batches were read: by that a run that goes on, or a complete one, sees that the data are still the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lashley.data.batches import batch_digest
from lashley.data.concepts import Members, Stream
from lashley.errors import DataError
from lashley.provenance import digest

__all__ = ["Ledger", "check_beginning", "digest_of"]


class Ledger:
    """The batches of one run, in the order of the data.

    Args:
        counted: those that an earlier run counted, as its `batches`.

    Attributes:
        batches: digests, by concept; under "" where the data are one iterable.
        number: how many there are.
    """

    def __init__(self, counted: Mapping[str, Sequence[str]] | None = None) -> None:
        self.batches: dict[str, list[str]] = {}
        self.number = 0
        self._counted = [found for digests in (counted or {}).values() for found in digests]

    def counted(self, concept: str, found: str) -> bool:
        """Whether an earlier run counted the batch that comes next.

        Args:
            found: its digest (`digest_of`).

        Raises:
            DataError: that run read another one here.
        """
        if self.number >= len(self._counted):
            return False
        if found != self._counted[self.number]:
            raise _other_data(f"batch {self.number}", concept, self._counted[self.number], found)
        return True

    def enter(self, concept: str, found: str) -> None:
        """The next batch was read."""
        self.batches.setdefault(concept, []).append(found)
        self.number += 1

    def check_end(self) -> None:
        """The data are over.

        Raises:
            DataError: there were none, or fewer than an earlier run counted.
        """
        if not self.number:
            raise DataError("Expected at least one batch, got none. A generator that was read before is empty.")
        if self.number < len(self._counted):
            raise _other_data("the number of batches", "", f"at least {len(self._counted)}", self.number)

    def shard(self) -> str:
        """A digest of all batches: what `merge` knows a recording by."""
        return digest(*(found for digests in self.batches.values() for found in digests))


def digest_of(batch: Any, members: Members) -> str:
    """By which a batch is recognised: its content, and who belongs where."""
    labels = [(concept, None if samples is None else samples.tolist()) for concept, samples in members.parts]
    return digest(labels, batch_digest(batch))


def check_beginning(stream: Stream, concept: str, known: Sequence[str]) -> None:
    """Are these still the data of a complete recording? The first batch and the number of all of them are compared.

    Args:
        concept: whose batches they are; "" where the data are one iterable.
        known: their digests.

    Raises:
        DataError: they are others.
    """
    found = next((digest_of(batch, members) for batch, members in stream), None)
    if found != known[0]:
        raise _other_data("the first batch", concept, known[0], found)
    if stream.total not in (None, len(known)):
        raise _other_data("the number of batches", concept, len(known), stream.total)


def _other_data(what: str, concept: str, there: object, now: object) -> DataError:
    return DataError(
        f"Expected the data that the checkpoint was made with, got others: {what}"
        + (f" of {concept!r}" if concept else "")
        + f" was {there} there and is {now} now. Are they shuffled anew, or changed at random? Give the same batches "
        "in the same order, or another folder."
    )
