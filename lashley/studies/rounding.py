"""Numbers of a result as they are written down."""

from __future__ import annotations

from typing import Any

__all__ = ["rounded"]


def rounded(value: Any) -> Any:
    """Floats to six digits after the point: more would only be noise in a file that people read."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value
