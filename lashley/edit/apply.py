"""``W - alpha E`` and ``W + alpha E``: as a copy, in place, or for the length of a `with` block.

Every new weight is computed and checked before the first one is written, so that a refused edit touches nothing; it is
computed again when it is written, so that only the old bytes and one wide tensor are held. Undoing puts the old bytes
back; in bfloat16, adding what was subtracted would not.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from numbers import Real
from typing import TypeVar

import torch
from torch import Tensor, nn

from lashley.edit import blocks
from lashley.edit.offsets import add_biases, norms_of
from lashley.edit.receipt import Change, Measure, Receipt, dtype_name
from lashley.edit.ties import check_policy, sharers, untie
from lashley.engram import Engram
from lashley.errors import EditError, LashleyWarning, nearest
from lashley.layers import Layer, describe, named_modules, places, unwrap
from lashley.provenance import fingerprint
from lashley.strength import Strength

__all__ = ["Alpha", "ablate", "ablate_", "ablated", "alphas_of", "inject", "inject_", "injected", "warn"]

_LOST = 0.1  # realised error above which rounding has taken a part of the edit that one should know about

Alpha = float | Mapping[str, float] | Strength
Owner = tuple[nn.Module, str, Tensor]  # a module, the attribute in which it holds a parameter or buffer, and that
M = TypeVar("M", bound=nn.Module)


def ablate(model: M, engram: Engram, alpha: Alpha = 1.0, *, tied: str = "skip") -> M:
    """A copy of ``model`` without the engram: ``W - alpha E`` (eq. 7). Arguments and errors as for `ablate_`."""
    return _copy(model, engram, alpha, -1, tied)


def inject(model: M, engram: Engram, alpha: Alpha = 1.0, *, tied: str = "skip") -> M:
    """A copy of ``model`` with the engram added: ``W + alpha E``. Arguments and errors as for `ablate_`."""
    return _copy(model, engram, alpha, +1, tied)


def ablate_(model: nn.Module, engram: Engram, alpha: Alpha = 1.0, *, tied: str = "skip") -> Receipt:
    """Subtract the engram in place: ``W - alpha E``.

    The edit is computed in float32 or better and rounded once. Other weights than those the engram was solved for are
    legal; the receipt says ``base_matches=False``.

    Args:
        alpha: a number; ``{layer: number}`` naming every layer of the engram; or a strength (`lashley.strength`).
        tied: what to do with a layer whose weight has another name too, such as a head tied to the embedding: "skip"
            it, "untie" it first (the layer gets a parameter of its own, unknown to an optimizer made before), or edit
            "both".

    Returns:
        the receipt: what really changed, layer by layer.

    Raises:
        EditError: the engram does not fit the model, alpha is partial or not finite, or the new weights would not be
            finite. Nothing has changed then.
        ModelError: a weight that cannot be edited: parametrized, quantised, not loaded.

    Warns:
        LashleyWarning: rounding to the weights' dtype took more than a tenth of the edit, or nothing changed at all.
    """
    return _in_place(model, engram, alpha, -1, tied)


def inject_(model: nn.Module, engram: Engram, alpha: Alpha = 1.0, *, tied: str = "skip") -> Receipt:
    """Add the engram in place: ``W + alpha E``. Arguments and errors as for `ablate_`."""
    return _in_place(model, engram, alpha, +1, tied)


@contextmanager
def ablated(model: nn.Module, engram: Engram, alpha: Alpha = 1.0, *, tied: str = "skip") -> Iterator[Receipt]:
    """The model without the engram inside the block; the very bytes come back after it, also after an exception.

    Arguments and errors as for `ablate_`. Blocks may be nested.
    """
    with ExitStack() as undo:
        receipt = _edit(undo, model, engram, alpha, -1, tied)
        warn(receipt, stacklevel=4)
        yield receipt


@contextmanager
def injected(model: nn.Module, engram: Engram, alpha: Alpha = 1.0, *, tied: str = "skip") -> Iterator[Receipt]:
    """The model with the engram added inside the block; the very bytes come back after it. See `ablated`."""
    with ExitStack() as undo:
        receipt = _edit(undo, model, engram, alpha, +1, tied)
        warn(receipt, stacklevel=4)
        yield receipt


def _copy(model: M, engram: Engram, alpha: Alpha, sign: int, tied: str) -> M:
    edited = copy.deepcopy(model)
    warn(_edit(ExitStack(), edited, engram, alpha, sign, tied), stacklevel=4)
    return edited


def _in_place(model: nn.Module, engram: Engram, alpha: Alpha, sign: int, tied: str) -> Receipt:
    with ExitStack() as undo:
        receipt = _edit(undo, model, engram, alpha, sign, tied)
        warn(receipt, stacklevel=4)
        undo.pop_all()  # it went well: there is nothing to take back
    return receipt


def _edit(undo: ExitStack, model: nn.Module, engram: Engram, alpha: Alpha, sign: int, tied: str) -> Receipt:
    """Make the edit; what takes it back is in ``undo`` before it is done."""
    check_policy(tied)
    inner = unwrap(model)
    if not isinstance(engram, Engram):
        raise EditError(f"Expected an engram, got {type(engram).__name__}. recording.engram(model, ...) makes one.")
    strengths = alphas_of(engram, alpha)
    modules = _modules(inner, engram)
    norms = norms_of(inner, engram, modules)
    matches = _base_matches(engram, modules)
    shared = sharers(inner, engram)
    if tied == "untie" and shared:
        untie(undo, inner, [engram[name].layer for name in shared])
    edited = {name: sign * s for name, s in strengths.items() if tied != "skip" or name not in shared}
    with torch.no_grad():
        added = add_biases(undo, {name: engram[name] for name, strength in edited.items() if strength}, modules)
        measured = _write(undo, engram, modules, norms, edited)
    changes = {}
    for name in engram:
        others = ", ".join(shared.get(name, ()))
        kind = dtype_name(_tensor(engram[name].layer, modules[name], "weight"))
        if name not in edited:
            changes[name] = Change(name, "skipped", kind, note=f"shared with {others}; see tied=")
            continue
        notes = [f"untied from {others}" if tied == "untie" else f"shared with {others}"] if others else []
        if name in added:
            notes.append("offset in a new bias")
        if name in norms and edited[name]:
            notes.append(f"offset in the running mean of {engram[name].fold}")
        alpha_of = -edited[name] + 0.0  # and never -0.0
        changes[name] = Change(name, dtype=kind, alpha=alpha_of, note="; ".join(notes), **measured[name].numbers())
    return Receipt(changes, base_matches=matches)


@dataclass
class _Target:
    """A tensor to be changed, and all that changes it: layers may share it.

    Attributes:
        name: for messages.
        tensor: the parameter, or the part of it that is a layer's.
        owners: the modules and attributes that hold it, each with its own parameter or buffer (two may share memory).
        parts: which part of which delta is added to it, times what.
    """

    name: str
    tensor: Tensor
    owners: list[Owner] = field(default_factory=list)
    parts: list[blocks.Part] = field(default_factory=list)

    def write(self, undo: ExitStack) -> Measure:
        undo.callback(_put_back, self.tensor, self.tensor.detach().clone(), self.owners)
        return blocks.add(self.tensor, self.parts)


def _put_back(tensor: Tensor, old: Tensor, owners: list[Owner]) -> None:
    with torch.no_grad():
        tensor.copy_(old)
    for module, attribute, held in owners:
        setattr(module, attribute, held)


def _write(
    undo: ExitStack,
    engram: Engram,
    modules: Mapping[str, nn.Module],
    norms: Mapping[str, nn.Module],
    strengths: Mapping[str, float],
) -> dict[str, Measure]:
    """Write the new weights, after all of them were checked. ``strengths`` are signed."""
    targets: dict[tuple[object, ...], _Target] = {}
    of: dict[str, list[_Target]] = {}

    def add(name: str, part: str, tensor: Tensor, owner: Owner, strength: float) -> None:
        target = targets.setdefault(_memory(tensor), _Target(f"{name}.{part}", tensor))
        target.owners.append(owner)
        target.parts.append((engram[name], part, strength))
        of.setdefault(name, []).append(target)

    for name, strength in strengths.items():
        layer, module = engram[name].layer, modules[name]
        for which in engram[name].touches:
            if layer.tensor(module, which) is not None:  # at strength 0 no bias was added
                add(name, which, _tensor(layer, module, which), _owner(layer, module, which), strength)
        if name in norms:
            mean = norms[name].running_mean
            assert isinstance(mean, Tensor)  # norms_of() refuses one without
            add(name, "bias", mean, (norms[name], "running_mean", mean), -strength)
    for target in targets.values():
        blocks.check(target.name, target.tensor, target.parts)
    measures = {id(target): target.write(undo) for target in targets.values()}
    found = {}
    for name, its in of.items():
        first, *rest = (measures[id(target)] for target in its)
        found[name] = sum(rest, first)
    return found


def _memory(tensor: Tensor) -> tuple[object, ...]:
    """Equal for two tensors exactly when they are the same numbers in memory."""
    return (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride())


def _tensor(layer: Layer, module: nn.Module, which: str) -> Tensor:
    tensor = layer.tensor(module, which)
    assert tensor is not None  # describe() refuses a layer without
    return tensor.detach()


def _owner(layer: Layer, module: nn.Module, which: str) -> Owner:
    """Who holds the parameter behind a layer's tensor, where, and the parameter."""
    path, _, attribute = layer.where(layer.name, module, which).rpartition(".")
    holder = module.get_submodule(path)
    return holder, attribute, getattr(holder, attribute)


def alphas_of(engram: Engram, alpha: Alpha) -> dict[str, float]:
    """Alpha for every layer of the engram.

    Raises:
        EditError: alpha names other layers than the engram has, or is not finite somewhere.
    """
    if callable(alpha):
        alpha = alpha(engram)
    if isinstance(alpha, Mapping):
        for name in alpha:
            if name not in engram:
                raise EditError(
                    f"Expected alpha to name layers of the engram, got {name!r}. {nearest(str(name), engram)}"
                )
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
        if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
            raise EditError(f"Expected alpha to be a finite number, got {value!r} for layer {name!r}.")
    return {name: float(strengths[name]) for name in engram}


def _modules(model: nn.Module, engram: Engram) -> dict[str, nn.Module]:
    """The module for every layer of the engram; refuses other names, shapes and weights that cannot be edited."""
    if not len(engram):
        raise EditError("Expected an engram with at least one layer, got an empty one.")
    modules = named_modules(model)
    found = {}
    for name, delta in engram.items():
        if name not in modules:
            raise EditError(f"Expected the model to have layer {name!r} of the engram. {nearest(name, places(model))}")
        layer = describe(name, modules[name])
        if not delta.fits(layer):
            raise EditError(
                f"Expected layer {name!r} to be {_look(delta.layer)} as in the engram, got {_look(layer)}. The engram "
                "is of another model."
            )
        if _tensor(layer, modules[name], "weight").is_inference() and not torch.is_inference_mode_enabled():
            raise EditError(
                f"Expected weights that can be written, got an inference tensor in layer {name!r}. Edit inside "
                "torch.inference_mode() too, or load the model outside of it."
            )
        found[name] = modules[name]
    return found


def _look(layer: Layer) -> str:
    groups = f" in {layer.matrices} groups" if layer.matrices > 1 else ""
    return f"{layer.type} {list(layer.shape)}{groups}"


def _base_matches(engram: Engram, modules: Mapping[str, nn.Module]) -> bool | None:
    if not all(delta.base for delta in engram.values()):
        return None
    now = {name: delta.layer.effective(modules[name]) for name, delta in engram.items()}
    return all(weight is not None and fingerprint(weight.detach()) == engram[name].base for name, weight in now.items())


def warn(receipt: Receipt, stacklevel: int) -> None:
    """Say what the caller should know of an edit; ``stacklevel`` counts from here to the caller's own line."""
    changes = receipt.layers.values()
    lost = [c for c in changes if c.error is not None and c.error > _LOST]
    if lost:
        worst = max(lost, key=lambda c: c.error or 0.0)
        warnings.warn(
            f"Rounding to {worst.dtype} changed the edit in {len(lost)} of {len(receipt.layers)} layers, most in "
            f"{worst.name!r}: {worst.error:.0%} of the change asked for is missing or extra, {worst.moved:.0%} of the "
            "weights moved. Edit a float32 copy, or raise alpha.",
            LashleyWarning,
            stacklevel=stacklevel,
        )
    if not receipt.changed and any(c.alpha != 0 for c in changes):
        if len(receipt.skipped) == len(receipt.layers):
            why = "every layer was skipped because its weight is tied (see tied=)"
        elif any(c.asked for c in changes):
            why = f"rounding to {lost[0].dtype} took all of it"
        else:
            why = "the engram is zero"
        warnings.warn(f"The edit changed nothing: {why}.", LashleyWarning, stacklevel=stacklevel)
