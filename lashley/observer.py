"""One forward pass after another: what the layers read in it becomes rows, and rows are counted.

How sites are found: in the first batch every layer keeps its own moments and the identity of the tensors it read.
Layers that read the very same tensors, call by call, and make the same rows of them are one site from then on; each
later batch checks that they still do. If one day they do not, and the data can be read again, the recording starts
over with a site per layer.

When the forward may stop early: with the default forward, once two whole passes have called every layer exactly once
in the same order, a pass ends when the last of them has its input. The head of a causal language model of transformers
comes last by the promise of its class, so that it is never computed whole: its input alone is needed.

When a batch is several passes: with the default forward and the default rows, padded batches of a model of transformers
are run in parts of like length, once one of them was run both ways and the rows were the same (`lashley.division`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lashley.audit import Audit
from lashley.data.batches import batch_size
from lashley.data.concepts import Members
from lashley.data.masks import Part, default_mask, fit_mask
from lashley.data.parts import Portion
from lashley.data.rows import Pick, pick
from lashley.division import Division, Witness
from lashley.edit.offsets import Fold
from lashley.errors import DataError, RecordingError
from lashley.hooks import EarlyStop, Identities, Sharing, StopForward, aside, at_rest, tapped
from lashley.kernels import swift
from lashley.layers import Layer
from lashley.provenance import fingerprint
from lashley.recording import Site
from lashley.subject import Encoder, Subject
from lashley.tally import Tally

__all__ = ["Forward", "Observer", "Rows"]

Rows = Callable[[Any, Site], Tensor]
Forward = Callable[[nn.Module, Any], object]


@dataclass
class _Pass:
    """What is known of the forward pass under way: its batch, the layers called so far, and what they read.

    Attributes:
        audit: in the first pass.
        apart: the same pass as a witness sees it, where there is one.
        sums: of rows, with the layer they are of: finite exactly when every row is.
    """

    number: int
    batch: Any
    members: Members
    audit: Audit | None = None
    apart: _Apart | None = None
    identities: Identities = field(default_factory=Identities)
    fired: list[str] = field(default_factory=list)
    picks: dict[object, list[Pick]] = field(default_factory=dict)
    sums: list[tuple[str, Tensor]] = field(default_factory=list)

    def check_finite(self) -> None:
        """Of every input: a sum tells, and one look at all of them at the end spares a wait at every layer."""
        by_device: dict[torch.device, list[Tensor]] = {}
        for _, total in self.sums:
            by_device.setdefault(total.device, []).append(total)
        if all(torch.isfinite(torch.cat(totals)).all() for totals in by_device.values()):  # waits for a device once
            return
        name = next(name for name, total in self.sums if not torch.isfinite(total).all())
        raise RecordingError(
            f"Expected finite inputs, got nan or inf in the input of layer {name!r} in batch {self.number}. "
            "Check that batch, or the model's precision (float16 overflows beyond 65504)."
        )


@dataclass
class _Apart(_Pass):
    """A pass in which every sample is by itself, for a witness to see."""

    witness: Witness = field(default_factory=Witness)

    @staticmethod
    def of(number: int, batch: Any, samples: Iterable[int], witness: Witness) -> _Apart:
        """The batch of these samples of the whole one."""
        return _Apart(number, batch, Witness.members(samples), witness=witness)


class Observer:
    """Runs batches through a model and has the rows of every layer counted, layer by layer and then site by site.

    Args:
        tally: that counts them.
        rows, forward: as `lashley.record` takes them.
        share: whether layers that make the same rows are one site.

    Attributes:
        folds: what the first batch showed of layers without a bias (`Audit.folds`).
    """

    def __init__(
        self,
        subject: Subject,
        tally: Tally,
        rows: Rows | None,
        forward: Forward | None,
        share: bool,
    ) -> None:
        self.share = share
        self.folds: dict[str, Fold] = {}
        self._subject, self._tally = subject, tally
        self._rows, self._forward = rows, forward
        self._encoder = Encoder(subject)
        self._sharing = Sharing() if share else None
        self._stop = EarlyStop(len(subject.layers), subject.last) if forward is None else None
        self._division = Division(subject) if forward is None and rows is None else None

    @property
    def divides(self) -> bool | None:
        """Whether batches are run in parts where that spares padding; None as long as nothing has decided it."""
        return None if self._division is None else self._division.agreed

    def resume(self, folds: Mapping[str, Fold], divides: bool | None) -> None:
        """Go on after the first batch: this was found so far, and the sites are those of the tally."""
        self.folds = dict(folds)
        if self._division is not None:
            self._division.agreed = divides
        if self._sharing is not None:
            self._sharing.leader = dict(self._tally.leader)

    def observe(self, number: int, batch: Any, members: Members) -> None:
        """The forward pass of a batch, or those of its parts, and the rows of every layer to the sums of its concepts.

        Args:
            number: of the batch. Batch 0 finds the sites and is looked at more closely (`Audit`).

        Raises:
            DataError: labels or a mask that do not fit; the batch is named.
            RecordingError: a layer that the first batch does not call, an input that is not finite.
            Diverged: layers that shared a site no longer do.
        """
        self._tally.overlapping |= any(concept is None for concept, _ in members.parts)
        if self._tally.counts_all:
            members = Members([*members.parts, (None, None)], members.samples)
        audit = Audit(self._subject) if number == 0 else None
        portions = None if self._division is None else self._division.portions(batch, members.samples)
        if self._division is None or portions is None:
            self._count(_Pass(number, batch, members, audit))
        elif self._division.agreed:
            for portion in portions:
                self._count(_Pass(number, portion.batch, portion.members(members)))
        else:
            whole, samples = Witness(), range(sum(len(portion.samples) for portion in portions))
            self._count(_Pass(number, batch, members, audit, _Apart.of(number, batch, samples, whole)))
            # The longest part may have lost nothing, and would prove nothing for most of the work.
            width = batch["attention_mask"].shape[1]
            cut = [portion for portion in portions if portion.batch["attention_mask"].shape[1] < width]
            self._try_parts(self._division, number, whole, cut)

    def _count(self, now: _Pass) -> None:
        """A forward pass, and the rows of every layer to the sums."""
        audit = now.audit
        if self._sharing is not None:
            self._sharing.begin()
        try:
            with (
                tapped(
                    self._subject.modules,
                    partial(self._on_input, now),
                    None if audit is None else audit.wrote,
                    layers=self._subject.layers,
                ),
                self._encoder.watched(now.identities),
                nullcontext() if audit is None else audit.watching(now.identities),
            ):
                self._run(now)
            if self._stop is not None:
                self._stop.learn(now.fired)
        except StopForward:
            pass  # every site has its rows
        except DataError as error:
            raise DataError(f"Batch {now.number}: {error}") from None
        now.check_finite()
        if audit is not None:
            audit.check_all_called()
            self.folds = audit.folds()
            self._find_sites()
        elif self._sharing is not None:
            self._sharing.check()

    def _try_parts(self, division: Division, number: int, whole: Witness, portions: Sequence[Portion]) -> None:
        """Run parts of a batch that was counted whole, to see whether those that follow may be counted in parts.

        Args:
            whole: what was seen when it was counted.
        """
        parts = Witness()
        with at_rest(self._subject.given):  # random numbers that the passes draw are not missed by those that count
            for portion in portions:
                now = _Apart.of(number, portion.batch, portion.samples.tolist(), parts)
                try:
                    with tapped(self._subject.modules, partial(self._on_trial, now), layers=self._subject.layers):
                        self._run(now)
                except StopForward:
                    pass
                except Exception as error:  # whatever it is, the whole batch did without
                    division.fail(error)
                    return
        samples = torch.cat([portion.samples for portion in portions]).tolist()
        division.compare(whole, parts, self._tally.sums, samples)

    def _run(self, now: _Pass) -> None:
        """The user's forward pass, or the default one."""
        if self._forward is not None:
            with swift():
                self._forward(self._subject.model, now.batch)
            return
        size, labels = batch_size(now.batch), now.members.samples
        if size is not None and labels not in (None, size):
            raise DataError(f"Expected concept_of to give a label for each of {size} samples, got {labels} labels.")
        with swift():
            self._subject.call(now.batch)

    def _on_input(self, now: _Pass, name: str, x: Tensor) -> None:
        """A layer is called: who gets which rows of what it reads, and is that all that the pass is for?"""
        layer = self._subject.layers[name]
        now.fired.append(name)
        number = now.identities.number(x)
        part = self._encoder.part(name, number)
        if self._sharing is not None:
            self._sharing.saw(name, number)
            if now.audit is not None:
                self._sharing.note(name, (part, layer.rows_key))
        x = layer.batched(x.detach())
        if now.audit is not None:
            now.audit.read(name, x)
        if name in self._tally.sums:
            picks = self._picks(now, layer, layer.lead(tuple(x.shape)), part, x.device)
            with aside():
                now.sums += [(name, t.flatten()) for chosen in picks for t in self._tally.add(name, chosen, x)]
            if now.apart is not None:
                self._show(now.apart, layer, x)
        if self._stop is not None and self._stop.reached(now.fired):
            if now.audit is not None:  # only a head is reached in the first pass
                now.audit.cut_short(name)
            raise StopForward

    def _on_trial(self, now: _Apart, name: str, x: Tensor) -> None:
        """A layer is called in a pass that is not counted."""
        now.fired.append(name)
        if name in self._tally.sums:
            layer = self._subject.layers[name]
            self._show(now, layer, layer.batched(x.detach()))
        if self._stop is not None and self._stop.reached(now.fired):
            raise StopForward

    def _show(self, now: _Apart, layer: Layer, x: Tensor) -> None:
        """Show the witness what a layer reads. Models that have an encoder beside a decoder are not divided."""
        now.witness.saw(layer, x, self._picks(now, layer, layer.lead(tuple(x.shape)), "whole", x.device))

    def _picks(self, now: _Pass, layer: Layer, lead: tuple[int, ...], part: Part, device: torch.device) -> list[Pick]:
        """Who gets which rows: worked out once a batch for all layers alike, or layer by layer where a user's mask
        may tell them apart.
        """
        if self._rows is not None:
            mask = fit_mask(self._rows(now.batch, self._tally.site(layer.name)), lead, layer.name, given=True)
            if self._sharing is not None and now.number == 0:
                self._sharing.note(layer.name, fingerprint(mask))
            return pick(now.members, mask, layer, lead, device)
        key = (lead, part, device, layer.samples_first)
        if key not in now.picks:
            default = default_mask(now.batch, part)
            fitted = None if default is None else fit_mask(default, lead, layer.name, given=False)
            now.picks[key] = pick(now.members, fitted, layer, lead, device)
        return now.picks[key]

    def _find_sites(self) -> None:
        """After the first pass: from now on one of the layers at each site is enough."""
        if self._sharing is None:
            self._tally.share({})
            return
        self._sharing.find()
        self._tally.share(self._sharing.leader)
