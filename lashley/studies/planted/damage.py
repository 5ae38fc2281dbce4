"""Damage in one layer: what is predicted of it from sizes and moments, and what comes of editing that layer alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lashley import Engram
from lashley.studies.planted.edits import edited
from lashley.studies.planted.networks import Network, Stack, logits
from lashley.studies.planted.subject import Subject

__all__ = ["MEASURED", "damaged", "response_shares"]

MEASURED = {
    "ablated": "the layer's engram taken out (paper's formula, strength 1)",
    "put back": "the layer's weights put back to those before any memory",
}


def response_shares(subject: Subject, engram: Engram, name: str) -> dict[str, float]:
    """``||E X|| / ||W X||`` per layer on the rows of one memory, from its moment: ``tr(E S E^T)``, ``tr(W S W^T)``."""
    found = {}
    for layer, delta in engram.items():
        [ours] = delta.layer.matrix(delta.weight)
        [whole] = delta.layer.matrix(subject.weights[f"{layer}.weight"])
        square = subject.recording.moment(name, layer).square
        found[layer] = (_response(ours, square) / _response(whole, square)) ** 0.5
    return found


def _response(matrix: Tensor, square: Tensor) -> float:
    wide = matrix.double()
    return torch.einsum("od,de,oe->", wide, square, wide).item()


def damaged(subject: Subject) -> list[dict[str, Any]]:
    """For each memory, lists over layers: its "response share", and what was measured.

    Measured, each way of `MEASURED`, is the rise of the mean cross-entropy of the taught labels on the memory's images.
    """
    found = []
    total = {name: value - subject.base[name] for name, value in subject.weights.items()}
    for number, memory in enumerate(subject.memories):
        shares = response_shares(subject, subject.engram(memory.name), memory.name)
        rows = {"response share": [shares[layer] for layer in subject.layers]}
        before = _loss(subject, {name: value[None] for name, value in subject.weights.items()}, number)
        for name, direction in (("ablated", subject.direction(memory.name)), ("put back", total)):
            rows[name] = (_loss(subject, _layer_by_layer(subject.weights, direction), number) - before).tolist()
        found.append(rows)
    return found


def _layer_by_layer(weights: Network, direction: Network) -> Stack:
    """A stack with as many networks as layers, each edited in one of them."""
    alone = [
        edited(
            weights, {name: value if name == one else torch.zeros_like(value) for name, value in direction.items()}, [1]
        )
        for one in weights
    ]
    return {name: torch.cat([stack[name] for stack in alone]) for name in weights}


@torch.no_grad()
def _loss(subject: Subject, stack: Stack, number: int) -> Tensor:
    """Mean cross-entropy of the taught labels of one memory, nats, for every network."""
    images = subject.memories[number].images
    answers = logits(subject.model, stack, images.rows).double()
    labels = images.labels.expand(len(answers), -1)
    return nn.functional.cross_entropy(answers.transpose(1, 2), labels, reduction="none").mean(1)
