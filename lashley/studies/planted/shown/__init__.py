"""What the study found, as the tables, charts and words of a result. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lashley.result import Result
from lashley.studies.planted.shown.charts import charts
from lashley.studies.planted.shown.numbers import Found
from lashley.studies.planted.shown.tables import tables
from lashley.studies.planted.shown.words import summary

__all__ = ["shown"]


def shown(config: Mapping[str, Any], found: Found, provenance: Mapping[str, Any]) -> Result:
    """The result, from what `lashley.studies.planted.bench.Bench.setting` returns for each setting."""
    every = tables(config, found)
    return Result(
        study="planted",
        title="Planted memories: are they where the engram says, and does ablation undo having learned them?",
        summary=summary(config, list(found), every),
        tables=every,
        charts=charts(config, found, every),
        provenance=provenance,
        settings=config,
    )
