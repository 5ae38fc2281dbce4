"""The page beside a benchmark's result, from the template beside its code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

__all__ = ["fill"]


def fill(folder: Path, values: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]], **more: Any) -> str:
    """``results.md.jinja`` of a folder, filled with ``values`` and ``more``; a name that is missing is refused."""
    environment = Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, and every value is ours
    )
    environment.filters |= filters
    return environment.get_template("results.md.jinja").render(values, **more)
