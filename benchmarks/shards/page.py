"""A result as a page (Markdown). Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).parent


def write(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the page into ``folder``."""
    page = folder / "README.md"
    page.write_text(markdown(result), encoding="utf-8")
    return [page]


def markdown(result: Mapping[str, Any]) -> str:
    """The page that lies beside the result."""
    environment = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,  # Markdown, and every value is ours
    )  # fmt: skip
    environment.filters |= {
        "gb": lambda count: f"{count / 1e9:.2f} GB",
        "gib": lambda count: f"{count / 2**30:.2f} GiB",
    }
    return environment.get_template("results.md.jinja").render(result)
