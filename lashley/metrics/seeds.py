"""A measure of two networks over seeds: same seed with same seed, or across seeds, with what the seeds leave open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

from lashley.errors import DataError
from lashley.metrics.needed import needed
from lashley.stats.intervals import Interval, draws, percentiles

__all__ = ["OverSeeds", "over_seeds"]

T = TypeVar("T")
PAIRS = ("same", "other")


@dataclass(frozen=True)
class OverSeeds:
    """A measure over pairs of seeds.

    Attributes:
        values: the measure by ``(seed of the first, seed of the second)``.
        mean: of the values.
        sd: their standard deviation (n - 1).
        student: Student's t interval of the mean, n - 1 degrees of freedom. Too narrow across seeds, where one seed is
            in several pairs.
        bootstrap: percentile interval when the seeds are drawn again. Across seeds one drawn twice makes no pair with
            itself, and draws of a single seed are left out.
    """

    values: dict[tuple[int, int], float]
    mean: float
    sd: float
    student: Interval
    bootstrap: Interval

    @property
    def n(self) -> int:
        """How many pairs."""
        return len(self.values)


def over_seeds(
    measure: Callable[[T, T], float],
    first: Mapping[int, T],
    second: Mapping[int, T] | None = None,
    *,
    pairs: str = "same",
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> OverSeeds:
    """``measure(first[i], second[j])`` over pairs of seeds.

    ``over_seeds(tow, unlearned, retrained)`` compares the unlearned network of each seed with the retrained one of the
    same seed, as *AI Engram* (arXiv 2606.14997) does. ``over_seeds(tow, retrained)`` is its row "Retrain", the target:
    retrained networks among themselves, over all unordered pairs (the paper does not say which it took).
    ``over_seeds(linear_cka, unlearned, original, pairs="other")`` leaves out the pairs of one seed, in which an edit
    looks like its original because it began there.

    Args:
        measure: one number of two things, for instance `tow` or `linear_cka`.
        first, second: what it takes, by seed. Without ``second``, ``first`` among itself over all pairs i < j.
        pairs: "same" seeds, or every two "other" seeds.
        level: of both intervals.
        resamples, seed: of the bootstrap.

    Raises:
        DataError: seeds without a partner, too few seeds for a spread, an unknown kind of pairs, no scipy.
    """
    if pairs not in PAIRS:
        raise DataError(f"Expected pairs to be one of {', '.join(PAIRS)}, got {pairs!r}.")
    seeds = sorted(first)
    if second is not None and sorted(second) != seeds:
        raise DataError(f"Expected both for the same seeds, got {seeds} and {sorted(second)}.")
    alone = second is None
    across = alone or pairs == "other"
    least = 3 if across else 2
    if len(seeds) < least:
        raise DataError(
            f"Expected at least {least} seeds to say how much they matter, got {len(seeds)}. "
            "Call the measure itself for a single pair."
        )
    partner = first if second is None else second
    values = {
        (i, j): float(measure(first[i], partner[j]))
        for i in seeds
        for j in seeds
        if (i < j if alone else (i != j) == across)
    }
    found = torch.tensor(list(values.values()), dtype=torch.float64)
    mean, sd = found.mean().item(), found.std().item()
    reach = needed("scipy.stats", "Student's t").t.ppf((1 + level) / 2, len(found) - 1) * sd / len(found) ** 0.5
    place = {own: at for at, own in enumerate(seeds)}
    left, right = (torch.tensor([place[pair[side]] for pair in values]) for side in (0, 1))
    resampled = []
    for drawn in draws(len(seeds), resamples, seed):
        times = torch.bincount(drawn, minlength=len(seeds)).to(found)
        weight = times[left] * times[right] if across else times[left]
        if weight.any():  # a draw of one seed only has no pair
            resampled.append((weight @ found / weight.sum()).item())
    interval = percentiles(mean, torch.tensor(resampled, dtype=torch.float64), level)
    return OverSeeds(values, mean, sd, Interval(mean, mean - float(reach), mean + float(reach)), interval)
