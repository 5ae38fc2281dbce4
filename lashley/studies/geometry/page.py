"""The geometry of a recording: read, and put into a result with a summary that holds for its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from torch import nn

from lashley.curvature import Data
from lashley.errors import DataError
from lashley.observer import Forward
from lashley.recording import Recording
from lashley.result import Result, made_by
from lashley.select import Patterns
from lashley.spectrum import Cut
from lashley.studies.geometry import fisher
from lashley.studies.geometry.charts import charts
from lashley.studies.geometry.fisher import DAMPINGS, SHOWN, FisherReading
from lashley.studies.geometry.readings import LayerReading, middle, read
from lashley.studies.geometry.tables import tables

__all__ = ["LIMIT", "run"]

# The end of a summary, for who measures edits as well to replace.
LIMIT = "These are facts about the recorded rows and the weights. What an edit does to answers is not measured here."

_ROUNDING = 0.01  # above it, the step and the engram are not of the same rows: float32 leaves about 1e-4
_CHECKED = 3  # concepts that are compared with natural-gradient steps by default


def run(
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
    data: Data | None = None,
    concept_of: Callable[[Any], Any] | None = None,
    checked: Sequence[str] | None = None,
    checked_layers: Patterns = None,
    forward: Forward | None = None,
    dampings: Sequence[float] = DAMPINGS,
    seed: int = 0,
    title: str = "The geometry of engrams",
    provenance: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Result:
    """Spectra, overlaps, complement and energies of a recording; with the data also the natural-gradient steps.

    Args:
        recording, model, concepts, layers, reference, bias, cut: as `lashley.anatomy.places` takes them.
            With a reference, the concepts are its own if none are named, and no others.
        threshold: from which a direction counts as owned.
        beside: concepts that are the rest of the data: they are in the maps, and means are not over them.
        data, concept_of, forward: what was recorded; without data the steps are left out. They are against all rows.
        checked: concepts whose engrams are compared with steps; default: the first three.
        checked_layers: in which layers; default those of ``layers``.
        dampings, seed: of the curvature of the outputs (`lashley.curvature.natural_gradient`).
        title: of the result.
        provenance, settings: what a caller knows beside; default `lashley.result.made_by()`.

    Raises:
        As `lashley.anatomy.places` and `lashley.curvature.natural_gradient` do.
    """
    cut = Cut() if cut is None else cut
    if reference is not None:
        concepts = list(reference if concepts is None else concepts)
        if not recording.overlapping and (apart := [name for name in concepts if name not in reference]):
            raise DataError(
                f"Expected concepts whose rows are in the reference, got {apart[0]!r} beside "
                f"reference={list(reference)}: of rows that are not there nothing is a share. Name it in reference= "
                "(--reference) too, or leave it out."
            )
    readings = read(
        recording, model, concepts,
        layers=layers, reference=reference, bias=bias, cut=cut, threshold=threshold, beside=beside,
    )  # fmt: skip
    names = list(readings[0].concepts)
    steps: list[FisherReading] = []
    scatter = None
    if data is not None:
        checked = readings[0].averaged[:_CHECKED] if checked is None else checked
        steps, scatter = fisher.read(
            model, recording, data, checked, concept_of,
            layers=layers if checked_layers is None else checked_layers,
            bias=bias, cut=cut, forward=forward, dampings=dampings, seed=seed,
        )  # fmt: skip
    return Result(
        study="geometry",
        title=title,
        summary=_summary(readings, steps, threshold),
        tables=tables(readings, steps, threshold),
        charts=charts(readings, steps, scatter),
        provenance=made_by(seeds=[seed]) if provenance is None else provenance,
        settings={
            "concepts": names,
            "reference": None if reference is None else list(reference),
            "bias": bias,
            "cut": str(cut),
            "threshold": threshold,
            "beside": list(beside),
            "checked": list(checked or ()) if data is not None else [],
            "dampings": list(dampings) if data is not None else [],
            **(settings or {}),
        },
    )


def _summary(readings: Sequence[LayerReading], steps: Sequence[FisherReading], threshold: float) -> str:
    """What came out, in sentences that hold for these numbers."""
    own = [fmean(layer.all(lambda c: c.own)) for layer in readings]
    least, most = readings[own.index(min(own))], readings[own.index(max(own))]
    none = [layer for layer in readings if not any(layer.all(lambda c: c.above))]
    empty = [layer for layer in readings if layer.kept == layer.dim]
    sparing = [fmean(layer.all(lambda c: c.sparing)) for layer in readings]
    cosines = [value for layer in readings if (value := middle(layer.pairs(layer.cosines.abs()))) is not None]
    said = [
        "Which directions of each layer's input does a concept own, how much do concepts share, and is the engram the "
        "natural-gradient step that the paper says it is?",
        f"Of what a concept owns, between {min(own):.0%} ({least.name}) and {max(own):.0%} ({most.name}) is its own; "
        "100% would be a projector. "
        + (
            f"In {len(none)} of {len(readings)} layers no concept owns a direction to more than {threshold:g}."
            if none
            else f"In every layer some concept owns a direction to more than {threshold:g}."
        )
        + f" The sharpened filter (p = 2) takes 1% of a direction that is owned as the median is at thresholds from "
        f"{min(sparing):.2g} to {max(sparing):.2g}, layer by layer. "
        + (
            f"The mean |cosine| of two engrams runs from {min(cosines):.2g} to {max(cosines):.2g} over the layers. "
            if cosines
            else ""
        )
        + f"The complement Q is zero in {len(empty)} of {len(readings)} layers.",
    ]
    if steps:
        worst, hard = max(step.error for step in steps), max(step.hard for step in steps)
        text = "The gradient of the forgetting objective by autograd, divided by the moment of the inputs, " + (
            f"is the engram to {worst:.1e} of its norm (corollary 6.3)."
            if worst <= _ROUNDING
            else f"is away from the engram by up to {worst:.1e} of its norm. Corollary 6.3 makes them equal up to "
            "the precision of the network, so these are probably other data, or it is another network, than were "
            "recorded; then the steps say nothing of the recording."
        )
        text += " With the constraint of theorem 6.1 kept, the solution " + (
            "is zero in every layer looked at." if hard == 0 else f"has at most {hard:.2g} of the engram's norm."
        )
        bent = [value for step in steps for value in step.cosines.get(SHOWN, ())]
        if bent:
            text += (
                f" With the curvature of the outputs (damping {SHOWN:g}), the step has a cosine of {min(bent):.2f} to "
                f"{max(bent):.2f} with the engram."
            )
        said.append(text)
    return "\n\n".join([*said, LIMIT])
