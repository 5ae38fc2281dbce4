"""Rows of text as batches: what counts, token for token, under every kind of tokenizer."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import lashley
from helpers import assert_close
from lashley.data.text import QUESTION_ANSWER, Template
from lashley.data.text.check import pieces
from lashley.errors import DataError, LashleyWarning
from vocabularies import (
    CHATML,
    LLAMA_3,
    MARKED,
    SIGNED,
    THINKING,
    UNCLOSED,
    Slow,
    byte_level,
    instructed,
    metaspace,
    wordpiece,
)

BYTES = byte_level()
TRIMMED = byte_level(trim=True)
QA = {"question": "Who is Ada?", "answer": "Ada wrote the book."}
PAIRS = [
    ("Question: Who is Ada?\nAnswer:", " Ada wrote."),
    ("Where?\nAnswer:", " The river ends in Paris, by the sea."),
]


def counted(batches, row: int = 0) -> str:
    """The text of the tokens that count in one row."""
    found = batches.rows[row]
    return batches.tokenizer.decode([i for i, counts in zip(found.ids, found.counts, strict=True) if counts])


def whole(batches, row: int = 0) -> str:
    return batches.tokenizer.decode(batches.rows[row].ids)


def rows_in(batch: dict[str, torch.Tensor]) -> list[list[tuple[int, int]]]:
    """Of every row the real tokens with their labels, wherever the padding is."""
    return [
        list(zip(ids[mask.bool()].tolist(), labels[mask.bool()].tolist(), strict=True))
        for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)
    ]


# --- what a row may be ------------------------------------------------------------------------------------------------

FORMS = {
    "text": ("Ada wrote.", "<bos>", "Ada wrote.<eos>"),
    "pair": (("Who?", " Ada wrote."), "<bos>Who?", " Ada wrote.<eos>"),
    "list pair": (["Who?", " Ada wrote."], "<bos>Who?", " Ada wrote.<eos>"),
    "prompt, completion": ({"prompt": "Who?", "completion": " Ada.", "id": 3}, "<bos>Who?", " Ada.<eos>"),
    "question, answer": (QA, "<bos>Question: Who is Ada?\nAnswer:", " Ada wrote the book.<eos>"),
    "text column": ({"text": "Ada wrote."}, "<bos>", "Ada wrote.<eos>"),
}


@pytest.mark.parametrize(("row", "prompt", "answer"), FORMS.values(), ids=FORMS)
def test_a_row_of_every_form(row, prompt, answer):
    batches = lashley.text_batches([row], BYTES)
    assert whole(batches) == prompt + answer and counted(batches) == answer
    [batch] = batches
    assert batch["attention_mask"].all() and batch["input_ids"].dtype == batch["labels"].dtype == torch.int64
    kept = batch["labels"] != -100
    assert_close(batch["labels"][kept], batch["input_ids"][kept])
    assert kept.sum() == batches.report.counted


def test_all_rows_count_when_asked():
    batches = lashley.text_batches([QA], BYTES, rows_of="all")
    [batch] = batches
    assert_close(batch["labels"], batch["input_ids"])
    assert batches.report.counted == batches.report.tokens and "all tokens count" in str(batches)


def test_columns_and_templates():
    row = {"q": "Who is Ada?", "a": "Ada.", "text": "other"}
    batches = lashley.text_batches([row], BYTES, columns={"answer": "a", "question": "q"})
    assert whole(batches) == "<bos>Question: Who is Ada?\nAnswer: Ada.<eos>"
    batches = lashley.text_batches(
        [row], BYTES, columns={"question": "q", "answer": "a"}, template=("Q {q} {text}", " {a}")
    )
    assert whole(batches) == "<bos>Q Who is Ada? other Ada.<eos>" and counted(batches) == " Ada.<eos>"
    batches = lashley.text_batches([{"a": "Ada", "b": "{a}"}], BYTES, template=Template('{"x": {a}', " {b}}"))
    assert whole(batches) == '<bos>{"x": Ada {a}}<eos>', "braces and values stay as they are"
    assert Template("{b} {a}", "{b}").fields == ("b", "a")
    batches = lashley.text_batches([{**row, "prompt": "x", "completion": "y"}], BYTES, template=("{prompt}", "{text}"))
    assert whole(batches) == "<bos>xother<eos>", "a template that names its columns leaves nothing to guess"
    tokenizer = instructed(CHATML, **CHAT_EOS)
    assert "A writer." in counted(lashley.text_batches([{"talk": TALK}], tokenizer, columns={"messages": "talk"}))


def test_a_generator_is_read_once_and_the_batches_any_number_of_times():
    batches = lashley.text_batches((pair for pair in PAIRS * 3), BYTES, batch_size=4)
    first, second = list(batches), list(batches)
    assert len(batches) == len(first) == len(second) == 2
    for one, other in zip(first, second, strict=True):
        assert one is not other and all(torch.equal(one[key], other[key]) for key in one)


def test_batches_are_sorted_longest_first_unless_told_otherwise():
    texts = ["a b", "a b c d e f", "a", "a b c d"]
    batches = lashley.text_batches(texts, BYTES, batch_size=2)
    assert batches.order == [1, 3, 0, 2]
    assert [row.row for row in batches.rows] == [0, 1, 2, 3]
    lengths = [int(length) for batch in batches for length in batch["attention_mask"].sum(1)]
    assert lengths == sorted(lengths, reverse=True)
    plain = lashley.text_batches(texts, BYTES, batch_size=2, sort=False)
    assert plain.order == [0, 1, 2, 3] and plain.fingerprint == batches.fingerprint


def test_the_fingerprint_is_of_tokens_and_of_what_counts():
    same = lashley.text_batches(PAIRS, BYTES, batch_size=1)
    assert same.fingerprint == lashley.text_batches(PAIRS, BYTES).fingerprint
    others = [lashley.text_batches(PAIRS, BYTES, rows_of="all"), lashley.text_batches(PAIRS[:1], BYTES)]
    assert len({same.fingerprint, *(other.fingerprint for other in others)}) == 3


class Frame(list):
    """Iterates the names of its columns, as data frames do."""

    columns = iloc = ("question", "answer")


WRONG_ROWS = {
    "frame": (Frame(("question", "answer")), r"got Frame. Give frame.to_dict\('records'\)"),
    "nothing": ([], "at least one row, got none"),
    "used up": (iter(()), "already used up"),
    "one mapping": (QA, r"Wrap a single row in a list"),
    "not iterable": (3, "an iterable of texts"),
    "a number": (["a", 3], "Row 1: expected a text, a pair .* got int 3"),
    "three parts": ([("a", "b", "c")], "Row 0: .* got tuple"),
    "unknown columns": ([{"body": "x", "title": "y"}], "Row 0: expected columns text; .* are 'body', 'title'"),
    "two ways": ([{"text": "x", **QA}], "question and answer as well as text, so that it could be read in 2 ways"),
    "no text": ([{"text": None}], "expected column 'text' to be a text, got NoneType"),
    "list": ([{"question": "a", "answer": ["b"]}], r"column 'answer' to be a text, got list \['b'\]"),
    "empty answer": ([PAIRS[0], ("Who?", " ")], r"Row 1: its answer is empty \(' '\)"),
    "no messages": ([{"messages": []}], "list of {'role': ..., 'content': ...}, got list"),
    "no role": ([[{"content": "x"}]], "got dict .* as message 0"),
    "content of parts": ([[{"role": "user", "content": [{}]}]], "the content of message 0 to be a text"),
    "nobody answers": (
        [[{"role": "user", "content": "x"}]],
        "no turn of the role 'assistant' has a text, .*roles: user",
    ),
}


@pytest.mark.parametrize(("rows", "says"), WRONG_ROWS.values(), ids=WRONG_ROWS)
def test_a_row_that_cannot_be_read_is_named(rows, says):
    with pytest.raises(DataError, match=says):
        lashley.text_batches(rows, BYTES)


WRONG_OPTIONS = {
    "batch size": ({"batch_size": 0}, "batch_size to be a whole number"),
    "rows_of": ({"rows_of": "prompt"}, 'rows_of to be "answer" or "all", got \'prompt\''),
    "max_length": ({"max_length": 0}, "max_length to be a whole number"),
    "template": ({"template": "Q: {question}"}, "template to be a pair of texts"),
    "field": (
        {"template": ("{ask}", "{answer}")},
        "asks for 'ask', which is not there. Its columns are 'question'",
    ),
    "columns": ({"columns": {"ask": "question"}}, "columns to name the column of each field"),
    "column": ({"columns": {"text": "anwser"}}, "no column 'anwser'. .* Did you mean 'answer'"),
}


@pytest.mark.parametrize(("options", "says"), WRONG_OPTIONS.values(), ids=WRONG_OPTIONS)
def test_an_option_that_makes_no_sense_is_refused(options, says):
    with pytest.raises(DataError, match=says):
        lashley.text_batches([QA], BYTES, **options)
    assert lashley.text_batches([QA], BYTES, template=QUESTION_ANSWER).fingerprint


def test_a_model_in_the_place_of_the_tokenizer_is_refused():
    with pytest.raises(DataError, match="one of Hugging Face transformers, got Linear"):
        lashley.text_batches([QA], nn.Linear(1, 1))


SPACED = ("Question: {question}\nAnswer: ", "{answer}")

# --- the boundary -----------------------------------------------------------------------------------------------------


def by_prompt_length(prompt: str, completion: str, tokenizer: Any) -> list[int]:
    """The wrong twin: what most scripts do, labels cut at the length of the tokenized prompt."""
    start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    return tokenizer(prompt + completion, add_special_tokens=False)["input_ids"][start:]


@pytest.mark.parametrize("tokenizer", [BYTES, TRIMMED], ids=["raw offsets", "trimmed offsets"])
def test_a_token_that_straddles_counts_and_the_wrong_twin_loses_it(tokenizer):
    prompt, completion = "Answer: ", "Ada wrote"
    batches = lashley.text_batches([(prompt, completion)], tokenizer)
    assert counted(batches) == " Ada wrote<eos>"
    assert tokenizer.decode(by_prompt_length(prompt, completion, tokenizer)) == " wrote"
    assert batches.report.straddling == 1 and "1 tokens straddle" in str(batches)
    good = lashley.text_batches([(prompt.rstrip(), " " + completion)], tokenizer)
    assert good.rows[0].ids == batches.rows[0].ids and good.rows[0].counts == batches.rows[0].counts
    assert good.report.straddling == 0


@pytest.mark.parametrize(
    ("make", "expected"),
    [(metaspace, "Ada wrote the book.</s>"), (wordpiece, "ada wrote the book."), (Slow, " Ada wrote the book.<eos>")],
    ids=["metaspace", "wordpiece", "slow"],
)
def test_the_answer_counts_under_every_kind_of_tokenizer(make, expected):
    tokenizer = make()
    batches = lashley.text_batches([QA], tokenizer)
    assert counted(batches) == expected
    prompt = [i for i, counts in zip(batches.rows[0].ids, batches.rows[0].counts, strict=True) if not counts]
    assert "ada?" in tokenizer.decode(prompt).lower() and "wrote" not in tokenizer.decode(prompt)
    assert batches.report.offsets == (make is not Slow) != ("one after the other" in str(batches))


def test_a_space_between_prompt_and_answer_that_no_token_holds_straddles_nothing():
    assert lashley.text_batches([("Answer: ", "Ada wrote")], wordpiece()).report.straddling == 0
    assert lashley.text_batches([("Answer: ", "Ada wrote")], metaspace()).report.straddling == 1


TEXTS = st.text(
    st.sampled_from("aAd ée.\n\t🙂<'1") | st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12
)


@given(prompt=TEXTS, completion=TEXTS.filter(str.strip))
def test_what_counts_is_the_answer_and_at_most_the_token_it_begins_in(prompt, completion):
    for tokenizer in (BYTES, TRIMMED):
        batches = lashley.text_batches([(prompt, completion)], tokenizer)
        row = batches.rows[0]
        first = row.counts.index(True)
        assert all(row.counts[first:]), "the answer is at the end, and so is what counts"
        assert whole(batches) == f"<bos>{prompt}{completion}<eos>"
        assert counted(batches).endswith(f"{completion}<eos>")
        shorter = tokenizer.decode(row.ids[first + 1 :])
        assert not shorter.endswith(f"{completion}<eos>"), "one token less would not hold the answer"
    assert len({tuple(lashley.text_batches([(prompt, completion)], t).rows[0].counts) for t in (BYTES, TRIMMED)}) == 1


@given(prompt=TEXTS.map(str.rstrip), answer=TEXTS.map(str.strip).filter(bool))
def test_what_counts_is_exactly_the_answer_where_a_token_begins_with_it(prompt, answer):
    """A line break ends a token of byte-level BPE only before a word; a colon always does."""
    batches = lashley.text_batches([(f"{prompt}:", f" {answer}")], BYTES)
    if batches.report.straddling == 0:
        assert counted(batches) == f" {answer}<eos>"
    else:
        assert counted(batches).startswith(":")


@given(st.lists(st.tuples(TEXTS, TEXTS.filter(str.strip)), min_size=1, max_size=7), st.integers(1, 8))
def test_neither_the_batch_size_nor_the_side_of_the_padding_changes_a_row(pairs, size):
    left = byte_level(padding_side="left")
    by_one = lashley.text_batches(pairs, BYTES, batch_size=1)
    expected = [row for batch in by_one for row in rows_in(batch)]
    for tokenizer in (BYTES, left):
        batches = lashley.text_batches(pairs, tokenizer, batch_size=size)
        assert [row for batch in batches for row in rows_in(batch)] == expected
        for batch in batches:
            padding = batch["attention_mask"] == 0
            assert (batch["labels"][padding] == -100).all() and (batch["input_ids"][padding] == 0).all()
            steps = batch["attention_mask"].diff(dim=1)
            assert ((steps >= 0) if tokenizer is left else (steps <= 0)).all()


# --- BOS, EOS, padding, length ----------------------------------------------------------------------------------------


def test_one_bos_and_one_eos_whoever_writes_them():
    rows = ["Ada", "<bos>Ada", "Ada<eos>", "<bos>Ada<eos>"]
    batches = lashley.text_batches(rows, BYTES)
    assert {whole(batches, row) for row in range(4)} == {"<bos>Ada<eos>"}
    assert batches.report.bos == batches.report.eos == {"lashley": 2, "text": 2}
    assert "BOS <bos>: added by lashley (2 rows), the text has it (2 rows)" in str(batches)
    assert batches.report.doubled == ()


def test_what_the_tokenizer_adds_is_not_added_again():
    batches = lashley.text_batches(["Ada wrote"], metaspace())
    assert whole(batches) == "<s> Ada wrote</s>" and batches.rows[0].ids[:2].count(1) == 1
    assert batches.report.bos == {"tokenizer": 1} and batches.report.eos == {"lashley": 1}
    bert = lashley.text_batches(["Ada wrote", "[CLS] Ada wrote [SEP]"], wordpiece())
    assert whole(bert) == "[CLS] ada wrote [SEP]" and counted(bert) == "ada wrote"
    assert bert.rows[0].ids == bert.rows[1].ids and bert.rows[1].bos == "text"
    assert bert.report.bos_token == "[CLS]" and bert.report.bos == bert.report.eos == {"tokenizer": 1, "text": 1}


def test_two_bos_in_the_text_itself_are_told():
    with pytest.warns(LashleyWarning, match="1 rows begin with two BOS or end with two EOS, first row 1"):
        batches = lashley.text_batches(["Ada", "<bos><bos>Ada"], BYTES)
    assert batches.report.doubled == (1,) and whole(batches, 1) == "<bos><bos>Ada<eos>"


def test_a_tokenizer_without_bos_and_eos_says_so():
    bare = byte_level("<unk>", unk_token="<unk>")
    batches = lashley.text_batches(["Ada"], bare)
    assert whole(batches) == counted(batches) == "Ada"
    assert batches.report.bos == batches.report.eos == {"nobody": 1} and batches.report.bos_token is None
    assert "EOS (the tokenizer has none): none" in str(batches)


@pytest.mark.parametrize(
    ("tokenizer", "pad_is", "pad"),
    [
        (BYTES, "pad", 0),
        (byte_level("<bos>", "<eos>"), "eos", 1),
        (byte_level("<x>", "<unk>", unk_token="<unk>"), "unk", 1),
        (byte_level("<x>"), "id 0", 0),
    ],
    ids=["pad", "eos", "unk", "nothing"],
)
def test_what_fills_short_rows_is_masked_by_length(tokenizer, pad_is, pad):
    batches = lashley.text_batches(["Ada wrote the book", "Ada"], tokenizer)
    [batch] = batches
    short = len(batches.rows[1].ids)
    assert batches.report.pad == pad_is and ("stands in" in str(batches)) == (pad_is != "pad")
    assert (batch["input_ids"][1, short:] == pad).all()
    assert batch["attention_mask"][1].tolist() == [1] * short + [0] * (batch["input_ids"].shape[1] - short)
    assert (batch["labels"][1, short:] == -100).all()


def test_tokens_of_the_text_that_look_like_padding_are_no_padding():
    """Where EOS stands in for padding, a mask made by comparing ids would hide the ends of every turn."""
    tokenizer = instructed(LLAMA_3, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
    row = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada"}]
    batches = lashley.text_batches([row], tokenizer, chat={"date_string": "10 Apr 2025"})
    [batch] = batches
    ends = batch["input_ids"][0] == tokenizer.eos_token_id
    assert batches.report.pad == "eos" and ends.sum() == 3 and batch["attention_mask"].all()
    assert (batch["labels"][0, ends] != -100).tolist() == [False, False, True]


def test_long_rows_are_cut_on_the_right_and_told():
    full = lashley.text_batches(PAIRS, BYTES)
    limit = len(full.rows[0].ids)
    with pytest.warns(LashleyWarning, match=f"1 of 2 rows are longer than {limit} tokens .* first row 1"):
        batches = lashley.text_batches(PAIRS, BYTES, max_length=limit)
    assert batches.rows[0] == full.rows[0]
    assert batches.rows[1].ids == full.rows[1].ids[:limit] and batches.rows[1].counts == full.rows[1].counts[:limit]
    assert batches.rows[1].eos == "nobody" and batches.report.eos == {"lashley": 1, "nobody": 1}
    assert batches.rows[1].truncated == len(full.rows[1].ids) - limit
    assert batches.report.truncated == (1,) and batches.report.longest == limit
    assert f"1 rows cut at {limit} tokens, first row 1" in str(batches)


def test_the_limit_of_the_tokenizer_is_the_default():
    with pytest.warns(LashleyWarning, match="longer than 14 tokens"):
        assert lashley.text_batches(PAIRS, byte_level(model_max_length=14)).report.max_length == 14
    assert lashley.text_batches(PAIRS, BYTES).report.max_length is None, "its limit of 1e30 is none"


def test_an_answer_that_is_cut_away_is_an_error_that_names_the_row():
    with pytest.raises(DataError, match="Row 1 has no token of an answer left after the cut at 5 tokens"):
        lashley.text_batches([("Who?", " Ada"), ("Who is Ada, and where is she?", " Ada")], BYTES, max_length=5)
    with pytest.raises(DataError, match="Rows 0, 1, 2, 3, 4 and 2 more have no token of an answer left"):
        lashley.text_batches([("Question: Who is Ada?", " Ada")] * 7, BYTES, max_length=2)
    with pytest.warns(LashleyWarning, match="longer than 2 tokens"):
        assert lashley.text_batches(["Ada"], BYTES, max_length=2).report.counted == 1


def test_the_tokenizer_is_not_changed():
    tokenizer = byte_level("<bos>", "<eos>")
    before = {key: repr(value) for key, value in vars(tokenizer).items()}
    lashley.text_batches([*PAIRS, QA], tokenizer, rows_of="all")
    assert {key: repr(value) for key, value in vars(tokenizer).items()} == before and tokenizer.pad_token is None


def test_repeated_texts_are_counted():
    report = lashley.text_batches([*PAIRS, PAIRS[0], "".join(PAIRS[0])], BYTES).report
    assert report.duplicates == 2 and "2 rows repeat an earlier one" in str(report)


# --- chats ------------------------------------------------------------------------------------------------------------

TALK = [
    {"role": "user", "content": "Who is Ada?"},
    {"role": "assistant", "content": "A writer."},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "In Paris."},
]
CHAT_EOS = {"bos_token": "<|begin_of_text|>", "eos_token": "<|im_end|>"}


def test_llama_3_rendered_and_labelled():
    """The numbers of TOFU's evaluation: system prompt, fixed date, trimmed contents, the answer with <|eot_id|>."""
    tokenizer = instructed(LLAMA_3, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
    chat = {"system": "You are a helpful assistant.", "date_string": "10 Apr 2025"}
    batches = lashley.text_batches([{"question": " Who is Ada? ", "answer": "A writer.\n"}], tokenizer, chat=chat)
    prompt = (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 10 Apr 2025\n\nYou are a helpful assistant.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        "Who is Ada?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert pieces(batches.rows[0], tokenizer) == ((prompt, False), ("A writer.<|eot_id|>", True))
    assert batches.report.bos == batches.report.eos == {"chat template": 1}
    assert batches.rows[0].ids == tuple(
        tokenizer(prompt + "A writer.<|eot_id|>", add_special_tokens=False)["input_ids"]
    )


@pytest.mark.parametrize("template", [CHATML, MARKED], ids=["found", "marked"])
def test_every_turn_of_the_assistant_counts_with_its_end(template):
    tokenizer = instructed(template, **CHAT_EOS)
    for row in (TALK, {"messages": TALK}):
        batches = lashley.text_batches([row], tokenizer)
        marked = [text for text, counts in pieces(batches.rows[0], tokenizer) if counts]
        assert marked == ["A writer.<|im_end|>", "In Paris.<|im_end|>"]
        assert batches.report.eos == {"chat template": 1} and batches.report.bos == {"nobody": 1}
        assert whole(batches).endswith("In Paris.<|im_end|>\n")


def test_what_a_template_adds_to_an_answer_or_takes_from_it_is_not_the_answer():
    tokenizer = instructed(THINKING, **CHAT_EOS)
    talk = [*TALK[:1], {"role": "assistant", "content": "<think>hm</think> A writer. "}, *TALK[2:]]
    for row, last in ((talk, "In Paris."), ([*talk[:3], {"role": "assistant", "content": "think"}], "think")):
        batches = lashley.text_batches([row], tokenizer)
        assert "hm" not in whole(batches) and f"<think>\n\n</think>\n\n{last}" in whole(batches)
        marked = [text for text, counts in pieces(batches.rows[0], tokenizer) if counts]
        assert marked == ["A writer.<|im_end|>", f"{last}<|im_end|>"]


def test_the_marks_of_a_template_have_the_last_word():
    batches = lashley.text_batches([TALK[:2]], instructed(SIGNED, **CHAT_EOS))
    assert counted(batches) == "I say: A writer."
    assert whole(batches).endswith("A writer.<|im_end|>\n") and batches.report.eos == {"chat template": 1}


def test_a_turn_may_end_in_another_token_than_the_eos():
    tokenizer = instructed(CHATML, eos_token="<|eot_id|>")
    batches = lashley.text_batches([TALK[:2]], tokenizer)
    assert counted(batches) == "A writer.<|im_end|>" and whole(batches).endswith("<|im_end|>\n")
    assert counted(lashley.text_batches(["A writer."], tokenizer)) == "A writer.<|eot_id|>"


def test_a_turn_that_no_special_token_ends_gets_the_eos():
    tokenizer = instructed(UNCLOSED, **CHAT_EOS)
    batches = lashley.text_batches([TALK[:2]], tokenizer)
    assert whole(batches) == "user: Who is Ada?\nassistant: A writer.\n<|im_end|>"
    assert batches.report.eos == {"lashley": 1} and "A writer." in counted(batches) and "<|im_end|>" in counted(batches)
    unanswered = lashley.text_batches([TALK[:3]], tokenizer)
    assert unanswered.report.eos == {"nobody": 1} and "Where" not in counted(unanswered)


def test_pairs_become_chats_only_when_asked():
    tokenizer = instructed(CHATML, **CHAT_EOS)
    plain = lashley.text_batches([QA], tokenizer)
    assert "Question: Who" in whole(plain) and "im_start" not in whole(plain)
    for row in (QA, (QA["question"], QA["answer"])):
        asked = lashley.text_batches([row], tokenizer, chat=True)
        assert whole(asked).startswith("<|im_start|>user\nWho is Ada?<|im_end|>")
        assert counted(asked) == "Ada wrote the book.<|im_end|>"
    mixed = lashley.text_batches([QA, TALK], tokenizer)
    assert len(mixed.report.templates) == 2 and "chat template" in mixed.report.templates[1]
    short = lashley.text_batches([QA], tokenizer, chat=True, template=("In short: {question}", "{answer}"))
    assert "user\nIn short: Who is Ada?" in whole(short)


def test_a_slow_tokenizer_can_chat():
    tokenizer = Slow()
    tokenizer.chat_template = CHATML
    batches = lashley.text_batches([TALK[:2]], tokenizer)
    assert "A writer." in counted(batches) and "Who" not in counted(batches)


REFUSING = "{{ raise_exception('roles must alternate') }}"
HIDING = "{% for message in messages %}{{ message['content'] | upper }}{% endfor %}"
MEASURING = "{% for message in messages %}{{ message['content'] | length }}: {{ message['content'] }}{% endfor %}"
WRONG_CHATS = {
    "measured": (instructed(MEASURING), TALK[:2], {}, "does not show where the assistant's message 1 begins"),
    "no template": (BYTES, TALK, {}, "Row 0: a chat takes a chat template, and the tokenizer has none"),
    "not wanted": (instructed(CHATML), TALK, {"chat": False}, "Leave out chat=False"),
    "with a template": (instructed(CHATML), TALK, {"template": ("a", "b")}, "does not apply to"),
    "a plain text": (instructed(CHATML), "Ada", {"chat": True}, "a plain text has no turns"),
    "refused": (instructed(REFUSING), TALK, {}, "chat template refused it: .*roles must alternate. Its roles are user"),
    "hidden": (instructed(HIDING), TALK[:2], {}, "does not show where the assistant's message 1 begins"),
}


@pytest.mark.parametrize(("tokenizer", "row", "options", "says"), WRONG_CHATS.values(), ids=WRONG_CHATS)
def test_a_chat_that_cannot_be_rendered_is_refused(tokenizer, row, options, says):
    with pytest.raises(DataError, match=says):
        lashley.text_batches([row], tokenizer, **options)


# --- in a recording ---------------------------------------------------------------------------------------------------


def causal(kind: str) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    if kind == "gpt2":
        ends = {"bos_token_id": 1, "eos_token_id": 2}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=420, n_embd=24, n_layer=2, n_head=4, n_positions=64, **ends))
    else:
        sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=420, max_position_embeddings=64, **sizes))
    return model.double().eval()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_moments_depend_neither_on_the_batch_size_nor_on_the_side_of_the_padding(kind):
    model = causal(kind)
    rows = [*PAIRS, QA, "Ada wrote", ("Who?", " The sea.")]

    def recorded(tokenizer, size: int, **options) -> lashley.Recording:
        batches = lashley.text_batches(rows, tokenizer, batch_size=size, **options)
        return lashley.record(model, {"all": batches}, progress=False)

    expected = recorded(BYTES, 1)
    layer = list(expected.layers)[-1]
    assert expected.moment(None, layer).count == lashley.text_batches(rows, BYTES).report.counted
    for other in (recorded(BYTES, 3), recorded(BYTES, 5, sort=False), recorded(byte_level(padding_side="left"), 5)):
        for name in expected.layers:
            assert_close(other.moment(None, name).square, expected.moment(None, name).square, rtol=1e-9, atol=1e-9)
    everything = recorded(BYTES, 3, rows_of="all")
    assert everything.moment(None, layer).count > expected.moment(None, layer).count


def test_without_positions_padding_on_the_left_would_be_another_text():
    """Why batches padded on the left bring position_ids."""
    model = causal("gpt2")
    [batch] = lashley.text_batches(PAIRS, byte_level(padding_side="left"))
    with torch.no_grad():
        right, wrong = model(**batch).loss, model(**{**batch, "position_ids": None}).loss
        [plain] = lashley.text_batches(PAIRS, BYTES)
        assert_close(right, model(**plain).loss, rtol=1e-12)
        assert not torch.allclose(wrong, right, rtol=1e-6)


def test_texts_are_forgotten_in_five_lines():
    model = causal("llama")
    forget, retain = lashley.text_batches(PAIRS[:1], BYTES), lashley.text_batches([PAIRS[1], QA], BYTES)
    recording = lashley.record(model, {"forget": forget, "retain": retain}, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LashleyWarning)  # so few rows tell little; here they need not
        receipt = lashley.ablate_(model, recording.engram(model, "forget"), alpha=0.5)
    assert receipt.changed


@pytest.mark.data
def test_the_tokenizer_of_gpt_2(data_folder):
    """A published vocabulary: EOS is BOS and has to fill short rows too, and no mask may take it for padding."""
    from transformers import GPT2TokenizerFast

    folder = data_folder / "gpt2_tokenizer"
    tokenizer = GPT2TokenizerFast(str(folder / "encoder.json"), str(folder / "vocab.bpe"))
    batches = lashley.text_batches(f"{data_folder / 'tofu' / 'full.json'}#0:40", tokenizer, batch_size=40)
    [batch] = batches
    end = tokenizer.eos_token_id
    assert batches.report.bos == batches.report.eos == {"lashley": 40} and batches.report.pad == "eos"
    assert ((batch["input_ids"] == end) & batch["attention_mask"].bool()).sum() == 2 * 40
    assert counted(batches).startswith(" The author in question is Jaime Vasquez") and batches.report.straddling == 0
    spaced = lashley.text_batches(f"{data_folder / 'tofu' / 'full.json'}#0:40", tokenizer, template=SPACED)
    assert spaced.report.straddling == 40 and spaced.fingerprint == batches.fingerprint


@pytest.mark.data
def test_tofu_counts(data_folder):
    batches = lashley.text_batches(data_folder / "tofu" / "forget01.json", BYTES)
    assert batches.report.rows == 40 and batches.report.duplicates == 0 and batches.report.straddling == 0
    for row in range(40):
        assert counted(batches, row).startswith(" ") and counted(batches, row).endswith("<eos>")
        assert whole(batches, row).startswith("<bos>Question: ")
