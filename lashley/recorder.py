"""One forward pass over the data: every selected layer's input becomes moments, one per concept and site.

How sites are found: in the first batch every layer keeps its own moments and the identity of the tensors it read.
Layers that read the very same tensors, call by call, and make the same rows of them are one site from then on; each
later batch checks that they still do. If one day they do not, and the data can be read again, the recording starts
over with a site per layer.

When the forward may stop early: with the default forward, once two whole passes have called every layer exactly once
in the same order, a pass ends when the last of them has its input. The head of a causal language model of transformers
comes last by the promise of its class, so that it is never computed whole: its input alone is needed.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lashley import identity
from lashley.checkpoint import Checkpoint, opened
from lashley.data.batches import batch_digest, batch_size, call, moved
from lashley.data.concepts import Members, Stream, check_data
from lashley.data.masks import Part, default_mask, fit_mask
from lashley.data.rows import Pick, pick
from lashley.edit.offsets import Fold, FoldSearch
from lashley.errors import DataError, LashleyWarning, RecordingError
from lashley.hooks import Diverged, EarlyStop, Identities, Sharing, StopForward, at_rest, tapped
from lashley.layers import Layer, deviation, places, unwrap
from lashley.progress import track
from lashley.provenance import digest, environment, fingerprint
from lashley.recording import Recording, Site, from_folder, manifest_of
from lashley.select import Indices, Patterns, select
from lashley.shelf import rows_in
from lashley.tally import Tally

__all__ = ["record"]

# How far outputs of W x + b may be off in each dtype, as a share of the largest, before it is called another formula.
_OFF_BY = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 8e-2}

Rows = Callable[[Any, Site], Tensor]
Forward = Callable[[nn.Module, Any], object]


def record(
    model: nn.Module,
    data: Mapping[str, Iterable[Any]] | Iterable[Any],
    concept_of: Callable[[Any], Any] | None = None,
    *,
    concept_names: Sequence[str] | None = None,
    target_modules: Patterns = None,
    exclude_modules: Patterns = None,
    layers_to_transform: Indices = None,
    layers_pattern: Patterns = None,
    rows: Rows | None = None,
    forward: Forward | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    dtype: torch.dtype | None = None,
    keep: str = "moments",
    progress: bool | None = None,
) -> Recording:
    """Record the moments of every concept at every site, in one forward pass over the data.

    Args:
        model: any module. It is used in evaluation mode without gradients and given back as it was.
        data: a mapping ``{concept: batches}``, or one iterable of batches with ``concept_of``. A batch is a tensor, a
            tuple or list (its first item is the input) or a mapping (keyword arguments). Tensors are moved to the
            model's device. Concepts of a mapping are taken to be disjoint sets of samples.
        concept_of: ``f(batch) -> labels``: ``[N]`` integers or texts, or bool ``[N, K]`` when concepts may overlap or
            leave samples out; the total then still counts every sample once.
        concept_names: names for integer labels or bool columns; default: the numbers as texts.
        target_modules, exclude_modules, layers_to_transform, layers_pattern: which layers, with PEFT's meaning
            (`lashley.select`). Default: every layer of a known type.
        rows: ``f(batch, site) -> bool`` mask over the first of the leading dims of the site's rows; the batch is as the
            data gave it. Default: ``labels != -100`` at decoder sites of a mapping with token labels, else
            ``attention_mask``, else every row.
        forward: ``f(model, batch)`` in place of the default call; the batch is as the data gave it, and the forward is
            never stopped early.
        checkpoint: a folder. What was counted is written there every half minute (more seldom where that takes long)
            and when a concept of a mapping is over. Killed, the same call goes on from there, and comes to the same
            numbers to the bit; the data are read from the start, without the forward pass, and must be the same. At
            the end the folder is a recording for `Recording.load`, and the same call returns it after a look at the
            first batch of every concept. What is returned reads concepts from the folder when they are needed: of a
            mapping, only the concept under way takes memory.
        dtype: of the products; default float64 up to 256 columns (and for float64 rows), float32 above. Sums are
            float64.
        keep: "moments", or "products": of each concept only ``W S_c``, and the moment of all rows once. That is O x D
            numbers for every layer in place of D x D / 2 for every site: less where the layers that read a site have
            fewer than D / 2 outputs together, as in most convolutions, and more elsewhere. It serves the paper's
            estimator against all rows, and nothing else.
        progress: None: a bar on a terminal, silence elsewhere. True and False force it.

    Raises:
        DataError: no batches, a bare tensor, labels out of range, a mask of no rows or of the wrong shape.
        SelectionError, ModelError: a pattern that matches nothing, a layer that cannot be recorded.
        RecordingError: a layer that never fires, an input that is not finite; layer and batch are named.
        StoreError: a checkpoint of another run, one that is damaged or that another process works on, a full disk; what
            is in the folder stays as it is.
    """
    check_data(data, concept_of, concept_names)
    if keep not in ("moments", "products"):
        raise DataError(f'Expected keep to be "moments" or "products", got {keep!r}.')
    if dtype not in (None, torch.float32, torch.float64):
        raise DataError(f"Expected dtype to be torch.float32, torch.float64 or None, got {dtype}.")
    inner = unwrap(model)
    layers = select(inner, target_modules, exclude_modules, layers_to_transform, layers_pattern)
    stream = Stream(data, concept_of, concept_names)
    asked = _Asked(model, inner, layers, stream, rows, forward, dtype, keep, progress)
    if checkpoint is None:
        return asked.recording(None)
    if stream.once:
        raise DataError(
            "Expected data that can be read again beside checkpoint=, got an iterator: a run that goes on starts with "
            "the first batch, to see that the data are the same. Give lists or DataLoaders."
        )
    with opened(checkpoint, asked.identity()) as saved:
        if saved.complete is None:
            return asked.recording(saved)
        asked.check_beginnings(saved.complete.manifest["batches"])
        return from_folder(saved.complete)


@dataclass
class _Asked:
    """What `record` was asked for, checked.

    Attributes:
        given: the model in the wrappers that it came in; ``model`` is the one inside.
    """

    given: nn.Module
    model: nn.Module
    layers: dict[str, Layer]
    stream: Stream
    rows: Rows | None
    forward: Forward | None
    dtype: torch.dtype | None
    keep: str
    progress: bool | None

    def recording(self, saved: Checkpoint | None) -> Recording:
        """Read all of the data. Where sharing of sites ends on the way, start over without."""
        share = saved is None or saved.progress.get("share", True)
        try:
            return self._pass(saved, share)
        except Diverged as split:
            both = (
                f"Layers {split.leader!r} and {split.follower!r} read one tensor in the first batch and different ones"
            )
            if self.stream.once:
                raise RecordingError(
                    f"{both} later; the recording has to start over without sharing, but the data is an iterator that "
                    "cannot be read again. Give lists or DataLoaders."
                ) from None
            warnings.warn(f"{both} later; recording again, with a moment for each layer.", LashleyWarning, stacklevel=3)
        if saved is not None:
            saved.restart()
        return self._pass(saved, share=False)

    def _pass(self, saved: Checkpoint | None, share: bool) -> Recording:
        recorder = _Recorder(self, saved, share)
        with at_rest(self.given):
            for batch, members in track(self.stream, self.stream.total, "recording", "batches", self.progress):
                recorder.take(batch, members)
            return recorder.finish()

    def identity(self) -> dict[str, Any]:
        """What a checkpoint is the checkpoint of: what must be the same when it goes on."""
        return {
            "data": "{concept: batches}" if self.stream.mapping else "batches with concept_of",
            "concepts": self.stream.concepts,
            "layers": {name: layer.to_json() for name, layer in self.layers.items()},
            "weights": identity.of_tensors(self.model),
            "modules": identity.of_modules(self.model),
            "rows": identity.of_function(self.rows),
            "forward": identity.of_function(self.forward),
            "dtype": None if self.dtype is None else str(self.dtype),
            "keep": self.keep,
        }

    def check_beginnings(self, batches: Mapping[str, Sequence[str]]) -> None:
        """Is this still the data of a complete recording? The first batches and the number of all of them are compared.

        Args:
            batches: digests, by concept; under "" where the data are one iterable.
        """
        for concept, known in batches.items():
            part = self.stream.only(concept) if self.stream.mapping else self.stream
            with at_rest(self.given):
                found = next((_digest(batch, members) for batch, members in part), None)
            if found != known[0]:
                raise _other_data("the first batch", concept, known[0], found)
            if part.total not in (None, len(known)):
                raise _other_data("the number of batches", concept, len(known), part.total)


@dataclass
class _Pass:
    """What is known of the forward pass under way: its batch, the layers called so far, and what they read."""

    number: int
    batch: Any
    members: Members
    identities: Identities = field(default_factory=Identities)
    fired: list[str] = field(default_factory=list)
    picks: dict[object, list[Pick]] = field(default_factory=dict)
    sums: list[tuple[str, Tensor]] = field(default_factory=list)  # of rows: finite exactly when every row is


class _Encoder:
    """Tells the encoder's rows from the decoder's, in the encoder-decoder models of transformers.

    Cross-attention reads the encoder's output from inside the decoder, so names alone would not do.
    """

    def __init__(self, model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
        has_parts = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
        find = getattr(model, "get_encoder", None)
        found = find() if has_parts and callable(find) else None
        self._module = found if isinstance(found, nn.Module) else None
        inside = {id(m) for m in self._module.modules()} if self._module is not None else set()
        self._layers = {name for name, module in modules.items() if id(module) in inside}
        self._outputs: set[int] = set()

    @contextmanager
    def watched(self, identities: Identities) -> Iterator[None]:
        """For one pass: keep the numbers of the tensors that the encoder puts out."""
        self._outputs = set()
        if self._module is None:
            yield
            return

        def keep(_: nn.Module, args: object, output: Any) -> None:
            values = output.values() if isinstance(output, Mapping) else output
            values = [values] if isinstance(values, Tensor) else values
            self._outputs |= {identities.number(t) for t in values if isinstance(t, Tensor)}

        handle = self._module.register_forward_hook(keep)
        try:
            yield
        finally:
            handle.remove()

    def part(self, layer: str, number: int) -> Part:
        """Where the tensor with this number, which the layer reads, comes from."""
        if self._module is None:
            return "whole"
        return "encoder" if layer in self._layers or number in self._outputs else "decoder"


class _Recorder:
    """Runs batches through a model and has the rows of every layer counted, layer by layer and then site by site."""

    def __init__(self, asked: _Asked, saved: Checkpoint | None, share: bool) -> None:
        self.asked, self.saved, self.share = asked, saved, share
        self.model, self.layers = asked.model, asked.layers
        found = places(self.model)
        self.modules = {name: found[name] for name in self.layers}
        weights = {name: self._weight(name) for name in self.layers}
        self.weights = {name: fingerprint(weight) for name, weight in weights.items()}
        self.tally = Tally(self.layers, weights, asked.dtype, asked.keep, asked.stream.mapping, saved)
        self.encoder = _Encoder(self.model, self.modules)
        self.device = _single_device(self.model)
        self.keywords = _extra_keywords(self.model)
        self.sharing = Sharing() if share else None
        last = _head(self.model, self.modules)
        self.stop = EarlyStop(len(self.layers), last) if asked.forward is None else None
        self.first_samples: dict[str, Tensor] = {}
        self.batches: dict[str, list[str]] = {}  # digests, by concept; under "" where the data are one iterable
        self.done: list[str] = []  # digests of the batches that a run before this one counted
        self.number = 0
        self.now = _Pass(0, None, Members([]))
        self.search = FoldSearch(self.model, self.layers)
        self.folds: dict[str, Fold] = {}
        if saved is not None and saved.progress:
            self._resume(saved)

    def take(self, batch: Any, members: Members) -> None:
        """One batch, in the order of the data: count it, unless an earlier run did."""
        concept = str(members.parts[0][0]) if self.asked.stream.mapping else ""
        found = _digest(batch, members)
        if self.number < len(self.done):
            if found != self.done[self.number]:
                raise _other_data(f"batch {self.number}", concept, self.done[self.number], found)
        else:
            if concept not in self.batches:
                self._close_last()
            self._step(batch, members)
        self.batches.setdefault(concept, []).append(found)
        self.number += 1
        if self.saved is not None and self.saved.due and self.number > len(self.done):
            self._save(self.saved)

    def _close_last(self) -> None:
        """Another concept begins, so that the last one is over."""
        if not self.batches:
            return
        last = list(self.batches)[-1]
        number = list(self.asked.stream.data).index(last)
        if not self.tally.closed(number):
            self.tally.close(number, last)
            if self.saved is not None:
                self._save(self.saved)

    def _resume(self, saved: Checkpoint) -> None:
        """Go on where another run was stopped."""
        facts = saved.progress
        self.done = [found for digests in facts["batches"].values() for found in digests]
        self.tally.restore(facts["tally"], saved.state())
        self.folds = {name: Fold(**fold) for name, fold in facts["folds"].items()}
        if self.sharing is not None:
            self.sharing.leader = dict(self.tally.leader)

    def _save(self, saved: Checkpoint) -> None:
        """Write what the next run needs to go on after this batch."""
        facts, tensors = self.tally.state()
        progress = {
            "share": self.share,
            "batches": self.batches,
            "folds": {name: fold._asdict() for name, fold in self.folds.items()},
            "tally": facts,
        }
        saved.step(progress, tensors, self.tally.files)

    def _step(self, batch: Any, members: Members) -> None:
        """The forward pass of a batch, and the rows of every layer to the sums of its concepts."""
        self.tally.overlapping |= any(concept is None for concept, _ in members.parts)
        if self.tally.counts_all:
            members = Members([*members.parts, (None, None)], members.samples)
        self.now = now = _Pass(self.number, batch, members)
        on_output = self._on_output if now.number == 0 else None
        if self.sharing is not None:
            self.sharing.begin()
        try:
            with (
                tapped(self.modules, self._on_input, on_output, layers=self.layers),
                self.encoder.watched(now.identities),
                self.search.watching(now.identities) if now.number == 0 else nullcontext(),
            ):
                self._run(batch)
            if self.stop is not None:
                self.stop.learn(now.fired)
        except StopForward:
            pass  # every site has its rows
        except DataError as error:
            raise DataError(f"Batch {now.number}: {error}") from None
        self._check_finite()
        if now.number == 0:
            self._check_all_fired()
            self.folds = self.search.found()
        self._check_sharing()

    def _run(self, batch: Any) -> None:
        if self.asked.forward is not None:
            self.asked.forward(self.model, batch)
            return
        size, labels = batch_size(batch), self.now.members.samples
        if size is not None and labels not in (None, size):
            raise DataError(f"Expected concept_of to give a label for each of {size} samples, got {labels} labels.")
        if self.device is not None:
            batch = moved(batch, self.device)
        call(self.model, {**self.keywords, **batch} if isinstance(batch, Mapping) else batch)

    def _on_input(self, name: str, x: Tensor) -> None:
        now, layer = self.now, self.layers[name]
        now.fired.append(name)
        number = now.identities.number(x)
        part = self.encoder.part(name, number)
        if self.sharing is not None:
            self.sharing.saw(name, number)
            if now.number == 0:
                self.sharing.note(name, (part, layer.rows_key))
        x = layer.batched(x.detach())
        if now.number == 0 and name not in self.first_samples:
            self.first_samples[name] = x[:1].clone()
        if name in self.tally.sums:
            for chosen in self._picks(layer, layer.lead(tuple(x.shape)), part, x.device):
                now.sums += [(name, total.flatten()) for total in self.tally.add(name, chosen, x)]
        if self.stop is not None and self.stop.reached(now.fired):
            if now.number == 0:  # only a head is reached in the first pass: look at one sample of what it would put out
                self._check_formula(name, self.modules[name].forward(self.first_samples[name]))
            raise StopForward

    def _picks(self, layer: Layer, lead: tuple[int, ...], part: Part, device: torch.device) -> list[Pick]:
        """Who gets which rows: worked out once a batch for all layers alike, or layer by layer where a user's mask
        may tell them apart.
        """
        now = self.now
        if self.asked.rows is not None:
            mask = fit_mask(self.asked.rows(now.batch, self._site(layer.name)), lead, layer.name, given=True)
            if self.sharing is not None and now.number == 0:
                self.sharing.note(layer.name, fingerprint(mask))
            return pick(now.members, mask, layer, lead, device)
        key = (lead, part, device, layer.samples_first)
        if key not in now.picks:
            default = default_mask(now.batch, part)
            fitted = None if default is None else fit_mask(default, lead, layer.name, given=False)
            now.picks[key] = pick(now.members, fitted, layer, lead, device)
        return now.picks[key]

    def _on_output(self, name: str, output: Tensor) -> None:
        """In the first batch: does the layer compute ``W x + b``, and who reads that?"""
        if self.now.fired.count(name) == 1:
            self._check_formula(name, output)
        self.search.wrote(name, output)

    def _check_formula(self, name: str, output: Tensor) -> None:
        """Compare an output with ``W x + b`` of the first sample."""
        x, module, layer = self.first_samples[name], self.modules[name], self.layers[name]
        off = deviation(layer, module, x, output)
        if off > max(_OFF_BY.get(t.dtype, 8e-2) for t in (x, self._weight(name), output)):
            warnings.warn(
                f"Layer {name!r} ({layer.type}) does not compute W x + b of its input: it is off by {off:.2g} times "
                "its largest output. Its class changes the weight or the input on the way, so an engram of the bare "
                "weight may not be what you expect. Exclude it, or register a layer type for its class.",
                LashleyWarning,
                stacklevel=2,
            )

    def _weight(self, name: str) -> Tensor:
        weight = self.layers[name].tensor(self.modules[name], "weight")
        assert weight is not None  # `select` let it through
        return weight.detach()

    def _check_finite(self) -> None:
        by_device: dict[torch.device, list[Tensor]] = {}
        for _, total in self.now.sums:
            by_device.setdefault(total.device, []).append(total)
        if all(torch.isfinite(torch.cat(totals)).all() for totals in by_device.values()):  # waits for a device once
            return
        name = next(name for name, total in self.now.sums if not torch.isfinite(total).all())
        raise RecordingError(
            f"Expected finite inputs, got nan or inf in the input of layer {name!r} in batch {self.now.number}. "
            "Check that batch, or the model's precision (float16 overflows beyond 65504)."
        )

    def _check_all_fired(self) -> None:
        if silent := [name for name in self.layers if name not in self.first_samples]:
            shown = ", ".join(map(repr, silent[:5])) + (f" and {len(silent) - 5} more" if len(silent) > 5 else "")
            raise RecordingError(
                f"Expected every selected layer to fire in the first batch, got no call of {shown}. Likely causes: the "
                "forward pass does not use it in evaluation mode, another module calls its weight as a function "
                "(F.linear, nn.MultiheadAttention), it sits in a part compiled on its own, or an expert got no tokens. "
                "Leave it out with exclude_modules, or pass a forward= that reaches it."
            )

    def _check_sharing(self) -> None:
        if self.now.number > 0:
            if self.sharing is not None:
                self.sharing.check()
            return
        if self.sharing is not None:
            self.sharing.find()
        self.tally.share(self.sharing.leader if self.sharing is not None else {})

    def _site(self, name: str) -> Site:
        """The site that a layer leads, as far as it is known."""
        return Site(name, self.layers[name].dim, self.tally.readers(name), self.tally.rows[name])

    def finish(self) -> Recording:
        """The recording. A mapping's concepts must all have rows; a labelled shard may lack one that another has."""
        if not self.number:
            raise DataError("Expected at least one batch, got none. A generator that was read before is empty.")
        if self.number < len(self.done):
            raise _other_data("the number of batches", "", f"at least {len(self.done)}", self.number)
        concepts = self.asked.stream.concepts
        if concepts is None:
            concepts = tuple(sorted(self.tally.concepts, key=_natural))
        for number, concept in enumerate(concepts):
            if not self.tally.closed(number):
                self.tally.close(number, concept)
        sites = tuple(self._site(name) for name in self.tally.sums)
        kept = self.tally.kept(concepts)
        self._check_rows(sites, kept if self.asked.stream.mapping else ())
        recording = Recording(
            concepts=concepts,
            layers=self.layers,
            sites=sites,
            kept=kept,
            pooled=self.tally.close_all(),
            keep=self.asked.keep,
            dtype=self.asked.dtype,
            overlapping=self.tally.overlapping,
            weights=self.weights,
            shards=(digest(*(found for digests in self.batches.values() for found in digests)),),
            folds=self.folds,
            made_by=environment(),
        )
        if self.saved is not None:
            manifest = {**manifest_of(recording, self.tally.entries), "batches": self.batches}
            self.saved.finish(manifest, self.tally.files)
        return recording

    def _check_rows(self, sites: Sequence[Site], kept: Sequence[Mapping[str, list[Any]]]) -> None:
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


def _digest(batch: Any, members: Members) -> str:
    """By which a batch is recognised: its content, and who belongs where."""
    labels = [(concept, None if samples is None else samples.tolist()) for concept, samples in members.parts]
    return digest(labels, batch_digest(batch))


def _other_data(what: str, concept: str, there: object, now: object) -> DataError:
    return DataError(
        f"Expected the data that the checkpoint was made with, got others: {what}"
        + (f" of {concept!r}" if concept else "")
        + f" was {there} there and is {now} now. Are they shuffled anew, or changed at random? Give the same batches "
        "in the same order, or another folder."
    )


def _natural(name: str) -> tuple[int, int, str]:
    """Numbers in the order of numbers, before texts."""
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)


def _single_device(model: nn.Module) -> torch.device | None:
    devices = {p.device for p in model.parameters()}
    return devices.pop() if len(devices) == 1 else None


def _head(model: nn.Module, modules: Mapping[str, nn.Module]) -> str | None:
    """The head of a causal language model of transformers, which its class calls once and last; None of others."""
    embeddings: Any = getattr(model, "get_output_embeddings", None)
    if embeddings is None or not type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")):
        return None
    head = embeddings()
    return next((name for name, module in modules.items() if module is head and type(head) is nn.Linear), None)


def _extra_keywords(model: nn.Module) -> dict[str, Any]:
    """Keywords that spare work a recording has no use for."""
    takes = inspect.signature(model.forward).parameters
    return {"use_cache": False} if "use_cache" in takes else {}
