"""Effective rank and overlap: values that are known, invariances, edges."""

from __future__ import annotations

import math

import pytest
import torch

from helpers import assert_close, gaussian
from lashley.errors import SolveError
from lashley.geometry import effective_rank, overlap, vectors


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 1.0, 1.0], 3.0),
        ([5.0, 0.0, 0.0], 1.0),
        ([0.0, 0.0, 0.0], 0.0),
        ([2.0, 1.0, 1.0], 2 * math.sqrt(2)),  # entropy of (1/2, 1/4, 1/4): 3/2 ln 2
    ],
)
def test_effective_rank_of_known_spectra(values: list[float], expected: float) -> None:
    matrix = torch.zeros(3, 5, dtype=torch.float64)
    matrix.diagonal().copy_(torch.tensor(values))
    assert effective_rank(matrix) == pytest.approx(expected)
    q = torch.linalg.qr(gaussian(3, 3)).Q
    assert effective_rank(-7 * q @ matrix) == pytest.approx(expected)  # neither rotation nor scale matters
    assert effective_rank(matrix.T) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_effective_rank_is_computed_in_float64(dtype: torch.dtype) -> None:
    matrix = gaussian(4, 6).to(dtype)
    assert effective_rank(matrix) == pytest.approx(effective_rank(matrix.double()), rel=1e-12)


def test_effective_rank_of_nothing() -> None:
    assert effective_rank(torch.zeros(0, 5)) == 0


def test_overlap_is_the_cosine_of_long_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    a = [gaussian(3, 4, seed=0), gaussian(5, seed=1)]
    b = [gaussian(3, 4, seed=2), gaussian(5, seed=3)]
    nothing = [torch.zeros(3, 4), torch.zeros(5)]
    flat = torch.stack([torch.cat([part.double().flatten() for part in x]) for x in (a, b, nothing)])
    expected = torch.zeros(3, 3, dtype=torch.float64)
    units = flat[:2] / flat[:2].norm(dim=1, keepdim=True)
    expected[:2, :2] = units @ units.T
    assert_close(overlap([a, b, nothing]), expected, atol=1e-15)
    assert_close(overlap([a, [-2 * part for part in a]]), [[1, -1], [-1, 1]], atol=1e-15)
    monkeypatch.setattr(vectors, "_CHUNK", 5)  # in pieces it is the same
    assert_close(overlap([a, b, nothing]), expected, atol=1e-15)


def test_overlap_of_lower_precision_and_of_views() -> None:
    a = gaussian(6, 4).float()
    assert_close(overlap([[a.T], [a.T.contiguous()]]), torch.ones(2, 2), atol=1e-15)
    assert_close(overlap([[a.bfloat16()], [a.bfloat16()]]), torch.ones(2, 2), atol=1e-15)


def test_overlap_of_different_shapes_is_refused() -> None:
    with pytest.raises(
        SolveError, match=r"of the same shapes, got \[\[2, 3\]\] and \[\[3, 2\]\]. Compare engrams of one"
    ):
        overlap([[torch.ones(2, 3)], [torch.ones(3, 2)]])
    with pytest.raises(SolveError, match="of the same shapes"):
        overlap([[torch.ones(2)], [torch.ones(2), torch.ones(2)]])
