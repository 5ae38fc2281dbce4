"""Which layers: PEFT's names and meaning, except that what matches nothing is an error.

target_modules          None: every layer of a known type. A list: names that equal an entry or end in ".entry".
                        A string: a regular expression for the full name, or "all-linear" (no head, no convolution).
exclude_modules         the same, for what to leave out.
layers_to_transform     indices of the repeated blocks to take, with
layers_pattern          the name of the list that holds them (default: whatever stands before the index).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from torch import nn

from lashley.errors import SelectionError, nearest
from lashley.layers import Layer, describe, layer_type, named_modules, outermost, places, unwrap
from lashley.layers.base import unusable

__all__ = ["Entry", "Patterns", "match_names", "select", "survey", "tied_parameters"]

Patterns = str | Iterable[str] | None
Indices = int | Iterable[int] | None


@dataclass(frozen=True)
class Entry:
    """One line of `survey`: a module with parameters of its own, and what a recording would make of it.

    Attributes:
        name, type: of the module.
        status: "record" or "skip".
        reason: why it is skipped, or "".
        matrices, dim, out: M, D, O; 0 where it is skipped.
        bias: whether a recorded layer has one.
        bytes: of one concept's square moments, at rest.
        tied: other parameters that share its weight.
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
    layers_to_transform: Indices = None,
    layers_pattern: Patterns = None,
) -> dict[str, Layer]:
    """The layers to record, by name, in the model's order. A module with several names is one layer, under the first.

    Raises:
        SelectionError: a pattern matches nothing (the nearest names are offered), or nothing is left.
        ModelError: a selected module is of no known type, or its weight cannot be recorded and edited.
    """
    model = unwrap(model)
    modules = _named_modules(model)
    chosen = _choose(model, target_modules, exclude_modules, layers_to_transform, layers_pattern)
    if not chosen:
        raise SelectionError(_nothing_left(model, modules))
    return {name: describe(name, modules[name]) for name in chosen}


def survey(
    model: nn.Module,
    target_modules: Patterns = None,
    exclude_modules: Patterns = None,
    layers_to_transform: Indices = None,
    layers_pattern: Patterns = None,
) -> list[Entry]:
    """Every module that has parameters or is of a known layer type: what is recorded, what is skipped and why.

    What `select` would refuse is listed as skipped, so that everything can be seen at once.

    Raises:
        SelectionError: a pattern matches nothing.
        ModelError: a pattern selects a module of no known type.
    """
    model = unwrap(model)
    found = places(model)
    chosen = _choose(model, target_modules, exclude_modules, layers_to_transform, layers_pattern)
    names = {_key(name, found[name]): name for name in chosen}
    ties = tied_parameters(model)
    entries: dict[object, Entry] = {}
    for first, module in outermost(model):
        kind = type(module).__name__
        if (speaker := layer_type(module)) is None:
            if next(module.parameters(recurse=False), None) is not None:
                entries[id(module)] = Entry(first, kind, "skip", f"no layer type speaks for {kind}")
            continue
        if found.get(first, module) is not module:
            continue  # a part of the module above it, listed there
        for part in speaker.parts(module) or ("",):
            alone = ".".join(filter(None, (first, part)))
            name = names.get(_key(alone, module), alone)
            tied = ties.get(".".join(filter(None, (first, speaker.where(name, module, "weight")))), ())
            reason = _ALONE if not name else unusable(module, name) or ("" if name in chosen else "not selected")
            if not reason:
                layer = describe(name, module)
                sizes = (layer.matrices, layer.dim, layer.out, layer.bias, layer.moment_bytes)
                entries[_key(name, module)] = Entry(name, kind, "record", "", *sizes, tied)
                continue
            if reason == "not selected" and target_modules is None and not speaker.by_default:
                reason = "recorded only when target_modules asks for it"
            entries[_key(name, module)] = Entry(name, kind, "skip", reason, tied=tied)
    return list(entries.values())


def tied_parameters(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """For every parameter whose memory another parameter has too: the names of those others.

    A module that is registered under several names owns its parameters once: that alone is no tie.
    """
    shared: dict[object, dict[tuple[int, str], list[str]]] = {}  # memory -> owner -> names
    for prefix, module in model.named_modules(remove_duplicate=False):
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                owners = shared.setdefault(_memory(parameter), {})
                name = f"{prefix}.{attribute}" if prefix else attribute
                owners.setdefault((id(module), attribute), []).append(name)
    return {
        name: tuple(other for another, others in owners.items() if another != owner for other in others)
        for owners in shared.values()
        if len(owners) > 1
        for owner, names in owners.items()
        for name in names
    }


def _memory(parameter: nn.Parameter) -> object:
    """What two parameters have in common when writing to one changes the other."""
    if isinstance(parameter, nn.parameter.UninitializedParameter) or parameter.is_meta or not parameter.numel():
        return id(parameter)  # no memory yet, or none at all
    return (parameter.device, parameter.data_ptr(), tuple(parameter.shape), parameter.stride())


def match_names(patterns: Patterns, names: Iterable[str], what: str) -> list[str]:
    """The names that the patterns match; every entry must match something.

    Args:
        what: the argument's name, for the error messages.
    """
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
    entries = _entries(patterns, what)
    for entry in entries:
        if not any(_ends_in(n, entry) for n in names):
            tails = {n.rsplit(".", 1)[-1]: None for n in names}
            raise SelectionError(
                f"{what} names {entry!r}, and no module's name equals it or ends in '.{entry}'. "
                f"{nearest(entry, [*tails, *names])}"
            )
    return [n for n in names if any(_ends_in(n, e) for e in entries)]


def _entries(patterns: Iterable[str], what: str) -> list[str]:
    try:
        entries = list(patterns)
    except TypeError:
        raise SelectionError(f"Expected {what} to be a text or a list of texts, got {patterns!r}.") from None
    if not entries:
        raise SelectionError(f"Expected {what} to name something, got an empty list. Leave it out to take every layer.")
    if strangers := [e for e in entries if not isinstance(e, str)]:
        raise SelectionError(f"Expected {what} to be a list of texts, got {strangers[0]!r} in it.")
    return entries


def _ends_in(name: str, entry: str) -> bool:
    return name == entry or name.endswith(f".{entry}")


def _named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """All names of all modules and layers but the model's own, which has none."""
    modules = named_modules(model)
    modules.pop("")
    return modules


def _key(name: str, module: nn.Module) -> object:
    """The same for two names of one layer."""
    speaker = layer_type(module)
    several = speaker is not None and speaker.parts(module)
    return (id(module), name.rpartition(".")[2] if several else "")


def _choose(
    model: nn.Module, targets: Patterns, excluded: Patterns, indices: Indices, layers_pattern: Patterns
) -> list[str]:
    """The names that the four arguments leave, one per module."""
    modules = _named_modules(model)
    known = [name for name in places(model) if name]
    if targets is None:
        chosen = [name for name in known if _type(modules[name]).by_default]
    elif targets == "all-linear":
        chosen = _all_linear(model, modules, known, "target_modules")
    elif isinstance(targets, str):
        chosen = match_names(targets, known, "target_modules")  # ".*" means every layer, not every container
    else:
        chosen = match_names(targets, modules, "target_modules")
    if excluded is not None:
        if excluded == "all-linear":
            out = _all_linear(model, modules, known, "exclude_modules")
        elif isinstance(excluded, str):
            out = match_names(excluded, known, "exclude_modules")
        else:
            entries = _entries(excluded, "exclude_modules")
            out = match_names(entries, modules, "exclude_modules")
            _refuse_containers(entries, modules, known)
        dropped = set(out)
        chosen = [name for name in chosen if name not in dropped]
    if indices is not None:
        chosen = _in_blocks(chosen, indices, layers_pattern)
    elif layers_pattern is not None:
        raise SelectionError("Expected layers_to_transform with layers_pattern, got the pattern alone. Add indices.")
    if strangers := [name for name in chosen if name not in known]:
        if layer_type(modules[strangers[0]]) is not None:
            inside = [name for name in known if name.startswith(f"{strangers[0]}.")]
            raise SelectionError(f"Expected the name of a layer, got {strangers[0]!r}, which is several: {inside}.")
        describe(strangers[0], modules[strangers[0]])  # raises: it says which types are known
    first: dict[object, str] = {}
    for name in chosen:
        first.setdefault(_key(name, modules[name]), name)
    return list(first.values())


def _all_linear(model: nn.Module, modules: dict[str, nn.Module], known: Iterable[str], what: str) -> list[str]:
    """PEFT's "all-linear": every linear layer but the output embeddings."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    linear = [
        name
        for name in known
        if _type(modules[name]).by_default and not hasattr(modules[name], "kernel_size") and modules[name] is not head
    ]
    if not linear:
        raise SelectionError(f'{what}="all-linear" matches nothing: the model has no linear layer but its head.')
    return linear


def _refuse_containers(entries: Iterable[str], modules: dict[str, nn.Module], known: Collection[str]) -> None:
    """Excluding a container by name would exclude nothing: like PEFT's, an entry stands for itself alone."""
    for entry in entries:
        matched = [name for name in modules if _ends_in(name, entry)]
        inside = [name for name in known if any(name.startswith(f"{container}.") for container in matched)]
        if inside and not set(matched) & set(known):
            raise SelectionError(
                f"exclude_modules names {entry!r}, which is no layer but holds some, such as {inside[0]!r}; they would "
                f"all stay in. To leave them out, give a regular expression: r'(.*\\.)?{re.escape(entry)}\\..*'."
            )


def _in_blocks(names: list[str], indices: int | Iterable[int], patterns: Patterns) -> list[str]:
    """The names inside the blocks with these indices: ``...layers.3.mlp.up`` lies in block 3 of ``layers``."""
    wanted = {indices} if isinstance(indices, int) else set(indices)
    if not wanted:
        raise SelectionError("Expected layers_to_transform to name a block, got an empty list. Leave it out for all.")
    lists = None
    if patterns is not None:
        lists = _entries([patterns] if isinstance(patterns, str) else patterns, "layers_pattern")
    block_of: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        found = [
            (holder, int(index))
            for holder, index, _ in zip(parts, parts[1:], parts[2:], strict=False)
            if index.isdecimal() and (lists is None or holder in lists)
        ]
        if len(found) > 1:
            raise SelectionError(
                f"Layer {name!r} lies in several numbered lists: {', '.join(holder for holder, _ in found)}. Say which "
                "one layers_to_transform counts with layers_pattern, or select with a regular expression."
            )
        if found:
            block_of[name] = found[0][1]
    if missing := sorted(wanted - set(block_of.values())):
        where = f" of {' or '.join(map(repr, lists))}" if lists else ""
        blocks = sorted(set(block_of.values()))
        raise SelectionError(
            f"layers_to_transform asks for block {missing[0]}{where}, and no selected layer lies in it. "
            + (f"Selected layers lie in blocks {blocks}." if blocks else "None lies in a block.")
        )
    return [name for name in names if block_of.get(name) in wanted]


def _type(module: nn.Module) -> type[Layer]:
    speaker = layer_type(module)
    assert speaker is not None
    return speaker


_ALONE = "it is the model itself and has no name; wrap it: torch.nn.Sequential(layer)"


def _nothing_left(model: nn.Module, modules: dict[str, nn.Module]) -> str:
    if layer_type(model) is not None:
        return f"Expected a model with layers inside, got a lone {type(model).__name__}: {_ALONE}."
    known = sum(layer_type(module) is not None for module in modules.values())
    if known:
        return (
            f"Expected at least one layer to record, got none: of {known} layers of known types the patterns and "
            "indices leave none. Loosen them; lashley.select.survey(model) lists every layer."
        )
    kinds = sorted({type(m).__name__ for m in modules.values() if next(m.parameters(recurse=False), None) is not None})
    return (
        "Expected at least one layer to record, got a model without a layer of a known type"
        + (f" (its modules with parameters are of types {', '.join(kinds)})" if kinds else "")
        + ". To add a layer type, subclass lashley.layers.Layer."
    )
