"""Rows of text as batches that `lashley.record` reads."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lashley.data.text.encode import Encoded, encode
from lashley.data.text.report import TextReport, summarise
from lashley.data.text.rows import Template, as_template, read_rows
from lashley.data.text.sources import load_texts
from lashley.data.text.specials import Specials
from lashley.errors import DataError, LashleyWarning
from lashley.provenance import digest

__all__ = ["TextBatches", "text_batches"]

_IGNORED = -100  # the label of a token that does not count
_NO_LIMIT = 10**7  # tokenizers without a limit say 1e30, or another number that no model reads


class TextBatches:
    """Rows of text as batches of tokens; can be iterated any number of times.

    A batch is a new dict of ``[B, T]`` int64 tensors: ``input_ids``, ``attention_mask`` (of the true lengths, whatever
    the pad token is) and ``labels`` (the token where it counts, -100 elsewhere, not shifted). Padding on the left adds
    ``position_ids``, without which models with absolute positions would read another text.

    Attributes:
        rows: every row as tokens, in the order they came (`lashley.data.text.encode.Encoded`).
        order: the numbers of the rows in the order of the batches.
        batch_size: rows per batch; the last may be smaller.
        tokenizer: what made the tokens.
        report: what became of the rows (`TextReport`); ``str()`` of the batches is its text.
    """

    def __init__(
        self, rows: list[Encoded], order: list[int], batch_size: int, tokenizer: Any, pad: int, report: TextReport
    ) -> None:
        self.rows = rows
        self.order = order
        self.batch_size = batch_size
        self.tokenizer = tokenizer
        self.report = report
        self._pad = pad

    @property
    def fingerprint(self) -> str:
        """A short text that changes when a token, or which of them count, changes. The batches do not enter."""
        return digest(*((row.ids, row.counts) for row in self.rows))

    def __len__(self) -> int:
        """The number of batches."""
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(self.order), self.batch_size):
            yield self._batch([self.rows[row] for row in self.order[start : start + self.batch_size]])

    def __str__(self) -> str:
        return str(self.report)

    def __repr__(self) -> str:
        return f"TextBatches({len(self.rows)} rows in {len(self)} batches, {self.report.counted} tokens count)"

    def _batch(self, rows: list[Encoded]) -> dict[str, Tensor]:
        shape = len(rows), max(len(row.ids) for row in rows)
        ids, mask = torch.full(shape, self._pad), torch.zeros(shape, dtype=torch.int64)
        labels = torch.full(shape, _IGNORED)
        left = self.report.padding_side == "left"
        for place, row in enumerate(rows):
            length = len(row.ids)
            at = slice(shape[1] - length, None) if left else slice(length)
            ids[place, at] = tokens = torch.tensor(row.ids)
            mask[place, at] = 1
            labels[place, at] = tokens.where(torch.tensor(row.counts), torch.tensor(_IGNORED))
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        if left:
            batch["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        return batch


def text_batches(
    rows: Iterable[Any] | str | os.PathLike[str],
    tokenizer: Any,
    batch_size: int = 16,
    rows_of: str = "answer",
    *,
    columns: Mapping[str, str] | None = None,
    template: Template | tuple[str, str] | None = None,
    chat: bool | Mapping[str, Any] | None = None,
    max_length: int | None = None,
    sort: bool = True,
) -> TextBatches:
    """Batches of tokens for `lashley.record` and for any Hugging Face model.

    The answers' tokens count: of a pair the completion, of a chat every turn of the assistant, of a plain text all of
    it, and the EOS that ends them. A token that straddles prompt and answer counts. One BOS and one EOS: what neither
    the text nor the tokenizer writes is added where the tokenizer has such a token; a chat template has the last word
    on its BOS. The report says who wrote them.

    Args:
        rows: texts, pairs ``(prompt, completion)``, mappings or chats (`lashley.data.text.rows` has the table). A
            generator is read once. Or the name of a set: a file, or ``hf:owner/name`` (`lashley.data.text.load_texts`).
        tokenizer: of Hugging Face transformers. Its ``padding_side`` is followed, and nothing of it is changed.
        batch_size: rows per batch.
        rows_of: "answer", or "all": every token, BOS and EOS included.
        columns: which columns hold the fields, as ``{"question": "q", "answer": "a"}``; default: found by their names.
        template: ``(prompt, completion)`` with ``{field}`` in place of a row's fields. Default: for questions and
            answers ``("Question: {question}\\nAnswer:", " {answer}")``; other rows are taken as they are.
        chat: the tokenizer's chat template. None: for messages only. True: prompt and completion become a user's and
            an assistant's turn. A mapping: the same, with variables of the template, such as ``date_string``; its
            ``system`` is the content of the system message.
        max_length: tokens per row; longer ones are cut on the right, with a warning. Default: the tokenizer's
            ``model_max_length`` where that is a real limit.
        sort: longest first, which takes the least padding and meets the largest batch at once. False keeps the order.

    Raises:
        DataError: no rows, a row of an unknown form or without an answer, an answer that the cut takes away whole.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise DataError(f"Expected batch_size to be a whole number of at least 1, got {batch_size!r}.")
    if rows_of not in ("answer", "all"):
        raise DataError(f'Expected rows_of to be "answer" or "all", got {rows_of!r}.')
    if not callable(tokenizer) or not hasattr(tokenizer, "convert_ids_to_tokens"):
        raise DataError(
            f"Expected tokenizer to be one of Hugging Face transformers, got {type(tokenizer).__name__}. "
            "Try transformers.AutoTokenizer.from_pretrained(folder)."
        )
    if isinstance(rows, (str, os.PathLike)):
        options: dict[str, Any] = {"columns": columns, "template": template, "chat": chat, "max_length": max_length}
        found = load_texts(rows)
        try:
            return text_batches(found, tokenizer, batch_size, rows_of, sort=sort, **options)
        except DataError as error:
            raise DataError(f"{os.fspath(rows)}: {error}") from None
    max_length = _limit(tokenizer, max_length)
    specials = Specials.of(tokenizer)
    asked = None if chat is None else bool(chat) or isinstance(chat, Mapping)
    examples = read_rows(rows, columns=columns, template=as_template(template), chat=asked)
    variables = chat if isinstance(chat, Mapping) else {}
    encoded = encode(
        examples, tokenizer, specials, everything=rows_of == "all", max_length=max_length, variables=variables
    )
    report = summarise(examples, encoded, tokenizer, specials, rows_of, max_length)
    _warn(report)
    order = list(range(len(encoded)))
    if sort:
        order.sort(key=lambda row: -len(encoded[row].ids))
    return TextBatches(encoded, order, batch_size, tokenizer, specials.pad, report)


def _limit(tokenizer: Any, max_length: int | None) -> int | None:
    if max_length is None:
        usual = getattr(tokenizer, "model_max_length", None)
        return int(usual) if usual is not None and 0 < usual < _NO_LIMIT else None
    if not isinstance(max_length, int) or max_length < 1:
        raise DataError(f"Expected max_length to be a whole number of at least 1, got {max_length!r}.")
    return max_length


def _warn(report: TextReport) -> None:
    if report.truncated:
        warnings.warn(
            f"{len(report.truncated)} of {report.rows} rows are longer than {report.max_length} tokens and were cut on "
            f"the right, first row {report.truncated[0]}; what was cut does not count. Raise max_length, or cut long "
            "texts into several rows.",
            LashleyWarning,
            stacklevel=3,
        )
    if report.doubled:
        warnings.warn(
            f"{len(report.doubled)} rows begin with two BOS or end with two EOS, first row {report.doubled[0]}: the "
            "text itself holds them. Were they rendered by a chat template before? Give the messages instead.",
            LashleyWarning,
            stacklevel=3,
        )
