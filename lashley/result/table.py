"""Tables of a result: columns that know their unit and direction, rows of numbers, intervals and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lashley.errors import DataError, nearest
from lashley.result.checks import all_of, choice, keep, number, plain, row_of, texts, unique

__all__ = ["BETTER", "UNITS", "Column", "Table", "value_of"]

UNITS = (None, "share", "points", "seconds", "bytes", "count")
BETTER = (None, "higher", "lower", "target")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: what rows call it.
        title: its head; short, lower case, without the unit.
        better: "higher" or "lower"; "target" if the nearest to the target is best; None for what has no direction
            (names, settings). With "target" the column needs a target: the table's target row, or ``target``.
        unit: None (a number of any size), "share" (from 0 to 1, shown in %), "points" (a difference of shares, shown in
            percentage points), "seconds", "bytes", or "count" (a whole number). Values in rows and series are always
            without the factor of 100.
        note: what it measures and how, a sentence or more; shown below the table.
        group: columns side by side of the same group get a head in common ("the features", "cost").
        target: the value that is best, where that is not a row's.
    """

    key: str
    title: str
    better: str | None = None
    unit: str | None = None
    note: str = ""
    group: str = ""
    target: float | None = None

    def __post_init__(self) -> None:
        where = f"the column {self.key!r}"
        texts(self, where, "key", "title")
        texts(self, where, "note", "group", empty=True)
        choice(self.better, BETTER, f"better= of {where}")
        choice(self.unit, UNITS, f"unit= of {where}")
        keep(self, target=number(self.target, f"target= of {where}"))
        if self.target is not None and self.better != "target":
            raise DataError(f"Expected better='target' of {where}, which has a target; got {self.better!r}.")


@dataclass(frozen=True)
class Table:
    """Rows of values; the first column names the row, no two rows alike.

    Attributes:
        name: short, unique in the result; part of links and of LaTeX labels.
        title: what is in it.
        columns: from left to right.
        rows: ``{column's key: value}``. A value is a number, a text, a bool, an interval, or None where there is
            none; a key that is left out is None. An interval is ``{"value": .., "low": .., "high": ..}`` or
            anything with attributes of these names (`lashley.stats.Interval`).
        note: how to read it, what was held fixed; shown with the table.
        target_row: the name of the row that others should come near to (the retrained network).
        reference_rows: names of rows that are there for comparison and compete with no other: the untouched network, a
            second retrained one. The target row is one of them without being named here.
        row_notes: ``{name of a row: what it is}``, shown below the table; rows may be left out.
    """

    name: str
    title: str
    columns: Sequence[Column] = field(metadata={"parts": Column})
    rows: Sequence[dict[str, Any]]
    note: str = ""
    target_row: str | None = None
    reference_rows: Sequence[str] = ()
    row_notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"the table {self.name!r}"
        texts(self, where, "name", "title")
        texts(self, where, "note", empty=True)
        keep(self, columns=all_of(self.columns, Column, f"columns of {where}"))
        if not self.columns:
            raise DataError(f"Expected at least one column in {where}, got none. The first one names the rows.")
        keys = unique([column.key for column in self.columns], f"keys of the columns of {where}")
        keep(self, rows=tuple(row_of(row, keys, f"{where}, row {i}") for i, row in enumerate(self.rows)))
        names = [row[keys[0]] for row in self.rows]
        for i, name in enumerate(names):
            if not isinstance(name, str) or not name:
                raise DataError(f"Expected a text that names row {i} of {where} under {keys[0]!r}, got {name!r}.")
        unique(names, f"names of the rows of {where}, in the column {keys[0]!r},")
        keep(self, row_notes=plain(self.row_notes, f"row_notes of {where}"))
        keep(self, reference_rows=tuple(plain(self.reference_rows, f"reference_rows of {where}")))
        for name in (*self.row_notes, *self.reference_rows, *([] if self.target_row is None else [self.target_row])):
            if name not in names:
                raise DataError(f"Expected the name of a row of {where}, got {name!r}. {nearest(str(name), names)}")
        aimless = [c.key for c in self.columns if c.better == "target" and c.target is None]
        if aimless and self.target_row is None:
            raise DataError(
                f"Expected a target for the column {aimless[0]!r} of {where}, whose better is 'target'; got none. Give "
                "the table target_row=, or the column target=."
            )

    def label(self, row: Mapping[str, Any]) -> str:
        """The name of a row."""
        return str(row[self.columns[0].key])

    def target(self, column: Column) -> float | None:
        """What the values of a column should come near to: its own target, or the target row's value."""
        if column.target is not None or self.target_row is None:
            return column.target
        [row] = [row for row in self.rows if self.label(row) == self.target_row]
        return value_of(row[column.key])


def value_of(cell: Any) -> float | None:
    """The number in a cell of a table: of an interval its value, of a text None."""
    if isinstance(cell, Mapping):
        return float(cell["value"])
    return None if cell is None or isinstance(cell, str) else float(cell)
