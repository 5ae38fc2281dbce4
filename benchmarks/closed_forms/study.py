"""What ``python -m benchmarks.closed_forms`` runs: the study, which is a part of the library."""

from __future__ import annotations

from lashley.studies.closed_forms.study import run

__all__ = ["run"]
