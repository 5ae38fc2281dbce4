"""``W - alpha E`` and ``W + alpha E``: as a copy, in place, or for the length of a `with` block.

All new weights are computed and checked before the first one is written, so that a refused edit leaves every tensor
bit-identical. Undoing puts the old bytes back; in bfloat16, adding what was subtracted would not.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lashley.edit.receipt import Change, Receipt, measure
from lashley.edit.ties import check_policy, untie
from lashley.engram import Engram
from lashley.errors import EditError, LashleyWarning, nearest
from lashley.layers import describe, unwrap
from lashley.provenance import fingerprint
from lashley.select import tied_parameters
from lashley.strength import Strength

__all__ = ["ablate", "ablate_", "ablated", "inject", "inject_", "injected"]

_LOST = 0.1  # realised error above which rounding has taken a part of the edit that one should know about

Alpha = float | Mapping[str, float] | Strength


def ablate(model: nn.Module, engram: Engram, alpha: Alpha = 1.0, *, tied: str = "skip") -> nn.Module:
    """A copy of ``model`` without the engram: ``W - alpha E`` (eq. 7). See `ablate_`."""
    edited = copy.deepcopy(model)
    _commit(edited, engram, alpha, -1, tied)
    return edited


def inject(model: nn.Module, engram: Engram, alpha: Alpha = 1.0, *, tied: str = "skip") -> nn.Module:
    """A copy of ``model`` with the engram added: ``W + alpha E``. See `inject_`."""
    edited = copy.deepcopy(model)
    _commit(edited, engram, alpha, +1, tied)
    return edited


def ablate_(model: nn.Module, engram: Engram, alpha: Alpha = 1.0, *, tied: str = "skip") -> Receipt:
    """Subtract the engram in place: ``W - alpha E``.

    Args:
        alpha: a number; ``{layer: number}`` naming every layer of the engram; or a strength (`lashley.strength`).
        tied: what to do with a weight that has another name too, such as a head tied to the embedding: "skip" it,
            "untie" it first, or edit "both".

    Returns:
        the receipt: what really changed, layer by layer.

    Raises:
        EditError: the engram does not fit the model, or alpha is partial or not finite. Nothing has changed then.
    """
    return _commit(model, engram, alpha, -1, tied).receipt


def inject_(model: nn.Module, engram: Engram, alpha: Alpha = 1.0, *, tied: str = "skip") -> Receipt:
    """Add the engram in place: ``W + alpha E``. Arguments and errors as for `ablate_`."""
    return _commit(model, engram, alpha, +1, tied).receipt


@contextmanager
def ablated(model: nn.Module, engram: Engram, alpha: Alpha = 1.0, *, tied: str = "skip") -> Iterator[Receipt]:
    """The model without the engram inside the block; the very bytes come back after it, also after an exception."""
    edit = _commit(model, engram, alpha, -1, tied)
    try:
        yield edit.receipt
    finally:
        edit.undo()


@contextmanager
def injected(model: nn.Module, engram: Engram, alpha: Alpha = 1.0, *, tied: str = "skip") -> Iterator[Receipt]:
    """The model with the engram added inside the block; the very bytes come back after it."""
    edit = _commit(model, engram, alpha, +1, tied)
    try:
        yield edit.receipt
    finally:
        edit.undo()


@dataclass
class _Edit:
    """An edit that was made, and how to take it back."""

    receipt: Receipt
    written: list[tuple[nn.Module, str, nn.Parameter, Tensor]] = field(default_factory=list)
    tie_again: Callable[[], None] | None = None

    def undo(self) -> None:
        with torch.no_grad():
            for module, attribute, parameter, old in reversed(self.written):
                parameter.copy_(old)
                setattr(module, attribute, parameter)
        if self.tie_again is not None:
            self.tie_again()


def _commit(model: nn.Module, engram: Engram, alpha: Alpha, sign: int, tied: str) -> _Edit:
    check_policy(tied)
    inner = unwrap(model)
    strengths = _strengths(engram, alpha)
    modules = _targets(inner, engram)
    ties = tied_parameters(inner)
    shared = {name for name in engram if f"{name}.weight" in ties}
    matches = _base_matches(engram, modules)
    skipped = shared if tied == "skip" else set()
    edited = [name for name in engram if name not in skipped]
    edit = _Edit(Receipt({}))
    if tied == "untie" and shared:
        edit.tie_again = untie(inner, {name: modules[name] for name in engram if name in shared})
    try:
        changes = _write(edit, engram, modules, {name: sign * strengths[name] for name in edited})
    except BaseException:
        edit.undo()
        raise
    for name in engram:
        others = ", ".join(ties.get(f"{name}.weight", ()))
        if name in skipped:
            kind = str(modules[name].weight.dtype).removeprefix("torch.")
            changes[name] = Change(name, "skipped", kind, note=f"its weight is also {others}; see tied=")
        elif name in shared:
            note = f"untied from {others}" if tied == "untie" else f"shared with {others}"
            changes[name] = Change(**{**vars(changes[name]), "note": note})
    edit.receipt = Receipt({name: changes[name] for name in engram}, base_matches=matches)
    _warn(edit.receipt)
    return edit


def _write(
    edit: _Edit, engram: Engram, modules: Mapping[str, nn.Module], strengths: Mapping[str, float]
) -> dict[str, Change]:
    """Compute all new tensors, then write them. ``strengths`` are signed."""
    steps: list[tuple[str, nn.Module, str, nn.Parameter, Tensor]] = []
    for name, strength in strengths.items():
        delta = engram[name]
        for attribute, change in (("weight", delta.weight), ("bias", delta.bias)):
            if change is None:
                continue
            parameter = getattr(modules[name], attribute)
            step = change.to(parameter.device, _wide(parameter)) * strength
            steps.append((name, modules[name], attribute, parameter, step))
    # Two layers may share one tensor (tied="both"): the second change then goes on top of the first.
    fresh: dict[int, Tensor] = {}
    for name, _, attribute, parameter, step in steps:
        start = fresh.get(id(parameter), parameter.detach())
        new = (start.to(step.dtype) + step).to(parameter.dtype)
        if not torch.isfinite(new).all():
            raise EditError(
                f"Expected finite weights after the edit, got nan or inf in {name}.{attribute} ({parameter.dtype}). "
                "Lower alpha, or check that the weights were finite before."
            )
        fresh[id(parameter)] = new
    with torch.no_grad():
        for _, module, attribute, parameter, _ in steps:
            if (new := fresh.pop(id(parameter), None)) is not None:
                old = parameter.detach().clone()
                edit.written.append((module, attribute, parameter, old))
                parameter.copy_(new)
    before = {id(parameter): old for _, _, parameter, old in edit.written}
    changes = {}
    for name, strength in strengths.items():
        pairs = [(before[id(p)], p.detach(), step) for n, _, _, p, step in steps if n == name]
        kind = str(modules[name].weight.dtype).removeprefix("torch.")
        changes[name] = Change(name, "edited", kind, alpha=-strength, **measure(pairs))
    return changes


def _strengths(engram: Engram, alpha: Alpha) -> dict[str, float]:
    """Alpha for every layer of the engram."""
    if callable(alpha):
        alpha = alpha(engram)
    if isinstance(alpha, Mapping):
        for name in alpha:
            if name not in engram:
                raise EditError(f"Expected alpha to name layers of the engram, got {name!r}. {nearest(str(name), engram)}")
        if missing := [name for name in engram if name not in alpha]:
            raise EditError(
                f"Expected alpha for every layer of the engram, got none for {missing[0]!r}"
                + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
                + ". Give 0.0 for layers to leave alone, or use engram.select(...)."
            )
        strengths = dict(alpha)
    else:
        strengths = dict.fromkeys(engram, alpha)
    for name, value in strengths.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise EditError(f"Expected alpha to be a finite number, got {value!r} for layer {name!r}.")
    return {name: float(value) for name, value in strengths.items()}


def _targets(model: nn.Module, engram: Engram) -> dict[str, nn.Module]:
    """The module for every layer of the engram; refuses other names, shapes and weights that cannot be edited."""
    modules = dict(model.named_modules(remove_duplicate=False))
    if not len(engram):
        raise EditError("Expected an engram with at least one layer, got an empty one.")
    found = {}
    for name, delta in engram.items():
        if name not in modules:
            raise EditError(f"Expected the model to have layer {name!r} of the engram. {nearest(name, modules)}")
        layer = describe(name, modules[name])
        if layer.shape != delta.layer.shape or type(layer) is not type(delta.layer):
            raise EditError(
                f"Expected layer {name!r} to be {delta.layer.type} {list(delta.layer.shape)} as in the engram, got "
                f"{layer.type} {list(layer.shape)}. The engram is of another model."
            )
        if delta.bias is not None and not layer.bias:
            raise EditError(
                f"Expected layer {name!r} to have a bias, because the engram absorbed one; it has none. Solve the engram "
                "with bias=False for this model."
            )
        found[name] = modules[name]
    return found


def _base_matches(engram: Engram, modules: Mapping[str, nn.Module]) -> bool | None:
    if not all(delta.base for delta in engram.values()):
        return None
    return all(fingerprint(modules[name].weight) == delta.base for name, delta in engram.items())


def _warn(receipt: Receipt) -> None:
    lost = [c for c in receipt.layers.values() if c.error is not None and c.error > _LOST]
    if lost:
        worst = max(lost, key=lambda c: c.error or 0.0)
        warnings.warn(
            f"Rounding to {worst.dtype} changed the edit in {len(lost)} of {len(receipt.layers)} layers, most in "
            f"{worst.name!r}: {worst.error:.0%} of the change asked for is missing or extra, {worst.moved:.0%} of the "
            "weights moved. Edit a float32 copy, or raise alpha.",
            LashleyWarning,
            stacklevel=4,
        )
    if not receipt.changed:
        why = "every layer was skipped (see tied=)" if len(receipt.skipped) == len(receipt.layers) else "no weight moved"
        warnings.warn(f"The edit changed nothing: {why}.", LashleyWarning, stacklevel=4)


def _wide(parameter: Tensor) -> torch.dtype:
    """What the edit is computed in: wider than the weight, so that rounding happens once."""
    if parameter.device.type == "mps" or parameter.dtype.itemsize < 4:
        return torch.float32
    return torch.float64
