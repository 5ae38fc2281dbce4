"""NullSpace against a dense formula on rows, and what it promises of the rest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers import assert_close, assert_near, gaussian
from lashley import NullSpace
from lashley.errors import SolveError
from sites import concepts, edited, ones, site, together

SIZES = {"square": (60, 50, 40, 70), "thin": (60, 3, 40, 70), "few rows": (2, 1, 1, 2)}


def dense(x_f: Tensor, x_r: Tensor, rtol: float, lam: float) -> Tensor:
    """C_f P (P C_f P + l I)^-1 with the projector P = N N^T, as AlphaEdit writes it."""
    _, s, vt = torch.linalg.svd(x_r, full_matrices=True)
    values = torch.zeros(len(vt), dtype=x_r.dtype)
    values[: len(s)] = s.square()
    n = vt[values <= rtol * values[0]].T
    projector, square = n @ n.T, x_f.T @ x_f / len(x_f)
    inside = projector @ square @ projector
    damping = lam * torch.linalg.eigvalsh(inside)[-1]
    return (
        square @ projector @ torch.linalg.inv(inside + damping * torch.eye(len(inside), dtype=inside.dtype)) @ projector
    )


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(("rtol", "lam"), [(0.3, 0.01), (0.05, 1.0), (1e-10, 1e-3)])
@pytest.mark.parametrize("target", [("b",), ("b", "d")])
def test_removal_inside_the_null_space(sizes, rtol, lam, target, augmented):
    if rtol < 1e-9 and sizes != SIZES["few rows"]:
        rtol = 0.2  # enough rows leave no null space to rounding
    rows = concepts(sizes)
    x_f = together(rows, *target)
    x_r = together(rows, *(name for name in rows if name not in target))
    operator = NullSpace(rtol, lam).operator(site(rows, *target, augmented=augmented))
    if augmented:
        x_f, x_r = ones(x_f), ones(x_r)
    assert_near(operator.dense(), dense(x_f, x_r, rtol, lam), rel=1e-9)
    assert operator.low_rank == (len(x_f) < x_f.shape[1])
    assert 0 < operator.solution.rank < x_f.shape[1]


@pytest.mark.parametrize("n_target", [3, 50])
def test_rows_outside_the_null_space_are_not_moved(n_target):
    basis = torch.linalg.qr(gaussian(7, 7)).Q
    rest = gaussian(90, 4, seed=1) @ basis[:, :4].T
    rows = {"kept": rest, "target": gaussian(n_target, 7, seed=2)}
    operator = NullSpace(rtol=1e-10, lam=1e-6).operator(site(rows, "target"))
    assert operator.solution.rank == 3
    assert_close(edited(rest, operator), rest, atol=1e-12)
    # In a null space wide enough for them, the target's own rows lose nearly all that lies in it.
    inside = edited(rows["target"], operator) @ basis[:, 4:]
    assert inside.norm() < (0.02 if n_target == 3 else 1.0) * (rows["target"] @ basis[:, 4:]).norm()
    assert not torch.allclose(edited(rows["target"], operator), rows["target"])


def test_without_a_rest_everything_is_free():
    rows = concepts()
    x = rows["b"]
    operator = NullSpace(lam=1e-6).operator(site({"b": x}, "b"))
    square = x.T @ x
    damping = 1e-6 * torch.linalg.eigvalsh(square)[-1]
    assert_near(operator.dense(), square @ torch.linalg.inv(square + damping * torch.eye(7, dtype=x.dtype)), rel=1e-8)


def test_without_a_null_space_nothing_is_taken():
    operator = NullSpace(rtol=0).operator(site(concepts(), "b"))
    assert operator.solution.rank == 0 and operator.dense().shape == (7, 7) and not operator.dense().any()


@pytest.mark.parametrize(
    ("settings", "says"), [({"rtol": 1.0}, r"rtol in \[0, 1\)"), ({"rtol": -1.0}, "rtol"), ({"lam": 0.0}, "lam > 0")]
)
def test_settings_that_are_refused(settings, says):
    with pytest.raises(SolveError, match=says):
        NullSpace(**settings)
