"""Edits change what was asked for, in place or in a copy, and give the very bytes back."""

from __future__ import annotations

import contextlib
import copy
import math
import weakref

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import lashley
from editing import delta_of, engram_of, mlp, randomised, raw, state
from helpers import assert_close, assert_near
from lashley import Engram, ablate, ablate_, ablated, inject, inject_, injected
from lashley.edit import apply, blocks, receipt
from lashley.errors import EditError, LashleyError, LashleyWarning, ModelError

EDITS = [ablate, ablate_, ablated, inject, inject_, injected]
SIGN = {ablate: -1, ablate_: -1, ablated: -1, inject: +1, inject_: +1, injected: +1}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


class Mixed(nn.Module):
    """A layer of every kind, and things no engram has a part in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.linear = nn.Linear(6, 5)
        self.transposed = Conv1D(4, 5)
        self.untouched = nn.Linear(4, 4)
        self.register_buffer("constant", torch.ones(3))


def mixed(dtype: torch.dtype = torch.float32) -> Mixed:
    return randomised(Mixed(), dtype)


LAYERS = ("conv", "linear", "transposed")


def run(edit, model: nn.Module, engram: Engram, *args, **kw) -> nn.Module:
    """The edited weights in a model of their own, whichever form of the edit made them."""
    if edit in (ablate, inject):
        return edit(model, engram, *args, **kw)
    if edit in (ablate_, inject_):
        edited = copy.deepcopy(model)
        edit(edited, engram, *args, **kw)
        return edited
    with edit(model, engram, *args, **kw):
        return copy.deepcopy(model)


# What is changed.


@pytest.mark.parametrize("alpha", [1.0, -0.5, 0.25, 2])
@pytest.mark.parametrize("edit", EDITS, ids=lambda f: f.__name__)
def test_the_weights_are_w_minus_alpha_e_and_nothing_else_changes(edit, alpha):
    model = mixed(torch.float64)
    engram = engram_of(model, *LAYERS)
    before = state(model)
    edited = run(edit, model, engram, alpha)
    assert state(model) == before
    for name in LAYERS:
        for part in ("weight", "bias"):
            old, new = (getattr(m.get_submodule(name), part) for m in (model, edited))
            assert_close(new, old + SIGN[edit] * alpha * getattr(engram[name], part), atol=1e-14)
    others = [n for n in model.state_dict() if n.split(".")[0] not in LAYERS]
    assert len(others) == 8
    for name in others:
        assert raw(edited.state_dict()[name]) == raw(model.state_dict()[name])


def test_factors_and_biases_are_applied_as_well():
    model = mlp(torch.float64)
    engram = engram_of(model, rank=2)
    edited = ablate(model, engram)
    a, b = engram["0"].factors
    assert_close(edited[0].weight, model[0].weight - a @ b, atol=1e-14)
    assert_close(edited[0].bias, model[0].bias - engram["0"].bias, atol=1e-14)
    assert_close(edited[2].weight, model[2].weight - engram["2"].weight, atol=1e-14)


def test_an_engram_without_bias_leaves_biases_alone():
    model = mlp()
    edited = ablate(model, engram_of(model, bias=False))
    assert raw(edited[0].bias) == raw(model[0].bias)
    assert raw(edited[0].weight) != raw(model[0].weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_an_edit_is_rounded_once(dtype):
    """Each new number is the stored one nearest to the exact result: no other rounding comes before."""
    model = randomised(nn.Sequential(nn.Linear(40, 40)), dtype)
    engram = engram_of(model, scale=0.3)
    edited = ablate(model, engram, 0.37)
    exact = model[0].weight.double() - 0.37 * engram["0"].weight.double()
    wide = torch.float32 if dtype.itemsize == 2 else torch.float64
    assert raw(edited[0].weight) == raw(exact.to(wide).to(dtype))


def test_a_float64_engram_fits_a_model_in_bfloat16():
    engram = engram_of(mlp(torch.float64))
    small = mlp(torch.bfloat16)
    edited = ablate(small, engram)
    assert edited[0].weight.dtype == torch.bfloat16
    assert_near(edited[0].weight, small[0].weight.double() - engram["0"].weight, rel=3e-3)


def test_a_weight_larger_than_a_piece_is_edited_whole(monkeypatch):
    monkeypatch.setattr(receipt, "_PIECE", 7)
    model = mixed(torch.float64)
    engram = engram_of(model, *LAYERS)
    said = ablate_(model, engram)
    monkeypatch.undo()
    again = mixed(torch.float64)
    assert ablate_(again, engram).to_dict()["layers"] == [
        {k: pytest.approx(v, rel=1e-12) if isinstance(v, float) else v for k, v in row.items()}
        for row in said.to_dict()["layers"]
    ]
    assert [raw(p) for p in model.parameters()] == [raw(p) for p in again.parameters()]


def test_at_most_one_piece_of_a_delta_is_held(monkeypatch):
    """Only the old bytes of every layer and one piece of a change at a time: what editing a large model costs."""
    monkeypatch.setattr(receipt, "_PIECE", 1024)
    model = nn.Sequential(*[nn.Linear(64, 64, bias=False) for _ in range(6)])
    engram = engram_of(model, rank=2)
    alive: list[int] = []
    most = 0
    rows = blocks.rows

    def counted(delta, which, start, stop):
        nonlocal most
        made = rows(delta, which, start, stop)
        alive.append(made.numel())
        most = max(most, sum(alive))
        weakref.finalize(made, alive.pop)
        return made

    monkeypatch.setattr(blocks, "rows", counted)
    ablate_(model, engram)
    assert most == 1024


@pytest.mark.parametrize(
    "module",
    [nn.Linear(6, 5), Conv1D(5, 6), Conv1D(6, 6), nn.Embedding(6, 5), nn.Conv2d(2, 5, 3), nn.ConvTranspose1d(4, 5, 2)],
    ids=repr,
)
@pytest.mark.parametrize("rank", [2, None])
def test_some_rows_of_a_delta_are_those_of_all(module, rank):
    delta = delta_of("layer", module, rank=rank)
    for start, stop in [(0, 1), (1, 4), (3, 9)]:
        assert_close(blocks.rows(delta, "weight", start, stop), delta.weight[start:stop], atol=1e-7)
    if delta.bias is not None:
        assert torch.equal(blocks.rows(delta, "bias", 1, 3), delta.bias[1:3])


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_the_layout_in_memory_stays(memory_format):
    model = nn.Sequential(nn.Conv2d(4, 6, 3).to(memory_format=memory_format))
    strides = model[0].weight.stride()
    engram = engram_of(model)
    expected = model[0].weight - engram["0"].weight
    ablate_(model, engram)
    assert model[0].weight.stride() == strides
    assert_close(model[0].weight, expected, atol=1e-6)


# Alpha.


def test_alpha_per_layer():
    model = mlp(torch.float64)
    engram = engram_of(model)
    said = ablate_(edited := copy.deepcopy(model), engram, {"2": 0.0, "0": 2.0})
    assert_close(edited[0].weight, model[0].weight - 2 * engram["0"].weight, atol=1e-14)
    assert raw(edited[2].weight) == raw(model[2].weight)
    assert [(c.name, c.alpha, c.status) for c in said.layers.values()] == [
        ("0", 2.0, "edited"), ("2", 0.0, "unchanged")
    ]  # fmt: skip


def test_alpha_by_a_function_of_the_engram():
    model = mlp(torch.float64)
    engram = engram_of(model)
    seen = []

    def strength(given):
        seen.append(given)
        return {name: 0.5 for name in given}

    edited = ablate(model, engram, strength)
    assert seen == [engram]
    assert_close(edited[0].weight, model[0].weight - 0.5 * engram["0"].weight, atol=1e-14)


@pytest.mark.parametrize("alpha", [np.float32(0.5), np.float64(0.5), np.int64(1), 1])
def test_any_real_number_is_an_alpha(alpha):
    receipt = ablate_(mlp(), engram_of(mlp()), alpha)
    assert [type(c.alpha) for c in receipt.layers.values()] == [float, float]
    assert receipt.layers["0"].alpha == float(alpha)


def test_of_an_injection_the_receipt_says_minus_alpha():
    assert [c.alpha for c in inject_(mlp(), engram_of(mlp()), 0.5).layers.values()] == [-0.5, -0.5]
    zero = inject_(mlp(), engram_of(mlp()), 0.0).layers["0"].alpha
    assert zero == 0.0 and math.copysign(1, zero) == 1


# Refusals. After each, every byte is as it was.


def overflowing() -> tuple[nn.Module, Engram]:
    model = mlp(torch.float16)
    with torch.no_grad():
        model[2].weight[0, :2] = torch.tensor([65000.0, -65000.0])  # float16 ends at 65504
    engram = engram_of(model)
    engram["2"].weight[0, :2] = 1000.0
    return model, engram


def nan_inside() -> tuple[nn.Module, Engram]:
    model = mlp()
    engram = engram_of(model)
    with torch.no_grad():
        model[2].weight[1, 1] = math.nan
    return model, engram


def lacking_a_layer() -> tuple[nn.Module, Engram]:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    return model, engram_of(mlp())


def of_other_shape() -> tuple[nn.Module, Engram]:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), engram_of(mlp())


def of_other_type() -> tuple[nn.Module, Engram]:
    return nn.Sequential(Conv1D(5, 5)), engram_of(nn.Sequential(nn.Linear(5, 5)))


def of_other_groups() -> tuple[nn.Module, Engram]:
    return nn.Sequential(nn.Conv2d(4, 6, 3, groups=2)), engram_of(nn.Sequential(nn.Conv2d(2, 6, 3)))


def without_bias() -> tuple[nn.Module, Engram]:
    model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 4, bias=False))
    return model, engram_of(mlp())


def of_unknown_type() -> tuple[nn.Module, Engram]:
    return nn.Sequential(nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(5, 4)), engram_of(mlp())


def parametrized() -> tuple[nn.Module, Engram]:
    engram = engram_of(mlp())
    model = mlp()
    nn.utils.parametrizations.weight_norm(model[2])
    return model, engram


def empty() -> tuple[nn.Module, Engram]:
    return mlp(), Engram({}, {"cat": 1.0}, None)


def no_engram() -> tuple[nn.Module, object]:
    return mlp(), {"0": torch.zeros(5, 6)}


MISFITS = [
    (overflowing, EditError, r"finite weights after the edit, got nan or inf in 2.weight \(float16\). Lower alpha"),
    (nan_inside, EditError, r"finite weights after the edit, got nan or inf in 2.weight \(float32\)"),
    (lacking_a_layer, EditError, "Expected the model to have layer '2' of the engram. Known are '0'"),
    (of_other_shape, EditError, r"layer '2' to be Linear \[4, 5\] as in the engram, got Linear \[3, 5\]"),
    (of_other_type, EditError, r"layer '0' to be Linear \[5, 5\] as in the engram, got Conv1D \[5, 5\]"),
    (of_other_groups, EditError, r"Conv2d \[6, 2, 3, 3\] as in the engram, got Conv2d \[6, 2, 3, 3\] in 2 groups"),
    (without_bias, EditError, "layer '0' to have a bias, because the engram absorbed one; it has none.*bias=False"),
    (of_unknown_type, ModelError, "Expected '0' to be of a known layer type, got BatchNorm1d"),
    (parametrized, ModelError, "parametrized"),
    (empty, EditError, "an engram with at least one layer, got an empty one"),
    (no_engram, EditError, "Expected an engram, got dict"),
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(("make", "error", "says"), MISFITS, ids=lambda v: getattr(v, "__name__", ""))
def test_what_does_not_fit_is_refused_without_a_trace(make, error, says, edit):
    model, engram = make()
    before = state(model)
    with pytest.raises(error, match=says) as caught:
        run(edit, model, engram)
    assert isinstance(caught.value, LashleyError)
    assert state(model) == before


@pytest.mark.parametrize(
    ("alpha", "says"),
    [
        (math.nan, "alpha to be a finite number, got nan for layer '0'"),
        (math.inf, "alpha to be a finite number, got inf"),
        (True, "alpha to be a finite number, got True"),
        ("1", "alpha to be a finite number, got '1'"),
        (None, "alpha to be a finite number, got None"),
        (1j, "alpha to be a finite number, got 1j"),
        (torch.tensor(1.0), "alpha to be a finite number, got tensor"),
        ({"0": 1.0}, r"alpha for every layer of the engram, got none for '2'. Give 0.0 .* or use engram.select\(...\)"),
        ({}, "got none for '0' and 1 more"),
        ({"0": 1.0, "2": 1.0, "22": 1.0}, "alpha to name layers of the engram, got '22'. Did you mean '2'"),
        ({"0": 1.0, "2": 1.0, 2: 1.0}, "alpha to name layers of the engram, got 2"),
        ({"0": 1.0, "2": math.nan}, "got nan for layer '2'"),
        ({"0": 1.0, "2": False}, "got False for layer '2'"),
        (lambda engram: {"0": 1.0}, "got none for '2'"),
        (lambda engram: math.nan, "got nan for layer '0'"),
    ],
    ids=str,
)
@pytest.mark.parametrize("edit", [ablate, inject_, ablated], ids=lambda f: f.__name__)
def test_an_alpha_that_is_no_number_for_every_layer_is_refused(edit, alpha, says):
    model = mlp()
    before = state(model)
    with pytest.raises(EditError, match=says):
        run(edit, model, engram_of(model), alpha)
    assert state(model) == before


def test_a_tie_policy_must_be_known():
    with pytest.raises(EditError, match="tied to be one of 'skip', 'untie', 'both', got 'no'"):
        ablate_(mlp(), engram_of(mlp()), tied="no")


def test_what_is_no_model_is_refused():
    with pytest.raises(ModelError, match="Expected a torch.nn.Module, got dict"):
        ablate_({}, engram_of(mlp()))


def test_a_model_made_in_inference_mode_is_edited_there_only():
    with torch.inference_mode():
        model = mlp()
    before = {name: raw(p) for name, p in model.named_parameters()}
    with pytest.raises(EditError, match=r"got an inference tensor in layer '0'.*inside torch.inference_mode\(\) too"):
        ablate_(model, engram_of(mlp()))
    assert {name: raw(p) for name, p in model.named_parameters()} == before
    with torch.inference_mode(), ablated(model, engram_of(mlp())) as receipt:
        assert receipt.changed == ("0", "2")
    assert {name: raw(p) for name, p in model.named_parameters()} == before


def test_a_failure_in_the_middle_of_writing_is_taken_back(monkeypatch):
    model = mixed()
    engram = engram_of(model, *LAYERS)
    before = state(model)
    write = apply._Target.write

    def third(target, undo):
        if target.name == "linear.bias":
            write(target, undo)
            raise KeyboardInterrupt
        return write(target, undo)

    monkeypatch.setattr(apply._Target, "write", third)
    for edit in (ablate_, ablated):
        with pytest.raises(KeyboardInterrupt):
            run(edit if edit is ablated else lambda m, e: ablate_(model, e), model, engram)
        assert state(model) == before


def test_a_warning_made_an_error_leaves_the_model_as_it_was():
    """The suite turns warnings into errors, and so may a user: then the edit did not happen."""
    model = mlp(torch.bfloat16)
    engram = engram_of(model, scale=1e-4)
    before = state(model)
    with pytest.raises(LashleyWarning):
        ablate_(model, engram)
    with pytest.raises(LashleyWarning), ablated(model, engram):
        pytest.fail("the block must not run")
    assert state(model) == before


# Given back.


def with_gradients(dtype: torch.dtype) -> Mixed:
    model = mixed(dtype).train()
    model.norm.eval()
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, float(number))
    model.linear.weight.requires_grad_(False)
    model.untouched.register_forward_hook(lambda *_: None)
    return model


class Sudden(BaseException):
    """Neither an Exception nor ours."""


@pytest.mark.parametrize("edit", [ablated, injected], ids=lambda f: f.__name__)
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, Sudden], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_very_bytes_come_back(dtype, error, edit):
    model = with_gradients(dtype)
    engram = engram_of(model, *LAYERS, scale=0.5)
    before = state(model)
    with contextlib.suppress(*([error] if error else [])), edit(model, engram, 0.7) as receipt:
        assert receipt.changed == LAYERS
        inside = state(model)
        changed = {name for name in before if inside[name] != before[name]}
        assert changed == {f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")}
        assert all(inside[name][:4] == before[name][:4] for name in changed)  # the same objects, flags and gradients
        if error:
            raise error
    assert state(model) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_adding_what_was_subtracted_would_not_give_the_bytes_back(dtype):
    """Why the old bytes are kept: the other way round loses them."""
    model = mixed(dtype)
    engram = engram_of(model, *LAYERS, scale=0.5)
    before = state(model)
    ablate_(model, engram)
    inject_(model, engram)
    assert state(model) != before


def test_odd_numbers_come_back_too():
    model = mlp()
    with torch.no_grad():
        model[0].weight[0, :3] = torch.tensor([-0.0, 1e-45, -1e-45])
    before = state(model)
    with ablated(model, engram_of(model)):
        pass
    assert state(model) == before


def test_nested_edits_come_back_in_turn():
    model = mixed(torch.bfloat16)
    first, second = engram_of(model, *LAYERS, seed=1), engram_of(model, "linear", seed=40)
    before = state(model)
    with ablated(model, first, 3.0) as outer:
        one = state(model)
        with injected(model, second, 3.0) as inner:
            assert state(model) != one
            with ablated(model, first, 3.0):
                pass
        assert state(model) == one
    assert state(model) == before
    assert (outer.base_matches, inner.base_matches) == (True, False)


def test_successive_edits_are_legal_and_the_second_says_so():
    model = mlp(torch.float64)
    engram = engram_of(model)
    start = copy.deepcopy(model)
    assert ablate_(model, engram).base_matches is True
    assert ablate_(model, engram).base_matches is False
    assert_close(model[2].weight, start[2].weight - 2 * engram["2"].weight, atol=1e-14)
    blank = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4, bias=False))
    for parameter in blank.parameters():
        nn.init.zeros_(parameter)
    blank = blank.double()
    assert inject_(blank, engram).base_matches is False
    assert_close(blank[2].weight, engram["2"].weight)
    assert raw(blank[0].bias) == raw(engram["0"].bias)
    no_base = Engram({n: type(d)(d.layer, weight=d.weight) for n, d in engram.items()}, {}, None)
    assert ablate_(model, no_base).base_matches is None


def test_autograd_notices_an_edit():
    """The version counter moves: a graph from before an edit is not used with the weights of after."""
    model = mlp()
    x = torch.randn(3, 6, requires_grad=True)
    loss = model(x).sum()
    ablate_(model, engram_of(model))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_parameters_replaced_inside_the_block_come_back():
    model = mlp()
    before = state(model)
    with ablated(model, engram_of(model)):
        model[0].weight = nn.Parameter(torch.zeros(5, 6))
    assert state(model) == before


def test_training_inside_the_block_is_forgotten_for_the_edited_layers():
    model = mlp()
    before = {n: raw(p) for n, p in model.named_parameters()}
    with ablated(model, engram_of(model)):
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        model(torch.randn(3, 6)).sum().backward()
        optimizer.step()
    assert {n: raw(p) for n, p in model.named_parameters()} == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_edits_work_in_every_gradient_mode(mode):
    model = mlp()
    before = state(model)
    with mode():
        with ablated(model, engram_of(model)):
            model(torch.randn(2, 6))
        assert state(model) == before
        inject_(model, engram_of(model))
    model(torch.randn(2, 6)).sum().backward()


def test_a_copy_is_a_copy():
    model = with_gradients(torch.float32)
    before = state(model)
    edited = ablate(model, engram_of(model, *LAYERS))
    assert type(edited) is Mixed and state(model) == before
    assert not {id(p) for p in edited.parameters()} & {id(p) for p in model.parameters()}
    assert edited.training and not edited.norm.training and not edited.linear.weight.requires_grad
    with torch.no_grad():
        for parameter in edited.parameters():
            parameter.zero_()
    assert state(model) == before


def test_wrappers_are_seen_through():
    model = mlp()
    engram = engram_of(model)
    expected = raw(ablate(model, engram)[0].weight)
    compiled = torch.compile(model, backend="eager")
    receipt = ablate_(compiled, engram)
    assert raw(model[0].weight) == expected and receipt.changed == ("0", "2")
    model = mlp()
    ablate_(nn.DataParallel(model), engram)
    assert raw(model[0].weight) == expected


# Warnings.


def warned_by(edit, *args) -> list:
    with pytest.warns(LashleyWarning) as caught:
        run(edit, *args)
    return list(caught)


@pytest.mark.parametrize("edit", EDITS, ids=lambda f: f.__name__)
def test_an_edit_that_drowns_in_rounding_warns_at_the_callers_line(edit):
    model = randomised(nn.Sequential(nn.Linear(64, 64)), torch.bfloat16)
    engram = engram_of(model, scale=1e-3)
    with pytest.warns(
        LashleyWarning, match="Rounding to bfloat16 changed the edit in 1 of 1 layers, most in '0'"
    ) as caught:
        if edit in (ablated, injected):
            with edit(model, engram):
                pass
        else:
            edit(model, engram)
    assert len(caught) == 1 and caught[0].filename == __file__


@pytest.mark.parametrize("edit", EDITS, ids=lambda f: f.__name__)
def test_an_edit_that_changes_nothing_warns(edit):
    [zero] = warned_by(edit, mlp(), 0 * engram_of(mlp()))
    assert str(zero.message) == "The edit changed nothing: the engram is zero."
    lost, nothing = warned_by(edit, mlp(torch.bfloat16), engram_of(mlp(torch.bfloat16), scale=1e-7))
    assert "100% of the change asked for is missing or extra, 0% of the weights moved" in str(lost.message)
    assert str(nothing.message) == "The edit changed nothing: rounding to bfloat16 took all of it."


def test_no_change_asked_is_no_warning():
    """alpha 0 is where a sweep starts; the suite makes every warning an error."""
    for edit in EDITS:
        run(edit, mlp(), engram_of(mlp()), 0.0)


# End to end, on real handwritten digits.


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, list[Tensor], list[Tensor]]:
    """A small trained MLP without biases, and the images it was trained on and those it was not, by digit."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    order = torch.randperm(len(x))
    x, y = x[order], y[order]
    model = nn.Sequential(nn.Linear(64, 256, bias=False), nn.ReLU(), nn.Linear(256, 10, bias=False))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[:1300]), y[:1300]).backward()
        optimizer.step()
    seen = [x[:1300][y[:1300] == digit] for digit in range(10)]
    held_out = [x[1300:][y[1300:] == digit] for digit in range(10)]
    return model, seen, held_out


def accuracies(model: nn.Module, images: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.stack([(model(x).argmax(1) == digit).float().mean() for digit, x in enumerate(images)])


def test_ten_digits_are_taken_out_one_by_one_and_put_back(digits):
    model, seen, held_out = digits
    recording = lashley.record(model, {str(d): [x] for d, x in enumerate(seen)}, progress=False)
    before, start = state(model), accuracies(model, held_out)
    assert start.mean() > 0.95
    rows = []
    for digit in range(10):
        engram = recording.engram(model, str(digit))
        with ablated(model, engram) as receipt:
            assert receipt.base_matches and receipt.changed == ("0", "2")
            rows.append(accuracies(model, held_out))
        assert state(model) == before
    fall = start - torch.stack(rows)
    own = torch.eye(10, dtype=torch.bool)
    assert torch.stack(rows)[own].mean() < 0.12
    assert fall[~own].mean() < 0.02
    assert (fall[own] > fall.masked_fill(own, -1).amax(1)).all()  # no other digit falls as deep as the ablated one


def test_an_engram_alone_in_a_blank_network_knows_its_digit_only(digits):
    model, seen, held_out = digits
    recording = lashley.record(model, {str(d): [x] for d, x in enumerate(seen)}, progress=False)
    blank = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in blank.parameters():
            parameter.zero_()
    everything = inject(blank, recording.engram(model, [str(d) for d in range(10)]))
    assert accuracies(everything, held_out).mean() > 0.95
    only = accuracies(inject(blank, recording.engram(model, "3")), held_out)
    assert only[3] > 0.9
