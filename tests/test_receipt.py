"""What a receipt says is what was measured, and agrees with numbers worked out another way."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import lashley
from editing import engram_of, mlp, randomised, raw
from lashley import ablate, ablate_, ablated, compare, inject_
from lashley.edit import Change, Receipt
from lashley.edit.receipt import Measure, measure, pieces
from lashley.errors import EditError, LashleyWarning, ModelError


def only(receipt: Receipt) -> Change:
    [change] = receipt.layers.values()
    return change


# The receipt of an edit.


@pytest.mark.parametrize("alpha", [1.0, -0.5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_the_numbers_of_an_edit_agree_with_a_computation_in_float64(dtype, alpha):
    model = randomised(nn.Sequential(nn.Linear(30, 20)), dtype)
    engram = engram_of(model, scale=0.3)
    old = torch.cat([model[0].weight.detach().double().flatten(), model[0].bias.detach().double()])
    asked = -alpha * torch.cat([engram["0"].weight.double().flatten(), engram["0"].bias.double()])
    change = only(ablate_(model, engram, alpha))
    new = torch.cat([model[0].weight.detach().double().flatten(), model[0].bias.detach().double()])
    assert change.asked == pytest.approx(asked.norm().item(), rel=1e-6)
    assert change.before == pytest.approx(old.norm().item(), rel=1e-12)
    assert change.change == pytest.approx((new - old).norm().item(), rel=1e-12)
    assert change.moved == (new != old).double().mean().item()
    assert change.error == pytest.approx(((new - old - asked).norm() / asked.norm()).item(), rel=1e-3, abs=2e-7)
    assert (change.name, change.status, change.dtype) == ("0", "edited", str(dtype).removeprefix("torch."))
    assert change.alpha == alpha and change.note == ""


def test_in_bfloat16_a_small_edit_moves_few_weights_and_the_receipt_says_so():
    """A change of a thousandth of the weights' scale is below half the spacing of most bfloat16 numbers."""
    model = randomised(nn.Sequential(nn.Linear(200, 200, bias=False)), torch.bfloat16)
    engram = engram_of(model, scale=1e-3)
    old = model[0].weight.detach().clone()
    with pytest.warns(
        LashleyWarning, match=r"Rounding to bfloat16 .* 1 of 1 layers, most in '0': .* Edit a float32 copy"
    ):
        change = only(ablate_(model, engram))
    # By hand: a number moves when the nearest bfloat16 is another one; float32 holds old + step well enough to tell.
    nearest = (old.float() - engram["0"].weight).bfloat16()
    assert raw(model[0].weight) == raw(nearest)
    assert change.moved == (nearest != old).double().mean().item()
    step = nearest.double() - old.double()
    asked = -engram["0"].weight.double()
    assert change.error == pytest.approx(((step - asked).norm() / asked.norm()).item(), rel=1e-6)
    assert 0.15 < change.moved < 0.35 and change.error > 0.5


def test_weight_and_bias_are_measured_together():
    model = mlp(torch.float64)
    engram = engram_of(model, "0")
    engram["0"].weight.zero_()
    change = only(ablate_(model, engram))
    assert change.moved == 5 / 35
    assert change.change == pytest.approx(engram["0"].bias.norm().item(), rel=1e-12)
    both = torch.cat([p.detach().flatten() for p in mlp(torch.float64)[0].parameters()])
    assert change.before == pytest.approx(both.norm().item(), rel=1e-12)


def test_what_was_asked_for_but_did_not_happen_is_unchanged():
    model = mlp(torch.bfloat16)
    with pytest.warns(LashleyWarning):
        receipt = ablate_(model, engram_of(model, scale=1e-8))
    assert [c.status for c in receipt.layers.values()] == ["unchanged", "unchanged"]
    assert [c.error for c in receipt.layers.values()] == [1.0, 1.0]
    assert receipt.changed == ()


def test_changed_and_skipped_name_layers():
    model = mlp()
    receipt = ablate_(model, engram_of(model), {"0": 1.0, "2": 0.0})
    assert receipt.changed == ("0",) and receipt.skipped == ()
    assert list(receipt.layers) == ["0", "2"]
    nothing = receipt.layers["2"]
    assert (nothing.status, nothing.error, nothing.asked, nothing.change) == ("unchanged", 0.0, 0.0, 0.0)


def test_the_receipt_of_a_block_is_that_of_the_edit():
    model = mlp()
    with ablated(model, engram_of(model), 0.5) as receipt:
        pass
    assert receipt.to_dict() == ablate_(model, engram_of(model), 0.5).to_dict()


# As text and as JSON.


def test_a_receipt_is_jsonable_and_complete():
    model = mlp()
    receipt = inject_(model, engram_of(model), 0.5)
    document = receipt.to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["base_matches"] is True and document["only_before"] == [] == document["only_after"]
    assert [row["name"] for row in document["layers"]] == ["0", "2"]
    assert set(document["layers"][0]) == set(Change.__dataclass_fields__)
    assert document["layers"][0]["alpha"] == -0.5


def test_numbers_that_do_not_exist_are_none():
    receipt = Receipt({"a": Change("a", "skipped", "float32")})
    [row] = receipt.to_dict()["layers"]
    assert row["before"] is None and row["alpha"] is None and row["error"] is None


TABLE = """\
layer        status     alpha  ||change||/||W||  moved   realised error  dtype     note
first        edited     1      0.2500            100.0%  1.0e-08         float32
second.long  unchanged  0.5    0.0000            0.0%    1.0e+00         bfloat16
head         skipped                                                     float32   shared with x
blank        edited     -1     inf               50.0%   0.0e+00         float32
nothing      unchanged  1      0.0000            0.0%    0.0e+00         float32
The weights before the edit were not those the engram was solved for."""


def test_a_receipt_reads_as_a_table():
    changes = [
        Change("first", "edited", "float32", 1.0, asked=1.0, change=1.0, before=4.0, moved=1.0, error=1e-8),
        Change("second.long", "unchanged", "bfloat16", 0.5, asked=1.0, change=0.0, before=4.0, moved=0.0, error=1.0),
        Change("head", "skipped", "float32", note="shared with x"),
        Change("blank", "edited", "float32", -1.0, asked=1.0, change=1.0, before=0.0, moved=0.5, error=0.0),
        Change("nothing", "unchanged", "float32", 1.0, asked=0.0, change=0.0, before=0.0, moved=0.0, error=0.0),
    ]
    assert str(Receipt({c.name: c for c in changes}, base_matches=False)) == TABLE


def test_a_comparison_reads_as_a_table_of_what_differs():
    before = {"a": torch.ones(4), "b": torch.zeros(2), "gone": torch.zeros(1)}
    after = {
        "a": torch.tensor([1.0, 1.0, 1.0, 2.0]),
        "b": torch.zeros(2),
        "new": torch.zeros(1),
        "other": torch.zeros(1),
    }
    assert str(compare(before, after)).splitlines() == [
        "layer  status  ||change||/||W||  moved  dtype",
        "a      edited  0.5000            25.0%  float32",
        "1 of 2 tensors are equal.",
        "Only before: gone",
        "Only after: new, other",
    ]
    assert str(compare(before, before)) == "3 of 3 tensors are equal."
    assert str(Receipt({})) == ""


# Comparing.


def test_a_model_equals_itself_and_its_copy_differs_where_it_was_edited():
    model = mlp()
    assert compare(model, model).changed == ()
    edited = ablate(model, engram_of(model, "2"))
    receipt = compare(model, edited)
    assert list(receipt.layers) == list(model.state_dict())
    assert receipt.changed == ("2.weight",) and receipt.base_matches is None
    change = receipt.layers["2.weight"]
    difference = edited[2].weight.detach().double() - model[2].weight.detach().double()
    assert change.change == pytest.approx(difference.norm().item(), rel=1e-12)
    assert change.before == pytest.approx(model[2].weight.double().norm().item(), rel=1e-12)
    assert (change.alpha, change.asked, change.error, change.status) == (None, None, None, "edited")
    assert receipt.layers["0.weight"].status == "unchanged"


def test_models_and_state_dicts_compare_alike():
    model, edited = mlp(), ablate(mlp(), engram_of(mlp()))
    expected = compare(model, edited).to_dict()
    sides = (model.state_dict(), edited.state_dict())
    assert (
        compare(*sides).to_dict()
        == compare(model, sides[1]).to_dict()
        == compare(sides[0], edited).to_dict()
        == expected
    )
    assert compare(torch.compile(model, backend="eager"), edited).to_dict() == expected


def test_buffers_are_compared_too():
    a, b = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    b(torch.randn(8, 3))
    assert set(compare(a, b).changed) == {"running_mean", "running_var", "num_batches_tracked"}


def test_names_on_one_side_only_are_told():
    full, part = nn.Linear(3, 2), nn.Linear(3, 2, bias=False)
    assert compare(full, part).only_before == ("bias",) and compare(full, part).only_after == ()
    assert compare(part, full).only_after == ("bias",)


def test_another_dtype_is_noted():
    model = mlp()
    half = mlp().bfloat16()
    change = compare(model, half).layers["0.weight"]
    assert (change.dtype, change.note, change.status) == ("bfloat16", "was float32", "edited")
    assert 0 < change.change / change.before < 4e-3
    same = compare({"a": torch.ones(2)}, {"a": torch.ones(2).bfloat16()}).layers["a"]
    assert (same.status, same.note) == ("unchanged", "was float32")


def test_equal_infinities_and_nans_have_not_moved():
    odd = torch.tensor([math.inf, -math.inf, math.nan, 1.0])
    change = compare({"a": odd}, {"a": odd.clone()}).layers["a"]
    assert (change.moved, change.change, change.status) == (0.0, 0.0, "unchanged")
    change = compare({"a": odd}, {"a": torch.tensor([math.inf, math.inf, math.nan, 2.0])}).layers["a"]
    assert change.moved == 0.5
    assert compare({"a": odd}, {"a": odd + 1}).to_dict()["layers"][0]["before"] is None


@pytest.mark.parametrize(
    ("a", "b", "moved", "change"),
    [
        (torch.tensor(3), torch.tensor(5), 1.0, 2.0),
        (torch.tensor([2**53]), torch.tensor([2**53 + 1]), 1.0, 0.0),  # further than float64 can tell
        (torch.tensor([True, False]), torch.tensor([True, True]), 0.5, 1.0),
        (torch.tensor([1 + 1j]), torch.tensor([1 + 4j]), 0.5, 3.0),
        (torch.zeros(0, 3), torch.zeros(0, 3), 0.0, 0.0),
        (torch.randn(3, 4).mT, torch.zeros(4, 3), 1.0, None),
    ],
    ids=lambda v: str(getattr(v, "dtype", "")),
)
def test_tensors_of_every_kind_are_compared(a, b, moved, change):
    found = compare({"x": a}, {"x": b}).layers["x"]
    assert found.moved == moved
    assert found.change == pytest.approx((a.double() - b.double()).norm().item() if change is None else change)


def test_other_architectures_are_refused():
    with pytest.raises(
        EditError, match=r"Expected '0.weight' to have one shape, got \[5, 6\] before and \[4, 6\] after"
    ):
        compare(mlp(), nn.Sequential(nn.Linear(6, 4)))


def test_what_is_no_state_dict_is_refused():
    with pytest.raises(ModelError, match="Expected a model or a state dict, got str"):
        compare("model.pt", mlp())
    with pytest.raises(ModelError, match="got OrderedDict under 'model'. Does the state dict lie deeper inside"):
        compare(mlp(), {"model": mlp().state_dict(), "step": 3})


def test_state_that_is_no_tensor_is_passed_over():
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"version": 1}

        def set_extra_state(self, state):
            """Nothing to set."""

    assert list(compare(Extra(2, 2), Extra(2, 2)).layers) == ["weight", "bias"]


# The instruments.


def test_measures_add_like_the_tensors_put_together():
    a, b, asked = (torch.randn(5, 7) for _ in range(3))
    b[0] = a[0]
    parts = [measure(x, y, z) for x, y, z in zip(a.split(2), b.split(2), asked.split(2), strict=True)]
    total = parts[0] + parts[1] + parts[2]
    whole = measure(a, b, asked)
    for field in Measure.__dataclass_fields__:
        assert getattr(total, field) == pytest.approx(getattr(whole, field), rel=1e-12)
    unasked = total + replace(whole, asked=None, missed=None)
    assert unasked.asked is None and unasked.numbers()["error"] is None
    assert (unasked.moved, unasked.total) == (2 * 28, 2 * 35)


def test_pieces_cover_everything_once():
    for tensor in (torch.arange(5.0), torch.tensor(3.0), torch.zeros(0, 2), torch.randn(4, 3, 2)):
        again = torch.cat([piece for (piece,) in pieces(tensor)])
        assert raw(again.reshape(tensor.shape)) == raw(tensor)
    huge = torch.zeros(1, device="meta").expand(3 * 2**21, 4)
    assert [len(piece) for (piece,) in pieces(huge)] == [2**20] * 6


def test_a_receipt_is_reached_through_the_public_names():
    assert isinstance(lashley.compare(mlp(), mlp()), Receipt)
