"""A result as a figure and as a page of tables (Markdown). Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.pages import fill
from lashley.report import figures

HERE = Path(__file__).parent

COLOURS = {
    "forward pass": "#9ca3af",
    "moments": figures.BLUE,
    "choosing rows": "#56B4E9",
    "factorisation": figures.ORANGE,
    "engrams": "#E69F00",
    "rest": "#d1d5db",
    "collecting": "#4b5563",
    "solving": "#111827",
}
# What the parts that `study` measures are drawn as.
DRAWN = {
    "record": {"forward": "forward pass", "products": "moments", "choosing and gathering rows": "choosing rows"},
    "solve": {
        "pooling": "moments",
        "factorisation": "factorisation",
        "dividing by S": "engrams",
        "products": "engrams",
    },
}
TARGETS = {"total": "times faster", "record_to_bare": "recording, of a bare pass", "memory": "memory, of all squares"}


def write(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the page and its figure into ``folder``."""
    page = folder / "README.md"
    page.write_text(markdown(result), encoding="utf-8")
    return [page, figures.save(picture(result), folder / "time.png")]


def picture(result: Mapping[str, Any]) -> Any:
    """Processor time of each, in bare forward passes over the same batches."""
    rows: dict[str, dict[str, float]] = {}
    gaps: list[int] = []
    for number, (name, case) in enumerate(result["cases"].items()):
        bare, other = case["processor_seconds"]["bare"], case["processor_seconds"].get("other")
        blank = " " * number  # labels are keys
        rows[f"{name}: lashley{blank}"] = {part: length / bare for part, length in _parts(case).items()}
        rival = result["config"]["cases"][name]["against"]
        if other is not None:
            rows[f"{rival}{blank}"] = {"collecting": other["record"] / bare, "solving": other["solve"] / bare}
        gaps.append(len(rows) - 1)
    return figures.bars(
        rows,
        COLOURS,
        title="The same engrams, and what their time is made of",
        x_label="processor time, in bare forward passes over the same batches",
        row_gaps=gaps[:-1],
        mark=1.0,
    )


def _parts(case: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for step, parts in case["parts"].items():
        for part, seconds in parts.items():
            drawn = DRAWN[step].get(part, "rest")
            found[drawn] = found.get(drawn, 0.0) + seconds
    return found


def markdown(result: Mapping[str, Any]) -> str:
    """The page that lies beside the result."""
    filters = {
        "mib": _mib,
        "tiny": "{:.1e}".format,
        "two": "{:.2f}".format,
        "one": "{:.1f}".format,
        "whole": "{:.0f}".format,
    }
    return fill(HERE, result, filters, targets=_targets(result))


def _targets(result: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    rows = []
    for name, settings in result["config"]["cases"].items():
        case = result["cases"][name]
        for key, target in settings["targets"].items():
            ((side, bound),) = target.items()
            sign = "at least" if side == "at_least" else "at most"
            met = "reached" if case["reached"][key] else "**missed**"
            rows.append((name, TARGETS[key], f"{case['ratios'][key]:.2f}", f"{sign} {bound:g}", met))
    return rows


def _mib(count: float) -> str:
    return f"{count / 2**20:.0f}"
