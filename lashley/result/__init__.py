"""Results: what a study or a check measured, as data. ``lashley report`` makes the page, no torch needed.

    table = Table(
        "edits",
        "A digit taken out of the network",
        columns=[
            Column("edit", "edit"),                                       # the first column names the row
            Column("digit", "the digit", better="target", unit="share"),  # shown as per cent
            Column("fall", "others fall", better="lower", unit="points"),
        ],
        rows=[
            {"edit": "retrained", "digit": 0.0, "fall": 0.001},
            {"edit": "paper", "digit": {"value": 0.03, "low": 0.01, "high": 0.05}, "fall": 0.02},
            {"edit": "mask", "digit": 0.0, "fall": None},                 # None: there is no such number
        ],
        target_row="retrained",
    )
    Result(
        study="closed_forms",
        title="Closed forms beside the retrained network",
        summary="The question. What came out. What this does not show.",
        tables=[table],
        charts=[Chart("cost", "What it costs", [Series("paper", x=[0.5, 1, 2], y=[0.0, 0.02, 0.3])], x_label="alpha")],
        provenance=made_by(seeds=[0, 1], data={"MNIST": "5f1c..."}),
        settings={"epochs": 5},
    ).save("results/closed_forms.json")

Texts are plain: they are shown as they are, without Markdown, HTML or LaTeX in them.

The file is JSON with ``"kind": "lashley.result"`` and the number of its format, in short lines, so that two versions of
a result can be compared with any tool for texts. Mistakes are refused where they are made: an unknown
column in a row, a number that is not finite, a target that is no row. Everything is turned into plain Python when it
is made (tuples, dicts, floats; numbers of numpy and torch become Python's), so a result equals what is loaded again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lashley import atomic, provenance
from lashley.errors import DataError, nearest
from lashley.result import file
from lashley.result.chart import KINDS, Chart, Series
from lashley.result.checks import all_of, keep, plain, texts, unique
from lashley.result.file import FORMAT, KIND
from lashley.result.table import BETTER, UNITS, Column, Table, value_of

__all__ = [
    "BETTER",
    "FORMAT",
    "KIND",
    "KINDS",
    "UNITS",
    "Chart",
    "Column",
    "Result",
    "Series",
    "Table",
    "made_by",
    "value_of",
]


@dataclass(frozen=True)
class Result:
    """What a study found out, with what made it.

    Attributes:
        study: its name as in the command ("closed_forms"): letters, digits, ``-`` and ``_``. Results of one study have
            tables of the same names and columns, so that they can be put side by side.
        title: a line.
        summary: a few sentences for somebody who knows nothing of it: the question, the answer, the limits. An empty
            line between paragraphs.
        tables, charts: in the order of the page.
        provenance: JSON, from `made_by`; "command" has to be there.
        settings: JSON, whatever changes numbers.
        format: of the file; this version of the library knows 1.
    """

    study: str
    title: str
    summary: str
    tables: Sequence[Table] = field(metadata={"parts": Table})
    charts: Sequence[Chart] = field(metadata={"parts": Chart})
    provenance: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        texts(self, "the result", "study", "title", "summary")
        if not self.study.replace("-", "").replace("_", "").isalnum():
            raise DataError(f"Expected study= to be letters, digits, '-' and '_', as in a command; got {self.study!r}.")
        if self.format != FORMAT:
            raise DataError(f"Expected format={FORMAT}, the one this version writes; got {self.format!r}.")
        keep(self, tables=all_of(self.tables, Table, "tables"), charts=all_of(self.charts, Chart, "charts"))
        parts: list[Table | Chart] = [*self.tables, *self.charts]
        unique([part.name for part in parts], "names of tables and charts")
        names = [table.name for table in self.tables]
        for chart in self.charts:
            if chart.table and chart.table not in names:
                raise DataError(
                    f"Expected table= of the chart {chart.name!r} to name a table, got {chart.table!r}. "
                    f"{nearest(chart.table, names)}"
                )
        for name in ("provenance", "settings"):
            if not isinstance(getattr(self, name), Mapping):
                raise DataError(f"Expected {name} to be a mapping, got a {type(getattr(self, name)).__name__}.")
            keep(self, **{name: plain(getattr(self, name), name)})
        if not isinstance(self.provenance.get("command"), str):
            raise DataError(
                "Expected provenance to say the 'command', got none. Use provenance=lashley.result.made_by()."
            )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the result as JSON in one step, replacing what is there, and return where.

        Raises:
            StoreError: it could not be written.
        """
        return atomic.write(path, self.to_json())

    def to_json(self) -> str:
        """The text of the file."""
        return file.dump(self)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Result:
        """The result in a file that `save` wrote.

        Raises:
            StoreError: there is none, it is cut off or damaged, of another format, or another kind of file.
        """
        return file.load(cls, Path(path))


def made_by(
    *, seeds: Sequence[int] = (), data: Mapping[str, str] | None = None, command: str | None = None, **more: Any
) -> dict[str, Any]:
    """Provenance: the command, versions, machine, seeds, and fingerprints of the data.

        provenance=made_by(seeds=[0, 1, 2], data={"MNIST": digest(images.tobytes())}, seconds=61.0)

    Args:
        seeds: every seed that a number depends on.
        data: ``{name of the data: fingerprint or checksum}``.
        command: None is the command line of this process (`lashley.provenance.command`).
        more: whatever else a reader should know, as JSON: ``checkpoint="3f2a..."``, ``seconds=61.0``.
    """
    line = provenance.command() if command is None else command
    return {"command": line, "seeds": list(seeds), "data": dict(data or {}), **provenance.environment(), **more}
