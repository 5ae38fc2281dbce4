"""A recording: the moments of every concept at every site, and the engrams that follow from them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lashley.engram import Delta, Engram, check_finite
from lashley.errors import DataError, LashleyWarning, ModelError, MomentError, SelectionError, StoreError, nearest
from lashley.estimators import Estimator, Operator, Projection, SiteMoments
from lashley.geometry import effective_rank
from lashley.layers import Layer, describe, unwrap
from lashley.moments import Moment, pool
from lashley.progress import track
from lashley.provenance import environment, fingerprint
from lashley.spectrum import Cut, Factor
from lashley.store import Reader, writing

__all__ = ["Recording", "Site", "merge"]

_KIND, _VERSION = "recording", 1
_ENOUGH_ROWS = 2  # rows per column below which every share is near 0 or 1 and specificity looks perfect by itself

Concepts = str | Sequence[str] | Mapping[str, float]


@dataclass(frozen=True)
class Site:
    """One input tensor that one or more layers read.

    Attributes:
        name: the first layer that reads it.  dim: D.  layers: all that do.  rows: how many were counted.
    """

    name: str
    dim: int
    layers: tuple[str, ...]
    rows: int


class Recording:
    """Moments of concepts at sites. Made by `lashley.record`, `Recording.load` or `lashley.merge`.

    Attributes:
        concepts: their names.
        layers: ``{name: Layer}`` in the model's order.
        sites: where moments are kept.
    """

    def __init__(
        self,
        *,
        concepts: tuple[str, ...],
        layers: Mapping[str, Layer],
        sites: tuple[Site, ...],
        moments: Sequence[Mapping[str, list[Moment]]],
        pooled: Sequence[list[Moment] | None] | None,
        weights: Mapping[str, str],
        shards: tuple[str, ...],
        made_by: Mapping[str, Any] | None = None,
    ) -> None:
        self.concepts = concepts
        self.layers = dict(layers)
        self.sites = sites
        self.made_by = dict(made_by) if made_by is not None else environment()
        self._moments = [dict(m) for m in moments]  # per site: concept -> one moment per matrix
        self._pooled = list(pooled) if pooled is not None else None  # all rows, where concepts overlap
        self._weights = dict(weights)  # layer -> fingerprint of the weight that was recorded
        self._shards = shards
        self._site_of = {layer: number for number, site in enumerate(sites) for layer in site.layers}
        self._references: dict[tuple[Any, ...], list[Moment]] = {}
        self._factors: dict[tuple[Any, ...], Factor] = {}

    def __repr__(self) -> str:
        return (
            f"Recording({len(self.concepts)} concepts, {len(self.layers)} layers at {len(self.sites)} sites, "
            f"{max((s.rows for s in self.sites), default=0)} rows)"
        )

    @property
    def overlapping(self) -> bool:
        """Whether a row may belong to several concepts, or to none."""
        return self._pooled is not None

    def moment(self, concept: str | None, layer: str) -> Moment:
        """The moment of one concept (None: all rows) at the site that ``layer`` reads."""
        found = self.moments(concept, layer)
        if len(found) > 1:
            raise MomentError(
                f"Expected layer {layer!r} to have one matrix, got {len(found)}. Use recording.moments(concept, layer)."
            )
        return found[0]

    def moments(self, concept: str | None, layer: str) -> list[Moment]:
        """The moments of one concept (None: all rows) for every matrix of ``layer``."""
        if layer not in self._site_of:
            raise SelectionError(f"Expected a recorded layer, got {layer!r}. {nearest(layer, self._site_of)}")
        return self._reference(self._site_of[layer], None if concept is None else self._known([concept]))

    def engram(
        self,
        model: nn.Module,
        concepts: Concepts,
        *,
        reference: Sequence[str] | None = None,
        base: nn.Module | Mapping[str, Tensor] | None = None,
        bias: bool = True,
        check: bool = True,
        estimator: Estimator | None = None,
    ) -> Engram:
        """What ``concepts`` are responsible for in the weights of ``model``.

        Args:
            model: whose weights are taken; nothing in it is changed.
            concepts: a name; a list of names, pooled into one concept; or a mapping ``{name: weight}``, the weighted sum
                of their separate engrams. The last two agree for the paper's estimator and for no other.
            reference: concepts whose rows make S; None: every row that was recorded, each once.
            base: a model or state dict with weights ``W0``: the engram of ``W - W0`` (eq. 3) instead of ``W``.
            bias: absorb the bias where the layer has one, by appending a 1 to every row.
            check: refuse a model whose weights are not the recorded ones.
            estimator: default `Projection()`, the paper's formula.

        Raises:
            SelectionError: an unknown concept, or a layer the model lacks.
            ModelError: weights or shapes that are not the recorded ones.
            SolveError: an estimator that has no answer here.
        """
        estimator = estimator if estimator is not None else Projection()
        if isinstance(concepts, Mapping):
            if not concepts:
                raise DataError("Expected at least one concept, got an empty mapping.")
            self._known(list(concepts))
            parts = [
                float(weight)
                * self.engram(
                    model, name, reference=reference, base=base, bias=bias, check=check and not number, estimator=estimator
                )
                for number, (name, weight) in enumerate(concepts.items())
            ]
            total = parts[0]
            for part in parts[1:]:
                total = total + part
            return total
        names = self._known([concepts] if isinstance(concepts, str) else list(concepts))
        against = None if reference is None else self._known(list(reference))
        modules = self._modules(unwrap(model), check)
        old = _base_weights(base, self.layers) if base is not None else None
        deltas: dict[str, Delta] = {}
        for number, site in track(enumerate(self.sites), len(self.sites), "solving", "sites", None):
            for augmented in (False, True):
                readers = [n for n in site.layers if (bias and self.layers[n].bias) == augmented]
                if not readers:
                    continue
                operators = self._operators(
                    number, names, against, augmented, estimator, modules[readers[0]].weight.device
                )
                for name in readers:
                    initial = None if old is None else old[name]
                    deltas[name] = _delta(self.layers[name], modules[name], operators, augmented, initial, self._weights)
        self._warn(deltas, names, against)
        ordered = {name: deltas[name] for name in self.layers}
        return Engram(ordered, dict.fromkeys(names, 1.0), estimator)

    def sensitivity(
        self,
        model: nn.Module,
        concepts: Concepts,
        cuts: Iterable[Cut] | None = None,
        *,
        estimator: Projection | None = None,
        **settings: Any,
    ) -> list[dict[str, Any]]:
        """How the engram of ``concepts`` depends on the spectral cut.

        Args:
            cuts: default: from `Cut.notebook` to 1e-2 of the largest eigenvalue.
            estimator: the projection whose cut is varied; default the paper's formula.
            settings: passed to `engram`.

        Returns:
            a row per layer and cut: layer, cut, kept (rank of S), dim, norm (``||E||_F / ||W||_F``), rank (effective
            rank of E), condition, eigengap.
        """
        chosen = estimator if estimator is not None else Projection()
        if not isinstance(chosen, Projection):
            raise DataError(f"Expected an estimator with a cut (Projection), got {type(chosen).__name__}.")
        table = []
        for cut in cuts if cuts is not None else (Cut.notebook(), Cut.paper(), Cut(), Cut(rtol=1e-4), Cut(rtol=1e-2)):
            varied = Projection(chosen.sharpness, chosen.threshold, cut)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LashleyWarning)  # the table shows what the warnings would say
                engram = self.engram(model, concepts, estimator=varied, **settings)
            norms = engram.weight_norms()
            for name, delta in engram.items():
                ranks = [effective_rank(m) for m in delta.layer.matrix(delta.weight)]
                solved = delta.solutions[0] if delta.solutions else None
                table.append(
                    {
                        "layer": name,
                        "cut": str(cut),
                        "kept": solved.rank if solved else None,
                        "dim": solved.dim if solved else None,
                        "norm": norms[name],
                        "rank": sum(ranks) / len(ranks),
                        "condition": solved.condition if solved else None,
                        "eigengap": solved.eigengap if solved else None,
                    }
                )
        return sorted(table, key=lambda row: list(self.layers).index(row["layer"]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the recording to a folder, complete or not at all."""
        with writing(path) as folder:
            for number, held in enumerate(self._moments):
                tensors: dict[str, Tensor] = {}
                for index, concept in enumerate(self.concepts):
                    tensors |= _packed(str(index), held[concept])
                if self._pooled is not None:
                    tensors |= _packed("all", self._pooled[number] or [])
                folder.tensors(_file(number), tensors)
            sites = [
                {
                    **asdict(site),
                    "moments": {
                        key: [[m.count, str(m.product).removeprefix("torch.")] for m in ms]
                        for key, ms in self._held(number)
                    },
                }
                for number, site in enumerate(self.sites)
            ]
            folder.manifest(
                _KIND,
                _VERSION,
                {
                    "concepts": list(self.concepts),
                    "overlapping": self.overlapping,
                    "sites": sites,
                    "layers": [layer.to_json() for layer in self.layers.values()],
                    "weights": self._weights,
                    "shards": list(self._shards),
                    "made_by": self.made_by,
                },
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recording:
        """Read a recording that `save` wrote.

        Raises:
            StoreError: not a recording, damaged, or written by a newer version.
        """
        reader = Reader(path, _KIND, _VERSION)
        manifest = reader.manifest
        concepts = tuple(manifest["concepts"])
        keys = {str(index): concept for index, concept in enumerate(concepts)}
        sites, moments, pooled = [], [], []
        for number, entry in enumerate(manifest["sites"]):
            tensors = reader.tensors(_file(number))
            sites.append(Site(entry["name"], entry["dim"], tuple(entry["layers"]), entry["rows"]))
            held = {key: _unpacked(key, facts, tensors) for key, facts in entry["moments"].items()}
            pooled.append(held.pop("all", None))
            moments.append({keys[key]: ms for key, ms in held.items()})
        layers = [Layer.from_json(values) for values in manifest["layers"]]
        return cls(
            concepts=concepts,
            layers={layer.name: layer for layer in layers},
            sites=tuple(sites),
            moments=moments,
            pooled=pooled if manifest["overlapping"] else None,
            weights=manifest["weights"],
            shards=tuple(manifest["shards"]),
            made_by=manifest["made_by"],
        )

    def _held(self, site: int) -> list[tuple[str, list[Moment]]]:
        held = [(str(i), self._moments[site][c]) for i, c in enumerate(self.concepts)]
        return [*held, ("all", self._pooled[site] or [])] if self._pooled is not None else held

    def _known(self, names: list[str]) -> tuple[str, ...]:
        if not names:
            raise DataError("Expected at least one concept, got an empty list.")
        for name in names:
            if name not in self.concepts:
                raise SelectionError(f"Expected a recorded concept, got {name!r}. {nearest(str(name), self.concepts)}")
        if len(set(names)) < len(names):
            raise DataError(f"Expected each concept once, got {names}.")
        return tuple(names)

    def _reference(self, site: int, names: tuple[str, ...] | None) -> list[Moment]:
        """The pooled moments of the named concepts, or of all rows; kept, because every engram asks for them."""
        if names is not None and len(names) == 1:
            return self._moments[site][names[0]]
        key = (site, None if names is None else tuple(sorted(names)))
        if key not in self._references:
            everything = self._pooled[site] if self._pooled is not None and names is None else None
            if everything is None:
                chosen = [self._moments[site][c] for c in self.concepts if names is None or c in names]
                everything = [pool(ms) for ms in zip(*chosen, strict=True)]
            self._references[key] = everything
        return self._references[key]

    def _operators(
        self,
        site: int,
        names: tuple[str, ...],
        against: tuple[str, ...] | None,
        augmented: bool,
        estimator: Estimator,
        device: torch.device,
    ) -> list[Operator]:
        """P for every matrix at a site; the factorisation of the reference is kept for the next engram."""
        place = torch.device("cpu") if device.type == "mps" else device  # no float64 there
        contained = against is None or set(names) <= set(against)
        if self.overlapping and len(names) > 1:
            contained = False  # a row of two concepts counts twice in their pool and once in the reference
        targets, references = self._reference(site, names), self._reference(site, against)
        operators = []
        for number, (target, moment) in enumerate(zip(targets, references, strict=True)):
            key = (site, number, None if against is None else tuple(sorted(against)), augmented, str(place))
            if key not in self._factors:
                self._factors[key] = Factor(moment, augmented, place)
            operators.append(estimator.operator(SiteMoments(target.to(place), self._factors[key], contained)))
        return operators

    def _modules(self, model: nn.Module, check: bool) -> dict[str, nn.Module]:
        modules = dict(model.named_modules(remove_duplicate=False))
        for name, layer in self.layers.items():
            if name not in modules:
                raise SelectionError(f"Expected the model to have layer {name!r}, which was recorded. {nearest(name, modules)}")
            if (here := describe(name, modules[name])) != layer:
                raise ModelError(
                    f"Expected layer {name!r} to be {layer.type} {list(layer.shape)} as recorded, got {here.type} "
                    f"{list(here.shape)}" + (", with other settings" if here.shape == layer.shape else "") + "."
                )
        chosen = {name: modules[name] for name in self.layers}
        if check:
            changed = [n for n, m in chosen.items() if fingerprint(m.weight) != self._weights[n]]
            if changed:
                shown = ", ".join(repr(n) for n in changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
                raise ModelError(
                    f"Expected the weights that were recorded, got others in {shown}: the moments describe another "
                    "network's inputs. Record this model, or pass check=False if you mean it."
                )
        return chosen

    def _warn(self, deltas: Mapping[str, Delta], names: tuple[str, ...], against: tuple[str, ...] | None) -> None:
        solved = {name: delta.solutions[0] for name, delta in deltas.items() if delta.solutions}

        def say(text: str) -> None:
            warnings.warn(text, LashleyWarning, stacklevel=4)

        if few := [n for n, s in solved.items() if s.reference_rows < _ENOUGH_ROWS * s.dim]:
            worst = min((solved[n] for n in few), key=lambda s: s.reference_rows / s.dim)
            say(
                f"{_some(few)} had fewer than {_ENOUGH_ROWS} rows per column (fewest: {worst.reference_rows} rows for "
                f"{worst.dim} columns). Every direction then looks owned by one concept, and specificity looks perfect "
                "on the recorded data only. Record more data, or judge the edit on other data."
            )
        if near := [n for n, s in solved.items() if s.near_noise]:
            say(
                f"In {_some(near)} the spectral cut lies within ten times of the rounding noise of float32 products. "
                "Record with dtype=torch.float64, or cut higher (a larger rtol)."
            )
        if against is not None and not set(names) <= set(against):
            clipped = max((s.clipped for d in deltas.values() for s in d.solutions), default=0.0)
            outside = sorted(set(names) - set(against))
            say(
                f"The reference does not contain {outside}: a share of a direction may exceed 1"
                + (f" (by up to {clipped:.3g}, clipped)" if clipped else "")
                + ". Add the target to reference=, unless you mean it."
            )
        if self.overlapping and len(names) > 1:
            say(f"Concepts may overlap: rows that belong to several of {list(names)} are counted once for each.")
        if empty := [n for n in names if not any(m[n][0].count for m in self._moments)]:
            say(f"Concept {empty[0]!r} has no rows in this recording: its engram is zero. Merge the shard that has it.")


def merge(*recordings: Recording) -> Recording:
    """One recording of all rows: moments add. Layers, weights and sites must agree; concepts may differ.

    Raises:
        MomentError: a shard that is there twice, other layers or sites, other weights; both sides are printed.
    """
    if not recordings:
        raise DataError("Expected at least one recording, got none.")
    first = recordings[0]
    shards: list[str] = []
    for recording in recordings:
        if twice := set(recording._shards) & set(shards):
            raise MomentError(
                f"Expected every shard once, got shard {min(twice)} twice: its rows would count double. Drop one of them."
            )
        shards += recording._shards
        _same("layers", first.layers, recording.layers)
        _same("weights", first._weights, recording._weights)
        _same("sites", [s.layers for s in first.sites], [s.layers for s in recording.sites])
        _same("overlap of concepts", first.overlapping, recording.overlapping)
    concepts = tuple(dict.fromkeys(c for r in recordings for c in r.concepts))
    sites, moments, pooled = [], [], []
    for number, site in enumerate(first.sites):
        held = {}
        for concept in concepts:
            parts = [r._moments[number][concept] for r in recordings if concept in r.concepts]
            held[concept] = [pool(ms) for ms in zip(*parts, strict=True)]
        moments.append(held)
        if first.overlapping:
            pooled.append([pool(ms) for ms in zip(*(r._reference(number, None) for r in recordings), strict=True)])
        sites.append(Site(site.name, site.dim, site.layers, sum(r.sites[number].rows for r in recordings)))
    return Recording(
        concepts=concepts,
        layers=first.layers,
        sites=tuple(sites),
        moments=moments,
        pooled=pooled if first.overlapping else None,
        weights=first._weights,
        shards=tuple(shards),
    )


def _same(what: str, ours: Any, theirs: Any) -> None:
    if ours == theirs:
        return
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        names = [n for n in {**ours, **theirs} if ours.get(n) != theirs.get(n)]
        ours, theirs = ({n: side.get(n) for n in names[:3]} for side in (ours, theirs))
    raise MomentError(f"Expected recordings with the same {what}, got {ours} and {theirs}. Record them with one set-up.")


def _delta(
    layer: Layer,
    module: nn.Module,
    operators: Sequence[Operator],
    augmented: bool,
    initial: tuple[Tensor, Tensor | None] | None,
    prints: Mapping[str, str],
) -> Delta:
    """The engram in one layer: ``E = W~ P`` for each of its matrices, back in the module's shape."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    place = operators[0].left.device
    keep = torch.float64 if weight.dtype == torch.float64 else torch.float32
    with torch.no_grad():
        matrices = layer.matrix(weight.detach()).to(place, torch.float64)
        if initial is not None:
            matrices = matrices - layer.matrix(initial[0].detach()).to(place, torch.float64)
        if augmented:
            biases = layer.biases(module.bias.detach()).to(place, torch.float64)  # type: ignore[union-attr,operator,arg-type]
            if initial is not None and initial[1] is not None:
                biases = biases - layer.biases(initial[1].detach()).to(place, torch.float64)
            matrices = torch.cat([matrices, biases.unsqueeze(-1)], dim=-1)
        factors = [operator.apply(matrix) for operator, matrix in zip(operators, matrices, strict=True)]
        columns = layer.dim
        bias = None
        if augmented:
            bias = torch.stack([a @ b[:, columns] for a, b in factors]).reshape(-1).to(weight.device, keep)
        common: dict[str, Any] = {
            "bias": bias,
            "base": fingerprint(weight),
            "base_norm": torch.linalg.vector_norm(weight.detach(), dtype=torch.float64).item(),
            "solutions": tuple(operator.solution for operator in operators),
        }
        if layer.matrices == 1 and operators[0].low_rank:
            a, b = factors[0]
            a, b = a.to(weight.device, keep), b[:, :columns].to(weight.device, keep).contiguous()
            check_finite(layer.name, a, b, bias)
            return Delta(layer, factors=(a, b), **common)
        dense = torch.stack([a @ b[:, :columns] for a, b in factors])
        full = layer.weight(dense).to(weight.device, keep).contiguous()
        check_finite(layer.name, full, bias)
        return Delta(layer, weight=full, **common)


def _base_weights(
    base: nn.Module | Mapping[str, Tensor], layers: Mapping[str, Layer]
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """W0 and b0 of every layer, from a model or a state dict."""
    state = unwrap(base).state_dict() if isinstance(base, nn.Module) else base
    found = {}
    for name, layer in layers.items():
        prefix = f"{name}." if name else ""
        if (weight := state.get(f"{prefix}weight")) is None:
            raise SelectionError(f"Expected base to have {prefix}weight. {nearest(f'{prefix}weight', state)}")
        if tuple(weight.shape) != layer.shape:
            raise ModelError(
                f"Expected base to have {prefix}weight of shape {list(layer.shape)}, got {list(weight.shape)}: it is "
                "another architecture."
            )
        found[name] = (weight, state.get(f"{prefix}bias") if layer.bias else None)
    return found


def _packed(key: str, moments: Sequence[Moment]) -> dict[str, Tensor]:
    return {f"{key}.{m}.{part}": t for m, moment in enumerate(moments) for part, t in moment.pack().items()}


def _unpacked(key: str, facts: Sequence[tuple[int, str]], tensors: Mapping[str, Tensor]) -> list[Moment]:
    moments = []
    for number, (count, product) in enumerate(facts):
        prefix = f"{key}.{number}."
        parts = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        if "sum" not in parts:
            raise StoreError(f"Expected moment {prefix[:-1]!r} in the recording, got none. Copy the folder again.")
        moments.append(Moment.unpack(parts, count, getattr(torch, product)))
    return moments


def _file(number: int) -> str:
    return f"site-{number:04d}.safetensors"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(n) for n in names[:3])
    return f"layers {shown} and {len(names) - 3} more" if len(names) > 3 else f"layer{'s'[: len(names) > 1]} {shown}"
