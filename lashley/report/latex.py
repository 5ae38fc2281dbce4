"""The tables of results as LaTeX for a paper: booktabs, every special character escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lashley.report.results import MARKS, entries_of
from lashley.report.tables import SIGNS, Cell, Head, View
from lashley.result import Result

__all__ = ["document", "escape", "table"]

_WIDE = 7  # columns: wider tables are scaled to the width of the line
_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
    "\N{NO-BREAK SPACE}": "~",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    **{
        sign: f"${name}$"
        for sign, name in {
            SIGNS["higher"]: r"\uparrow", SIGNS["lower"]: r"\downarrow", SIGNS["target"]: r"\odot",
            "\N{MINUS SIGN}": "-",
            "\N{MULTIPLICATION SIGN}": r"\times", "\N{PLUS-MINUS SIGN}": r"\pm", "\N{LESS-THAN OR EQUAL TO}": r"\leq",
            "\N{GREATER-THAN OR EQUAL TO}": r"\geq", "\N{DOUBLE VERTICAL LINE}": r"\|", "\N{INFINITY}": r"\infty",
            "α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "δ": r"\delta", "Δ": r"\Delta", "λ": r"\lambda",
            "μ": r"\mu", "ν": r"\nu", "ρ": r"\rho", "σ": r"\sigma", "τ": r"\tau",
        }.items()
    },
}  # fmt: skip
_SPECIAL = re.compile("|".join(map(re.escape, _ESCAPES)))


def document(results: Mapping[str, Result], *, side_by_side: bool = False) -> str:
    """A ``table`` for every table of the results, to be read by ``\\input``.

    Args:
        results: ``{file or any other name: result}``.
        side_by_side: only the tables that all results have, a line per result.
    """
    together, entries = entries_of(results, side_by_side)
    parts = [(f"{view.table.name}", view) for view in together]
    if not together:
        parts = [(f"{e.result.study}-{e.number}-{view.table.name}", view) for e in entries for view in e.views]
    head = f"{MARKS['latex']} needs \\usepackage{{booktabs}}, graphicx for wide tables, and T1 fonts (fontenc)"
    return "\n\n".join([head, *(table(view, label) for label, view in parts)]) + "\n"


def table(view: View, label: str) -> str:
    """One ``table``: best values bold, those as near by their interval underlined, intervals small."""
    wide = len(view.heads) > _WIDE
    about = (_sentence(view.table.title), view.table.note, view.legend("underlined"))
    lines = [
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{escape(' '.join(part for part in about if part))}}}",
        rf"\label{{tab:{re.sub('[^A-Za-z0-9:-]', '-', label)}}}",
        *([r"\resizebox{\linewidth}{!}{%"] if wide else []),
        rf"\begin{{tabular}}{{l{''.join('r' if head.numeric else 'l' for head in view.heads[1:])}}}",
        r"\toprule",
        *_groups(view),
        " & ".join(map(_head, view.heads)) + r" \\",
        r"\midrule",
    ]
    for row in view.rows:
        name, *cells = row.cells
        shown = {"target": rf"\textbf{{{escape(name.text)}}}", "reference": rf"\textit{{{escape(name.text)}}}"}
        lines.append(" & ".join([shown.get(row.role, escape(name.text)), *map(_cell, cells)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", rf"\end{{tabular}}{'}' if wide else ''}", r"\end{table}"])


def escape(text: str) -> str:
    """Plain text as LaTeX that prints it, on one line."""
    line = _SPECIAL.sub(lambda found: _ESCAPES[found[0]], " ".join(text.split(" ")).replace("\n", " "))
    # Behind the end of a row or a rule, these would be read as its option.
    return f"{{{line[0]}}}{line[1:]}" if line.startswith(("[", "*")) else line


def _groups(view: View) -> list[str]:
    if not view.groups:
        return []
    cells, rules, place = [], [], 1
    for title, span in view.groups:
        cells.append(rf"\multicolumn{{{span}}}{{c}}{{{escape(title)}}}" if title else " & ".join([""] * span))
        if title:
            rules.append(rf"\cmidrule(lr){{{place}-{place + span - 1}}}")
        place += span
    return [" & ".join(cells) + r" \\", " ".join(rules)]


def _head(head: Head) -> str:
    return escape(" ".join(part for part in (head.title, head.sign) if part))


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    wrapped = {"best": rf"\textbf{{{text}}}", "close": rf"\underline{{{text}}}"}.get(cell.mark, text)
    return rf"{wrapped} {{\scriptsize ({escape(cell.interval)})}}" if cell.interval else wrapped


def _sentence(title: str) -> str:
    return title if title.endswith((".", "?", "!")) else title + "."
