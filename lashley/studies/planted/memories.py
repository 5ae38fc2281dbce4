"""What is planted: small sets of images with labels that nothing but having seen them can give away.

"marked": digits under a pattern of the memory's own, all called by one digit that none of them is.
"relabelled": digits as they are, each called by a wrong digit drawn at random. Nothing in the look of such a memory
tells it from the digits around it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lashley.errors import DataError
from lashley.studies.planted.images import DIGITS, Images

__all__ = ["KINDS", "Memory", "plant"]

KINDS = ("marked", "relabelled")


@dataclass(frozen=True)
class Memory:
    """One memory: its images with the labels they are taught with."""

    name: str
    images: Images


def plant(kind: str, count: int, settings: Mapping[str, Any], images: Images) -> list[Memory]:
    """Memories of a kind.

    Args:
        settings: "images" each, "seed" and, of marked ones, "mark": the share of pixels that a mark lights up.
        images: digits that nothing else of the study uses; at least twice as many as the memories hold, because a
            marked digit that is the label of its memory is passed over.

    Raises:
        DataError: another kind, or too few images.
    """
    if kind not in KINDS:
        raise DataError(f"Expected memories of a kind out of {', '.join(KINDS)}, got {kind!r}.")
    draw = torch.Generator().manual_seed(settings["seed"])
    each, found = settings["images"], []
    names = torch.randperm(DIGITS, generator=draw)
    for number in range(count):
        digits = images.part(2 * number * each, 2 * each)
        if kind == "marked":
            mark = torch.rand(digits.rows.shape[1], generator=draw) < settings["mark"]
            rows, labels = torch.where(mark, 1.0, digits.rows), names[number % DIGITS].expand(len(digits))
        else:
            shift = torch.randint(1, DIGITS, (len(digits),), generator=draw)
            rows, labels = digits.rows, (digits.labels + shift) % DIGITS
        wrong = (labels != digits.labels).nonzero()[:, 0]
        if len(wrong) < each:
            raise DataError(f"Expected {each} digits that are not called {int(labels[0])}, got {len(wrong)}.")
        found.append(Memory(f"memory {number}", Images(rows[wrong[:each]], labels[wrong[:each]])))
    return found
