"""What each concept owns in each layer, as plain numbers: all that a page says of inputs and weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn

from lashley.anatomy import Complement, Place, places
from lashley.errors import SelectionError, nearest
from lashley.geometry import Ownership, effective_rank
from lashley.progress import track
from lashley.recording import Recording
from lashley.select import Patterns, match_names
from lashley.spectrum import Cut

__all__ = ["POSITIONS", "ConceptReading", "LayerReading", "middle", "others", "read"]

# Where a sorted spectrum is looked at, from the most owned direction (0) to the least (1): closer at the upper end,
# where spectra differ.
POSITIONS = tuple(round((i / 24) ** 2, 4) for i in range(25))


@dataclass(frozen=True)
class ConceptReading:
    """One concept in one layer; of several matrices the mean, of counts the sum.

    Attributes:
        prior: its part of the rows.
        curve: r at `POSITIONS`.
        median, largest: of r.
        above: directions owned to more than the threshold; above_share: as a part of the kept ones.
        trace: ``sum r``.
        rank: effective rank of the operator.
        own: ``sum r^2 / sum r``.
        non_idempotence, raw: ``||R^2 - R|| / ||R||`` and ``||P^2 - P|| / ||P||``.
        sparing: the threshold that spares the bulk (`Ownership.sparing`).
        norm: ``||E|| / ||W||``.
        engram_rank: effective rank of E.
        outputs: the part of its outputs' energy that its engram makes; lost: that in Q. None where it makes none.
    """

    prior: float
    curve: tuple[float, ...]
    median: float
    largest: float
    above: int
    above_share: float
    trace: float
    rank: float
    own: float
    non_idempotence: float
    raw: float
    sparing: float
    norm: float
    engram_rank: float
    outputs: float | None
    lost: float | None


@dataclass(frozen=True)
class LayerReading:
    """One layer.

    Attributes:
        name: of the layer.
        matrices, dim, kept, rows: M, D, k (the smallest of the matrices) and the rows of the reference.
        diagonal: whether each index is a direction of its own.
        concepts: ``{name: ConceptReading}``.
        averaged: the names of those that means are over.
        sharing: ``tr(R_a R_b) / tr(R_a)``, ``[K, K]``.
        spaces: the part of the smaller of two owned spaces that lies in the larger, ``[K, K]``; nan where one is empty.
        cosines, angles: of engrams as weights, and in the metric of the inputs, ``[K, K]``.
        complement: Q; of several matrices the mean of its parts.
    """

    name: str
    matrices: int
    dim: int
    kept: int
    rows: int
    diagonal: bool
    concepts: dict[str, ConceptReading]
    averaged: tuple[str, ...]
    sharing: Tensor
    spaces: Tensor
    cosines: Tensor
    angles: Tensor
    complement: Complement

    def all(self, of: Callable[[ConceptReading], float | None]) -> list[float]:
        """A number of every concept that means are over and that has it."""
        found = (of(self.concepts[name]) for name in self.averaged)
        return [value for value in found if value is not None and math.isfinite(value)]

    def pairs(self, matrix: Tensor) -> list[float]:
        """What one of the matrices says of two different concepts that means are over, where it says something."""
        names = list(self.concepts)
        places = [names.index(name) for name in self.averaged]
        found = (matrix[i, j].item() for i in places for j in places if i != j)
        return [value for value in found if math.isfinite(value)]


def read(
    recording: Recording,
    model: nn.Module,
    concepts: Sequence[str] | None = None,
    *,
    layers: Patterns = None,
    reference: Sequence[str] | None = None,
    bias: bool = True,
    cut: Cut | None = None,
    threshold: float = 0.5,
    beside: Sequence[str] = (),
) -> list[LayerReading]:
    """Of every layer, in the recording's order; arguments as for `lashley.anatomy.places`.

    Args:
        threshold: from which a direction counts as owned.
        beside: concepts that means are not over.

    Raises:
        SelectionError: one of ``beside`` is none of the concepts; nothing is left beside them.
    """
    names = recording.concepts if concepts is None else tuple(concepts)
    for name in beside:
        if name not in names:
            raise SelectionError(f"Expected beside= to name some of the concepts, got {name!r}. {nearest(name, names)}")
    averaged = tuple(name for name in names if name not in beside)
    if not averaged:
        raise SelectionError(
            "Expected a concept that is not in beside=, got none: there is nothing to take means over."
        )
    parts: dict[str, list[_Part]] = {}
    found = places(recording, model, concepts, layers=layers, reference=reference, bias=bias, cut=cut)
    for place in track(found, None, "reading", "places", None):
        spaces = _spaces(place, threshold)
        for layer in place.layers:
            parts.setdefault(layer, []).append(_Part.of(place, layer, threshold, spaces))
    order = match_names(layers, recording.layers, "layers")
    return [_together(name, parts[name], averaged) for name in order if name in parts]


@dataclass(frozen=True)
class _Part:
    """One matrix of a layer, as numbers, so that nothing of the place is held."""

    place: tuple[int, int, int, bool]
    concepts: dict[str, ConceptReading]
    sharing: Tensor
    spaces: Tensor
    cosines: Tensor
    angles: Tensor
    complement: Complement

    @classmethod
    def of(cls, place: Place, layer: str, threshold: float, spaces: Tensor) -> _Part:
        energy = place.energy(layer)
        concepts = {}
        for number, name in enumerate(place.concepts):
            own, lost = energy.own[number].item(), energy.lost[number].item()
            concepts[name] = _concept(
                place.spectrum(name),
                threshold,
                norm=energy.norms[number].item(),
                engram_rank=effective_rank(place.engram(layer, name)),
                outputs=own if math.isfinite(own) else None,
                lost=lost if math.isfinite(lost) else None,
            )
        return cls(
            (place.dim, place.kept, place.rows, place.diagonal),
            concepts,
            place.sharing,
            spaces,
            energy.cosines,
            energy.angles,
            place.complement(layer),
        )


def _concept(
    found: Ownership, threshold: float, *, norm: float, engram_rank: float, outputs: float | None, lost: float | None
) -> ConceptReading:
    above = found.above(threshold)
    last = found.kept - 1
    return ConceptReading(
        prior=found.prior,
        curve=tuple(found.values[round(position * last)].item() if found.kept else 0.0 for position in POSITIONS),
        median=found.median,
        largest=found.largest,
        above=above,
        above_share=above / found.kept if found.kept else 0.0,
        trace=found.trace,
        rank=found.effective_rank,
        own=found.own,
        non_idempotence=found.non_idempotence,
        raw=found.raw,
        sparing=found.sparing(),
        norm=norm,
        engram_rank=engram_rank,
        outputs=outputs,
        lost=lost,
    )


def _spaces(place: Place, threshold: float) -> Tensor:
    """Mean squared cosines between owned spaces, ``[K, K]``."""
    count = len(place.concepts)
    found = torch.full((count, count), math.nan, dtype=torch.float64)
    for i, a in enumerate(place.concepts):
        for j, b in enumerate(place.concepts[: i + 1]):
            cosines = place.cosines(a, b, threshold)
            if len(cosines):
                found[i, j] = found[j, i] = cosines.square().mean().item()
    return found


def _together(name: str, parts: Sequence[_Part], averaged: tuple[str, ...]) -> LayerReading:
    """The matrices of a layer as one reading."""
    dim, _, rows, diagonal = parts[0].place
    kept = min(part.place[1] for part in parts)
    complements = [part.complement for part in parts]
    return LayerReading(
        name=name,
        matrices=len(parts),
        dim=dim,
        kept=kept,
        rows=rows,
        diagonal=diagonal,
        concepts={c: _mean([part.concepts[c] for part in parts]) for c in parts[0].concepts},
        averaged=averaged,
        sharing=_mean_of(part.sharing for part in parts),
        spaces=_mean_of(part.spaces for part in parts),
        cosines=_mean_of(part.cosines for part in parts),
        angles=_mean_of(part.angles for part in parts),
        complement=Complement(
            dim=dim,
            kept=kept,
            weight=sum(c.weight for c in complements) / len(parts),
            outputs=sum(c.outputs for c in complements) / len(parts),
            least=min(c.least for c in complements),
            most=max(c.most for c in complements),
        ),
    )


def _mean_of(matrices: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(matrices)).nanmean(0)


def _mean(readings: Sequence[ConceptReading]) -> ConceptReading:
    if len(readings) == 1:
        return readings[0]
    values: dict[str, object] = {}
    for name in ConceptReading.__dataclass_fields__:
        found = [getattr(reading, name) for reading in readings]
        if name == "curve":
            values[name] = tuple(sum(points) / len(points) for points in zip(*found, strict=True))
        elif name == "above":
            values[name] = sum(found)
        else:
            known = [value for value in found if value is not None]
            values[name] = sum(known) / len(known) if known else None
    return ConceptReading(**values)  # type: ignore[arg-type]


def others(reading: ConceptReading) -> float | None:
    """The part of a concept's outputs that the engrams of others make; None where it has none."""
    if reading.outputs is None or reading.lost is None:
        return None
    return 1 - reading.outputs - reading.lost


def middle(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return fmean(values) if values else None
