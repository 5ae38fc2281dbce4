"""Linear CKA: exact vectors, the Gram form as an oracle, invariances, twins that are wrong, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import gaussian
from lashley.errors import DataError
from lashley.metrics import cka_profile, linear_cka, minibatch_cka
from measured import EXACT, FORMS, VECTORS

SMALL, LARGE = VECTORS["cka"], VECTORS["cka_batches_of_6"]


def batches(vector: dict[str, Any], size: int) -> list[tuple[Tensor, Tensor]]:
    x, y = (torch.tensor(vector[name], dtype=torch.float64) for name in "xy")
    return list(zip(x.split(size), y.split(size), strict=True))


def test_exact_vectors() -> None:
    assert linear_cka(SMALL["x"], SMALL["y"]) == pytest.approx(SMALL["biased"], abs=EXACT)
    assert linear_cka(SMALL["x"], SMALL["y"], unbiased=True) == pytest.approx(SMALL["unbiased"], abs=EXACT)
    of_three = batches(SMALL, 3)
    assert [linear_cka(x, y) for x, y in of_three] == pytest.approx(SMALL["batches_of_3"], abs=EXACT)
    assert minibatch_cka(of_three, unbiased=False) == pytest.approx(SMALL["mean_of_batches_of_3"], abs=EXACT)
    assert linear_cka(LARGE["x"], LARGE["y"]) == pytest.approx(LARGE["biased_of_all"], abs=EXACT)
    assert minibatch_cka(batches(LARGE, 6)) == pytest.approx(LARGE["unbiased"], abs=EXACT)


def gram_form(x: Tensor, y: Tensor) -> float:
    """HSIC of centred Gram matrices (Gretton et al. 2005)."""
    centring = torch.eye(len(x), dtype=x.dtype) - 1 / len(x)
    k, m = (centring @ (f @ f.T) @ centring for f in (x, y))
    return ((k * m).sum() / ((k * k).sum() * (m * m).sum()).sqrt()).item()


def unbiased_gram_form(x: Tensor, y: Tensor) -> float:
    """HSIC_1 as a sum over Gram matrices without their diagonals."""
    n = len(x)

    def hsic(a: Tensor, b: Tensor) -> Tensor:
        k, m = (f @ f.T for f in (a, b))
        k, m = (g - torch.diag(g.diagonal()) for g in (k, m))
        one = torch.ones(n, dtype=x.dtype)
        middle = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return ((k @ m).trace() + middle - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))

    return (hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt()).item()


@pytest.mark.parametrize(("n", "p", "q"), [(40, 3, 5), (6, 30, 20), (12, 2, 90), (12, 12, 12)])
def test_the_feature_form_is_the_gram_form(n: int, p: int, q: int) -> None:
    x = gaussian(n, p) + 3
    y = x @ gaussian(p, q, seed=1) + gaussian(n, q, seed=2)
    assert linear_cka(x, y) == pytest.approx(gram_form(x, y), abs=1e-12)
    assert linear_cka(x, y, unbiased=True) == pytest.approx(unbiased_gram_form(x, y), abs=1e-10)
    assert abs(linear_cka(x, y) - linear_cka(x, y, unbiased=True)) > 1e-3


@pytest.mark.parametrize("unbiased", [False, True])
def test_invariances(unbiased: bool) -> None:
    x, y = gaussian(30, 4), gaussian(30, 6, seed=1) + gaussian(30, 4) @ gaussian(4, 6, seed=2)
    value = linear_cka(x, y, unbiased=unbiased)
    rotation = torch.linalg.qr(gaussian(4, 4, seed=3))[0]
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    same = [(7 * x @ rotation - 2, 0.01 * y + 5), (y, x), (x[order], y[order])]
    assert [linear_cka(a, b, unbiased=unbiased) for a, b in same] == pytest.approx([value] * 3, abs=1e-12)
    assert linear_cka(x, x @ rotation, unbiased=unbiased) == pytest.approx(1)
    stretched = x * torch.tensor([1.0, 1, 1, 10])
    for a, b in [(x[order], y), (stretched, y), (x, stretched)]:
        assert abs(linear_cka(a, b, unbiased=unbiased) - value) > 0.02


def test_uncentred_features_are_another_measure() -> None:
    x, y = gaussian(30, 4) + 3, gaussian(30, 6, seed=1) + 3
    uncentred = ((x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())).item()
    assert uncentred > 0.9 > 0.5 > linear_cka(x, y)


def test_the_bias_of_independent_features() -> None:
    biased, unbiased = [], []
    for seed in range(20):
        x, y = gaussian(64, 64, seed=seed), gaussian(64, 64, seed=100 + seed)
        biased.append(linear_cka(x, y))
        unbiased.append(linear_cka(x, y, unbiased=True))
    assert sum(biased) / 20 == pytest.approx(0.5, abs=0.01)
    assert sum(unbiased) / 20 == pytest.approx(0, abs=0.01)
    assert min(unbiased) < 0


def test_small_batches_inflate_the_biased_mean_and_not_the_unbiased_ratio() -> None:
    x = gaussian(960, 10)
    y = x @ gaussian(10, 10, seed=1) + 3 * gaussian(960, 10, seed=2)
    whole = linear_cka(x, y, unbiased=True)
    pairs = [list(zip(x.split(size), y.split(size), strict=True)) for size in (12, 96)]
    inflated = [minibatch_cka(some, unbiased=False) for some in pairs]
    assert inflated[0] > inflated[1] + 0.1 > whole + 0.1
    assert [minibatch_cka(some) for some in pairs] == pytest.approx([whole] * 2, abs=0.02)


def test_the_ratio_is_taken_last() -> None:
    x, y = gaussian(40, 3), gaussian(40, 3, seed=1) + gaussian(40, 3)
    pairs = list(zip(x.split(4), y.split(4), strict=True))
    mean_of_ratios = sum(linear_cka(a, b, unbiased=True) for a, b in pairs) / len(pairs)
    assert abs(minibatch_cka(pairs) - mean_of_ratios) > 0.01


def test_one_batch_is_the_whole() -> None:
    x, y = gaussian(20, 3), gaussian(20, 4, seed=1)
    for unbiased in (False, True):
        assert minibatch_cka(iter([(x, y)]), unbiased=unbiased) == pytest.approx(linear_cka(x, y, unbiased=unbiased))


def test_a_profile_is_layer_by_layer() -> None:
    x = {"conv": gaussian(20, 3), "head": gaussian(20, 5, seed=1)}
    y = {"head": gaussian(20, 5, seed=2), "conv": x["conv"]}
    profile = cka_profile(x, y)
    assert list(profile) == ["conv", "head"]
    assert profile == {"conv": pytest.approx(1), "head": linear_cka(x["head"], y["head"])}
    assert cka_profile(x, y, unbiased=True)["head"] == linear_cka(x["head"], y["head"], unbiased=True)
    with pytest.raises(DataError, match=r"the same layers, got \['conv', 'head'\] and \['conv'\]"):
        cka_profile(x, {"conv": x["conv"]})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("unbiased", [False, True])
def test_forms(form: str, unbiased: bool) -> None:
    x, y = (FORMS[form](torch.tensor(SMALL[name], dtype=torch.float64)) for name in "xy")
    wanted = SMALL["unbiased" if unbiased else "biased"]
    assert linear_cka(x, y, unbiased=unbiased) == pytest.approx(wanted, abs=EXACT)


def test_a_large_mean_costs_no_digits() -> None:
    x, y = gaussian(30, 4), gaussian(30, 6, seed=1)
    for unbiased in (False, True):
        value = linear_cka(x, y, unbiased=unbiased)
        assert linear_cka(x + 1e4, y - 1e4, unbiased=unbiased) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize(
    ("x", "y", "unbiased", "says"),
    [
        (gaussian(5, 2), gaussian(4, 2), False, "the same samples, got 5 in x and 4 in y"),
        (gaussian(1, 2), gaussian(1, 2), False, "at least 2 samples in x, got 1"),
        (gaussian(3, 2), gaussian(3, 2), True, "at least 4 samples in x, got 3"),
        (gaussian(0, 2), gaussian(0, 2), False, "at least 2 samples in x, got 0"),
        (gaussian(5), gaussian(5), False, r"\[samples, features\], got \[5\]"),
        (gaussian(5, 2), torch.ones(5, 2), False, "differ between samples, got one row repeated in y"),
        (torch.full((5, 2), torch.nan), gaussian(5, 2), False, "x to be finite, got 10 of 10"),
        (torch.ones(5, 2) * 1j, gaussian(5, 2), False, "x to be real, got torch.complex64"),
    ],
)
def test_refused(x: Tensor, y: Tensor, unbiased: bool, says: str) -> None:
    with pytest.raises(DataError, match=says):
        linear_cka(x, y, unbiased=unbiased)


def test_refused_batches() -> None:
    x = gaussian(8, 2)
    with pytest.raises(DataError, match="at least one batch, got none"):
        minibatch_cka([])
    with pytest.raises(DataError, match="at least 4 samples in x of batch 1, got 3"):
        minibatch_cka([(x, x), (x[:3], x[:3])])
    with pytest.raises(DataError, match="got 8 in x of batch 0 and 7 in y of batch 0"):
        minibatch_cka([(x, x[:7])])


def test_features_without_spread_after_all() -> None:
    """Two samples apart and two alike: HSIC_1 of four samples in one dimension can be nothing."""
    x = torch.tensor([[0.0], [0.0], [0.0], [1.0]])
    with pytest.raises(DataError, match="enough samples to estimate the spread"):
        linear_cka(x, x, unbiased=True)


def test_batches_of_different_sizes_count_the_same() -> None:
    """The mean is of HSIC_1 itself, which has the factor 1 / (n (n - 3)): a large batch would drown a small one."""

    def hsic(x: Tensor, y: Tensor) -> Tensor:
        n = len(x)
        a, b = ((part @ part.T).fill_diagonal_(0) for part in (x, y))
        whole = a.sum() * b.sum() / ((n - 1) * (n - 2))
        return ((a * b).sum() + whole - 2 / (n - 2) * (a @ b).sum()) / (n * (n - 3))

    generator = torch.Generator().manual_seed(0)
    pairs = []
    for n in (5, 20):
        x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
        pairs.append((x, x * n + torch.randn(n, 3, generator=generator, dtype=torch.float64)))
    xy, xx, yy = (
        sum(hsic(pair[i], pair[j]).item() for pair in pairs) / len(pairs) for i, j in ((0, 1), (0, 0), (1, 1))
    )
    assert minibatch_cka(pairs) == pytest.approx(xy / (xx * yy) ** 0.5, rel=1e-9)
