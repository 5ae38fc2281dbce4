"""Language models of transformers, two layers of each family: rows, sites, heads and edits against plain hooks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lashley
from helpers import assert_near
from lashley.errors import ModelError
from lashley.select import survey

VOCABULARY = 64
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GATED: dict[str, Any] = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2}
SPECIAL: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

# family: (configuration, model, settings)
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", GATED),
    "llama, tied": ("LlamaConfig", "LlamaForCausalLM", {**GATED, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", GATED),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**GATED, "head_dim": 8}),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", {**GATED, "head_dim": 8}),
    "phi": ("PhiConfig", "PhiForCausalLM", GATED),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    "gpt-neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", {**SMALL, "intermediate_size": 48}),
    "opt": ("OPTConfig", "OPTForCausalLM", {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "bert": ("BertConfig", "BertForMaskedLM", {**SMALL, "intermediate_size": 48}),
    "t5": (
        "T5Config",
        "T5ForConditionalGeneration",
        {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
         "decoder_start_token_id": 0},
    ),
}  # fmt: skip


def build(family: str, **more: Any) -> nn.Module:
    import transformers

    config, model, settings = FAMILIES[family]
    made = getattr(transformers, config)(**{**SPECIAL, **settings, **more})
    torch.manual_seed(0)
    built: nn.Module = getattr(transformers, model)(made).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in built.named_parameters():
        if name.endswith("bias"):  # they start at zero, where an error would not show
            parameter.data.normal_(0, 0.1, generator=generator)
    return built


def batches(seed: int, side: str, pairs: bool = False) -> list[dict[str, Tensor]]:
    """Sequences of 6 to 14 tokens, padded on one side, with a prompt of 2 to 4 tokens that has no labels.

    Args:
        pairs: labels of their own, as encoder-decoder models have them: shorter, and padded with -100.
    """
    generator = torch.Generator().manual_seed(seed)

    def size(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    def pad(rows: list[Tensor], value: int) -> Tensor:
        longest = max(map(len, rows))
        parts = [torch.full((longest - len(row),), value) for row in rows]
        return torch.stack([torch.cat([p, r] if side == "left" else [r, p]) for p, r in zip(parts, rows, strict=True)])

    found = []
    for _ in range(6):
        rows = [torch.randint(3, VOCABULARY, (size(6, 15),), generator=generator) for _ in range(5)]
        labels = [torch.cat([torch.full((k,), -100), row[k:]]) for row in rows for k in [size(2, 5)]]
        if pairs:
            labels = [torch.randint(3, VOCABULARY, (size(3, 9),), generator=generator) for _ in rows]
        found.append(
            {
                "input_ids": pad(rows, 0),
                "attention_mask": pad([torch.ones_like(row) for row in rows], 0),
                "labels": pad(labels, -100),
            }
        )
    return found


def expected_rows(model: nn.Module, data: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The long way: the input of every linear layer in a plain forward pass, at the positions that count."""
    kinds = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"}
    rows: dict[str, list[Tensor]] = {name: [] for name in kinds}
    for batch in data:
        counted = batch["labels"] != -100
        seen: dict[str, Tensor] = {}
        handles = [
            m.register_forward_pre_hook(lambda _, x, n=n, seen=seen: seen.update({n: x[0]})) for n, m in kinds.items()
        ]
        with torch.no_grad():
            model(**batch)
        for handle in handles:
            handle.remove()
        for name, x in seen.items():
            of_encoder = name.startswith("encoder.") or ".EncDecAttention.k" in name or ".EncDecAttention.v" in name
            t5 = type(model).__name__.startswith("T5")
            mask = batch["attention_mask"].bool() if t5 and of_encoder else counted
            rows[name].append(x.reshape(*mask.shape, -1)[mask])  # OPT flattens positions
    return {name: torch.cat(parts).double() for name, parts in rows.items()}


def data_for(family: str, side: str) -> dict[str, list[dict[str, Tensor]]]:
    return {name: batches(seed, side, family == "t5") for seed, name in enumerate(("forget", "retain"))}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_layer_is_recorded_at_the_rows_that_count(family: str, side: str) -> None:
    model, data = build(family), data_for(family, side)
    recording = lashley.record(model, data)
    for concept, its in data.items():
        rows = expected_rows(model, its)
        assert set(recording.layers) == set(rows)
        for name, x in rows.items():
            moment = recording.moment(concept, name)
            assert moment.count == len(x), name
            assert_near(moment.sum, x.sum(0), rel=1e-5)
            assert_near(moment.square, x.T @ x, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_that_read_one_tensor_share_a_site(family: str) -> None:
    recording = lashley.record(build(family), data_for(family, "right"))
    shared = {tuple(layer.rpartition(".")[2] for layer in site.layers) for site in recording.sites}
    expected = {
        "gpt2": ("c_attn",),
        "gpt-neox": ("query_key_value",),
        "bert": ("query", "key", "value"),
        "t5": ("q", "k", "v"),
        "phi": ("q_proj", "k_proj", "v_proj", "fc1"),
    }.get(family, ("q_proj", "k_proj", "v_proj"))
    found = {frozenset(names) for names in shared}
    assert frozenset(expected) in found or any(set(expected) <= names for names in found), shared


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_is_the_engram_and_a_tied_head_stays_unless_asked(family: str) -> None:
    model, data = build(family), data_for(family, "right")
    engram = lashley.record(model, data).engram(model, "forget")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    head = model.get_output_embeddings()
    tied = head.weight is model.get_input_embeddings().weight
    with lashley.ablated(model, engram, alpha=0.7) as receipt:
        for name, delta in engram.items():
            module = model.get_submodule(name)
            untouched = tied and module is head
            expected = before[f"{name}.weight"] - (0 if untouched else 0.7) * delta.weight
            assert_near(module.weight, expected, rel=1e-6)
        assert [layer for layer, change in receipt.layers.items() if change.status != "edited"] == [
            name for name in engram if tied and model.get_submodule(name) is head
        ]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_other_halves_rows_do_not_count_in_t5() -> None:
    """The wrong twin: one mask for both halves."""
    model, data = build("t5"), data_for("t5", "right")
    recording = lashley.record(model, data)
    counts = {name: recording.moment("forget", name).count for name in recording.layers}
    ids = sum(int(batch["attention_mask"].sum()) for batch in data["forget"])
    labels = sum(int((batch["labels"] != -100).sum()) for batch in data["forget"])
    assert ids != labels
    for name, count in counts.items():
        of_encoder = name.startswith("encoder.") or "EncDecAttention.k" in name or "EncDecAttention.v" in name
        assert count == (ids if of_encoder else labels), name


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma", "opt"])
def test_bfloat16_weights_get_a_receipt_that_says_what_rounding_left(family: str) -> None:
    model, data = build(family).to(torch.bfloat16), data_for(family, "right")
    engram = lashley.record(model, data).engram(model, "forget")
    receipt = lashley.ablate_(model, engram, alpha=0.5, tied="both")
    for change in receipt.layers.values():
        assert change.error is not None and 0 < change.error < 0.2
        assert 0.5 < change.moved <= 1


LORA = {"r": 4, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}


def adapted(model: nn.Module, **settings: Any) -> Any:
    peft = pytest.importorskip("peft")
    torch.manual_seed(3)
    return peft.get_peft_model(model, peft.LoraConfig(**{**LORA, **settings})).eval()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_is_part_of_the_layer_it_sits_on(family: str) -> None:
    """The engram is that of the weight the layer computes with, and an edit changes that weight by exactly it."""
    data = data_for(family, "right")
    targets = {"target_modules": ["c_attn"], "fan_in_fan_out": True} if family == "gpt2" else {}
    wrapped = adapted(build(family), **targets)
    merged = adapted(build(family), **targets).merge_and_unload()
    recording, plain = lashley.record(wrapped, data), lashley.record(merged, data)
    prefix = "base_model.model."
    assert [name.removeprefix(prefix) for name in recording.layers] == list(plain.layers)
    assert [site.rows for site in recording.sites] == [site.rows for site in plain.sites]
    engram, expected = recording.engram(wrapped, "forget"), plain.engram(merged, "forget")
    for name, delta in expected.items():
        assert_near(engram[prefix + name].weight, delta.weight, rel=1e-4)
    before = {name: value.clone() for name, value in wrapped.state_dict().items()}
    receipt = lashley.ablate_(wrapped, engram, alpha=0.8)
    lashley.ablate_(merged, expected, alpha=0.8)
    assert receipt.base_matches
    batch = data["retain"][0]
    with torch.no_grad():
        assert_near(wrapped(**batch).logits, merged(**batch).logits, rel=1e-4)
    changed = {name for name, value in wrapped.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and not any("lora_" in name for name in changed)


def test_an_adapter_that_changed_is_another_model() -> None:
    data = data_for("llama", "right")
    wrapped = adapted(build("llama"))
    recording = lashley.record(wrapped, data)
    with wrapped.disable_adapter(), pytest.raises(ModelError, match="weights that were recorded"):
        recording.engram(wrapped, "forget")
    assert recording.engram(wrapped, "forget")
    wrapped.get_submodule("base_model.model.model.layers.0.self_attn.q_proj.lora_B.default").weight.data.mul_(2)
    with pytest.raises(ModelError, match="weights that were recorded"):
        recording.engram(wrapped, "forget")


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}])
def test_an_adapter_that_is_no_plain_product_is_refused(settings: dict[str, Any]) -> None:
    model = build("qwen2") if "lora_bias" in settings else build("llama")
    targets = ["q_proj"] if "lora_bias" in settings else LORA["target_modules"]
    with pytest.raises(ModelError, match=r"expected plain LoRA.*Merge the adapter first"):
        lashley.record(adapted(model, target_modules=targets, **settings), data_for("llama", "right"))


def test_another_kind_of_adapter_is_refused_and_the_survey_says_why() -> None:
    peft = pytest.importorskip("peft")
    wrapped = peft.get_peft_model(build("llama"), peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[]))
    skipped = {entry.name: entry.reason for entry in survey(wrapped) if entry.status == "skip"}
    assert any(name.endswith("layers.0.self_attn.k_proj") and "expected LoRA" in why for name, why in skipped.items())
    assert not any("base_layer" in name for name in skipped)
    with pytest.raises(ModelError, match="expected LoRA around a linear layer, got Linear around Linear"):
        lashley.record(wrapped, data_for("llama", "right"))
    assert lashley.record(wrapped, data_for("llama", "right"), exclude_modules=["k_proj"]).layers
