"""The charts of a result as figures: data in, a drawing and its description out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from lashley.report import figures
from lashley.report.figures import INK
from lashley.report.numbers import Scale, scale_of
from lashley.result import Chart

__all__ = ["axis_label", "describe", "draw", "left_out"]

# Okabe and Ito's colours, the pale ones last: told apart without colour vision, and each line has its own mark as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#6b7280")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
SIZE = (5.2, 3.7)  # inches: still to be read when a phone shows it at two thirds
CELLS = 400  # of a heat map that has its numbers written in; larger ones are colours alone
_LETTERS = 12.0  # that fit into an inch


def draw(chart: Chart) -> Figure:
    """The chart as a figure, without its title, which stands above it on the page."""
    if chart.kind == "heat":
        return _heat(chart)
    with matplotlib.rc_context(figures.STYLE):
        figure, axes = figures.canvas(*SIZE)
        (_bars if chart.kind == "bars" else _marks)(chart, axes)
        axes.tick_params(which="both", length=0)
        figures.finish(axes, "", axis_label(chart.x_label, chart.x_unit), axis_label(chart.y_label, chart.y_unit))
        if chart.kind == "points":
            axes.grid(axis="x", color="#e5e7eb", lw=0.8)
        if chart.y_range is not None:
            axes.set_ylim(*(_factor(chart.y_unit) * end for end in chart.y_range))
        handles, names = axes.get_legend_handles_labels()
        if len(names) > 1 or any(series.target for series in chart.series):
            columns = max(1, min(3, int(SIZE[0] * _LETTERS / (max(map(len, names)) + 6))))
            figure.legend(
                handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=8, handlelength=2.4
            )
    return figure


def axis_label(label: str, unit: str | None) -> str:
    """What is written at an axis: "others fall, points"."""
    shown = scale_of(unit, ()).unit if unit in ("share", "points", "seconds") else ("bytes" if unit == "bytes" else "")
    return ", ".join(part for part in (label, shown) if part)


def left_out(chart: Chart) -> int:
    """How many points have no place on a logarithmic axis."""

    def has_place(x: float | str, y: float) -> bool:
        across = isinstance(x, str) or chart.x_scale == "linear" or x > 0
        return across and (chart.y_scale == "linear" or y > 0)

    points = ((x, y) for series in chart.series for x, y in zip(series.x, series.y, strict=True))
    return sum(y is not None and not has_place(x, y) for x, y in points)


def describe(chart: Chart) -> str:
    """What is in the chart, for a reader who cannot see it: its own ``alt``, or the ends of every series."""
    if chart.alt:
        return chart.alt
    scale = _scale(chart)
    drawn = {"lines": "Lines", "points": "Points", "bars": "Bars", "heat": "A map of coloured cells"}[chart.kind]
    axes = [axis_label(chart.x_label, chart.x_unit), chart.y_label]
    parts = []
    for series in chart.series:
        points = [(x, y) for x, y in zip(series.x, series.y, strict=True) if y is not None]
        if not points:
            parts.append(f"{series.name} none")
        elif isinstance(points[0][0], str) or chart.kind == "points":
            ends = [scale.text(end) for end in (min(y for _, y in points), max(y for _, y in points))]
            parts.append(f"{series.name} {' to '.join(dict.fromkeys(ends))}")
        else:
            parts.append(
                f"{series.name} {' to '.join(dict.fromkeys(scale.text(y) for _, y in (points[0], points[-1])))}"
            )
    by = " by ".join(name for name in reversed(axes) if name)
    unit = f" in {scale.unit}" if scale.unit else ""
    return f"{drawn}: {chart.title}{f' ({by})' if by else ''}. Values{unit}: {'; '.join(parts)}."


def _marks(chart: Chart, axes: Axes) -> None:
    """Lines or points, each series in a colour and with a mark of its own; the target as a star or a dashed line."""
    texts = list(dict.fromkeys(x for series in chart.series for x in series.x if isinstance(x, str)))
    looks = itertools.cycle(zip(COLOURS, MARKS, strict=True))
    across, upwards = (1.0 if texts else _factor(chart.x_unit)), _factor(chart.y_unit)
    for series in chart.series:
        x = np.array([texts.index(x) if isinstance(x, str) else across * x for x in series.x], dtype=float)
        y, low, high = (upwards * _floats(values) for values in (series.y, series.low, series.high))
        if series.target:
            single = np.isfinite(y).sum() == 1
            look: dict[str, Any] = {"color": INK, "zorder": 4}
            look |= {"marker": "*", "ms": 13, "ls": ""} if single else {"ls": (0, (5, 3)), "lw": 1.3}
        else:
            colour, mark = next(looks)
            look = {"color": colour, "marker": mark, "ms": 5.0 if chart.kind == "points" else 4.0, "zorder": 3}
            look |= {"ls": ""} if chart.kind == "points" else {"lw": 1.8}
        if low.size and chart.kind == "lines" and not series.target:
            axes.fill_between(x, low, high, color=look["color"], alpha=0.14, lw=0)
        elif low.size:
            axes.errorbar(x, y, (y - low, high - y), fmt="none", ecolor=look["color"], elinewidth=1.1, capsize=2.5)
        axes.plot(x, y, label=series.name, **look)
        for at, height, label in zip(x, y, series.labels, strict=False):
            if np.isfinite(height):
                axes.annotate(
                    label, (at, height), xytext=(4, 4), textcoords="offset points", fontsize=7, color=look["color"]
                )
    axes.set_xscale(chart.x_scale)
    axes.set_yscale(chart.y_scale)
    axes.margins(x=0.06, y=0.09)
    if texts:
        _categories(axes, texts)
    _ticks(chart, axes)


def _bars(chart: Chart, axes: Axes) -> None:
    """Groups of upright bars, one bar per series; the target as a dash across its group."""
    texts = [str(x) for x in chart.series[0].x]
    groups = np.arange(len(texts), dtype=float)
    plain = [series for series in chart.series if not series.target]
    width, factor = 0.8 / max(1, len(plain)), _factor(chart.y_unit)
    for number, (series, colour) in enumerate(zip(plain, itertools.cycle(COLOURS), strict=False)):
        x = groups + (number - (len(plain) - 1) / 2) * width
        y, low, high = (factor * _floats(values) for values in (series.y, series.low, series.high))
        axes.bar(x, y, 0.92 * width, color=colour, label=series.name, zorder=2)
        if low.size:
            axes.errorbar(x, y, (y - low, high - y), fmt="none", ecolor=INK, elinewidth=0.9, capsize=2, zorder=3)
    for series in (series for series in chart.series if series.target):
        y = factor * _floats(series.y)
        axes.hlines(y, groups - 0.45, groups + 0.45, color=INK, lw=1.4, ls=(0, (4, 2)), label=series.name, zorder=4)
    axes.set_yscale(chart.y_scale)
    axes.axhline(0, color="#9ca3af", lw=0.8, zorder=1)
    _categories(axes, texts)
    _ticks(chart, axes)


def _heat(chart: Chart) -> Figure:
    rows, columns = [series.name for series in chart.series], [str(x) for x in chart.series[0].x]
    scale = _scale(chart)
    cell = Scale(1.0, min(scale.digits, 2 if scale.factor == 1 else 1), "")  # there is no room for more
    values = np.array([_floats(series.y) for series in chart.series]) * scale.factor
    low, high = (scale.factor * end for end in chart.y_range) if chart.y_range else _ends(values)
    look: dict[str, Any] = {"colours": "RdBu_r" if low < 0 < high else "Blues", "low": low, "high": high}
    across, down = chart.x_label, chart.y_label
    if values.size > CELLS:
        return figures.shades(
            values, row_label=down, column_label=across, bar_label=scale.unit, size=(5.2, 4.6), **look
        )
    longest = max(max(map(len, columns)) / 11, 0.44)
    turned = longest > 0.62  # labels that would run into each other stand upright
    figure = figures.heat_map(
        values, rows, columns, row_label=down, column_label=", ".join(filter(None, (across, scale.unit))),
        text=cell.brief, cell=(0.46 if turned else longest, 0.32), **look,
    )  # fmt: skip
    if turned:
        with matplotlib.rc_context(figures.STYLE):
            figure.axes[0].tick_params(axis="x", rotation=90)
            figure.set_size_inches(figure.get_figwidth(), figure.get_figheight() + max(map(len, columns)) / 13)
    return figure


def _ends(values: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    """Ends of the colours: from 0 where nothing is below it, the same to both sides where something is."""
    largest = float(np.nanmax(np.abs(values))) or 1.0
    return (-largest if np.nanmin(values) < 0 else 0.0), largest


def _categories(axes: Axes, texts: Sequence[str]) -> None:
    crowded = sum(map(len, texts)) > SIZE[0] * _LETTERS * 0.8
    axes.set_xticks(range(len(texts)), texts)
    if crowded:
        axes.tick_params(axis="x", rotation=40)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
            label.set_rotation_mode("anchor")


def _ticks(chart: Chart, axes: Axes) -> None:
    """Plain numbers at logarithmic axes whose ends are near: 0.02 and 5, not powers of ten with factors."""
    for axis, scale in ((axes.xaxis, chart.x_scale), (axes.yaxis, chart.y_scale)):
        if scale == "log":
            low, high = axis.get_view_interval()
            if high / low < 1e4:
                axis.set_major_formatter(FuncFormatter(_shortest))
                axis.set_minor_formatter(FuncFormatter(_shortest if high / low < 300 else lambda value, place: ""))


def _shortest(value: float, place: int) -> str:
    first = f"{value:.0e}"[0]
    return f"{value:g}" if first in "125" else ""


def _scale(chart: Chart) -> Scale:
    return scale_of(chart.y_unit, [y for series in chart.series for y in series.y if y is not None])


def _factor(unit: str | None) -> float:
    return 100.0 if unit in ("share", "points") else 1.0


def _floats(values: Iterable[float | None]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([np.nan if value is None else value for value in values], dtype=float)
