"""Find, test and edit memory traces (engrams) in trained networks, in closed form and one forward pass.

    recording = lashley.record(model, {"cat": cat_batches, "rest": other_batches})
    engram = recording.engram(model, "cat")
    edited = lashley.ablate(model, engram)

The public names are below; each is loaded when first used, so that ``import lashley`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lashley import errors as errors
    from lashley import strength as strength
    from lashley.criteria import check as check
    from lashley.data.text import text_batches as text_batches
    from lashley.edit import ablate as ablate
    from lashley.edit import ablate_ as ablate_
    from lashley.edit import ablated as ablated
    from lashley.edit import compare as compare
    from lashley.edit import inject as inject
    from lashley.edit import inject_ as inject_
    from lashley.edit import injected as injected
    from lashley.edit import recalibrate_batchnorm_ as recalibrate_batchnorm_
    from lashley.edit import sweep as sweep
    from lashley.engram import Engram as Engram
    from lashley.estimators import Kodge as Kodge
    from lashley.estimators import Leace as Leace
    from lashley.estimators import MeanDirection as MeanDirection
    from lashley.estimators import MixtureShift as MixtureShift
    from lashley.estimators import NullSpace as NullSpace
    from lashley.estimators import Projection as Projection
    from lashley.estimators import Ridge as Ridge
    from lashley.merging import merge as merge
    from lashley.recorder import record as record
    from lashley.recording import Recording as Recording
    from lashley.resemblance import lookalikes as lookalikes
    from lashley.spectrum import Cut as Cut

__version__ = "0.1.0"

_HOME = {
    "record": "recorder",
    "Recording": "recording",
    "merge": "merging",
    "Engram": "engram",
    "Cut": "spectrum",
    "Projection": "estimators",
    "Ridge": "estimators",
    "Kodge": "estimators",
    "Leace": "estimators",
    "MixtureShift": "estimators",
    "MeanDirection": "estimators",
    "NullSpace": "estimators",
    "lookalikes": "resemblance",
    "ablate": "edit",
    "ablate_": "edit",
    "ablated": "edit",
    "inject": "edit",
    "inject_": "edit",
    "injected": "edit",
    "compare": "edit",
    "recalibrate_batchnorm_": "edit",
    "sweep": "edit",
    "check": "criteria",
    "text_batches": "data.text",
}

__all__ = [*_HOME, "errors", "strength"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"lashley.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in ("errors", "strength"):
        return importlib.import_module(f"lashley.{name}")
    raise AttributeError(f"module 'lashley' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
