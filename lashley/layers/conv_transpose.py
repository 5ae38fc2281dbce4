"""Transposed convolutions, in the form of their pre-activation: every output position is a row, the inputs it sums.

A transposed convolution is a convolution, with the kernel flipped, of the input with zeros put between its pixels
(stride) and a margin around them (padding). So its rows are the patches of that stuffed input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lashley.layers.conv import ConvLayer, patches
from lashley.moments import Accumulator

__all__ = ["ConvTransposeLayer"]


@dataclass(frozen=True)
class ConvTransposeLayer(ConvLayer, speaks_for=(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
    """``nn.ConvTranspose1d``, ``2d`` and ``3d``: weight ``[C, O, *kernel]``, C input channels, O outputs per group.

    An ``output_size`` given at the call is not known here: positions it adds at the end are not counted as rows.

    Attributes:
        padding: (before, after) per axis, of the stuffed input: ``dilation (kernel - 1) - padding``, and the output
            padding after. Negative where the padding is larger than the kernel reaches.
    """

    @classmethod
    def of(cls, name: str, module: nn.Module) -> ConvTransposeLayer:
        assert isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
        weight, groups = module.weight, module.groups
        kernel, dilation = tuple(module.kernel_size), tuple(module.dilation)
        reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        crop = [int(p) for p in module.padding]
        margins = [(r - p, r - p + more) for r, p, more in zip(reach, crop, module.output_padding, strict=True)]
        return cls(
            name,
            type(module).__name__,
            out=weight.shape[1],
            dim=weight[:, 0].numel() // groups,
            matrices=groups,
            bias=module.bias is not None,
            shape=tuple(weight.shape),
            kernel=kernel,
            stride=tuple(module.stride),
            dilation=dilation,
            padding=tuple(margins),
            padding_mode=module.padding_mode,
        )

    @property
    def channels(self) -> int:
        return self.shape[0]

    def rows(self, x: Tensor) -> Tensor:
        axes = len(self.kernel)
        x = self.checked(x)
        sizes = [(size - 1) * step + 1 for size, step in zip(x.shape[2:], self.stride, strict=True)]
        stuffed = x.new_zeros(*x.shape[:2], *sizes)
        every = (slice(None), slice(None), *(slice(None, None, step) for step in self.stride))
        stuffed[every] = x
        stuffed = F.pad(stuffed, [n for pair in reversed(self.padding) for n in pair])
        return patches(stuffed, self.kernel, (1,) * axes, self.dilation, self.matrices)

    def matrix(self, weight: Tensor) -> Tensor:
        grouped = weight.unflatten(0, (self.matrices, -1)).transpose(1, 2)  # [G, O, C / G, *kernel]
        return grouped.flip(self._axes).reshape(self.matrices, self.out, self.dim)

    def weight(self, matrix: Tensor) -> Tensor:
        grouped = matrix.reshape(self.matrices, self.out, -1, *self.kernel).flip(self._axes)
        return grouped.transpose(1, 2).reshape(self.shape)

    def lead(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self.rows(torch.empty(shape, device="meta")).shape[1:-1])

    def accumulator(self, dtype: torch.dtype | None = None) -> Accumulator:
        return Accumulator(self.dim, self.matrices, dtype)

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(3, 3 + len(self.kernel)))
