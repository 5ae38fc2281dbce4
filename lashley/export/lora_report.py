"""What became of an engram that was written as a LoRA adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["LoraLayer", "LoraReport"]


@dataclass(frozen=True)
class LoraLayer:
    """What became of one layer of the engram.

    Attributes:
        name: of the layer.
        status: "adapted", "skipped" because of a tie, or "empty" where there is nothing to add.
        alpha: the strength that was asked for, negative for an injection.
        rank: directions that the adapter really uses; the rest of its rank is zeros.
        error: ``||B A + alpha E||_F / ||alpha E||_F`` of the matrices as they are stored.
        lossless: whether no direction of the delta was cut, so that ``error`` is rounding.
        note: why it was skipped.
    """

    name: str
    status: str
    alpha: float
    rank: int = 0
    error: float = 0.0
    lossless: bool = True
    note: str = ""


@dataclass(frozen=True)
class LoraReport:
    """What `save_lora` wrote.

    Attributes:
        layers: ``{name: LoraLayer}``.
        rank: of the adapter, the same in every layer.
        dtype: that its matrices are stored in.
        bias: whether it holds biases too (``lora_bias``). PEFT loads them, and merges them where every adapted layer
            has a bias of its own; other engines may not know them. Solving with ``bias=False`` avoids them.
        base_matches: whether the base has the weights the engram was solved for; None where it was not looked at.
    """

    layers: Mapping[str, LoraLayer]
    rank: int
    dtype: str
    bias: bool
    base_matches: bool | None = None

    @property
    def lossless(self) -> bool:
        """Whether no layer was cut."""
        return all(layer.lossless for layer in self.layers.values())

    @property
    def error(self) -> float:
        """The largest error of a layer."""
        return max((layer.error for layer in self.layers.values()), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        rows = [asdict(layer) for layer in self.layers.values()]
        return {**asdict(self), "layers": rows, "lossless": self.lossless, "error": self.error}

    def __str__(self) -> str:
        """A table, and what it comes to."""
        rows = [("layer", "status", "alpha", "rank", "error", "note")]
        for layer in self.layers.values():
            adapted = layer.status == "adapted"
            rank, error = (str(layer.rank), f"{layer.error:.1e}") if adapted else ("", "")
            rows.append((layer.name, layer.status, f"{layer.alpha:.3g}", rank, error, layer.note))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        what = "lossless" if self.lossless else f"cut, the largest error {self.error:.1e}"
        lines.append(f"rank {self.rank}, {self.dtype}, {what}" + (", with biases" if self.bias else ""))
        if self.base_matches is False:
            lines.append("The weights of the base are not those the engram was solved for.")
        return "\n".join(lines)
