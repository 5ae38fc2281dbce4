"""What a check found, as numbers: of an engram, and of everything it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lashley.criteria.recorded import Recorded
from lashley.stats import Interval

__all__ = ["Dose", "EditCriteria", "Findings", "LayerCriteria", "Number"]

Number = Interval | None
"""A value with the ends of its interval; None where it is not defined or was not measured."""


@dataclass(frozen=True)
class LayerCriteria:
    """Of one layer; errors, of which 0 is the best.

    Attributes:
        recorded: from the recording's moments alone.
        reactivation, leak: the same two numbers, rho+ and rho-, on the samples that were given: their inputs to the
            layer in the learned network.
        necessity: ``||Z(mu - alpha E) - Z(mu_0)|| / ||Z(mu) - Z(mu_0)||`` on the target's samples, the whole network
            edited: 0 where the ablated network responds as if it had never learned.
        specificity_ablated: ``||Z(mu - alpha E) - Z(mu)|| / ||Z(mu)||`` on the others.
        sufficiency: ``||Z(mu_0 + E) - Z(mu)|| / ||Z(mu) - Z(mu_0)||`` on the target's.
        specificity_injected: ``||Z(mu_0 + E) - Z(mu_0)|| / ||Z(mu)||`` on the others.
        cosine: of Z(mu_0 + E) and Z(mu), the mean over the target's samples: reactivation whatever the scale; 1 is
            best.
        cka: of the same two, linear and unbiased, over batches of the target's samples; of the engram only.
        norm: ``||E|| / ||W||``, which moves with the spectral cut.
    """

    recorded: Recorded
    reactivation: Number = None
    leak: Number = None
    necessity: Number = None
    specificity_ablated: Number = None
    sufficiency: Number = None
    specificity_injected: Number = None
    cosine: Number = None
    cka: float | None = None
    norm: float | None = None


@dataclass(frozen=True)
class Dose:
    """An ablation at one strength: how often the target's samples, and the others, are still answered as their own.

    Attributes:
        factor: times the strength of the check.
    """

    factor: float
    target: Number
    others: Number


@dataclass(frozen=True)
class EditCriteria:
    """The criteria of one edit.

    Attributes:
        title: as in tables.
        note: a sentence that says what it is.
        layers: ``{layer: LayerCriteria}``; none for what is no edit of layers (a logit mask, a retrained network).
        output: ``{name: Number}``, see `lashley.criteria.table.OUTPUT`.
        falls: ``{concept: by how much its samples are answered less}`` by the ablated network.
        worst: the concept that fell most.
        readers: ``{reader: share of the target's samples that it still recognises}`` by the ablated network's features.
        doses: at several strengths, where that was measured.
        monotony: Spearman's rho of strength and the target's fall; None where nothing moves.
    """

    title: str
    note: str
    layers: Mapping[str, LayerCriteria] = field(default_factory=dict)
    output: Mapping[str, Number] = field(default_factory=dict)
    falls: Mapping[str, Number] = field(default_factory=dict)
    worst: str = ""
    readers: Mapping[str, Number] = field(default_factory=dict)
    doses: tuple[Dose, ...] = ()
    monotony: float | None = None


@dataclass(frozen=True)
class Findings:
    """The criteria of an engram and of its controls.

    Attributes:
        concepts: the target.
        others: the concepts of the other samples.
        engram: its criteria.
        controls: ``{title: criteria}`` of the edits it is compared with, and of masking the target's outputs.
        retrained: of the retrained network, if one was given: what the ablated one should come near to.
        original: of the untouched network: what its features tell the readers.
        kind: "classes", "answers", or "" where nothing was measured at the output.
        counts: samples of the target, and of the others.
        notes: what a reader should know.
        settings: whatever changes numbers.
        data: fingerprints of the weights and the samples.
    """

    concepts: tuple[str, ...]
    others: tuple[str, ...]
    engram: EditCriteria
    controls: Mapping[str, EditCriteria]
    retrained: EditCriteria | None
    original: EditCriteria
    kind: str
    counts: tuple[int, int]
    notes: tuple[str, ...]
    settings: Mapping[str, Any]
    data: Mapping[str, str]
