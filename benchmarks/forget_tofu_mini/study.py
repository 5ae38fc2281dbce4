"""What ``python -m benchmarks.forget_tofu_mini`` runs: `lashley.studies.forget_tofu_mini`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.measure import rounded
from lashley.studies import forget_tofu_mini

__all__ = ["run"]


def run(config: Mapping[str, Any], say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """The result, to six digits."""
    found: dict[str, Any] = rounded(forget_tofu_mini.run(config, say))
    return found
