"""Rows of text in files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lashley.errors import DataError, nearest

__all__ = ["SUFFIXES", "read_file"]


def read_file(path: Path) -> list[Any]:
    """The rows of a file, by the ending of its name.

    ============================  ====================================================================
    ``.jsonl``, ``.json``         a JSON value per line; or one JSON list of rows
    ``.csv``                      a row per line under a line of column names
    ``.parquet``                  a row per row (takes pyarrow)
    ``.txt``                      a text per line; empty lines are left out
    ============================  ====================================================================

    Raises:
        DataError: no such file, another ending, or a content that is not what the ending says; the line is named.
    """
    if path.is_dir():
        inside = sorted(file.name for file in path.iterdir() if file.suffix in _READERS)
        found = f"It holds {', '.join(inside[:8])}: name one of them." if inside else "No such file is in it."
        raise DataError(f"Expected a file ({_ENDINGS}), got the folder {path}. {found}")
    if not path.exists():
        beside = [str(path.parent / file.name) for file in path.parent.glob("*")] if path.parent.is_dir() else []
        raise DataError(
            f"There is no file {path}. {nearest(str(path), beside) if beside else ''} Sets of the Hub are named "
            "hf:owner/name[:config][@revision][#split]; a single text is given in a list: [text]."
        )
    if path.suffix not in _READERS:
        raise DataError(f"Expected a file that ends in {_ENDINGS}, got {path}.")
    with _reading(path):
        return _READERS[path.suffix](path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(f"Expected text in UTF-8 in {path}, got byte {error.object[error.start]:#x}.") from error
    except OSError as error:
        raise DataError(f"{path} could not be read: {error.strerror or error}.") from error


def _json(path: Path) -> list[Any]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        return _lines_of_json(path, text)
    return whole if isinstance(whole, list) else [whole]  # a single line holds a single row


def _jsonl(path: Path) -> list[Any]:
    return _lines_of_json(path, path.read_text(encoding="utf-8-sig"))


def _lines_of_json(path: Path, text: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):  # a JSON text may hold other signs that end a line
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError(
                f"Expected JSON in line {number} of {path}, got {line[:60]!r} ({error.msg}). A file with a plain text "
                "per line ends in .txt."
            ) from error
    return rows


def _csv(path: Path) -> list[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        rows = []
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(
                        f"Line {reader.line_num} of {path} has not the {len(reader.fieldnames or ())} columns of its "
                        "first line. Texts with commas or line breaks stand in double quotes."
                    )
                rows.append(row)
        except csv.Error as error:
            raise DataError(f"{path} is not CSV after line {reader.line_num}: {error}.") from error
    return rows


def _parquet(path: Path) -> list[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"Reading {path} takes pyarrow ({error}): pip install 'lashley[hf]'.") from error
    try:
        rows: list[Any] = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not an intact parquet file: {error}") from error
    return rows


def _txt(path: Path) -> list[Any]:
    with path.open(encoding="utf-8-sig") as file:
        return [line for line in (line.rstrip("\n") for line in file) if line.strip()]


_READERS: dict[str, Callable[[Path], list[Any]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".txt": _txt,
}
SUFFIXES = tuple(_READERS)
_ENDINGS = ", ".join(SUFFIXES)
