"""The moment of a convolution without unfolding its input. Tensors only.

For stride 1, an odd kernel and zero padding that keeps the size, the patch at position ``p`` holds ``x^[p + a]`` for
every kernel offset ``a``, where ``x^`` is the zero-padded image. Block ``(a, b)`` of the moment depends almost only on
``d = b - a``:

    S_ab = sum_p x^[p + a] x^[p + b]^T = F_d - (what lies at the borders),     F_d = sum_q x[q] x[q + d]^T

``p`` runs over the image, so ``q = p + a`` misses a few rows: where both offsets point down the first ``min(a, b)`` of
those that F_d sums over, where both point up the last ones, where they point apart none. Columns likewise; what both
miss is counted once. Each of these sums is a `Window`, and blocks share them: for a 3 x 3 kernel 13 windows over the
image, 12 of one row or column, 4 of a corner pixel, instead of 45 blocks over the image and a copy of it nine times as
large.

Legend: G groups, N images, C channels of a group, H x W positions, K kernel offsets; a patch has D = C K numbers,
channel by channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from lashley.kernels import full_precision
from lashley.moments import (
    Accumulator,
    Moment,
    column_sums,
    edges,
    listed,
    numbered,
    pool,
    product_dtype,
    thin_limit,
)

__all__ = ["Shifts", "Window"]

Offset = tuple[int, int]

_PIECE = 2**19  # numbers that are multiplied at a time: 2 MiB, so that the cache has them for every window
_WIDE = 96  # channels from which copying a window's pixels costs less than multiplying padding


@dataclass(frozen=True)
class Window:
    """A sum of ``x[q] x[q + d]^T`` over the pixels q for which q + d lies in the image too.

    Attributes:
        d: the displacement.
        rows, columns: 0 for all of them; else only the first (> 0) or last (< 0) so many.
    """

    d: Offset
    rows: int = 0
    columns: int = 0

    def part(self, image: Tensor) -> Tensor:
        """The pixels q, ``[G, N, h, w, C]``."""
        (top, bottom), (left, right) = self._ranges(image)
        return image[:, :, top:bottom, left:right]

    def product(self, image: Tensor) -> Tensor:
        """The sum, ``[G, C, C]``, for images ``[G, N, H, W, C]``."""
        (top, bottom), (left, right) = self._ranges(image)
        down, across = self.d
        here = image[:, :, top:bottom, left:right]
        there = image[:, :, top + down : bottom + down, left + across : right + across]
        return here.flatten(1, 3).mT @ there.flatten(1, 3)

    def _ranges(self, image: Tensor) -> tuple[Offset, Offset]:
        return _range(image.shape[2], self.d[0], self.rows), _range(image.shape[3], self.d[1], self.columns)


def _range(size: int, shift: int, edge: int) -> Offset:
    start, stop = max(0, -shift), min(size, size - shift)
    if edge > 0:
        stop = min(stop, start + edge)
    elif edge < 0:
        start = max(start, stop + edge)
    return start, max(start, stop)


def _missed(a: int, b: int) -> int:
    """How many rows no position reaches: the first so many (> 0) or the last (< 0)."""
    return max(0, min(a, b)) or min(0, max(a, b))


def _block(a: Offset, b: Offset) -> Iterator[tuple[Window, int]]:
    """Block (a, b) of the moment as a signed sum of windows."""
    d = (b[0] - a[0], b[1] - a[1])
    rows, columns = _missed(a[0], b[0]), _missed(a[1], b[1])
    yield Window(d), 1
    if rows:
        yield Window(d, rows), -1
    if columns:
        yield Window(d, 0, columns), -1
    if rows and columns:
        yield Window(d, rows, columns), 1


@lru_cache
def _offsets(kernel: Offset, dilation: Offset) -> tuple[Offset, ...]:
    """The kernel's offsets, row by row, as the patch has them."""
    down, across = ([(i - k // 2) * d for i in range(k)] for k, d in zip(kernel, dilation, strict=True))
    return tuple(product(down, across))


@lru_cache
def _windows(kernel: Offset, dilation: Offset) -> tuple[Window, ...]:
    """Every window that some block on or above the diagonal needs."""
    offsets = _offsets(kernel, dilation)
    pairs = ((a, b) for i, a in enumerate(offsets) for b in offsets[i:])
    return tuple(dict.fromkeys(window for a, b in pairs for window, _ in _block(a, b)))


class Shifts:
    """Images in, the moments of their patches out; the counterpart of `Accumulator` for convolutions that allow it.

    Images wait until they have more patches than a thin moment may have rows: a small concept keeps its rows.

    Args:
        unfold: ``images [N, G C, H, W] -> rows [G, n, D]``, for what stays thin.
        channels, groups: C and G.
        kernel, dilation: both axes of each; for one axis, (1, k) with images ``[N, G C, 1, W]``.
        dtype: of the products; None decides by `product_dtype`.
    """

    def __init__(
        self,
        unfold: Callable[[Tensor], Tensor],
        channels: int,
        groups: int,
        kernel: Offset,
        dilation: Offset,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.unfold = unfold
        self.channels, self.groups = channels, groups
        self.kernel, self.dilation = kernel, dilation
        self.dtype = dtype
        self.dim = channels * kernel[0] * kernel[1]
        self._rows = Accumulator(self.dim, groups, dtype)
        self._count = 0
        self._pending: list[Tensor] = []
        self._sums: dict[Window, Tensor] = {}
        self._totals: dict[Window, Tensor] = {}
        self._product = torch.float64

    @property
    def count(self) -> int:
        return self._count + self._rows.count

    def add(self, rows: Tensor) -> Tensor:
        """Take rows that were unfolded after all (of a mask over positions): ``[G, n, D]``."""
        return self._rows.add(rows)

    def add_images(self, images: Tensor, *, owned: bool = False) -> Tensor:
        """Take ``images [N, G C, H, W]`` and return the sums of their pixels ``[N, G C]``, in float32 or better."""
        total = images.flatten(2).sum(2, dtype=torch.promote_types(images.dtype, torch.float32))
        self._count += len(images) * images.shape[2] * images.shape[3]
        if self._sums:
            self._multiply(images)
            return total
        self._pending.append(images if owned else images.clone())
        if self._count > thin_limit(self.dim, images.dtype):
            for waiting in self._pending:
                self._multiply(waiting)
            self._pending = []
        return total

    def moments(self) -> list[Moment]:
        """The moment of each group."""
        parts = [self._rows.moments()] if self._rows.count else []
        for images in self._pending:
            thin = Accumulator(self.dim, self.groups, self.dtype)
            thin.add(self.unfold(images))
            parts.append(thin.moments())
        if self._sums:
            parts.append(self._assembled())
        return [pool(moments, self.dim) for moments in zip(*parts, strict=True)] if parts else self._rows.moments()

    def state(self) -> dict[str, Tensor]:
        """All that later moments depend on, as tensors. They share the accumulator's memory."""
        state = {"count": torch.tensor(self._count), "product": torch.empty(0, dtype=self._product)}
        for name, sums in (("window", self._sums), ("total", self._totals)):
            state |= {f"{name}.{self._number(window)}": value for window, value in sums.items()}
        return state | numbered("images", self._pending) | {f"rows.{k}": v for k, v in self._rows.state().items()}

    def restore(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on where `state` was taken, to the bit.

        Args:
            device: where the next images come from.
        """
        home = torch.device("cpu") if device.type == "mps" else device
        self._count, self._product = int(state["count"]), state["product"].dtype
        self._pending = [images.to(device, copy=True) for images in listed("images", state)]
        for name, sums in (("window", self._sums), ("total", self._totals)):
            for window in _windows(self.kernel, self.dilation):
                if (value := state.get(f"{name}.{self._number(window)}")) is not None:
                    sums[window] = value.to(home, copy=True)
        rows = {key.removeprefix("rows."): value for key, value in state.items() if key.startswith("rows.")}
        self._rows.restore(rows, device)

    def _number(self, window: Window) -> int:
        return _windows(self.kernel, self.dilation).index(window)

    def _multiply(self, images: Tensor) -> None:
        dtype = product_dtype(self.dim, images.dtype, self.dtype)
        self._product = dtype
        image = images.unflatten(1, (self.groups, self.channels)).permute(1, 0, 3, 4, 2).to(dtype).contiguous()
        pixels = image[0, 0].numel() * self.groups
        with full_precision(images.device):
            for piece in image.split(max(1, _PIECE // pixels), dim=1):
                for window, value in self._products(piece):
                    self._keep(self._sums, window, value)
        for window in _windows(self.kernel, self.dilation):
            if window.d == (0, 0):
                self._keep(self._totals, window, column_sums(window.part(image).flatten(1, 3)))

    def _products(self, image: Tensor) -> Iterator[tuple[Window, Tensor]]:
        """Every window's product. A whole image with few channels is multiplied as it lies, behind a margin of zeros:
        ``q + d`` is then a fixed number of pixels further on, and nothing is copied.
        """
        down, across = (d * (k // 2) for k, d in zip(self.kernel, self.dilation, strict=True))
        flat, width = image, 0
        if as_it_lies := self.channels < _WIDE:
            padded = torch.constant_pad_nd(image, (0, 0, 0, 2 * across, 0, 2 * down))
            flat, width = padded.flatten(1, 3), padded.shape[3]
        for window in _windows(self.kernel, self.dilation):
            if as_it_lies and not window.rows and not window.columns:
                step = window.d[0] * width + window.d[1]
                yield window, flat[:, : flat.shape[1] - step].mT @ flat[:, step:]
            else:
                yield window, window.product(image)

    @staticmethod
    def _keep(sums: dict[Window, Tensor], window: Window, value: Tensor) -> None:
        """Add in float64, on the host where the device has none."""
        home = torch.device("cpu") if value.device.type == "mps" else value.device
        value = value.to(home, torch.float64)
        sums[window] = sums[window].add_(value) if window in sums else value.clone()

    def _assembled(self) -> list[Moment]:
        offsets = _offsets(self.kernel, self.dilation)
        like, size = next(iter(self._sums.values())), len(offsets)
        count = self._count - sum(len(i) * i.shape[2] * i.shape[3] for i in self._pending)
        moments = []
        for group in range(self.groups):
            square = like.new_empty(self.channels, size, self.channels, size)
            total = like.new_empty(self.channels, size)
            for i, a in enumerate(offsets):
                total[:, i] = torch.stack([s * self._totals[w][group] for w, s in _block(a, a)]).sum(0)
                for j in range(i, size):
                    block = torch.stack([s * self._sums[w][group] for w, s in _block(a, offsets[j])]).sum(0)
                    square[:, i, :, j] = block
                    square[:, j, :, i] = block.mT
            square = square.reshape(self.dim, self.dim)
            blocks = tuple(square[start:, start:stop].clone() for start, stop in edges(self.dim))
            moments.append(Moment(total.reshape(-1), count, blocks=blocks, product=self._product))
        return moments
