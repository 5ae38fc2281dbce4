"""How strong an edit is where."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import lashley
from editing import engram_of, mlp, randomised
from lashley import Engram, strength
from lashley.engram import Delta
from lashley.errors import EditError
from lashley.layers import describe


def of_matrices(**matrices) -> Engram:
    """An engram with the given deltas, of layers without bias whose weights have norm 10."""
    deltas = {}
    for name, matrix in matrices.items():
        module = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
        deltas[name] = Delta(describe(name, module), weight=matrix, base="x", base_norm=10.0)
    return Engram(deltas, {"cat": 1.0}, None)


def test_uniform_is_the_same_everywhere():
    engram = engram_of(mlp())
    assert strength.uniform()(engram) == {"0": 1.0, "2": 1.0}
    assert strength.uniform(-0.3)(engram) == {"0": -0.3, "2": -0.3}


def test_weight_norm_gives_the_largest_ratio_alpha():
    engram = of_matrices(a=4 * torch.eye(4), b=torch.eye(4), c=torch.zeros(2, 2))  # norms 8, 2 and 0
    assert strength.weight_norm()(engram) == pytest.approx({"a": 1.0, "b": 0.25, "c": 0.0})
    assert strength.weight_norm(2.0)(engram) == pytest.approx({"a": 2.0, "b": 0.5, "c": 0.0})


def test_weight_norm_is_the_ratio_over_the_largest_ratio_and_knows_no_bias():
    model = mlp()
    engram = engram_of(model)
    ratios = {n: (d.weight.norm() / model.get_submodule(n).weight.norm()).item() for n, d in engram.items()}
    expected = {n: r / max(ratios.values()) for n, r in ratios.items()}
    assert strength.weight_norm()(engram) == pytest.approx(expected, rel=1e-6)
    engram["0"].bias.mul_(1e6)
    assert strength.weight_norm()(engram) == pytest.approx(expected, rel=1e-6)
    assert strength.weight_norm()(5 * engram) == pytest.approx(expected, rel=1e-6)


def test_effective_rank_is_the_share_of_directions_in_use():
    one = torch.zeros(4, 6)
    one[0] = 1.0
    half = torch.diag(torch.tensor([3.0, 3.0, 0.0, 0.0]))
    engram = of_matrices(full=torch.eye(4), half=half, one=one, nothing=torch.zeros(2, 2), small=torch.eye(2, 5))
    expected = {"full": 1.0, "half": 0.5, "one": 0.25, "nothing": 0.0, "small": 1.0}
    assert strength.effective_rank()(engram) == pytest.approx(expected, abs=1e-6)
    assert strength.effective_rank(3.0)(engram.select(["half", "one"])) == pytest.approx({"half": 3.0, "one": 1.5})


def test_effective_rank_takes_the_mean_over_groups():
    model = nn.Sequential(nn.Conv1d(4, 4, 1, groups=2, bias=False), nn.Linear(2, 2, bias=False))
    grouped = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]]).unsqueeze(-1)  # ranks 2 and 1
    deltas = {
        "0": Delta(describe("0", model[0]), weight=grouped),
        "1": Delta(describe("1", model[1]), weight=torch.eye(2)),
    }
    assert strength.effective_rank()(Engram(deltas, {}, None)) == pytest.approx({"0": 0.75, "1": 1.0}, abs=1e-6)


def test_effective_rank_of_factors_is_that_of_their_product():
    model = randomised(nn.Sequential(nn.Linear(9, 7), nn.Linear(7, 8)), torch.float64)
    factors = engram_of(model, rank=3)
    dense = Engram(
        {n: Delta(d.layer, weight=d.weight, bias=d.bias) for n, d in factors.items()}, factors.concepts, None
    )
    assert strength.effective_rank()(factors) == pytest.approx(strength.effective_rank()(dense), rel=1e-9)


@pytest.mark.parametrize("make", [strength.weight_norm, strength.effective_rank])
def test_an_engram_of_zeros_has_no_strength_anywhere(make):
    assert make()(0 * engram_of(mlp())) == {"0": 0.0, "2": 0.0}


def test_an_engram_without_layers_has_no_strengths():
    for make in (strength.uniform, strength.weight_norm, strength.effective_rank):
        assert make()(Engram({}, {}, None)) == {}


def test_weight_norm_refuses_a_sum_over_different_weights():
    other = mlp()
    with torch.no_grad():
        other[2].weight.add_(1)
    total = engram_of(mlp()) + engram_of(other)
    assert math.isnan(total.weight_norms()["2"])
    with pytest.raises(EditError, match=r"a sum over different weights in layer '2'.*effective_rank\(\)"):
        strength.weight_norm()(total)
    assert set(strength.effective_rank()(total)) == {"0", "2"}


@pytest.mark.parametrize("make", [strength.uniform, strength.weight_norm, strength.effective_rank])
def test_a_strength_is_an_alpha(make):
    model, engram = mlp(), engram_of(mlp())
    receipt = lashley.ablate_(model, engram, make(0.5))
    assert {n: c.alpha for n, c in receipt.layers.items()} == pytest.approx(dict(make(0.5)(engram)))
