"""What became of the rows: counts, who wrote BOS and EOS, what was cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lashley.data.text.encode import Encoded
from lashley.data.text.rows import Example
from lashley.data.text.specials import Specials, gives_offsets

__all__ = ["TextReport", "summarise"]

_WHO = {"tokenizer": "the tokenizer adds it", "lashley": "added by lashley", "nobody": "none"}


@dataclass(frozen=True)
class TextReport:
    """What a set of rows became as tokens; ``str()`` is a paragraph.

    Attributes:
        rows: how many.
        tokens, longest: of all rows, and of the longest; padding is none of them.
        counted: tokens that count.
        rows_of: "answer" or "all".
        templates: the templates that were used, or "the tokenizer's chat template".
        bos, eos: in how many rows each of these wrote it: "tokenizer", "lashley", "text", "chat template", "nobody".
        bos_token, eos_token: the tokens as texts; None where the tokenizer has none.
        doubled: rows that begin with two BOS or end with two EOS, all of them written in the text itself.
        pad, padding_side: what fills short rows, and where. ``pad`` is "pad", or what stands in for it.
        max_length, truncated: the cut, and the rows that it made shorter.
        straddling: tokens that hold the end of a prompt and the beginning of its answer.
        duplicates: rows whose text an earlier row has.
        offsets: whether the tokenizer gives offsets. Without, prompt and answer are tokenized one after the other.
    """

    rows: int
    tokens: int
    longest: int
    counted: int
    rows_of: str
    templates: tuple[str, ...]
    bos: dict[str, int]
    eos: dict[str, int]
    bos_token: str | None
    eos_token: str | None
    doubled: tuple[int, ...]
    pad: str
    padding_side: str
    max_length: int | None
    truncated: tuple[int, ...]
    straddling: int
    duplicates: int
    offsets: bool

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON can hold it."""
        return asdict(self)

    def __str__(self) -> str:
        counted = "all tokens count" if self.rows_of == "all" else f"{self.counted} count (answers)"
        lines = [
            f"{self.rows} rows, {self.tokens} tokens (longest {self.longest}), {counted}",
            f"BOS {_token(self.bos_token)}: {_who(self.bos)}; EOS {_token(self.eos_token)}: {_who(self.eos)}",
            f"padding: {_PADS[self.pad]}, on the {self.padding_side}",
            *(f"template: {template}" for template in self.templates),
        ]
        if self.doubled:
            lines.append(
                f"{len(self.doubled)} rows hold BOS or EOS twice in their own text, first row {self.doubled[0]}"
            )
        if self.duplicates:
            lines.append(f"{self.duplicates} rows repeat an earlier one")
        if self.truncated:
            lines.append(f"{len(self.truncated)} rows cut at {self.max_length} tokens, first row {self.truncated[0]}")
        if self.straddling:
            lines.append(f"{self.straddling} tokens straddle a prompt and its answer; they count")
        if not self.offsets:
            lines.append("the tokenizer gives no offsets: prompt and answer are tokenized one after the other")
        return "\n".join(lines)


_PADS = {
    "pad": "the tokenizer's pad token",
    "eos": "EOS stands in, the tokenizer has no pad token",
    "unk": "UNK stands in, the tokenizer has no pad token",
    "id 0": "id 0 stands in, the tokenizer has no pad token",
}


def summarise(
    examples: Sequence[Example],
    encoded: Sequence[Encoded],
    tokenizer: Any,
    specials: Specials,
    rows_of: str,
    max_length: int | None,
) -> TextReport:
    """The report of rows that were encoded."""
    templates = dict.fromkeys(
        "the tokenizer's chat template" + (f", turns {example.template}" if example.template else "")
        if example.messages is not None
        else str(example.template)
        for example in examples
    )
    lengths = [len(row.ids) for row in encoded]
    first = specials.bos
    return TextReport(
        rows=len(encoded),
        tokens=sum(lengths),
        longest=max(lengths),
        counted=sum(sum(row.counts) for row in encoded),
        rows_of=rows_of,
        templates=tuple(templates),
        bos=dict(Counter(row.bos for row in encoded)),
        eos=dict(Counter(row.eos for row in encoded)),
        bos_token=_text_of(specials.prefix or first, tokenizer),
        eos_token=_text_of(specials.eos, tokenizer),
        doubled=tuple(row.row for row in encoded if _doubled(row.ids, specials)),
        pad=specials.pad_is,
        padding_side=tokenizer.padding_side,
        max_length=max_length,
        truncated=tuple(row.row for row in encoded if row.truncated),
        straddling=sum(row.straddles for row in encoded),
        duplicates=len(encoded) - len({row.text for row in encoded}),
        offsets=gives_offsets(tokenizer),
    )


def _doubled(ids: Sequence[int], specials: Specials) -> bool:
    bos, eos = specials.bos, specials.eos
    return (bos is not None and tuple(ids[:2]) == (bos, bos)) or (eos is not None and tuple(ids[-2:]) == (eos, eos))


def _text_of(token: int | Sequence[int] | None, tokenizer: Any) -> str | None:
    if token is None:
        return None
    return " ".join(tokenizer.convert_ids_to_tokens([token] if isinstance(token, int) else list(token)))


def _token(text: str | None) -> str:
    return text or "(the tokenizer has none)"


def _who(counts: dict[str, int]) -> str:
    parts = [f"{_WHO.get(who, f'the {who} has it')}" for who in counts]
    if len(parts) == 1:
        return parts[0]
    return ", ".join(f"{part} ({count} rows)" for part, count in zip(parts, counts.values(), strict=True))
