"""One reading of the data: batch by batch, concept by concept, and from checkpoint to checkpoint, to a recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lashley.checkpoint import Checkpoint
from lashley.data.concepts import Members, Stream
from lashley.edit.offsets import Fold
from lashley.errors import DataError
from lashley.ledger import Ledger, digest_of
from lashley.observer import Observer
from lashley.provenance import environment
from lashley.recording import Recording, Site, manifest_of
from lashley.shelf import rows_in
from lashley.subject import Subject
from lashley.tally import Tally

__all__ = ["Run"]


class Run:
    """Has the batches observed that no earlier run counted, and keeps the books.

    Args:
        subject: the model.
        stream: the data, which the caller reads batch by batch.
        observer: that counts rows.
        tally: what it counts them in.
        saved: where concepts that are over are kept, and how far the run has come; None: in memory.
    """

    def __init__(
        self, subject: Subject, stream: Stream, observer: Observer, tally: Tally, saved: Checkpoint | None
    ) -> None:
        self.subject, self.stream = subject, stream
        self.observer, self.tally, self.saved = observer, tally, saved
        self.weights = subject.fingerprints()  # before a forward of the user's own can change them
        self.ledger = Ledger()
        if saved is not None and saved.progress:
            self._resume(saved)

    def take(self, batch: Any, members: Members) -> None:
        """One batch, in the order of the data: count it, unless an earlier run did."""
        concept = str(members.parts[0][0]) if self.stream.mapping else ""
        found = digest_of(batch, members)
        counted = self.ledger.counted(concept, found)
        if not counted:
            if concept not in self.ledger.batches:
                self._close_last()
            self.observer.observe(self.ledger.number, batch, members)
        self.ledger.enter(concept, found)
        if self.saved is not None and self.saved.due and not counted:
            self._save(self.saved)

    def finish(self) -> Recording:
        """The recording. A mapping's concepts must all have rows; a labelled shard may lack one that another has."""
        self.ledger.check_end()
        concepts = self.stream.concepts
        if concepts is None:
            concepts = tuple(sorted(self.tally.concepts, key=_natural))
        for number, concept in enumerate(concepts):
            if not self.tally.closed(number):
                self.tally.close(number, concept)
        sites = tuple(self.tally.site(name) for name in self.tally.sums)
        kept = self.tally.kept(concepts)
        _check_rows(sites, kept if self.stream.mapping else ())
        recording = Recording(
            concepts=concepts,
            layers=self.subject.layers,
            sites=sites,
            kept=kept,
            pooled=self.tally.close_all(),
            keep=self.tally.keep,
            dtype=self.tally.dtype,
            overlapping=self.tally.overlapping,
            weights=self.weights,
            shards=(self.ledger.shard(),),
            folds=self.observer.folds,
            made_by=environment(),
        )
        if self.saved is not None:
            manifest = {**manifest_of(recording, self.tally.entries), "batches": self.ledger.batches}
            self.saved.finish(manifest, self.tally.files)
        return recording

    def _close_last(self) -> None:
        """Another concept begins, so that the last one is over."""
        if not self.ledger.batches:
            return
        last = list(self.ledger.batches)[-1]
        number = list(self.stream.data).index(last)
        if not self.tally.closed(number):
            self.tally.close(number, last)
            if self.saved is not None and self.saved.due_early:  # the fewest sums are growing now
                self._save(self.saved)

    def _resume(self, saved: Checkpoint) -> None:
        """Go on where another run was stopped."""
        facts = saved.progress
        self.ledger = Ledger(facts["batches"])
        self.tally.restore(facts["tally"], saved.state())
        self.observer.resume({name: Fold(**fold) for name, fold in facts["folds"].items()}, facts.get("divides"))

    def _save(self, saved: Checkpoint) -> None:
        """Write what the next run needs to go on after this batch."""
        facts, tensors = self.tally.state()
        progress = {
            "share": self.observer.share,
            "batches": self.ledger.batches,
            "folds": {name: fold._asdict() for name, fold in self.observer.folds.items()},
            "divides": self.observer.divides,
            "tally": facts,
        }
        saved.step(progress, tensors, self.tally.files)


def _check_rows(sites: Sequence[Site], kept: Sequence[Mapping[str, list[Any]]]) -> None:
    """Every site has rows, and so has every concept there.

    Args:
        kept: what is kept of the concepts that must have some, per site.
    """
    for site in sites:
        if not site.rows:
            raise DataError(
                f"Expected at least one row at site {site.name!r}, got none: the batches are empty, or the mask "
                "selects nothing (are all labels -100, or is the attention mask all zeros?)."
            )
    for site, held in zip(sites, kept, strict=False):
        for concept in held:
            if not rows_in(held, concept):
                raise DataError(
                    f"Expected concept {concept!r} to have rows, got none at site {site.name!r}: its batches are "
                    "empty (a generator that was read before?) or its mask selects nothing."
                )


def _natural(name: str) -> tuple[int, int, str]:
    """Numbers in the order of numbers, before texts."""
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)
