"""Libraries that only some measures take, asked for when they are used."""

from __future__ import annotations

import importlib
from typing import Any

from lashley.errors import DataError

__all__ = ["needed"]


def needed(module: str, purpose: str) -> Any:
    """A module of scikit-learn, or of scipy which comes with it.

    Raises:
        DataError: it cannot be imported; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(f"{purpose} takes scikit-learn ({error}): pip install 'lashley[metrics]'.") from error
