"""The geometry of a recording as tables and charts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from torch import Tensor, nn

from lashley.curvature import Data
from lashley.observer import Forward
from lashley.recording import Recording
from lashley.result import Chart, Column, Result, Series, Table, made_by
from lashley.select import Patterns
from lashley.spectrum import Cut
from lashley.studies.geometry import fisher
from lashley.studies.geometry.fisher import DAMPINGS, SHOWN, FisherReading, Scatter
from lashley.studies.geometry.readings import POSITIONS, ConceptReading, LayerReading, read

__all__ = ["run"]

_FEW_LAYERS = 6  # whose spectra are drawn as lines, one beside the other
_FEW_MAPS = 2  # layers of which overlaps are shown
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
    study: str = "geometry",
    title: str = "The geometry of engrams",
    provenance: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Result:
    """Spectra, overlaps, complement and energies of a recording; with the data also the natural-gradient steps.

    Args:
        recording, model, concepts, layers, reference, bias, cut: as `lashley.anatomy.places` takes them.
        threshold: from which a direction counts as owned.
        beside: concepts that are the rest of the data: they are in the maps, and means are not over them.
        data, concept_of, forward: what was recorded; without data the steps are left out.
        checked: concepts whose engrams are compared with steps; default: the first three.
        checked_layers: in which layers; default those of ``layers``.
        dampings, seed: of the curvature of the outputs (`lashley.curvature.natural_gradient`).
        study, title: of the result.
        provenance, settings: what a caller knows beside; default `lashley.result.made_by()`.

    Raises:
        As `lashley.anatomy.places` and `lashley.curvature.natural_gradient` do.
    """
    cut = Cut() if cut is None else cut
    chosen = dict(layers=layers, reference=reference, bias=bias, cut=cut)
    readings = read(recording, model, concepts, threshold=threshold, beside=beside, **chosen)  # type: ignore[arg-type]
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
        study=study,
        title=title,
        summary=_summary(readings, steps, threshold),
        tables=tables(readings, steps, threshold),
        charts=charts(readings, steps, scatter, threshold),
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
        text = (
            "The gradient of the forgetting objective by autograd, divided by the moment of the inputs, is the engram "
            f"to {worst:.1e} of its norm (corollary 6.3). With the constraint of theorem 6.1 kept, the solution "
            + ("is zero in every layer looked at." if hard == 0 else f"has at most {hard:.2g} of the engram's norm.")
        )
        bent = [value for step in steps for value in step.cosines.get(SHOWN, ())]
        if bent:
            text += (
                f" With the curvature of the outputs (damping {SHOWN:g}), the step has a cosine of {min(bent):.2f} to "
                f"{max(bent):.2f} with the engram."
            )
        said.append(text)
    said.append(
        "These are facts about the recorded rows and the weights. What an edit does to answers is not measured here."
    )
    return "\n\n".join(said)


def tables(readings: Sequence[LayerReading], steps: Sequence[FisherReading], threshold: float) -> list[Table]:
    """Shares, engrams and complement of every layer; steps where there are any."""
    found = [_shares(readings, threshold), _engrams(readings), _complement(readings)]
    return [*found, _steps(steps)] if steps else found


def charts(
    readings: Sequence[LayerReading], steps: Sequence[FisherReading], scatter: Scatter | None, threshold: float
) -> list[Chart]:
    """What the tables' numbers look like."""
    names = list(readings[0].concepts)
    found = [_spectra(readings), _quantiles(readings)]
    if len(names) > 1:
        for layer in _spread(readings, _FEW_MAPS):
            found += [
                _map(f"sharing-{layer.name}", f"Who owns what in {layer.name}", layer.sharing, names, (0.0, 1.0),
                     "belongs to", "of what this one owns",
                     "tr(R_a R_b) / tr(R_a). Rows add to 1 where the concepts are all there are; the identity would "
                     "be concepts with directions of their own."),
                _map(f"cosines-{layer.name}", f"Cosines of engrams in {layer.name}", layer.cosines, names, (-1.0, 1.0),
                     "engram of", "engram of", "Of the paper's engrams as vectors of weights."),
            ]  # fmt: skip
        found.append(_overlaps(readings))
    found += [_idempotence(readings), _split(readings), _outside(readings)]
    if steps:
        found += [_angles(steps)] if any(step.cosines for step in steps) else []
        found += [_scatter(scatter)] if scatter is not None else []
    return found


def _shares(readings: Sequence[LayerReading], threshold: float) -> Table:
    return Table(
        "shares",
        "What concepts own of the directions of each layer's input",
        [
            Column("layer", "layer"),
            Column("dim", "D", unit="count", note="Size of the matrix solved, with the bias where it is absorbed."),
            Column("kept", "kept", unit="count", note="Directions that the cut keeps; the smallest of the matrices."),
            Column("rows", "rows per column", note="Below 2 every share is near 0 or 1 by itself."),
            Column("prior", "prior", unit="share", note="A concept's part of the rows."),
            Column("median", "median r", unit="share", note="What is owned of the bulk of directions."),
            Column("largest", "largest r", unit="share"),
            Column(
                "above",
                f"r > {threshold:g}",
                note=f"Directions that a concept owns to more than {threshold:g}: a mean over concepts.",
            ),
            Column("above_share", "of the kept", unit="share", note="The same as a part of the kept directions."),
            Column(
                "sparing",
                "sparing t",
                note="The threshold at which the sharpened filter (p = 2) takes 1 % of a direction owned as the median "
                "is. Far above it nothing more is spared, and less of the concept is taken.",
            ),
            Column("rank", "effective rank of P", note="exp of the entropy of r over its sum."),
            Column("own", "own", unit="share", note="sum r^2 / sum r: of what a concept owns, what no other owns."),
            Column("non_idempotence", "||R² - R|| / ||R||", note="0 for a projector."),
            Column("raw", "||P² - P|| / ||P||", note="Of the operator as it stands; depends on units and cut."),
        ],
        [
            {
                "layer": layer.name,
                "dim": layer.dim,
                "kept": layer.kept,
                "rows": layer.rows / layer.dim,
                "prior": _span(layer, lambda c: c.prior),
                "median": _span(layer, lambda c: c.median),
                "largest": _span(layer, lambda c: c.largest),
                "above": _span(layer, lambda c: float(c.above)),
                "above_share": _span(layer, lambda c: c.above_share),
                "sparing": _span(layer, lambda c: c.sparing),
                "rank": _span(layer, lambda c: c.rank),
                "own": _span(layer, lambda c: c.own),
                "non_idempotence": _span(layer, lambda c: c.non_idempotence),
                "raw": _span(layer, lambda c: c.raw),
            }
            for layer in readings
        ],
        note="r: eigenvalues of S_c S^+. Means over concepts; intervals run from the smallest to the largest of them.",
    )


def _engrams(readings: Sequence[LayerReading]) -> Table:
    return Table(
        "engrams",
        "The paper's engrams in each layer",
        [
            Column("layer", "layer"),
            Column("norm", "||E|| / ||W||", note="Depends on the cut more than anything else here."),
            Column("engram_rank", "effective rank of E"),
            Column("outputs", "own", unit="share", group="energy of a concept's outputs",
                   note="Made by its own engram: tr(E_c S_c W^T) / tr(W S_c W^T)."),
            Column("others", "others'", unit="share", group="energy of a concept's outputs",
                   note="Made by the engrams of all others."),
            Column("lost", "Q's", unit="share", group="energy of a concept's outputs", note="In no engram."),
            Column("cosine", "mean |cosine|", group="between two engrams", note="As vectors of weights."),
            Column("angle", "in the inputs' metric", group="between two engrams",
                   note="Mean |tr(E_a S E_b^T)| over both norms: K-FAC's metric, and independent of units."),
            Column("spaces", "owned spaces", unit="share", group="between two engrams",
                   note="Mean squared cosine of the principal angles between what two concepts own."),
        ],
        [
            {
                "layer": layer.name,
                "norm": _span(layer, lambda c: c.norm),
                "engram_rank": _span(layer, lambda c: c.engram_rank),
                "outputs": _span(layer, lambda c: c.outputs),
                "others": _span(layer, _others),
                "lost": _span(layer, lambda c: c.lost),
                "cosine": middle(layer.pairs(layer.cosines.abs())),
                "angle": middle(layer.pairs(layer.angles.abs())),
                "spaces": middle(layer.pairs(layer.spaces)),
            }
            for layer in readings
        ],
        note="Means over concepts or pairs of them; intervals run from the smallest to the largest.",
    )  # fmt: skip


def _complement(readings: Sequence[LayerReading]) -> Table:
    return Table(
        "complement",
        "The complement Q = I - sum of all P",
        [
            Column("layer", "layer"),
            Column("rank", "rank of Q", unit="count", note="D - k: dropped by the cut or in no row at all."),
            Column("share", "of D", unit="share"),
            Column("weight", "of the weight", unit="share", note="||W Q||^2 / ||W||^2: what no engram changes."),
            Column("outputs", "of the outputs", unit="share", 
                   note="tr(W Q S Q W^T) / tr(W S W^T): the price of a cut."),
            Column("least", "least", group="eigenvalues of sum P",
                   note="1 where the concepts here are all, and every row is of one of them."),
            Column("most", "most", group="eigenvalues of sum P"),
        ],
        [
            {
                "layer": layer.name,
                "rank": layer.complement.dim - layer.complement.kept,
                "share": 1 - layer.complement.kept / layer.complement.dim,
                "weight": layer.complement.weight,
                "outputs": layer.complement.outputs,
                "least": layer.complement.least,
                "most": layer.complement.most,
            }
            for layer in readings
        ],
    )  # fmt: skip


def _steps(steps: Sequence[FisherReading]) -> Table:
    dampings = sorted({d for step in steps for d in step.cosines}, reverse=True)
    columns = [
        Column("layer", "layer"),
        Column("error", "||∇ S⁺ - E|| / ||E||", note="Autograd on the network against the engram."),
        Column("residual", "eq. 2", note="||E S - W S_c|| / ||W S_c||: what the cut leaves."),
        Column("hard_rank", "owned whole", unit="count", note="Directions that theorem 6.1's constraint leaves."),
        Column("hard", "||E_hard|| / ||E||", note="The solution with E X_-^T = 0 kept."),
        Column("output_rank", "isotropy of G", unit="share", note="Effective rank of G over O; the corollary takes 1."),
    ]
    for d in dampings:
        columns.append(Column(f"cosine_{d:g}", f"cosine, damping {d:g}", note="Of G⁻¹E with E."))
    for d in dampings:
        columns.append(Column(f"ratio_{d:g}", f"norm, damping {d:g}", note="||G⁻¹E|| / ||E||."))
    return Table(
        "steps",
        "The engram beside natural-gradient steps",
        columns,
        [
            {
                "layer": step.layer,
                "error": step.error,
                "residual": step.residual,
                "hard_rank": step.hard_rank,
                "hard": step.hard,
                "output_rank": step.output_rank,
                **{f"cosine_{d:g}": interval(step.cosines[d]) for d in step.cosines},
                **{f"ratio_{d:g}": interval(step.ratios[d]) for d in step.ratios},
            }
            for step in steps
        ],
        note="The worst of the concepts looked at; of cosines and ratios the mean, from the smallest to the largest. G "
        "has a mean eigenvalue of 1; the damping is added to it.",
    )


def _spectra(readings: Sequence[LayerReading]) -> Chart:
    series = []
    for layer in _spread(readings, _FEW_LAYERS):
        points = list(zip(*(layer.concepts[name].curve for name in layer.averaged), strict=True))
        series.append(
            Series(
                layer.name,
                POSITIONS,
                [fmean(values) for values in points],
                [min(values) for values in points],
                [max(values) for values in points],
            )
        )
    return Chart(
        "spectra",
        "Shares, sorted",
        series,
        x_label="position among the kept directions, from the most owned",
        x_unit="share",
        y_label="share r",
        y_unit="share",
        y_range=(0.0, 1.0),
        note="The mean over concepts; the band runs from the smallest to the largest. A projector would be a step from "
        "1 to 0, a concept without directions of its own a level line at its part of the rows."
        + (f" {len(series)} of {len(readings)} layers." if len(series) < len(readings) else ""),
    )


def _quantiles(readings: Sequence[LayerReading]) -> Chart:
    shown = {"largest": 0, "1 %": 3, "5 %": 5, "10 %": 8, "25 %": 12, "median": 17, "75 %": 21, "least": 24}
    return Chart(
        "quantiles",
        "Shares in every layer",
        [
            Series(
                layer.name,
                list(shown),
                [fmean(layer.concepts[name].curve[at] for name in layer.averaged) for at in shown.values()],
            )
            for layer in readings
        ],
        kind="heat",
        x_label="from the most owned direction to the least",
        y_label="layer",
        y_range=(0.0, 1.0),
        note="Share r of the direction at this place of the sorted spectrum, a mean over concepts.",
    )


def _map(
    name: str,
    title: str,
    matrix: Tensor,
    names: Sequence[str],
    ends: tuple[float, float],
    columns: str,
    rows: str,
    note: str,
) -> Chart:
    return Chart(
        name,
        title,
        [Series(row, names, _numbers(values)) for row, values in zip(names, matrix, strict=True)],
        kind="heat",
        x_label=columns,
        y_label=rows,
        y_range=ends,
        note=note,
    )


def _overlaps(readings: Sequence[LayerReading]) -> Chart:
    x = [layer.name for layer in readings]
    return Chart(
        "overlaps",
        "How much two concepts have in common, by layer",
        [
            Series("engrams, as weights", x, [middle(layer.pairs(layer.cosines.abs())) for layer in readings]),
            Series(
                "engrams, in the inputs' metric", x, [middle(layer.pairs(layer.angles.abs())) for layer in readings]
            ),
            Series("owned spaces", x, [middle(layer.pairs(layer.spaces)) for layer in readings]),
        ],
        kind="lines",
        y_label="mean over pairs",
        y_range=(0.0, 1.0),
        note="Mean |cosine| of two engrams; of owned spaces the mean squared cosine of their principal angles, where "
        "both own a direction. Memories that do not interfere would be at 0.",
    )


def _idempotence(readings: Sequence[LayerReading]) -> Chart:
    x = [layer.name for layer in readings]

    def line(name: str, of: Callable[[ConceptReading], float]) -> Series:
        values = [layer.all(of) for layer in readings]
        return Series(name, x, [fmean(v) for v in values], [min(v) for v in values], [max(v) for v in values])

    return Chart(
        "non-idempotence",
        "How far the operators are from projectors",
        [line("||R² - R|| / ||R||", lambda c: c.non_idempotence), line("||P² - P|| / ||P||", lambda c: c.raw)],
        y_label="relative norm",
        note="0 for a projector, 1 - r where every share is r. The mean over concepts; the band from the smallest to "
        "the largest. R is the operator where the reference is the identity, P as it stands.",
    )


def _split(readings: Sequence[LayerReading]) -> Chart:
    x = [layer.name for layer in readings]
    parts: dict[str, Callable[[ConceptReading], float | None]] = {
        "its own engram": lambda c: c.outputs,
        "engrams of others": _others,
        "Q": lambda c: c.lost,
    }
    return Chart(
        "energy",
        "Who makes a concept's outputs",
        [Series(name, x, [middle(layer.all(of)) for layer in readings]) for name, of in parts.items()],
        kind="bars",
        y_label="of the energy of a concept's outputs",
        y_unit="share",
        y_range=(0.0, 1.0),
        note="tr(E S_c W^T) / tr(W S_c W^T), a mean over concepts; the three parts add to 1. Ablation at alpha = 1 "
        "takes out the first.",
    )


def _outside(readings: Sequence[LayerReading]) -> Chart:
    x = [layer.name for layer in readings]
    return Chart(
        "complement-parts",
        "What lies in the complement Q",
        [
            Series("directions", x, [1 - layer.complement.kept / layer.complement.dim for layer in readings]),
            Series("weight", x, [layer.complement.weight for layer in readings]),
            Series("outputs", x, [layer.complement.outputs for layer in readings]),
        ],
        kind="bars",
        y_label="in Q",
        y_unit="share",
        note="The part of the directions, of the squared norm of the weight, and of the energy of the outputs.",
    )


def _angles(steps: Sequence[FisherReading]) -> Chart:
    x = [step.layer for step in steps]
    dampings = sorted({d for step in steps for d in step.cosines}, reverse=True)
    return Chart(
        "steps-angles",
        "What a curvature of the outputs would change",
        [
            Series("G = I (computed by autograd)", x, [1 - step.error**2 / 2 for step in steps], target=True),
            *(
                Series(
                    f"the network's G, damping {d:g}",
                    x,
                    [fmean(step.cosines[d]) for step in steps],
                    [min(step.cosines[d]) for step in steps],
                    [max(step.cosines[d]) for step in steps],
                )
                for d in dampings
            ),
        ],
        y_label="cosine with the engram",
        y_range=(0.0, 1.02),
        note="K-FAC's natural-gradient step on the forgetting objective, with the outputs' curvature taken as the "
        "identity and as it is.",
    )


def _scatter(scatter: Scatter) -> Chart:
    return Chart(
        "steps-entries",
        f"Entry by entry: concept {scatter.concept} in {scatter.layer}",
        [
            Series(f"the network's G, damping {SHOWN:g}", scatter.engram, scatter.outputs),
            Series("G = I (autograd)", scatter.engram, scatter.computed),
            Series("equal", [min(scatter.engram), max(scatter.engram)], [min(scatter.engram), max(scatter.engram)],
                   target=True),
        ],
        kind="points",
        x_label="engram",
        y_label="natural-gradient step",
        note="Entries of both matrices in the same places, over the engram's largest; the step with the network's G is "
        "brought to the engram's norm. On the dashed line they agree.",
    )  # fmt: skip


def middle(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return fmean(values) if values else None


def interval(values: Sequence[float]) -> dict[str, float] | float | None:
    """The mean between the smallest and the largest."""
    if not values or min(values) == max(values):
        return values[0] if values else None
    return {"value": fmean(values), "low": min(values), "high": max(values)}


def _span(layer: LayerReading, of: Callable[[ConceptReading], float | None]) -> dict[str, float] | float | None:
    return interval(layer.all(of))


def _others(reading: ConceptReading) -> float | None:
    if reading.outputs is None or reading.lost is None:
        return None
    return 1 - reading.outputs - reading.lost


def _numbers(values: Iterable[Tensor]) -> list[float | None]:
    return [value.item() if math.isfinite(value) else None for value in values]


def _spread(readings: Sequence[LayerReading], count: int) -> list[LayerReading]:
    """So many of the layers at most, the first and the last among them."""
    if len(readings) <= count:
        return list(readings)
    return [readings[round(i * (len(readings) - 1) / (count - 1))] for i in range(count)]
