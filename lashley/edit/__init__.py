"""Applying engrams to a model, and proving what an edit did."""

from __future__ import annotations

from lashley.edit.apply import Alpha, ablate, ablate_, ablated, inject, inject_, injected
from lashley.edit.batchnorm import recalibrate_batchnorm_
from lashley.edit.receipt import Change, Receipt, compare
from lashley.edit.sweep import sweep

__all__ = [
    "Alpha",
    "Change",
    "Receipt",
    "ablate",
    "ablate_",
    "ablated",
    "compare",
    "inject",
    "inject_",
    "injected",
    "recalibrate_batchnorm_",
    "sweep",
]
