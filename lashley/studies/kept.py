"""A finished piece of a study: a folder that is complete or absent, and that is used again only while it is sound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lashley.errors import StoreError
from lashley.store import Reader

__all__ = ["KIND", "VERSION", "sound"]

KIND, VERSION = "piece of a study", 1


def sound(place: Path, say: Callable[[str], None]) -> Reader | None:
    """The piece at a place; None where there is none, or a damaged one, of which ``say`` is told."""
    if not place.exists():
        return None
    try:
        found = Reader(place, KIND, VERSION)
        for file in found.checksums:
            found.check(file)
    except StoreError as error:
        say(f"{error} It is made again.")
        return None
    return found
