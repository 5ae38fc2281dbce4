"""Criteria: specificity, reactivation, sufficiency and necessity of an engram, measured with controls.

``check``      the function `lashley.check`; what it compares (``edits``, ``controls``, ``null``)
``recorded``   Z-space from moments alone: no pass
``passing``    Z-space and outputs from passes over samples (``watching``: what layers do; ``speaking``: what outputs say)
``reading``    what readers find in the features
``numbers``    from numbers per sample (``samples``) to criteria with intervals (``findings``, ``criteria``)
``table``      the result as text, tables and figures
"""

from __future__ import annotations

from lashley.criteria.check import DOSES, check
from lashley.criteria.controls import CONTROLS
from lashley.criteria.criteria import Criteria
from lashley.criteria.findings import Dose, EditCriteria, LayerCriteria
from lashley.criteria.null import null_state
from lashley.criteria.recorded import Recorded

__all__ = [
    "CONTROLS",
    "DOSES",
    "Criteria",
    "Dose",
    "EditCriteria",
    "LayerCriteria",
    "Recorded",
    "check",
    "null_state",
]
