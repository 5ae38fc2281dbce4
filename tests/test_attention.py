"""nn.MultiheadAttention: four layers in one module, none of which is called."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

import lashley
from lashley.errors import LashleyWarning
from tests.helpers import assert_close, assert_near, gaussian

PARTS = [f"attention.{part}" for part in ("q_proj", "k_proj", "v_proj", "out_proj")]


class Net(nn.Module):
    """Attention of ``x`` to itself, or to a memory whose keys and values have widths of their own."""

    def __init__(self, **settings) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(8, 2, **settings)
        self.head = nn.Linear(8, 3)
        self.double()

    def attend(self, x: Tensor, keys: Tensor | None = None, values: Tensor | None = None, **masks) -> Tensor:
        if keys is None:
            return self.attention(x, x, x, **masks)[0]
        return self.attention(x, value=values, key=keys, need_weights=False, **masks)[0]

    def forward(self, x: Tensor, keys: Tensor | None = None, values: Tensor | None = None, **masks) -> Tensor:
        return self.head(self.attend(x, keys, values, **masks))


X = gaussian(24, 7, 8)
MEMORY = {"keys": gaussian(24, 5, 4, seed=1), "values": gaussian(24, 5, 6, seed=2)}
FIRST = {"batch_first": True}
SETTINGS = {
    "batch first": FIRST,
    "sequence first": {},
    "no bias": {**FIRST, "bias": False},
    "bias_kv and zero attention": {**FIRST, "add_bias_kv": True, "add_zero_attn": True},
    "dropout": {**FIRST, "dropout": 0.5},
}


def batch(model: Net, start: int, stop: int, **masks) -> dict[str, Tensor]:
    x = X[start:stop]
    return {"x": x if model.attention.batch_first else x.transpose(0, 1), **masks}


def before_output(model: Net, **arguments) -> Tensor:
    """What the output projection reads, from what it makes of it."""
    with torch.no_grad():
        out, projection = model.attend(**arguments), model.attention.out_proj
        out = out if model.attention.batch_first else out.transpose(0, 1)
        bias = projection.bias if projection.bias is not None else 0
        return torch.linalg.solve(projection.weight, (out - bias).flatten(0, 1).T).T


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_self_attention_shares_one_site_for_query_key_and_value(settings):
    model = Net(**settings).eval()
    recording = lashley.record(model, {"a": [batch(model, 0, 12)], "b": [batch(model, 12, 24)]})
    assert [site.layers for site in recording.sites] == [tuple(PARTS[:3]), (PARTS[3],), ("head",)]
    rows = X[:12].flatten(0, 1)
    for name in PARTS[:3]:
        assert_near(recording.moment("a", name).square, rows.T @ rows, rel=1e-12)
    read = before_output(model, **batch(model, 0, 12))
    assert_near(recording.moment("a", PARTS[3]).square, read.T @ read, rel=1e-10)


def test_masks_reach_the_attention_that_is_computed_again():
    model = Net(**FIRST).eval()
    hidden = torch.zeros(12, 7, dtype=torch.bool)
    hidden[:, 5:] = True
    causal = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64)
    for masks in ({"key_padding_mask": hidden}, {"attn_mask": causal}, {"attn_mask": causal, "is_causal": True}):
        arguments = batch(model, 0, 12, **masks)
        recording = lashley.record(model, {"a": [arguments]})
        read = before_output(model, **arguments)
        assert_near(recording.moment("a", PARTS[3]).square, read.T @ read, rel=1e-10)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("adds", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_a_causal_hint_beside_keys_that_the_module_adds(adds, need_weights):
    """Whether the weights are asked for decides then what the mask says of those keys."""
    model = Net(**FIRST, **adds).eval()
    model.attend = lambda x, *_, **masks: model.attention(x, x, x, need_weights=need_weights, **masks)[0]
    causal = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64)
    arguments = batch(model, 0, 12, attn_mask=causal, is_causal=True)
    recording = lashley.record(model, {"a": [arguments]})
    read = before_output(model, **arguments)
    assert_near(recording.moment("a", PARTS[3]).square, read.T @ read, rel=1e-10)


def test_key_and_value_may_have_weights_of_their_own():
    model = Net(**FIRST, kdim=4, vdim=6).eval()
    arguments = {"x": X, **MEMORY}
    recording = lashley.record(model, {"a": [arguments]})
    for name, rows in zip(PARTS[:3], (X, MEMORY["keys"], MEMORY["values"]), strict=True):
        flat = rows.flatten(0, 1)
        assert_near(recording.moment("a", name).square, flat.T @ flat, rel=1e-12)
    whole = lashley.ablate(model, recording.engram(model, "a"))
    assert_close(whole.attention.k_proj_weight @ MEMORY["keys"].flatten(0, 1).T, torch.zeros(8, 120), atol=1e-6)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_edits_change_each_projections_own_part_and_give_it_back(settings):
    model = Net(**settings).eval()
    recording = lashley.record(model, {"a": [batch(model, 0, 12)], "b": [batch(model, 12, 24)]})
    engram = recording.engram(model, "a")
    before = copy.deepcopy(model.state_dict())
    assert_close(engram[PARTS[1]].weight.shape, (8, 8))
    with lashley.ablated(model, engram.select(["k_proj"])) as receipt:
        now = model.attention.in_proj_weight
        assert_close(now[8:16], before["attention.in_proj_weight"][8:16] - engram[PARTS[1]].weight, atol=1e-12)
        assert torch.equal(now[:8], before["attention.in_proj_weight"][:8])
        assert torch.equal(now[16:], before["attention.in_proj_weight"][16:])
        assert receipt.changed == (PARTS[1],)
    with lashley.ablated(model, engram) as receipt:
        assert receipt.base_matches and receipt.changed == (*PARTS, "head")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # All rows together: nothing is left of what acts on them.
    blank = lashley.ablate(model, engram + recording.engram(model, "b"))
    with torch.no_grad():
        assert_close(blank(**batch(model, 0, 24)), torch.zeros_like(model(**batch(model, 0, 24))), atol=1e-9)


def test_delta_weights_find_their_part_in_a_state_dict():
    for settings in (FIRST, {**FIRST, "kdim": 4, "vdim": 6}):
        model = Net(**settings).eval()
        arguments = {"x": X, **(MEMORY if "kdim" in settings else {})}
        recording = lashley.record(model, {"a": [arguments]})
        for base in (model, model.state_dict()):
            same = recording.engram(model, "a", base=base)
            assert all(delta.norm == 0 for delta in same.values())


def test_rows_of_a_text_are_masked_like_those_of_other_layers():
    model = Net().eval()  # positions first

    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
            return self.inner(x.transpose(0, 1))

    mask = torch.ones(24, 7, dtype=torch.long)
    mask[:, 4:] = 0
    recording = lashley.record(Text(), {"a": [{"x": X, "attention_mask": mask}]}, target_modules=["q_proj"])
    rows = X[:, :4].flatten(0, 1)
    assert_near(recording.moment("a", "inner.attention.q_proj").square, rows.T @ rows, rel=1e-12)


def test_an_engram_survives_its_file(tmp_path):
    model = Net(**FIRST).eval()
    recording = lashley.record(model, {"a": [batch(model, 0, 12)], "b": [batch(model, 12, 24)]})
    recording.save(tmp_path / "recording")
    engram = lashley.Recording.load(tmp_path / "recording").engram(model, "a")
    engram.save(tmp_path / "engram")
    again = lashley.Engram.load(tmp_path / "engram")
    with warnings.catch_warnings():
        warnings.simplefilter("error", LashleyWarning)
        one, two = lashley.ablate(model, engram), lashley.ablate(model, again)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
