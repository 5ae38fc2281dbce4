"""Measures that look at order only: area under the ROC curve, rank correlation. Ties share the mean of their ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from lashley.errors import DataError
from lashley.stats.inputs import Array, vector

__all__ = ["auroc", "rank_correlation"]


def auroc(scores: Array, positive: Array) -> float:
    """The probability that a random positive scores higher than a random negative, a tie counting half.

    Direction: higher. Range: [0, 1]; 1/2 for scores that know nothing.

    Args:
        scores: ``[N]``.
        positive: ``[N]`` of bool, or of 0 and 1.

    Source: Mann and Whitney 1947. Millions of scores take a sort.

    Raises:
        DataError: other lengths, only positives or only negatives, values that are not finite.
    """
    values, truth = vector(scores, "scores").cpu(), vector(positive, "positive").cpu()
    if len(values) != len(truth):
        raise DataError(f"Expected a score for each sample, got {len(values)} scores for {len(truth)} samples.")
    if not bool(((truth == 0) | (truth == 1)).all()):
        raise DataError("Expected positive to hold bools, or 0 and 1, got other numbers.")
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not (positives and negatives):
        raise DataError(f"Expected positives and negatives, got {positives} and {negatives}.")
    wins = _mean_ranks(values)[truth == 1].sum() - positives * (positives + 1) / 2
    return (wins / positives / negatives).item()


def rank_correlation(x: Array, y: Array) -> float:
    """Spearman's rho, the correlation of the ranks.

    Range: [-1, 1]; 1 where y grows whenever x does.

    Raises:
        DataError: other lengths, fewer than 2 values, values that are all the same or not finite.
    """
    a, b = vector(x, "x", 2).cpu(), vector(y, "y", 2).cpu()
    if len(a) != len(b):
        raise DataError(f"Expected as many values in x as in y, got {len(a)} and {len(b)}.")
    ranks = [_mean_ranks(values) - (len(values) + 1) / 2 for values in (a, b)]
    for name, centred in zip("xy", ranks, strict=True):
        if not centred.any():
            raise DataError(f"Expected values that differ in {name}, got {len(a)} that are all the same.")
    return (ranks[0].dot(ranks[1]) / (ranks[0].norm() * ranks[1].norm())).clamp(-1, 1).item()


def _mean_ranks(values: Tensor) -> Tensor:
    """Ranks from 1, equal values sharing the mean of theirs; float64."""
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    counts = counts.to(torch.float64)
    return (counts.cumsum(0) - (counts - 1) / 2)[place]
