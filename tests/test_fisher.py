"""The engram beside natural-gradient steps, on rows alone: dense oracles, limits, edges."""

from __future__ import annotations

import math

import pytest
import torch

from helpers import assert_close, assert_near, gaussian
from lashley.errors import SolveError
from lashley.estimators import SiteMoments
from lashley.geometry import Share, agreement, engram_of, normal_residual, output_step, spared
from lashley.moments import Diagonal
from lashley.spectrum import Cut, Factor
from sites import concepts, site

PLAIN = Cut.notebook()


def test_the_kronecker_step_is_the_engram_where_outputs_are_isotropic() -> None:
    """``F^-1 vec(grad)`` with the whole Fisher matrix written out, ``F = S (x) G``."""
    rows, weight = concepts((60, 50), dim=5), gaussian(3, 5, seed=4)
    found = site(rows, "a")
    white = found.reference.whiten(PLAIN)
    engram = engram_of(weight, found, white)
    gradient = weight @ rows["a"].T @ rows["a"]  # of 1/2 ||W X||^2
    curved = gaussian(3, 3, seed=5)
    for g in (2.5 * torch.eye(3, dtype=torch.float64), curved @ curved.T + torch.eye(3)):
        fisher = torch.kron(g, found.reference.matrix)  # of W row by row
        step = torch.linalg.solve(fisher, gradient.flatten()).reshape(3, 5)
        scaled = g / (g.trace() / 3)
        expected = torch.linalg.solve(scaled, engram)
        assert_near(step * (g.trace() / 3), expected, rel=1e-10)
        assert_near(output_step(engram, g, 1e-12), expected, rel=1e-9)
        isotropic = bool((g - g.diagonal().mean() * torch.eye(3)).norm() < 1e-12)
        assert (agreement(step * (g.trace() / 3), engram).error < 1e-9) == isotropic


def test_damping_leads_from_the_curved_step_to_the_engram() -> None:
    engram, curved = gaussian(3, 5), gaussian(3, 3, seed=1)
    factor = curved @ curved.T
    cosines = [agreement(output_step(engram, factor, d), engram).cosine for d in (1e-3, 0.1, 1.0, 100.0, 1e8)]
    assert cosines == sorted(cosines) and cosines[0] < 0.95 and cosines[-1] == pytest.approx(1)
    assert_near(output_step(engram, factor, 1e8), engram, rel=1e-7)
    damped = (factor / (factor.trace() / 3) + 0.1 * torch.eye(3, dtype=torch.float64)) / 1.1
    assert_near(output_step(engram, factor, 0.1), torch.linalg.solve(damped, engram), rel=1e-10)
    assert_near(output_step(engram, 7 * factor, 0.1), output_step(engram, factor, 0.1), rel=1e-10)


def test_what_a_curved_step_refuses() -> None:
    with pytest.raises(SolveError, match="positive damping, got 0"):
        output_step(gaussian(3, 5), torch.eye(3), 0.0)
    with pytest.raises(SolveError, match="got zeros"):
        output_step(gaussian(3, 5), torch.zeros(3, 3), 0.1)


@pytest.mark.parametrize("sizes", [(60, 50), (3, 50)])
def test_the_engram_solves_the_soft_problem(sizes: tuple[int, ...]) -> None:
    rows, weight = concepts(sizes, dim=5), gaussian(3, 5, seed=4)
    found = site(rows, "a")
    white = found.reference.whiten(PLAIN)
    engram = engram_of(weight, found, white).requires_grad_()
    loss = ((engram - weight) @ rows["a"].T).square().sum() + (engram @ rows["b"].T).square().sum()
    [gradient] = torch.autograd.grad(loss, engram)
    assert gradient.norm() < 1e-8 * (weight @ rows["a"].T @ rows["a"]).norm()
    assert normal_residual(weight, engram.detach(), found) < 1e-10
    assert normal_residual(weight, 1.1 * engram.detach(), found) == pytest.approx(0.1)


def test_a_cut_leaves_what_it_drops() -> None:
    rows, weight = concepts((60, 50), dim=5), gaussian(3, 5, seed=4)
    found = site(rows, "a")
    product = weight @ found.target.square
    _, vectors = torch.linalg.eigh(found.reference.matrix)
    left = (product @ vectors[:, :2]).norm() / product.norm()
    engram = engram_of(weight, found, found.reference.whiten(Cut(rank=3)))
    assert normal_residual(weight, engram, found) == pytest.approx(left.item())


def test_the_hard_constraint_is_kept_and_leaves_what_is_owned_whole() -> None:
    """Theorem 6.1's problem, solved the textbook way: with N the projector on what the rest never uses,
    ``E = W X (N X)^+`` for rows as columns.
    """
    free = torch.zeros(40, 6, dtype=torch.float64)
    free[:, :4] = gaussian(40, 4)
    rows = {"a": gaussian(50, 6, seed=1), "b": free}  # "a" alone uses the last two columns
    weight = gaussian(3, 6, seed=2)
    found = site(rows, "a")
    white = found.reference.whiten(PLAIN)
    hard = spared(weight, found, Share(found, white), white)
    n = torch.diag(torch.tensor([0.0, 0, 0, 0, 1, 1], dtype=torch.float64))
    x = rows["a"].T
    assert_near(hard, weight @ x @ torch.linalg.pinv(n @ x), rel=1e-9)
    assert (hard @ rows["b"].T).norm() < 1e-9
    engram = engram_of(weight, found, white)
    assert (engram @ rows["b"].T).norm() > 0.1  # the engram does not keep the constraint
    assert agreement(hard, engram).cosine < 0.999


def test_where_everything_is_shared_the_hard_constraint_leaves_nothing() -> None:
    found = site(concepts((60, 50)), "a")
    white = found.reference.whiten(PLAIN)
    assert_close(spared(gaussian(3, 7), found, Share(found, white), white), torch.zeros(3, 7))


def test_the_same_where_moments_are_diagonal() -> None:
    moment, total = (
        Diagonal(torch.tensor(c, dtype=torch.float64)) for c in ([2.0, 1.0, 0.0, 0.0], [2.0, 4.0, 1.0, 0.0])
    )
    found = SiteMoments(moment, Factor(total))
    weight = gaussian(3, 4)
    hard = spared(weight, found, Share(found, None), None)
    assert_close(hard, weight * torch.tensor([1.0, 0, 0, 0], dtype=torch.float64))
    assert normal_residual(weight, engram_of(weight, found, None), found) < 1e-15


def test_agreement_of_matrices_and_of_nothing() -> None:
    a = gaussian(3, 4)
    found = agreement(2 * a, a)
    assert (found.cosine, found.ratio, found.error) == pytest.approx((1, 2, 1))
    found = agreement(-a.float(), a)
    assert found.cosine == pytest.approx(-1) and found.error == pytest.approx(2)
    zero = torch.zeros(3, 4)
    assert agreement(zero, a).cosine == 0 and agreement(zero, a).ratio == 0 and agreement(zero, a).error == 1
    assert agreement(a, zero).ratio == math.inf and agreement(a, zero).error == math.inf
    assert (agreement(zero, zero).ratio, agreement(zero, zero).error) == (1, 0)
