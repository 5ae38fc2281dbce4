"""Labelled images in the parts that a study of edits needs: trained on, recorded, chosen by, probed and tested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lashley.data import digits
from lashley.data.cifar import CLASSES, cifar10
from lashley.data.mnist import mnist
from lashley.errors import DataError, nearest

__all__ = ["Images", "Material", "first_per_class"]


@dataclass(frozen=True, eq=False)
class Images:
    """Images as they are stored and their labels.

    Attributes:
        stored: ``[N, C, H, W]`` uint8.
        labels: ``[N]`` whole numbers.
        mean, std: of the channels, in 0..1.
    """

    stored: Tensor
    labels: Tensor
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> Images:
        return Images(self.stored[index], self.labels[index], self.mean, self.std)

    @property
    def pixels(self) -> Tensor:
        """What a network sees: ``[N, C, H, W]`` float32, in 0..1 before mean and deviation of the channels."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (self.stored.float() / 255 - mean) / std

    def batches(self, size: int = 500) -> list[tuple[Tensor, Tensor]]:
        """Pixels and labels in order."""
        return list(zip(self.pixels.split(size), self.labels.split(size), strict=True))

    def of(self, label: int) -> Images:
        """Those of one class."""
        return self[(self.labels == label).nonzero()[:, 0]]

    def without(self, label: int) -> Images:
        """Those of the other classes."""
        return self[(self.labels != label).nonzero()[:, 0]]


@dataclass(frozen=True, eq=False)
class Material:
    """A data set in parts.

    Attributes:
        name: of the data set.
        classes: names.
        train: what networks are trained on.
        record: the first training images of every class, whose moments are taken; probes are fitted on them too.
        choose: the next training images of every class, by which strengths are chosen: not recorded, not tested.
        test: what is measured.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    record: Images
    choose: Images
    test: Images

    @classmethod
    def load(cls, name: str, settings: Mapping[str, Any]) -> Material:
        """A data set: "mnist", "cifar10", or "digits", the small one that comes with scikit-learn.

        Args:
            settings: "train": how many images (None: all); "record", "choose", "test": how many of each class.
        """
        if name not in _SETS:
            raise DataError(f"Expected a data set, got {name!r}. {nearest(name, _SETS)}")
        train, test, classes = _SETS[name]()
        if settings["train"] is not None:
            train = train[torch.arange(min(settings["train"], len(train)))]
        both = first_per_class(train.labels, settings["record"] + settings["choose"])
        recorded = first_per_class(train.labels, settings["record"])
        rest = both[~torch.isin(both, recorded)]
        if len(torch.unique(train.labels[rest])) < len(classes):
            raise DataError(
                f"Expected more than {settings['record']} training images of every class, so that some are left to "
                f"choose by; {name} has too few. Lower record."
            )
        tested = first_per_class(test.labels, settings["test"])
        return cls(name, classes, train, train[recorded], train[rest], test[tested])


def first_per_class(labels: Tensor, count: int | None) -> Tensor:
    """Positions of the first ``count`` of every class (None: all), in order."""
    if count is None:
        return torch.arange(len(labels))
    members = labels[:, None] == torch.unique(labels)
    return (members & (members.cumsum(0) <= count)).any(1).nonzero()[:, 0]


def _mnist() -> tuple[Images, Images, tuple[str, ...]]:
    train, test = (_grey(*mnist(split)) for split in ("train", "test"))
    return train, test, tuple(str(digit) for digit in range(10))


def _cifar10() -> tuple[Images, Images, tuple[str, ...]]:
    found = []
    for split in ("train", "test"):
        images, labels = cifar10(split)
        stored = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        found.append(
            Images(stored, torch.from_numpy(labels).long(), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
        )
    return found[0], found[1], CLASSES


def _digits() -> tuple[Images, Images, tuple[str, ...]]:
    pixels, labels, names = digits()
    images = Images((pixels * 255).round().to(torch.uint8), labels)
    cut = len(labels) * 2 // 3
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    return images[order[:cut]], images[order[cut:]], names


def _grey(images: np.ndarray, labels: np.ndarray) -> Images:
    return Images(torch.from_numpy(images)[:, None], torch.from_numpy(labels).long())


_SETS = {"mnist": _mnist, "cifar10": _cifar10, "digits": _digits}
