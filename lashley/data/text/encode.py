"""From examples to token ids and the tokens that count.

A text is tokenized once and whole, as the model will meet it, and a token counts when it holds any character of an
answer. So a token that straddles the boundary (a space of the prompt and the first word of the answer, in byte-level
BPE) counts; cutting at the length of the tokenized prompt would lose it. Tokenizers without offsets take prompt and
answer one after the other, and the report says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lashley.data.text.chats import Rendered, render_chat
from lashley.data.text.rows import Example
from lashley.data.text.specials import Specials, gives_offsets
from lashley.errors import DataError

__all__ = ["Encoded", "encode", "render"]

_SPACE_MARKS = ("Ġ", "▁", " ")  # how byte-level BPE and sentencepiece write a leading space
_AT_ONCE = 1024  # texts per call of the tokenizer


@dataclass(frozen=True)
class Encoded:
    """One row as tokens.

    Attributes:
        row: its number, from 0.
        text: what was tokenized.
        ids: the tokens, BOS and EOS included.
        counts: which of them count.
        bos, eos: who wrote them: "tokenizer", "lashley", "text", "chat template" or "nobody".
        truncated: how many tokens were cut off on the right.
        straddles: how many tokens hold characters of both a prompt and an answer.
    """

    row: int
    text: str
    ids: tuple[int, ...]
    counts: tuple[bool, ...]
    bos: str
    eos: str
    truncated: int
    straddles: int


def encode(
    examples: Sequence[Example],
    tokenizer: Any,
    specials: Specials,
    *,
    everything: bool = False,
    max_length: int | None = None,
    variables: Mapping[str, Any] | None = None,
) -> list[Encoded]:
    """Every example as tokens, in order.

    Args:
        everything: every token counts, not the answers' alone.
        max_length: tokens per row, special ones included; what is longer is cut on the right, and then has no EOS.
        variables: of the chat template.

    Raises:
        DataError: a chat that cannot be rendered, or an answer that is cut away whole; the rows are named.
    """
    rendered = [render(example, tokenizer, variables or {}) for example in examples]
    found = []
    for example, (text, (ids, counts, straddles)) in zip(
        examples, zip(rendered, _tokenized(rendered, tokenizer), strict=True), strict=True
    ):
        head, bos = specials.begin(ids, text.chat)
        tail, eos = specials.end(ids, text.chat, text.closed) if text.answered else ((), "nobody")
        whole = [*head, *ids, *tail]
        # The EOS belongs to the answer that it ends; what else the tokenizer puts around a text belongs to nobody.
        marks = [*([False] * len(head)), *counts, *(token == specials.eos for token in tail)]
        if everything:
            marks = [True] * len(whole)
        cut = max(0, len(whole) - max_length) if max_length is not None else 0
        kept = len(whole) - cut
        if cut:
            eos = "nobody"
        found.append(
            Encoded(example.row, text.text, tuple(whole[:kept]), tuple(marks[:kept]), bos, eos, cut, straddles)
        )
    _check_counts(found, max_length)
    return found


def render(example: Example, tokenizer: Any, variables: Mapping[str, Any]) -> Rendered:
    """The text of an example, and the characters of its answers."""
    if example.messages is None:
        text = example.prompt + example.completion
        return Rendered(text, ((len(example.prompt), len(text)),))
    try:
        return render_chat(example.messages, tokenizer, variables)
    except DataError as error:
        raise DataError(f"Row {example.row}: {error}") from error


def _check_counts(encoded: Iterable[Encoded], max_length: int | None) -> None:
    lost = [row for row in encoded if not any(row.counts)]
    if not lost:
        return
    names = ", ".join(str(row.row) for row in lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
    rows, have = ("Row", "has") if len(lost) == 1 else ("Rows", "have")
    if any(row.truncated for row in lost):
        raise DataError(
            f"{rows} {names} {have} no token of an answer left after the cut at {max_length} tokens: the prompt fills "
            "them. Raise max_length (--max-length), shorten the prompt, or leave the row out."
        )
    raise DataError(f"{rows} {names} {have} an answer of which the tokenizer makes no token. Leave the row out.")


def _tokenized(rendered: Sequence[Rendered], tokenizer: Any) -> Iterable[tuple[list[int], list[bool], int]]:
    """Ids, which of them count, and how many straddle a boundary, of every text without special tokens around it."""
    if not gives_offsets(tokenizer):
        yield from (_in_pieces(text, tokenizer) for text in rendered)
        return
    for start in range(0, len(rendered), _AT_ONCE):
        part = rendered[start : start + _AT_ONCE]
        batch = tokenizer(
            [text.text for text in part],
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # it would warn of lengths that are cut later
        )
        for text, ids, offsets in zip(part, batch["input_ids"], batch["offset_mapping"], strict=True):
            yield list(ids), [_overlaps(at, text.spans) for at in offsets], _straddles(ids, offsets, text, tokenizer)


def _overlaps(at: tuple[int, int], spans: Iterable[tuple[int, int]]) -> bool:
    start, end = at
    if start < end:
        return any(start < last and first < end for first, last in spans)
    # Nothing is left of a token of white space where the tokenizer trims its offsets: it ends here.
    return any(first < end <= last or first == end == 0 for first, last in spans)


def _straddles(ids: Sequence[int], offsets: Sequence[tuple[int, int]], text: Rendered, tokenizer: Any) -> int:
    """Tokens that hold characters from both sides of the start of a span."""
    ends = [0, *(end for _, end in offsets)]
    found = 0
    for first, _ in text.spans:
        for token, (start, end), (before, _) in zip(ids, offsets, pairwise(ends), strict=True):
            if start < first < end:
                found += 1
            elif start == first < end and before < first and text.text[before:first].isspace():
                # Its offsets are trimmed, or it left the space out: its own name tells.
                found += str(tokenizer.convert_ids_to_tokens(token)).startswith(_SPACE_MARKS)
    return found


def _in_pieces(text: Rendered, tokenizer: Any) -> tuple[list[int], list[bool], int]:
    ids: list[int] = []
    counts: list[bool] = []
    edges = [0, *(edge for span in text.spans for edge in span), len(text.text)]
    for place, (start, end) in enumerate(pairwise(edges)):
        piece = tokenizer.encode(text.text[start:end], add_special_tokens=False) if end > start else []
        ids += piece
        counts += [place % 2 == 1] * len(piece)
    return ids, counts, 0
