"""What can still be read from a network's features, whatever its own outputs say: readers fitted anew.

The features of a sample are what the network's last layer of a known type reads, averaged over positions where it reads
several. Readers are a ridge regression and the nearest class centre (`lashley.metrics`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lashley.criteria.findings import Number
from lashley.criteria.passing import resting
from lashley.criteria.samples import Group, labelled
from lashley.criteria.watching import Watched, of_samples
from lashley.data.concepts import Stream
from lashley.errors import DataError, RecordingError
from lashley.hooks import tapped
from lashley.layers import Layer, describe, places, unwrap
from lashley.layers.base import layer_type, unusable
from lashley.metrics import linear_probe, nearest_centre

__all__ = ["READERS", "Readers", "last_layer"]

READERS = {"ridge probe": linear_probe, "nearest centre": nearest_centre}


class Readers:
    """Readers of the target's samples among those of the other concepts.

    Args:
        layer: whose inputs are the features.
        stream: samples that are asked about.
        train: that readers are fitted on; None: one half of the others, of every concept.
        group: of the samples of ``stream``.
        seed: of the halves.
    """

    def __init__(self, layer: str, stream: Stream, train: Stream | None, group: Group, seed: int) -> None:
        self._layer, self._stream, self._train = layer, stream, train
        concepts = [name for _, names in labelled(stream) for name in names]
        self._own = torch.ones(len(concepts), dtype=torch.bool)
        if train is None:
            self._own[_half(concepts, seed)] = False
        asked = [name for name, here in zip(concepts, self._own.tolist(), strict=True) if here]
        self._asked, self._concepts = group.like(asked), asked

    def recall(self, network: Watched) -> dict[str, Number]:
        """By reader: the share of the target's samples that it recognises in the network's features. None where the
        features are the same for every sample.
        """
        features, concepts = _features(network, self._layer, self._stream)
        test = features[self._own]
        if self._train is None:
            fitted = features[~self._own]
            labels = [name for name, here in zip(concepts, self._own.tolist(), strict=True) if not here]
        else:
            fitted, labels = _features(network, self._layer, self._train)
        if (fitted == fitted[0]).all():
            return dict.fromkeys(READERS)
        columns: dict[Hashable, Tensor] = {}
        for reader, read in READERS.items():
            found = read(fitted, labels, test, self._concepts)
            named = [found.classes[place] for place in found.predicted.tolist()]
            right = [answer == name for answer, name in zip(named, self._concepts, strict=True)]
            columns[reader] = torch.tensor(right, dtype=torch.float64)
        sums = self._asked.sums(columns)
        return {reader: sums.interval(sums.mean(reader, self._asked.target)) for reader in READERS}


def last_layer(watched: Watched, batch: Any) -> str:
    """The layer of a known type that is called last."""
    model = watched.subject.model
    usable = {
        name: module
        for name, module in places(model).items()
        if layer_type(module) is not None and unusable(module, name) is None
    }
    called: list[str] = []
    layers = {name: describe(name, module) for name, module in usable.items()}
    with resting(watched), tapped(usable, lambda name, x: called.append(name), layers=layers):
        watched.plain(batch)
    if not called:
        raise DataError(f"Expected {watched.title} to call a layer of a known type, to take features from; got none.")
    return called[-1]


def _features(watched: Watched, name: str, stream: Stream) -> tuple[Tensor, list[str]]:
    """What a layer reads of every sample, averaged over positions: ``[N, D]``; and the concept of each."""
    module = _module(watched, name)
    layer = describe(name, module)
    found: list[Tensor] = []
    concepts: list[str] = []
    with resting(watched):
        for batch, names in labelled(stream):
            read: list[Tensor] = []

            def keep(_: str, x: Tensor, read: list[Tensor] = read) -> None:
                read.append(x.detach())

            with tapped({name: module}, keep, layers={name: layer}):
                watched.plain(batch)
            means = torch.cat([_mean(layer, x, len(names)) for x in read], dim=1).to("cpu", torch.float64)
            if not torch.isfinite(means).all():
                raise RecordingError(f"Expected finite features of {watched.title}, got nan or inf at layer {name!r}.")
            found.append(means)
            concepts += names
    return torch.cat(found), concepts


def _half(concepts: Sequence[str], seed: int) -> Tensor:
    """The indices of one half of every concept's samples."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for name in dict.fromkeys(concepts):
        index = torch.tensor([place for place, one in enumerate(concepts) if one == name])
        parts.append(index[torch.randperm(len(index), generator=generator)[: -(-len(index) // 2)]])
    return torch.cat(parts)


def _module(watched: Watched, name: str) -> nn.Module:
    found = places(unwrap(watched.subject.model))
    if name not in found:
        raise DataError(
            f"Expected {watched.title} to have layer {name!r}, whose inputs are the features; there are "
            f"{', '.join(list(found)[:5])}. Give features= a layer that every network has."
        )
    return found[name]


def _mean(layer: Layer, x: Tensor, samples: int) -> Tensor:
    """``[N, D]``: the mean of a sample's rows."""
    rows = layer.rows(layer.batched(x)).movedim(0, -2).flatten(-2)  # [*lead, M * D]
    return of_samples(layer.name, layer, rows, samples, numbers=1).reshape(samples, -1, rows.shape[-1]).mean(1)
