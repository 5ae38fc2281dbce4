"""How well the place of a memory is found: scores of every weight and every layer, compared with where it was written.

The place is the memory's mask. Where nothing was masked it is the tenth of the weights that writing the memory moved
most, of which only the checkpoints know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lashley import Engram
from lashley.stats import auroc, rank_correlation
from lashley.studies.planted.masks import Mask
from lashley.studies.planted.subject import SHARPENED, Subject

__all__ = ["ALL", "ORACLE", "SHUFFLED", "WITHOUT", "Scores", "found_by", "localised", "localisers", "most_moved"]

ORACLE, SHUFFLED = "its own change", "its own change, shuffled"
WITHOUT, ALL = "difference to never taught", "change by all memories"
MOST = 0.1


@dataclass(frozen=True)
class Scores:
    """How much a localiser thinks is where: of every weight, and of every layer."""

    entries: Mapping[str, Tensor]
    layers: Mapping[str, float]


def localisers(subject: Subject, number: int, seed: int) -> dict[str, Scores]:
    """Every localiser's scores for one memory."""
    name, images = subject.memories[number].name, subject.memories[number].images
    weights, own = subject.weights, subject.changes[number]
    draw = torch.Generator().manual_seed(1000 * seed + number)
    fisher, of_digits = subject.fisher(images), subject.digit_fisher
    floor = {key: 1e-3 * value.mean() for key, value in of_digits.items()}
    slope = {key: value.mean(0) for key, value in subject.gradients(images).items()}
    return {
        ORACLE: _by_norm(own, weights),
        SHUFFLED: _by_norm(_shuffled(own, draw), weights),
        WITHOUT: _by_norm(_difference(weights, subject.without[number]), weights),
        ALL: _by_norm(_difference(weights, subject.base), weights),
        "engram, paper": _of_engram(subject.engram(name)),
        "engram, sharpened": _of_engram(subject.engram(name, SHARPENED)),
        "engram of the change, paper": _of_engram(subject.engram(name, of_the_change=True)),
        "engram of the change, sharpened": _of_engram(subject.engram(name, SHARPENED, of_the_change=True)),
        "Fisher": _by_mean(fisher),
        "Fisher over that of digits": _by_mean({key: fisher[key] / (of_digits[key] + floor[key]) for key in weights}),
        "gradient times weight": _by_mean({key: (slope[key] * weights[key]).abs() for key in weights}),
        "weight": _by_mean({key: value.abs() for key, value in weights.items()}),
        "layer index": _by_mean({key: torch.full_like(weights[key], place) for place, key in enumerate(weights)}),
        "random": _by_mean({key: torch.rand(value.shape, generator=draw) for key, value in weights.items()}),
    }


def _difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value - other[key] for key, value in one.items()}


def _by_norm(entries: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Scores:
    """Sizes; of a layer, the norm relative to that of its weight."""
    layers = {key: (value.norm() / weights[key].norm()).item() for key, value in entries.items()}
    return Scores({key: value.abs() for key, value in entries.items()}, layers)


def _by_mean(entries: Mapping[str, Tensor]) -> Scores:
    return Scores(entries, {key: value.double().mean().item() for key, value in entries.items()})


def _of_engram(engram: Engram) -> Scores:
    norms = engram.weight_norms()
    return Scores(
        {f"{layer}.weight": delta.weight.abs() for layer, delta in engram.items()},
        {f"{layer}.weight": norms[layer] for layer in engram},
    )


def _shuffled(entries: Mapping[str, Tensor], draw: torch.Generator) -> dict[str, Tensor]:
    """The same numbers in other places, over all layers."""
    flat = torch.cat([value.flatten() for value in entries.values()])
    parts = flat[torch.randperm(len(flat), generator=draw)].split([value.numel() for value in entries.values()])
    return {key: part.view(value.shape) for (key, value), part in zip(entries.items(), parts, strict=True)}


def most_moved(change: Mapping[str, Tensor], share: float = MOST) -> Mask:
    """The weights that moved most, over all layers."""
    sizes = torch.cat([value.abs().flatten() for value in change.values()])
    edge = sizes.sort(descending=True).values[max(0, round(share * len(sizes)) - 1)]
    return {key: value.abs() >= edge for key, value in change.items()}


def found_by(scores: Scores, place: Mask) -> dict[str, float | None]:
    """How well the scores find the place.

    Returns:
        "entries": AUROC over all weights; "inside": its mean over the layers that hold a part of the place but not only
        it; "layers": AUROC over layers, those that hold a part of the place against the others. None where every layer
        is on one side.
    """
    keys = list(place)
    inside = [
        auroc(scores.entries[key].flatten(), place[key].flatten())
        for key in keys
        if place[key].any() and not place[key].all()
    ]
    holds = torch.tensor([bool(place[key].any()) for key in keys])
    layers = torch.tensor([scores.layers[key] for key in keys])
    return {
        "entries": auroc(
            torch.cat([scores.entries[key].flatten() for key in keys]),
            torch.cat([place[key].flatten() for key in keys]),
        ),
        "inside": sum(inside) / len(inside) if inside else None,
        "layers": None if holds.all() or not holds.any() else auroc(layers, holds),
    }


def along_layers(scores: Scores, change: Scores) -> float | None:
    """Rank correlation over layers with how far each moved, relative to its weight; None for scores all alike."""
    ours, theirs = list(scores.layers.values()), [change.layers[key] for key in scores.layers]
    return None if len(set(ours)) == 1 or len(set(theirs)) == 1 else rank_correlation(ours, theirs)


def localised(subject: Subject, seed: int) -> dict[str, list[dict[str, Any]]]:
    """``{localiser: [what it finds, for each memory]}``.

    Each also has "of layers", the scores of the layers in order; of networks without masks also "along layers".
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for number in range(len(subject.memories)):
        every = localisers(subject, number, seed)
        place = subject.masks[number] if subject.masks else most_moved(subject.changes[number])
        for name, scores in every.items():
            row: dict[str, Any] = {**found_by(scores, place), "of layers": list(scores.layers.values())}
            if not subject.masks:
                row["along layers"] = along_layers(scores, every[ORACLE])
            found.setdefault(name, []).append(row)
    return found
