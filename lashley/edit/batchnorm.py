"""Running statistics that fit the edited network again, from forward passes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from lashley.data.batches import call, moved
from lashley.errors import DataError, ModelError, RecordingError
from lashley.hooks import at_rest
from lashley.layers import unwrap

__all__ = ["recalibrate_batchnorm_"]


def recalibrate_batchnorm_(
    model: nn.Module, batches: Iterable[Any], forward: Callable[[nn.Module, Any], object] | None = None
) -> None:
    """Re-estimate BatchNorm's running mean and variance on ``batches``, in place.

    An edit changes the distribution of every later layer's input, and fixed running statistics turn that into a shift.
    The new statistics are the averages over the batches, each weighing the same; nothing else of the model changes.

    Args:
        batches: as in `lashley.record`; usually of what is to be kept.
        forward: ``f(model, batch)`` in place of the default call.

    Raises:
        ModelError: the model has no BatchNorm with running statistics.
        DataError: no batches. RecordingError: a batch made the statistics nan or inf. Both leave them as they were.
    """
    inner = unwrap(model)
    norms = {
        name: module
        for name, module in inner.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    }
    if not norms:
        raise ModelError(
            "Expected a model with BatchNorm running statistics, got one without. LayerNorm and GroupNorm keep none, so "
            "there is nothing to recalibrate."
        )
    before = {name: {k: v.clone() for k, v in norm.named_buffers(recurse=False)} for name, norm in norms.items()}
    momenta = {name: norm.momentum for name, norm in norms.items()}
    devices = {p.device for p in inner.parameters()}
    seen = 0
    try:
        with at_rest(inner):
            for norm in norms.values():
                norm.reset_running_stats()
                norm.momentum = None  # a cumulative average
                norm.train()
            for batch in batches:
                seen += 1
                if forward is not None:
                    forward(inner, batch)
                else:
                    call(inner, moved(batch, next(iter(devices))) if len(devices) == 1 else batch)
        if not seen:
            raise DataError("Expected at least one batch, got none. A generator that was read before is empty.")
        for name, norm in norms.items():
            if not all(torch.isfinite(b).all() for b in norm.buffers(recurse=False) if b.is_floating_point()):
                raise RecordingError(
                    f"Expected finite statistics, got nan or inf in BatchNorm {name!r}: an activation is not finite."
                )
    except BaseException:
        for name, norm in norms.items():
            for key, value in before[name].items():
                getattr(norm, key).copy_(value)
        raise
    finally:
        for name, norm in norms.items():
            norm.momentum = momenta[name]
