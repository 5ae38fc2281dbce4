"""The page of ``lashley forget``: what was forgotten, what was kept, where it sat, and what other strengths would do.

From the report alone (`lashley.forgetting.job`), without torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lashley.report import figures
from lashley.report.page import Picture, render

__all__ = ["PAGE", "norm_map", "page", "trade"]

PAGE = "forgetting.html"
_BLOCK = re.compile(r"(?:^|\.)(\d+)\.(.+)$")


def page(report: Mapping[str, Any]) -> str:
    """The whole page as a text: one file, with its figures inside."""
    pictures = [
        Picture("trade", trade(report), "Answer probability of held-out rows against the divergence on what is kept."),
        Picture(
            "norms", norm_map(report["weight_norms"]), "Size of the engram in every layer, relative to its weight."
        ),
    ]
    shown = [name for name in ("forget", "retain", "never seen") if name in report["measures"]]
    return render("forgetting.html", pictures, report=report, shown=shown, receipt=_receipt(report["receipt"]))


def trade(report: Mapping[str, Any]) -> Figure:
    """The front: forgetting against keeping, a point per strength."""
    points = report["front"]["points"][1:]  # where nothing was done nothing has moved, and there is no logarithm of it
    level = report["front"]["level"] or report["front"]["never_seen"]
    taken = next((k for k, p in enumerate(points) if p["alpha"] == report["alpha"]), None)
    return figures.path(
        [point["kl"] for point in points],
        [point["forget"] for point in points],
        [str(point["number"]) for point in points],
        marked=taken,
        level=level,
        level_label="counts as forgotten" if report["front"]["level"] else "texts that it never saw",
        title="What forgetting costs",
        x_label="divergence on held-out rows that are kept, nats a token",
        y_label="answer probability of held-out rows to be forgotten",
    )


def norm_map(norms: Mapping[str, float]) -> Figure:
    """``||E|| / ||W||`` of every layer: blocks downwards, what a block has side by side (paper, figure 9).

    Layers outside the blocks, such as the head, have a row of their own at the end.
    """
    blocks: dict[str, dict[str, float]] = {}
    for name, value in norms.items():
        found = _BLOCK.search(name)
        row, column = (found.group(1), found.group(2)) if found else (name.rpartition(".")[2], "")
        blocks.setdefault(row, {})[column.rpartition(".")[2]] = value
    columns = list(dict.fromkeys(column for row in blocks.values() for column in row if column))
    alone = [row for row, values in blocks.items() if "" in values]
    columns += [""] if alone else []
    matrix = [[blocks[row].get(column, np.nan) for column in columns] for row in blocks]
    return figures.heat_map(
        100 * np.array(matrix),
        list(blocks),
        [column or "itself" for column in columns],
        title="Where it sat",
        row_label="block",
        column_label="size of the engram, % of the weight",
        low=0,
        row_gaps=[len(blocks) - len(alone) - 1] if alone and len(alone) < len(blocks) else (),
        cell=(0.82, 0.31),
    )


def _receipt(receipt: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per layer that the edit was to change."""
    layers: Sequence[Mapping[str, Any]] = receipt["layers"]
    return [dict(layer) for layer in layers if layer.get("status", "edited") != "unchanged"]
