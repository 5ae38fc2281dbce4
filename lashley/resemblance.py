"""What a classifier would take a class for, if it did not know it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from lashley.data.batches import call, check_batches, moved
from lashley.errors import DataError, RecordingError, nearest
from lashley.hooks import at_rest
from lashley.layers import unwrap

__all__ = ["lookalikes"]


def lookalikes(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    exclude: int | str | Sequence[int | str],
    names: Sequence[str] | None = None,
    forward: Callable[[nn.Module, Any], object] | None = None,
) -> dict[str, float]:
    """The mixture of other classes that a class resembles: mean softmax of the logits, its own left out.

    For ``MixtureShift(weights=lookalikes(model, batches_of_cats, exclude="cat", names=names))``.

    Args:
        model: a classifier. It is used in evaluation mode without gradients and given back as it was.
        batches: of the class in question, as in `lashley.record`; every sample counts once.
        exclude: the class's index or name, or several.
        names: of the classes, in the order of the logits; default: their numbers as texts, as in a recording with
            integer labels.
        forward: ``f(model, batch)`` in place of the default call; the batch is as the data gave it. Either way the
            result is the logits ``[N, K]``, or a tuple or mapping that has them first or under "logits".

    Returns:
        ``{class: weight}`` for the K classes without the excluded ones; the weights sum to 1.

    Raises:
        DataError: no batches or no samples, an unknown class, names that do not fit the logits.
        RecordingError: an output that is not logits ``[N, K]``, or logits that are nan.
    """
    check_batches("batches", batches)
    inner = unwrap(model)
    devices = {p.device for p in inner.parameters()}
    total: Tensor | None = None
    kept: dict[str, int] = {}
    count = 0
    with at_rest(inner):
        for number, batch in enumerate(batches):
            if forward is not None:
                output = forward(inner, batch)
            else:
                output = call(inner, moved(batch, next(iter(devices))) if len(devices) == 1 else batch)
            logits = _logits(output, number)
            if total is None:
                kept = _kept(logits.shape[1], names, exclude)
                total = torch.zeros(len(kept), dtype=torch.float64)
            shares = logits[:, list(kept.values())].cpu().double().softmax(1)
            if not torch.isfinite(shares).all():
                raise RecordingError(
                    f"Expected logits from which shares follow, got nan in batch {number}. Check that batch, or the "
                    "model's precision."
                )
            total += shares.sum(0)
            count += len(shares)
    if total is None or not count:
        raise DataError("Expected at least one sample, got none. A generator that was read before is empty.")
    return dict(zip(kept, (total / count).tolist(), strict=True))


def _logits(output: object, number: int) -> Tensor:
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.dim() != 2:
        got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise RecordingError(
            f"Expected the model to answer batch {number} with logits [N, K], got {got}. Pass "
            "forward=lambda model, batch: ... to return them."
        )
    return output


def _kept(classes: int, names: Sequence[str] | None, exclude: int | str | Sequence[int | str]) -> dict[str, int]:
    """The classes that stay, by name, with their indices."""
    names = [str(k) for k in range(classes)] if names is None else list(names)
    if len(names) != classes or len(set(names)) != classes:
        raise DataError(f"Expected a name for each of {classes} classes, all different, got {len(names)}: {names[:5]}.")
    excluded = list(exclude) if isinstance(exclude, Sequence) and not isinstance(exclude, str) else [exclude]
    if not excluded:
        raise DataError("Expected the class to leave out in exclude, got none.")
    left_out = [_index(one, names) for one in excluded]
    kept = {name: index for index, name in enumerate(names) if index not in left_out}
    if not kept:
        raise DataError("Expected a class to stay beside those in exclude, got none: there is nothing to resemble.")
    return kept


def _index(one: object, names: Sequence[str]) -> int:
    if isinstance(one, str) and one in names:
        return names.index(one)
    if isinstance(one, Integral) and not isinstance(one, bool) and 0 <= int(one) < len(names):
        return int(one)
    raise DataError(
        f"Expected exclude to be a class's name or an index below {len(names)}, got {one!r}. {nearest(str(one), names)}"
    )
