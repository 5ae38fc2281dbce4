"""What the study found, as the tables, charts and words of a result. Nothing is measured here."""

from __future__ import annotations

from lashley.studies.planted.shown.tables import result as shown

__all__ = ["shown"]
