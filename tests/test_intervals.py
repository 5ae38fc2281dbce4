"""Bootstrap intervals: known spread, coverage, pairing, seeds, what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from helpers import gaussian
from lashley.errors import DataError
from lashley.stats import Interval, bootstrap, paired_bootstrap
from measured import FORMS


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation() -> None:
    values = gaussian(400)
    value, low, high = bootstrap(values, resamples=4000)
    reach = 1.96 * values.std().item() / 20
    assert value == pytest.approx(values.mean().item())
    assert low == pytest.approx(value - reach, abs=0.01)
    assert high == pytest.approx(value + reach, abs=0.01)
    narrow = bootstrap(values, resamples=4000, level=0.5)
    assert narrow.high - narrow.low == pytest.approx(2 * 0.6745 * values.std().item() / 20, abs=0.01)


def test_coverage() -> None:
    hits = 0
    for seed in range(200):
        _, low, high = bootstrap(gaussian(60, seed=seed), resamples=200, seed=seed)
        hits += low <= 0 <= high
    assert 0.9 <= hits / 200 <= 0.98


def test_two_values_by_hand() -> None:
    """Means of 0 and 1 drawn twice: 0, 1/2 and 1 in shares of 1/4, 1/2, 1/4."""
    assert bootstrap([0, 1], level=0.4) == Interval(0.5, 0.5, 0.5)
    assert bootstrap([0, 1], level=0.9) == Interval(0.5, 0.0, 1.0)


def test_samples_are_drawn_whole() -> None:
    values = torch.stack([torch.arange(50.0), -torch.arange(50.0)], 1)
    assert bootstrap(values, lambda rows: rows.sum()) == Interval(0.0, 0.0, 0.0)
    first = bootstrap(values, lambda rows: rows[:, 0].mean())
    assert first.low < first.value < first.high


def test_a_statistic_of_ones_own() -> None:
    values = gaussian(200)
    found = bootstrap(values, lambda rows: rows.median().item())
    assert found.value == values.median().item() and found.low < found.value < found.high


def test_a_seed_decides_and_the_callers_generator_is_left_alone() -> None:
    values = gaussian(30)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = bootstrap(values, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert first == bootstrap(values, seed=1)
    assert first != bootstrap(values, seed=2)


def test_pairs_are_drawn_together() -> None:
    shared = 10 * gaussian(80)
    a, b = shared + 1 + 0.1 * gaussian(80, seed=1), shared
    paired = paired_bootstrap(a, b)
    assert paired.low > 0.9 and paired.high < 1.1
    apart = bootstrap(a).high - bootstrap(a).low
    assert apart > 20 * (paired.high - paired.low)
    assert paired == bootstrap(a - b)
    ratio = paired_bootstrap(a, b, lambda a, b: a.sum() / (a - b).sum())
    assert ratio.value == pytest.approx((a.sum() / (a - b).sum()).item())


def test_the_form_of_a_table() -> None:
    assert Interval(1.0, 0.5, 2.0)._asdict() == {"value": 1.0, "low": 0.5, "high": 2.0}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str) -> None:
    values = torch.tensor([0.0, 1, 1, 0, 1, 1, 0, 1], dtype=torch.float64)
    assert bootstrap(FORMS[form](values)) == bootstrap(values)
    assert bootstrap(values > 0) == bootstrap(values)


@pytest.mark.parametrize(
    ("values", "options", "says"),
    [
        ([1.0], {}, "at least 2 samples in values, got 1"),
        ([], {}, "at least 2 samples in values, got 0"),
        (3.0, {}, "at least 2 samples in values, got 1"),
        ([1.0, math.nan], {}, "values to be finite, got 1 of 2"),
        ([1.0, 2.0], {"level": 95}, "level between 0 and 1, got 95. 0.95 leaves"),
        ([1.0, 2.0], {"level": 1.0}, "level between 0 and 1"),
        ([1.0, 2.0], {"resamples": 0}, "at least 1 resample, got 0"),
        ([[1.0], [3.0]], {"statistic": lambda rows: rows[:, 0]}, r"one number, got a tensor of shape \[2\]"),
        ([0.0, 1.0], {"statistic": lambda rows: 1 / rows.sum()}, r"got 1 and nan or inf in \d+ of 1000 resamples"),
    ],
)
def test_refused(values: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        bootstrap(values, **options)


def test_refused_pairs() -> None:
    with pytest.raises(DataError, match="the same samples, got 3 and 2"):
        paired_bootstrap([1, 2, 3], [1, 2])
    with pytest.raises(DataError, match="at least 2 samples in second, got 1"):
        paired_bootstrap([1, 2, 3], [1])
