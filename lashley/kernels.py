"""Products of matrices: in the dtype they come in, and at the speed that the processor has.

Autocast would make them bfloat16 and TF32 would drop 13 bits; `full_precision` keeps both out.

On the host torch hands float32 products to MKL, which leaves the AVX-512 units of processors by other makers than Intel
idle. oneDNN, which torch brings along for convolutions, does not, and takes half the time there
(``benchmarks/peer`` has both). Where that holds, `matmul` multiplies with it, and so do the linear layers of a forward
pass inside `swift`. The sums are the same to rounding. ``torch.backends.mkldnn.flags(enabled=False)`` turns it off.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["EVEN", "filled", "full_precision", "idle_units", "matmul", "missing", "swift"]

# torch 2.9 gave every backend its own switch, and refuses to read the common one after somebody used them.
_SWITCH_PER_BACKEND = hasattr(torch.backends.cuda.matmul, "fp32_precision")
EVEN = 512  # columns of a moment's factors, of which a multiple is multiplied
_FEWEST = 64  # rows that are multiplied at once, if need be with zeros
_WORTH_IT = 2**20  # multiply-adds: below that a product takes less time than finding the kernel for its shape


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Products in the dtype of their operands: autocast would make them bfloat16, TF32 would drop 13 bits."""
    switches: list[Any] = []
    if _SWITCH_PER_BACKEND:
        switches = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    legacy = None if _SWITCH_PER_BACKEND else torch.get_float32_matmul_precision()
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        if legacy is not None:
            torch.set_float32_matmul_precision("highest")
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value
        if legacy is not None:
            torch.set_float32_matmul_precision(legacy)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` for matrices, or for stacks of as many: ``[..., n, k], [..., k, m] -> [..., n, m]``.

    No gradients go through it. To be called inside `full_precision`.
    """
    if a.dim() == b.dim() == 3 and len(a) == len(b) == 1:
        return matmul(a[0], b[0]).unsqueeze(0)
    if a.dim() == b.dim() == 2 and _better_with_onednn(a, b.mT):
        return _onednn(a, b.mT if _in_one_piece(b) else b.mT.contiguous())
    return a @ b


def filled(columns: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """The first columns ``[..., n]`` for a product over them in ``dtype``, with zeros after them up to a multiple where
    oneDNN would keep a kernel for their number. The zeros are put into the memory that is there, where it is enough.
    """
    if columns.dtype != dtype:
        columns = columns[..., :count].to(dtype)
    size = -(-count // EVEN) * EVEN if _meant(columns) else count
    if size > columns.shape[-1]:
        columns = torch.constant_pad_nd(columns[..., :count], (0, size - count))
    elif size > count:
        columns[..., count:size] = 0
    return columns[..., :size].contiguous()


def missing(rows: Tensor) -> int:
    """How many rows of zeros to put after rows ``[n, D]`` for a product with them where oneDNN would keep a kernel for
    n: up to a multiple of an eighth of the power of two below it, for eight numbers between one power and the next.
    """
    count = len(rows)
    return -count % max(_FEWEST, 1 << max(0, count.bit_length() - 4)) if _meant(rows) else 0


def swift() -> TorchFunctionMode | nullcontext[None]:
    """While it lasts, linear layers without gradients are computed by the faster library: the same to rounding."""
    return _Swift() if idle_units() else nullcontext()


_LINEAR, _ADDMM = F.linear, torch.addmm


class _Swift(TorchFunctionMode):
    """Takes ``F.linear(x, weight, bias)`` and ``torch.addmm(bias, x, matrix)``, which GPT-2's layers call."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if (func is _LINEAR or func is _ADDMM) and not types and not torch.is_grad_enabled():
            if func is _LINEAR:
                taken = _linear(*args, **(kwargs or {}))
            else:
                taken = _addmm(*args) if len(args) == 3 and not kwargs else None
            if taken is not None:
                return taken
        return func(*args, **kwargs) if kwargs else func(*args)


def _addmm(bias: Tensor, x: Tensor, matrix: Tensor) -> Tensor | None:
    return _linear(x, matrix.mT, bias) if _plain(bias, x, matrix) and matrix.dim() == 2 else None


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """``x W^T + b``, or None where torch does it as well, or has something to say about it."""
    if not _plain(input, weight) or input.dim() < 2 or weight.dim() != 2 or not _in_one_piece(weight):
        return None
    if torch.is_autocast_enabled("cpu") or not _better_with_onednn(input, weight):
        return None
    if bias is not None:
        if not _plain(bias) or bias.dtype != torch.float32 or bias.shape != weight.shape[:1]:
            return None
        bias = bias.contiguous()  # oneDNN reads it as if it were
    rows = input.reshape(-1, input.shape[-1])
    count = len(rows)
    if odd := missing(rows):
        rows = torch.cat([rows, rows.new_zeros(odd, rows.shape[1])])
    return _onednn(rows, weight, bias)[:count].reshape(*input.shape[:-1], len(weight))


def _plain(*tensors: Tensor) -> bool:
    """Whether these are tensors as everybody knows them: not sparse, nested, distributed or of a class of their own."""
    return all(type(t) in (Tensor, nn.Parameter) and t.layout is torch.strided and not t.is_nested for t in tensors)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    # What torch's own compiler makes of a linear layer; in every release since 2.0 that has oneDNN.
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _in_one_piece(matrix: Tensor) -> bool:
    """Row by row or column by column without gaps. Of anything else oneDNN makes a product a hundred times as slow."""
    return matrix.is_contiguous() or matrix.mT.is_contiguous()


def _meant(tensor: Tensor) -> bool:
    """Whether oneDNN may multiply it. Of every shape it meets it keeps a kernel, which takes half a megabyte."""
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu" and idle_units()


def _better_with_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        _meant(x)
        and _meant(weight)
        and x.shape[-1] == weight.shape[1]
        and x.numel() * len(weight) >= _WORTH_IT
        and bool(torch.backends.mkldnn.enabled)
    )


@cache
def idle_units() -> bool:
    """Whether MKL would leave half of this processor idle: AVX-512 is there and the maker is not Intel.

    A fact of the machine rather than a measurement, so that two runs on it multiply alike.
    """
    return (
        torch.backends.mkl.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and "intel" not in _maker().lower()
    )


def _maker() -> str:
    """Who made the processor, as the system tells it; "Intel" where it does not."""
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for line in facts.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "vendor_id":
                return value.strip()
    return platform.processor() or "Intel"
