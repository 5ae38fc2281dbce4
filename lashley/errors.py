"""Everything lashley raises or warns about.

LashleyError
├── DataError          batches, labels, concepts or masks that cannot be used
├── SelectionError     a layer pattern, layer or concept name that matches nothing
├── ModelError         a model, module or weight that cannot be recorded or edited
├── RecordingError     what the forward pass delivered is not what was announced
├── MomentError        moments that cannot be added, packed or solved together
├── SolveError         a cut, estimator or factorisation that has no answer
├── EditError          an edit that was refused; the model is bit-identical to before
└── StoreError         a folder that is not what it should be; nothing was written

LashleyWarning (a UserWarning) marks results that are defined but deserve a second look.

Every message says what was expected, what came and what to try.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "DataError",
    "EditError",
    "LashleyError",
    "LashleyWarning",
    "ModelError",
    "MomentError",
    "RecordingError",
    "SelectionError",
    "SolveError",
    "StoreError",
    "nearest",
]


class LashleyError(Exception):
    """Base of every error raised by lashley."""


class DataError(LashleyError, ValueError):
    """Batches, labels, concepts or masks that cannot be used."""


class SelectionError(LashleyError, KeyError):
    """A pattern, layer or concept name that matches nothing."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0]) if self.args else ""


class ModelError(LashleyError, TypeError):
    """A model, module or weight that cannot be recorded or edited."""


class RecordingError(LashleyError, RuntimeError):
    """The forward pass did not deliver what was announced."""


class MomentError(LashleyError, ValueError):
    """Moments that cannot be added, packed or solved together."""


class SolveError(LashleyError, ValueError):
    """A cut, an estimator or a factorisation that has no answer."""


class EditError(LashleyError, ValueError):
    """A refused edit. Every tensor is bit-identical to before."""


class StoreError(LashleyError, OSError):
    """A folder or file that is not what it should be. Nothing was written."""

    def __str__(self) -> str:  # OSError with one argument prints it, with more it prints errno
        return str(self.args[0]) if self.args else ""


class LashleyWarning(UserWarning):
    """A result that is defined but deserves a second look."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A sentence that offers the known names closest to ``name``, or the first few if none is close."""
    known = list(known)
    if not known:
        return "There are none."
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(repr(c) for c in close) + "?"
    shown = ", ".join(repr(k) for k in known[:count])
    return f"Known are {shown}" + (f" and {len(known) - count} more." if len(known) > count else ".")
