"""Results of studies and checks as one self-contained page: what ``lashley report`` makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from lashley import __version__
from lashley.errors import DataError, StoreError
from lashley.report import charts
from lashley.report.numbers import scale_of
from lashley.report.page import Picture, render
from lashley.report.tables import MISSING, View, view
from lashley.result import Chart, Result, Table

__all__ = ["GENERATOR", "MARKS", "Entry", "Facts", "check_target", "entries_of", "names_of", "page", "together"]

GENERATOR = "lashley report"
# What the documents begin with, by which they are known when they are replaced.
MARKS = {
    "page": f'<meta name="generator" content="{GENERATOR}">',
    "markdown": f"<!-- {GENERATOR} -->",
    "latex": f"% {GENERATOR};",
}
_NOT_A_NAME = ("command", "seconds", "threads", "devices")  # differ between runs and say nothing about them


@dataclass(frozen=True)
class _Drawn:
    """What stands around a chart's figure."""

    left_out: int
    unit: str
    lines: Sequence[tuple[str, Sequence[str], bool]]


Facts: TypeAlias = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Entry:
    """A result as a document shows it.

    Attributes:
        number: its place among the results, from 1.
        name: what tells it from the others; empty where it is the only one.
        views: its tables.
    """

    number: int
    name: str
    result: Result
    views: Sequence[View]

    @property
    def id(self) -> str:
        return f"r{self.number}"

    def charts(self, table: str) -> list[tuple[Chart, _Drawn]]:
        """The charts that belong to a table, or to none of them (an empty name)."""
        return [(chart, _drawn(chart)) for chart in self.result.charts if chart.table == table]

    @property
    def jumps(self) -> list[tuple[str, str]]:
        """Where the parts are on the page, and their titles, from top to bottom."""
        parts: list[Table | Chart] = []
        for table in self.result.tables:
            parts += [table, *(chart for chart in self.result.charts if chart.table == table.name)]
        parts += [chart for chart in self.result.charts if not chart.table]
        return [(f"{self.id}-{part.name}", part.title) for part in parts]

    @property
    def facts(self) -> Facts:
        """What made it, and its settings."""
        made = {key: value for key, value in self.result.provenance.items() if key != "command"}
        return [*_flat(made), *((f"settings: {name}", text) for name, text in _flat(self.result.settings))]


def page(results: Mapping[str, Result], *, side_by_side: bool = False) -> str:
    """The page as a text: every table, figure and note of the results, with what made them.

    The same results give the same text, to the letter.

    Args:
        results: ``{file or any other name: result}``.
        side_by_side: begin with the tables that all results have, their rows of one name below each other.

    Raises:
        DataError: there is nothing to show, or nothing that could stand side by side.
    """
    beside, entries = entries_of(results, side_by_side)
    pictures = [
        Picture(f"{entry.id}-{chart.name}", charts.draw(chart), charts.describe(chart))
        for entry in entries
        for chart in entry.result.charts
    ]
    titles = {result.title for result in results.values()}
    return render(
        "results.html",
        pictures,
        vector=True,
        title=titles.pop() if len(titles) == 1 else f"{len(entries)} results",
        entries=entries,
        together=beside,
        files=[file.replace("\\", "/").rpartition("/")[2] for file in results],
        version=__version__,
        generator=GENERATOR,
    )


def entries_of(results: Mapping[str, Result], side_by_side: bool) -> tuple[list[View], list[Entry]]:
    """What a document of these results consists of: the tables side by side, if they are wanted, and every result.

    Raises:
        DataError: there is nothing to show, or nothing that could stand side by side.
    """
    for file, result in results.items():
        if not result.charts and not any(table.rows for table in result.tables):
            raise DataError(
                f"Expected a row of a table or a chart in {file}, got a result without any: there is nothing to show. "
                "Give its study something to report."
            )
    names = names_of(results) if len(results) > 1 else [""]
    entries = [
        Entry(number, name, result, [view(table) for table in result.tables])
        for number, (name, result) in enumerate(zip(names, results.values(), strict=True), 1)
    ]
    return together(results) if side_by_side else [], entries


def together(results: Mapping[str, Result]) -> list[View]:
    """The tables that all results have by name, with the rows of one name below each other.

    Raises:
        DataError: fewer than two results, no table that all have, or one with other columns.
    """
    if len(results) < 2:
        raise DataError("Expected two results or more to put side by side, got one.")
    named = dict(zip(names_of(results), results.values(), strict=True))
    tables = [{table.name: table for table in result.tables} for result in named.values()]
    shared = [name for name in tables[0] if all(name in others for others in tables)]
    if not shared:
        has = "; ".join(f"{file}: {', '.join(t) or 'none'}" for file, t in zip(results, tables, strict=True))
        raise DataError(
            f"Expected tables of the same names to put side by side, got {has}. Results of one study have them; leave "
            "the option away for others."
        )
    return [view({result: part[name] for result, part in zip(named, tables, strict=True)}) for name in shared]


def check_target(path: Path) -> Path:
    """Where a document may be written: nothing is there, or one that was made from results.

    Raises:
        StoreError: something else is there. It is never replaced.
    """
    if path.is_dir():
        raise StoreError(f"Expected {path} to be a file or absent, got a folder. Name a file in it.")
    if path.exists():
        with path.open("rb") as file:
            head = file.read(1000).decode(errors="replace")
        if not any(mark in head for mark in MARKS.values()):
            raise StoreError(
                f"Expected {path} to be absent or made by {GENERATOR}, got another file, which is left alone. Choose "
                "another name, or move it away."
            )
    return path


def names_of(results: Mapping[str, Result]) -> list[str]:
    """A short name for each result, by what tells them apart: a setting or two ("seed 1"), else the file."""
    facts = [dict(_told_apart(result)) for result in results.values()]
    every = list(dict.fromkeys(name for part in facts for name in part))
    differ = [name for name in every if len({part.get(name) for part in facts}) > 1]
    found = [", ".join(f"{name.rpartition(': ')[2]} {part.get(name, MISSING)}" for name in differ) for part in facts]
    if 1 <= len(differ) <= 2 and len(set(found)) == len(found) and max(map(len, found)) <= 40:
        return found
    files = [file.replace("\\", "/").split("/") for file in results]
    for parts in range(1, max(map(len, files)) + 1):
        short = ["/".join(file[-parts:]).removesuffix(".json") for file in files]
        if len(set(short)) == len(short):
            return short
    raise DataError(f"Expected every result once, got {len(files)} files of which two are the same.")


def _told_apart(result: Result) -> Iterator[tuple[str, str]]:
    made = {key: value for key, value in result.provenance.items() if key not in _NOT_A_NAME}
    settings = list(_flat(result.settings))
    yield from settings
    yield from (
        fact for fact in _flat(made) if not (fact[0] == "seeds" and any(n.startswith("seed") for n, _ in settings))
    )
    yield "title", result.title


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """``{"a": {"b": [1, 2]}}`` as ``("a: b", "1, 2")``; what is empty is left out."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}: ")
        elif value not in ([], "", None):
            items = value if isinstance(value, list) else [value]
            yield f"{above}{key}", ", ".join(_word(item) for item in items)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "{" + "; ".join(f"{name}: {text}" for name, text in _flat(value)) + "}"
    return f"[{', '.join(map(_word, value))}]" if isinstance(value, list) else str(value)


def _drawn(chart: Chart) -> _Drawn:
    scale = scale_of(chart.y_unit, [y for series in chart.series for y in series.y if y is not None])
    lines: list[tuple[str, Sequence[str], bool]] = []
    across: Sequence[float | str] = ()
    for series in chart.series:
        if series.x != across or not lines:
            across = series.x
            every = scale_of(chart.x_unit, [x for x in across if not isinstance(x, str)])
            heads = [x if isinstance(x, str) else every.text(x) for x in across]
            lines.append((charts.axis_label(chart.x_label, chart.x_unit), heads, True))
        ends = zip(series.low, series.high, strict=True) if series.low else [(None, None)] * len(series.y)
        texts = [
            MISSING if y is None
            else scale.text(y) if low is None or high is None
            else f"{scale.text(y)} ({scale.interval(low, high)})"
            for y, (low, high) in zip(series.y, ends, strict=True)
        ]  # fmt: skip
        lines.append((series.name, texts, False))
    return _Drawn(charts.left_out(chart), scale.unit, lines)
