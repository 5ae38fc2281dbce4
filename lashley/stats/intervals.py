"""How sure a number is: the percentile bootstrap, over samples, concepts or seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lashley.errors import DataError
from lashley.stats.inputs import Array, numbers

__all__ = ["Interval", "bootstrap", "draws", "paired_bootstrap", "percentiles"]


class Interval(NamedTuple):
    """A value and the ends of its interval; ``_asdict()`` gives ``{"value", "low", "high"}``."""

    value: float
    low: float
    high: float


def bootstrap(
    values: Array,
    statistic: Callable[[Tensor], Tensor | float] = torch.mean,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A statistic, and the percentile interval it has when the samples are drawn again, with replacement.

    Args:
        values: ``[N]`` or ``[N, ...]``, drawn along the first dimension. What is drawn decides what the interval is
            about: images of one network say nothing about another seed.
        statistic: one number from a float64 tensor shaped as ``values``; the mean of all entries by default.
        resamples: how many times.
        level: the share of the resampled statistics between ``low`` and ``high``.
        seed: of the draws. The caller's generators are left alone.

    Source: Efron 1979; ends are interpolated quantiles. Too narrow for a handful of samples.

    Raises:
        DataError: fewer than 2 samples, values that are not finite, a statistic that is not one finite number, no
            resample, a level outside (0, 1).
    """
    sample = _sample(values, "values")
    return _interval(lambda rows: statistic(sample[rows]), len(sample), resamples, level, seed)


def paired_bootstrap(
    first: Array,
    second: Array,
    statistic: Callable[[Tensor, Tensor], Tensor | float] = lambda first, second: (first - second).mean(),
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """`bootstrap` of two measurements of the same samples: both are drawn together, so that what they share cancels.

    Args:
        first, second: ``[N, ...]`` each, row i of both from the same sample.
        statistic: one number from both; the mean of ``first - second`` by default.
        resamples, level, seed: as in `bootstrap`.

    Raises:
        DataError: other numbers of samples; what `bootstrap` refuses.
    """
    a, b = _sample(first, "first"), _sample(second, "second")
    if len(a) != len(b):
        raise DataError(f"Expected two measurements of the same samples, got {len(a)} and {len(b)}.")
    return _interval(lambda rows: statistic(a[rows], b[rows]), len(a), resamples, level, seed)


def percentiles(value: float, resampled: Tensor, level: float) -> Interval:
    """The interval that holds the middle ``level`` of the resampled statistics."""
    if not 0 < level < 1:
        raise DataError(f"Expected level between 0 and 1, got {level}. 0.95 leaves one in twenty outside.")
    broken = int((~torch.isfinite(resampled)).sum())
    if broken or not math.isfinite(value):
        raise DataError(
            f"Expected a finite statistic, got {value:g} and nan or inf in {broken} of {len(resampled)} resamples. "
            "A draw may lack what the statistic divides by."
        )
    ends = resampled.new_tensor([(1 - level) / 2, (1 + level) / 2])
    low, high = resampled.quantile(ends).tolist()
    return Interval(value, low, high)


def draws(count: int, resamples: int, seed: int) -> Iterator[Tensor]:
    """``count`` places out of ``count``, drawn with replacement, so many times."""
    if resamples < 1:
        raise DataError(f"Expected at least 1 resample, got {resamples}.")
    generator = torch.Generator().manual_seed(seed)
    for _ in range(resamples):
        yield torch.randint(count, (count,), generator=generator)


def _sample(values: Array, name: str) -> Tensor:
    sample = numbers(values, name).cpu()
    count = len(sample) if sample.ndim else 1
    if count < 2:
        raise DataError(f"Expected at least 2 samples in {name}, got {count}, which says nothing about spread.")
    return sample


def _interval(
    statistic: Callable[[Tensor], Tensor | float], count: int, resamples: int, level: float, seed: int
) -> Interval:
    found = [_number(statistic(rows)) for rows in draws(count, resamples, seed)]
    return percentiles(_number(statistic(torch.arange(count))), torch.tensor(found, dtype=torch.float64), level)


def _number(value: Tensor | float) -> float:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise DataError(f"Expected the statistic to be one number, got a tensor of shape {list(value.shape)}.")
    return float(value)
