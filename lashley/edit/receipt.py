"""What an edit really changed: measured on the tensors after the edit, not on what was asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lashley.errors import EditError
from lashley.layers import unwrap

__all__ = ["Change", "Receipt", "compare", "measure"]


@dataclass(frozen=True)
class Change:
    """The change of one layer (of one tensor, in a receipt of `compare`). Weight and bias are measured together.

    Attributes:
        name: of the layer or tensor.  status: "edited", "skipped" or "unchanged".  dtype: it is stored in.
        alpha: the strength that was applied, negative for an injection; None in a receipt of `compare`.
        asked: ``||alpha E||_F``; None in a receipt of `compare`.
        change: ``||W_new - W||_F``.  before: ``||W||_F``.
        moved: share of the numbers that differ from before.
        error: the realised error ``||W_new - W + alpha E|| / ||alpha E||``: what rounding to ``dtype`` did to the edit.
        note: why it was skipped, what was untied.
    """

    name: str
    status: str
    dtype: str
    alpha: float | None = None
    asked: float | None = None
    change: float = 0.0
    before: float = math.nan
    moved: float = 0.0
    error: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Receipt:
    """The receipt of an edit.

    Attributes:
        layers: ``{name: Change}``.
        base_matches: whether the model had the weights the engram was solved for; None where that is not known. False is
            legal: injecting into a blank network and editing twice are.
        only_before, only_after: tensors that only one side of a comparison has.
    """

    layers: Mapping[str, Change]
    base_matches: bool | None = None
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = field(default=())

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of what moved at all."""
        return tuple(name for name, change in self.layers.items() if change.moved > 0)

    @property
    def skipped(self) -> tuple[str, ...]:
        return tuple(name for name, change in self.layers.items() if change.status == "skipped")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; numbers that do not exist are None."""
        rows = [{k: _json(v) for k, v in asdict(change).items()} for change in self.layers.values()]
        return {
            "base_matches": self.base_matches,
            "layers": rows,
            "only_before": list(self.only_before),
            "only_after": list(self.only_after),
        }

    def __str__(self) -> str:
        head = ("layer", "status", "alpha", "||change||/||W||", "moved", "realised error", "dtype", "note")
        rows = [head]
        for c in self.layers.values():
            relative = c.change / c.before if c.before else 0.0
            rows.append(
                (
                    c.name,
                    c.status,
                    "" if c.alpha is None else f"{c.alpha:.3g}",
                    f"{relative:.4f}",
                    f"{c.moved:.1%}",
                    "" if c.error is None else f"{c.error:.1e}",
                    c.dtype,
                    c.note,
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        if self.base_matches is False:
            lines.append("The weights before the edit were not those the engram was solved for.")
        for what, names in (("before", self.only_before), ("after", self.only_after)):
            if names:
                lines.append(f"Only {what}: {', '.join(names)}")
        return "\n".join(lines)


def measure(pairs: Iterable[tuple[Tensor, Tensor, Tensor | None]]) -> dict[str, Any]:
    """Norms over the (before, after, asked change) of a layer's tensors, as the numeric fields of a `Change`."""
    change = before = asked = missed = 0.0
    moved = total = 0
    known = True
    for old, new, wanted in pairs:
        wide = torch.float32 if old.device.type == "mps" else torch.float64
        a, b = old.detach().to(wide), new.detach().to(wide)
        step = b - a
        change += step.square().sum().item()
        before += a.square().sum().item()
        moved += int((a != b).sum())
        total += a.numel()
        if wanted is None:
            known = False
            continue
        w = wanted.to(wide)
        asked += w.square().sum().item()
        missed += (step - w).square().sum().item()
    return {
        "change": math.sqrt(change),
        "before": math.sqrt(before),
        "moved": moved / total if total else 0.0,
        "asked": math.sqrt(asked) if known else None,
        "error": (math.sqrt(missed / asked) if asked else 0.0) if known else None,
    }


def compare(
    before: nn.Module | Mapping[str, Tensor], after: nn.Module | Mapping[str, Tensor]
) -> Receipt:
    """What differs between two models or state dicts, tensor by tensor.

    Raises:
        EditError: a tensor has another shape on the other side.
    """
    sides = [_state(side) for side in (before, after)]
    old, new = sides
    changes = {}
    for name in old:
        if name not in new:
            continue
        a, b = old[name], new[name]
        if a.shape != b.shape:
            raise EditError(
                f"Expected {name!r} to have one shape, got {list(a.shape)} before and {list(b.shape)} after: these are "
                "different architectures."
            )
        numbers = measure([(a, b.to(a.device), None)])
        note = "" if a.dtype == b.dtype else f"was {_dtype(a)}"
        status = "edited" if numbers["moved"] else "unchanged"
        changes[name] = Change(name, status, _dtype(b), note=note, **numbers)
    return Receipt(
        changes,
        only_before=tuple(n for n in old if n not in new),
        only_after=tuple(n for n in new if n not in old),
    )


def _state(side: nn.Module | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return unwrap(side).state_dict() if isinstance(side, nn.Module) else side


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
