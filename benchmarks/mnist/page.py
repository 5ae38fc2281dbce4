"""A result as figures and as a page of tables (Markdown). Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pages import fill
from lashley.report import figures

HERE = Path(__file__).parent
DIGITS = [str(digit) for digit in range(10)]
CELL = (0.44, 0.34)

# The edits in the order in which a reader should meet them.
WHAT = {
    "paper": "**the paper's formula**, `E = W S_c S^+`",
    "sharpened": "sharpened: sharpness 2, threshold 1/2",
    "paper, cut 1e-6": "the paper's formula, cut of the paper's text: `1e-6`",
    "paper, cut of the notebooks": "the paper's formula, cut of the paper's notebooks: `D * 2**-52`",
    "paper, cut 1e-3": "the paper's formula, a coarse cut: `1e-3`",
    "shuffled labels": "control: the paper's formula, as many images drawn at random",
    "mask": "trivial rival: nothing edited, the digit is never answered",
    "retrained": "reference: trained anew without the digit",
}

CUTS = {
    "paper": "`D * 2**-23`, the default",
    "paper, cut 1e-6": "`1e-6`, the paper's text",
    "paper, cut of the notebooks": "`D * 2**-52`, the paper's notebooks",
    "paper, cut 1e-3": "`1e-3`",
}


def write(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the page and its figures into ``folder``."""
    page = folder / "README.md"
    page.write_text(markdown(result), encoding="utf-8")
    return [page, *(figures.save(figure, folder / f"{name}.png") for name, figure in pictures(result).items())]


def pictures(result: Mapping[str, Any]) -> dict[str, Any]:
    """``{name: matplotlib figure}``."""
    means, count = result["over_seeds"], len(result["networks"])
    before, after, _, falls = _per_digit(result)
    others = [np.delete(row, digit).mean() for digit, row in enumerate(after)]
    largest = float(np.nanmax(np.abs(falls)))
    of = f", mean of {count} networks" if count > 1 else ""
    return {
        "heatmap": figures.heat_map(
            100 * np.column_stack([np.vstack([before, after]), [np.nan, *others]]),
            ["nothing", *DIGITS],
            [*DIGITS, "others"],
            title="MNIST: the memory of each digit, taken out in turn",
            row_label="memory taken out",
            column_label=f"% of test images read correctly, by digit shown{of}",
            low=0,
            high=100,
            row_gaps=[0],
            column_gaps=[9],
            cell=CELL,
        ),
        "collateral": figures.heat_map(
            100 * falls,
            DIGITS,
            DIGITS,
            title="What the other digits lose",
            row_label="memory taken out",
            column_label=f"fall in percentage points, by digit shown{of}",
            text=lambda points: f"{round(points, 1) + 0.0:.1f}",  # + 0.0: no "-0.0"
            colours="RdBu_r",
            low=-100 * largest,
            high=100 * largest,
            cell=CELL,
        ),
        "injection": figures.heat_map(
            100 * np.array(means["injection"]["paper"]["called"]),
            DIGITS,
            DIGITS,
            title="One memory alone, in a network of zeros",
            row_label="memory put in",
            column_label=f"% called by that name, by digit shown{of}",
            low=0,
            high=100,
            cell=CELL,
        ),
    }


def markdown(result: Mapping[str, Any]) -> str:
    """The page that lies beside the result."""
    marks = {"share": _share, "points": _points, "met": _met}
    *_, own, falls = _per_digit(result)
    edits = sorted(result["over_seeds"]["edits"].items(), key=lambda item: [*WHAT, item[0]].index(item[0]))
    return fill(
        HERE,
        result,
        marks,
        **marks,
        digits=DIGITS,
        what=WHAT,
        cuts=CUTS,
        edits=edits,
        own=own.tolist(),
        falls=np.nanmean(falls, axis=1).tolist(),
    )


def _per_digit(result: Mapping[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Accuracy before ``[10]`` and after ``[10, 10]`` the paper's edits, its diagonal, and falls with nan on theirs."""
    means = result["over_seeds"]
    before, after = np.array(means["per_digit"]), np.array(means["edits"]["paper"]["accuracy"])
    falls = before - after
    np.fill_diagonal(falls, np.nan)
    return before, after, after.diagonal(), falls


def _share(value: float) -> str:
    return f"{value:.3f}"


def _points(share: float) -> str:
    return f"{round(100 * share, 2) + 0.0:.2f}"


def _met(reached: bool) -> str:
    return "reached" if reached else "**missed**"
