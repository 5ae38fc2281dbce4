"""One forward pass over the data: every selected layer's input becomes moments, one per concept and site.

How sites are found: in the first batch every layer keeps its own moments and the identity of the tensors it read.
Layers that read the very same tensors, call by call, and make the same rows of them are one site from then on; each
later batch checks that they still do. If one day they do not, and the data can be read again, the recording starts
over with a site per layer.

When the forward may stop early: with the default forward, once two whole passes have called every layer exactly once
in the same order, a pass ends when the last of them has its input. A head whose input alone is needed is not computed.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lashley.data.batches import batch_digest, batch_size, call, moved, total_batches
from lashley.data.concepts import Members, check_data, stream
from lashley.data.masks import Part, default_mask, fit_mask
from lashley.data.rows import Pick, indices_of, pick, rows_of
from lashley.edit.offsets import FoldSearch
from lashley.errors import DataError, LashleyWarning, RecordingError
from lashley.hooks import Diverged, EarlyStop, Identities, Sharing, StopForward, at_rest, tapped
from lashley.layers import Layer, deviation, places, unwrap
from lashley.layers.base import Gatherer
from lashley.moments import Counts, Moment
from lashley.progress import track
from lashley.provenance import digest, environment, fingerprint
from lashley.recording import Recording, Site
from lashley.select import Indices, Patterns, select
from lashley.shifts import Shifts

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
    dtype: torch.dtype | None = None,
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
        dtype: of the products; default float64 up to 256 columns (and for float64 rows), float32 above. Sums are
            float64.
        progress: None: a bar on a terminal, silence elsewhere. True and False force it.

    Raises:
        DataError: no batches, a bare tensor, labels out of range, a mask of no rows or of the wrong shape.
        SelectionError, ModelError: a pattern that matches nothing, a layer that cannot be recorded.
        RecordingError: a layer that never fires, an input that is not finite; layer and batch are named.
    """
    check_data(data, concept_of, concept_names)
    if dtype not in (None, torch.float32, torch.float64):
        raise DataError(f"Expected dtype to be torch.float32, torch.float64 or None, got {dtype}.")
    inner = unwrap(model)
    layers = select(inner, target_modules, exclude_modules, layers_to_transform, layers_pattern)
    parts = [data] if concept_of is not None else list(data.values())  # type: ignore[union-attr]

    def run(share: bool) -> Recording:
        recorder = _Recorder(inner, layers, rows, forward, dtype, share)
        with at_rest(model):
            batches = stream(data, concept_of, concept_names)
            for batch, members in track(batches, total_batches(parts), "recording", "batches", progress):
                recorder.step(batch, members)
            if concept_of is None:
                return recorder.finish(tuple(data), complete=True)
            return recorder.finish(None if concept_names is None else tuple(concept_names), complete=False)

    try:
        return run(share=True)
    except Diverged as split:
        if any(isinstance(part, Iterator) for part in parts):
            raise RecordingError(
                f"Layers {split.leader!r} and {split.follower!r} read one tensor in the first batch and different ones "
                "later; the recording has to start over without sharing, but the data is an iterator that cannot be "
                "read again. Give lists or DataLoaders."
            ) from None
        warnings.warn(
            f"Layers {split.leader!r} and {split.follower!r} read one tensor in the first batch and different ones "
            "later; recording again, with a moment for each layer.",
            LashleyWarning,
            stacklevel=2,
        )
    return run(share=False)


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
    """Runs batches through a model and keeps the moments of every concept, layer by layer and then site by site."""

    def __init__(
        self,
        model: nn.Module,
        layers: dict[str, Layer],
        rows: Rows | None,
        forward: Forward | None,
        dtype: torch.dtype | None,
        share: bool,
    ) -> None:
        self.model, self.layers, self.dtype = model, layers, dtype
        self.rows, self.forward = rows, forward
        found = places(model)
        self.modules = {name: found[name] for name in layers}
        self.weights = {name: fingerprint(self._weight(name)) for name in layers}
        self.encoder = _Encoder(model, self.modules)
        self.device = _single_device(model)
        self.keywords = _extra_keywords(model)
        self.sharing = Sharing() if share else None
        self.stop = EarlyStop(len(layers)) if forward is None else None
        # For each layer that leads a site: moments by concept; the concept None is every row, where concepts overlap.
        self.held: dict[str, dict[str | None, Gatherer]] = {name: {} for name in layers}
        self.first_samples: dict[str, Tensor] = {}
        self.digests: list[str] = []
        self.overlapping = False
        self.now = _Pass(0, None, Members([]))
        self.folds = FoldSearch(model, layers)

    def step(self, batch: Any, members: Members) -> None:
        """One batch: its forward pass, and the rows of every layer into the moments of its concepts."""
        self.now = now = _Pass(len(self.digests), batch, members)
        self.overlapping |= any(concept is None for concept, _ in members.parts)
        on_output = self._on_output if now.number == 0 else None
        if self.sharing is not None:
            self.sharing.begin()
        try:
            with (
                tapped(self.modules, self._on_input, on_output, layers=self.layers),
                self.encoder.watched(now.identities),
                self.folds.watching(now.identities) if now.number == 0 else nullcontext(),
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
        self._check_sharing()
        self.digests.append(digest([concept for concept, _ in members.parts], batch_digest(batch)))

    def _run(self, batch: Any) -> None:
        if self.forward is not None:
            self.forward(self.model, batch)
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
        if name in self.held:
            for chosen in self._picks(layer, layer.lead(tuple(x.shape)), part, x.device):
                self._add(name, chosen, x)
        if self.stop is not None and self.stop.reached(now.fired):
            raise StopForward

    def _picks(self, layer: Layer, lead: tuple[int, ...], part: Part, device: torch.device) -> list[Pick]:
        """Who gets which rows: worked out once a batch for all layers alike, or layer by layer where a user's mask
        may tell them apart.
        """
        now = self.now
        if self.rows is not None:
            mask = fit_mask(self.rows(now.batch, self._site(layer.name)), lead, layer.name, given=True)
            if self.sharing is not None and now.number == 0:
                self.sharing.note(layer.name, fingerprint(mask))
            return pick(now.members, mask, layer, lead, device)
        key = (lead, part, device, layer.samples_first)
        if key not in now.picks:
            default = default_mask(now.batch, part)
            fitted = None if default is None else fit_mask(default, lead, layer.name, given=False)
            now.picks[key] = pick(now.members, fitted, layer, lead, device)
        return now.picks[key]

    def _add(self, name: str, chosen: Pick, x: Tensor) -> None:
        """The chosen rows of an input, into the moments of their concept."""
        held, layer = self.held[name], self.layers[name]
        if (into := held.get(chosen.concept)) is None:
            into = held[chosen.concept] = layer.accumulator(self.dtype)
        if isinstance(into, Shifts) and chosen.mask is None:
            part = x if chosen.samples is None else x.index_select(0, chosen.samples)
            totals = [into.add_images(layer.images(part), owned=part is not x)]
        elif isinstance(into, Counts):
            into.add_indices(indices_of(x, chosen))
            return  # whole numbers are finite
        else:
            here = x.untyped_storage().data_ptr()
            totals = [
                into.add(rows, owned=rows.untyped_storage().data_ptr() != here) for rows in rows_of(layer, x, chosen)
            ]
        self.now.sums += [(name, total.flatten()) for total in totals]

    def _on_output(self, name: str, output: Tensor) -> None:
        """In the first batch: does the layer compute ``W x + b``, and who reads that?"""
        if self.now.fired.count(name) == 1:
            self._check_formula(name, output)
        self.folds.wrote(name, output)

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
        return weight

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
        if self.sharing is None:
            return
        if self.now.number > 0:
            self.sharing.check()
            return
        self.sharing.find()
        for follower in self.sharing.leader:
            del self.held[follower]

    def _site(self, name: str) -> Site:
        """The site that a layer leads, as far as it is known."""
        leader = self.sharing.leader if self.sharing is not None else {}
        readers = (name, *(layer for layer in self.layers if leader.get(layer) == name))
        held = self.held[name]
        every = (held[c].count for c in ([None] if None in held else held))
        return Site(name, self.layers[name].dim, readers, sum(every))

    def finish(self, concepts: tuple[str, ...] | None, complete: bool) -> Recording:
        """The recording.

        Args:
            concepts: in the order they are wanted; None: those that were met.
            complete: whether every concept must have rows. A labelled shard may lack one that another shard has.
        """
        if not self.digests:
            raise DataError("Expected at least one batch, got none. A generator that was read before is empty.")
        if concepts is None:
            met = {concept for held in self.held.values() for concept in held if concept is not None}
            concepts = tuple(sorted(met, key=_natural))
        sites = tuple(self._site(name) for name in self.held)
        for site in sites:
            self._check_rows(site, concepts if complete else ())
        return Recording(
            concepts=concepts,
            layers=self.layers,
            sites=sites,
            moments=[{c: self._moments(site.name, c) for c in concepts} for site in sites],
            pooled=[self._moments(site.name, None) for site in sites] if self.overlapping else None,
            weights=self.weights,
            shards=(digest(*self.digests),),
            folds=self.folds.found(),
            made_by=environment(),
        )

    def _check_rows(self, site: Site, concepts: Iterable[str]) -> None:
        if not site.rows:
            raise DataError(
                f"Expected at least one row at site {site.name!r}, got none: the batches are empty, or the mask "
                "selects nothing (are all labels -100, or is the attention mask all zeros?)."
            )
        for concept in concepts:
            if concept not in self.held[site.name]:
                raise DataError(
                    f"Expected concept {concept!r} to have rows, got none at site {site.name!r}: its batches are empty "
                    "(a generator that was read before?) or its mask selects nothing."
                )

    def _moments(self, name: str, concept: str | None) -> list[Moment]:
        """The moments of one concept at one site, moved to the host's memory."""
        held = self.held[name].pop(concept, None)
        if held is None:
            return self.layers[name].accumulator(self.dtype).moments()
        moments = [moment.to("cpu") for moment in held.moments()]
        if not all(torch.isfinite(block).all() for moment in moments for block in moment.blocks or ()):
            raise RecordingError(
                f"Expected finite moments, got inf at site {name!r}: its inputs are finite, but their squares overflow "
                "float32. Pass dtype=torch.float64."
            )
        return moments


def _natural(name: str) -> tuple[int, int, str]:
    """Numbers in the order of numbers, before texts."""
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)


def _single_device(model: nn.Module) -> torch.device | None:
    devices = {p.device for p in model.parameters()}
    return devices.pop() if len(devices) == 1 else None


def _extra_keywords(model: nn.Module) -> dict[str, Any]:
    """Keywords that spare work a recording has no use for."""
    takes = inspect.signature(model.forward).parameters
    return {"use_cache": False} if "use_cache" in takes else {}
