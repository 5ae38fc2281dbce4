"""What the verbs share: where text goes, tables, sizes, and JSON."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lashley.errors import DataError, LashleyError

__all__ = [
    "HelpFormatter",
    "UsageError",
    "add_json",
    "add_verb",
    "emit",
    "human_bytes",
    "plain",
    "positive",
    "require",
    "table",
    "tell",
]


class UsageError(LashleyError):
    """Options that do not go together; argparse cannot know. Ends with exit code 2."""


class HelpFormatter(argparse.HelpFormatter):
    """Fills paragraphs to the terminal's width and leaves indented ones (examples) as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        for paragraph in text.strip().split("\n\n"):
            raw = any(line.startswith("  ") for line in paragraph.splitlines())
            lines.append(paragraph if raw else textwrap.fill(paragraph, width))
        return "\n\n".join(lines)


def add_verb(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, *, text: str, example: str
) -> argparse.ArgumentParser:
    """A verb's parser: one line for the overview, a paragraph, and an example."""
    return subparsers.add_parser(
        name,
        help=summary,
        description=text,
        epilog=f"example:\n{example.rstrip()}\n",
        formatter_class=HelpFormatter,
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout instead of text")


def tell(message: str) -> None:
    """To the person: on stderr, so that stdout holds the result alone."""
    print(message, file=sys.stderr, flush=True)


def emit(args: argparse.Namespace, document: Mapping[str, Any], text: Callable[[], str]) -> None:
    """The result: the document with --json, else the text."""
    print(json.dumps(plain(document), indent=2, allow_nan=False) if args.json else text(), flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns under their heads: texts to the left, numbers to the right; None is an empty cell."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    right = [any(type(row[i]) in (int, float) for row in rows) for i in range(len(head))]

    def line(texts: Sequence[str]) -> str:
        padded = [t.rjust(w) if r else t.ljust(w) for t, w, r in zip(texts, widths, right, strict=True)]
        return "  ".join(padded).rstrip()

    return "\n".join([line(head), *map(line, cells)])


def human_bytes(count: int) -> str:
    """``1234567`` as ``1.2 MB``: decimal units, two digits or more."""
    units = ("B", "kB", "MB", "GB", "TB")
    power = min(len(str(count)) - 1, 3 * len(units) - 1) // 3
    size = count / 1000**power
    return f"{size:.0f} {units[power]}" if size >= 100 or power == 0 else f"{size:.1f} {units[power]}"


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return value


def require(packages: Mapping[str, str], what: str) -> None:
    """Refuse to begin where a package is missing that only some installations have.

    Args:
        packages: ``{module: package}``, all of the extra "demo".
        what: that needs them: "the demo".
    """
    missing = [package for module, package in packages.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise DataError(
            f"Expected {', '.join(packages.values())} for {what}; {' and '.join(missing)} cannot be found. "
            "Try: pip install 'lashley[demo]'"
        )


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def plain(value: Any) -> Any:
    """What JSON can hold: a number that is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
