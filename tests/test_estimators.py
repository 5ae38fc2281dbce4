"""Estimators against their dense formulas, and the identities that hold whatever the data."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cases import count_calls, square
from helpers import assert_close, assert_near, gaussian, relative_error
from lashley import kernels
from lashley.errors import SolveError, StoreError
from lashley.estimators import Estimator, Operator, Projection, Ridge, SiteMoments, Solution
from lashley.estimators.projection import filter_eigen, filter_integer
from lashley.moments import Moment, pool
from lashley.spectrum import Cut, Factor

D = 24


def rows(n: int, seed: int, dim: int = D) -> Tensor:
    """Rows that use some directions more than others, and another mean for every seed."""
    return gaussian(n, dim, seed=seed) * torch.logspace(0, -1.5, dim).roll(seed * 5) + 0.2 * seed


def exact(values: object) -> Tensor:
    """Python's numbers without the detour through float32."""
    return torch.tensor(values, dtype=torch.float64)


def ones(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)


def site(target: Tensor, reference: Tensor, augmented: bool = False, contained: bool = True) -> SiteMoments:
    return SiteMoments(Moment.of(target), Factor(Moment.of(reference), augmented), contained)


def whitener(reference: Tensor, keep: int) -> Tensor:
    _, s, vt = torch.linalg.svd(reference, full_matrices=False)
    return vt[:keep].T / s[:keep]


def dense(target: Tensor, reference: Tensor, keep: int, p: float = 1, t: float = 0.5) -> Tensor:
    """S_c B g(R) B^T, term by term."""
    b = whitener(reference, keep)
    r, q = torch.linalg.eigh(b.T @ target.T @ target @ b)
    r = r.clamp(1e-14, 1)
    u = t / (1 - t)
    f = r**p / (r**p + u**p * (1 - r) ** p)
    return target.T @ target @ b @ (q * (f / r)) @ q.T @ b.T


# The paper's formula


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("cut", [Cut(), Cut(rtol=1e-3), Cut(rank=7), Cut(energy=0.9), Cut(condition=50)])
@pytest.mark.parametrize(("n_c", "n_rest"), [(5, 90), (60, 90), (5, 9), (1, 60)], ids=["thin", "square", "few", "one"])
def test_paper(cut: Cut, augmented: bool, n_c: int, n_rest: int) -> None:
    x_c, x = rows(n_c, 0), torch.cat([rows(n_c, 0), rows(n_rest, 1)])
    operator = Projection(cut=cut).operator(site(x_c, x, augmented))
    assert operator.low_rank == (n_c < D)
    assert operator.left.shape == ((D + augmented, n_c) if n_c < D else (D + augmented, D + augmented))
    if augmented:
        x_c, x = ones(x_c), ones(x)
    assert_near(operator.dense(), dense(x_c, x, operator.solution.rank), rel=1e-9)
    weight = gaussian(6, D + augmented, seed=2)
    left, right = operator.apply(weight)
    assert_near(left @ right, weight @ dense(x_c, x, operator.solution.rank), rel=1e-9)


SHARP = [
    (1, 0.3),
    (1, 0.8),
    (1.5, 0.5),
    (2, 0.5),
    (2, 0.25),
    (2.7, 0.6),
    (3, 0.5),
    (3, 0.7),
    (5, 0.4),
    (8, 0.5),
    (20, 0.5),
]


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize(("p", "t"), SHARP)
@pytest.mark.parametrize(("n_c", "n_rest"), [(5, 90), (60, 90), (5, 9)], ids=["thin", "square", "few"])
def test_sharpened(p: float, t: float, augmented: bool, n_c: int, n_rest: int) -> None:
    x_c, x = rows(n_c, 0), torch.cat([rows(n_c, 0), rows(n_rest, 1)])
    operator = Projection(p, t, Cut(rtol=1e-5)).operator(site(x_c, x, augmented))
    assert operator.low_rank == (n_c < D)
    assert operator.solution.clipped == 0
    if augmented:
        x_c, x = ones(x_c), ones(x)
    assert_near(operator.dense(), dense(x_c, x, operator.solution.rank, p, t), rel=1e-8)


@pytest.mark.parametrize("cut", [Cut(), Cut.paper(), Cut(rtol=1e-2), Cut(rank=9)])
@pytest.mark.parametrize("n_c", [5, 60])
def test_sharpness_one_is_the_plain_formula(cut: Cut, n_c: int) -> None:
    """The filter itself, forced to run where the library knows that it is the identity."""
    x_c, x = rows(n_c, 0), torch.cat([rows(n_c, 0), rows(90, 1)])
    plain = Projection(cut=cut).operator(site(x_c, x)).dense()
    b = whitener(x, Factor(Moment.of(x)).whiten(cut).info.rank)
    share = b.T @ x_c.T @ x_c @ b
    for gain in (filter_integer(share, 1, 0.5), filter_eigen(share, 1.0, 0.5)[0]):
        assert gain is not None
        assert_near(gain, torch.eye(len(gain)), rel=1e-12)
        assert_near(x_c.T @ x_c @ b @ gain @ b.T, plain, rel=1e-9)
    nearly = Projection(1 + 1e-9, 0.5 + 1e-9, cut).operator(site(x_c, x)).dense()
    assert_near(nearly, plain, rel=1e-6)


def test_projecting_the_weight_first_is_another_matrix() -> None:
    """W Pi S_c S^+ is a common mistake when the cut drops directions that the concept uses."""
    x_c, x = rows(60, 0), torch.cat([rows(60, 0), rows(90, 1)])
    operator = Projection(cut=Cut(rank=9)).operator(site(x_c, x))
    b = whitener(x, 9)
    projector = x.T @ x @ b @ b.T
    assert relative_error(projector @ operator.dense(), operator.dense()) > 1e-2


# The filter


@given(st.integers(1, 12), st.floats(0.1, 0.9), st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_integer_power_form_is_the_eigen_form(p: int, t: float, shares: list[float]) -> None:
    if (2 * max(t, 1 - t) / min(t, 1 - t)) ** p > 1e6:
        return
    q = torch.linalg.qr(gaussian(len(shares), len(shares))).Q
    share = q * torch.tensor(shares, dtype=torch.float64) @ q.T
    share = (share + share.T) / 2
    integer, (eigen, excess) = filter_integer(share, p, t), filter_eigen(share, p, t)
    assert integer is not None
    assert_near(share @ integer, share @ eigen, rel=1e-9)
    assert excess < 1e-14


def test_integer_form_to_the_last_digits() -> None:
    x_c, x = rows(60, 0), torch.cat([rows(60, 0), rows(90, 1)])
    b = whitener(x, D)
    share = b.T @ x_c.T @ x_c @ b
    for p, t in ((1, 0.5), (2, 0.5), (3, 0.5), (4, 0.5), (2, 0.3), (3, 0.6)):
        assert_near(filter_integer(share, p, t), filter_eigen(share, p, t)[0], rel=2e-13)


@pytest.mark.parametrize(
    ("p", "t"), [(1, Fraction(1, 4)), (2, Fraction(1, 2)), (3, Fraction(2, 3)), (5, Fraction(3, 10))]
)
def test_filter_of_single_shares(p: int, t: Fraction) -> None:
    u = t / (1 - t)
    for r in (Fraction(0), Fraction(1, 100), Fraction(1, 3), t, Fraction(9, 10), Fraction(1)):
        # g = f / r = r^(p-1) / (r^p + u^p (1 - r)^p), in exact fractions
        expected = float(r ** (p - 1) / (r**p + u**p * (1 - r) ** p))
        share = torch.tensor([[float(r)]], dtype=torch.float64)
        assert filter_eigen(share, p, float(t))[0].item() == pytest.approx(expected, rel=1e-12)
        gain = filter_integer(share, p, float(t))
        assert gain is not None
        assert gain.item() == pytest.approx(expected, rel=1e-12)
        if r == t:
            assert expected * float(r) == pytest.approx(0.5)


@pytest.mark.parametrize("p", [40.0, 1e3, 1e6, 1e12])
def test_a_large_sharpness_is_a_projector(p: float) -> None:
    """Powers of shares would underflow: 0.5 to the 1100th is zero."""
    share = torch.diag(torch.tensor([0.0, 1e-300, 0.2, 0.45, 0.55, 0.9, 1.0], dtype=torch.float64))
    gain, _ = filter_eigen(share, p, 0.5)
    owned = (share @ gain).diagonal()
    assert_close(owned, exact([0, 0, 0, 0, 1, 1, 1]), atol=1e-3 if p == 40 else 1e-12)
    operator = Projection(p).operator(site(rows(60, 0), torch.cat([rows(60, 0), rows(90, 1)]))).dense()
    assert torch.isfinite(operator).all()
    if p > 1e5:
        assert_near(operator @ operator, operator, rel=1e-9)


def test_an_extreme_threshold_is_solved_by_eigenvalues() -> None:
    """At t = 0.99 the matrix to invert has a condition of 1e16: the integer form would be noise."""
    x_c, x = rows(60, 0), torch.cat([rows(60, 0), rows(90, 1)])
    for t in (0.99, 0.01):
        operator = Projection(8, t).operator(site(x_c, x))
        assert_near(operator.dense(), dense(x_c, x, D, 8, t), rel=1e-9)


def test_which_form_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    x_c, x = rows(60, 0), torch.cat([rows(60, 0), rows(90, 1)])
    well = site(x_c, x)
    calls = count_calls(monkeypatch, "eigh")
    Projection(2).operator(well)
    Projection(8).operator(well)
    assert calls["eigh"] == 0
    Projection(2.5).operator(well)
    Projection(8, 0.99).operator(well)
    Projection(2).operator(SiteMoments(well.target, well.reference, contained=False))
    assert calls["eigh"] == 3


def test_shares_far_outside_fall_back_to_eigenvalues() -> None:
    """With a cut inside the noise, S and S_c disagree, and r^p + u^p (1 - r)^p need not be positive."""
    share = torch.diag(torch.tensor([0.5, 60.0], dtype=torch.float64))
    assert filter_integer(share, 3, 0.6) is None
    gain, clipped = Projection(3, 0.6)._gain(share, contained=True)
    assert_close(gain.diagonal()[1], 1.0)
    assert clipped == 0


# Targets outside the reference


@pytest.mark.parametrize("n_c", [5, 60])
@pytest.mark.parametrize("p", [2.0, 2.5])
def test_shares_above_one_are_clipped_and_counted(n_c: int, p: float) -> None:
    x_c, x = rows(n_c, 0), rows(90, 1)
    b = whitener(x, D)
    largest = torch.linalg.eigvalsh(b.T @ x_c.T @ x_c @ b)[-1].item()
    assert largest > 1
    operator = Projection(p).operator(site(x_c, x, contained=False))
    assert operator.solution.clipped == pytest.approx(largest - 1, rel=1e-6)
    assert_near(operator.dense(), dense(x_c, x, D, p), rel=1e-8)
    plain = Projection().operator(site(x_c, x, contained=False))
    assert plain.solution.clipped == 0
    assert_near(plain.dense(), x_c.T @ x_c @ torch.linalg.inv(x.T @ x), rel=1e-8)


# Ridge


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize(("n_c", "n_rest"), [(5, 90), (60, 90), (5, 9), (1, 0)])
@pytest.mark.parametrize("lam", [1e-6, 0.3, 1e4])
def test_ridge(lam: float, n_c: int, n_rest: int, augmented: bool) -> None:
    x_c, x = rows(n_c, 0), torch.cat([rows(n_c, 0), rows(n_rest, 1)])
    operator = Ridge(lam).operator(site(x_c, x, augmented))
    assert operator.low_rank == (n_c < D)
    if augmented:
        x_c, x = ones(x_c), ones(x)
    damped = torch.linalg.inv(x.T @ x + lam * torch.eye(x.shape[1], dtype=torch.float64))
    assert_near(operator.dense(), x_c.T @ x_c @ damped, rel=1e-7)
    assert operator.solution.solver == "ridge"


def test_ridge_with_a_target_outside_a_thin_reference() -> None:
    """What lies outside the few directions of the reference is divided by lam alone."""
    x_c, x = rows(3, 0), rows(9, 1)
    damped = torch.linalg.inv(x.T @ x + 0.1 * torch.eye(D, dtype=torch.float64))
    assert_near(Ridge(0.1).operator(site(x_c, x, contained=False)).dense(), x_c.T @ x_c @ damped, rel=1e-11)


def test_ridge_between_the_paper_and_nothing() -> None:
    where = site(rows(60, 0), torch.cat([rows(60, 0), rows(90, 1)]))
    paper = Projection().operator(where).dense()
    assert_near(Ridge(1e-9).operator(where).dense(), paper, rel=1e-6)
    assert Ridge(1e9).operator(where).dense().norm() < 1e-6 * paper.norm()


# Identities


ESTIMATORS = [Projection(), Projection(2), Projection(2.5, 0.4), Projection(cut=Cut(rank=9)), Ridge(0.5)]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("n_c", [5, 60])
def test_thin_and_square_are_one_operator(estimator: Estimator, augmented: bool, n_c: int) -> None:
    x_c, x = rows(n_c, 0), torch.cat([rows(n_c, 0), rows(90, 1)])
    reference = Factor(square(x), augmented)
    thin = estimator.operator(SiteMoments(Moment.of(x_c), reference))
    full = estimator.operator(SiteMoments(square(x_c), reference))
    assert (thin.low_rank, full.low_rank) == (n_c == 5, False)
    assert_near(thin.dense(), full.dense(), rel=1e-9)


@pytest.mark.parametrize("cut", [Cut(), Cut(rtol=1e-2), Cut(rank=9), Cut(energy=0.9)])
@pytest.mark.parametrize("deficient", [False, True])
@pytest.mark.parametrize("n_c", [5, 60])
def test_a_concept_and_the_rest_make_the_projector(cut: Cut, deficient: bool, n_c: int) -> None:
    """P_c + P_rest = Pi, which is also P of everything; W~ Pi is then all that the data reaches."""
    x_c, x_rest = rows(n_c, 0), rows(90, 1)
    if deficient:
        x_c[:, 4], x_rest[:, 4] = x_c[:, 3], x_rest[:, 3]
    x = torch.cat([x_c, x_rest])
    reference = Factor(Moment.of(x))
    p_c, p_rest, p_all = (
        Projection(cut=cut).operator(SiteMoments(Moment.of(part), reference)).dense() for part in (x_c, x_rest, x)
    )
    rank = reference.whiten(cut).info.rank
    b = whitener(x, rank)
    # Above the cut, B B^T S is the orthogonal projector on the kept directions; S B B^T is it too.
    projector = torch.linalg.qr(b).Q
    projector = projector @ projector.T
    assert_near(p_all, projector, rel=1e-9)
    assert_near(p_c + p_rest, projector, rel=1e-9)
    if deficient and cut == Cut():
        assert rank == D - 1
        dead = torch.zeros(D, dtype=torch.float64)
        dead[3], dead[4] = 1, -1
        assert (p_c @ dead).norm() < 1e-12


@pytest.mark.parametrize("estimator", [Projection(), Projection(2), Projection(3, 0.3), Projection(2.5)], ids=str)
@pytest.mark.parametrize("augmented", [False, True])
def test_of_everything_and_of_nothing(estimator: Estimator, augmented: bool) -> None:
    """A concept that owns every direction gets all of it, however sharp; one without rows gets nothing."""
    reference = Factor(Moment.of(rows(150, 1)), augmented)
    everything = estimator.operator(SiteMoments(Moment.of(rows(150, 1)), reference))
    assert_near(everything.dense(), torch.eye(D + augmented), rel=1e-9)
    nothing = estimator.operator(SiteMoments(Moment.zero(D), reference))
    assert_close(nothing.dense(), torch.zeros(D + augmented, D + augmented))
    left, right = nothing.apply(gaussian(3, D + augmented))
    assert (left.shape, right.shape) == ((3, 0), (0, D + augmented))


@pytest.mark.parametrize("estimator", [*ESTIMATORS, Projection(cut=Cut.notebook())], ids=str)
@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("target", [0, 2])
def test_a_reference_without_rows(estimator: Estimator, augmented: bool, target: int) -> None:
    where = SiteMoments(Moment.of(rows(target, 0)), Factor(Moment.zero(D), augmented), contained=target == 0)
    operator = estimator.operator(where).dense()
    if isinstance(estimator, Ridge) and target:
        x = ones(rows(target, 0)) if augmented else rows(target, 0)
        assert_near(operator, x.T @ x / estimator.lam, rel=1e-12)
    else:
        assert_close(operator, torch.zeros(D + augmented, D + augmented))


@pytest.mark.parametrize("n", [1, 40])
def test_a_single_column(n: int) -> None:
    x_c, x = torch.full((n, 1), 2.0), torch.cat([torch.full((n, 1), 2.0), torch.full((n, 1), 1.0)])
    share = 4 / 5
    assert_close(Projection().operator(site(x_c, x)).dense(), exact([[share]]), rtol=1e-12)
    sharp = share**2 / (share**2 + (1 - share) ** 2)
    assert_close(Projection(2).operator(site(x_c, x)).dense(), exact([[sharp]]), rtol=1e-12)
    assert_close(Ridge(5.0 * n).operator(site(x_c, x)).dense(), exact([[4 / 10]]), rtol=1e-12)


def test_pooled_is_the_sum_for_the_paper_and_for_ridge_only() -> None:
    a, b, rest = rows(30, 0), rows(40, 1), rows(60, 2)
    reference = Factor(pool(Moment.of(x) for x in (a, b, rest)))
    for estimator, linear in (
        (Projection(), True),
        (Ridge(0.3), True),
        (Projection(2), False),
        (Projection(1, 0.3), False),
    ):
        single = [estimator.operator(SiteMoments(Moment.of(x), reference)).dense() for x in (a, b)]
        pooled = estimator.operator(SiteMoments(Moment.of(torch.cat([a, b])), reference)).dense()
        error = relative_error(single[0] + single[1], pooled)
        assert error < 1e-10 if linear else error > 1e-2


@given(st.floats(1e-3, 1e3), st.integers(0, 3))
def test_shares_do_not_depend_on_scale_or_on_how_often_all_is_repeated(scale: float, seed: int) -> None:
    x_c, x = rows(40, seed), torch.cat([rows(40, seed), rows(50, seed + 1)])
    once = Projection(2).operator(site(x_c, x)).dense()
    scaled = Projection(2).operator(site(x_c * scale, x * scale)).dense()
    twice = Projection(2).operator(site(x_c.repeat(2, 1), x.repeat(2, 1))).dense()
    assert_near(scaled, once, rel=1e-8)
    assert_near(twice, once, rel=1e-8)


# Exact numbers that can be derived by hand


@dataclass
class Example:
    """Rows of a target and of the rest, a weight, and the engram they must give."""

    target: list[list[float]]
    rest: list[list[float]]
    weight: list[list[float]]
    engram: list[list[float]]
    rho_plus: float
    rho_minus: float
    augmented: bool = False


EXAMPLES = {
    "linear": Example(
        target=[[1, 0], [1, 1]],
        rest=[[0, 2]],
        weight=[[1, 2], [0, 3]],
        engram=[[17 / 9, 2 / 9], [4 / 3, 1 / 3]],
        rho_plus=0.519909023880535,
        rho_minus=1 / 9,
    ),
    # Supports that do not touch are separated without loss.
    "orthogonal": Example(
        target=[[1, 0, 0], [2, 0, 0]],
        rest=[[0, 1, 0], [0, 0, 3]],
        weight=[[1, 2, 3], [4, 5, 6]],
        engram=[[1, 0, 0], [4, 0, 0]],
        rho_plus=0,
        rho_minus=0,
    ),
    # A column that is never active has no engram.
    "rank deficient": Example(
        target=[[1, 1, 0], [0, 0, 0]],
        rest=[[0, 1, 0]],
        weight=[[1, 2, 3], [4, 5, 6]],
        engram=[[3, 0, 0], [9, 0, 0]],
        rho_plus=0,
        rho_minus=0,
    ),
    # One direction, seen three times by the target and once by the rest: 3/4 of the weight.
    "shared input": Example(
        target=[[1], [1], [1]],
        rest=[[1]],
        weight=[[8]],
        engram=[[6]],
        rho_plus=1 / 4,
        rho_minus=3 / 4,
    ),
    # With a 1 appended, [1, 0, 1], [1, 1, 1] and [0, 2, 1] are independent: both errors are zero.
    "bias absorbed": Example(
        target=[[1, 0], [1, 1]],
        rest=[[0, 2]],
        weight=[[1, 2, 1], [0, 3, -1]],
        engram=[[6, 2, -4], [5, 3, -6]],
        rho_plus=0,
        rho_minus=0,
        augmented=True,
    ),
}


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
@pytest.mark.parametrize("form", [Moment.of, square], ids=["thin", "square"])
@pytest.mark.parametrize("cut", [Cut(), Cut.paper(), Cut.notebook()], ids=repr)
def test_exact_numbers(example: Example, form: Callable[[Tensor], Moment], cut: Cut) -> None:
    plus, minus = (form(torch.tensor(x, dtype=torch.float64)) for x in (example.target, example.rest))
    weight = torch.tensor(example.weight, dtype=torch.float64)
    operator = Projection(cut=cut).operator(SiteMoments(plus, Factor(plus + minus, example.augmented)))
    engram = weight @ operator.dense()
    assert_close(engram, exact(example.engram), atol=1e-12)
    leak, lack = rho(weight, engram, plus.matrix(example.augmented), minus.matrix(example.augmented))
    assert_close(exact([lack, leak]), exact([example.rho_plus, example.rho_minus]), atol=1e-7)


def rho(weight: Tensor, engram: Tensor, plus: Tensor, minus: Tensor) -> tuple[float, float]:
    """Leak onto the rest and lack on the target, from moments alone: rho_- and rho_+."""

    def energy(m: Tensor, s: Tensor) -> float:
        return torch.trace(m @ s @ m.T).clamp(min=0).item()

    leak = energy(engram, minus) / energy(weight, minus)
    lack = energy(weight - engram, plus) / energy(weight, plus)
    return math.sqrt(leak), math.sqrt(lack)


def test_eigenvalues_of_the_operator_are_the_shares() -> None:
    target, rest = (torch.tensor(EXAMPLES["linear"].target), torch.tensor(EXAMPLES["linear"].rest))
    operator = Projection().operator(site(target.double(), torch.cat([target, rest]).double()))
    assert_close(torch.linalg.eigvals(operator.dense()).real.sort().values, exact([1 / 9, 1]), atol=1e-12)


@pytest.mark.parametrize("deficient", [False, True])
@pytest.mark.parametrize("n_c", [5, 60])
def test_rho_from_moments_from_rows_and_from_shares(deficient: bool, n_c: int) -> None:
    """Four ways to the same two numbers. With one layer, injecting and ablating cannot be told apart."""
    x_plus, x_minus = rows(n_c, 0), rows(90, 1)
    if deficient:
        x_plus[:, 4], x_minus[:, 4] = x_plus[:, 3], x_minus[:, 3]
    x = torch.cat([x_plus, x_minus])
    delta, w_0 = gaussian(6, D, seed=2), gaussian(6, D, seed=3)
    w_1 = w_0 + delta
    engram = delta @ Projection(cut=Cut(rtol=1e-10)).operator(site(x_plus, x)).dense()

    leak, lack = rho(delta, engram, x_plus.T @ x_plus, x_minus.T @ x_minus)
    ablated, injected = w_1 - engram, w_0 + engram
    scale_plus, scale_minus = (delta @ x_plus.T).norm(), (delta @ x_minus.T).norm()
    assert_close(((injected - w_1) @ x_plus.T).norm() / scale_plus, exact(lack), rtol=1e-8)  # sufficiency
    assert_close(((ablated - w_0) @ x_plus.T).norm() / scale_plus, exact(lack), rtol=1e-8)  # necessity
    assert_close(
        ((injected - w_0) @ x_minus.T).norm() / scale_minus, exact(leak), rtol=1e-8
    )  # specificity of injection
    assert_close(((ablated - w_1) @ x_minus.T).norm() / scale_minus, exact(leak), rtol=1e-8)  # specificity of ablation

    b = whitener(x, D - deficient)
    p, v = torch.linalg.eigh(b.T @ x_plus.T @ x_plus @ b)
    root = x.T @ x @ b  # S^(1/2) up to a rotation that B shares
    w = (delta @ root @ v).norm(dim=0) ** 2
    assert_close((w * p * (1 - p) ** 2).sum() / (w * p).sum(), exact(lack**2), rtol=1e-7)
    assert_close((w * p**2 * (1 - p)).sum() / (w * (1 - p)).sum(), exact(leak**2), rtol=1e-7)

    # Equation 2 at its minimum: any other matrix on the same rows does worse.
    def loss(m: Tensor) -> Tensor:
        return ((m - delta) @ x_plus.T).norm() ** 2 + (m @ x_minus.T).norm() ** 2

    assert_close(loss(engram), lack**2 * scale_plus**2 + leak**2 * scale_minus**2, rtol=1e-8)
    for seed in range(5):
        assert loss(engram + 1e-3 * gaussian(6, D, seed=seed)) > loss(engram)


def test_independent_rows_are_separated_without_loss() -> None:
    """N <= D: the hard constraint of the paper's proposition holds, and nothing is learnt about other data."""
    x_plus, x_minus, w = rows(5, 0), rows(9, 1), gaussian(6, D, seed=2)
    engram = w @ Projection(cut=Cut(rtol=1e-12)).operator(site(x_plus, torch.cat([x_plus, x_minus]))).dense()
    leak, lack = rho(w, engram, x_plus.T @ x_plus, x_minus.T @ x_minus)
    assert max(leak, lack) < 1e-6
    for estimator in (Projection(2), Projection(5, 0.3)):  # every share is 0 or 1: all filters agree
        other = w @ estimator.operator(site(x_plus, torch.cat([x_plus, x_minus]))).dense()
        assert_near(other, engram, rel=1e-8)


# Settings


@pytest.mark.parametrize(
    "estimator",
    [Projection(), Projection(2.5, 0.3, Cut(rank=4)), Projection(cut=Cut.notebook()), Ridge(0.25)],
    ids=repr,
)
def test_json_round_trip(estimator: Estimator) -> None:
    assert Estimator.from_json(json.loads(json.dumps(estimator.to_json()))) == estimator


@pytest.mark.parametrize("estimator", [Projection(), Projection(2), Ridge(0.5)], ids=repr)
def test_solution_round_trip(estimator: Estimator) -> None:
    solution = estimator.operator(site(rows(60, 0), rows(90, 1), contained=False)).solution
    assert Solution.from_json(json.loads(json.dumps(solution.to_json(), allow_nan=False))) == solution
    assert (solution.dim, solution.target_rows, solution.reference_rows) == (D, 60, 90)


def test_an_estimator_of_ones_own() -> None:
    @dataclass(frozen=True)
    class Everything(Estimator):
        share: float

        def operator(self, site: SiteMoments) -> Operator:
            solution = Ridge(1.0).operator(site).solution
            eye = torch.eye(site.reference.dim, dtype=torch.float64)
            return Operator(self.share * eye, eye, low_rank=False, solution=solution)

    try:
        assert Estimator.from_json(Everything(0.5).to_json()) == Everything(0.5)
    finally:
        del Estimator._known["Everything"]
    with pytest.raises(StoreError, match="a known estimator, got 'Everything'.*import its module before loading"):
        Estimator.from_json({"name": "Everything", "share": 0.5})
    with pytest.raises(StoreError, match="got 'Projektion'. Did you mean 'Projection'"):
        Estimator.from_json({"name": "Projektion"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Projection(0.9), "sharpness of at least 1, got 0.9"),
        (lambda: Projection(math.nan), "sharpness of at least 1, got nan"),
        (lambda: Projection(math.inf), "a finite sharpness, got inf. 1e6 is a hard projector"),
        (lambda: Projection(threshold=0.0), r"a threshold inside \(0, 1\), got 0.0"),
        (lambda: Projection(threshold=1.0), r"a threshold inside \(0, 1\), got 1.0"),
        (lambda: Projection(cut=1e-4), r"cut to be a lashley.Cut, got 0.0001. Write Cut\(rtol=...\)"),  # type: ignore[arg-type]
        (lambda: Ridge(0.0), "a finite lam > 0, got 0.0. For no damping use Projection"),
        (lambda: Ridge(math.inf), "a finite lam > 0, got inf"),
        (lambda: Ridge(math.nan), "a finite lam > 0, got nan"),
    ],
)
def test_settings_that_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(SolveError, match=message):
        make()


# Precision


def poorly_conditioned(dtype: torch.dtype) -> tuple[SiteMoments, Tensor, Tensor, Tensor]:
    """Two concepts of 700 float32 rows in 300 columns, a condition of S of about 1e4; and a weight."""
    spread = torch.logspace(0, -2, 300)
    turned = torch.linalg.qr(gaussian(300, 300, seed=3)).Q  # else every column is rounded at its own scale
    x = [(gaussian(700, 300, seed=seed) * spread.roll(seed) @ turned).float() for seed in (0, 1)]
    moments = [Moment.of(rows, dtype) for rows in x]
    weight = gaussian(40, 300, seed=2).float()
    return SiteMoments(moments[0], Factor(pool(moments))), x[0].double(), torch.cat([x[0], x[1]]).double(), weight


def products_of(monkeypatch: pytest.MonkeyPatch, engram: Callable[[], Tensor]) -> set[torch.dtype]:
    """The dtypes of an operator's products with a weight and of its divisions by S."""
    from lashley.estimators import base

    seen = set()
    multiply, divide = base._product, Factor.divide
    monkeypatch.setattr(base, "_product", lambda a, b, dtype: seen.add(dtype) or multiply(a, b, dtype))
    monkeypatch.setattr(Factor, "divide", lambda self, white, rows: seen.add(rows.dtype) or divide(self, white, rows))
    engram()
    return seen


@pytest.mark.parametrize("outputs", [40, 4000], ids=["weight first", "operator first"])
def test_float32_products_are_finished_in_float32_and_err_about_as_much(
    monkeypatch: pytest.MonkeyPatch, outputs: int
) -> None:
    site, x_c, x, weight = poorly_conditioned(torch.float32)
    truth = weight.double() @ x_c.T @ x_c @ torch.linalg.inv(x.T @ x)
    operator = Projection().operator(site).planned(outputs)
    slow = Projection().operator(site)
    in_float64 = Operator(slow.left, slow.right, slow.low_rank, slow.solution, slow.divide).engram(weight)
    noise = relative_error(in_float64, truth)
    assert 1e-6 < noise < 1e-3  # what multiplying the rows in float32 has cost already
    assert relative_error(operator.engram(weight), truth) < 3 * noise
    assert products_of(monkeypatch, lambda: operator.engram(weight)) == {torch.float32}


@pytest.mark.parametrize("sharpness", [1.0, 2.0])
def test_a_thin_target_of_any_number_of_rows_is_multiplied_in_shapes_that_repeat(
    monkeypatch: pytest.MonkeyPatch, sharpness: float
) -> None:
    """Where every layer's engram is dense; as two factors it has the rank of the rows that there are."""
    monkeypatch.setattr(kernels, "idle_units", lambda: True)
    rest, weight = gaussian(900, 300, seed=1).float(), gaussian(40, 300, seed=2).float()
    for count in (70, 100, 128):
        target = gaussian(count, 300).float()
        moments = [Moment.of(target, torch.float32), Moment.of(rest, torch.float32)]
        site = SiteMoments(moments[0], Factor(pool(moments)), weights=torch.float32)
        operator = Projection(sharpness).operator(site)
        assert operator.planned(2000).rank == operator.rank == count
        planned = operator.planned(40)
        assert planned.rank == (128 if sharpness == 1 else count)  # float64 products are torch's
        assert_near(planned.engram(weight), operator.engram(weight), rel=1e-5)


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float32), (torch.float64, torch.float32)])
def test_factors_that_are_parts_of_one_matrix_stay_two(
    monkeypatch: pytest.MonkeyPatch, dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    monkeypatch.setattr(kernels, "idle_units", lambda: True)
    both, weight = gaussian(200, 200).float(), gaussian(3, 200, seed=1).float()
    left, right = both[:, :70].to(dtypes[0]), both[:70].to(dtypes[1])
    rows = gaussian(400, 200).float()
    solution = Projection().operator(SiteMoments(Moment.of(rows[:300]), Factor(Moment.of(rows)))).solution
    operator = Operator(left, right, True, solution)
    expected = weight.double() @ left.double() @ right.double()
    assert_near(operator.planned(3).engram(weight).double(), expected, rel=1e-5)


@pytest.mark.parametrize(
    ("dtype", "cut", "weight_dtype"),
    [
        (torch.float64, Cut(), torch.float32),
        (torch.float32, Cut(rtol=1e-6), torch.float32),
        (torch.float32, Cut(), torch.float64),
    ],
    ids=["float64 products", "a cut near the noise", "a float64 weight"],
)
def test_everything_else_is_solved_in_float64(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, cut: Cut, weight_dtype: torch.dtype
) -> None:
    site, *_, weight = poorly_conditioned(dtype)
    operator = Projection(cut=cut).operator(site)
    engram = operator.engram(weight.to(weight_dtype))
    assert engram.dtype == torch.float64
    seen = products_of(monkeypatch, lambda: operator.engram(weight.to(weight_dtype)))
    assert seen == {torch.float64}
