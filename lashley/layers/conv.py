"""Convolutions: every output position is a row, the patch it reads.

A patch is laid out channel by channel, then along the kernel's axes, the order of ``weight.reshape(O, -1)``. Padding is
made explicit first, so that every padding mode and ``"same"`` are the case without padding. The groups of a
convolution read blocks of channels and have a matrix each (depthwise: one per channel).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lashley.errors import RecordingError
from lashley.layers.base import Gatherer, Layer
from lashley.moments import Accumulator
from lashley.shifts import Shifts

__all__ = ["ConvLayer"]


@dataclass(frozen=True)
class ConvLayer(Layer, speaks_for=(nn.Conv1d, nn.Conv2d, nn.Conv3d)):
    """``nn.Conv1d``, ``nn.Conv2d``, ``nn.Conv3d``: weight ``[G O, C / G, *kernel]``, rows ``[G, N, *positions, D]``.

    Attributes:
        kernel, stride, dilation: one number per axis.
        padding: (before, after) per axis, resolved from numbers, "same" or "valid".
        padding_mode: "zeros", "reflect", "replicate" or "circular".
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    padding_mode: str

    samples_first = True

    @classmethod
    def of(cls, name: str, module: nn.Module) -> ConvLayer:
        assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        weight, groups = module.weight, module.groups
        kernel, dilation = tuple(module.kernel_size), tuple(module.dilation)
        return cls(
            name,
            type(module).__name__,
            out=weight.shape[0] // groups,
            dim=weight[0].numel(),
            matrices=groups,
            bias=module.bias is not None,
            shape=tuple(weight.shape),
            kernel=kernel,
            stride=tuple(module.stride),
            dilation=dilation,
            padding=_padding(module.padding, kernel, dilation),
            padding_mode=module.padding_mode,
        )

    def batched(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0) if x.dim() == len(self.kernel) + 1 else x

    @property
    def channels(self) -> int:
        """Of the input, over all groups."""
        return self.matrices * self.shape[1]

    def checked(self, x: Tensor) -> Tensor:
        """The input with samples first, if it is one for this layer."""
        axes = len(self.kernel)
        x = self.batched(x)
        if x.dim() != axes + 2 or x.shape[1] != self.channels:
            raise RecordingError(
                f"Expected layer {self.name!r} to read {axes + 2} dims with {self.channels} channels, got "
                f"{list(x.shape)}. Check the batch, or leave the layer out with exclude_modules."
            )
        return x

    def rows(self, x: Tensor) -> Tensor:
        x = self.checked(x)
        if any(before or after for before, after in self.padding):
            flat = [n for pair in reversed(self.padding) for n in pair]
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x, flat, mode=mode)
        return patches(x, self.kernel, self.stride, self.dilation, self.matrices)

    def accumulator(self, dtype: torch.dtype | None = None) -> Gatherer:
        if not self._keeps_size:
            return Accumulator(self.dim, self.matrices, dtype)
        kernel, dilation = (values if len(values) == 2 else (1, *values) for values in (self.kernel, self.dilation))
        plane = (kernel[0], kernel[1]), (dilation[0], dilation[1])  # one axis is a plane of height one
        return Shifts(self._flat_rows, self.shape[1], self.matrices, *plane, dtype)

    def images(self, x: Tensor) -> Tensor:
        return x.unsqueeze(2) if len(self.kernel) == 1 else x

    def _flat_rows(self, images: Tensor) -> Tensor:
        return self.rows(images.squeeze(2) if len(self.kernel) == 1 else images).flatten(1, -2)

    @property
    def _keeps_size(self) -> bool:
        """Whether the moment follows from shifted products (`lashley.shifts`)."""
        return (
            len(self.kernel) <= 2
            and max(self.kernel) > 1
            and all(k % 2 for k in self.kernel)
            and set(self.stride) == {1}
            and self.padding_mode == "zeros"
            and self.padding == _padding("same", self.kernel, self.dilation)
        )

    def responses(self, output: Tensor) -> Tensor:
        grouped = self.batched(output).unflatten(1, (self.matrices, self.out))  # [N, G, O, *positions]
        return grouped.movedim(1, 0).movedim(2, -1)

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.reshape(self.matrices, self.out, self.dim)

    def weight(self, matrix: Tensor) -> Tensor:
        return matrix.reshape(self.shape)

    def lead(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        axes = len(self.kernel)
        n = shape[0] if len(shape) == axes + 2 else 1
        settings = zip(shape[-axes:], self.kernel, self.stride, self.dilation, self.padding, strict=True)
        return (n, *(_window(size + sum(pad), k, s, d) for size, k, s, d, pad in settings))


def _padding(
    given: str | tuple[int, ...], kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    if given == "valid":
        return tuple((0, 0) for _ in kernel)
    if given == "same":
        # An odd total puts the extra column after the input, as torch does.
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return tuple((t // 2, t - t // 2) for t in totals)
    return tuple((int(p), int(p)) for p in given)


def patches(
    x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...], groups: int
) -> Tensor:
    """All patches of ``x [N, C, *sizes]``, channel by channel: ``[G, N, *positions, C / G * kernel]``."""
    n, c, *sizes = x.shape
    sn, sc, *strides = x.stride()
    axes = len(kernel)
    positions = [_window(*v) for v in zip(sizes, kernel, stride, dilation, strict=True)]
    steps = [st * s for st, s in zip(strides, stride, strict=True)]
    reach = [st * d for st, d in zip(strides, dilation, strict=True)]
    view = x.as_strided((n, c, *positions, *kernel), (sn, sc, *steps, *reach)).unflatten(1, (groups, -1))
    order = (1, 0, *range(3, 3 + axes), 2, *range(3 + axes, 3 + 2 * axes))
    return view.permute(order).flatten(2 + axes)


def _window(size: int, kernel: int, stride: int, dilation: int) -> int:
    """How many positions a kernel takes along an axis; none where it is longer, which the module itself refuses."""
    return max(0, (size - dilation * (kernel - 1) - 1) // stride + 1)
