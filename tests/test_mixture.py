"""MixtureShift: its gate against a constrained least-squares problem on the rows, and what it promises of the means."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers import assert_close, assert_near, gaussian
from lashley import Cut, Leace, MixtureShift
from lashley.errors import SolveError
from lashley.estimators import Operator
from sites import Rows, concepts, edited, members, ones, site, together

EXACT = Cut(rtol=1e-12)
SIZES = {"square": (60, 50, 40, 70), "thin": (60, 3, 40, 70)}
WEIGHTS = {"a": 1.0, "d": 3.0}


def gate_values(x: Tensor, operator: Operator) -> Tensor:
    """h of every row, from the operator's right factor."""
    return (ones(x) @ operator.right.T)[:, 0]


def least_squares_gate(rows: Rows, target: str) -> Tensor:
    """h of every row: the least variance with a mean of 1 on the target and of 0 on every other concept.

    As a system in (a, b, multipliers), from the rows themselves.
    """
    x = together(rows)
    centred = x - x.mean(0)
    dim, count = x.shape[1], len(rows)
    means = torch.stack([r.mean(0) - x.mean(0) for r in rows.values()])
    system = torch.zeros(dim + 1 + count, dim + 1 + count, dtype=x.dtype)
    system[:dim, :dim] = centred.T @ centred / len(x)
    system[dim + 1 :, :dim] = means
    system[:dim, dim + 1 :] = means.T
    system[dim + 1 :, dim] = system[dim, dim + 1 :] = 1
    wanted = torch.zeros(dim + 1 + count, dtype=x.dtype)
    wanted[dim + 1 + list(rows).index(target)] = 1
    solved = torch.linalg.lstsq(system, wanted[:, None], driver="gelsd").solution[:, 0]
    return centred @ solved[:dim] + solved[dim]


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_the_gate_is_the_constrained_least_squares_solution(sizes, augmented):
    rows = concepts(sizes)
    operator = MixtureShift(cut=EXACT).operator(site(rows, "b", augmented=augmented))
    gate = gate_values(together(rows), operator)
    assert_near(gate, least_squares_gate(rows, "b"), rel=1e-8)
    for name in rows:
        assert_close(gate[members(rows, name) == 1].mean(), float(name == "b"), atol=1e-9)
    assert operator.dense().shape == (8, 8) and operator.left.shape == (8, 1) and operator.low_rank


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("target", [("b",), ("b", "c")])
def test_the_targets_mean_moves_to_the_mixture_and_no_other(sizes, target):
    rows = concepts(sizes)
    operator = MixtureShift(WEIGHTS, cut=EXACT).operator(site(rows, *target))
    mixture = (rows["a"].mean(0) + 3 * rows["d"].mean(0)) / 4
    assert_close(edited(together(rows, *target), operator).mean(0), mixture, atol=1e-9)
    for name in rows.keys() - set(target):
        assert_close(edited(rows[name], operator).mean(0), rows[name].mean(0), atol=1e-9)
    # Every row moves along one line, by as much as the gate says.
    moved = edited(together(rows), operator) - together(rows)
    line = mixture - together(rows, *target).mean(0)
    assert_close(moved, gate_values(together(rows), operator)[:, None] * line, atol=1e-9)


def test_mixtures_by_word():
    rows = concepts()

    def mean_after(weights: str) -> Tensor:
        return edited(rows["b"], MixtureShift(weights, cut=EXACT).operator(site(rows, "b"))).mean(0)

    others = torch.stack([rows[name].mean(0) for name in "acd"]).mean(0)
    assert_close(mean_after("uniform"), others, atol=1e-9)
    assert_close(mean_after("mean"), together(rows).mean(0), atol=1e-9)
    assert (others - together(rows).mean(0)).norm() > 0.1


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_r2_is_the_squared_correlation_of_gate_and_membership(sizes):
    rows = concepts(sizes)
    operator = MixtureShift(cut=EXACT).operator(site(rows, "b"))
    both = torch.stack([gate_values(together(rows), operator), members(rows, "b")])
    assert operator.solution.gate == pytest.approx(torch.corrcoef(both)[0, 1].square().item(), rel=1e-9)
    assert 0.01 < operator.solution.gate < 0.99


def test_no_gate_with_these_means_has_less_variance():
    rows = concepts(dim=9)
    x = together(rows)
    least = gate_values(x, MixtureShift(cut=EXACT).operator(site(rows, "b"))).var()
    means = ones(torch.stack([r.mean(0) for r in rows.values()]))
    free = torch.eye(10, dtype=x.dtype) - torch.linalg.pinv(means) @ means  # changes that no mean notices
    gate = MixtureShift(cut=EXACT).operator(site(rows, "b")).right[0]
    for seed in range(5):
        other = gate + 1e-2 * free @ gaussian(10, seed=seed)
        assert_close(means @ other, means @ gate, atol=1e-10)
        assert (ones(x) @ other).var() > least


def test_between_two_concepts_it_is_leace_and_a_shift_to_the_other():
    rows = concepts((60, 50))
    shift = MixtureShift(cut=EXACT).operator(site(rows, "b")).dense()
    erased = Leace(cut=EXACT).operator(site(rows, "b")).dense()
    assert_near(shift[:, :7], erased[:, :7], rel=1e-9)
    share = 50 / 110
    apart = rows["b"].mean(0) - rows["a"].mean(0)
    assert_close(shift[:7, 7] - erased[:7, 7], share * apart, atol=1e-9)


def test_concepts_outside_the_reference_and_without_rows_do_not_count():
    rows = {**concepts(), "none": torch.zeros(0, 7, dtype=torch.float64)}
    less = {name: rows[name] for name in "abc"}
    wanted = MixtureShift(cut=EXACT).operator(site(less, "b")).dense()
    assert_close(MixtureShift(cut=EXACT).operator(site(rows, "b", reference="abc")).dense(), wanted, atol=1e-12)
    assert_close(
        MixtureShift(cut=EXACT).operator(site(rows, "b", reference=["a", "b", "c", "none"])).dense(), wanted, atol=1e-12
    )
    empty = MixtureShift().operator(site(rows, "none"))
    assert not empty.dense().any() and empty.solution.gate is None
    MixtureShift().check({"layer": [empty.solution]})  # an engram of nothing may be zero


def test_more_concepts_than_directions_have_no_gate():
    """Four means on a line cannot be told apart by one number; three in a plane can."""
    rows = concepts(dim=1)
    operator = MixtureShift().operator(site(rows, "b"))
    assert operator.solution.gate == 0 and not operator.dense().any()
    with pytest.raises(SolveError, match=r"'early' \(none\)(.|\n)*differ in too few directions"):
        MixtureShift(min_r2=0).check({"early": [operator.solution]})
    plane = concepts((60, 50, 40), dim=2)
    assert MixtureShift(cut=EXACT).operator(site(plane, "b")).solution.gate > 0
    # A coarse cut leaves too few directions as well.
    assert MixtureShift(cut=Cut(rank=2)).operator(site(concepts(), "b")).solution.gate == 0


@pytest.mark.parametrize("apart", [1e-2, 1e-5])
def test_a_twin_of_the_target_leaves_a_gate_that_is_exact_and_poor(apart):
    rows = concepts()
    twin = gaussian(40, 7, seed=8) * rows["b"].std(0)
    rows["e"] = twin - twin.mean(0) + rows["b"].mean(0) + apart * gaussian(7, seed=9)
    operator = MixtureShift(cut=EXACT).operator(site(rows, "b"))
    assert 0 < operator.solution.gate < 10 * apart**2
    for name, x in rows.items():
        assert_close(gate_values(x, operator).mean(), float(name == "b"), atol=1e-6)


def test_a_gate_below_the_bound_is_refused_with_the_layers_that_have_one():
    good = MixtureShift().operator(site(concepts(), "b")).solution
    rows = {name: x + 20 * gaussian(*x.shape, seed=9) for name, x in concepts().items()}
    poor = MixtureShift().operator(site(rows, "b")).solution
    assert poor.gate < 0.2 < good.gate
    MixtureShift().check({"late": [good]})
    MixtureShift(min_r2=0).check({"early": [poor], "late": [good]})
    with pytest.raises(SolveError) as caught:
        MixtureShift().check({"early": [poor], "late": [good], "both": [good, poor]})
    for part in (f"'early' ({poor.gate:.3f})", "'both'", "layers=['late']", "min_r2", "at least 0.2"):
        assert part in str(caught.value)
    with pytest.raises(SolveError, match=r"and 2 more.*\. Lower min_r2"):
        MixtureShift().check({f"l{k}": [poor] for k in range(7)})
    with pytest.raises(SolveError, match="'late'"):
        MixtureShift(min_r2=0.99).check({"late": [good]})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"exclusive": False}, "overlapping ones(.|\n)*Use Leace"),
        ({"contained": False}, r"contains the target \['b'\](.|\n)*Add it to reference"),
        ({"retained": ()}, "Expected another concept in the reference"),
    ],
)
def test_what_a_gate_needs(change, says):
    given = site(concepts(), "b")
    for name, value in change.items():
        object.__setattr__(given, name, value)
    with pytest.raises(SolveError, match=says):
        MixtureShift().operator(given)


def test_the_target_is_no_part_of_its_own_mixture():
    with pytest.raises(SolveError, match="other than the target, got one for 'b'. Known are 'a', 'c', 'd'"):
        MixtureShift({"a": 0.5, "b": 0.5}).operator(site(concepts(), "b"))


def test_a_site_without_any_spread_has_no_gate():
    rows = {name: torch.ones(9, 4, dtype=torch.float64) for name in "ab"}
    operator = MixtureShift().operator(site(rows, "b"))
    assert operator.solution.gate == 0 and operator.solution.rank == 0 and not operator.dense().any()


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("median", "weights to be a mapping"),
        (0.5, "weights to be a mapping"),
        ({}, "not all 0"),
        ({"a": 0.0}, "not all 0"),
        ({"a": -1.0, "b": 2.0}, "at least 0"),
        ({"a": float("nan")}, "finite"),
        ({"a": float("inf")}, "finite"),
    ],
)
def test_weights_that_are_refused(weights, says):
    with pytest.raises(SolveError, match=says):
        MixtureShift(weights)


def test_settings_are_its_own():
    given = {"a": 1, "d": 3}
    estimator = MixtureShift(given)
    given["a"] = 100
    assert estimator.weights == {"a": 1.0, "d": 3.0} and estimator == MixtureShift(WEIGHTS)
    assert hash(estimator) == hash(MixtureShift(dict(reversed(WEIGHTS.items()))))
    assert len({estimator, MixtureShift(WEIGHTS), MixtureShift("mean"), MixtureShift()}) == 3
    with pytest.raises(SolveError, match=r"min_r2 in \[0, 1\]"):
        MixtureShift(min_r2=20)
