"""The readings of a geometry as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from lashley.result import Column, Table
from lashley.studies.geometry.fisher import FisherReading
from lashley.studies.geometry.readings import ConceptReading, LayerReading, middle, others

__all__ = ["tables"]


def tables(readings: Sequence[LayerReading], steps: Sequence[FisherReading], threshold: float) -> list[Table]:
    """Shares, engrams and complement of every layer; steps where there are any."""
    found = [_shares(readings, threshold), _engrams(readings), _complement(readings)]
    return [*found, _steps(steps)] if steps else found


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
                "others": _span(layer, others),
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


def interval(values: Sequence[float]) -> dict[str, float] | float | None:
    """The mean between the smallest and the largest."""
    if not values or min(values) == max(values):
        return values[0] if values else None
    return {"value": fmean(values), "low": min(values), "high": max(values)}


def _span(layer: LayerReading, of: Callable[[ConceptReading], float | None]) -> dict[str, float] | float | None:
    return interval(layer.all(of))
