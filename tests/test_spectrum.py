"""Cuts and factorisations: Cholesky against eigenvalues, thin against square, and every degenerate moment."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import lashley
from cases import count_calls, square
from helpers import assert_close, assert_near, gaussian
from lashley.errors import SolveError
from lashley.moments import Moment
from lashley.spectrum import EPS32, EPS64, Cut, Factor, Whitening, eigh


def orthogonal(dim: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(gaussian(dim, dim, seed=seed)).Q


def rows_with(eigenvalues: list[float] | Tensor, count: int | None = None, seed: int = 0) -> Tensor:
    """Rows ``[count, D]`` whose moment has exactly these eigenvalues."""
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    dim = len(values)
    count = 2 * dim if count is None else count
    left = torch.linalg.qr(gaussian(count, dim, seed=seed + 1)).Q
    return left * values.sqrt() @ orthogonal(dim, seed).T


def pinv(matrix: Tensor, keep: int) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    values, vectors = values[-keep:], vectors[:, -keep:]
    return vectors / values @ vectors.T


def by_eigenvalues(moment: Moment, cut: Cut, augmented: bool = False) -> Whitening:
    factor = Factor(moment, augmented)
    factor._unsure_from = -1.0  # never without eigenvalues
    return factor.whiten(cut)


# The cut


@pytest.mark.parametrize(
    ("cut", "text"),
    [
        (Cut(), "Cut()"),
        (Cut.paper(), "Cut(rtol=1e-06)"),
        (Cut.notebook(), "Cut.notebook()"),
        (Cut(rank=3), "Cut(rank=3)"),
        (Cut(energy=0.9), "Cut(energy=0.9)"),
        (Cut(condition=1e4), "Cut(condition=10000.0)"),
        (Cut(ulp=0.5), "Cut(ulp=0.5)"),
    ],
)
def test_a_cut_reads_as_it_is_written(cut: Cut, text: str) -> None:
    assert repr(cut) == text
    assert eval(text, {"Cut": Cut}) == cut
    assert Cut(**json.loads(json.dumps(cut.to_json()))) == cut
    assert hash(cut) == hash(eval(text, {"Cut": Cut}))


def test_a_cut_in_a_table() -> None:
    texts = [str(cut) for cut in (Cut(), Cut.notebook(), Cut.paper(), Cut(rank=3), Cut(energy=0.5), Cut(condition=10))]
    assert texts == ["rtol D x 2^-23", "rtol D x 2^-52", "rtol 1e-06", "rank 3", "energy 0.5", "condition 10"]


def test_the_default_cuts_are_those_of_the_design() -> None:
    assert Cut().relative(768) == 768 * 2**-23
    assert Cut.notebook().relative(768) == 768 * 2**-52
    assert Cut.paper().relative(768) == 1e-6
    assert Cut(condition=1e4).relative(768) == 1e-4
    assert Cut(rtol=0).relative(768) == Cut(condition=math.inf).relative(768) == 768 * 2**-52
    assert Cut(rank=3).relative(768) is None
    assert Cut(energy=0.5).relative(768) is None


VALUES = torch.tensor([8.0, 4.0, 2.0, 1.0, 1e-8, 1e-17, -1e-17], dtype=torch.float64)


@pytest.mark.parametrize(
    ("cut", "kept"),
    [
        (Cut(rtol=0.2), 3),
        (Cut(rtol=0.25), 2),  # above, not at
        (Cut(rtol=1e-9), 5),
        (Cut(rtol=0), 5),  # what is left is rounding
        (Cut(condition=math.inf), 5),
        (Cut(condition=4.5), 3),
        (Cut(rank=2), 2),
        (Cut(rank=100), 5),
        (Cut(energy=0.5), 1),
        (Cut(energy=0.79), 2),
        (Cut(energy=1), 5),
        (Cut(), 4),
        (Cut.notebook(), 5),
    ],
)
def test_how_many_are_kept(cut: Cut, kept: int) -> None:
    assert cut.keep(VALUES, 7) == kept


def test_energy_is_reached_to_rounding() -> None:
    tenths = torch.full((10,), 0.1, dtype=torch.float64)
    assert [Cut(energy=e / 10).keep(tenths, 10) for e in range(1, 11)] == list(range(1, 11))


@pytest.mark.parametrize("cut", [Cut(), Cut.notebook(), Cut(rtol=0), Cut(rank=1), Cut(energy=0.5), Cut(condition=10)])
@pytest.mark.parametrize("values", [[], [0.0, 0.0], [-1e-17, -1e-16]])
def test_of_nothing_nothing_is_kept(cut: Cut, values: list[float]) -> None:
    assert cut.keep(torch.tensor(values, dtype=torch.float64), 3) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rtol": 1.0}, r"rtol in \[0, 1\).*got 1.0"),
        ({"rtol": -1e-3}, r"rtol in \[0, 1\)"),
        ({"rtol": math.nan}, r"rtol in \[0, 1\)"),
        ({"rank": 0}, "whole number of at least 1, got 0"),
        ({"rank": 1.5}, "whole number of at least 1, got 1.5"),
        ({"energy": 0.0}, r"energy in \(0, 1\]"),
        ({"energy": 1.1}, r"energy in \(0, 1\]"),
        ({"condition": 0.5}, "condition of at least 1, got 0.5"),
        ({"ulp": 0.0}, r"ulp in \(0, 1\)"),
        ({"rtol": 0.1, "rank": 2}, "one of rtol, rank, energy, condition; got rtol and rank. Drop one"),
    ],
)
def test_cuts_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SolveError, match=message):
        Cut(**settings)


# One factorisation or the other


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("cut", [Cut(), Cut(rtol=1e-5), Cut.notebook()])
def test_cholesky_and_eigenvalues_agree(cut: Cut, augmented: bool) -> None:
    moment = Moment.of(gaussian(100, 20) @ (torch.eye(20) + 0.2 * gaussian(20, 20, seed=1)) + 1)
    fast, slow = Factor(moment, augmented).whiten(cut), by_eigenvalues(moment, cut, augmented)
    assert (fast.info.solver, slow.info.solver) == ("cholesky", "eigh")
    dim = 20 + augmented
    assert fast.info.rank == slow.info.rank == dim
    x, s_c = gaussian(7, dim, seed=2), gaussian(dim, dim, seed=3)
    s_c = s_c @ s_c.T
    rel = 1e-15 * slow.info.condition if slow.info.condition else 0
    assert rel < 1e-8
    # B itself is known up to a rotation only: compare what does not depend on it.
    assert_near(fast.pinv(), slow.pinv(), rel=rel)
    assert_near(fast.back(fast.project(x)), slow.back(slow.project(x)), rel=rel)
    assert_near(fast.project(x) @ fast.project(x).T, slow.project(x) @ slow.project(x).T, rel=rel)
    assert_near(torch.linalg.eigvalsh(fast.share(s_c)), torch.linalg.eigvalsh(slow.share(s_c)), rel=rel)
    assert_near(fast.sandwich(fast.share(s_c)), slow.sandwich(slow.share(s_c)), rel=rel)
    assert fast.info.condition == pytest.approx(slow.info.condition, rel=0.05)


@given(
    st.lists(st.floats(-7, 0), min_size=1, max_size=12),
    st.sampled_from(
        [Cut(rtol=1e-1), Cut(rtol=1e-3), Cut.paper(), Cut(condition=100), Cut(), Cut(rank=3), Cut(energy=0.9)]
    ),
)
def test_whitening_is_what_it_says(exponents: list[float], cut: Cut) -> None:
    """Whatever the spectrum: the kept rank is the definition's, B whitens what is kept, and Cholesky cuts nothing."""
    values = torch.tensor(sorted((10**e for e in exponents), reverse=True), dtype=torch.float64)
    moment = square(rows_with(values))
    relative = cut.relative(len(values))
    if relative is not None and ((values / values[0] / relative).log().abs() < 1e-6).any():
        return  # an eigenvalue exactly at the cut may fall on either side
    factor = Factor(moment)
    white = factor.whiten(cut)
    k = white.info.rank
    assert k == cut.keep(values, len(values))
    if white.info.solver == "cholesky":
        assert k == len(values)
        assert white.info.eigengap is None
    identity = white.share(moment.square)
    assert_near(identity, torch.eye(k), rel=1e-7)
    assert_near(white.pinv(), pinv(moment.square, k), rel=1e-7)
    assert white.info.condition == pytest.approx((values[0] / values[k - 1]).item(), rel=0.05)
    if k < len(values):
        assert white.info.eigengap == pytest.approx((values[k - 1] / values[k]).item(), rel=1e-4)


def test_cholesky_serves_lower_cuts_and_eigenvalues_higher_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_calls(monkeypatch, "eigh", "cholesky_ex")
    factor = Factor(square(rows_with([1.0, 0.5, 0.1, 0.01])))
    solvers = [factor.whiten(Cut(rtol=r)).info.solver for r in (1e-3, 1e-4, 2e-3, 0.05, 1e-6, 0.3)]
    assert solvers == ["cholesky", "cholesky", "cholesky", "eigh", "cholesky", "eigh"]
    assert [factor.whiten(Cut(rtol=r)).info.rank for r in (1e-6, 0.05, 0.3)] == [4, 3, 2]
    assert calls == {"eigh": 1, "cholesky_ex": 2}  # of S, and of S - 0.05 I
    for rtol in (1e-4, 2e-3, 0.05, 0.3):
        factor.whiten(Cut(rtol=rtol))
    assert calls == {"eigh": 1, "cholesky_ex": 2}  # what was found out is remembered


def test_what_was_asked_before_does_not_show() -> None:
    moment = square(rows_with([1.0, 0.5, 0.1, 0.01]))
    fresh, used = Factor(moment), Factor(moment)
    for cut in (Cut(rank=2), Cut(rtol=0.2), Cut(rtol=1e-5)):
        used.whiten(cut)
    for cut in (Cut(), Cut(rtol=0.05), Cut(energy=0.9)):
        assert torch.equal(used.whiten(cut).pinv(), fresh.whiten(cut).pinv())
        assert used.whiten(cut).info == fresh.whiten(cut).info


@pytest.mark.parametrize(
    "values",
    [
        torch.linspace(1, 2, 200),
        torch.logspace(0, -5, 200),
        torch.cat([torch.ones(1) * 1e4, torch.ones(199)]),
        torch.cat([torch.ones(199), torch.ones(1) * 1e-4]),
        torch.ones(200),
    ],
    ids=["flat", "decaying", "one large", "one small", "equal"],
)
@pytest.mark.parametrize("basis", ["random", "axes"])
def test_condition_beside_cholesky_is_good_to_a_few_per_cent(values: Tensor, basis: str) -> None:
    values = values.double()
    rows = rows_with(values) if basis == "random" else values.sqrt().diag()
    info = Factor(square(rows)).whiten(Cut(rtol=1e-9)).info
    assert info.solver == "cholesky"
    assert info.largest == pytest.approx(values.max().item(), rel=0.03)
    assert info.smallest == pytest.approx(values.min().item(), rel=0.05)


# Thin and degenerate references


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("cut", [Cut(), Cut(rtol=1e-2), Cut.notebook(), Cut(rank=2), Cut(energy=0.7)])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_thin_references_are_solved_on_the_side_of_their_rows(
    cut: Cut, augmented: bool, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = gaussian(count, 30)
    thin, dense = Factor(Moment.of(rows), augmented), Factor(square(rows), augmented)
    assert thin.thin
    assert not dense.thin
    many = dense.whiten(cut)
    monkeypatch.setattr(Factor, "matrix", None)  # nothing of D x D is built
    few = thin.whiten(cut)
    thin.damped(thin.moment.design(augmented), 0.1)
    assert few.info.rank == many.info.rank
    assert few.info.condition == pytest.approx(many.info.condition, rel=1e-9)
    assert_near(few.pinv(), many.pinv(), rel=1e-11)
    assert thin.eigen().values.shape == (count,)


CUTS = [
    Cut(),
    Cut(rtol=1e-4),
    Cut.paper(),
    Cut.notebook(),
    Cut(rtol=0),
    Cut(rank=3),
    Cut(energy=1.0),
    Cut(condition=1e9),
]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("augmented", [False, True])
def test_no_rows(cut: Cut, augmented: bool) -> None:
    factor = Factor(Moment.zero(4), augmented)
    white = factor.whiten(cut)
    assert white.info.rank == 0
    assert white.info.condition is None
    assert white.info.eigengap is None
    assert not white.info.near_noise
    assert_close(factor.pinv(white), torch.zeros(4 + augmented, 4 + augmented))
    assert white.project(gaussian(3, 4 + augmented)).shape == (3, 0)


@pytest.mark.parametrize("cut", CUTS)
def test_rows_of_zeros(cut: Cut) -> None:
    white = Factor(Moment.of(torch.zeros(9, 4))).whiten(cut)
    assert white.info.rank == 0
    augmented = Factor(Moment.of(torch.zeros(9, 4)), augmented=True)
    expected = torch.zeros(5, 5, dtype=torch.float64)
    expected[4, 4] = 1 / 9
    assert_close(augmented.pinv(augmented.whiten(cut)), expected, atol=1e-15)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("count", [1, 50])
def test_rank_one(cut: Cut, count: int) -> None:
    """A single row, and fifty multiples of it."""
    v = torch.arange(1.0, 7.0, dtype=torch.float64)
    rows = v * torch.linspace(1, 2, count, dtype=torch.float64)[:, None]
    factor = Factor(Moment.of(rows))
    white = factor.whiten(cut)
    assert white.info.rank == 1
    assert white.info.condition == 1
    norm = (rows**2).sum()
    assert_near(factor.pinv(white), torch.outer(v, v) / (v @ v) / norm, rel=1e-12)


@pytest.mark.parametrize("cut", CUTS)
def test_one_column(cut: Cut) -> None:
    factor = Factor(Moment.of(torch.full((8, 1), 0.5)))
    white = factor.whiten(cut)
    assert (white.info.rank, white.info.dim) == (1, 1)
    assert_close(factor.pinv(white), torch.tensor([[0.5]]), atol=1e-15)  # 1 / (8 / 4)
    assert white.info.condition == pytest.approx(1)


@pytest.mark.parametrize("cut", [Cut(), Cut.paper(), Cut.notebook(), Cut(rtol=0), Cut(rank=9), Cut(energy=1.0)])
@pytest.mark.parametrize("augmented", [False, True])
def test_exactly_singular(cut: Cut, augmented: bool) -> None:
    """A copied column, a dead one, and one that is constant (which is a copy once the 1 is appended)."""
    rows = gaussian(200, 9)
    rows[:, 3], rows[:, 5], rows[:, 7] = rows[:, 2], 0.0, 1.0
    factor = Factor(Moment.of(rows), augmented)
    white = factor.whiten(cut)
    assert white.info.rank == 7
    assert white.info.solver == "eigh"
    assert_near(factor.pinv(white), pinv(factor.matrix, 7), rel=1e-11)
    dead = torch.zeros(factor.dim, dtype=torch.float64)
    dead[5] = 1
    assert (factor.pinv(white) @ dead).norm() < 1e-15
    assert_near(factor.pinv(white) @ factor.matrix @ factor.pinv(white), factor.pinv(white), rel=1e-11)


# What is kept, and what goes wrong


def test_one_inverse_is_kept() -> None:
    factor = Factor(square(rows_with([1.0, 0.5, 0.1, 0.01])))
    white = factor.whiten(Cut(rank=2))
    first = factor.pinv(white)
    assert factor.pinv(factor.whiten(Cut(rtol=0.2))) is first  # the same two
    assert factor.pinv(factor.whiten(Cut(rank=3))) is not first
    assert factor.pinv(white) is not first
    assert_close(factor.pinv(white), first)
    assert factor.ridge(0.5) is factor.ridge(0.5)
    assert_near(factor.ridge(2.0), torch.linalg.inv(factor.matrix + 2 * torch.eye(4)), rel=1e-13)


def test_near_noise() -> None:
    """Within ten times of the rounding noise, for float32 products only."""
    x = gaussian(300, 32)
    fine, coarse = Factor(Moment.of(x)), Factor(Moment.of(x, torch.float32))
    assert coarse.whiten(Cut(rtol=4e-6)).info.near_noise
    assert not coarse.whiten(Cut(rtol=1e-4)).info.near_noise
    assert not fine.whiten(Cut(rtol=4e-6)).info.near_noise
    assert not coarse.whiten(Cut(rank=32)).info.near_noise  # the smallest of these is far above
    small = Factor(Moment.of(x * torch.tensor([1.0] * 31 + [1e-3]), torch.float32))
    assert small.whiten(Cut(rank=32)).info.near_noise
    assert not small.whiten(Cut(rank=31)).info.near_noise


def test_the_noise_bound_holds() -> None:
    for count, seed in ((1000, 0), (3000, 1), (20_000, 2)):
        x = gaussian(count, 64, seed=seed).float()
        coarse, exact = Moment.of(x, torch.float32), Moment.of(x)
        info = Factor(coarse).whiten(Cut()).info
        error = torch.linalg.matrix_norm(coarse.square - exact.square, 2) / torch.linalg.matrix_norm(exact.square, 2)
        assert EPS64 * 64 < error < info.noise == 16 * EPS32


def test_eigh_falls_back_to_singular_values(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = rows_with([4.0, 2.0, 0.0]).T @ rows_with([4.0, 2.0, 0.0])
    expected = eigh(matrix)

    def fails(_: Tensor) -> Any:
        raise torch.linalg.LinAlgError("failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    values, vectors, solver = eigh(matrix)
    assert (expected[2], solver) == ("eigh", "svd")
    assert_close(values, expected[0], atol=1e-14)
    assert_near(vectors * values @ vectors.T, matrix, rel=1e-13)
    assert Factor(Moment.of(rows_with([4.0, 2.0, 0.0]))).whiten(Cut()).info.solver == "svd"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("count", [2, 40])
def test_moments_that_are_not_finite(bad: float, count: int) -> None:
    rows = gaussian(count, 6)
    rows[1, 1] = bad
    factor = Factor(Moment.of(rows))
    for solve in (lambda: factor.whiten(Cut()), lambda: factor.eigen(), lambda: factor.damped(gaussian(1, 6), 1.0)):
        with pytest.raises(SolveError, match="a finite moment, got nan or inf"):
            solve()


@pytest.mark.parametrize("count", [3, 40])
def test_damping_below_rounding_is_refused(count: int) -> None:
    rows = gaussian(count, 8)
    rows[:, 5] = rows[:, 2]  # singular also with many rows
    factor = Factor(Moment.of(rows))
    with pytest.raises(SolveError, match="got lam = 1e-30, which is below the rounding noise of S. Raise lam"):
        factor.damped(rows[:1], 1e-30)
    assert_near(factor.damped(rows[:1], 1e-6) @ (factor.matrix + 1e-6 * torch.eye(8)), rows[:1], rel=1e-7)


def test_the_cut_is_public() -> None:
    assert lashley.Cut is Cut


# Dividing


@pytest.mark.parametrize("values", [[5.0, 3, 2, 1, 0.5, 0.1], [5.0, 3, 2, 1, 0, 0]], ids=["cholesky", "eigh"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_dividing_is_the_same_for_one_concept_and_for_many(values: list[float], dtype: torch.dtype) -> None:
    """Row by row for one; by a dense inverse, which is made once, where many are to come."""
    moment, x = square(rows_with(values)), gaussian(2, len(values), seed=7).to(dtype)
    wanted = x.double() @ pinv(moment.square, sum(value > 0 for value in values))
    for users in (1, 100):
        factor = Factor(moment, users=users)
        divided = factor.divide(factor.whiten(Cut(rtol=1e-9)), x)
        assert divided.dtype == dtype
        assert (factor._pinv is not None) == (users == 100)
        assert_near(divided.double(), wanted, rel=1e-12 if dtype == torch.float64 else 1e-5)
