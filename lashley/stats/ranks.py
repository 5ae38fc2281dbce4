"""Measures that look only at order: area under the ROC curve, rank correlation. Ties share their mean rank."""

from __future__ import annotations

import torch
from torch import Tensor

from lashley.errors import DataError
from lashley.stats.inputs import Array, vector

__all__ = ["auroc", "rank_correlation"]


def auroc(scores: Array, positive: Array) -> float:
    """The probability that a random positive has a higher score than a random negative; a tie counts half.

    Direction: higher. In [0, 1]; 1/2 for scores that know nothing.

    Args:
        scores: ``[N]``.
        positive: ``[N]`` of bool, or of 0 and 1.

    Source: the statistic of Mann and Whitney (1947).

    Raises:
        DataError: other lengths, positives of one kind only, values that are not finite.
    """
    values, truth = vector(scores, "scores").cpu(), vector(positive, "positive").cpu()
    if len(values) != len(truth):
        raise DataError(f"Expected a score for each sample, got {len(values)} scores for {len(truth)} samples.")
    if not bool(((truth == 0) | (truth == 1)).all()):
        raise DataError("Expected positive to hold only 0 and 1, or bools.")
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        raise DataError(f"Expected positives and negatives, got {positives} and {negatives}.")
    above = mean_ranks(values)[truth == 1].sum() - positives * (positives + 1) / 2
    return (above / (positives * negatives)).item()


def rank_correlation(x: Array, y: Array) -> float:
    """Spearman's rho: the correlation of the ranks. In [-1, 1]; 1 where one grows whenever the other does.

    Raises:
        DataError: other lengths, fewer than 2 values, values that are all the same or not finite.
    """
    a, b = vector(x, "x", 2).cpu(), vector(y, "y", 2).cpu()
    if len(a) != len(b):
        raise DataError(f"Expected as many values in x as in y, got {len(a)} and {len(b)}.")
    ranks = [mean_ranks(values) - (len(a) + 1) / 2 for values in (a, b)]
    for name, centred in zip("xy", ranks, strict=True):
        if not centred.any():
            raise DataError(f"Expected values that differ in {name}, got {len(a)} that are all the same.")
    return (ranks[0].dot(ranks[1]) / (ranks[0].norm() * ranks[1].norm())).clamp(-1, 1).item()


def mean_ranks(values: Tensor) -> Tensor:
    """Ranks from 1, equal values sharing the mean of theirs; float64."""
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).to(torch.float64)
    return (last - (counts - 1) / 2)[place]
