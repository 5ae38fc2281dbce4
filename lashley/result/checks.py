"""What may stand in a result: each check gives the value in the form in which it is kept, or refuses it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from lashley.errors import DataError, nearest

__all__ = ["NULL", "all_of", "choice", "keep", "number", "plain", "row_of", "texts", "unique"]

_INTERVAL = ("value", "low", "high")


def keep(thing: Any, **values: Any) -> None:
    """Fields of a frozen dataclass, in the form in which they are kept."""
    for name, value in values.items():
        object.__setattr__(thing, name, value)


def texts(thing: Any, where: str, *names: str, empty: bool = False) -> None:
    for name in names:
        value = getattr(thing, name)
        if not isinstance(value, str) or not (value.strip() or empty):
            raise DataError(f"Expected {name}= of {where} to be a text, got {value!r}.")


def choice(value: Any, known: Sequence[str | None], what: str) -> None:
    if value not in known:
        raise DataError(f"Expected {what} to be one of {', '.join(map(repr, known))}; got {value!r}.")


def unique(values: Collection[str], what: str) -> list[str]:
    """The values, if no two are alike."""
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise DataError(f"Expected the {what} to differ, got {value!r} twice.")
        seen.add(value)
    return list(values)


def all_of(parts: Iterable[Any], kind: type, what: str) -> tuple[Any, ...]:
    found = tuple(parts)
    for part in found:
        if not isinstance(part, kind):
            raise DataError(f"Expected {what} to be made with lashley.result.{kind.__name__}(...), got {part!r:.60}.")
    return found


def row_of(row: Any, keys: Sequence[str], where: str) -> dict[str, Any]:
    """A row with every column in it, and its values in the form in which they are kept."""
    if not isinstance(row, Mapping):
        raise DataError(f"Expected {where} to be a dict of {{column's key: value}}, got {row!r:.60}.")
    for key in row:
        if key not in keys:
            raise DataError(f"Expected the key of a column in {where}, got {key!r}. {nearest(str(key), keys)}")
    return {key: _cell(row.get(key), f"{where}, column {key!r}") for key in keys}


def _cell(value: Any, where: str) -> Any:
    value = _unwrapped(value, where)
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Mapping):
        if set(value) != set(_INTERVAL):
            raise DataError(
                f"Expected an interval of {', '.join(_INTERVAL)} in {where}; got {sorted(map(str, value))}."
            )
        parts = [value[name] for name in _INTERVAL]
    elif all(hasattr(value, name) for name in _INTERVAL):
        parts = [getattr(value, name) for name in _INTERVAL]
    else:
        return number(value, where)
    middle, low, high = (number(part, f"{where}, {name}") for name, part in zip(_INTERVAL, parts, strict=True))
    if middle is None or low is None or high is None:
        raise DataError(
            f"Expected three numbers in the interval in {where}, got {parts}. Give None where there is none."
        )
    if low > high:
        raise DataError(f"Expected the low end of the interval in {where} not to lie above the high one; got {parts}.")
    return {"value": middle, "low": low, "high": high}


def number(value: Any, where: str, *, missing: bool = True) -> Any:
    """A finite number as Python's own, or None where one may be missing."""
    value = _unwrapped(value, where)
    if value is None and missing:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"Expected a number in {where}, got {value!r:.60} ({type(value).__name__}).")
    try:
        finite = math.isfinite(value)
    except OverflowError as error:  # an int beyond every float
        raise DataError(f"Expected a number that a float can hold in {where}, got a far larger one.") from error
    if not finite:
        raise DataError(f"Expected a finite number in {where}, got {value}. {NULL}")
    return value


def _unwrapped(value: Any, where: str) -> Any:
    """A number of numpy or torch as Python's."""
    if not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except (ValueError, RuntimeError) as error:
        raise DataError(f"Expected one number in {where}, got a {type(value).__name__} of several or none.") from error


NULL = "A number that is undefined or missing is None, null in the file; say in a note why there is none."


def plain(value: Any, where: str) -> Any:
    """As JSON has it: dicts with texts as keys, lists, texts, finite numbers, bools and None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}, {key!r}") for key, item in value.items()}
    if hasattr(value, "tolist"):  # an array or a tensor
        return plain(value.tolist(), where)
    if isinstance(value, list | tuple | range):
        return [plain(item, where) for item in value]
    return value if value is None or isinstance(value, str | bool) else number(value, where)
