"""Running statistics that fit the edited network again, from forward passes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lashley.data.batches import call, check_batches, moved
from lashley.errors import DataError, ModelError, RecordingError
from lashley.hooks import at_rest, tapped
from lashley.layers import unwrap

__all__ = ["recalibrate_batchnorm_"]

_Norm = nn.modules.batchnorm._BatchNorm


def recalibrate_batchnorm_(
    model: nn.Module, batches: Iterable[Any], forward: Callable[[nn.Module, Any], object] | None = None
) -> None:
    """Re-estimate BatchNorm's running mean and variance on ``batches``, in place.

    An edit changes the distribution of every later layer's input, and fixed running statistics turn that into a shift.
    The new statistics are the mean and the (unbiased) variance of all values that reach a channel, as if they had come
    in one batch: how they were split into batches does not matter. While they are gathered, each batch is normalised by
    its own statistics, as in training, so batches should be large and mixed. A BatchNorm that no batch reaches keeps
    its statistics; nothing else of the model changes.

    Args:
        batches: as in `lashley.record`; usually of what is to be kept.
        forward: ``f(model, batch)`` in place of the default call.

    Raises:
        ModelError: the model has no BatchNorm with running statistics.
        DataError: no batches, or one of a single value per channel, which has no variance.
        RecordingError: the statistics became nan or inf, or no batch reached any BatchNorm. Whatever is raised, the
            statistics are as they were.
    """
    inner = unwrap(model)
    found = {name: module for name, module in inner.named_modules() if isinstance(module, _Norm)}
    norms = {name: norm for name, norm in found.items() if norm.running_mean is not None}
    if not norms:
        raise ModelError(
            "Expected a model with BatchNorm running statistics, got one without. LayerNorm and GroupNorm keep none, "
            "so there is nothing to recalibrate."
        )
    check_batches("batches", batches)
    before = {name: {k: v.clone() for k, v in norm.named_buffers(recurse=False)} for name, norm in norms.items()}
    gathered: dict[str, _Statistics] = {}

    def gather(name: str, x: Tensor) -> None:
        gathered[name] = _statistics(name, x) + gathered.get(name)

    devices = {p.device for p in inner.parameters()}
    seen = 0
    try:
        with at_rest(inner), tapped(norms, gather):
            for norm in norms.values():
                norm.training = True
            for batch in batches:
                seen += 1
                if forward is not None:
                    forward(inner, batch)
                else:
                    call(inner, moved(batch, next(iter(devices))) if len(devices) == 1 else batch)
        if not seen:
            raise DataError("Expected at least one batch, got none. A generator that was read before is empty.")
        if not gathered:
            raise RecordingError(
                f"Expected the batches to reach BatchNorm, got no call of {', '.join(norms)}. Check forward=."
            )
        for name, statistics in gathered.items():
            statistics.store(name, norms[name])
    except BaseException:
        for name, norm in norms.items():
            for key, value in before[name].items():
                getattr(norm, key).copy_(value)
        raise


@dataclass(frozen=True)
class _Statistics:
    """Of the values of every channel: how many, their mean, and the sum of squares around it; float64 on the host.

    Attributes:
        calls: how many batches they are of.
    """

    count: int
    mean: Tensor
    squares: Tensor
    calls: int = 1

    def __add__(self, other: _Statistics | None) -> _Statistics:
        """Of both taken together (Chan, Golub and LeVeque 1979): nothing large is ever subtracted."""
        if other is None:
            return self
        count, apart = self.count + other.count, other.mean - self.mean
        return _Statistics(
            count,
            self.mean + apart * (other.count / count),
            self.squares + other.squares + apart.square() * (self.count * other.count / count),
            self.calls + other.calls,
        )

    def store(self, name: str, norm: _Norm) -> None:
        if not (torch.isfinite(self.mean).all() and torch.isfinite(self.squares).all()):
            raise RecordingError(
                f"Expected finite statistics, got nan or inf in BatchNorm {name!r}: an activation is not finite. Check "
                "the batches, and the weights before it."
            )
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(self.mean)
        norm.running_var.copy_(self.squares / (self.count - 1))
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.fill_(self.calls)


def _statistics(name: str, x: Tensor) -> _Statistics:
    count = x.numel() // x.shape[1]
    if count < 2:
        raise DataError(
            f"Expected at least two values per channel in every batch, got {count} at BatchNorm {name!r}: one value "
            "has no variance. Make the batches larger; a DataLoader drops a short last one with drop_last=True."
        )
    x = x if x.dtype.itemsize >= 4 else x.float()
    variance, mean = torch.var_mean(x, dim=[d for d in range(x.dim()) if d != 1], correction=0)
    return _Statistics(count, mean.cpu().double(), variance.cpu().double() * count)
