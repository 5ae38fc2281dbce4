"""A look at sets of texts before anything is computed: what counts, what repeats, what overlaps, how thin it is."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from torch import nn

from lashley.data.text.batches import TextBatches
from lashley.data.text.encode import Encoded
from lashley.data.text.report import TextReport
from lashley.errors import DataError
from lashley.select import survey

__all__ = ["Overlap", "Shown", "TextCheck", "Width", "check_texts", "pieces"]

_EXAMPLES = 3
THIN = 2.0  # rows / D below which the rows cannot tell concepts apart
_WORD = re.compile(r"\w+")

Pieces = tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Shown:
    """One row as the model meets it: its text in pieces, each with whether it counts."""

    row: int
    pieces: Pieces


@dataclass(frozen=True)
class Overlap:
    """Rows of ``first`` that are in ``second``.

    Attributes:
        exact: with the same text.
        near: not with the same text, but with the same words: letters and digits in their order after NFKC, without
            regard to case, spaces and punctuation.
    """

    first: str
    second: str
    exact: int
    near: int


@dataclass(frozen=True)
class Width:
    """The layers of one input width: ``rows`` of all sets, per column ``dim``."""

    dim: int
    layers: int
    example: str
    rows: int

    @property
    def ratio(self) -> float:
        """rows / D; below 2 every estimator looks perfect, since the rows of two sets hardly meet."""
        return self.rows / self.dim


@dataclass(frozen=True)
class TextCheck:
    """What `check_texts` found.

    Attributes:
        reports, examples: by the name of the set.
        overlaps: of every two sets.
        widths: of the model's layers; empty without a model.
        remarks: what deserves a second look, as sentences.
    """

    reports: dict[str, TextReport]
    examples: dict[str, tuple[Shown, ...]]
    overlaps: tuple[Overlap, ...]
    widths: tuple[Width, ...]
    remarks: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON can hold it."""
        return {
            "sets": {
                name: {**report.to_dict(), "examples": [asdict(shown) for shown in self.examples[name]]}
                for name, report in self.reports.items()
            },
            "overlaps": [asdict(overlap) for overlap in self.overlaps],
            "widths": [{**asdict(width), "ratio": width.ratio} for width in self.widths],
            "remarks": list(self.remarks),
        }


def check_texts(sets: Mapping[str, TextBatches], model: nn.Module | None = None) -> TextCheck:
    """Look at sets that are to be forgotten and kept.

    Args:
        sets: such as ``{"forget": ..., "retain": ...}``; overlaps are those of an earlier set with a later one.
        model: for rows / D per layer, and for what the model can read: its vocabulary and its positions.

    Raises:
        DataError: no sets, two sets that are the same, or tokens that the model does not have.
    """
    if not sets:
        raise DataError("Expected at least one set of texts, got none.")
    texts = {name: [row.text for row in batches.rows] for name, batches in sets.items()}
    words = {name: [_words(text) for text in found] for name, found in texts.items()}
    overlaps = []
    for first, second in combinations(sets, 2):
        if set(texts[first]) == set(texts[second]):
            raise DataError(
                f"{first!r} and {second!r} are the same {len(set(texts[first]))} texts: what is to be forgotten cannot "
                "be what is to be kept. Was a file named twice?"
            )
        known, near = set(texts[second]), set(words[second])
        exact = sum(text in known for text in texts[first])
        alike = sum(word in near for word in words[first])
        overlaps.append(Overlap(first, second, exact, alike - exact))
    rows = sum(batches.report.counted for batches in sets.values())
    widths = _widths(model, rows) if model is not None else ()
    remarks = [
        f"{overlap.exact + overlap.near} of {len(texts[overlap.first])} rows of {overlap.first!r} are also in "
        f"{overlap.second!r} ({overlap.exact} the same, {overlap.near} with the same words)."
        for overlap in overlaps
        if overlap.exact + overlap.near
    ]
    remarks += [
        f"{width.rows} rows for D = {width.dim} ({width.example}) is {width.ratio:.2g} rows per column: below {THIN:g} "
        "sets hardly meet, every estimator looks perfect, and little of it holds for other texts."
        for width in widths
        if width.ratio < THIN
    ]
    if model is not None:
        remarks += _fits(sets, model)
    examples = {name: tuple(_shown(row, batches.tokenizer) for row in _some(batches)) for name, batches in sets.items()}
    reports = {name: batches.report for name, batches in sets.items()}
    return TextCheck(reports, examples, tuple(overlaps), widths, tuple(remarks))


def pieces(row: Encoded, tokenizer: Any) -> Pieces:
    """The text of a row as its tokens spell it, cut where tokens begin or cease to count."""
    found: list[tuple[str, bool]] = []
    before, start = "", 0
    for stop in range(1, len(row.ids) + 1):
        if stop < len(row.ids) and row.counts[stop] == row.counts[start]:
            continue
        # Decoded from the beginning: on their own, tokens lose the space that they begin with.
        text = tokenizer.decode(list(row.ids[:stop]), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        found.append((text[len(before) :], row.counts[start]))
        before, start = text, stop
    return tuple(found)


def _shown(row: Encoded, tokenizer: Any) -> Shown:
    return Shown(row.row, pieces(row, tokenizer))


def _some(batches: TextBatches) -> list[Encoded]:
    """The first, the last and one from the middle."""
    last = len(batches.rows) - 1
    return [batches.rows[place] for place in dict.fromkeys((0, last // 2, last))][:_EXAMPLES]


def _words(text: str) -> str:
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold())) or text


def _widths(model: nn.Module, rows: int) -> tuple[Width, ...]:
    names: dict[int, list[str]] = {}
    for entry in survey(model):
        if entry.status == "record":
            names.setdefault(entry.dim, []).append(entry.name)
    return tuple(Width(dim, len(found), found[0], rows) for dim, found in sorted(names.items()))


def _fits(sets: Mapping[str, TextBatches], model: nn.Module) -> list[str]:
    """Whether the model can read these tokens: an error where not, remarks where it was not made for them."""
    config = getattr(model, "config", None)
    vocabulary, positions = (getattr(config, key, None) for key in ("vocab_size", "max_position_embeddings"))
    remarks = []
    for name, batches in sets.items():
        largest = max(max(row.ids) for row in batches.rows)
        if isinstance(vocabulary, int) and largest >= vocabulary:
            raise DataError(
                f"{name!r} has token {largest}, expected ids below the model's vocabulary of {vocabulary}. The "
                "tokenizer is of another model; take the one in the model's folder."
            )
        if isinstance(positions, int) and batches.report.longest > positions:
            remarks.append(
                f"{name!r} has rows of {batches.report.longest} tokens, the model was made for {positions} positions. "
                f"Cut them with max_length={positions} (--max-length)."
            )
    return remarks
