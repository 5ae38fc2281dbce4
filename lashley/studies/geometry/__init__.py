"""The geometry of a recording, as a result: what ``lashley geometry`` runs.

*readings* what each concept owns in each layer, as plain numbers (`lashley.anatomy`).
*fisher*   the engram beside natural-gradient steps (`lashley.curvature`), where the data are at hand.
*tables*, *charts* both, as parts of a `lashley.result.Result`.
*page*     the result, with a summary.
"""

from __future__ import annotations

from lashley.studies.geometry.page import LIMIT, run

__all__ = ["LIMIT", "run"]
