"""Kodge against inverse matrices and against the scaled importance of its paper."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers import assert_close, assert_near, gaussian
from lashley import Kodge
from lashley.errors import SolveError
from lashley.estimators import SiteMoments
from lashley.moments import Moment, pool
from lashley.spectrum import Factor
from sites import concepts, ones, site, together

SIZES = {"square": (60, 50, 40, 70), "thin": (60, 3, 40, 70), "few rows": (2, 1, 1, 2)}


def soft(x: Tensor, a: float) -> Tensor:
    """M of rows, by an inverse."""
    q = x.T @ x / x.square().sum()
    return a * q @ torch.linalg.inv(torch.eye(len(q), dtype=q.dtype) + (a - 1) * q)


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(("retain", "forget"), [(100.0, 3.0), (1.0, 1.0), (1000.0, 30.0)])
@pytest.mark.parametrize("target", [("b",), ("b", "d")])
def test_two_inverse_matrices(sizes, retain, forget, target, augmented):
    rows = concepts(sizes)
    operator = Kodge(retain, forget).operator(site(rows, *target, augmented=augmented))
    x_f = together(rows, *target)
    x_r = together(rows, *(name for name in rows if name not in target))
    if augmented:
        x_f, x_r = ones(x_f), ones(x_r)
    wanted = (torch.eye(7 + augmented) - soft(x_r, retain)) @ soft(x_f, forget)
    assert_near(operator.dense(), wanted, rel=1e-10)
    assert operator.low_rank == (operator.left.shape[1] < 7 + augmented)


def test_its_eigenvalues_are_the_scaled_importance():
    """a s / (1 + (a - 1) s) of the singular directions' shares, as the paper has it."""
    rows = concepts()
    only = {"b": rows["b"]}  # without a rest M_r is 0
    operator = Kodge(forget=5.0).operator(site(only, "b"))
    _, s, vt = torch.linalg.svd(rows["b"], full_matrices=False)
    share = s.square() / s.square().sum()
    assert_near(operator.dense(), vt.T * (5 * share / (1 + 4 * share)) @ vt, rel=1e-10)


def test_what_only_the_rest_uses_stays_and_what_only_the_target_uses_goes():
    x = torch.zeros(3, 200, 6, dtype=torch.float64)
    x[0, :, :2], x[1, :, 2:4] = gaussian(200, 2), gaussian(200, 2, seed=1)
    operator = Kodge(forget=1e9).operator(site({"own": x[0], "rest": x[1], "nothing": x[2][:0]}, "own")).dense()
    assert_close(operator, torch.diag(torch.tensor([1.0, 1, 0, 0, 0, 0])), atol=1e-6)


def test_the_rest_of_overlapping_concepts_is_what_does_not_belong_to_the_target():
    x, labels = gaussian(200, 5), gaussian(200, 2, seed=1) > 0.3
    moments = {name: Moment.of(x[labels[:, k]]) for k, name in enumerate("ab")}
    given = SiteMoments(moments["a"], Factor(Moment.of(x)), True, ("a",), moments, ("b",), exclusive=False)
    x_f, x_r = x[labels[:, 0]], x[~labels[:, 0]]
    wanted = (torch.eye(5) - soft(x_r, 100)) @ soft(x_f, 3)
    assert_near(Kodge().operator(given).dense(), wanted, rel=1e-10)
    several = SiteMoments(pool(moments.values()), given.reference, False, ("a", "b"), moments, (), exclusive=False)
    with pytest.raises(SolveError, match="to know what the rest is(.|\n)*record the target's union"):
        Kodge().operator(several)


@pytest.mark.parametrize("settings", [{"retain": 0.5}, {"forget": 0.0}, {"retain": float("inf")}])
def test_settings_that_are_refused(settings):
    with pytest.raises(SolveError, match=f"{next(iter(settings))} to be a finite number of at least 1"):
        Kodge(**settings)
