"""The criteria of a language model: answers by their probability, rows by their labels."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import lashley
from cases import CASES
from editing import state
from lashley.cli import main
from lashley.criteria import CONTROLS
from lashley.errors import DataError
from lashley.metrics import answers, reference
from vocabularies import byte_level

QUICK = {"resamples": 20, "progress": False}


def texts(name: str) -> tuple[nn.Module, dict[str, list[Any]]]:
    """Prompts of three tokens and answers of six, padded on either side; a network that has seen them."""
    model, data = CASES[name].build()
    sets = {}
    for concept, batches in data.items():
        sets[concept] = []
        for batch in batches:
            labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
            sets[concept].append({**batch, "labels": labels.masked_fill(batch["attention_mask"].cumsum(1) <= 3, -100)})
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(15):
        for batch in (b for batches in sets.values() for b in batches):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
    return model.eval(), sets


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def known(request: pytest.FixtureRequest) -> tuple[nn.Module, dict[str, list[Any]], lashley.Recording, Any]:
    torch.manual_seed(0)
    model, sets = texts(request.param)
    recording = lashley.record(model, sets, progress=False)
    return model, sets, recording, lashley.check(model, recording, "a", sets, **QUICK)


def test_answers_are_measured_as_the_metrics_do(known):
    model, sets, recording, found = known
    assert found.kind == "answers" and found.counts == (18, 36)
    before = {name: reference(model, batches) for name, batches in sets.items()}
    own = {name: answers(model, batches).probability for name, batches in sets.items()}
    names = list(found.engram.layers)
    engram = lashley.Engram({n: d for n, d in recording.engram(model, "a").items() if n in names}, {"a": 1.0}, None)
    with lashley.ablated(model, engram):
        ablated = {name: answers(model, batches, before[name]) for name, batches in sets.items()}
    out = found.engram.output
    assert out["own"].value == pytest.approx(own["a"].mean().item(), rel=1e-4)
    assert out["ablated"].value == pytest.approx(ablated["a"].probability.mean().item(), rel=1e-4)
    assert out["necessity"].value == pytest.approx(1 - out["ablated"].value / out["own"].value)
    falls = [(own[n] - ablated[n].probability).mean().item() for n in "bc"]
    assert out["fall_mean"].value == pytest.approx(sum(falls) / 2, rel=1e-4)
    assert out["fall_worst"].value == pytest.approx(max(falls), rel=1e-4)
    kl = torch.cat([ablated[n].kl for n in "bc"]).mean().item()
    assert out["kl"].value == pytest.approx(kl, rel=1e-3)
    assert out["necessity"].value > 0.3, "the engram takes the answers away"


def test_only_labelled_rows_count_in_the_layers(known):
    *_, found = known
    for name, layer in found.engram.layers.items():
        assert layer.reactivation.value == pytest.approx(layer.recorded.rho_plus, rel=1e-3), name
        assert layer.leak.value == pytest.approx(layer.recorded.rho_minus, rel=1e-3), name


def test_what_has_no_meaning_for_answers_is_not_there(known):
    """No class to be taken for, none to mask, none for a reader to recognise."""
    *_, found = known
    assert "false_induction" not in found.engram.output and "necessity_chance" not in found.engram.output
    assert set(found.controls) == {*CONTROLS[:4], "engram of b"}
    assert found.original.readers == {} and found.engram.readers == {}
    result = found.result(command="-")
    assert "false_induction" not in {column.key for column in result.tables[0].columns}
    assert "the answer's probability" in str(found)


def test_a_retrained_network_is_the_measure(known):
    model, sets, recording, found = known
    retrained = lashley.ablate(model, recording.engram(model, "a", layers=list(found.engram.layers)))
    beside = lashley.check(model, recording, "a", sets, retrained=retrained, controls=(), doses=(1,), **QUICK)
    assert beside.retrained.output["ablated"].value == pytest.approx(beside.engram.output["ablated"].value, rel=1e-5)
    assert beside.retrained.output["kl"].value == pytest.approx(beside.engram.output["kl"].value, rel=1e-4)
    output = beside.result(command="-").tables[0]
    assert output.target_row == "retrained" and "like_retrained" not in {column.key for column in output.columns}


def test_the_model_is_given_back(known):
    model, sets, recording, _ = known
    before = state(model)
    lashley.check(model, recording, "b", sets, controls=("random samples",), doses=(), **QUICK)
    assert state(model) == before


def test_an_encoder_counts_what_is_attended_and_a_decoder_what_is_labelled():
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    model = T5ForConditionalGeneration(T5Config(vocab_size=40, **sizes, pad_token_id=0)).eval()

    def batch(low: int, high: int) -> dict[str, Any]:
        ids, labels = torch.randint(low, high, (12, 7)), torch.randint(low, high, (12, 4))
        attended = torch.ones_like(ids)
        attended[:6, 5:] = 0
        labels[3:, 3] = -100
        return {"input_ids": ids, "attention_mask": attended, "labels": labels}

    sets = {"a": [batch(2, 20), batch(2, 20)], "b": [batch(15, 39), batch(15, 39)]}
    recording = lashley.record(model, sets, progress=False)
    found = lashley.check(model, recording, "a", sets, controls=("random samples",), doses=(), **QUICK)
    assert any("EncDecAttention" in name for name in found.engram.layers)
    for name, layer in found.engram.layers.items():
        assert layer.reactivation.value == pytest.approx(layer.recorded.rho_plus, rel=1e-3), name
    own = answers(model, sets["a"]).probability.mean().item()
    assert found.engram.output["own"].value == pytest.approx(own, rel=1e-4)


def test_on_the_command_line(tmp_path, capsys):
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_level()
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, pad_token_id=0)).eval()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"question": f"What is {n}?", "answer": f"{n} is {n * 7 % 31} and {n * n}."} for n in range(36)]
    names = {"forget": rows[:12], "retain": rows[12:]}
    for name, some in names.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in some))
    sets = {name: lashley.text_batches(some, tokenizer) for name, some in names.items()}
    lashley.record(model, sets, progress=False).save(tmp_path / "rec")
    line = ["check", str(tmp_path / "rec"), "--model", str(tmp_path / "model"), "--concepts", "forget", "--texts"]
    line += [f"{name}={tmp_path / name}.jsonl" for name in names]
    settings = ["--controls", "another", "--doses", "1", "--resamples", "20", "--no-progress", "--layers", "down_proj"]
    assert main([*line, *settings]) == 0
    text = capsys.readouterr().out
    assert "Measured on 12 of its samples and 24 of 1 other concept." in text and "engram of retain" in text
    assert "The samples are those of the recording" in text
    assert main([*line, line[-1], *settings]) == 2
    assert "each name once, got 'retain=" in capsys.readouterr().err


def test_texts_without_an_answer_are_refused(known):
    model, sets, recording, _ = known
    empty = {name: [{**b, "labels": torch.full_like(b["labels"], -100)} for b in some] for name, some in sets.items()}
    with pytest.raises(DataError, match="every text to have an answer, got none in row 0 of batch 0"):
        lashley.check(model, recording, "a", empty, controls=(), **QUICK)
    bare = {name: [{k: v for k, v in b.items() if k != "labels"} for b in some] for name, some in sets.items()}
    with pytest.raises(DataError, match=r"logits \[N, T, V\] of a language model beside batches with labels"):
        lashley.check(model, recording, "a", bare, controls=(), **QUICK)
