"""Which layers: PEFT's names and meaning, except that what matches nothing is an error.

    target_modules          None: every layer of a known type. A list: names that equal an entry or end in ".entry".
                            A string: a regular expression for the full name, or "all-linear" (no head, no convolution).
    exclude_modules         the same, for what to leave out.
    layers_to_transform     indices of the repeated blocks to take, with
    layers_pattern          the name of the list that holds them (default: whatever stands before the index).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn

from lashley.errors import SelectionError, nearest
from lashley.layers import Layer, describe, layer_type, unwrap
from lashley.layers.base import unusable

__all__ = ["Entry", "select", "survey", "tied_parameters"]

Patterns = str | Iterable[str] | None


@dataclass(frozen=True)
class Entry:
    """One line of `survey`: a module with parameters of its own, and what a recording would make of it.

    Attributes:
        name, type: of the module.  status: "record" or "skip".  reason: why it is skipped, or "".
        matrices, dim, out: M, D, O (0 where no layer type speaks for it).  bias: whether it has one.
        bytes: of one concept's square moments, at rest.  tied: other parameters that share its weight.
    """

    name: str
    type: str
    status: str
    reason: str = ""
    matrices: int = 0
    dim: int = 0
    out: int = 0
    bias: bool = False
    bytes: int = 0
    tied: tuple[str, ...] = ()


def select(
    model: nn.Module,
    target_modules: Patterns = None,
    exclude_modules: Patterns = None,
    layers_to_transform: int | Iterable[int] | None = None,
    layers_pattern: Patterns = None,
) -> dict[str, Layer]:
    """The layers to record, by name, in the model's order.

    Raises:
        SelectionError: a pattern matches nothing (the nearest names are offered), or nothing is left.
        ModelError: a selected module is of no known type, or its weight cannot be edited.
    """
    model = unwrap(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    modules.pop("", None)
    supported = [name for name, module in modules.items() if layer_type(module) is not None]
    if target_modules is None:
        functional = {name for name, _ in _functional_children(model)}
        chosen = [name for name in supported if name not in functional]
    else:
        chosen = _match(target_modules, list(modules), supported, "target_modules", model)
    if exclude_modules is not None:
        out = set(_match(exclude_modules, list(modules), supported, "exclude_modules", model))
        chosen = [name for name in chosen if name not in out]
    if layers_to_transform is not None:
        chosen = _in_blocks(chosen, layers_to_transform, layers_pattern)
    elif layers_pattern is not None:
        raise SelectionError("Expected layers_to_transform with layers_pattern, got the pattern alone. Add the indices.")
    seen: set[int] = set()
    layers = {}
    for name in chosen:
        if id(modules[name]) not in seen:  # one module under two names is one layer
            seen.add(id(modules[name]))
            layers[name] = describe(name, modules[name])
    if not layers:
        kinds = sorted({type(m).__name__ for m in modules.values() if next(m.parameters(recurse=False), None) is not None})
        raise SelectionError(
            f"Expected at least one layer to record, got none. The model has {len(supported)} layers of known types"
            + (f"; modules with parameters are of types {', '.join(kinds)}." if kinds else ".")
            + " Loosen the patterns, or register a layer type (lashley.layers.Layer)."
        )
    return layers


def survey(
    model: nn.Module,
    target_modules: Patterns = None,
    exclude_modules: Patterns = None,
    layers_to_transform: int | Iterable[int] | None = None,
    layers_pattern: Patterns = None,
) -> list[Entry]:
    """Every module that has parameters: what is recorded, what is skipped and why."""
    model = unwrap(model)
    blocked = {n: m for n, m in model.named_modules() if layer_type(m) is not None and unusable(m) is not None}
    functional = dict(_functional_children(model))
    if target_modules is None and blocked:
        # A survey lists what select would refuse, instead of stopping at the first.
        target_modules = [n for n, m in model.named_modules() if layer_type(m) and n not in blocked and n not in functional]
    chosen = select(model, target_modules, exclude_modules, layers_to_transform, layers_pattern)
    ties = tied_parameters(model)
    entries = []
    for name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is None:
            continue
        kind, tied = type(module).__name__, ties.get(f"{name}.weight", ())
        if name in chosen:
            layer = chosen[name]
            sizes = (layer.matrices, layer.dim, layer.out, layer.bias, layer.moment_bytes)
            entries.append(Entry(name, kind, "record", "", *sizes, tied))
            continue
        if name in functional:
            reason = f"{functional[name]} calls it as a function, so its input cannot be seen"
        elif name in blocked:
            reason = unusable(module) or ""
        elif layer_type(module) is not None:
            reason = "not selected"
        else:
            reason = f"no layer type speaks for {kind}"
        entries.append(Entry(name, kind, "skip", reason, tied=tied))
    return entries


def tied_parameters(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """For every parameter whose memory has more than one name: the other names."""
    names: dict[tuple[object, ...], list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.is_meta:
            continue
        where = (parameter.device, parameter.data_ptr(), tuple(parameter.shape), parameter.stride())
        names.setdefault(where if parameter.numel() else (id(parameter),), []).append(name)
    return {n: tuple(o for o in group if o != n) for group in names.values() if len(group) > 1 for n in group}


def match_names(patterns: Patterns, names: Iterable[str], what: str) -> list[str]:
    """The names that the patterns match; every entry must match something."""
    names = list(names)
    if patterns is None:
        return names
    if isinstance(patterns, str):
        try:
            found = [n for n in names if re.fullmatch(patterns, n)]
        except re.error as error:
            raise SelectionError(f"Expected {what} to be a regular expression, got {patterns!r}: {error}.") from error
        if not found:
            raise SelectionError(
                f"{what}={patterns!r} is a regular expression for the full name and matches no layer. "
                f"{nearest(patterns, names)} For names that end in it, give a list: [{patterns!r}]."
            )
        return found
    entries = list(patterns)
    if not entries:
        raise SelectionError(f"Expected {what} to name something, got an empty list. Leave it out to take every layer.")
    for entry in entries:
        if not any(n == entry or n.endswith(f".{entry}") for n in names):
            tails = {n.rsplit(".", 1)[-1] for n in names}
            raise SelectionError(
                f"{what} names {entry!r}, and no module's name equals it or ends in '.{entry}'. "
                f"{nearest(entry, tails | set(names))}"
            )
    return [n for n in names if any(n == e or n.endswith(f".{e}") for e in entries)]


def _match(patterns: Patterns, names: list[str], supported: list[str], what: str, model: nn.Module) -> list[str]:
    if patterns == "all-linear":
        head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        modules = dict(model.named_modules(remove_duplicate=False))
        linear = [n for n in supported if not hasattr(modules[n], "kernel_size") and modules[n] is not head]
        if not linear:
            raise SelectionError(f'{what}="all-linear" matches nothing: the model has no linear layer but its head.')
        return linear
    if isinstance(patterns, str):
        return match_names(patterns, supported, what)  # ".*" means every layer, not every container
    return match_names(patterns, names, what)


def _in_blocks(names: list[str], indices: int | Iterable[int], patterns: Patterns) -> list[str]:
    wanted = {indices} if isinstance(indices, int) else set(indices)
    lists = [patterns] if isinstance(patterns, str) else list(patterns or ())
    expression = "|".join(re.escape(p) for p in lists) if lists else r"[^.]+"
    found: dict[str, int] = {}
    for name in names:
        if (hit := re.search(rf"(?:^|\.)(?:{expression})\.(\d+)\.", f"{name}.")) is not None:
            found[name] = int(hit.group(1))
    if missing := sorted(wanted - set(found.values())):
        raise SelectionError(
            f"layers_to_transform asks for block {missing[0]}, and no selected layer lies in it. "
            + (f"Blocks with selected layers are {sorted(set(found.values()))}." if found else "No layer has a block index")
            + ("" if found else (f" after {lists}." if lists else "."))
        )
    return [name for name in names if found.get(name) in wanted]


def _functional_children(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Layers whose forward is never called: nn.MultiheadAttention hands their weights to a function."""
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            for child, _ in module.named_modules():
                if child:
                    yield f"{name}.{child}" if name else child, "nn.MultiheadAttention"
