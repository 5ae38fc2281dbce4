"""Tug of war and the accuracies it is made of: exact vectors, identities, seeds, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lashley.errors import DataError
from lashley.metrics import accuracies, accuracy_gaps, tow, tow_mia
from measured import EXACT, VECTORS

SHARES = st.floats(0, 1)
ACCURACIES = st.fixed_dictionaries({name: SHARES for name in ("forget", "retain", "test", "test_retain", "mia")})


@pytest.mark.parametrize(("name", "measure"), [("tow", tow), ("tow_original", tow), ("tow_mia", tow_mia)])
def test_exact_vectors(name: str, measure: Callable[..., float]) -> None:
    vector = VECTORS[name]
    assert measure(vector["unlearned"], vector["retrained"]) == pytest.approx(vector["value"], abs=EXACT)


def test_pairs_of_retrained_networks() -> None:
    vector = VECTORS["tow_retrains"]
    a, b, c = vector["retrained"]
    assert [tow(a, b), tow(a, c), tow(b, c)] == pytest.approx(vector["pairs"], abs=EXACT)


@given(ACCURACIES, ACCURACIES)
def test_range_symmetry_and_what_is_read(u: dict[str, float], r: dict[str, float]) -> None:
    for measure in (tow, tow_mia):
        for mode in ("full", "retain_only"):
            value = measure(u, r, test_mode=mode)
            assert 0 <= value <= 1
            assert value == pytest.approx(measure(r, u, test_mode=mode), abs=1e-15)
            assert measure(r, r, test_mode=mode) == 1
    factors = [1 - abs(u[name] - r[name]) for name in ("forget", "retain", "test", "test_retain", "mia")]
    assert tow(u, r) == pytest.approx(factors[0] * factors[1] * factors[2])
    assert tow(u, r, test_mode="retain_only") == pytest.approx(factors[0] * factors[1] * factors[3])
    assert tow_mia(u, r) == pytest.approx(factors[4] * factors[1] * factors[2])


def test_gaps_keep_their_sign() -> None:
    vector = VECTORS["tow"]
    gaps = accuracy_gaps({**vector["unlearned"], "mine": 7}, vector["retrained"])
    assert gaps == {"forget": pytest.approx(0.02), "retain": pytest.approx(-0.02), "test": pytest.approx(-0.05)}
    value = 1.0
    for gap in gaps.values():
        value *= 1 - gap  # a twin that forgets to take the size of the gap
    assert value != pytest.approx(vector["value"], abs=1e-3)


TRUTH = [0, 0, 1, 1, 1, 2, 2, 2, 2, 2]
GUESS = [1, 0, 1, 1, 2, 2, 2, 2, 2, 0]


@pytest.mark.parametrize("own", [list, torch.tensor, np.array, lambda y: torch.tensor(y).float()])
def test_accuracies(own: Callable[[list[int]], Any]) -> None:
    found = accuracies((own(GUESS), own(TRUTH)), (own(TRUTH), own(TRUTH)), 0)
    assert found == {"forget": 0.5, "retain": 0.75, "test_forget": 1, "test_retain": 1, "test": 1}
    both = accuracies((own(TRUTH), own(TRUTH)), (own(GUESS), own(TRUTH)), [0, 1])
    assert both == {"forget": 1, "retain": 1, "test_forget": 0.6, "test_retain": 0.8, "test": 0.7}


def test_accuracies_of_named_classes_and_of_several_in_any_form() -> None:
    names = ["cat", "dog", "eel"]
    guess, truth = [names[g] for g in GUESS], [names[t] for t in TRUTH]
    assert accuracies((guess, truth), (guess, truth), "cat")["forget"] == 0.5
    assert accuracies((guess, truth), (guess, truth), {"cat", "dog"})["forget"] == 0.6
    for forget in ((0, 1), {0, 1}, torch.tensor([0, 1]), np.array([0, 1])):
        assert accuracies((GUESS, TRUTH), (GUESS, TRUTH), forget)["retain"] == 0.8


def test_the_original_scores_nothing_and_a_mask_everything() -> None:
    """Why the number never stands alone: a logit that is never chosen is all that it can see."""
    train, test = [0] * 50 + [1] * 50, [0] * 10 + [1] * 10
    retrained = accuracies(([1] * 100, train), ([1] * 20, test), 0)
    original = accuracies((train, train), (test, test), 0)
    masked = accuracies(([1] * 100, train), ([1] * 20, test), 0)
    assert (tow(original, retrained), tow(masked, retrained)) == (0, 1)


GOOD = {"forget": 0.0, "retain": 1.0, "test": 0.9}


@pytest.mark.parametrize(
    ("unlearned", "retrained", "mode", "says"),
    [
        ({"forget": 0, "retain": 1}, GOOD, "full", "an accuracy on 'test', got 'forget', 'retain'"),
        (GOOD, {}, "full", "an accuracy on 'forget', got none at all"),
        (GOOD, GOOD, "retain_only", "an accuracy on 'test_retain', got 'forget', 'retain', 'test'"),
        ({**GOOD, "test": 85.2}, GOOD, "full", r"in \[0, 1\], got 85.2 for 'test'. Divide percentages by 100"),
        ({**GOOD, "test": -0.1}, GOOD, "full", r"in \[0, 1\], got -0.1 for 'test'"),
        (GOOD, {**GOOD, "retain": float("nan")}, "full", r"in \[0, 1\], got nan for 'retain'"),
        (GOOD, GOOD, "other", "test_mode to be one of full, retain_only, got 'other'"),
    ],
)
def test_refused(unlearned: dict[str, float], retrained: dict[str, float], mode: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        tow(unlearned, retrained, test_mode=mode)


def test_refused_others() -> None:
    with pytest.raises(DataError, match="an accuracy on 'mia', got 'forget', 'retain', 'test'"):
        tow_mia(GOOD, GOOD)
    with pytest.raises(DataError, match=r"the same sets, got \['forget'\] and \['test'\]"):
        accuracy_gaps({"forget": 1}, {"test": 1})
    with pytest.raises(DataError, match="got 2 in training predictions for 3 samples"):
        accuracies(([0, 1], [0, 1, 1]), ([0, 1], [0, 1]), 0)
    with pytest.raises(DataError, match="Expected test samples to forget, got none; to forget are the classes 0"):
        accuracies(([0, 1], [0, 1]), ([1, 1], [1, 1]), 0)
    with pytest.raises(DataError, match="Expected training samples to retain, got none; to forget are the classes 0"):
        accuracies(([0, 1], [0, 0]), ([0, 1], [0, 1]), 0)
    with pytest.raises(DataError, match="classes to forget to be whole numbers"):
        accuracies(([0, 1], [0, 1]), ([0, 1], [0, 1]), [0.5])
