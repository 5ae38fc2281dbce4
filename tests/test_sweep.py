"""The same edit at several strengths, on a model that is given back untouched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lashley
from editing import engram_of, mlp, state
from helpers import assert_close
from lashley import sweep
from lashley.errors import EditError, LashleyWarning


def first_weight(model: nn.Module) -> torch.Tensor:
    return model[0].weight.detach().clone()


def test_every_strength_is_scored_on_the_model_it_makes():
    model = mlp(torch.float64)
    engram, start = engram_of(model), first_weight(model)
    found = sweep(model, engram, [0.0, 0.5, 1.0, -2.0], first_weight)
    assert [alpha for alpha, _ in found] == [0.0, 0.5, 1.0, -2.0]
    for alpha, weight in found:
        assert_close(weight, start - alpha * engram["0"].weight, atol=1e-14)


def test_a_sweep_agrees_with_single_ablations():
    model = mlp()
    engram, x = engram_of(model), torch.randn(4, 6)

    @torch.no_grad()
    def score(edited: nn.Module) -> torch.Tensor:
        return edited(x)

    for alpha, got in sweep(model, engram, (0.3, 1.0), score):
        assert torch.equal(got, score(lashley.ablate(model, engram, alpha)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_model_is_given_back_untouched(dtype):
    model = mlp(dtype).train()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before, inside = state(model), []
    sweep(model, engram_of(model, scale=1.0), [0.5, 1.0], lambda edited: inside.append(state(edited)))
    assert state(model) == before
    assert all(now != before for now in inside) and inside[0] != inside[1]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_also_when_the_score_raises(error):
    model = mlp(torch.bfloat16)
    before, calls = state(model), []

    def score(edited):
        calls.append(state(edited))
        if len(calls) == 2:
            raise error

    with pytest.raises(error):
        sweep(model, engram_of(model, scale=1.0), [0.5, 1.0, 2.0], score)
    assert state(model) == before and len(calls) == 2


def test_a_sweep_takes_what_an_edit_takes():
    model = mlp(torch.float64)
    engram, start = engram_of(model), first_weight(model)
    per_layer = {"0": 2.0, "2": 0.0}
    uniform = lashley.strength.uniform(3.0)
    found = sweep(model, engram, iter([per_layer, uniform]), first_weight)
    assert [alpha for alpha, _ in found] == [per_layer, uniform]
    assert_close(found[0][1], start - 2 * engram["0"].weight, atol=1e-14)
    assert_close(found[1][1], start - 3 * engram["0"].weight, atol=1e-14)
    assert sweep(model, engram, [], first_weight) == []


def test_ties_are_passed_on():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    engram, start, before = engram_of(model, "0", bias=False), first_weight(model), state(model)
    with pytest.warns(LashleyWarning, match="every layer was skipped"):
        [(_, skipped)] = sweep(model, engram, [1.0], first_weight)
    assert_close(skipped, start)
    [(_, untied)] = sweep(model, engram, [1.0], first_weight, tied="untie")
    assert_close(untied, start - engram["0"].weight, atol=1e-6)
    assert state(model) == before


@pytest.mark.parametrize("alphas", [1.0, None, {"0": 1.0, "2": 1.0}, lashley.strength.uniform()])
def test_a_single_strength_is_refused(alphas):
    with pytest.raises(EditError, match=r"alphas to be a list of strengths, got \w+. Wrap it: \[alpha\]"):
        sweep(mlp(), engram_of(mlp()), alphas, first_weight)


def test_a_bad_strength_is_refused_and_the_model_is_as_it_was():
    model = mlp()
    before, calls = state(model), []
    with pytest.raises(EditError, match="alpha to be a finite number, got nan"):
        sweep(model, engram_of(model), [1.0, float("nan")], calls.append)
    assert state(model) == before and len(calls) == 1
