"""The file of a result: dataclasses as JSON that reads and compares well, and back, strictly."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, TypeVar

from lashley.errors import DataError, StoreError, nearest
from lashley.result.checks import NULL

__all__ = ["FORMAT", "KIND", "dump", "load"]

KIND = "lashley.result"
FORMAT = 1

_PAGES = ("README.md", "index.html", "forgetting.html")  # of results in a form of their own
_WIDTH = 120  # of a line of the file, where its contents can be broken

T = TypeVar("T")


def dump(thing: Any) -> str:
    """The text of the file of a dataclass.

    A field that is a tuple of dataclasses says so by its metadata: ``field(metadata={"parts": Column})``.
    """
    return _layout({"kind": KIND, "format": FORMAT, **_without_defaults(thing)}) + "\n"


def _without_defaults(thing: Any) -> dict[str, Any]:
    """The fields of a part that are not as they would be anyway, parts within it likewise."""
    found = {}
    for entry in dataclasses.fields(thing):
        value = getattr(thing, entry.name)
        default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
        if value == default:
            continue
        if "parts" in entry.metadata:
            value = [_without_defaults(part) for part in value]
        found[entry.name] = value
    return found


def _layout(value: Any, indent: str = "") -> str:
    """JSON with a line for whatever fits into one, and lists of numbers filled up to the width."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if len(indent) + len(line) <= _WIDTH or not isinstance(value, dict | list | tuple):
        return line
    inner = indent + " "
    if isinstance(value, dict):
        items = [f"{json.dumps(key, ensure_ascii=False)}: {_layout(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(inner + item for item in items) + f"\n{indent}}}"
    if not any(isinstance(item, dict | list | tuple) for item in value):
        return f"[\n{_filled(value, inner)}\n{indent}]"
    return "[\n" + ",\n".join(inner + _layout(item, inner) for item in value) + f"\n{indent}]"


def _filled(values: Sequence[Any], indent: str) -> str:
    """Values one after the other, in lines as long as may be."""
    lines = [indent]
    for item in (json.dumps(value, ensure_ascii=False, allow_nan=False) for value in values):
        if lines[-1] != indent and len(lines[-1]) + len(item) > _WIDTH - 2:
            lines[-1] = lines[-1].rstrip()
            lines.append(indent)
        lines[-1] += item + ", "
    return "\n".join(lines).removesuffix(", ")


def load(cls: type[T], path: Path) -> T:
    """What `dump` made of a dataclass, if it says so and every field is as it should be."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StoreError(f"Expected {path} to be a result, which is JSON; got bytes that are no text.") from error
    except OSError as error:
        raise StoreError(
            f"Could not read {path}: {error.strerror or error}. Name the JSON file of a result."
        ) from error
    content = _parsed(text, path)
    kind, version = (content.get("kind"), content.get("format")) if isinstance(content, dict) else (None, None)
    if kind != KIND:
        raise StoreError(
            f'Expected {path} to be a result, JSON with {{"kind": {KIND!r}}}; got {_seen(content)}.{_page(path)}'
        )
    if version != FORMAT:
        raise StoreError(
            f"Expected {path} to be of format {FORMAT}, which this version of lashley knows; got {version!r}. Run its "
            f"command again with this version{_command_of(content)}, or read it with the version that wrote it."
        )
    try:
        return _made(cls, {key: value for key, value in content.items() if key != "kind"}, "the result")
    except (DataError, RecursionError) as error:
        raise StoreError(f"{path} is no sound result. {error} Run its command again{_command_of(content)}.") from error


def _parsed(text: str, path: Path) -> Any:
    def refuse(literal: str) -> Any:
        raise StoreError(f"Expected finite numbers in {path}, got {literal}, which is no JSON. {NULL}")

    try:
        content = json.loads(text, parse_constant=refuse)
        json.dumps(content, ensure_ascii=False).encode()  # half of a surrogate pair is JSON, and no page can show it
        return content
    except json.JSONDecodeError as error:
        cut = not text[error.pos :].strip() or error.msg.startswith("Unterminated")
        how = "it ends too early, as if cut off" if cut else error.msg
        raise StoreError(
            f"Expected {path} to be a result, which is JSON; line {error.lineno}, place {error.colno}: {how}. Copy it "
            "again, or run its command again."
        ) from error
    except (ValueError, RecursionError) as error:  # thousands of digits or of brackets, half a character
        raise StoreError(
            f"Expected {path} to be a result, which can be read and shown; {error}. Run its command again."
        ) from error


def _made(kind: Any, values: Any, where: str) -> Any:
    """A dataclass of this file from what JSON has for it, parts within it likewise."""
    if not isinstance(values, dict):
        raise DataError(f"Expected {where} to be an object, got {values!r:.60}.")
    entries = {entry.name: entry for entry in dataclasses.fields(kind)}
    for name in values:
        if name not in entries:
            raise DataError(f"Expected a field of {where}, got {name!r}. {nearest(name, entries)}")
    found = {}
    for name, entry in entries.items():
        if name not in values:
            if entry.default is MISSING and entry.default_factory is MISSING:
                raise DataError(f"Expected the field {name!r} of {where}, found none.")
            continue
        value = values[name]
        if str(entry.type).startswith("Sequence") and not isinstance(value, list):
            raise DataError(f"Expected the field {name!r} of {where} to be a list, got {value!r:.60}.")
        if "parts" in entry.metadata:
            value = [_made(entry.metadata["parts"], part, f"{name}[{i}]") for i, part in enumerate(value)]
        found[name] = value
    return kind(**found)


def _seen(content: Any) -> str:
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    kind = content.get("kind")
    return f"the kind {kind!r}" if kind is not None else f"an object of {', '.join(list(content)[:4]) or 'nothing'}"


def _page(path: Path) -> str:
    """Where to look instead: results in a form of their own have a page beside them."""
    for name in _PAGES:
        if (page := path.with_name(name)).is_file():
            return f" The page that lies beside it shows it: {page}"
    return " Files of studies and of lashley check are results; a model, an engram or a table of yours is none."


def _command_of(content: Mapping[str, Any]) -> str:
    """The command of a result whose form is not known to be right."""
    made = content.get("provenance")
    line = made.get("command") if isinstance(made, dict) else None
    return f" ({line})" if isinstance(line, str) else ""
