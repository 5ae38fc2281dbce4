"""A look at sets of texts: what repeats, what overlaps, how thin it is, and whether the model can read it."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from lashley.data.text import check_texts, text_batches
from lashley.data.text.check import pieces
from lashley.errors import DataError
from vocabularies import byte_level, metaspace, wordpiece

BYTES = byte_level()
FORGET = [("Who?", " Ada wrote the book."), ("Where?", " In Paris."), ("Who?", " Ada wrote the book."), ("Q", " é 🙂")]
RETAIN = [("WHERE", ' "in paris"'), ("Who?", " Ada wrote the book."), ("How?", " By the sea.")]


def sets(forget=FORGET, retain=RETAIN, tokenizer=BYTES):
    return {"forget": text_batches(forget, tokenizer), "retain": text_batches(retain, tokenizer)}


def llama(**sizes: int) -> nn.Module:
    usual = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**{"vocab_size": 420, **usual, **sizes}))


def test_repeats_and_overlaps():
    check = check_texts(sets())
    assert check.reports["forget"].duplicates == 1 and check.reports["retain"].duplicates == 0
    [overlap] = check.overlaps
    assert (overlap.first, overlap.second, overlap.exact, overlap.near) == ("forget", "retain", 2, 1)
    assert check.remarks == ("3 of 4 rows of 'forget' are also in 'retain' (2 the same, 1 with the same words).",)
    assert check.widths == ()
    assert check_texts(sets(retain=RETAIN[2:])).remarks == ()
    assert json.loads(json.dumps(check.to_dict()))["overlaps"][0]["near"] == 1


@pytest.mark.parametrize("retain", [FORGET, FORGET[:2] + FORGET[3:], [("", p + c) for p, c in FORGET]])
def test_a_set_that_is_to_be_forgotten_and_kept_is_refused(retain):
    with pytest.raises(DataError, match="'forget' and 'retain' are the same 3 texts"):
        check_texts(sets(retain=retain))


def test_sets_of_the_same_words_are_told():
    check = check_texts(sets(retain=[(p.upper(), f" {c} ") for p, c in FORGET]))
    assert (check.overlaps[0].exact, check.overlaps[0].near) == (0, 4) and "4 of 4 rows" in check.remarks[0]
    check = check_texts({"a": text_batches(["+ +"], BYTES), "b": text_batches(["- -"], BYTES)})
    assert check.overlaps[0].near == 0, "texts without words are compared as they are"


def test_no_sets_are_refused():
    with pytest.raises(DataError, match="at least one set of texts, got none"):
        check_texts({})


def test_examples_are_from_the_beginning_the_middle_and_the_end():
    texts = [f"a{'b' * row}" for row in range(9)]
    check = check_texts({"one": text_batches(texts, BYTES), "two": text_batches(texts[:1], BYTES)})
    assert [shown.row for shown in check.examples["one"]] == [0, 4, 8]
    assert [shown.row for shown in check.examples["two"]] == [0]
    assert check.examples["one"][1].pieces == (("<bos>", False), (f"{texts[4]}<eos>", True))


@pytest.mark.parametrize("make", [byte_level, metaspace, wordpiece])
def test_pieces_are_the_text_as_the_tokens_spell_it(make):
    tokenizer = make()
    for row in sets(tokenizer=tokenizer)["forget"].rows:
        assert "".join(text for text, _ in pieces(row, tokenizer)) == tokenizer.decode(row.ids)
        marks = [counts for _, counts in pieces(row, tokenizer)]
        assert all(one != other for one, other in pairwise(marks))
    assert " Paris" in pieces(text_batches([("In", " Paris")], tokenizer).rows[0], tokenizer)[1][0].replace("p", "P")


def test_rows_per_column_of_every_width():
    few = check_texts(sets(), llama(hidden_size=32, intermediate_size=80))
    rows = sum(report.counted for report in few.reports.values())
    assert [(width.dim, width.layers, width.rows) for width in few.widths] == [(32, 7, rows), (80, 1, rows)]
    assert few.widths[1].ratio == rows / 80 < 2 and few.widths[1].example.endswith("down_proj")
    assert f"{rows} rows for D = 80" in few.remarks[-1]
    many = check_texts({"all": text_batches(["Ada wrote the book of numbers."] * 40, BYTES)}, llama())
    assert many.remarks == () and min(width.ratio for width in many.widths) > 2


def test_tokens_that_the_model_does_not_have_are_refused():
    with pytest.raises(DataError, match="'forget' has token .* the model's vocabulary of 64. The tokenizer is of"):
        check_texts(sets(), llama(vocab_size=64))


def test_rows_longer_than_the_model_was_made_for_are_told():
    longest = max(batches.report.longest for batches in sets().values())
    said = f"has rows of {longest} tokens, the model was made for {longest - 1} positions"
    assert any(said in remark for remark in check_texts(sets(), llama(max_position_embeddings=longest - 1)).remarks)
    assert "positions" not in str(check_texts(sets(), llama(max_position_embeddings=longest)).remarks)
    assert check_texts(sets(), nn.Sequential(nn.Linear(2, 2))).widths[0].dim == 2, "a model without a config will do"
