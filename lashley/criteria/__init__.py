"""Criteria: specificity, reactivation, sufficiency and necessity of an engram, measured with controls.

``checking``   the function `lashley.check`; what it compares (``edits``, ``controls``, ``null``)
``recorded``   Z-space from moments alone: no pass
``passing``    Z-space and outputs from passes over samples (``watching``: layers; ``speaking``: outputs)
``reading``    what readers find in the features
``numbers``    from numbers per sample (``samples``) to criteria with intervals (``findings``, ``criteria``)
``table``      the result as text, tables and figures
"""

from __future__ import annotations

from lashley.criteria.checking import DOSES, check
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
