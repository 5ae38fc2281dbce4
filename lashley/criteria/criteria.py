"""What `lashley.check` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lashley.criteria.findings import Findings
from lashley.criteria.table import result_of, text_of
from lashley.result import Result

__all__ = ["Criteria"]


@dataclass(frozen=True)
class Criteria(Findings):
    """Specificity, reactivation, sufficiency and necessity of an engram, measured (`Findings`).

    ``print(criteria)`` is a table; ``criteria.result().save("check.json")`` is what ``lashley report`` draws.
    """

    def result(self, **provenance: Any) -> Result:
        """Tables and figures, for `lashley report`; ``provenance`` as `lashley.result.made_by` takes it."""
        return result_of(self, provenance)

    def __str__(self) -> str:
        return text_of(self)
