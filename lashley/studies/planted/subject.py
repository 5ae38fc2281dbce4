"""A network with its memories, and what can be known of it: checkpoints, one recording, engrams, gradients."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import lashley
from lashley.estimators import Estimator
from lashley.studies.planted.images import Images
from lashley.studies.planted.masks import Mask
from lashley.studies.planted.memories import Memory
from lashley.studies.planted.networks import Network, layers_of

__all__ = ["REST", "SHARPENED", "Subject"]

REST = "digits"  # the concept of everything that is no memory
SHARPENED = lashley.Projection(sharpness=2.0)


@dataclass(frozen=True)
class Subject:
    """A network that was taught all memories.

    Attributes:
        model: with its final weights.
        base: the weights before any memory.
        after: the weights after each memory.
        without: for each memory, a network of the same start that was taught all others.
        masks: what each memory was allowed to move; None for everything.
        memories: what it was taught.
        digits: images that the base was trained on, recorded as the rest.
    """

    model: nn.Sequential
    base: Network
    after: Sequence[Network]
    without: Sequence[Network]
    masks: Sequence[Mask] | None
    memories: Sequence[Memory]
    digits: Images

    @property
    def weights(self) -> Network:
        return self.after[-1]

    @property
    def layers(self) -> list[str]:
        return layers_of(self.base)

    @functools.cached_property
    def changes(self) -> list[dict[str, Tensor]]:
        """What the stage of each memory added to the weights."""
        both = zip([self.base, *self.after], self.after, strict=False)
        return [{name: new[name] - old[name] for name in self.base} for old, new in both]

    @functools.cached_property
    def recording(self) -> lashley.Recording:
        """The moments of every memory, and of the digits as one more concept."""
        concepts = {memory.name: [memory.images.rows] for memory in self.memories}
        return lashley.record(
            self.model, {**concepts, REST: list(self.digits.rows.split(1000))}, dtype=torch.float64, progress=False
        )

    def engram(
        self,
        concepts: str | Sequence[str] | dict[str, float],
        estimator: Estimator | None = None,
        of_the_change: bool = False,
    ) -> lashley.Engram:
        """An engram of the recording; of what all the writing changed, or of the weights themselves."""
        base = dict(self.base) if of_the_change else None
        return self.recording.engram(self.model, concepts, estimator=estimator, base=base)

    def direction(self, *which: Any, **how: Any) -> dict[str, Tensor]:
        """`engram`, as what an edit of strength 1 subtracts from the weights."""
        return {f"{layer}.weight": delta.weight for layer, delta in self.engram(*which, **how).items()}

    @functools.cached_property
    def digit_fisher(self) -> dict[str, Tensor]:
        """`fisher` of a thousand digits."""
        return self.fisher(self.digits.part(0, min(1000, len(self.digits))))

    def gradients(self, images: Images) -> dict[str, Tensor]:
        """The gradient of each image's cross-entropy: ``{name: [N, ...]}``."""

        def loss(weights: dict[str, Tensor], row: Tensor, label: Tensor) -> Tensor:
            answers = functional_call(self.model, weights, (row[None],))
            return nn.functional.cross_entropy(answers, label[None])

        found: dict[str, Tensor] = vmap(grad(loss), in_dims=(None, 0, 0))(
            dict(self.weights), images.rows, images.labels
        )
        return found

    def fisher(self, images: Images) -> dict[str, Tensor]:
        """The diagonal of the empirical Fisher: mean squares of the gradients, at the labels that were taught."""
        total = {name: torch.zeros_like(value) for name, value in self.weights.items()}
        for rows, labels in zip(images.rows.split(100), images.labels.split(100), strict=True):
            for name, each in self.gradients(Images(rows, labels)).items():
                total[name] += each.square().sum(0)
        return {name: value / len(images) for name, value in total.items()}
