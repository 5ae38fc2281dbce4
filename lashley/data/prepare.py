"""Raw arrays to what a network reads.

Stored samples keep the type they were stored in (a byte per pixel instead of four) and become network inputs batch by
batch. The rules look at the type and the rank of the array, never at its values:

====================  ============================  =========================================
stored as             shape                         becomes
====================  ============================  =========================================
uint8                 ``[N, H, W]``                 grey images ``[N, 1, H, W]``, float32 in 0..1
uint8                 ``[N, H, W, C]``, C of 1,3,4  channels first ``[N, C, H, W]``, float32 in 0..1
uint8                 any other                     the same shape, float32 in 0..1
floating              any                           the same shape, float32
bool                  any                           the same shape, float32
other integers        any                           the same shape, int64 (ids, not intensities)
====================  ============================  =========================================

So ids (tokens, categories) are stored as int32 or int64, and floating arrays are taken as already prepared. An array
``[N, C, H, W]`` with C of 1, 3 or 4 is channels first, whatever its last dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lashley.errors import DataError

__all__ = ["Prepare"]

CHANNELS = (1, 3, 4)  # grey, colour, colour with transparency


@dataclass(frozen=True)
class Prepare:
    """The way from a stored batch to an input batch: types and axes (see the module), then normalise, then flatten.

    ``mean`` and ``std`` hold one number, or one per channel; ``x -> (x - mean) / std``. ``flatten`` makes vectors
    ``[N, D]`` out of whatever is left.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    flatten: bool = False

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise DataError(f"Normalising takes both mean and std, got mean={self.mean}, std={self.std}.")
        if self.mean is not None and self.std is not None:
            if len(self.mean) != len(self.std):
                raise DataError(f"mean has {len(self.mean)} numbers and std has {len(self.std)}: give as many of each.")
            if not all(s > 0 for s in self.std):
                raise DataError(f"Expected positive numbers as std, got {self.std}.")

    def __call__(self, stored: Tensor) -> Tensor:
        inputs = _as_inputs(stored)
        if self.mean is not None and self.std is not None:
            inputs = _normalised(inputs, self.mean, self.std)
        return inputs.flatten(1) if self.flatten else inputs


def _as_inputs(stored: Tensor) -> Tensor:
    if stored.is_complex():
        raise DataError(f"Expected real inputs, got {stored.dtype}: store real and imaginary parts as two channels.")
    if stored.dtype == torch.uint8:
        if stored.dim() == 3:
            stored = stored.unsqueeze(1)
        elif stored.dim() == 4 and stored.shape[-1] in CHANNELS and stored.shape[1] not in CHANNELS:
            stored = stored.permute(0, 3, 1, 2)
        return stored.to(torch.float32).contiguous() / 255
    if stored.is_floating_point() or stored.dtype == torch.bool:
        return stored.to(torch.float32)
    return stored.to(torch.int64)


def _normalised(inputs: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    if not inputs.is_floating_point():
        raise DataError("Whole numbers other than uint8 are ids and are not normalised: leave out mean and std.")
    channels = inputs.shape[1] if inputs.dim() > 1 else 1
    if len(mean) not in (1, channels):
        raise DataError(
            f"Expected one mean and std, or one for each of the {channels} channels of inputs of shape "
            f"{tuple(inputs.shape[1:])}, got {len(mean)}."
        )
    axes = [1, -1] + [1] * (inputs.dim() - 2) if inputs.dim() > 1 else [-1]
    centre, scale = (torch.tensor(v, dtype=inputs.dtype).view(axes) for v in (mean, std))
    return (inputs - centre) / scale
