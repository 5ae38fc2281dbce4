"""Applying engrams to a model, and proving what an edit did."""

from lashley.edit.apply import ablate, ablate_, ablated, inject, inject_, injected
from lashley.edit.batchnorm import recalibrate_batchnorm_
from lashley.edit.receipt import Change, Receipt, compare

__all__ = [
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
]
