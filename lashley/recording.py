"""A recording: the moments of every concept at every site, and the engrams that follow from them."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lashley.edit.offsets import Fold, offsets
from lashley.engram import Delta, Engram
from lashley.errors import (
    DataError,
    LashleyWarning,
    ModelError,
    MomentError,
    SelectionError,
    SolveError,
    nearest,
)
from lashley.estimators import (
    DiagonalOperator,
    Estimator,
    OffsetEstimator,
    Operator,
    Projection,
    SiteMoments,
    Solution,
)
from lashley.geometry import effective_rank, frobenius
from lashley.layers import Layer, unwrap
from lashley.moments import Diagonal, Moment, pool_all
from lashley.parameters import Parameters, matrices_of, parameters_in, parameters_of
from lashley.products import Product, pool_products
from lashley.progress import track
from lashley.provenance import environment, fingerprint
from lashley.select import Patterns, match_names
from lashley.shelf import ALL, Shelf, entry, packed, rows_in
from lashley.solving import Multiplied, cautions, combined, delta_of, some
from lashley.spectrum import Cut, Factor
from lashley.store import Reader, writing

__all__ = ["KIND", "VERSION", "Recording", "Site", "from_folder", "manifest_of", "together"]

KIND, VERSION = "recording", 2  # version 1 had triangles in place of block columns

Concepts = str | Sequence[str] | Mapping[str, float]


@dataclass(frozen=True)
class Site:
    """One input tensor that one or more layers read.

    Attributes:
        name: the first layer that reads it.
        dim: D.
        layers: all that read it.
        rows: how many were counted, each once.
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
        keep: "moments", or "products": of the concepts only ``W S_c``, and the moment of all rows.
        overlapping: whether a row may belong to several concepts, or to none.
    """

    def __init__(
        self,
        *,
        concepts: tuple[str, ...],
        layers: Mapping[str, Layer],
        sites: tuple[Site, ...],
        kept: Sequence[Mapping[str, list[Any]]],
        pooled: Sequence[list[Moment]] | None,
        keep: str = "moments",
        dtype: torch.dtype | None = None,
        overlapping: bool = False,
        weights: Mapping[str, str],
        shards: tuple[str, ...],
        folds: Mapping[str, Fold] | None = None,
        made_by: Mapping[str, Any] | None = None,
    ) -> None:
        self.concepts = concepts
        self.layers = dict(layers)
        self.sites = sites
        self.keep = keep
        self._dtype = dtype  # that was asked for the products
        self.overlapping = overlapping
        self.made_by = dict(made_by) if made_by is not None else environment()
        # Per site: concept -> one moment or product per matrix. A `Shelf` reads them from files at each request.
        self._moments = list(kept)
        self._pooled = list(pooled) if pooled is not None else None  # all rows, once summed up
        self._weights = dict(weights)  # layer -> fingerprint of the weight that was recorded
        self._shards = shards
        self._folds = dict(folds or {})  # layer without a bias -> what reads its output
        self._site_of = {layer: number for number, site in enumerate(sites) for layer in site.layers}
        self._everything: dict[int, list[Moment]] = {}  # per site: the moments of all rows, once asked for
        # Per site, augmented or not, all rows or some: what they are the factors of, and one for each matrix. Those of
        # all rows stay; of other references the last one does, or asking for many would fill the memory.
        self._factors: dict[tuple[int, bool, bool], tuple[object, list[Factor]]] = {}
        self._norms: dict[str, float] = {}  # of weights, by fingerprint

    def __repr__(self) -> str:
        return (
            f"Recording({len(self.concepts)} concepts, {len(self.layers)} layers at {len(self.sites)} sites, "
            f"{max((s.rows for s in self.sites), default=0)} rows)"
        )

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
            raise SelectionError(f"Expected a recorded layer, got {layer!r}. {nearest(str(layer), self._site_of)}")
        site = self._site_of[layer]
        if concept is None:
            return self._all(site)
        return self._moments_at(site, self._known([concept]))

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
        layers: Patterns = None,
    ) -> Engram:
        """What ``concepts`` are responsible for in the weights of ``model``.

        Args:
            model: whose weights are taken; nothing in it is changed.
            concepts: a name; a list of names, pooled into one concept; or a mapping ``{name: weight}``, the weighted
                sum of their separate engrams. The last two agree for the paper's estimator and for no other.
            reference: concepts whose rows make S; None: every row that was recorded, each once.
            base: a model or state dict with weights ``W0``: the engram of ``W - W0`` (eq. 3) instead of ``W``.
            bias: absorb the bias where the layer has one, by appending a 1 to every row.
            check: refuse a model whose weights are not the recorded ones.
            estimator: default `Projection()`, the paper's formula.
            layers: solve for these of the recorded layers only; patterns as in `lashley.record`'s ``target_modules``.

        Raises:
            DataError: no concept, one twice, or a weight that is not finite.
            SelectionError: an unknown concept, a layer that the model or ``base`` lacks, a pattern that matches none.
            ModelError: weights or shapes that are not the recorded ones.
            SolveError: an estimator that has no answer here, or one that needs a bias where there is none
                (`OffsetEstimator`).

        Warns:
            LashleyWarning: too few rows, a cut near rounding noise, a reference without the target, a concept without
                rows, rows that count more than once; each says what to do.
        """
        estimator = estimator if estimator is not None else Projection()
        if not isinstance(estimator, Estimator):
            raise SolveError(f"Expected an estimator such as Projection() or Ridge(lam), got {estimator!r}.")
        self._check_served(estimator, reference, base)
        parts = self._parts(concepts)
        against = None if reference is None else self._known(reference)
        chosen = {name: self.layers[name] for name in match_names(layers, self.layers, "layers")}
        folds = offsets(estimator, unwrap(model), chosen, self._folds, bias)
        offset = isinstance(estimator, OffsetEstimator)  # every layer is solved with a place for it
        parameters = parameters_of(unwrap(model), self.layers if check else chosen)
        prints = {name: fingerprint(found.weight) for name, found in parameters.items()}
        if check or self.keep == "products":  # which hold the weights that were recorded
            self.check_weights(prints)
        for name in chosen:
            if prints[name] not in self._norms:
                self._norms[prints[name]] = frobenius(parameters[name].weight)
        old = parameters_in(base, chosen, bias) if base is not None else {}
        deltas: dict[str, Delta] = {}
        solved: dict[str, list[tuple[Solution, ...]]] = {}
        for number, site in track(enumerate(self.sites), len(self.sites), "solving", "sites", None):
            for augmented in (False, True):
                readers = [n for n in site.layers if n in chosen and (offset or (bias and chosen[n].bias)) == augmented]
                if not readers:
                    continue
                device = parameters[readers[0]].weight.device
                factors = self._factors_of(number, against, augmented, device)
                outputs = sum(self.layers[name].out for name in readers)
                double = any(parameters[name].weight.dtype == torch.float64 for name in readers)
                weights = torch.float64 if double else torch.float32
                for names, weight in parts:
                    operators: Mapping[str, Sequence[Operator | DiagonalOperator]]
                    if self.keep == "products" and not isinstance(factors[0].moment, Diagonal):
                        operators = self._multiplied(number, names, factors, estimator, readers, parameters)
                    else:
                        found = self._operators(number, names, against, factors, estimator, weights)
                        planned = [operator.planned(outputs) for operator in found]
                        operators = dict.fromkeys(readers, planned)
                    for name in readers:
                        base_norm = self._norms[prints[name]]
                        part = delta_of(
                            chosen[name], parameters[name], old.get(name), operators[name], prints[name], base_norm
                        )
                        part.fold = folds.get(name, "")
                        solved.setdefault(name, []).append(part.solutions)
                        part = part if weight == 1 else part.scaled(weight)
                        deltas[name] = deltas[name].plus(part) if name in deltas else part
        estimator.check({name: [s for part in solved[name] for s in part] for name in chosen})
        for name, delta in deltas.items():
            delta.solutions = tuple(combined(of_a_matrix) for of_a_matrix in zip(*solved[name], strict=True))
        ordered = {name: deltas[name] for name in chosen}
        self._warn([names for names, _ in parts], against, ordered)
        return Engram(ordered, {name: weight for names, weight in parts for name in names}, estimator)

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
            a row per layer and cut: layer, cut, kept (rank of S), dim (size of S), norm (``||E||_F / ||W||_F``), rank
            (effective rank of E), condition, eigengap. For a convolution with groups rank is the mean over them, and
            kept, condition and eigengap are those of the first.
        """
        chosen = estimator if estimator is not None else Projection()
        if not isinstance(chosen, Projection):
            raise SolveError(f"Expected an estimator with a cut, such as Projection(), got {chosen!r}.")
        cuts = (Cut.notebook(), Cut.paper(), Cut(), Cut(rtol=1e-4), Cut(rtol=1e-2)) if cuts is None else tuple(cuts)
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in self.layers}
        for cut in cuts:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LashleyWarning)  # the table shows what the warnings would say
                engram = self.engram(model, concepts, estimator=replace(chosen, cut=cut), **settings)
            norms = engram.weight_norms()
            for name, delta in engram.items():
                if isinstance(self.moments(None, name)[0], Diagonal):
                    continue  # there is no cut in a diagonal
                ranks = [effective_rank(m) for m in delta.layer.matrix(delta.weight)]
                solution = delta.solutions[0]
                rows[name].append(
                    {
                        "layer": name,
                        "cut": str(cut),
                        "kept": solution.rank,
                        "dim": solution.dim,
                        "norm": norms[name],
                        "rank": sum(ranks) / len(ranks),
                        "condition": solution.condition,
                        "eigengap": solution.eigengap,
                    }
                )
        return [row for table in rows.values() for row in table]

    def site_moments(
        self,
        concepts: Sequence[str] | None = None,
        *,
        reference: Sequence[str] | None = None,
        bias: bool = True,
        layers: Patterns = None,
        device: torch.device | None = None,
    ) -> Iterator[tuple[tuple[str, ...], list[dict[str, SiteMoments]]]]:
        """What an estimator is given of each of these concepts, site after site: for looking at moments themselves.

        The factorised reference is the one that `engram` uses, and is kept for it.

        Args:
            concepts: default: all of them, each alone.
            reference, bias, layers: as `engram` takes them.
            device: where to solve; default: on the host.

        Yields:
            the layers that read the site with or without an absorbed bias, and for each of its matrices the moments of
            every concept.

        Raises:
            DataError, SelectionError: as `engram` does.
            MomentError: a recording that keeps products only.
        """
        names = self.concepts if concepts is None else self._known(concepts)
        against = None if reference is None else self._known(reference)
        chosen = match_names(layers, self.layers, "layers")
        for number, site in enumerate(self.sites):
            for augmented in (False, True):
                readers = tuple(n for n in site.layers if n in chosen and (bias and self.layers[n].bias) == augmented)
                if not readers:
                    continue
                factors = self._factors_of(number, against, augmented, device or torch.device("cpu"))
                matrices: list[dict[str, SiteMoments]] = [{} for _ in factors]
                for name in names:
                    targets = self._targets(number, (name,), against, factors)
                    for found, moments in zip(matrices, targets, strict=True):
                        found[name] = moments
                yield readers, matrices

    def check_weights(self, prints: Mapping[str, str]) -> None:
        """Refuse weights that are not the recorded ones.

        Args:
            prints: ``{layer: fingerprint of its weight}`` (`lashley.provenance.fingerprint`).

        Raises:
            ModelError: the layers that differ.
        """
        if changed := [name for name, found in prints.items() if found != self._weights[name]]:
            raise ModelError(
                f"Expected the weights that were recorded, got others in {some(changed)}: the moments describe the "
                "inputs of another network. Record this model, or pass check=False if you mean it."
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the recording to a folder, complete or not at all. In the folder of its checkpoint it is already."""
        if shelves := [held for held in self._moments if isinstance(held, Shelf) and held.is_in(Path(path))]:
            for shelf in shelves:
                shelf.check()
            return
        entries: list[dict[str, Any]] = []
        with writing(path) as folder:
            for number, held in enumerate(self._moments):
                file = f"site-{number:04d}.safetensors"
                tensors: dict[str, Tensor] = {}
                entries.append({})
                for key, kept in self._by_key(number, held):
                    tensors |= packed(number, key, kept)
                    entries[number][key] = entry(file, kept)
                folder.tensors(file, tensors)
            folder.manifest(KIND, VERSION, manifest_of(self, entries))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recording:
        """Read a recording that `save` wrote, or that was recorded with ``checkpoint=``.

        Raises:
            StoreError: not a recording, not finished, damaged, or written by a newer version.
        """
        recording = from_folder(Reader(path, KIND, VERSION))
        shelves = (held for held in recording._moments if isinstance(held, Shelf))
        recording._moments = [{concept: shelf.copied(concept) for concept in shelf} for shelf in shelves]
        return recording

    def _by_key(self, site: int, held: Mapping[str, list[Any]]) -> Iterator[tuple[str, list[Any]]]:
        yield from ((str(number), held[concept]) for number, concept in enumerate(self.concepts))
        if self._pooled is not None:
            yield ALL, self._pooled[site]

    def _parts(self, concepts: Concepts) -> list[tuple[tuple[str, ...], float]]:
        """What is solved for, each part alone: pooled names and the weight of their engram in the sum."""
        if not isinstance(concepts, Mapping):
            return [(self._known(concepts), 1.0)]
        names = self._known(concepts)
        for name, weight in concepts.items():
            if not isinstance(weight, Real) or not math.isfinite(weight):
                raise DataError(f"Expected a finite number as the weight of concept {name!r}, got {weight!r}.")
        return [((name,), float(concepts[name])) for name in names]

    def _known(self, given: str | Iterable[str]) -> tuple[str, ...]:
        """The names of recorded concepts, each once."""
        if not isinstance(given, Iterable):
            raise DataError(f"Expected a concept's name or a list of names, got {given!r}.")
        names = [given] if isinstance(given, str) else list(given)
        if not names:
            raise DataError("Expected at least one concept, got none.")
        for name in names:
            if name not in self.concepts:
                raise SelectionError(f"Expected a recorded concept, got {name!r}. {nearest(str(name), self.concepts)}")
        if len(set(names)) < len(names):
            raise DataError(f"Expected each concept once, got {names}.")
        return tuple(names)

    def _pool(self, site: int, names: Iterable[str]) -> list[Any]:
        """The pooled moments (or products) of the named concepts, rows multiplied as a recording would have."""
        return together((self._moments[site][name] for name in names), self._dtype)

    def _moments_at(self, site: int, names: Sequence[str]) -> list[Moment]:
        """The pooled moments, of a recording that has them."""
        found = self._pool(site, names)
        if isinstance(found[0], Product):
            raise MomentError(
                "Expected a recording that keeps moments, got one that keeps products only: it has the moment of all "
                f'rows, and no moment of {names[0]!r}. Record with keep="moments".'
            )
        return found

    def _all(self, site: int) -> list[Moment]:
        """The moments of all rows, each counted once; kept, because every engram asks for them."""
        if self._pooled is not None:
            return self._pooled[site]
        if site not in self._everything:
            self._everything[site] = self._pool(site, self.concepts)
        return self._everything[site]

    def _factors_of(
        self, site: int, against: tuple[str, ...] | None, augmented: bool, device: torch.device
    ) -> list[Factor]:
        """The factorised reference for every matrix at a site, kept for the next engram."""
        place = torch.device("cpu") if device.type == "mps" else device  # no float64 there
        key, of = (site, augmented, against is None), (frozenset(against or ()), place)
        if key not in self._factors or self._factors[key][0] != of:
            reference = self._all(site) if against is None else self._pool(site, against)
            self._factors[key] = of, [Factor(m, augmented, place, users=len(self.concepts)) for m in reference]
        return self._factors[key][1]

    def _targets(
        self,
        site: int,
        names: tuple[str, ...],
        against: tuple[str, ...] | None,
        factors: Sequence[Factor],
        weights: torch.dtype = torch.float64,
    ) -> Iterator[SiteMoments]:
        """What an estimator is given, for every matrix at a site."""
        contained = against is None or set(names) <= set(against)
        if self.overlapping and len(names) > 1:
            contained = False  # a row of two concepts counts twice in their pool and once in the reference
        retained = tuple(n for n in against or self.concepts if n not in names)
        for number, (target, factor) in enumerate(zip(self._moments_at(site, names), factors, strict=True)):
            yield SiteMoments(
                target=target.to(factor.device),
                reference=factor,
                contained=contained,
                names=names,
                concepts=_OfMatrix(self._moments[site], number),
                retained=retained,
                exclusive=not self.overlapping,
                weights=weights,
            )

    def _operators(
        self,
        site: int,
        names: tuple[str, ...],
        against: tuple[str, ...] | None,
        factors: Sequence[Factor],
        estimator: Estimator,
        weights: torch.dtype,
    ) -> list[Operator | DiagonalOperator]:
        """P for every matrix at a site."""
        operators: list[Operator | DiagonalOperator] = []
        for moments in self._targets(site, names, against, factors, weights):
            diagonal = isinstance(moments.reference.moment, Diagonal)
            try:
                operators.append(estimator.diagonal(moments) if diagonal else estimator.operator(moments))
            except SolveError as error:
                raise SolveError(f"At site {self.sites[site].name!r}: {error}") from error
        return operators

    def _multiplied(
        self,
        site: int,
        names: tuple[str, ...],
        factors: Sequence[Factor],
        estimator: Estimator,
        readers: Sequence[str],
        parameters: Mapping[str, Parameters],
    ) -> dict[str, list[Multiplied]]:
        """The same from products, for each of the layers."""
        assert isinstance(estimator, Projection)
        place, augmented = factors[0].device, factors[0].augmented
        products: list[Product] = [product.to(place) for product in self._pool(site, names)]
        found: dict[str, list[Multiplied]] = {}
        end = 0
        for name in self.sites[site].layers:
            layer = self.layers[name]
            outputs, end = slice(end, end + layer.out), end + layer.out
            if name in readers:
                matrices = matrices_of(layer, parameters[name], augmented, place, torch.float64)
                parts = zip(products, factors, matrices, strict=True)
                found[name] = [Multiplied.of(p, factor, estimator.cut, matrix, outputs) for p, factor, matrix in parts]
        return found

    def _check_served(
        self, estimator: Estimator, reference: Sequence[str] | None, base: nn.Module | Mapping[str, Tensor] | None
    ) -> None:
        """Refuse what a recording of products cannot answer."""
        if self.keep == "moments":
            return
        asked = (
            f"estimator={estimator}" if not (isinstance(estimator, Projection) and estimator.plain) else None,
            "reference=" if reference is not None else None,
            "base=" if base is not None else None,
        )
        for what in filter(None, asked):
            raise SolveError(
                f"Expected the paper's estimator with all rows as the reference, got {what}: this recording keeps only "
                "the product W S_c of each concept, which serves nothing else (an engram of other weights, against "
                'other rows or by another formula needs S_c itself). Record with keep="moments".'
            )

    def _warn(
        self, pools: Sequence[tuple[str, ...]], against: tuple[str, ...] | None, deltas: Mapping[str, Delta]
    ) -> None:
        names = [name for pooled in pools for name in pooled]
        outside = [] if against is None else sorted(set(names) - set(against))
        said = list(cautions({name: delta.solutions for name, delta in deltas.items()}, outside))
        if self.overlapping and (several := next((p for p in [*pools, against or ()] if len(p) > 1), None)):
            said.append(
                f"Concepts may overlap here: rows that belong to several of {list(several)} count once for each of "
                "them. Record their union as a concept of its own to count them once."
            )
        asked = sorted({self._site_of[layer] for layer in deltas})
        for name in names:
            if empty := [self.sites[i].name for i in asked if not rows_in(self._moments[i], name)]:
                where = "this recording" if len(empty) == len(self.sites) else some(empty)
                said.append(
                    f"Concept {name!r} has no rows in {where}: its engram is zero there. Merge the shard that has it."
                )
        for text in said:
            warnings.warn(text, LashleyWarning, stacklevel=3)


def manifest_of(recording: Recording, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the manifest of a recording says.

    Args:
        entries: per site, which file has what (`lashley.shelf.entry`), by the number of the concept or "all".
    """
    return {
        "concepts": list(recording.concepts),
        "keep": recording.keep,
        "dtype": None if recording._dtype is None else str(recording._dtype).removeprefix("torch."),
        "overlapping": recording.overlapping,
        "sites": [{**asdict(site), "kept": kept} for site, kept in zip(recording.sites, entries, strict=True)],
        "layers": [layer.to_json() for layer in recording.layers.values()],
        "folds": {name: fold._asdict() for name, fold in recording._folds.items()},
        "weights": recording._weights,
        "shards": list(recording._shards),
        "made_by": recording.made_by,
    }


def from_folder(reader: Reader) -> Recording:
    """The recording in a folder, which reads what it needs of a concept each time it needs it."""
    manifest = reader.manifest
    concepts = tuple(manifest["concepts"])
    layers = [Layer.from_json(values) for values in manifest["layers"]]
    sites, kept, pooled = [], [], []
    for number, facts in enumerate(manifest["sites"]):
        sites.append(Site(facts["name"], facts["dim"], tuple(facts["layers"]), facts["rows"]))
        entries = facts["kept"]
        kept.append(Shelf(reader, number, {c: (str(i), entries[str(i)]) for i, c in enumerate(concepts)}))
        if ALL in entries:
            pooled.append(Shelf(reader, number, {ALL: (ALL, entries[ALL])}).copied(ALL))
    return Recording(
        concepts=concepts,
        layers={layer.name: layer for layer in layers},
        sites=tuple(sites),
        kept=kept,
        pooled=pooled or None,
        keep=manifest["keep"],
        dtype=None if manifest.get("dtype") is None else getattr(torch, manifest["dtype"]),
        overlapping=manifest["overlapping"],
        weights=manifest["weights"],
        shards=tuple(manifest["shards"]),
        folds={name: Fold(**fold) for name, fold in manifest["folds"].items()},
        made_by=manifest["made_by"],
    )


def together(parts: Iterable[list[Any]], dtype: torch.dtype | None) -> list[Any]:
    """What is kept of several concepts or shards as one, matrix by matrix; ``dtype`` as in `pool_all`."""
    parts = iter(parts)
    first = next(parts)
    if isinstance(first[0], Product):
        return [pool_products(products) for products in zip(first, *parts, strict=True)]
    return pool_all(chain([first], parts), dtype)  # one at a time: they may come from a disk


class _OfMatrix(Mapping[str, Moment]):
    """The moments of all concepts for one matrix of a site."""

    def __init__(self, held: Mapping[str, list[Moment]], number: int) -> None:
        self._held = held
        self._number = number

    def __getitem__(self, concept: str) -> Moment:
        return self._held[concept][self._number]

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)
