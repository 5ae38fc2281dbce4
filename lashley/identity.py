"""What a run is: of a model and of functions, texts that another process finds the same where they are the same.

A checkpoint outlives its process, so neither can be told by its address. A model is told by its tensors and by what its
modules say of themselves; a function by its code and by the constants that its code uses. That finds mistakes. It does
not see what a function reaches by other ways: lists, mappings and objects that it holds, functions of other modules.
"""

from __future__ import annotations

import dis
import re
from collections.abc import Callable, Iterator
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lashley.provenance import digest, fingerprint

__all__ = ["of_function", "of_modules", "of_tensors"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), torch.dtype, torch.device)


def of_modules(model: nn.Module) -> dict[str, str]:
    """Class and settings of every module by its name: an activation has no tensors to tell it by."""
    return {
        name: re.sub(r" at 0x\w+", "", f"{type(module).__qualname__}({module.extra_repr()})")
        for name, module in model.named_modules(remove_duplicate=False)
    }


def of_tensors(model: nn.Module) -> dict[str, str]:
    """Fingerprints of all parameters and buffers, also of those that a state dict leaves out."""
    tensors = {**model.state_dict(), **dict(model.named_buffers(remove_duplicate=False))}
    return {name: fingerprint(tensor) for name, tensor in tensors.items() if isinstance(tensor, Tensor)}


def of_function(function: Callable[..., object] | None) -> str | None:
    """Name and content of a function: its code, its defaults, and what the code uses by name where that is a constant
    (numbers, texts, tensors, tuples of them) or a function of the same module. What the code assigns to is its state
    and does not count.
    """
    if function is None:
        return None
    inner: Any = function
    while isinstance(inner, partial):
        inner = inner.func
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    return f"{name} {digest(_value(function, getattr(inner, '__module__', None), ()))}"


def _value(value: Any, home: str | None, above: tuple[object, ...]) -> object:
    """What a value is, as tuples and texts.

    Args:
        home: the module whose functions are looked into.
        above: the functions that led here; they may call each other.
    """
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, Tensor):
        return fingerprint(value)
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return str(value.dtype), value.shape, digest(value.tobytes())
    if isinstance(value, tuple):
        return tuple(_value(item, home, above) for item in value)
    if isinstance(value, frozenset):
        return sorted(repr(_value(item, home, above)) for item in value)
    if isinstance(value, CodeType):
        return value.co_code.hex(), value.co_names, _value(value.co_consts, home, above)
    if isinstance(value, partial):
        keywords = tuple(sorted(value.keywords.items()))
        return tuple(_value(part, home, above) for part in (value.func, value.args, keywords))
    if isinstance(value, MethodType):
        return type(value.__self__).__qualname__, _value(value.__func__, home, above)
    if isinstance(value, FunctionType):
        inside = value.__module__ == home and all(value is not one for one in above)
        return _function(value, home, (*above, value)) if inside else f"{value.__module__}.{value.__qualname__}"
    call = type(value).__call__ if callable(value) else None
    if isinstance(call, FunctionType) and call.__module__ == home and all(value is not one for one in above):
        kept = {name: held for name, held in vars(value).items() if name not in _assigned(call.__code__)}
        above = (*above, value)
        return type(value).__qualname__, _value(call, home, above), _value(tuple(kept.items()), home, above)
    return type(value).__qualname__


def _function(function: FunctionType, home: str | None, above: tuple[object, ...]) -> object:
    code = function.__code__
    names = {name: function.__globals__[name] for name in _names(code) if name in function.__globals__}
    names |= dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    used = [(name, _content(names[name])) for name in sorted(names) if name not in _assigned(code)]
    parts = code, function.__defaults__, tuple((function.__kwdefaults__ or {}).items()), tuple(used)
    return tuple(_value(part, home, above) for part in parts)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code and that of the functions written inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _names(code: CodeType) -> set[str]:
    return {name for one in _codes(code) for name in one.co_names}


def _assigned(code: CodeType) -> set[str]:
    """Names outside of the function that it assigns to: globals, variables of a function around it, attributes."""
    stores = {"STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR"}
    return {i.argval for one in _codes(code) for i in dis.get_instructions(one) if i.opname in stores}


def _content(held: object) -> object:
    """What is in a closure's cell; what stands there before it is filled is no constant."""
    if not isinstance(held, CellType):
        return held
    try:
        return held.cell_contents
    except ValueError:
        return None
