"""Weights with more than one name: skipped, untied or edited together, and tied again afterwards."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    UMT5Config,
    UMT5ForConditionalGeneration,
)
from transformers.utils import logging as transformers_logging

import lashley
from editing import engram_of, randomised, raw, state
from helpers import assert_close
from lashley import ablate, ablate_, ablated, inject_
from lashley.errors import EditError, LashleyWarning

IDS = torch.tensor([[1, 5, 2, 7], [3, 3, 9, 0]])
SMALL = {"vocab_size": 30, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, n_positions=8, **SMALL))


def llama() -> LlamaForCausalLM:
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=1, tie_word_embeddings=True, **SMALL))


def bert() -> BertForMaskedLM:
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    return BertForMaskedLM(BertConfig(**sizes, **SMALL))


def umt5() -> UMT5ForConditionalGeneration:
    """An encoder-decoder whose forward pass asks the config whether the head is tied."""
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    return UMT5ForConditionalGeneration(UMT5Config(**sizes, tie_word_embeddings=True, **SMALL))


# The model, its head, the embedding that is tied to it, and another layer.
DECODERS = {
    gpt2: ("lm_head", "transformer.wte", "transformer.h.0.mlp.c_fc"),
    llama: ("lm_head", "model.embed_tokens", "model.layers.0.self_attn.q_proj"),
}
ALL = {
    **DECODERS,
    bert: ("cls.predictions.decoder", "bert.embeddings.word_embeddings", "bert.encoder.layer.0.output.dense"),
    umt5: ("lm_head", "shared", "encoder.block.0.layer.0.SelfAttention.q"),
}


@pytest.fixture(autouse=True)
def quiet():
    """No bars and no loading reports between the dots."""
    transformers_logging.disable_progress_bar()
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    yield
    transformers_logging.set_verbosity(level)


@pytest.fixture(params=ALL, ids=lambda make: make.__name__)
def any_tied(request):
    model = request.param().eval()
    return (model, *ALL[request.param])


@pytest.fixture(params=DECODERS, ids=lambda make: make.__name__)
def decoder(request):
    model = request.param().eval()
    return (model, *DECODERS[request.param])


def logits_and_input(model: nn.Module, head: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model says, and what its head read."""
    read = []
    handle = model.get_submodule(head).register_forward_pre_hook(lambda module, args: read.append(args[0]))
    more = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        logits = model(input_ids=IDS, **more).logits
    handle.remove()
    return logits, read[0]


# Skipping, which is the default.


def test_a_tied_head_is_left_alone_and_the_receipt_says_so(any_tied):
    model, head, embedding, other = any_tied
    engram = engram_of(model, other, head)
    before = state(model)
    receipt = ablate_(model, engram)
    changed = {name for name, now in state(model).items() if now != before[name]}
    assert changed <= {f"{other}.weight", f"{other}.bias"} and f"{other}.weight" in changed
    assert receipt.skipped == (head,) and receipt.changed == (other,)
    skipped = receipt.layers[head]
    assert skipped.status == "skipped" and f"{embedding}.weight" in skipped.note and "see tied=" in skipped.note
    assert skipped.alpha is None and skipped.error is None
    assert model.config.tie_word_embeddings is True
    assert skipped.note in str(receipt)


def test_an_edit_of_a_tied_head_alone_warns(decoder):
    model, head, _, _ = decoder
    with pytest.warns(
        LashleyWarning, match=r"changed nothing: every layer was skipped because its weight is tied \(see tied"
    ):
        receipt = ablate_(model, engram_of(model, head))
    assert receipt.changed == ()


# Untying.


def test_an_untied_head_is_edited_and_nothing_else(any_tied):
    model, head, embedding, _ = any_tied
    engram = engram_of(model, head)
    logits, read = logits_and_input(model, head)
    weight, bias = model.get_submodule(head).weight.detach().clone(), model.get_submodule(head).bias
    bias = None if bias is None else bias.detach().clone()
    kept = raw(model.get_submodule(embedding).weight)
    others = {id(p) for n, p in model.named_parameters(remove_duplicate=False) if not n.startswith(f"{head}.")}
    receipt = ablate_(model, engram, tied="untie")
    assert others == {id(p) for n, p in model.named_parameters(remove_duplicate=False) if not n.startswith(f"{head}.")}
    edited, read_now = logits_and_input(model, head)
    assert raw(read_now) == raw(read)  # not what the head reads, also where the forward pass looks at the config
    new_bias = None if bias is None else bias - engram[head].bias
    assert_close(edited, nn.functional.linear(read, weight - engram[head].weight, new_bias), atol=1e-5)
    assert (edited - logits).abs().max() > 1e-3
    assert raw(model.get_submodule(embedding).weight) == kept
    assert receipt.changed == (head,) and receipt.layers[head].note.startswith("untied from ")
    assert f"{embedding}.weight" in receipt.layers[head].note


def test_the_config_of_an_encoder_decoder_stays(any_tied):
    """Its forward pass may read it, and would do something else."""
    model, head, _, _ = any_tied
    ablate_(model, engram_of(model, head), tied="untie")
    assert model.config.tie_word_embeddings is model.config.is_encoder_decoder


def test_the_config_no_longer_promises_the_tie(decoder):
    model, head, _, _ = decoder
    model.get_submodule(head).weight.requires_grad_(False)
    ablate_(model, engram_of(model, head), tied="untie")
    assert model.config.tie_word_embeddings is False
    assert model.get_submodule(head).weight.requires_grad is False
    assert lashley.select.tied_parameters(model) == {}
    model.tie_weights()  # what loading and resizing do
    assert lashley.select.tied_parameters(model) == {}


def test_an_untied_model_keeps_the_edit_through_a_checkpoint(any_tied, tmp_path):
    model, head, _, other = any_tied
    edited = ablate(model, engram_of(model, other, head, scale=1.0), tied="untie")
    edited.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert {n: raw(p) for n, p in loaded.named_parameters()} == {n: raw(p) for n, p in edited.named_parameters()}
    assert_close(logits_and_input(loaded.eval(), head)[0], logits_and_input(edited, head)[0])


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt], ids=str)
def test_a_block_ties_again(any_tied, error):
    model, head, embedding, other = any_tied
    engram = engram_of(model, head, other)
    before, promised = state(model), model.config.tie_word_embeddings
    try:
        with ablated(model, engram, tied="untie"):
            assert model.get_submodule(head).weight is not model.get_submodule(embedding).weight
            if error:
                raise error
    except (ValueError, KeyboardInterrupt):
        assert error
    assert state(model) == before
    assert model.get_submodule(head).weight is model.get_submodule(embedding).weight
    assert model.config.tie_word_embeddings is promised is True


def test_the_original_of_a_copy_stays_tied(decoder):
    model, head, _, _ = decoder
    before = state(model)
    edited = ablate(model, engram_of(model, head), tied="untie")
    assert state(model) == before and model.config.tie_word_embeddings is True
    assert edited.config.tie_word_embeddings is False


def test_a_refused_untying_ties_again(decoder):
    model, head, _, _ = decoder
    engram = engram_of(model, head)
    engram[head].weight[0, 0] = torch.inf
    before = state(model)
    with pytest.raises(EditError, match="Expected finite weights"):
        ablate_(model, engram, tied="untie")
    assert state(model) == before and model.config.tie_word_embeddings is True


def test_a_model_inside_a_users_module_is_found(decoder):
    inner, head, _, _ = decoder

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = inner

    model = Wrapped()
    engram = engram_of(model, f"backbone.{head}")
    assert ablate_(copy.deepcopy(model), engram, tied="untie").changed == (f"backbone.{head}",)
    with ablated(model, engram, tied="untie"):
        assert inner.config.tie_word_embeddings is False
    assert inner.config.tie_word_embeddings is True


def test_a_config_keeps_its_promise_where_another_tie_was_broken(decoder):
    """Only the tie of the embeddings is in the config: a checkpoint without the head must still be able to tie it."""
    model, head, embedding, other = decoder
    twin = copy.deepcopy(model.get_submodule(other))
    twin.weight = model.get_submodule(other).weight
    model.add_module("twin", twin)
    receipt = ablate_(model, engram_of(model, other), tied="untie")
    assert "twin.weight" in receipt.layers[other].note
    assert model.config.tie_word_embeddings is True
    assert model.get_submodule(head).weight is model.get_submodule(embedding).weight


def test_untying_where_nothing_is_tied_changes_the_edit_in_nothing():
    plain = LlamaForCausalLM(LlamaConfig(**{**llama().config.to_dict(), "tie_word_embeddings": False}))
    engram = engram_of(plain, "lm_head")
    notes = [
        ablate_(copy.deepcopy(plain), engram, tied=tied).layers["lm_head"].note for tied in ("skip", "untie", "both")
    ]
    assert notes == ["", "", ""]


# Both.


def test_both_edits_what_is_shared(any_tied):
    model, head, embedding, _ = any_tied
    engram = engram_of(model, head)
    weight = model.get_submodule(head).weight.detach().clone()
    before = state(model)
    with ablated(model, engram, 0.5, tied="both") as receipt:
        assert model.get_submodule(head).weight is model.get_submodule(embedding).weight
        assert_close(model.get_submodule(embedding).weight, weight - 0.5 * engram[head].weight, atol=1e-6)
        assert receipt.layers[head].note.startswith("shared with ")
        assert model.config.tie_word_embeddings is True
    assert state(model) == before


def test_both_survives_a_checkpoint(decoder, tmp_path):
    model, head, embedding, _ = decoder
    edited = ablate(model, engram_of(model, head), tied="both")
    edited.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert raw(loaded.get_submodule(embedding).weight) == raw(edited.get_submodule(head).weight)
    assert loaded.get_submodule(head).weight is loaded.get_submodule(embedding).weight


# Layers that share one tensor among themselves.


def parameters_shared(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5))
    randomised(model, dtype)
    model[2].weight = model[0].weight
    return model


def memory_shared(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Two parameters that are different objects in one place."""
    model = parameters_shared(dtype)
    model[2].weight = nn.Parameter(model[0].weight.data)
    return model


@pytest.mark.parametrize("make", [parameters_shared, memory_shared])
def test_two_layers_on_one_tensor_get_both_deltas(make):
    model = make()
    engram = engram_of(model)
    start = model[0].weight.detach().clone()
    before = state(model)
    with ablated(model, engram, {"0": 1.0, "2": 0.5}, tied="both") as receipt:
        asked = -engram["0"].weight - 0.5 * engram["2"].weight
        assert_close(model[0].weight, start + asked, atol=1e-14)
        assert model[2].weight.data_ptr() == model[0].weight.data_ptr()
        assert receipt.changed == ("0", "2")
        for name, change in receipt.layers.items():
            bias = (1.0 if name == "0" else 0.5) * engram[name].bias
            assert change.asked == pytest.approx((asked.norm() ** 2 + bias.norm() ** 2).sqrt().item(), rel=1e-12)
            assert change.error < 1e-14  # measured against the sum that was asked for, not against a half of it
            assert change.note == f"shared with {'2' if name == '0' else '0'}.weight"
    assert state(model) == before


@pytest.mark.parametrize("make", [parameters_shared, memory_shared])
def test_two_layers_on_one_tensor_are_untied_from_each_other(make):
    model = make()
    engram = engram_of(model)
    start = model[0].weight.detach().clone()
    before = state(model)
    with ablated(model, engram, tied="untie"):
        for place, name in ((0, "0"), (2, "2")):
            assert_close(model[place].weight, start - engram[name].weight, atol=1e-14)
            assert id(model[place].bias) == before[f"{name}.bias"][0]  # what was not tied stays the same object
    assert state(model) == before
    with pytest.warns(LashleyWarning, match="every layer was skipped"):
        assert ablate_(model, engram).skipped == ("0", "2")
    assert state(model) == before


def test_a_shared_bias_is_a_tie_too():
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5))
    randomised(model, torch.float64)
    model[2].bias = model[0].bias
    engram = engram_of(model, "0")
    bias, before = model[0].bias.detach().clone(), state(model)
    with pytest.warns(LashleyWarning, match="every layer was skipped"):
        assert ablate_(model, engram).layers["0"].note.startswith("shared with 2.bias")
    with ablated(model, engram_of(model, "0", bias=False)) as receipt:
        assert receipt.changed == ("0",)  # this one does not touch the bias
    with ablated(model, engram, tied="untie"):
        assert_close(model[0].bias, bias - engram["0"].bias, atol=1e-14)
        assert_close(model[2].bias, bias)
    with ablated(model, engram, tied="both"):
        assert_close(model[2].bias, bias - engram["0"].bias, atol=1e-14)
    assert state(model) == before


# One module under two names.


class Twice(nn.Module):
    """A layer, and a whole block, that are registered under two names each."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)
        self.alias = self.layer
        self.block = nn.Sequential(nn.Linear(5, 5))
        self.again = self.block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.again(self.alias(self.block(self.layer(x))))


def test_one_module_under_two_names_is_no_tie():
    model = Twice().double()
    recording = lashley.record(model, {"cat": [torch.randn(40, 5).double()], "dog": [torch.randn(40, 5).double()]})
    engram = recording.engram(model, "cat")
    assert list(engram) == ["layer", "block.0"]
    start = model.layer.weight.detach().clone()
    receipt = ablate_(model, engram)
    assert receipt.changed == ("layer", "block.0") and receipt.skipped == ()
    assert [c.note for c in receipt.layers.values()] == ["", ""]
    assert_close(model.layer.weight, start - engram["layer"].weight, atol=1e-14)


def test_an_engram_may_use_either_name_of_a_module():
    model = Twice().double()
    for name in ("alias", "again.0"):
        engram = engram_of(model, name.replace("alias", "layer").replace("again", "block"))
        [delta] = engram.values()
        renamed = lashley.Engram({name: delta}, {"cat": 1.0}, None)
        assert inject_(model, renamed).changed == (name,)


def test_one_module_named_twice_in_an_engram_gets_the_sum():
    model = Twice().double()
    [delta] = engram_of(model, "layer").values()
    start, before = model.layer.weight.detach().clone(), state(model)
    with ablated(model, lashley.Engram({"layer": delta, "alias": delta}, {"cat": 1.0}, None)) as receipt:
        assert_close(model.layer.weight, start - 2 * delta.weight, atol=1e-14)
        assert max(change.error for change in receipt.layers.values()) < 1e-14
    assert state(model) == before


def test_a_tie_of_a_module_with_two_names_is_seen_through_either():
    model = Twice().double()
    model.other = nn.Linear(5, 5).double()
    model.other.weight = model.layer.weight
    [delta] = engram_of(model, "layer").values()
    with pytest.warns(LashleyWarning, match="every layer was skipped"):
        ablate_(model, lashley.Engram({"alias": delta}, {"cat": 1.0}, None))
    start = model.layer.weight.detach().clone()
    ablate_(model, lashley.Engram({"alias": delta}, {"cat": 1.0}, None), tied="untie")
    assert model.alias is model.layer
    assert_close(model.layer.weight, start - delta.weight, atol=1e-14)
    assert_close(model.other.weight, start)
