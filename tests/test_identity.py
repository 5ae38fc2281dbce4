"""Texts by which another process knows the model and the functions of a run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lashley.identity import of_function, of_modules, of_tensors

ROOT = Path(__file__).resolve().parent.parent
BOUND, MASK, CALLS = 2, torch.arange(3), [0]


def helper(x: float) -> float:
    return x + 1


def bounded(x: float, least: float = 0, *, most: float = 9) -> bool:
    def far() -> bool:
        return x > BOUND

    return far() and least < helper(x) < most and x not in {"red", "green", "blue", "white"} and x not in MASK


def test_it_is_the_same_in_another_process() -> None:
    """Whatever the order of sets is there."""
    code = "import test_identity as t; print(t.of_function(t.bounded))"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1
    assert found.pop().startswith("bounded ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BOUND", 3),
        ("MASK", torch.arange(1, 4)),
        ("MASK", np.arange(3)),
        ("helper", lambda x: x + 2),
    ],
)
def test_what_a_function_finds_in_its_module(name: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    before = of_function(bounded)
    monkeypatch.setitem(globals(), name, value)
    assert of_function(bounded) != before
    monkeypatch.undo()
    assert of_function(bounded) == before


def held(value: Any) -> Callable[[], Any]:
    return lambda: value


class Rule:
    """A function with settings, and a state of its own."""

    def __init__(self, bound: float) -> None:
        self.bound, self.calls = bound, 0

    def __call__(self, x: float) -> bool:
        self.calls += 1
        return x > self.bound

    def method(self, x: float) -> bool:
        return x > 1


class Other(Rule):
    def method(self, x: float) -> bool:
        return x > 2


DIFFERENT: list[list[Any]] = [
    [lambda x: x > 1, lambda x: x > 2, lambda x: x < 1, lambda x: x.y > 1, lambda x=1: x > 1, lambda *, x=1: x > 1],
    [held(1), held(2), held(1.0), held("1"), held((1, 2)), held((2, 1)), held(None), held(torch.float32)],
    [held(torch.zeros(2)), held(torch.ones(2)), held(np.zeros(2)), held(frozenset("ab")), held(frozenset("ac"))],
    [partial(helper, 1), partial(helper, 2), partial(helper, x=1), partial(helper), partial(bounded, 1)],
    [Rule(1), Rule(2), Other(1), Rule(1).method, Other(1).method],
    [torch.ones_like, torch.zeros_like, held(held(1)), held(held(2)), None],
]


@pytest.mark.parametrize("functions", DIFFERENT)
def test_different_functions(functions: list[Any]) -> None:
    assert len({of_function(function) for function in functions}) == len(functions)


def counting() -> Callable[[], int]:
    count, seen = 0, []

    def count_on() -> int:
        nonlocal count
        count += 1
        seen.append(count)
        CALLS[0] += 1
        return count

    return count_on


def test_state_is_not_what_a_function_is() -> None:
    function, rule = counting(), Rule(1)
    before = of_function(function), of_function(rule)
    function()
    rule(1)
    assert (of_function(function), of_function(rule)) == before
    assert of_function(held([1])) == of_function(held([2]))  # the limit that the page states


def test_functions_that_call_each_other() -> None:
    def one(x: int) -> int:
        return two(x - 1) if x else 0

    def two(x: int) -> int:
        return one(x - 1) if x else 0

    def early() -> object:
        return later

    assert of_function(one) == of_function(one) != of_function(two)
    assert of_function(early)
    later = 1
    assert early() == 1


class Odd(nn.Module):
    """A module whose text has an address in it."""

    def extra_repr(self) -> str:
        return f"hook={object()!r}"


def test_modules_and_tensors() -> None:
    one, two = (nn.Sequential(nn.Linear(2, 2), nn.Dropout(p), Odd()) for p in (0.1, 0.2))
    assert of_modules(one) != of_modules(two)
    assert of_modules(one)["2"] == of_modules(two)["2"] == "Odd(hook=<object object>)"
    one[2].register_buffer("hidden", torch.zeros(2), persistent=False)
    assert set(of_tensors(one)) == {"0.weight", "0.bias", "2.hidden"}
