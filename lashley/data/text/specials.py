"""BOS, EOS and padding: what the tokenizer has, what it adds by itself, and what is added here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Specials", "gives_offsets"]

_PROBE = "a"


@dataclass(frozen=True)
class Specials:
    """The special tokens of a tokenizer, as ids.

    Attributes:
        bos, eos: None where it has none.
        prefix, suffix: what the tokenizer puts around a text by itself.
        pad: what fills short rows; the attention mask, not the id, says what is padding.
        pad_is: "pad", or what stands in for a missing pad token: "eos", "unk" or "id 0".
    """

    bos: int | None
    eos: int | None
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    pad: int
    pad_is: str

    @classmethod
    def of(cls, tokenizer: Any) -> Specials:
        bare = tokenizer.encode(_PROBE, add_special_tokens=False)
        full = tokenizer.encode(_PROBE, add_special_tokens=True)
        start = next((i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare), 0)
        prefix, suffix = (full[:start], full[start + len(bare) :]) if bare else ([], [])
        usual = (("pad", tokenizer.pad_token_id), ("eos", tokenizer.eos_token_id), ("unk", tokenizer.unk_token_id))
        pad_is, pad = next(((name, token) for name, token in usual if token is not None), ("id 0", 0))
        return cls(tokenizer.bos_token_id, tokenizer.eos_token_id, tuple(prefix), tuple(suffix), pad, pad_is)

    def begin(self, ids: Sequence[int], chat: bool) -> tuple[tuple[int, ...], str]:
        """What goes before a text's own tokens, and who wrote its beginning.

        What a chat template leaves out stays out: the model is used with that very text.
        """
        if _starts(ids, self.prefix) or (self.bos is not None and ids[:1] == [self.bos]):
            return (), "chat template" if chat else "text"
        if chat:
            return (), "nobody"
        if self.prefix:
            return self.prefix, "tokenizer"
        return ((), "nobody") if self.bos is None else ((self.bos,), "lashley")

    def end(self, ids: Sequence[int], chat: bool, closed: bool) -> tuple[tuple[int, ...], str]:
        """What goes after a text's own tokens, and who wrote its end.

        Args:
            closed: a chat template has ended the last turn with a special token.
        """
        if closed or _starts(ids[::-1], self.suffix[::-1]) or (self.eos is not None and ids[-1:] == [self.eos]):
            return (), "chat template" if chat else "text"
        if self.suffix and not chat:
            return self.suffix, "tokenizer"
        return ((), "nobody") if self.eos is None else ((self.eos,), "lashley")


def gives_offsets(tokenizer: Any) -> bool:
    """Whether the tokenizer says which characters a token holds: those of the tokenizers library do."""
    return bool(getattr(tokenizer, "is_fast", False))


def _starts(ids: Sequence[int], beginning: Sequence[int]) -> bool:
    return bool(beginning) and list(ids[: len(beginning)]) == list(beginning)
