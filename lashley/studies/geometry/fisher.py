"""The engram beside natural-gradient steps, layer by layer: the worst error, and what the outputs' curvature does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lashley.curvature import DAMPINGS, Data, Step, natural_gradient
from lashley.geometry import output_step
from lashley.observer import Forward
from lashley.recording import Recording
from lashley.select import Patterns
from lashley.spectrum import Cut

__all__ = ["DAMPINGS", "SHOWN", "FisherReading", "Scatter", "read"]

SHOWN = 0.1  # the damping whose entries are drawn
_ENTRIES = 160  # of a matrix, in the scatter


@dataclass(frozen=True)
class Scatter:
    """Entries of an engram and of two steps in the same places, scaled to the largest entry of the engram.

    Attributes:
        layer, concept: whose.
        engram: the entries.
        computed: of the gradient by autograd times ``S^+``.
        outputs: of K-FAC's step with the outputs' curvature, brought to the engram's norm.
    """

    layer: str
    concept: str
    engram: tuple[float, ...]
    computed: tuple[float, ...]
    outputs: tuple[float, ...]


@dataclass(frozen=True)
class FisherReading:
    """One layer over the concepts that were looked at, and over its matrices.

    Attributes:
        error: the largest ``||gradient S^+ - E|| / ||E||``; cosine: the smallest of the two.
        residual: the largest of the normal equations of eq. 2.
        hard: the largest ``||E_hard|| / ||E||``; hard_rank: the most directions that are owned whole.
        cosines: ``{damping: of the angle of G^-1 E with E, for every concept and matrix}``.
        ratios: ``{damping: ||G^-1 E|| / ||E||}``.
        output_rank: effective rank of G over O, the mean over matrices.
    """

    layer: str
    error: float
    cosine: float
    residual: float
    hard: float
    hard_rank: int
    cosines: Mapping[float, Sequence[float]]
    ratios: Mapping[float, Sequence[float]]
    output_rank: float | None


def read(
    model: nn.Module,
    recording: Recording,
    data: Data,
    concepts: Sequence[str],
    concept_of: Callable[[Any], Any] | None = None,
    *,
    layers: Patterns = None,
    bias: bool = True,
    cut: Cut | None = None,
    forward: Forward | None = None,
    dampings: Sequence[float] = DAMPINGS,
    seed: int = 0,
) -> tuple[list[FisherReading], Scatter | None]:
    """Of the layers, for these concepts; arguments as for `lashley.curvature.natural_gradient`.

    The scatter is of the last concept's last layer; None without a curvature.
    """
    steps = natural_gradient(
        model, recording, data, concepts, concept_of,
        layers=layers, bias=bias, cut=cut, forward=forward, dampings=dampings, seed=seed,
    )  # fmt: skip
    found: dict[str, list[Step]] = {}
    for step in steps:
        found.setdefault(step.layer, []).append(step)
    readings = [_reading(layer, of_layer) for layer, of_layer in found.items()]
    last = steps[-1]
    return readings, None if last.factor is None else _scatter(last, last.factor)


def _reading(layer: str, steps: Sequence[Step]) -> FisherReading:
    dampings = steps[0].outputs
    ranks = [step.output_rank for step in steps if step.output_rank is not None]
    return FisherReading(
        layer=layer,
        error=max(step.natural.error for step in steps),
        cosine=min(step.natural.cosine for step in steps),
        residual=max(step.residual for step in steps),
        hard=max(step.hard.ratio for step in steps),
        hard_rank=max(step.hard_rank for step in steps),
        cosines={d: [step.outputs[d].cosine for step in steps] for d in dampings},
        ratios={d: [step.outputs[d].ratio for step in steps] for d in dampings},
        output_rank=sum(ranks) / len(ranks) if ranks else None,
    )


def _scatter(step: Step, factor: Tensor) -> Scatter:
    other = output_step(step.engram, factor, SHOWN)
    other = other * (step.engram.norm() / other.norm())
    count = step.engram.numel()
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: min(count, _ENTRIES)]
    scale = step.engram.abs().max()
    engram, computed, outputs = (
        tuple((matrix.flatten()[chosen] / scale).tolist()) for matrix in (step.engram, step.computed, other)
    )
    return Scatter(step.layer, step.concept, engram, computed, outputs)
