"""What an edit really changed: measured on the tensors after the edit, not on what was asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lashley.engram import widest
from lashley.errors import EditError, ModelError
from lashley.layers import unwrap

__all__ = ["Change", "Measure", "Receipt", "compare", "dtype_name", "measure", "pieces"]

_PIECE = 2**22  # numbers looked at together: 32 MiB in float64


@dataclass(frozen=True)
class Change:
    """The change of one layer (of one tensor, in a receipt of `compare`). Weight and bias are measured together.

    Attributes:
        name: of the layer or tensor.
        status: "edited"; "skipped", because of a tie; or "unchanged", because nothing moved.
        dtype: it is stored in.
        alpha: the strength that was applied, negative for an injection; None in a receipt of `compare`.
        asked: ``||alpha E||_F``; None in a receipt of `compare`.
        change: ``||W_new - W||_F``.
        before: ``||W||_F``; nan where nothing was measured.
        moved: share of the numbers that differ from before.
        error: the realised error ``||W_new - W + alpha E|| / ||alpha E||``: what rounding to ``dtype`` did to the edit.
        note: why it was skipped, what it was untied from or is shared with. A tensor that several layers of the engram
            share is measured as a whole, against the sum of what they ask.
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
        base_matches: whether the model had the weights the engram was solved for; None where that is not known. False
            is legal: injecting into a blank network and editing twice are.
        only_before, only_after: tensors that only one side of a comparison has.
    """

    layers: Mapping[str, Change]
    base_matches: bool | None = None
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of what moved at all."""
        return tuple(name for name, change in self.layers.items() if change.moved > 0)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the layers that a tie kept from being edited."""
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
        """A table of what was edited or skipped, and how much was left alone."""
        shown = [change for change in self.layers.values() if change.alpha is not None or change.status != "unchanged"]
        lines = _table(shown) if shown else []
        if same := len(self.layers) - len(shown):
            lines.append(f"{same} of {len(self.layers)} tensors are equal.")
        if self.base_matches is False:
            lines.append("The weights before the edit were not those the engram was solved for.")
        for what, names in (("before", self.only_before), ("after", self.only_after)):
            if names:
                lines.append(f"Only {what}: {', '.join(names)}")
        return "\n".join(lines)


def _table(changes: list[Change]) -> list[str]:
    rows = [("layer", "status", "alpha", "||change||/||W||", "moved", "realised error", "dtype", "note")]
    for c in changes:
        measured = not math.isnan(c.before)
        relative = c.change / c.before if c.before else math.inf if c.change else 0.0
        rows.append(
            (
                c.name,
                c.status,
                "" if c.alpha is None else f"{c.alpha:.3g}",
                f"{relative:.4f}" if measured else "",
                f"{c.moved:.1%}" if measured else "",
                "" if c.error is None else f"{c.error:.1e}",
                c.dtype,
                c.note,
            )
        )
    filled = [i for i, column in enumerate(zip(*rows[1:], strict=True)) if any(column)]
    widths = [max(len(row[i]) for row in rows) for i in filled]
    return ["  ".join(row[i].ljust(w) for i, w in zip(filled, widths, strict=True)).rstrip() for row in rows]


@dataclass(frozen=True)
class Measure:
    """Sums over a tensor before and after an edit; those of several tensors add.

    Attributes:
        change, before: sums of squares of ``W_new - W`` and ``W``.
        asked, missed: of the change asked for, and of what is missing from it or was added to it; None if nobody asked.
        moved, total: how many numbers differ, and how many there are.
    """

    change: float
    before: float
    moved: int
    total: int
    asked: float | None = None
    missed: float | None = None

    def __add__(self, other: Measure) -> Measure:
        asked, missed = (
            None if mine is None or theirs is None else mine + theirs
            for mine, theirs in ((self.asked, other.asked), (self.missed, other.missed))
        )
        return Measure(
            self.change + other.change,
            self.before + other.before,
            self.moved + other.moved,
            self.total + other.total,
            asked,
            missed,
        )

    def numbers(self) -> dict[str, Any]:
        """The numeric fields of a `Change`, and its status."""
        error = None
        if self.asked is not None and self.missed is not None:
            error = math.sqrt(self.missed / self.asked) if self.asked else 0.0
        return {
            "status": "edited" if self.moved else "unchanged",
            "asked": None if self.asked is None else math.sqrt(self.asked),
            "change": math.sqrt(self.change),
            "before": math.sqrt(self.before),
            "moved": self.moved / self.total if self.total else 0.0,
            "error": error,
        }


def measure(old: Tensor, new: Tensor, asked: Tensor | None = None) -> Measure:
    """What became of ``old``, given the change that was asked for. Equal infinities and nans have not moved."""
    wide = widest(old.device)
    sums = torch.zeros(4, dtype=wide, device=old.device)
    moved = torch.zeros((), dtype=torch.int64, device=old.device)
    total = 0
    for a, b, *wanted in pieces(old, new) if asked is None else pieces(old, new, asked):
        differs = a != b
        before = a.to(wide)
        change = b.to(wide) - before
        if not (size := _square(change)).isfinite():  # an inf or nan, which has moved only where it differs
            differs &= ~((a != a) & (b != b))
            change = torch.where(differs, change, 0.0)
            size = _square(change)
        moved += differs.count_nonzero()
        found = [size, _square(before)]
        if wanted:
            step = wanted[0].to(wide)
            found += [_square(step), _square(change.sub_(step))]
        sums[: len(found)] += torch.stack(found)
        total += a.numel()
    values = sums.tolist()
    requested, missed = (None, None) if asked is None else values[2:]
    return Measure(values[0], values[1], int(moved), total, requested, missed)


def _square(tensor: Tensor) -> Tensor:
    """The sum of squares, in one pass."""
    flat = tensor.reshape(-1)
    return flat.dot(flat)


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of one shape, a few million numbers at a time, so that wide copies of them stay small.

    Complex numbers come as pairs of real ones.
    """
    whole = [torch.view_as_real(t) if t.is_complex() else t for t in map(torch.atleast_1d, tensors)]
    rows = max(1, _PIECE // max(1, whole[0][:1].numel()))
    return zip(*(t.split(rows) for t in whole), strict=True)


def compare(before: nn.Module | Mapping[str, Tensor], after: nn.Module | Mapping[str, Tensor]) -> Receipt:
    """What differs between two models or state dicts, tensor by tensor, buffers included.

    A state dict that reads its tensors when it is asked for them, such as `lashley.export.Source`, is read one by one.

    Raises:
        ModelError: a side is neither a model nor a state dict of tensors.
        EditError: a tensor has another shape on the other side.
    """
    old, new = _state(before), _state(after)
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
        note = "" if a.dtype == b.dtype else f"was {dtype_name(a)}"
        numbers = measure(a.detach(), b.detach().to(a.device)).numbers()
        changes[name] = Change(name, dtype=dtype_name(b), note=note, **numbers)
    return Receipt(
        changes,
        only_before=tuple(n for n in old if n not in new),
        only_after=tuple(n for n in new if n not in old),
    )


def _state(side: nn.Module | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if isinstance(side, nn.Module):
        return {name: value for name, value in unwrap(side).state_dict().items() if isinstance(value, Tensor)}
    if not isinstance(side, Mapping):
        raise ModelError(f"Expected a model or a state dict, got {type(side).__name__}.")
    if not isinstance(side, dict):
        return side  # it reads its tensors when it is asked for them
    if strangers := [name for name, value in side.items() if not isinstance(value, Tensor)]:
        raise ModelError(
            f"Expected a state dict of tensors, got {type(side[strangers[0]]).__name__} under {strangers[0]!r}. "
            "Does the state dict lie deeper inside?"
        )
    return side


def dtype_name(tensor: Tensor) -> str:
    """ "float32" and the like."""
    return str(tensor.dtype).removeprefix("torch.")


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
