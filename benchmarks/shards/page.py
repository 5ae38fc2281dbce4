"""A result as a page (Markdown). Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.pages import fill

HERE = Path(__file__).parent


def write(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the page into ``folder``."""
    page = folder / "README.md"
    page.write_text(markdown(result), encoding="utf-8")
    return [page]


def markdown(result: Mapping[str, Any]) -> str:
    """The page that lies beside the result."""
    filters = {
        "gb": lambda count: f"{count / 1e9:.2f} GB",
        "gib": lambda count: f"{count / 2**30:.2f} GiB",
    }
    return fill(HERE, result, filters)
