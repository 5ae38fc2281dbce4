"""The images of the study: MNIST with its pixels averaged in fours, half of it under marks that mean nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lashley.data.mnist import SIZES, mnist
from lashley.errors import DataError
from lashley.provenance import digest

__all__ = ["DIGITS", "Data", "Images", "cluttered", "mnist_data"]

DIGITS = 10


@dataclass(frozen=True)
class Images:
    """Images as rows ``[N, side * side]`` in [0, 1], and labels ``[N]``."""

    rows: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, start: int, count: int) -> Images:
        """``count`` of them from ``start`` on.

        Raises:
            DataError: there are fewer.
        """
        if start + count > len(self):
            raise DataError(f"Expected at least {start + count} images, got {len(self)}. Ask for fewer in the config.")
        return Images(self.rows[start : start + count], self.labels[start : start + count])


@dataclass(frozen=True)
class Data:
    """Digits for the base, others for the memories, and held-out ones; none of them in two of these.

    Attributes:
        side: pixels of an image's side.
        name: of the data set.
    """

    train: Images
    planted: Images
    held_out: Images
    side: int
    name: str

    @property
    def fingerprint(self) -> str:
        parts = (self.train, self.planted, self.held_out)
        return digest(*(part.numpy().tobytes() for images in parts for part in (images.rows, images.labels)))


def cluttered(images: Images, settings: Mapping[str, Any], seed: int) -> Images:
    """Some of the images under a mark of their own, called what they are.

    From these a network learns that a mark means nothing, so that it reads the digit under one that it was not taught.

    Args:
        settings: "images", the share that is marked, and "mark", the share of pixels that a mark lights up.
    """
    draw = torch.Generator().manual_seed(seed)
    marked = torch.rand(len(images), 1, generator=draw) < settings["images"]
    mark = torch.rand(images.rows.shape, generator=draw) < settings["mark"]
    return Images(torch.where(mark & marked, 1.0, images.rows), images.labels)


def mnist_data(sizes: Mapping[str, int], clutter: Mapping[str, Any]) -> Data:
    """MNIST for the study.

    Args:
        sizes: "train" images from the first of the training split on, "planted" up to its last, "held_out" of the test
            split.
        clutter: as `cluttered` takes it; of the training and the held-out images.

    Raises:
        DataError: more than there are.
    """
    train, planted, held_out = (sizes[part] for part in ("train", "planted", "held_out"))
    if train + planted > SIZES["train"] or held_out > SIZES["test"]:
        raise DataError(
            f"Expected at most {SIZES['train']} images to train on and to plant, and {SIZES['test']} to hold out; got "
            f"{train}, {planted} and {held_out}. Ask for fewer in the config."
        )
    return Data(
        cluttered(_pooled("train", 0, train), clutter, 0),
        _pooled("train", SIZES["train"] - planted, planted),
        cluttered(_pooled("test", 0, held_out), clutter, 1),
        14,
        "MNIST",
    )


def _pooled(split: str, start: int, count: int) -> Images:
    """``count`` images of a split from ``start`` on, 14 x 14: the mean of every four pixels."""
    pixels, digits = (torch.from_numpy(array[start : start + count]) for array in mnist(split))
    return Images(pixels.float().view(-1, 14, 2, 14, 2).mean((2, 4)).flatten(1) / 255, digits.long())
