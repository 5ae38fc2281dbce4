"""The readings of a geometry as charts: data, of which the report makes figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from torch import Tensor

from lashley.result import Chart, Series
from lashley.studies.geometry.fisher import SHOWN, FisherReading, Scatter
from lashley.studies.geometry.readings import POSITIONS, ConceptReading, LayerReading, middle, others

__all__ = ["charts"]

_FEW_LAYERS = 6  # whose spectra are drawn as lines, one beside the other
_FEW_MAPS = 2  # layers of which overlaps are shown
_NAMED = 12  # layers whose names have room under an axis


def charts(readings: Sequence[LayerReading], steps: Sequence[FisherReading], scatter: Scatter | None) -> list[Chart]:
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
    found += [_idempotence(readings), _split(readings)]
    if any(layer.kept < layer.dim for layer in readings):
        found.append(_outside(readings))
    if steps:
        found += [_angles(steps)] if any(step.cosines for step in steps) else []
        found += [_scatter(scatter)] if scatter is not None else []
    return found


def _spectra(readings: Sequence[LayerReading]) -> Chart:
    series, names = [], _names(readings)
    for layer in _spread(readings, _FEW_LAYERS):
        points = list(zip(*(layer.concepts[name].curve for name in layer.averaged), strict=True))
        series.append(
            Series(
                names[layer.name],
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
    names = _names(readings)
    return Chart(
        "quantiles",
        "Shares in every layer",
        [
            Series(
                names[layer.name],
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


def _names(readings: Sequence[LayerReading]) -> dict[str, str]:
    """What layers are called in a legend: their names, or the ends of long lists of them behind their numbers."""
    names = [layer.name for layer in readings]
    if len(names) <= _NAMED:
        return {name: name for name in names}
    return {name: f"{number} {'.'.join(name.split('.')[-2:])}" for number, name in enumerate(names, 1)}


def _axis(names: Sequence[str]) -> tuple[Sequence[float | str], str]:
    """The layers under an axis, and what it says: their names where there is room, else their numbers."""
    if len(names) <= _NAMED:
        return list(names), ""
    return list(range(1, len(names) + 1)), "layer, by its number in the table"


def _overlaps(readings: Sequence[LayerReading]) -> Chart:
    x, x_label = _axis([layer.name for layer in readings])
    return Chart(
        "overlaps",
        "How much two concepts have in common, by layer",
        [
            Series("as weights", x, [middle(layer.pairs(layer.cosines.abs())) for layer in readings]),
            Series("in the inputs' metric", x, [middle(layer.pairs(layer.angles.abs())) for layer in readings]),
            Series("owned spaces", x, [middle(layer.pairs(layer.spaces)) for layer in readings]),
        ],
        x_label=x_label,
        y_label="mean over pairs",
        y_range=(0.0, 1.0),
        note="Mean |cosine| of two engrams, as weights and in the metric of the inputs; of owned spaces the mean "
        "squared cosine of their principal angles, where "
        "both own a direction. Memories that do not interfere would be at 0.",
    )


def _idempotence(readings: Sequence[LayerReading]) -> Chart:
    x, x_label = _axis([layer.name for layer in readings])

    def line(name: str, of: Callable[[ConceptReading], float]) -> Series:
        values = [layer.all(of) for layer in readings]
        return Series(name, x, [fmean(v) for v in values], [min(v) for v in values], [max(v) for v in values])

    return Chart(
        "non-idempotence",
        "How far the operators are from projectors",
        [line("||R² - R|| / ||R||", lambda c: c.non_idempotence), line("||P² - P|| / ||P||", lambda c: c.raw)],
        x_label=x_label,
        y_label="relative norm",
        note="0 for a projector, 1 - r where every share is r. The mean over concepts; the band from the smallest to "
        "the largest. R is the operator where the reference is the identity, P as it stands.",
    )


def _split(readings: Sequence[LayerReading]) -> Chart:
    x, x_label = _axis([layer.name for layer in readings])
    parts: dict[str, Callable[[ConceptReading], float | None]] = {
        "its own engram": lambda c: c.outputs,
        "engrams of others": others,
        "Q": lambda c: c.lost,
    }
    return Chart(
        "energy",
        "Who makes a concept's outputs",
        [Series(name, x, [middle(layer.all(of)) for layer in readings]) for name, of in parts.items()],
        kind="lines" if x_label else "bars",
        x_label=x_label,
        y_label="of the energy of a concept's outputs",
        y_unit="share",
        y_range=(0.0, 1.0),
        note="tr(E S_c W^T) / tr(W S_c W^T), a mean over concepts; the three parts add to 1. Ablation at alpha = 1 "
        "takes out the first.",
    )


def _outside(readings: Sequence[LayerReading]) -> Chart:
    x, x_label = _axis([layer.name for layer in readings])
    return Chart(
        "complement-parts",
        "What lies in the complement Q",
        [
            Series("directions", x, [1 - layer.complement.kept / layer.complement.dim for layer in readings]),
            Series("weight", x, [layer.complement.weight for layer in readings]),
            Series("outputs", x, [layer.complement.outputs for layer in readings]),
        ],
        kind="lines" if x_label else "bars",
        x_label=x_label,
        y_label="in Q",
        y_unit="share",
        note="The part of the directions, of the squared norm of the weight, and of the energy of the outputs.",
    )


def _angles(steps: Sequence[FisherReading]) -> Chart:
    x, x_label = _axis([step.layer for step in steps])
    dampings = sorted({d for step in steps for d in step.cosines}, reverse=True)
    return Chart(
        "steps-angles",
        "What a curvature of the outputs would change",
        [
            Series("G = I, by autograd", x, [step.cosine for step in steps], target=True),
            *(
                Series(
                    f"G, damping {d:g}",
                    x,
                    [fmean(step.cosines[d]) for step in steps],
                    [min(step.cosines[d]) for step in steps],
                    [max(step.cosines[d]) for step in steps],
                )
                for d in dampings
            ),
        ],
        x_label=x_label,
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
            Series(f"G, damping {SHOWN:g}", scatter.engram, scatter.outputs),
            Series("G = I, by autograd", scatter.engram, scatter.computed),
            Series("equal", [min(scatter.engram), max(scatter.engram)], [min(scatter.engram), max(scatter.engram)],
                   target=True),
        ],
        kind="points",
        x_label="engram",
        y_label="natural-gradient step",
        note="Entries of both matrices in the same places, over the engram's largest; the step with the network's G is "
        "brought to the engram's norm. On the dashed line they agree.",
    )  # fmt: skip


def _numbers(values: Iterable[Tensor]) -> list[float | None]:
    return [value.item() if math.isfinite(value) else None for value in values]


def _spread(readings: Sequence[LayerReading], count: int) -> list[LayerReading]:
    """So many of the layers at most, the first and the last among them."""
    if len(readings) <= count:
        return list(readings)
    return [readings[round(i * (len(readings) - 1) / (count - 1))] for i in range(count)]
