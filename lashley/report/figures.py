"""Figures of a study: numbers in, a matplotlib ``Figure`` out, nothing else touched.

The object API and the Agg canvas are used throughout, so that no window system, global state or user's
matplotlibrc changes a picture. Colour maps are readable without colour vision and in grey: ``Blues`` for
amounts, ``RdBu_r`` for signed numbers, and two Okabe-Ito colours for lines.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from lashley.errors import DataError

__all__ = [
    "BLUE",
    "GREY",
    "INK",
    "ORANGE",
    "STYLE",
    "bars",
    "canvas",
    "curves",
    "finish",
    "fronts",
    "heat_map",
    "path",
    "png",
    "save",
    "shades",
    "svg",
    "thumbnail",
]

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#6b7280"
INK = "#1f2937"
DPI = 200

STYLE: Any = {  # typed loosely: matplotlib knows its keys as literals
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same letters on every machine
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9ca3af",
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10.0,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def heat_map(
    matrix: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str = "",
    row_label: str = "",
    column_label: str = "",
    text: Callable[[float], str] = "{:.0f}".format,
    colours: str = "Blues",
    low: float | None = None,
    high: float | None = None,
    row_gaps: Sequence[int] = (),
    column_gaps: Sequence[int] = (),
    cell: tuple[float, float] = (0.36, 0.31),
) -> Figure:
    """A matrix as coloured cells with the value in each.

    Args:
        matrix: numbers ``[R, C]``; NaN leaves a cell empty.
        rows, columns: the R and C labels.
        text: what to write into a cell.
        colours: name of a matplotlib colour map.
        low, high: values of the two ends of the colour map; None takes the smallest and largest value shown.
        row_gaps, column_gaps: indices after which a narrow gap sets rows or columns apart.
        cell: width and height of a cell in inches.

    Raises:
        DataError: the labels do not fit the matrix.
    """
    values = np.asarray(matrix, dtype=float)
    if values.shape != (len(rows), len(columns)):
        raise DataError(
            f"Expected a matrix of {len(rows)} rows and {len(columns)} columns, as many as labels; "
            f"got shape {values.shape}"
        )
    x, y = _positions(len(columns), column_gaps), _positions(len(rows), row_gaps)
    norm, colour_map = _scale(values, low, high), matplotlib.colormaps[colours]
    with matplotlib.rc_context(STYLE):
        labels = 0.075 * max(map(len, rows)) + (0.3 if row_label else 0.0)  # inches that the row labels take
        figure, axes = canvas(cell[0] * (x[-1] + 1) + labels + 0.15, cell[1] * (y[-1] + 1) + 0.85)
        for i, top in enumerate(y):
            for j, left in enumerate(x):
                if np.isnan(values[i, j]):
                    continue
                face = to_rgb(colour_map(norm(values[i, j])))
                axes.add_patch(Rectangle((left, top), 1, 1, facecolor=face, edgecolor="white", linewidth=1.2))
                axes.text(
                    left + 0.5, top + 0.5, text(values[i, j]), ha="center", va="center_baseline",
                    fontsize=8, color=_readable_on(face),
                )  # fmt: skip
        axes.set_xlim(0, x[-1] + 1)
        axes.set_ylim(y[-1] + 1, 0)
        axes.set_xticks(x + 0.5, columns)
        axes.set_yticks(y + 0.5, rows)
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        axes.tick_params(length=0)
        axes.set_xlabel(column_label, labelpad=6)
        axes.set_ylabel(row_label, labelpad=6)
        axes.set_title(title)
        for side in axes.spines.values():
            side.set_visible(False)
    return figure


def curves(
    x: Sequence[float],
    lines: Mapping[str, ArrayLike],
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    colours: Sequence[str] = (ORANGE, BLUE, "#009E73", GREY),
    y_range: tuple[float, float] | None = None,
    mark: float | None = None,
    size: tuple[float, float] = (5.2, 3.3),
) -> Figure:
    """Lines over ``x``, each labelled at its right end in its own colour.

    Args:
        x: the points ``[X]``.
        lines: label -> ``[X]``, or ``[X, K]`` for K repetitions (digits, seeds): their mean as a line and their
            smallest and largest value as a band.
        mark: an ``x`` worth a thin vertical line.
        y_range: lowest and highest value of the vertical axis; None leaves it to the data.

    Raises:
        DataError: a line has not as many points as ``x``.
    """
    points = np.asarray(x, dtype=float)
    with matplotlib.rc_context(STYLE):
        figure, axes = canvas(*size)
        ends = {}
        for (label, line), colour in zip(lines.items(), colours, strict=False):
            values = np.asarray(line, dtype=float)
            values = values[:, None] if values.ndim == 1 else values
            if len(values) != len(points):
                raise DataError(f"Expected {len(points)} points in the line {label!r}, one per x; got {len(values)}")
            if values.shape[1] > 1:
                axes.fill_between(points, values.min(1), values.max(1), color=colour, alpha=0.13, lw=0)
            axes.plot(points, values.mean(1), color=colour, lw=2, marker="o", ms=3.5)
            ends[label] = (float(values.mean(1)[-1]), colour)
        if mark is not None:
            axes.axvline(mark, color="#9ca3af", lw=0.8, ls=(0, (4, 3)), zorder=0)
        if y_range is not None:
            axes.set_ylim(*y_range)
        low, high = axes.get_ylim()
        for label, height in _spread({label: end[0] for label, end in ends.items()}, 0.07 * (high - low)).items():
            axes.annotate(
                label, (1, height), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
                va="center", color=ends[label][1], fontweight="bold", annotation_clip=False,
            )  # fmt: skip
        axes.margins(x=0.02)
        finish(axes, title, x_label, y_label)
    return figure


def finish(axes: Any, title: str, x_label: str, y_label: str) -> None:
    """Faint lines across, labels, and no frame but the ground line."""
    axes.grid(axis="y", color="#e5e7eb", lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.set_xlabel(x_label, labelpad=6)
    axes.set_ylabel(y_label, labelpad=6)
    axes.set_title(title)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def path(
    x: Sequence[float],
    y: Sequence[float],
    labels: Sequence[str],
    *,
    marked: int | None = None,
    level: float | None = None,
    level_label: str = "",
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    size: tuple[float, float] = (5.6, 3.6),
) -> Figure:
    """Points in their order, joined by a line, each with a label: what is gained against what it costs.

    Args:
        x, y: the points ``[X]``; ``x``, above 0, is drawn by its logarithm, ``y`` from 0 to 1.
        marked: the index of a point that stands out.
        level: a ``y`` worth a horizontal line, and what to call it.

    Raises:
        DataError: not as many of one as of the other.
    """
    if not len(x) == len(y) == len(labels):
        raise DataError(f"Expected as many x as y and labels, got {len(x)}, {len(y)} and {len(labels)}.")
    with matplotlib.rc_context(STYLE):
        figure, axes = canvas(*size)
        axes.plot(x, y, color=BLUE, lw=1.6, marker="o", ms=5, zorder=2)
        for number, (left, height, label) in enumerate(zip(x, y, labels, strict=True)):
            chosen = number == marked
            if chosen:
                axes.plot([left], [height], marker="o", ms=11, color=ORANGE, zorder=3)
            axes.annotate(
                label, (left, height), xytext=(8, 6), textcoords="offset points", fontsize=9,
                color=ORANGE if chosen else INK, fontweight="bold" if chosen else "normal",
            )  # fmt: skip
        if level is not None:
            axes.axhline(level, color="#9ca3af", lw=0.8, ls=(0, (4, 3)), zorder=0)
            axes.annotate(
                level_label, (1, level), xycoords=("axes fraction", "data"), xytext=(0, 4),
                textcoords="offset points", ha="right", fontsize=8, color=GREY,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_ylim(0, 1.06)
        axes.margins(x=0.08)
        finish(axes, title, x_label, y_label)
    return figure


def bars(
    rows: Mapping[str, Mapping[str, float]],
    colours: Mapping[str, str],
    *,
    title: str = "",
    x_label: str = "",
    row_gaps: Sequence[int] = (),
    mark: float | None = None,
    width: float = 6.2,
) -> Figure:
    """Horizontal bars, each stacked from parts, with their sum at the end.

    Args:
        rows: ``{label: {part: length}}``, from top to bottom; labels may repeat if they differ in blanks at their ends.
        colours: ``{part: colour}`` of every part, in the order of the legend.
        row_gaps: indices of rows after which a gap sets them apart.
        mark: an ``x`` worth a thin vertical line.
        width: of the figure in inches.

    Raises:
        DataError: a part without a colour.
    """
    if missing := sorted({part for parts in rows.values() for part in parts} - set(colours)):
        raise DataError(f"Expected a colour for every part, got none for {missing}.")
    y = _positions(len(rows), row_gaps, width=0.5)
    with matplotlib.rc_context(STYLE):
        figure, axes = canvas(width, 0.26 * (y[-1] + 1) + 1.35)
        totals = [sum(parts.values()) for parts in rows.values()]
        for top, parts, total in zip(y, rows.values(), totals, strict=True):
            left = 0.0
            for part in colours:
                length = parts.get(part, 0.0)
                axes.barh(top + 0.5, length, 0.78, left=left, color=colours[part], edgecolor="white", linewidth=0.4)
                left += length
            axes.text(total + 0.01 * max(totals), top + 0.5, f"{total:.2f}", va="center_baseline", fontsize=8)
        used = [part for part in colours if any(parts.get(part) for parts in rows.values())]
        handles = [Rectangle((0, 0), 1, 1, facecolor=colours[part]) for part in used]
        figure.legend(handles, used, loc="outside lower center", ncols=4, frameon=False, fontsize=8, handlelength=1.2)
        if mark is not None:
            axes.axvline(mark, color=INK, lw=0.8, ls=(0, (4, 3)))
        axes.set_xlim(0, 1.08 * max(totals))
        axes.set_ylim(y[-1] + 1, 0)
        axes.set_yticks(y + 0.5, [label.strip() for label in rows])
        axes.tick_params(length=0)
        axes.set_xlabel(x_label, labelpad=6)
        axes.set_title(title)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    return figure


def shades(
    matrix: ArrayLike,
    *,
    title: str = "",
    row_label: str = "",
    column_label: str = "",
    bar_label: str = "",
    every: int = 5,
    colours: str = "Blues",
    low: float | None = None,
    high: float | None = None,
    size: tuple[float, float] = (5.6, 4.9),
) -> Figure:
    """A large matrix as colours alone, with a bar that says what they mean.

    Args:
        matrix: numbers ``[R, C]``; its rows and columns are named by their numbers.
        bar_label: what the colours measure.
        every: one in so many numbers is written at the axes.
        low, high: values of the two ends of the colour map; None takes the smallest and largest value.
    """
    values = np.asarray(matrix, dtype=float)
    with matplotlib.rc_context(STYLE):
        figure, axes = canvas(*size)
        image = axes.imshow(values, cmap=colours, norm=_scale(values, low, high), interpolation="nearest")
        axes.set_xticks(range(0, values.shape[1], every))
        axes.set_yticks(range(0, values.shape[0], every))
        axes.tick_params(length=0)
        axes.set_xlabel(column_label, labelpad=6)
        axes.set_ylabel(row_label, labelpad=6)
        axes.set_title(title)
        bar = figure.colorbar(image, ax=axes, shrink=0.9, aspect=30, pad=0.02)
        bar.set_label(bar_label, labelpad=6)
        bar.ax.tick_params(length=0)
        bar.outline.set_visible(False)
        for side in axes.spines.values():
            side.set_visible(False)
    return figure


def fronts(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    styles: Mapping[str, tuple[str, str]],
    *,
    x_label: str = "",
    y_label: str = "",
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    log: tuple[bool, bool] = (True, True),
    mark: float | None = None,
    note: str = "",
    width: float = 3.1,
) -> Figure:
    """What is gained against what it costs, one panel beside the other on the same axes, with one legend below.

    Args:
        panels: ``{title: {line: (x, y)}}``.
        styles: ``{line: (colour, "-" or "--" or another of matplotlib's)}`` of every line, in the order of the legend.
        x_range, y_range: of all panels; a point outside is not shown.
        log: whether the horizontal and the vertical axis are logarithmic.
        mark, note: an ``x`` worth a thin vertical line, and what it is.
        width: of a panel in inches.

    Raises:
        DataError: a line without a style.
    """
    if missing := sorted({line for lines in panels.values() for line in lines} - set(styles)):
        raise DataError(f"Expected a style for every line, got none for {missing}.")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width * len(panels) + 0.6, 4.0), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        drawn: dict[str, Any] = {}
        for axes, (title, lines) in zip(grid, panels.items(), strict=True):
            axes.set_xscale("log" if log[0] else "linear")
            axes.set_yscale("log" if log[1] else "linear")
            for line in (name for name in styles if name in lines):
                colour, dash = styles[line]
                (drawn[line],) = axes.plot(*lines[line], color=colour, ls=dash, lw=1.6, marker="o", ms=2.8)
            if mark is not None:
                axes.axvline(mark, color=INK, lw=0.8, ls=(0, (4, 3)), zorder=0)
            axes.set_xlim(*x_range)
            axes.set_ylim(*y_range)
            axes.grid(color="#e5e7eb", lw=0.8)
            axes.set_axisbelow(True)
            axes.tick_params(length=0, which="both")
            axes.set_xlabel(x_label, labelpad=6)
            axes.set_title(title)
            for side in axes.spines.values():
                side.set_visible(False)
        if mark is not None and note:
            grid[0].annotate(
                note, (mark, 0), xycoords=("data", "axes fraction"), xytext=(4, 4), textcoords="offset points",
                va="bottom", fontsize=7.5,
            )  # fmt: skip
        grid[0].set_ylabel(y_label, labelpad=6)
        figure.legend(
            list(drawn.values()), list(drawn), loc="outside lower center", ncols=len(panels), frameon=False,
            fontsize=8, handlelength=2.2,
        )  # fmt: skip
    return figure


def thumbnail(pixels: ArrayLike) -> bytes:
    """A grey image as a small PNG, dark ink on white paper: ``pixels`` ``[H, W]`` from 0 (paper) to 1 (ink)."""
    from PIL import Image

    ink = np.clip(np.asarray(pixels, dtype=float), 0, 1)
    buffer = io.BytesIO()
    Image.fromarray(np.round(255 * (1 - ink)).astype(np.uint8), mode="L").save(buffer, format="PNG")
    return buffer.getvalue()


def png(figure: Figure, dpi: int = DPI) -> bytes:
    """The figure as the bytes of a PNG, the same for the same figure (no date or version inside)."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """The figure as the bytes of an SVG with its letters drawn, the same for the same figure (no date inside)."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "lashley", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return buffer.getvalue()


def save(figure: Figure, path: str | Path, dpi: int = DPI) -> Path:
    """Write the figure as a PNG and return where."""
    path = Path(path)
    path.write_bytes(png(figure, dpi))
    return path


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of this size in inches, and the axes in it."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _positions(count: int, gaps: Sequence[int], width: float = 0.35) -> NDArray[np.float64]:
    """Left edge of each of ``count`` unit cells when a gap follows the cells of index ``gaps``."""
    return np.array([i + width * sum(gap < i for gap in gaps) for i in range(count)])


def _scale(values: NDArray[np.float64], low: float | None, high: float | None) -> Normalize:
    seen = values[np.isfinite(values)]
    low = low if low is not None else float(seen.min()) if seen.size else 0.0
    high = high if high is not None else float(seen.max()) if seen.size else 1.0
    return Normalize(low, high if high > low else low + 1.0, clip=True)  # one value only: any scale will do


def _readable_on(face: tuple[float, float, float]) -> str:
    luminance = 0.2126 * face[0] + 0.7152 * face[1] + 0.0722 * face[2]
    return "white" if luminance < 0.5 else INK


def _spread(heights: Mapping[str, float], gap: float) -> dict[str, float]:
    """Heights for labels, at least ``gap`` apart, in the order of the values and as near to them as that allows."""
    placed: dict[str, float] = {}
    for label in sorted(heights, key=heights.__getitem__):
        floor = max(placed.values(), default=-np.inf) + gap
        placed[label] = max(heights[label], floor)
    shift = max((placed[label] - heights[label] for label in placed), default=0.0) / 2
    return {label: height - shift for label, height in placed.items()}
