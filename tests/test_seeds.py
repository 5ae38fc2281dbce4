"""A measure over seeds: the paper's row of retrained networks, intervals, pairs left out, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import t as student

from helpers import gaussian
from lashley.errors import DataError
from lashley.metrics import linear_cka, over_seeds, tow
from lashley.stats import bootstrap
from measured import EXACT, VECTORS


def test_the_row_of_retrained_networks() -> None:
    vector = VECTORS["tow_retrains"]
    found = over_seeds(tow, dict(enumerate(vector["retrained"])))
    assert list(found.values) == [(0, 1), (0, 2), (1, 2)]
    assert list(found.values.values()) == pytest.approx(vector["pairs"], abs=EXACT)
    assert (found.mean, found.sd, found.n) == (
        pytest.approx(vector["mean"], abs=EXACT),
        pytest.approx(vector["sd"], abs=EXACT),
        3,
    )


def minus(a: float, b: float) -> float:
    return a - b


FIRST, SECOND = {1: 10.0, 2: 20.0, 5: 60.0}, {5: 3.0, 2: 2.0, 1: 1.0}


def test_same_seeds_other_seeds_and_one_set_among_itself() -> None:
    assert over_seeds(minus, FIRST, SECOND).values == {(1, 1): 9, (2, 2): 18, (5, 5): 57}
    other = over_seeds(minus, FIRST, SECOND, pairs="other")
    assert other.values == {(1, 2): 8, (1, 5): 7, (2, 1): 19, (2, 5): 17, (5, 1): 59, (5, 2): 58}
    assert over_seeds(minus, FIRST).values == {(1, 2): -10, (1, 5): -50, (2, 5): -40}


def test_students_interval_by_hand() -> None:
    found = over_seeds(minus, FIRST, SECOND, level=0.9)
    sd = torch.tensor([9.0, 18, 57]).std().item()
    reach = student.ppf(0.95, 2) * sd / 3**0.5
    assert found.mean == 28 and found.sd == pytest.approx(sd)
    assert found.student == pytest.approx((28, 28 - reach, 28 + reach))


def test_the_bootstrap_of_same_seeds_is_that_of_their_values() -> None:
    first, second = (dict(enumerate(gaussian(6, seed=s).tolist())) for s in (0, 1))
    found = over_seeds(minus, first, second, resamples=300, seed=4)
    expected = bootstrap(list(found.values.values()), resamples=300, seed=4)
    assert found.bootstrap == pytest.approx(expected)


def test_the_bootstrap_across_seeds_draws_seeds_not_pairs() -> None:
    """One odd seed is in four of ten pairs: drawn by seeds, the mean is far less sure than drawn by pairs."""
    values = dict.fromkeys(range(4), 0.0) | {4: 1.0}

    def apart(a: float, b: float) -> float:
        return abs(a - b)

    found = over_seeds(apart, values, resamples=4000)
    assert found.bootstrap == (0.4, 0.0, 1.0)  # without the odd seed, with it and one other
    assert bootstrap(list(found.values.values()), resamples=4000) == pytest.approx((0.4, 0.1, 0.7))


def test_an_edit_looks_like_its_original_only_at_its_own_seed() -> None:
    original = {
        seed: gaussian(60, 4) @ gaussian(4, 4, seed=seed) + gaussian(60, 4, seed=9 + seed) for seed in (1, 2, 3)
    }
    edited = {seed: features + 0.01 * gaussian(60, 4, seed=seed) for seed, features in original.items()}
    same = over_seeds(linear_cka, edited, original)
    other = over_seeds(linear_cka, edited, original, pairs="other")
    among = over_seeds(linear_cka, original)
    assert same.mean > 0.99 and other.n == 6
    assert other.mean == pytest.approx(among.mean, abs=0.01)
    assert other.mean < 0.9


def test_an_interval_holds_nothing_but_its_seeds() -> None:
    constant = over_seeds(minus, {1: 2.0, 2: 2.0}, {1: 1.0, 2: 1.0})
    assert constant.student == constant.bootstrap == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("first", "second", "options", "says"),
    [
        (FIRST, {1: 0.0, 2: 0.0}, {}, r"the same seeds, got \[1, 2, 5\] and \[1, 2\]"),
        ({1: 0.0}, {1: 0.0}, {}, "at least 2 seeds to say how much they matter, got 1. Call the measure itself"),
        ({1: 0.0, 2: 0.0}, None, {}, "at least 3 seeds .* got 2"),
        ({1: 0.0, 2: 0.0}, {1: 0.0, 2: 0.0}, {"pairs": "other"}, "at least 3 seeds .* got 2"),
        ({}, None, {}, "at least 3 seeds .* got 0"),
        (FIRST, SECOND, {"pairs": "all"}, "pairs to be one of same, other, got 'all'"),
        (FIRST, SECOND, {"level": 95}, "level between 0 and 1, got 95"),
        (FIRST, SECOND, {"resamples": 0}, "at least 1 resample, got 0"),
    ],
)
def test_refused(first: Any, second: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        over_seeds(minus, first, second, **options)
