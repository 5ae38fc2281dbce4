"""A result as figures and as a page of tables (Markdown). Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pages import fill
from lashley.report import figures

HERE = Path(__file__).parent
GREEN, SKY, PINK, YELLOW = "#009E73", "#56B4E9", "#CC79A7", "#E69F00"

# Of the edits, those that a figure can show without a tangle, in the order of the legend: colour and dash.
DRAWN = {
    "paper": (figures.GREY, "-"),
    "paper, by weight norm": (figures.GREY, ":"),
    "paper, query key gate": (PINK, "-"),
    "ridge 1e4": (YELLOW, "-"),
    "sharpened": (SKY, "-"),
    "sharpened (4, .3)": (SKY, "--"),
    "paper, writers": (figures.ORANGE, "--"),
    "sharpened, writers": (figures.ORANGE, "-"),
    "embedding, sharpened": (GREEN, "-"),
}
NONE = "\N{EN DASH}"  # where there is no number
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the page and its figures into ``folder``."""
    page = folder / "README.md"
    page.write_text(markdown(result), encoding="utf-8")
    return [page, *(figures.save(figure, folder / f"{name}.png") for name, figure in pictures(result).items())]


def pictures(result: Mapping[str, Any]) -> dict[str, Any]:
    """``{name: matplotlib figure}``."""
    found = {
        "cost": figures.fronts(
            _panels(result, "forget", "kl"),
            DRAWN,
            x_label="forgotten authors: answer probability",
            y_label="other authors: divergence, nats a token",
            x_range=(1e-3, 1.2),
            y_range=(1e-4, 10),
            mark=result["never_seen"]["model"]["probability"],
            note="never seen",
        ),
        "memorisation": figures.fronts(
            _panels(result, "forget_exact", "retain_exact"),
            DRAWN,
            x_label="forgotten authors: exact memorisation",
            y_label="other authors: exact memorisation",
            x_range=(0, 1.02),
            y_range=(0.5, 1.01),
            log=(False, False),
            mark=result["never_seen"]["model"]["exact"],
            note="never seen",
        ),
    }
    authors = result["authors"]
    found["authors"] = figures.shades(
        authors["fall"],
        title=f"{authors['authors']} authors, one recording",
        row_label="author taken out",
        column_label="author asked about",
        bar_label="fall of the answer probability",
        low=0,
        high=1,
    )
    name = next(iter(result["tasks"]))
    rows, columns, matrix = _by_layer(result["tasks"][name]["weight_norms"]["paper"])
    found["norms"] = figures.heat_map(
        matrix,
        rows,
        columns,
        title=f"Task {name}, the paper's formula: ‖E‖ / ‖W‖",
        row_label="block",
        column_label="projection",
        text="{:.2f}".format,
        colours="Purples",
        low=0,
        cell=(0.86, 0.36),
    )
    return found


def markdown(result: Mapping[str, Any]) -> str:
    """The page that lies beside the result."""
    marks = {"number": _number, "at": _at}
    filters = {
        "task_name": "task {}".format,
        "times": lambda x: NONE if x is None else f"{x:.1f}",
    }
    levels = [f"{level:g}" for level in result["config"]["levels"]]
    shown = [("alpha", level) for level in levels] + [("kl", level) for level in levels]
    shown += [(key, levels[0]) for key in ("retain", "forget_exact", "restored")]
    words = {"alpha": "α", "kl": "KL", "retain": "others", "forget_exact": "exact"}
    return fill(
        HERE,
        result,
        filters,
        **marks,
        levels=levels,
        columns=[f"{words.get(key, key)} at {level.removeprefix('0')}" for key, level in shown],
        cells=lambda edit: [_at(edit, level, key) for key, level in shown],
        ratios={level: _ratios(result, level) for level in levels},
        notable=_authors(result["authors"]),
    )


def _panels(result: Mapping[str, Any], x: str, y: str) -> dict[str, Any]:
    """A panel per task: a line per edit, from the weakest strength to the strongest."""
    panels: dict[str, Any] = {}
    for name, task in result["tasks"].items():
        lines = {}
        for edit in (edit for edit in DRAWN if edit in task["edits"]):
            points = task["edits"][edit]["points"]
            lines[edit] = ([point[x] for point in points], [point[y] for point in points])
        panels[f"Task {name}: {task['rows']['forget']} rows"] = lines
    return panels


def _by_layer(norms: Mapping[str, float]) -> tuple[list[str], list[str], Any]:
    """Weight norms as a matrix of blocks and projections; what is in no block stands in no cell."""
    places = {}
    for name, norm in norms.items():
        parts = name.split(".")
        if parts[-1] in PROJECTIONS:
            block = next(part for part in parts if part.isdigit())
            places[int(block), PROJECTIONS.index(parts[-1])] = norm
    columns = sorted({column for _, column in places})
    blocks = sorted({block for block, _ in places})
    matrix = np.array([[places.get((block, column), np.nan) for column in columns] for block in blocks])
    return [str(block) for block in blocks], [PROJECTIONS[column] for column in columns], matrix


def _ratios(result: Mapping[str, Any], level: str) -> dict[str, float | None]:
    """Per task, how many times the default's divergence the paper's is at equal forgetting."""
    found: dict[str, float | None] = {}
    for name, task in result["tasks"].items():
        paper, default = (task["edits"][edit]["at"][level] for edit in ("paper", result["config"]["default"]))
        found[name] = paper["kl"] / default["kl"] if paper and default else None
    return found


def _authors(authors: Mapping[str, Any]) -> dict[str, Any]:
    """Means and extremes of the matrix of authors, and of the subsets."""
    fall = np.array(authors["fall"])
    own = np.eye(len(fall), dtype=bool)
    subsets = []
    for subset in authors["subsets"]:
        out = np.isin(np.arange(len(fall)), subset["authors"])
        means = {
            way: {"out": float(np.array(subset[way])[out].mean()), "rest": float(np.array(subset[way])[~out].mean())}
            for way in ("sum", "pooled")
        }
        subsets.append({"authors": subset["authors"], **means})
    return {
        "own": float(fall[own].mean()),
        "own_least": float(fall[own].min()),
        "least": int(fall[own].argmin()),
        "others": float(fall[~own].mean()),
        "others_most": float(fall[~own].max()),
        "subsets": subsets,
    }


def _number(value: float | None) -> str:
    """Three digits that mean something: 0.0427 -> ".043", 0.98765 -> ".988", 0.00085 -> ".0009", none -> a dash."""
    if value is None:
        return NONE
    digits = 3 if abs(value) >= 0.01 else 4
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _at(edit: Mapping[str, Any], level: str, key: str) -> str:
    point = edit["at"][level]
    return NONE if point is None else f"{point[key]:g}" if key == "alpha" else _number(point[key])
