"""Mixture shift: the concept's rows go to the mixture of concepts it resembles, as in a network that never learned it.

With ``mu_k`` the means, ``m`` the mean of all rows, ``C`` their covariance, ``G = C^+`` and ``delta_k = mu_k - m``, the gate

    h(x) = a^T (x - m) + b,     a = G [delta_0 .. delta_K] theta,     [[D^T G D, 1], [1^T, 0]] [theta; b] = e_c

is the affine function of least variance whose mean is 1 on the concept c and 0 on every other one. Then

    x -> x + (t - mu_c) h(x),     t = sum_j q_j mu_j,     P = -[t - mu_c; 0] [a^T, b - a^T m]

moves the concept's mean to the mixture ``t`` and no other concept's mean at all. Rank one.

The gate is only as good as the concept is linearly readable at this site: its ``R^2 = p (1 - p) / a^T C a`` (``p`` the concept's
share of the rows) is reported, and a low one is refused, because a gate that is mostly noise moves every row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lashley.errors import SolveError, nearest
from lashley.estimators.base import OffsetEstimator, Operator, SiteMoments, Solution
from lashley.spectrum import Cut

__all__ = ["MixtureShift"]


@dataclass(frozen=True)
class MixtureShift(OffsetEstimator):
    """``E~ = -W~ [t - mu_c; 0] [a^T, b - a^T m]``. Concepts must be exclusive classes.

    Args:
        weights: the mixture: ``{concept: weight}`` (see `lashley.lookalikes`; scaled to sum 1), "uniform" over the other
            concepts, or "mean" for the mean of all rows.
        min_r2: refuse a site where the gate explains less than this share of membership. Late layers reach .3 to .6, early
            ones .01 to .07; 0 accepts all.
        cut: which eigenvalues of the centred second moment count as zero.
        missing_bias: what to do where a layer has no bias to take the offset; see `OffsetEstimator`. By keyword.
    """

    weights: Mapping[str, float] | str = "uniform"
    min_r2: float = 0.2
    cut: Cut = field(default_factory=lambda: Cut(rtol=1e-3))

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.weights, str):
            if self.weights not in ("uniform", "mean"):
                raise SolveError(f'Expected weights to be a mapping, "uniform" or "mean", got {self.weights!r}.')
        elif not self.weights or min(self.weights.values()) < 0 or not sum(self.weights.values()) > 0:
            raise SolveError(f"Expected weights of at least 0 with a positive sum, got {dict(self.weights)}.")

    def operator(self, site: SiteMoments) -> Operator:
        if not site.exclusive:
            raise SolveError("Expected exclusive concepts, got overlapping ones: a gate per class has no answer there. Use Leace.")
        total = site.reference.moment.to(site.reference.device)
        others = {n: c for n in site.retained if (c := site.concept(n)).count}
        if not others or not site.target.count:
            raise SolveError("Expected a target and at least one other concept in the reference, each with rows.")
        mean = total.sum / total.count
        source = site.target.sum / site.target.count
        means = torch.stack([source, *(o.sum / o.count for o in others.values())])
        deltas = means - mean
        white = site.reference.centred.whiten(self.cut)
        pulled = white.divide(deltas) * total.count  # rows G delta_k: the factor holds n C
        size = len(deltas)
        system = deltas.new_zeros(size + 1, size + 1)
        system[:size, :size] = deltas @ pulled.T
        system[:size, size] = system[size, :size] = 1
        wanted = deltas.new_zeros(size + 1)
        wanted[0] = 1
        solved = torch.linalg.pinv(system, hermitian=True) @ wanted  # the deltas are dependent
        a, b = solved[:size] @ pulled, solved[size]
        spread = (solved[:size] @ system[:size, :size] @ solved[:size]).item()  # a^T C a
        share = site.target.count / total.count
        r2 = share * (1 - share) / spread if spread > 0 else 0.0
        left = self._mixture(others, means[1:], mean) - source
        left = -torch.cat([left, left.new_zeros(1)])[:, None]
        right = torch.cat([a, (b - a @ mean)[None]])[None]
        return Operator(left, right, True, Solution.cut(white.info, site, gate=r2))

    def check(self, solutions: Mapping[str, tuple[Solution, ...]]) -> None:
        poor = {n: s.gate for n, ss in solutions.items() for s in ss if s.gate is not None and s.gate < self.min_r2}
        if poor:
            shown = ", ".join(f"{n!r}: {r:.3f}" for n, r in list(poor.items())[:5])
            good = [n for n in solutions if n not in poor]
            raise SolveError(
                f"Expected a gate with R^2 of at least {self.min_r2} in every layer, got {shown}"
                + (f" and {len(poor) - 5} more" if len(poor) > 5 else "")
                + ". "
                + (f"Solve for the layers that reach it: layers={good[-3:]}. " if good else "")
                + "min_r2=0 accepts all."
            )

    def _mixture(self, others: Mapping[str, object], means: Tensor, mean: Tensor) -> Tensor:
        """t."""
        if self.weights == "mean":
            return mean
        if isinstance(self.weights, str):
            return means.mean(0)
        names = list(others)
        for name in self.weights:
            if name not in names:
                raise SolveError(f"Expected weights for concepts other than the target, got {name!r}. {nearest(name, names)}")
        q = torch.tensor([self.weights.get(n, 0.0) for n in names], dtype=means.dtype, device=means.device)
        return q / q.sum() @ means
