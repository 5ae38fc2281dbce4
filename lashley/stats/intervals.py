"""How sure a number is: percentile bootstrap over samples, concepts or seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lashley.errors import DataError
from lashley.stats.inputs import Array, numbers

__all__ = ["Interval", "bootstrap", "paired_bootstrap"]


class Interval(NamedTuple):
    """A value and the ends of its interval; ``_asdict()`` is the form that a table of results takes."""

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
    """A statistic and its percentile interval when the samples are drawn again, with replacement.

    Args:
        values: ``[N]`` or ``[N, ...]``, drawn along the first dimension. What counts as a sample is yours to say: images
            of one class, concepts, or seeds. Images drawn again say nothing about another seed.
        statistic: of a float64 tensor shaped as ``values``; the mean of all entries if nothing else is given.
        resamples: how many times.
        level: the share of resampled statistics between ``low`` and ``high``.
        seed: of the draws; the caller's generators are left alone.

    Source: Efron 1979; the percentile method. Too narrow for a handful of samples.

    Raises:
        DataError: fewer than 2 samples, values that are not finite, a statistic that is not one finite number.
    """
    sample = _sample(values, "values")
    return _interval(lambda rows: statistic(sample[rows]), len(sample), resamples, level, seed)


def paired_bootstrap(
    first: Array,
    second: Array,
    statistic: Callable[[Tensor, Tensor], Tensor | float] = lambda a, b: (a - b).mean(),
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """`bootstrap` of two measurements of the same samples: both are drawn together, so what they share cancels.

    Args:
        first, second: ``[N, ...]`` each, row i of both from the same sample.
        statistic: of both; the mean difference ``first - second`` if nothing else is given.
        resamples, level, seed: as in `bootstrap`.

    Raises:
        DataError: other numbers of samples; what `bootstrap` refuses.
    """
    a, b = _sample(first, "first"), _sample(second, "second")
    if len(a) != len(b):
        raise DataError(f"Expected both measurements of the same samples, got {len(a)} and {len(b)}.")
    return _interval(lambda rows: statistic(a[rows], b[rows]), len(a), resamples, level, seed)


def _sample(values: Array, name: str) -> Tensor:
    sample = numbers(values, name).cpu()
    if not sample.ndim or len(sample) < 2:
        raise DataError(
            f"Expected at least 2 samples in {name}, got {len(sample) if sample.ndim else 'a single number'}. "
            "One sample says nothing about its spread."
        )
    return sample


def _interval(
    statistic: Callable[[Tensor], Tensor | float], count: int, resamples: int, level: float, seed: int
) -> Interval:
    if resamples < 1:
        raise DataError(f"Expected at least 1 resample, got {resamples}.")
    if not 0 < level < 1:
        raise DataError(f"Expected level between 0 and 1, got {level}. 0.95 leaves one in twenty outside.")
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(count, (resamples, count), generator=generator)
    value = _number(statistic(torch.arange(count)))
    found = torch.tensor([_number(statistic(rows)) for rows in draws], dtype=torch.float64)
    broken = int((~torch.isfinite(found)).sum())
    if broken or not torch.isfinite(torch.tensor(value)):
        raise DataError(
            f"Expected the statistic to be finite, got nan or inf in {broken} of {resamples} resamples. A draw may lack a "
            "class that the statistic needs."
        )
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = found.quantile(ends).tolist()
    return Interval(value, low, high)


def _number(value: Tensor | float) -> float:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise DataError(f"Expected the statistic to be one number, got a tensor of shape {list(value.shape)}.")
    return float(value)
