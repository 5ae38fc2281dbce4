"""MeanDirection against a least-squares projection of means."""

from __future__ import annotations

import pytest
import torch

from helpers import assert_close, gaussian
from lashley import MeanDirection
from lashley.errors import SolveError
from sites import concepts, edited, site, together


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("sizes", [(60, 50, 40, 70), (60, 3, 40, 70)], ids=["square", "thin"])
@pytest.mark.parametrize("target", [("b",), ("b", "d")])
def test_the_part_of_the_mean_that_the_others_do_not_span(sizes, target, augmented):
    rows = concepts(sizes)
    operator = MeanDirection().operator(site(rows, *target, augmented=augmented))
    mean = together(rows, *target).mean(0)
    others = torch.stack([rows[name].mean(0) for name in rows if name not in target], 1)
    own = mean - others @ torch.linalg.lstsq(others, mean[:, None]).solution[:, 0]
    wanted = torch.outer(own, own) / own.square().sum()
    assert_close(operator.dense()[:7, :7], wanted, atol=1e-12)
    if augmented:  # the bias is left alone
        assert not operator.dense()[7].any() and not operator.dense()[:, 7].any()
    for name in rows:  # kills nothing of the other means
        move = edited(rows[name], operator).mean(0) - rows[name].mean(0)
        assert name in target or move.abs().max() < 1e-12
    assert_close(edited(mean[None], operator)[0], mean - own, atol=1e-12)
    assert operator.low_rank and operator.solution.rank == 1


def test_alone_the_whole_mean_goes():
    rows = {"b": concepts()["b"]}
    operator = MeanDirection().operator(site(rows, "b"))
    assert_close(edited(rows["b"], operator).mean(0), torch.zeros(7), atol=1e-12)


def test_a_mean_that_the_others_span_has_no_direction():
    rows = concepts()
    rows["e"] = 0.3 * rows["a"][:40] + 0.7 * rows["c"]
    rows["e"] = rows["e"] - rows["e"].mean(0) + 0.3 * rows["a"].mean(0) + 0.7 * rows["c"].mean(0)
    for given, target in ((rows, "e"), (concepts(dim=2), "b")):
        operator = MeanDirection().operator(site(given, target))
        assert operator.left.shape[1] == 0 and not operator.dense().any() and operator.solution.rank == 0


def test_nearly_parallel_means_count_once():
    """Two others whose means differ by less than the tolerance must not span the difference."""
    rows = concepts()
    own = gaussian(7, seed=3)
    rows["c"] = rows["c"] - rows["c"].mean(0) + rows["a"].mean(0) + 1e-9 * own
    rows["b"] = rows["b"] - rows["b"].mean(0) + own
    assert MeanDirection(rtol=1e-6).operator(site(rows, "b", reference="abc")).solution.rank == 1
    assert MeanDirection(rtol=1e-14).operator(site(rows, "b", reference="abc")).solution.rank == 1
    loose, tight = (
        MeanDirection(rtol=rtol).operator(site(rows, "b", reference="abc")).dense() for rtol in (1e-6, 1e-14)
    )
    assert (loose - tight).abs().max() > 1e-3


@pytest.mark.parametrize("rtol", [0.0, 1.0, -1.0, float("nan")])
def test_a_tolerance_that_is_refused(rtol):
    with pytest.raises(SolveError, match=r"rtol in \(0, 1\)"):
        MeanDirection(rtol)
