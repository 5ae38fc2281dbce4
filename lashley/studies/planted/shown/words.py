"""The result in words: the question, what came out, the limits. Every number is one of the tables'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lashley.result import Table

__all__ = ["summary"]


def summary(config: Mapping[str, Any], tables: Sequence[Table]) -> str:
    return "To be written."
