"""Mixture shift: the concept's rows go to the mixture of concepts it resembles, as in a network that never learned it.

With ``mu_k`` the means, ``m`` and ``C`` mean and covariance of all rows and ``p`` the concept's share of them, the gate

    h(x) = p + a^T (x - m)     of least variance with mean 1 on the concept c and 0 on every other one

is, for any B with ``B B^T = C^+`` (`lashley.spectrum`), ``a = B Y^+ (e_c - p)`` with ``Y = [(mu_k - m)^T B]``, a row
per concept. (No other constant than p is possible: it is the mean of h over all rows.) Then

    x -> x + (t - mu_c) h(x),     t = sum_j q_j mu_j,     P = -[t - mu_c; 0] [a^T, p - a^T m]

What it promises: the concept's mean moves to the mixture ``t``, and no other concept's mean moves at all. Rank one.

The gate is as good as the concept is linearly readable at this site. Its ``R^2 = p (1 - p) / a^T C a``, the squared
correlation with membership, is reported, and a low one is refused: a gate that is mostly noise moves every row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lashley.errors import SolveError, nearest
from lashley.estimators.base import OffsetEstimator, Operator, SiteMoments, Solution, check_cut
from lashley.spectrum import Cut

__all__ = ["MixtureShift"]

_DEPENDENT = 1e-9  # singular values of Y below this share of the largest are rounding: its rows sum to 0
_MET = 1e-6  # how exactly a gate has to be 1 and 0


@dataclass(frozen=True)
class MixtureShift(OffsetEstimator):
    """``E~ = -W~ [t - mu_c; 0] [a^T, p - a^T m]``: the concept is read as what it resembles. For exclusive concepts.

    It belongs in late layers, where the concept is linearly readable: see ``layers`` of `Recording.engram`.

    Args:
        weights: the mixture: ``{concept: weight}``, scaled to sum 1 (`lashley.lookalikes` measures it); "uniform" over
            the other concepts; or "mean" for the mean of all rows, the concept's own included.
        min_r2: refuse an engram with a gate below this R^2. First layers have .01 to .07, last ones .3 to .9; 0 accepts
            every gate there is.
        cut: which eigenvalues of ``n C`` count as zero.
        missing_bias: what to do where a layer has no bias to take the offset; see `OffsetEstimator`. By keyword.
    """

    weights: Mapping[str, float] | str = "uniform"
    min_r2: float = 0.2
    cut: Cut = field(default_factory=lambda: Cut(rtol=1e-3))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_cut(self.cut)
        if not 0 <= self.min_r2 <= 1:
            raise SolveError(f"Expected min_r2 in [0, 1], got {self.min_r2}.")
        if isinstance(self.weights, Mapping):
            weights = {name: float(weight) for name, weight in self.weights.items()}
            if not all(0 <= w < math.inf for w in weights.values()) or not 0 < sum(weights.values()) < math.inf:
                raise SolveError(
                    f"Expected weights that are finite, at least 0 and not all 0, got {weights}. "
                    "lashley.lookalikes(model, batches, exclude=...) measures them."
                )
            object.__setattr__(self, "weights", weights)  # our own: the caller may go on writing to theirs
        elif self.weights not in ("uniform", "mean"):
            raise SolveError(
                f'Expected weights to be a mapping {{concept: weight}}, "uniform" or "mean", got {self.weights!r}.'
            )

    def __hash__(self) -> int:
        weights = self.weights if isinstance(self.weights, str) else frozenset(self.weights.items())
        return hash((weights, self.min_r2, self.cut, self.missing_bias))

    def operator(self, site: SiteMoments) -> Operator:
        if not site.exclusive:
            raise SolveError(
                "Expected exclusive concepts, got overlapping ones: a gate that is 1 on one and 0 on the others has no "
                "meaning there. Use Leace."
            )
        if not site.contained:
            raise SolveError(
                f"Expected a reference that contains the target {list(site.names)}, got one without: the gate is made "
                "on the reference's rows. Add it to reference=."
            )
        others = site.means
        if not others:
            raise SolveError(
                "Expected another concept in the reference, with rows, to shift the target to; got none. Record what "
                "the target may be taken for."
            )
        mean, share = site.mean, site.target.count / site.reference.moment.count
        white = site.reference.centred.whiten(self.cut)
        a, gate = mean.new_zeros(mean.shape), None
        step = torch.zeros_like(mean)
        if site.target.count:
            source = site.target.sum / site.target.count
            step = self._mixture(others, mean) - source
            y = white.project(torch.stack([source, *others.values()]) - mean)
            wanted = y.new_full((len(y),), -share)
            wanted[0] += 1
            w = torch.linalg.pinv(y, rtol=_DEPENDENT) @ wanted
            gate = 0.0  # there is none: the means do not differ in enough directions
            if (y @ w - wanted).abs().max() < _MET:
                a = white.back(w[None])[0]
                gate = share * (1 - share) * site.reference.moment.count / w.square().sum().item()
        left = -torch.cat([step, step.new_zeros(1)])[:, None]
        right = torch.cat([a, (share - a @ mean)[None] if gate else a.new_zeros(1)])[None]
        return Operator(left, right, low_rank=True, solution=Solution.cut(white.info, site, gate=gate))

    def check(self, solutions: Mapping[str, Sequence[Solution]]) -> None:
        gates = {name: min((s.gate for s in its if s.gate is not None), default=1.0) for name, its in solutions.items()}
        poor = [name for name, gate in gates.items() if gate < self.min_r2 or not gate]
        if not poor:
            return
        good = [name for name in gates if name not in poor]
        shown = ", ".join(f"{name!r} ({gates[name]:.3f})" if gates[name] else f"{name!r} (none)" for name in poor[:5])
        raise SolveError(
            f"Expected a gate with an R^2 of at least {self.min_r2} in every layer, got a poorer one in {shown}"
            + (f" and {len(poor) - 5} more" if len(poor) > 5 else "")
            + ": the concept is not linearly readable there, and the edit would move every row. "
            + (f"Solve for the layers that reach it, layers={good}; or lower" if good else "Lower")
            + " min_r2, if you mean it."
            + (
                " Where there is none, the concepts' means differ in too few directions: fewer concepts in reference=, "
                "or a finer cut."
                if any(not gates[name] for name in poor)
                else ""
            )
        )

    def _mixture(self, others: Mapping[str, Tensor], mean: Tensor) -> Tensor:
        """t."""
        if self.weights == "mean":
            return mean
        if isinstance(self.weights, str):
            return torch.stack(list(others.values())).mean(0)
        for name in self.weights:
            if name not in others:
                raise SolveError(
                    f"Expected weights for the reference's concepts other than the target, got one for {name!r}. "
                    f"{nearest(name, others)}"
                )
        total = sum(self.weights.values())
        return torch.stack([weight / total * others[name] for name, weight in self.weights.items()]).sum(0)
