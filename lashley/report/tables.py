"""A table of a result as its reader meets it: numbers written alike, and which are nearest to where they should be.

HTML, Markdown and LaTeX show the same view. The best value of a column is that of the smallest distance, which is
counted from the target, or from the highest or lowest value there is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from typing import Any

from lashley.errors import DataError
from lashley.report.numbers import Scale, scale_of
from lashley.result import Column, Table, value_of

__all__ = ["MISSING", "SIGNS", "WORDS", "Cell", "Head", "Row", "View", "view"]

MISSING = "\N{EN DASH}"
SIGNS = {"higher": "\u2191", "lower": "\u2193", "target": "\u25ce", None: ""}
WORDS = {"higher": "higher is better", "lower": "lower is better", "target": "nearer to the target is better"}
_LONG = 24  # letters of a text that needs room
TINTS = 5  # steps of the tint that grows with the distance


@dataclass(frozen=True)
class Cell:
    """A value on the page.

    Attributes:
        text: without unit; a dash where there is none.
        interval: "1.0-5.0" or nothing.
        key: what sorting compares (for a target the distance from it); None comes last, whatever the direction.
        mark: "best", "close" (its interval reaches as near as the best value is), or nothing.
        tint: 0 at the best value up to `TINTS` at the farthest.
        numeric: whether it is a number, or the lack of one, in a column of numbers.
        difference: from the target, "+1.2", in a column that has one; of the target itself its value.
    """

    text: str
    interval: str = ""
    key: float | str | None = None
    mark: str = ""
    tint: int = 0
    numeric: bool = True
    difference: str = ""


@dataclass(frozen=True)
class Head:
    """What stands above a column.

    Attributes:
        target: the number that is best, where that is not the target row's.
        numeric: whether there are numbers below it.
        long: whether there are texts below it that need room.
    """

    column: Column
    unit: str = ""
    target: str = ""
    numeric: bool = False
    long: bool = False

    @property
    def sign(self) -> str:
        """Which way is better, with the number that is best where there is one: "\u25ce 0.5"."""
        return " ".join(part for part in (SIGNS[self.column.better], self.target) if part)

    @property
    def words(self) -> str:
        return WORDS.get(self.column.better or "", "")

    @property
    def title(self) -> str:
        """With the unit: "others fall, points"."""
        return ", ".join(part for part in (self.column.title, self.unit) if part)

    @property
    def unit_of_difference(self) -> str:
        """The unit of differences from the target: of shares, points."""
        return "points" if self.column.unit == "share" else self.unit

    @property
    def first(self) -> str:
        """How sorting begins: the best first."""
        return "descending" if self.column.better == "higher" else "ascending"


@dataclass(frozen=True)
class Row:
    """A row: its cells under the heads, the first of them its name; ``role`` is "target", "reference" or nothing."""

    cells: Sequence[Cell]
    role: str = ""


@dataclass(frozen=True)
class View:
    """A table ready to be written.

    Attributes:
        groups: ``(title, how many columns)`` from left to right; empty where no column has one.
        leaders: ``(name of a row, in how many columns it is best)``, the most often best first.
        contested: in how many columns there is a best value.
        names: of the results side by side; empty where there is one.
    """

    table: Table
    heads: Sequence[Head]
    rows: Sequence[Row]
    leaders: Sequence[tuple[str, int]]
    contested: int
    names: Sequence[str] = ()
    groups: Sequence[tuple[str, int]] = field(default=())

    @property
    def marked(self) -> set[str]:
        """The marks and roles in it that want an explanation."""
        return {word for row in self.rows for word in (row.role, *(cell.mark for cell in row.cells)) if word}

    def legend(self, close: str) -> str:
        """What the signs and marks in it mean, in a sentence each; ``close`` is how cells of that mark look."""
        found = [f"{sign} {WORDS[better]}" for better, sign in SIGNS.items() if better and self._has(better)]
        lines = ["; ".join(found)] if found else []
        if any(head.unit == "points" for head in self.heads):
            lines.append("points are percentage points")
        if "best" in self.marked:
            of = " within its result" if self.names else ""
            aside = ", rows for comparison aside" if self.marked & {"target", "reference"} else ""
            lines.append(f"bold: best in its column{of}{aside}")
        if "close" in self.marked:
            lines.append(f"{close}: its interval reaches as near as the best value")
        return ". ".join(line[0].upper() + line[1:] for line in lines) + "." if lines else ""

    @property
    def compares(self) -> bool:
        """Whether its rows are rivals: there is a target, or a row that they are compared with."""
        return any(row.role for row in self.rows)

    @property
    def tinted(self) -> bool:
        return any(cell.tint for row in self.rows for cell in row.cells)

    @property
    def intervals(self) -> bool:
        return any(cell.interval for row in self.rows for cell in row.cells)

    @property
    def explained(self) -> list[tuple[str, str]]:
        """Columns and rows that have a note."""
        columns = [(head.column.title, head.column.note) for head in self.heads if head.column.note]
        return columns + list(self.table.row_notes.items())

    def _has(self, better: str) -> bool:
        return any(head.column.better == better for head in self.heads)


def view(tables: Table | Mapping[str, Table]) -> View:
    """A table, or the tables of several results side by side: their rows of one name below each other.

    Args:
        tables: a table, or ``{name of a result: its table}``; the columns of all are those of the first.

    Raises:
        DataError: a table has other columns than the first one.
    """
    several = dict(tables) if isinstance(tables, Mapping) else {"": tables}
    first = next(iter(several.values()))
    for name, table in several.items():
        odd = _difference(table.columns, first.columns)
        if odd is not None:
            raise DataError(
                f"Expected the table {first.name!r} of {name!r} to have the columns of the first one, to stand beside "
                f"it; they differ in {odd!r}. Show the results without putting them side by side."
            )
    columns = [_column([[row[c.key] for row in t.rows] for t in several.values()], c, several) for c in first.columns]
    heads = [head for head, _ in columns]
    rows, leaders = [], Counter[str]()
    for label in dict.fromkeys(table.label(row) for table in several.values() for row in table.rows):
        for number, (name, table) in enumerate(several.items()):
            place = next((i for i, row in enumerate(table.rows) if table.label(row) == label), None)
            if place is None:
                continue
            cells = [per_table[number][place] for _, per_table in columns]
            leaders[label] += sum(cell.mark == "best" for cell in cells)
            if name:
                cells.insert(1, Cell(name, key=name, numeric=False))
            rows.append(Row(cells, _role(table, label)))
    if any(several):
        heads.insert(1, Head(Column("result", "result", group=first.columns[0].group)))
    contested = sum(any(cell.mark == "best" for cell in cells) for _, per_table in columns for cells in per_table)
    return View(
        table=first,
        heads=heads,
        rows=rows,
        leaders=[(label, count) for label, count in leaders.most_common() if count],
        contested=contested,
        names=[name for name in several if name],
        groups=_groups(heads),
    )


def _difference(mine: Sequence[Column], others: Sequence[Column]) -> str | None:
    """The key of the first column that is not the same in both: another key, unit, direction or target."""
    for one, two in zip_longest(mine, others):
        if one is None or two is None:
            return str((one or two).key)
        if (one.key, one.unit, one.better, one.target) != (two.key, two.unit, two.better, two.target):
            return str(one.key)
    return None


def _groups(heads: Sequence[Head]) -> list[tuple[str, int]]:
    found = [(title, len(list(part))) for title, part in groupby(head.column.group for head in heads)]
    return found if any(title for title, _ in found) else []


def _role(table: Table, label: str) -> str:
    if label == table.target_row:
        return "target"
    return "reference" if label in table.reference_rows else ""


def _column(
    values: Sequence[Sequence[Any]], column: Column, tables: Mapping[str, Table]
) -> tuple[Head, list[list[Cell]]]:
    """A column's head, and for every table its cells; all of them are written with one scale."""
    every = [value for part in values for value in part]
    measured = [number for value in every for number in _numbers(value)]
    if not measured:
        long = any(len(str(value)) > _LONG for value in every)
        return Head(column, long=long), [[_text(value) for value in part] for part in values]
    scale = scale_of(column.unit, measured)
    shown = "" if column.target is None else scale.text(column.target)
    cells = [_cells(part, column, scale, table) for part, table in zip(values, tables.values(), strict=True)]
    return Head(column, scale.unit, shown, numeric=True), cells


def _text(value: Any) -> Cell:
    if value is None:
        return Cell(MISSING, numeric=False)
    text = ("yes" if value else "no") if isinstance(value, bool) else str(value)
    return Cell(text, key=text, numeric=False)


def _cells(values: Sequence[Any], column: Column, scale: Scale, table: Table) -> list[Cell]:
    """The cells of one table's column, with what is best in it."""
    numbers = [None if isinstance(value, bool) else value_of(value) for value in values]
    competes = [
        n is not None and not _role(table, table.label(row)) for n, row in zip(numbers, table.rows, strict=True)
    ]
    away = _distance(column, table, [n for n, runs in zip(numbers, competes, strict=True) if runs and n is not None])
    running = [away(n) for n, runs in zip(numbers, competes, strict=True) if runs and n is not None]
    best, worst = (min(running), max(running)) if len(running) > 1 else (0.0, 0.0)
    contested = worst > best  # where all are alike none is best
    winners = {
        scale.text(n) for n, runs in zip(numbers, competes, strict=True) if runs and n is not None and away(n) == best
    }
    aim = table.target(column)
    cells = []
    for row, value, number, runs in zip(table.rows, values, numbers, competes, strict=True):
        if number is None:
            cells.append(Cell(MISSING) if value is None else _text(value))
            continue
        text, interval, mark, tint = scale.text(number), "", "", 0
        if isinstance(value, Mapping):
            interval = scale.interval(value["low"], value["high"])
        if contested:
            tint = math.ceil(TINTS * min(1.0, away(number) / worst) - 1e-9)
            if runs and text in winners:  # what reads the same is not told apart
                mark = "best"
            elif runs and isinstance(value, Mapping) and away(number, value["low"], value["high"]) <= best:
                mark = "close"
        key, difference = number, ""
        if column.better == "target" and aim is not None:
            key, difference = abs(number - aim), scale.signed(number - aim)
            if table.label(row) == table.target_row:
                difference = f"{text}\u00a0%" if scale.unit == "%" else text
        cells.append(Cell(text, interval, key, mark, tint, difference=difference))
    return cells


def _distance(column: Column, table: Table, running: Sequence[float]) -> Callable[..., float]:
    """How far numbers are from where they should be, the nearest of them: from the target, or from the best one."""
    ends = {"target": table.target(column), "higher": max(running, default=None), "lower": min(running, default=None)}
    aim = ends[column.better] if column.better else None

    def away(*numbers: float) -> float:
        if aim is None:
            return 0.0
        if column.better == "target":
            return 0.0 if min(numbers) <= aim <= max(numbers) else min(abs(number - aim) for number in numbers)
        return max(0.0, aim - max(numbers) if column.better == "higher" else min(numbers) - aim)

    return away


def _numbers(value: Any) -> list[float]:
    if isinstance(value, Mapping):
        return [value["value"], value["low"], value["high"]]
    return [] if value is None or isinstance(value, str | bool) else [value]
