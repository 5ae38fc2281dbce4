"""A classifier whose classes are taken out, and what every way of doing so starts from."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lashley
from lashley.studies.closed_forms.material import Images, Material, first_per_class

__all__ = ["ERASER", "Subject", "guarded", "has_batchnorm", "outputs"]

ERASER, READOUT = "eraser", "readout"


def guarded(model: nn.Sequential) -> nn.Sequential:
    """``readout(eraser(features(x)))`` with the identity as eraser, for edits that are a module on the features.

    The eraser is no part of the network: nobody trains it, and for the other edits it stays the identity.
    """
    inner, readout = model
    assert isinstance(readout, nn.Linear)
    width = readout.in_features
    eraser = nn.Linear(width, width).requires_grad_(False)
    with torch.no_grad():
        eraser.weight.copy_(torch.eye(width))
        eraser.bias.zero_()
    parts: OrderedDict[str, nn.Module] = OrderedDict(features=copy.deepcopy(inner))
    parts[ERASER], parts[READOUT] = eraser, copy.deepcopy(readout)
    whole: Any = nn.Sequential(parts)
    found: nn.Sequential = whole.to(memory_format=torch.channels_last).eval()  # twice as fast for convolutions
    return found


def has_batchnorm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@torch.no_grad()
def outputs(model: nn.Sequential, images: Images) -> tuple[Tensor, Tensor]:
    """Features ``[N, F]`` (what the readout reads) and logits ``[N, K]``."""
    features, logits = [], []
    for pixels, _ in images.batches():
        features.append(model[:-1](pixels.contiguous(memory_format=torch.channels_last)))
        logits.append(model[-1](features[-1]))
    return torch.cat(features), torch.cat(logits)


@dataclass(eq=False)
class Subject:
    """A trained network, the class that it is to lose, and the recording of every class.

    Attributes:
        model: guarded, as trained.
        target: the class's number.
        groups: names of sets of layers and their patterns: "all", "last", "last block", "module".
        folder: of the recording; made when it is first needed.
        norms: images of each other class by which BatchNorm is re-estimated.
    """

    model: nn.Sequential
    material: Material
    target: int
    groups: Mapping[str, list[str]]
    folder: Path
    norms: int
    _loaded: lashley.Recording | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Of the class."""
        return self.material.classes[self.target]

    @property
    def others(self) -> list[int]:
        """The other classes."""
        return [k for k in range(len(self.material.classes)) if k != self.target]

    def recording(self, fresh: bool = False) -> lashley.Recording:
        """Of the training images in ``material.record``: one pass for all classes, kept in the folder.

        Args:
            fresh: one that has solved nothing yet, for timing.
        """
        if self._loaded is None:
            lashley.record(
                self.model,
                self.material.record.batches(),
                concept_of=lambda batch: batch[1],
                concept_names=self.material.classes,
                checkpoint=self.folder,
                dtype=torch.float64,
                progress=False,
            )
            self._loaded = lashley.Recording.load(self.folder)
        return lashley.Recording.load(self.folder) if fresh else self._loaded

    @cached_property
    def lookalikes(self) -> dict[str, float]:
        """What the network takes the class for when its own logit is left out."""
        mine = self.material.record.of(self.target).batches()
        return lashley.lookalikes(self.model, mine, exclude=self.name, names=self.material.classes)

    @cached_property
    def kept(self) -> list[tuple[Tensor, Tensor]]:
        """Training images of the other classes, mixed, to re-estimate BatchNorm by."""
        rest = self.material.record.without(self.target)
        return rest[first_per_class(rest.labels, self.norms)].batches()
