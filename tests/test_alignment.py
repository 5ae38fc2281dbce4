"""Dimensional alignment: exact vectors, bounds, invariances, twins that are wrong, what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import gaussian
from lashley.errors import DataError
from lashley.metrics import Alignment, dimensional_alignment
from measured import EXACT, FORMS, VECTORS

CASES = [(vector, case) for vector in VECTORS["alignment"] for case in vector["cases"]]


@pytest.mark.parametrize(("vector", "case"), CASES, ids=lambda x: str(x.get("options", "")))
def test_exact_vectors(vector: dict[str, Any], case: dict[str, Any]) -> None:
    value, k = dimensional_alignment(vector["forget"], vector["retain"], **case["options"])
    assert value == pytest.approx(case["value"], abs=EXACT)
    assert k == case["k"]


def features() -> tuple[Tensor, Tensor]:
    """Forget and retain features that share some directions and not others."""
    scales = torch.tensor([8.0, 4, 2, 1, 0.5], dtype=torch.float64)
    return gaussian(30, 5, seed=1) * scales.flip(0), gaussian(50, 5, seed=2) * scales


def test_bounds() -> None:
    forget, retain = features()
    values = [dimensional_alignment(forget, retain, k=k).value for k in range(1, 6)]
    assert all(0 < a < b for a, b in itertools.pairwise(values))
    assert values[-1] == pytest.approx(1, abs=1e-12)
    mine = dimensional_alignment(retain, retain, k=2).value
    assert all(dimensional_alignment(gaussian(50, 5, seed=s), retain, k=2).value < mine for s in range(5))


def test_what_uses_only_retained_directions_is_fully_aligned_and_what_uses_none_not_at_all() -> None:
    basis = torch.linalg.qr(gaussian(6, 6))[0]
    retain = gaussian(40, 2, seed=1) @ basis[:, :2].T
    inside, outside = gaussian(9, 2) @ basis[:, :2].T, gaussian(9, 4) @ basis[:, 2:].T
    assert dimensional_alignment(inside, retain, energy=1.0).value == pytest.approx(1)
    assert dimensional_alignment(outside, retain, energy=1.0).value == pytest.approx(0, abs=1e-12)


def test_a_rotation_of_both_and_scales_of_each_change_nothing() -> None:
    forget, retain = features()
    rotation = torch.linalg.qr(gaussian(5, 5, seed=3))[0]
    value, k = dimensional_alignment(forget, retain)
    assert dimensional_alignment(3 * forget @ rotation, 0.1 * retain @ rotation) == (pytest.approx(value), k)
    assert dimensional_alignment(forget @ rotation, retain).value != pytest.approx(value, abs=0.01)


def test_the_default_is_neither_centred_nor_a_root_nor_about_the_small_directions() -> None:
    forget, retain = features()
    forget, retain = forget + 2, retain - 1
    value = dimensional_alignment(forget, retain, k=2).value
    vectors = torch.linalg.svd(retain)[2]
    inside = (forget @ vectors[:2].T).square().sum() / forget.square().sum()
    assert value == pytest.approx(inside.item(), abs=1e-12)
    wrong = [
        dimensional_alignment(forget, retain, k=2, centre="retain_mean").value,
        dimensional_alignment(forget, retain, k=2, squared=False).value,
        dimensional_alignment(retain, forget, k=2).value,
        ((forget @ vectors[-2:].T).square().sum() / forget.square().sum()).item(),
        ((forget @ vectors[:2].T).norm(dim=1) / forget.norm(dim=1)).square().mean().item(),  # of each sample
    ]
    assert all(abs(other - value) > 0.01 for other in wrong)
    assert wrong[1] == pytest.approx(value**0.5)


def test_more_energy_takes_more_directions() -> None:
    forget, retain = features()
    found = [dimensional_alignment(forget, retain, energy=energy).k for energy in (0.5, 0.9, 0.99, 1.0)]
    assert found == sorted(found) and found[0] == 1 and found[-1] == 5


def test_energy_is_reached_by_a_share_that_equals_it() -> None:
    retain = torch.diag(torch.tensor([3, 1, 1, 1]).double().sqrt())
    assert dimensional_alignment(retain, retain, energy=0.5).k == 1


def test_fewer_samples_than_features() -> None:
    retain = gaussian(3, 10)
    assert dimensional_alignment(gaussian(4, 10, seed=1), retain, energy=1.0).k == 3
    assert dimensional_alignment(retain, retain, k=3).value == pytest.approx(1)


@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str) -> None:
    vector = VECTORS["alignment"][0]
    forget, retain = (FORMS[form](torch.tensor(vector[part]).double()) for part in ("forget", "retain"))
    assert dimensional_alignment(forget, retain) == Alignment(pytest.approx(0.6875, abs=EXACT), 2)


@pytest.mark.parametrize(
    ("forget", "retain", "options", "says"),
    [
        (torch.ones(3, 4), torch.ones(3, 5), {}, "of one network, got 4 and 5 features"),
        (torch.ones(0, 4), torch.ones(3, 4), {}, "at least 1 sample in forget_features, got 0"),
        (torch.ones(3, 4), torch.ones(0, 4), {}, "at least 1 sample in retain_features, got 0"),
        (torch.ones(3, 4, 2), torch.ones(3, 4), {}, r"\[samples, features\], got \[3, 4, 2\]. Pool or flatten"),
        (torch.ones(3, 0), torch.ones(3, 0), {}, r"\[samples, features\], got \[3, 0\]"),
        (torch.full((3, 4), torch.nan), torch.ones(3, 4), {}, "forget_features to be finite, got 12 of 12"),
        (torch.ones(3, 4), torch.tensor([[1, torch.inf]]), {}, "retain_features to be finite, got 1 of 2"),
        (torch.zeros(3, 4), torch.ones(3, 4), {}, "forget features that point somewhere"),
        (torch.ones(3, 4), torch.zeros(3, 4), {}, "retain features that point somewhere"),
        (torch.ones(3, 4), torch.ones(3, 4), {"energy": 95}, r"energy in \(0, 1\], got 95"),
        (torch.ones(3, 4), torch.ones(3, 4), {"energy": 0}, r"energy in \(0, 1\], got 0"),
        (torch.ones(3, 4), torch.ones(3, 4), {"k": 0}, "k between 1 and 1, .* got 0"),
        (torch.ones(3, 4), torch.ones(3, 4), {"k": 2}, "k between 1 and 1, .* got 2. Give more retain samples"),
        (torch.ones(3, 4), torch.ones(3, 4), {"k": 5}, "k between 1 and 1, .* got 5"),
        (torch.ones(3, 4), torch.ones(3, 4), {"centre": "mean"}, "centre to be None or \"retain_mean\", got 'mean'"),
        ([["a", "b"]], torch.ones(3, 2), {}, "forget_features to be an array of numbers, got list"),
    ],
)
def test_refused(forget: Any, retain: Tensor, options: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        dimensional_alignment(forget, retain, **options)
