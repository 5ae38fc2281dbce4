"""The geometry of a recording, as a result: what ``lashley geometry`` runs.

*readings* what each concept owns in each layer, as plain numbers (`lashley.anatomy`).
*fisher*   the engram beside natural-gradient steps (`lashley.curvature`), where the data are at hand.
*page*     both as tables and charts of a `lashley.result.Result`.
"""

from __future__ import annotations

from lashley.studies.geometry.page import run

__all__ = ["run"]
