"""Rows of several concepts, and the moments that an estimator sees of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from helpers import gaussian
from lashley.estimators import Operator, SiteMoments
from lashley.moments import Moment, pool
from lashley.spectrum import Factor

Rows = Mapping[str, Tensor]


def concepts(sizes: Iterable[int] = (60, 50, 40, 70), dim: int = 7, seed: int = 0) -> dict[str, Tensor]:
    """Rows of concepts "a", "b", ... that differ in their means and spreads; float64."""
    found = {}
    for number, size in enumerate(sizes):
        spread = torch.logspace(0, -1, dim, dtype=torch.float64).roll(number)
        mean = 2 * gaussian(dim, seed=100 * seed + 50 + number)
        found["abcdefghijkl"[number]] = gaussian(size, dim, seed=100 * seed + number) * spread + mean
    return found


def site(rows: Rows, *target: str, augmented: bool = False, reference: Iterable[str] | None = None) -> SiteMoments:
    """What an estimator is given for these exclusive concepts."""
    moments = {name: Moment.of(x) for name, x in rows.items()}
    against = tuple(rows) if reference is None else tuple(reference)
    return SiteMoments(
        target=pool(moments[name] for name in target),
        reference=Factor(pool(moments[name] for name in against), augmented),
        contained=set(target) <= set(against),
        names=target,
        concepts=moments,
        retained=tuple(name for name in against if name not in target),
    )


def together(rows: Rows, *names: str) -> Tensor:
    """The rows of some concepts (default: of all) on top of each other."""
    return torch.cat([rows[name] for name in names or rows])


def members(rows: Rows, *names: str) -> Tensor:
    """For every row of all concepts, 1 where it belongs to one of these, else 0."""
    return torch.cat([torch.full((len(x),), float(name in names), dtype=x.dtype) for name, x in rows.items()])


def ones(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)


def edited(x: Tensor, operator: Operator) -> Tensor:
    """The rows as a weight ``W~ (I - P)`` sees them: x - P x, row by row, the constant coordinate dropped."""
    augmented = operator.dense().shape[0] > x.shape[1]
    taken = [operator.dense() @ row for row in (ones(x) if augmented else x)]
    return x - torch.stack(taken)[:, : x.shape[1]]


def explained(x: Tensor, z: Tensor) -> float:
    """R^2 of the best affine reader of ``z`` from the rows ``x``."""
    design, z = ones(x), z - z.mean()
    weights = torch.linalg.lstsq(design, z[:, None], driver="gelsd").solution
    rest = z - (design @ weights)[:, 0]
    return 1 - (rest.square().sum() / z.square().sum()).item()
