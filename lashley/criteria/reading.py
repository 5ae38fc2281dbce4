"""What can still be read from a network's features, whatever its own outputs say: readers fitted anew.

The features of a sample are what the network's last layer of a known type reads, averaged over positions where it reads
several. Readers are a ridge regression and the nearest class centre (`lashley.metrics`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn

from lashley.criteria.findings import Number
from lashley.criteria.passing import resting
from lashley.criteria.samples import Group, Samples
from lashley.criteria.watching import Watched, of_samples
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
        samples: that are asked about.
        train: that readers are fitted on; None: one half of the samples, of every concept, and the other half is asked.
        group: of the samples.
        seed: of the halves.
    """

    def __init__(self, layer: str, samples: Samples, train: Samples | None, group: Group, seed: int) -> None:
        self._layer, self._samples, self._train = layer, samples, train
        asked = torch.ones(len(samples.concepts), dtype=torch.bool)
        if train is None:
            asked[_half(group.members, seed)] = False
        self._asked = asked
        self._labels = list(compress(samples.concepts, asked.tolist()))
        self._group = group.like(self._labels)

    def recall(self, network: Watched) -> dict[str, Number]:
        """By reader: the share of the target's samples that it recognises in the network's features. None where the
        features are the same for every sample.
        """
        features = _features(network, self._layer, self._samples)
        test = features[self._asked]
        if self._train is None:
            fitted, labels = features[~self._asked], list(compress(self._samples.concepts, (~self._asked).tolist()))
        else:
            fitted, labels = _features(network, self._layer, self._train), self._train.concepts
        if (fitted == fitted[0]).all():
            return dict.fromkeys(READERS)
        columns: dict[Hashable, Tensor] = {}
        for reader, read in READERS.items():
            found = read(fitted, labels, test, self._labels)
            named = [found.classes[place] for place in found.predicted.tolist()]
            right = [answer == name for answer, name in zip(named, self._labels, strict=True)]
            columns[reader] = torch.tensor(right, dtype=torch.float64)
        sums = self._group.sums(columns)
        return {reader: sums.interval(sums.mean(reader, self._group.target)) for reader in READERS}


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


def _features(watched: Watched, name: str, samples: Samples) -> Tensor:
    """What a layer reads of every sample, averaged over positions: ``[N, D]``."""
    module = _module(watched, name)
    layer = describe(name, module)
    found: list[Tensor] = []
    with resting(watched):
        for batch, concepts in samples:
            read: list[Tensor] = []

            def keep(_: str, x: Tensor, read: list[Tensor] = read) -> None:
                read.append(x.detach())

            with tapped({name: module}, keep, layers={name: layer}):
                watched.plain(batch)
            means = torch.cat([_mean(layer, x, len(concepts)) for x in read], dim=1).to("cpu", torch.float64)
            if not torch.isfinite(means).all():
                raise RecordingError(f"Expected finite features of {watched.title}, got nan or inf at layer {name!r}.")
            found.append(means)
    return torch.cat(found)


def _half(members: Sequence[Tensor], seed: int) -> Tensor:
    """One half of each of several sets of indices, the larger where they are odd."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat(
        [index[torch.randperm(len(index), generator=generator)[: -(-len(index) // 2)]] for index in members]
    )


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
