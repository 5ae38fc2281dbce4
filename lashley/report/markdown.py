"""Results as Markdown: what a README beside a committed result shows, tables with or without figures."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from lashley import atomic
from lashley.report import charts, figures
from lashley.report.results import MARKS, Entry, Facts, check_target, entries_of
from lashley.report.tables import Cell, Head, View
from lashley.result import Result

__all__ = ["document", "escape", "table", "write"]

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$#])")


def document(
    results: Mapping[str, Result], *, side_by_side: bool = False, pictures: Mapping[str, str] | None = None
) -> str:
    """The tables of results with their notes and what made them.

    Args:
        results: ``{file or any other name: result}``.
        side_by_side: begin with the tables that all results have.
        pictures: ``{"<place of the result, from 1>-<name of a chart>": where its figure lies}``; others are not shown.
    """
    together, entries = entries_of(results, side_by_side)
    blocks = [MARKS["markdown"]]
    if together:
        blocks += ["# Side by side", *(block for view in together for block in _table(view))]
    for entry in entries:
        blocks.append(f"# {escape(entry.result.title)}")
        if entry.name:
            blocks.append(f"*{escape(entry.name)}*")
        blocks += [escape(paragraph) for paragraph in entry.result.summary.split("\n\n")]
        for view in entry.views:
            blocks += [*_table(view), *_figures(entry, view.table.name, pictures or {})]
        blocks += _figures(entry, "", pictures or {})
        blocks += ["## How it was made", f"```\n{entry.result.provenance['command']}\n```", _facts(entry.facts)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def write(path: str | os.PathLike[str]) -> list[Path]:
    """The page of a committed result: ``README.md`` in the folder of the file, and a figure for every chart.

    Returns what was written.

    Raises:
        StoreError: there is no result, or a README that somebody else wrote.
    """
    path = Path(path)
    target = check_target(path.with_name("README.md"))
    result = Result.load(path)
    pictures = {f"1-{chart.name}": f"{chart.name}.svg" for chart in result.charts}
    for chart in result.charts:
        atomic.write(path.with_name(pictures[f"1-{chart.name}"]), figures.svg(charts.draw(chart)))
    page = document({path.name: result}, pictures=pictures)
    page += f"\n`lashley report {path.name}` makes a page of it with tables that sort.\n"
    return [atomic.write(target, page), *map(path.with_name, pictures.values())]


def table(view: View) -> str:
    """The table alone: best values bold, intervals in brackets."""
    ends = ["---:" if head.numeric else ":---" for head in view.heads]
    lines = [[_head(head) for head in view.heads], ends]
    lines += [[_cell(cell, row.role if not place else "") for place, cell in enumerate(row.cells)] for row in view.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: str) -> str:
    """Plain text as Markdown that shows it, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.replace("&", "&amp;").split()))


def _table(view: View) -> list[str]:
    notes = [f"- **{escape(name)}**: {escape(text)}" for name, text in view.explained]
    return [
        f"## {escape(view.table.title)}",
        escape(view.table.note),
        table(view),
        escape(view.legend("italic")),
        "\n".join(notes),
    ]


def _figures(entry: Entry, table: str, pictures: Mapping[str, str]) -> list[str]:
    blocks = []
    for chart in entry.result.charts:
        place = pictures.get(f"{entry.number}-{chart.name}")
        if place is not None and chart.table == table:
            about = f"![{escape(charts.describe(chart))}]({place})"
            blocks += [f"## {escape(chart.title)}", about, escape(chart.note)]
    return blocks


def _head(head: Head) -> str:
    return " ".join(part for part in (escape(head.title), head.sign) if part)


def _cell(cell: Cell, role: str) -> str:
    text = escape(cell.text)
    if cell.mark == "best" or role == "target":
        text = f"**{text}**"
    elif role == "reference" or cell.mark == "close":
        text = f"*{text}*"
    return f"{text} ({escape(cell.interval)})" if cell.interval else text


def _facts(facts: Facts) -> str:
    return "\n".join(f"- {escape(name)}: {escape(text)}" for name, text in facts)
