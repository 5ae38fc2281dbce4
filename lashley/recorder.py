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
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lashley.data.batches import (
    Membership,
    batch_digest,
    call,
    check_concepts,
    membership,
    moved,
    total_batches,
)
from lashley.data.masks import default_mask, fit_mask
from lashley.errors import DataError, LashleyWarning, RecordingError
from lashley.hooks import StopForward, at_rest, tapped
from lashley.layers import Layer, unwrap
from lashley.moments import Accumulator
from lashley.progress import track
from lashley.provenance import digest, environment, fingerprint
from lashley.recording import Recording, Site
from lashley.select import Patterns, select

__all__ = ["record"]

_CHUNK = 2**24  # elements of unfolded rows held at a time: 64 MiB of float32
_OFF_BY = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 8e-2}


def record(
    model: nn.Module,
    data: Mapping[str, Iterable[Any]] | Iterable[Any],
    concept_of: Callable[[Any], Any] | None = None,
    *,
    concept_names: Sequence[str] | None = None,
    target_modules: Patterns = None,
    exclude_modules: Patterns = None,
    layers_to_transform: int | Iterable[int] | None = None,
    layers_pattern: Patterns = None,
    rows: Callable[[Any, Site], Tensor] | None = None,
    forward: Callable[[nn.Module, Any], object] | None = None,
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
        rows: ``f(batch, site) -> bool`` mask over the leading dims of the site's rows. Default: ``labels != -100`` at
            decoder sites of a mapping with token labels, else ``attention_mask``, else every row.
        forward: ``f(model, batch)`` in place of the default call; the forward is then never stopped early.
        dtype: of the products; default float64 up to 256 columns (and for float64 rows), float32 above. Sums are float64.
        progress: None: a bar on a terminal, silence elsewhere. True and False force it.

    Raises:
        DataError: no batches, a bare tensor, labels out of range, a mask of no rows or of the wrong shape.
        SelectionError, ModelError: a pattern that matches nothing, a layer that cannot be recorded.
        RecordingError: a layer that never fires, an input that is not finite; layer and batch are named.
    """
    check_concepts(data, concept_of)
    if dtype not in (None, torch.float32, torch.float64):
        raise DataError(f"Expected dtype to be torch.float32, torch.float64 or None, got {dtype}.")
    if concept_names is not None:
        if concept_of is None:
            raise DataError("Expected concept_names only beside concept_of; a mapping names its concepts by its keys.")
        if len(set(concept_names)) != len(concept_names) or not all(isinstance(n, str) and n for n in concept_names):
            raise DataError(f"Expected concept_names to be different non-empty texts, got {list(concept_names)}.")
    inner = unwrap(model)
    layers = select(inner, target_modules, exclude_modules, layers_to_transform, layers_pattern)
    recorder = _Recorder(inner, layers, rows, forward, dtype)
    parts = list(data.values()) if concept_of is None else [data]  # type: ignore[union-attr]

    def run() -> Recording:
        with at_rest(inner):
            stream = _stream(data, concept_of, concept_names)
            for concept, batch, members in track(stream, total_batches(parts), "recording", "batches", progress):
                recorder.step(concept, batch, members)
            names = list(data) if concept_of is None else concept_names
            return recorder.finish(names, labelled=concept_of is not None)

    try:
        return run()
    except _Diverged as split:
        if any(isinstance(part, Iterator) for part in parts):
            raise RecordingError(
                f"Layers {split.leader!r} and {split.follower!r} read one tensor in the first batches and different "
                f"ones in batch {split.batch}; the recording has to start over without sharing, but the data is an "
                "iterator that cannot be read again. Give lists or DataLoaders."
            ) from None
        warnings.warn(
            f"Layers {split.leader!r} and {split.follower!r} stopped reading the same tensor in batch {split.batch}; "
            "recording again with a moment for each layer.",
            LashleyWarning,
            stacklevel=2,
        )
        recorder = _Recorder(inner, layers, rows, forward, dtype, share=False)
        return run()


class _Diverged(Exception):
    def __init__(self, leader: str, follower: str, batch: int) -> None:
        super().__init__(leader, follower, batch)
        self.leader, self.follower, self.batch = leader, follower, batch


class _Taps:
    """The sites of a recording in the making: whose rows are kept, by concept (None: every row, when they overlap)."""

    def __init__(self, layer: Layer, dtype: torch.dtype | None) -> None:
        self.layer = layer
        self.dtype = dtype
        self.followers: list[str] = []
        self.concepts: dict[str | None, Accumulator] = {}

    def add(self, concept: str | None, rows: Tensor, owned: bool) -> Tensor:
        """The sum of the rows, which is finite exactly when they all are."""
        if concept not in self.concepts:
            self.concepts[concept] = Accumulator(self.layer.dim, self.layer.matrices, self.dtype)
        return self.concepts[concept].add(rows, owned=owned)


class _Recorder:
    def __init__(
        self,
        model: nn.Module,
        layers: dict[str, Layer],
        rows: Callable[[Any, Site], Tensor] | None,
        forward: Callable[[nn.Module, Any], object] | None,
        dtype: torch.dtype | None,
        share: bool = True,
    ) -> None:
        self.model = model
        self.layers = layers
        self.modules = {name: model.get_submodule(name) if name else model for name in layers}
        self.rows = rows
        self.forward = forward
        self.share = share
        self.dtype = dtype
        self.weights = {name: fingerprint(module.weight) for name, module in self.modules.items()}
        self.encoder = _encoder_names(model)
        self.device = _single_device(model)
        self.keywords = _extra_keywords(model)
        self.taps = {name: _Taps(layer, dtype) for name, layer in layers.items()}
        self.follows: dict[str, str] = {}  # layer -> the layer whose rows it shares
        self.batches = 0
        self.overlap = False
        self.shard: list[str] = []
        self.orders: list[list[str]] = []  # layers in the order they fired, of the first passes
        self.stop_at: tuple[str, ...] | None = None
        # of the pass under way
        self.batch: Any = None
        self.members: Membership = []
        self.samples: int | None = None
        self.fired: list[str] = []
        self.read: dict[str, list[int]] = {}  # layer -> the tensors it read, as numbers given in this pass
        self.alive: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}
        self.tensors = 0
        self.finite: list[tuple[str, Tensor]] = []
        self.checked: dict[str, Tensor] = {}

    def step(self, concept: str | None, batch: Any, members: tuple[Membership, int, bool] | None) -> None:
        """One batch: its forward pass, and the rows of every layer into the moments of its concepts."""
        self.shard.append(digest(concept, batch_digest(batch)))
        if self.forward is None and self.device is not None:
            batch = moved(batch, self.device)
        self.batch, self.samples = batch, None
        if members is None:
            assert concept is not None
            self.members = [(concept, None)]
        else:
            self.members, self.samples, overlap = members
            if overlap:
                self.overlap = True
                self.members = [*self.members, (None, None)]  # type: ignore[list-item]
        self.fired, self.read, self.alive, self.tensors, self.finite = [], {}, {}, 0, []
        first = self.batches == 0
        try:
            with tapped(self.modules, self._on_input, self._on_output if first else None):
                self._run(batch)
        except StopForward:
            pass  # the last site has its rows
        finally:
            self.alive = {}
        self._check_finite()
        if first:
            self._audit()
            self._find_sites()
        self._check_sharing()
        self._learn_order()
        self.batches += 1

    def _run(self, batch: Any) -> None:
        if self.forward is not None:
            self.forward(self.model, batch)
            return
        if isinstance(batch, Mapping) and self.keywords:
            batch = {**self.keywords, **batch}
        call(self.model, batch)

    def _on_input(self, name: str, x: Tensor) -> None:
        self.fired.append(name)
        self.read.setdefault(name, []).append(self._number(x))
        if self.batches == 0 and len(self.read[name]) == 1:
            whole = self.layers[name].lead(tuple(x.shape))[0] != x.shape[0]  # one sample without a batch dim
            self.checked[name] = (x if whole else x[:1]).clone()
        if name not in self.follows:
            self._take(name, x)
        if self.stop_at is not None and name == self.stop_at[-1] and tuple(self.fired) == self.stop_at:
            raise StopForward

    def _number(self, x: Tensor) -> int:
        """A number for this live tensor in this state. An address alone would lie: freed storage is used again."""
        version = x._version if not x.is_inference() else -1
        known = self.alive.get(id(x))
        if known is not None and known[0]() is x and known[1] == version and version >= 0:
            return known[2]
        self.tensors += 1
        self.alive[id(x)] = (weakref.ref(x), version, self.tensors)
        return self.tensors

    def _take(self, name: str, x: Tensor) -> None:
        """The rows of ``x`` that count, into the moments of the concepts they belong to."""
        taps, layer = self.taps[name], self.layers[name]
        lead = layer.lead(tuple(x.shape))
        mask = self._mask(name, lead)
        if mask is not None:
            mask = mask.to(x.device)
        if len(lead) + 1 > x.dim() > 0 and lead[0] == 1 and x.shape[0] != 1:
            x = x.unsqueeze(0)  # a single sample without a batch dim
        per_sample = 1
        if self.samples is not None:
            per_sample, rest = divmod(lead[0], max(self.samples, 1))
            if rest or not per_sample:
                raise DataError(
                    f"Expected {self.samples} labels to fit layer {name!r}, got an input with {lead[0]} leading rows. "
                    "concept_of must give one label per sample; leave the layer out if it does not see samples."
                )
        for concept, samples in self.members:
            chosen, kept = x, mask
            if samples is not None:
                if not len(samples):
                    continue
                index = samples.to(x.device)
                if per_sample > 1:  # positions were flattened into the first dim
                    index = (index[:, None] * per_sample + torch.arange(per_sample, device=x.device)).flatten()
                chosen = x.index_select(0, index)
                kept = None if mask is None else mask.index_select(0, index)
            if kept is not None and kept.dim() == 1:
                chosen, kept = chosen[kept], None
            for rows in _rows(layer, chosen, kept):
                if not rows.shape[1]:
                    continue
                owned = rows.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
                self.finite.append((name, torch.isfinite(taps.add(concept, rows, owned)).all()))

    def _mask(self, name: str, lead: tuple[int, ...]) -> Tensor | None:
        if self.rows is None:
            mask = default_mask(self.batch, encoder=name in self.encoder)
            return None if mask is None else fit_mask(mask, lead, name, given=False)
        layer = self.layers[name]
        names = (name, *self.taps[name].followers)
        rows = sum(a.count for c, a in self.taps[name].concepts.items() if c is not None)
        return fit_mask(self.rows(self.batch, Site(name, layer.dim, names, rows)), lead, name, given=True)

    def _on_output(self, name: str, output: Tensor) -> None:
        """Does the layer compute ``W x + b``? A subclass may do something else to its weight or its input.

        Looked at on the first sample of the first batch: sixteen rows, sixty-four outputs.
        """
        x = self.checked.pop(name, None)
        if x is None:
            return
        layer, module = self.layers[name], self.modules[name]
        got = layer.responses(output[:1] if len(output) > len(x) else output).flatten(1, -2)[:, :16, :64]
        rows = layer.rows(x).flatten(1, -2)[:, :16].to(module.weight.dtype)
        expected = rows @ layer.matrix(module.weight)[:, :64].mT
        if layer.bias:
            expected = expected + layer.biases(module.bias)[:, None, :64]
        scale, off = expected.abs().max(), (got - expected).abs().max()
        tolerance = max(_OFF_BY.get(t, 8e-2) for t in (output.dtype, x.dtype, module.weight.dtype))
        if off > tolerance * scale:
            warnings.warn(
                f"Layer {name!r} ({layer.type}) does not compute W x + b of its input: it is off by {off:.2g} where "
                f"outputs reach {scale:.2g}. Its class changes the weight or the input on the way, so an engram of the "
                "bare weight may not be what you expect. Exclude it, or register a layer type for its class.",
                LashleyWarning,
                stacklevel=2,
            )

    def _check_finite(self) -> None:
        if self.finite and not torch.stack([flag.cpu() for _, flag in self.finite]).all():
            name = next(name for name, flag in self.finite if not flag)
            raise RecordingError(
                f"Expected finite inputs, got nan or inf in the input of layer {name!r} in batch {self.batches}. "
                "Check that batch, or the model's precision (float16 overflows beyond 65504)."
            )

    def _audit(self) -> None:
        silent = [name for name in self.layers if name not in self.read]
        if silent:
            shown = ", ".join(repr(n) for n in silent[:5]) + (f" and {len(silent) - 5} more" if len(silent) > 5 else "")
            raise RecordingError(
                f"Expected every selected layer to fire in the first batch, got no call of {shown}. Likely causes: the "
                "forward pass does not use it in evaluation mode, another module calls its weight as a function "
                "(F.linear, nn.MultiheadAttention), it sits in a part compiled on its own, or an expert got no tokens. "
                "Leave it out with exclude_modules, or pass a forward= that reaches it."
            )

    def _find_sites(self) -> None:
        """Layers that read the same tensors and make the same rows share the moments of the first of them."""
        leaders: dict[object, str] = {}
        for name in self.read:  # in the order they fired
            key = (tuple(self.read[name]), self.layers[name].rows_key, name in self.encoder)
            leader = leaders.setdefault(key, name) if self.share else name
            if leader != name:
                self.follows[name] = leader
                self.taps[leader].followers.append(name)
                del self.taps[name]

    def _check_sharing(self) -> None:
        for follower, leader in self.follows.items():
            if self.read.get(follower) != self.read.get(leader):
                raise _Diverged(leader, follower, self.batches)

    def _learn_order(self) -> None:
        if self.forward is not None or self.batches > 1:
            return
        self.orders.append(self.fired)
        if self.batches == 1:
            one, two = self.orders
            if one == two and len(set(one)) == len(one) == len(self.layers):
                self.stop_at = tuple(one)

    def finish(self, names: Sequence[str] | None, labelled: bool) -> Recording:
        """The recording. Only a labelled shard may lack a concept: another shard may have it."""
        if not self.batches:
            raise DataError("Expected at least one batch, got none. A generator that was read before is empty.")
        found = dict.fromkeys(c for taps in self.taps.values() for c in taps.concepts if c is not None)
        concepts = tuple(names) if names is not None else tuple(sorted(found, key=_natural))
        sites, moments, pooled = [], [], []
        for name, taps in self.taps.items():
            layer = taps.layer
            held = {c: taps.concepts[c].moments() if c in taps.concepts else _none(layer) for c in concepts}
            counted = {c: m[0].count for c, m in held.items()}
            everything = taps.concepts[None].moments() if None in taps.concepts else None
            total = everything[0].count if everything else sum(counted.values())
            if not total:
                raise DataError(
                    f"The mask selects no row at site {name!r}: expected at least one. Are all labels -100, or is the "
                    "attention mask all zeros?"
                )
            sites.append(Site(name, layer.dim, (name, *taps.followers), total))
            moments.append({c: [m.to("cpu") for m in ms] for c, ms in held.items()})
            pooled.append([m.to("cpu") for m in everything] if everything else None)
        if not labelled:
            for concept in concepts:
                for site, held in zip(sites, moments, strict=True):
                    if not held[concept][0].count:
                        raise DataError(
                            f"Expected concept {concept!r} to have rows, got none at site {site.name!r}: its batches "
                            "are empty (a generator that was read before?) or its mask selects nothing."
                        )
        return Recording(
            concepts=concepts,
            layers=self.layers,
            sites=tuple(sites),
            moments=moments,
            pooled=pooled if self.overlap else None,
            weights=self.weights,
            shards=(digest(*self.shard),),
            made_by=environment(),
        )


def _stream(
    data: Any, concept_of: Callable[[Any], Any] | None, names: Sequence[str] | None
) -> Iterator[tuple[str | None, Any, tuple[Membership, int, bool] | None]]:
    if concept_of is None:
        for concept, batches in data.items():
            for batch in batches:
                yield concept, batch, None
        return
    for number, batch in enumerate(data):
        try:
            members = membership(concept_of(batch), names)
        except DataError as error:
            raise DataError(f"Batch {number}: {error}") from None
        yield None, batch, members


def _rows(layer: Layer, x: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
    """The rows ``[M, n, D]`` of an input, in pieces when unfolding makes them many; ``mask`` covers the first leading dims."""
    lead = layer.lead(tuple(x.shape))
    elements = layer.matrices * layer.dim
    for size in lead:
        elements *= size
    pieces = 1 if elements <= x.numel() else -(-elements // _CHUNK)
    step = max(1, -(-lead[0] // pieces)) if lead[0] else 1
    for start in range(0, lead[0], step):
        part = x if pieces == 1 else x[start : start + step]
        rows = layer.rows(part)
        if mask is None:
            yield rows.reshape(layer.matrices, -1, layer.dim)
        else:
            kept = mask[start : start + step].reshape(-1)
            yield rows.flatten(1, mask.dim())[:, kept].reshape(layer.matrices, -1, layer.dim)


def _none(layer: Layer) -> list[Any]:
    return Accumulator(layer.dim, layer.matrices).moments()


def _natural(name: str) -> tuple[int, int, str]:
    """Numbers in the order of numbers, before texts."""
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)


def _single_device(model: nn.Module) -> torch.device | None:
    devices = {p.device for p in model.parameters()}
    return devices.pop() if len(devices) == 1 else None


def _encoder_names(model: nn.Module) -> set[str]:
    """Names of the modules in the encoder of an encoder-decoder model."""
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False) or not hasattr(model, "get_encoder"):
        return set()
    inside = {id(m) for m in model.get_encoder().modules()}
    return {name for name, module in model.named_modules() if id(module) in inside}


def _extra_keywords(model: nn.Module) -> dict[str, Any]:
    """Keywords that spare work a recording has no use for."""
    takes = inspect.signature(model.forward).parameters
    return {"use_cache": False} if "use_cache" in takes else {}
