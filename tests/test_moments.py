"""Moments: what they hold, that they add whatever way the rows came, and that products keep their digits."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers import assert_close, assert_near, gaussian
from lashley import moments
from lashley.errors import MomentError
from lashley.moments import Accumulator, Diagonal, Moment, edges, pool, product_dtype, wide

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def integers(rows: int, dim: int, seed: int = 0) -> Tensor:
    """Small integers: every product and sum of them is exact, so that results must be equal to the bit."""
    return torch.randint(-3, 4, (rows, dim), generator=torch.Generator().manual_seed(seed)).float()


def check(moment: Moment, rows: Tensor, rel: float = 1e-14) -> None:
    __tracebackhide__ = True
    rows = rows.double()
    ones = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], dim=1)
    assert (moment.dim, moment.count) == (rows.shape[1], len(rows))
    assert_near(moment.square, rows.T @ rows, rel=rel)
    assert_near(moment.sum, rows.sum(0), rel=1e-13)
    assert_near(moment.augmented, ones.T @ ones, rel=rel)
    for matrix in (moment.square, moment.augmented):
        assert matrix.dtype == torch.float64
        assert torch.equal(matrix, matrix.T)  # to the bit


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "dim"), [(0, 5), (1, 5), (4, 5), (5, 5), (40, 5), (1, 1), (7, 1), (3, 200), (2500, 200)]
)
def test_moment_of_rows(dtype: torch.dtype, rows: int, dim: int) -> None:
    x = gaussian(rows, dim).to(dtype)
    check(Moment.of(x), x)


def test_moment_of_wide_rows_is_multiplied_in_float32() -> None:
    x = gaussian(1300, 530).float() + 1
    moment = Moment.of(x)
    assert moment.product == torch.float32
    check(moment, x, rel=1e-6)
    with pytest.raises(AssertionError):
        check(moment, x, rel=1e-12)


@pytest.mark.parametrize(
    ("dim", "rows", "asked", "expected"),
    [
        (256, torch.float32, None, torch.float64),
        (257, torch.float32, None, torch.float32),
        (257, torch.bfloat16, None, torch.float32),
        (600, torch.float64, None, torch.float64),
        (600, torch.float32, torch.float64, torch.float64),
        (8, torch.float64, torch.float32, torch.float32),
    ],
)
def test_product_dtype(dim: int, rows: torch.dtype, asked: torch.dtype | None, expected: torch.dtype) -> None:
    assert product_dtype(dim, rows, asked) == expected
    assert Moment.of(gaussian(dim + 1, dim).to(rows), asked).product == expected


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 10), (torch.float32, 20), (torch.bfloat16, 20)])
def test_thin_while_rows_take_less_room_than_the_triangle(dtype: torch.dtype, most: int) -> None:
    """At D = 20 the packed triangle takes the room of 10 float64 rows or 21 float32 rows; never more than D rows."""
    for count in (0, 1, most):
        moment = Moment.of(gaussian(count, 20).to(dtype))
        assert moment.thin
        assert moment.rows is not None
        if count:
            assert moment.rows.dtype == dtype
            assert torch.equal(moment.rows, gaussian(count, 20).to(dtype))  # nothing is rounded
    assert not Moment.of(gaussian(most + 1, 20).to(dtype)).thin


def test_a_thin_moment_designs_its_rows_with_ones() -> None:
    x = gaussian(3, 5).bfloat16()
    assert_close(Moment.of(x).design(augmented=False), x.double())
    assert_close(Moment.of(x).design(augmented=True), torch.cat([x.double(), torch.ones(3, 1)], dim=1))


@given(st.integers(1, 700))
def test_block_columns_cover_the_lower_triangle_once(dim: int) -> None:
    covered = torch.zeros(dim, dim, dtype=torch.int)
    for start, stop in edges(dim):
        covered[start:, start:stop] += 1
    assert covered.max() == 1
    assert covered.tril().sum() == dim * (dim + 1) // 2


def test_only_the_lower_blocks_are_multiplied() -> None:
    assert sum((512 - start) * (stop - start) for start, stop in edges(512)) == 512 * 512 * 9 // 16


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8),
    st.integers(1, 30),
    st.randoms(use_true_random=False),
)
def test_any_way_of_cutting_the_rows_gives_the_same_moment(sizes: list[int], dim: int, random: object) -> None:
    """Through one accumulator, as a pool of moments, in another order, in twos: to the bit, because sums are exact."""
    x = integers(sum(sizes), dim)
    expected = Moment.of(x)
    parts = list(x.split(sizes))
    random.shuffle(parts)  # type: ignore[attr-defined]
    accumulator = Accumulator(dim)
    for part in parts:
        accumulator.add(part.unsqueeze(0))
    pooled = pool(Moment.of(part) for part in parts)
    summed = Moment.zero(dim)
    for part in parts:
        summed = summed + Moment.of(part)
    for moment in (accumulator.moments()[0], pooled, summed):
        assert moment.count == expected.count
        assert moment.thin == expected.thin
        assert torch.equal(moment.square, expected.square)
        assert torch.equal(moment.sum, expected.sum)


def test_rows_are_gathered_across_batches_and_large_batches_pass_by() -> None:
    x = integers(9000, 6)
    accumulator = Accumulator(6)
    for part in x.split([100, 5000, 1, 1023, 900, 76, 1900]):
        accumulator.add(part.unsqueeze(0))
    assert torch.equal(accumulator.moments()[0].square, (x.T @ x).double())


def test_each_matrix_has_its_own_moment() -> None:
    x = gaussian(3, 50, 7)
    accumulator = Accumulator(7, matrices=3)
    first = accumulator.add(x[:, :20])
    accumulator.add(x[:, 20:])
    assert_near(first, x[:, :20].sum(1), rel=1e-14)
    for moment, rows in zip(accumulator.moments(), x, strict=True):
        check(moment, rows)
    thin = Accumulator(60, matrices=2)
    thin.add(gaussian(2, 4, 60))
    for moment, rows in zip(thin.moments(), gaussian(2, 4, 60), strict=True):
        assert moment.thin
        check(moment, rows)


def test_rows_that_wait_are_copied() -> None:
    x = integers(4, 6).unsqueeze(0)
    waiting = Accumulator(6)
    waiting.add(x)
    before = x.clone()
    x.zero_()
    assert torch.equal(waiting.moments()[0].square, (before[0].T @ before[0]).double())


def test_adding_makes_a_new_moment() -> None:
    x = integers(40, 6)
    a, b = Moment.of(x[:20]), Moment.of(x[20:])
    before = a.square.clone(), b.square.clone()
    total = a + b
    assert torch.equal(total.square, (x.T @ x).double())
    assert torch.equal(a.square, before[0])
    assert torch.equal(b.square, before[1])
    assert a.__add__(1) is NotImplemented  # type: ignore[operator]


def test_rows_of_two_dtypes_pool_without_loss() -> None:
    x, y = gaussian(3, 30).half(), gaussian(4, 30, seed=1).bfloat16()
    moment = Moment.of(x) + Moment.of(y)
    assert moment.thin
    check(moment, torch.cat([x.float(), y.float()]))


def test_a_pool_of_thin_moments_is_multiplied_in_float64() -> None:
    """The division into moments must not show: above 256 columns a recording would multiply in float32."""
    x = gaussian(600, 300).float() + 1
    moment = pool(Moment.of(part) for part in x.split(200))
    assert not moment.thin
    assert moment.product == torch.float64
    check(moment, x)


def test_a_pool_knows_its_coarsest_product() -> None:
    fine, coarse = Moment.of(gaussian(40, 8)), Moment.of(gaussian(40, 8), torch.float32)
    assert pool([fine, fine]).product == torch.float64
    assert pool([fine, coarse]).product == torch.float32
    assert pool([coarse, Moment.of(gaussian(2, 8))]).product == torch.float32


def test_pool_of_none_and_of_one() -> None:
    nothing = pool([], dim=4)
    assert (nothing.count, nothing.thin) == (0, True)
    assert not nothing.augmented.any()
    one = Moment.of(gaussian(3, 4))
    assert pool([one]) is one
    assert pool([Moment.zero(4), Moment.zero(4)]).count == 0


@pytest.mark.parametrize("moment", [Moment.zero(5), Moment.of(gaussian(2, 5).half()), Moment.of(gaussian(300, 150))])
def test_packing_is_exact(moment: Moment) -> None:
    tensors = moment.pack()
    back = Moment.unpack(tensors, moment.count, moment.product)
    assert back.thin == moment.thin
    assert torch.equal(back.square, moment.square)
    assert torch.equal(back.augmented, moment.augmented)
    if not moment.thin:
        assert [tensors[f"block.{k}"].data_ptr() for k in range(4)] == [block.data_ptr() for block in moment.blocks]
        assert sum(tensors[f"block.{k}"].numel() for k in range(4)) == sum((150 - a) * (b - a) for a, b in edges(150))
        check(back + back, torch.cat([gaussian(300, 150)] * 2))


@pytest.mark.parametrize("dim", [150, 600])
def test_block_columns_of_other_widths_are_read(dim: int) -> None:
    moment = Moment.of(gaussian(2 * dim, dim))
    thirds = [0, dim // 3, dim // 2, dim]
    blocks = {f"block.{k}": moment.square[a:, a:b] for k, (a, b) in enumerate(pairwise(thirds))}
    back = Moment.unpack({"sum": moment.sum, **blocks}, moment.count, moment.product)
    assert torch.equal(back.square, moment.square)
    check(back + moment, torch.cat([gaussian(2 * dim, dim)] * 2))
    with pytest.raises(MomentError, match="Expected block columns of shapes"):
        Moment.unpack({"sum": moment.sum, **blocks, "block.2": blocks["block.2"][1:]}, moment.count)


@pytest.mark.parametrize("dim", [24, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_how_rows_are_divided_among_batches_does_not_show(dim: int, dtype: torch.dtype) -> None:
    """To the bit, as long as no batch is large enough to be multiplied by itself."""
    rows = gaussian(5000, dim).to(dtype)
    found = []
    for size in (700, 1000, 3):
        accumulator = Accumulator(dim)
        for part in rows.split(size):
            accumulator.add(part.unsqueeze(0))
        found += accumulator.moments()
    assert all(torch.equal(moment.square, found[0].square) for moment in found)


def test_rows_that_could_have_stayed_thin_are_multiplied_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """And do not keep the room they took."""
    monkeypatch.setattr(moments, "_GATHER", 8)
    monkeypatch.setattr(moments, "_AT_ONCE", 16)
    multiplied = []
    multiply = Accumulator._multiply
    monkeypatch.setattr(
        Accumulator, "_multiply", lambda self, columns, n: multiplied.append(n) or multiply(self, columns, n)
    )
    rows = gaussian(71, 50).float()
    accumulator = Accumulator(50)
    for part in rows.split(5):
        accumulator.add(part.unsqueeze(0))
    assert multiplied == [16, 16, 16, 2, 8, 8]
    assert accumulator._waiting is not None and accumulator._waiting.shape[2] <= 8
    check(accumulator.moments()[0], rows)


def test_rows_of_two_dtypes_wait_together_in_the_finer_one() -> None:
    rows = gaussian(8, 10).float()
    accumulator = Accumulator(10)
    accumulator.add(rows[:3].bfloat16().unsqueeze(0))
    accumulator.add(rows[3:].unsqueeze(0))
    (moment,) = accumulator.moments()
    assert torch.equal(moment.rows, torch.cat([rows[:3].bfloat16().to(rows.dtype), rows[3:]]))


@pytest.mark.parametrize("dim", [1, 150, 600])
def test_triangles_of_old_files_are_read(dim: int) -> None:
    moment = Moment.of(gaussian(2 * dim + 2, dim))
    lower = torch.ones(dim, dim, dtype=torch.bool).tril()
    back = Moment.unpack({"sum": moment.sum, "triangle": moment.square[lower]}, moment.count, torch.float32)
    assert (back.count, back.product) == (moment.count, torch.float32)
    assert torch.equal(back.square, moment.square)
    assert torch.equal((back + moment).square, 2 * moment.square)


MOMENTS = {
    "thin": lambda: Moment.of(gaussian(3, 40)),
    "square": lambda: Moment.of(gaussian(300, 40)),
    "blocks": lambda: Moment.of(gaussian(700, 600).float()),
    "diagonal": lambda: Diagonal(torch.tensor([3.0, 0.0, 1e-40], dtype=torch.float64)),
}


@pytest.mark.parametrize("make", MOMENTS.values(), ids=MOMENTS)
@pytest.mark.parametrize("augmented", [False, True])
def test_the_matrix_in_another_dtype_is_the_float64_one_rounded_once(
    make: Callable[[], Moment], augmented: bool
) -> None:
    moment = make()
    exact, rounded = moment.matrix(augmented), moment.matrix(augmented, torch.float32)
    assert (exact.dtype, rounded.dtype) == (torch.float64, torch.float32)
    assert torch.equal(exact, exact.T)
    assert torch.equal(rounded, exact.float())
    assert torch.equal(exact, moment.augmented if augmented else moment.square)


def test_float32_products_do_not_lose_digits_as_batches_accumulate() -> None:
    """100 batches with a mean; the wrong twin sums in float32."""
    naive, exact = torch.zeros(260, 260), torch.zeros(260, 260, dtype=torch.float64)
    accumulator = Accumulator(260)
    for seed in range(100):
        x = gaussian(1024, 260, seed=seed).float() + 3
        accumulator.add(x.unsqueeze(0))
        naive += x.T @ x
        exact += x.double().T @ x.double()
    assert_near(accumulator.moments()[0].square, exact, rel=5e-8)
    with pytest.raises(AssertionError):
        assert_near(naive, exact, rel=5e-8)


def test_large_inputs_are_multiplied_in_pieces() -> None:
    """One float32 product of 60,000 rows has more rounding than pieces of 2,048 summed in float64."""
    x = gaussian(60_000, 12).float()
    moment = Moment.of(x, torch.float32)
    exact = x.double().T @ x.double()
    error, at_once = (torch.linalg.matrix_norm(m - exact) for m in (moment.square, (x.T @ x).double()))
    assert error < at_once / 2


def test_autocast_does_not_reach_the_products() -> None:
    x = gaussian(1100, 300).float()
    plain = Moment.of(x).square
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(Moment.of(x).square, plain)
        assert not torch.equal((x.T @ x).double(), plain)  # it would have


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9 has one switch")
def test_switches_for_faster_products_are_off_while_rows_are_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    """And as they were afterwards. Torch refuses to read its old switch once the new ones differ: we must not ask."""
    cuda, mkldnn = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = cuda.fp32_precision, mkldnn.fp32_precision
    seen = []
    add = Tensor.__iadd__

    def spy(self: Tensor, other: Tensor) -> Tensor:
        seen.append((cuda.fp32_precision, mkldnn.fp32_precision))
        return add(self, other)

    monkeypatch.setattr(Tensor, "__iadd__", spy)
    try:
        cuda.fp32_precision, mkldnn.fp32_precision = "tf32", "bf16"
        Moment.of(gaussian(400, 300).float())
        assert set(seen) == {("ieee", "ieee")}
        assert (cuda.fp32_precision, mkldnn.fp32_precision) == ("tf32", "bf16")
    finally:
        cuda.fp32_precision, mkldnn.fp32_precision = before


def test_the_old_switch_comes_back_too() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        Moment.of(gaussian(400, 300).float())
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_wide() -> None:
    assert wide(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.float64


def test_to_moves_every_part() -> None:
    for moment in (Moment.of(gaussian(3, 8)), Moment.of(gaussian(30, 8))):
        moved = moment.to("meta")
        held = [moved.sum, *(moved.blocks or ()), *([] if moved.rows is None else [moved.rows])]
        assert all(tensor.is_meta for tensor in held)
        assert (moved.count, moved.dim, moved.product) == (moment.count, moment.dim, moment.product)


def test_repr() -> None:
    assert repr(Moment.of(gaussian(2, 8))) == "Moment(dim=8, count=2, thin)"
    assert repr(Moment.of(gaussian(20, 8), torch.float32)) == "Moment(dim=8, count=20, square, float32 products)"


def test_errors() -> None:
    with pytest.raises(MomentError, match=r"rows of shape \[2, n, 5\], got \[1, 3, 5\]"):
        Accumulator(5, matrices=2).add(gaussian(1, 3, 5))
    with pytest.raises(MomentError, match=r"rows of shape \[1, n, 5\], got \[1, 3, 4\]"):
        Accumulator(5).add(gaussian(1, 3, 4))
    with pytest.raises(MomentError, match=r"moments of one width, got widths \[4, 5\]"):
        pool([Moment.zero(4), Moment.zero(5)])
    with pytest.raises(MomentError, match="at least one moment or the number of columns"):
        pool([])
    with pytest.raises(MomentError, match="either rows or blocks"):
        Moment(torch.zeros(3), 0)
    with pytest.raises(MomentError, match="either rows or blocks"):
        Moment(torch.zeros(3), 0, rows=torch.zeros(0, 3), blocks=())
    with pytest.raises(MomentError, match=r"a thin moment, got a square one of 30 rows; use matrix\(\)"):
        Moment.of(gaussian(30, 3)).design(augmented=True)
    with pytest.raises(MomentError, match="a triangle of 6 numbers, got 5"):
        Moment.unpack({"sum": torch.zeros(3), "triangle": torch.zeros(5)}, 1)
    with pytest.raises(MomentError, match=r"block columns of shapes \[\(3, 3\)\], got \[\(3, 3\), \(2, 2\)\]"):
        Moment.unpack({"sum": torch.zeros(3), "block.0": torch.zeros(3, 3), "block.1": torch.zeros(2, 2)}, 1)
