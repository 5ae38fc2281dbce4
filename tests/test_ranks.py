"""Area under the ROC curve and rank correlation: against every pair, scikit-learn and scipy; what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from helpers import gaussian
from lashley.errors import DataError
from lashley.stats import auroc, rank_correlation
from measured import DEVICES, FORMS


@pytest.mark.parametrize("grain", [None, 1.0, 0.1])
def test_against_every_pair_and_scikit_learn(grain: float | None) -> None:
    scores, truth = gaussian(60), gaussian(60, seed=1) > 0.3
    scores = scores + truth if grain is None else (scores / grain).round() * grain  # with a grain there are ties
    wins = [(a > b) + 0.5 * (a == b) for a in scores[truth] for b in scores[~truth]]
    found = auroc(scores, truth)
    assert found == pytest.approx(sum(map(float, wins)) / len(wins), abs=1e-12)
    assert found == pytest.approx(roc_auc_score(truth.numpy(), scores.numpy()), abs=1e-12)
    assert auroc(-scores, truth) == pytest.approx(1 - found)
    assert auroc(scores, ~truth) == pytest.approx(1 - found)


def test_ends_of_the_scale() -> None:
    assert auroc([1, 2, 3, 4], [0, 0, 1, 1]) == 1
    assert auroc([4, 3, 2, 1], [0, 0, 1, 1]) == 0
    assert auroc([1, 1, 1, 1], [0, 0, 1, 1]) == 0.5
    assert auroc([1, 2, 2, 3], [False, True, False, True]) == 0.875


def test_many_ties_are_counted_exactly() -> None:
    count = 2**20
    scores = torch.zeros(count)
    truth = torch.arange(count) % 2 == 0
    assert auroc(scores, truth) == 0.5
    scores[0] = 1
    assert auroc(scores, truth) == 0.5 + 0.5 * (1 / (count / 2))


@pytest.mark.parametrize("grain", [None, 1.0, 0.1])
def test_rank_correlation_is_scipys(grain: float | None) -> None:
    x = gaussian(40)
    y = x + gaussian(40, seed=1)
    if grain is not None:
        x, y = (x / grain).round(), (y / grain).round()
    assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    assert rank_correlation(x.exp(), y**3) == pytest.approx(rank_correlation(x, y), abs=1e-12)


def test_rank_correlation_sees_order_only() -> None:
    x = torch.arange(10.0)
    assert rank_correlation(x, x.exp()) == pytest.approx(1)
    assert rank_correlation(x, -(x**3)) == pytest.approx(-1)


@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str) -> None:
    scores = torch.tensor([1.0, 2, 2, 3], dtype=torch.float64)
    assert auroc(FORMS[form](scores), [0, 1, 0, 1]) == 0.875
    assert rank_correlation(FORMS[form](scores), scores) == pytest.approx(1)


@pytest.mark.parametrize("device", DEVICES)
def test_devices_may_differ(device: str) -> None:
    assert auroc(torch.tensor([1.0, 2.0], device=device), [False, True]) == 1


@pytest.mark.parametrize(
    ("scores", "positive", "says"),
    [
        ([1, 2, 3], [0, 1], "got 3 scores for 2 samples"),
        ([1, 2, 3], [1, 1, 1], "positives and negatives, got 3 and 0"),
        ([1, 2, 3], [0, 0, 0], "positives and negatives, got 0 and 3"),
        ([1, 2, 3], [0, 1, 2], "bools, or 0 and 1"),
        ([1, float("nan"), 3], [0, 1, 1], "scores to be finite, got 1 of 3"),
        ([], [], "at least 1 sample in scores, got 0"),
        ([[1], [2]], [0, 1], r"scores of shape \[samples\], got \[2, 1\]"),
    ],
)
def test_refused_scores(scores: Any, positive: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        auroc(scores, positive)


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        ([1, 2, 3], [1, 2], "as many values in x as in y, got 3 and 2"),
        ([1], [1], "at least 2 samples in x, got 1"),
        ([1, 2, 3], [2, 2, 2], "values that differ in y, got 3 that are all the same"),
        ([1, 2], [1, float("inf")], "y to be finite"),
    ],
)
def test_refused_correlations(x: Any, y: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        rank_correlation(x, y)
