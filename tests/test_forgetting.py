"""Held-out parts, fronts and the choice of a strength."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lashley
from lashley.errors import DataError, EditError
from lashley.forgetting import Point, balance, choose, front, held_out
from lashley.metrics import answers
from test_language_models import batches, build


@given(st.integers(2, 200), st.integers(2, 9))
def test_both_parts_have_rows_and_together_all_of_them(count: int, every: int) -> None:
    makes, judges = held_out(count, every)
    assert makes and judges and sorted(makes + judges) == list(range(count))


@pytest.mark.parametrize("count", [0, 1])
def test_one_row_cannot_be_held_out(count: int) -> None:
    with pytest.raises(DataError, match=f"at least 2 rows.*got {count}"):
        held_out(count)


def points(*forget: float) -> list[Point]:
    return [Point(k, float(k), p, p, 1.0, 1.0, 0.1 * k) for k, p in enumerate(forget)]


def test_the_weakest_that_is_enough_is_chosen() -> None:
    assert choose(points(0.9, 0.5, 0.09, 0.01), 0.1) == (points(0.9, 0.5, 0.09)[2], True)
    assert choose(points(0.05, 0.01), 0.1)[0].number == 0  # nothing has to be done


def test_without_one_the_nearest_is_and_it_says_so() -> None:
    assert choose(points(0.9, 0.3, 0.2, 0.4), 0.1) == (points(0.9, 0.3, 0.2)[2], False)


def test_without_a_level_forgetting_and_keeping_are_balanced() -> None:
    def point(number: int, forget: float, retain: float) -> Point:
        return Point(number, float(number), forget, forget, retain, retain, 0.0)

    found = [point(0, 0.8, 0.9), point(1, 0.4, 0.9), point(2, 0.16, 0.72), point(3, 0.0, 0.0)]
    assert [balance(p, found[0]) for p in found] == pytest.approx([0, 2 * 0.5 / 1.5, 0.8, 0])
    assert choose(found) == (found[2], True)


@pytest.mark.parametrize("strength", ["uniform", "weight-norm"])
def test_a_front_is_what_the_edits_do(strength: str) -> None:
    model, data = build("llama, tied"), {"forget": batches(0, "right"), "retain": batches(1, "right")}
    other = {"forget": batches(2, "right"), "retain": batches(3, "right")}
    engram = lashley.record(model, data).engram(model, "forget")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = front(model, engram, other["forget"], other["retain"], [2.0, 0.5], strength=strength, tied="untie")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [point.number for point in found] == [0, 1, 2] and [point.alpha for point in found] == [0, 0.5, 2]
    assert found[0].kl == pytest.approx(0, abs=1e-6) and found[2].kl > found[1].kl > 0
    spread = lashley.strength.weight_norm if strength == "weight-norm" else lashley.strength.uniform
    with lashley.ablated(model, engram, spread(2.0), tied="untie"):
        assert found[2].forget == pytest.approx(answers(model, other["forget"]).means()["probability"], rel=1e-5)
        assert found[2].retain_exact == pytest.approx(answers(model, other["retain"]).means()["exact"], rel=1e-5)


def test_strengths_are_positive() -> None:
    with pytest.raises(EditError, match="above 0"):
        front(build("llama"), lashley.Engram({}, {}, None), [], [], [0.0, 1.0])
