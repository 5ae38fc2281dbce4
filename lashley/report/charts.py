"""The charts of a result as figures: data in, a drawing and its description out."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from lashley.report import figures
from lashley.report.figures import INK
from lashley.report.numbers import Scale, scale_of
from lashley.result import Chart

__all__ = ["axis_label", "describe", "draw", "left_out"]

# Okabe and Ito's colours, the pale ones last: told apart without colour vision, and each line has its own mark as well.
# After the last one they begin again, with dashes and open marks.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#6b7280")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)))
SIZE = (5.2, 3.3)  # inches, without the legend: still to be read when a phone shows it at two thirds
ROOM = (14, 30)  # columns and rows of a heat map that has its numbers written in; larger ones are colours alone
_LETTERS = 12.0  # that fit into an inch
_LONGEST = 26  # letters of a name in a figure; the whole of it is in the numbers below
_LINE = 44  # letters of a line beside an axis


def draw(chart: Chart) -> Figure:
    """The chart as a figure, without its title, which stands above it on the page."""
    if chart.kind == "heat":
        return _heat(chart)
    with matplotlib.rc_context(figures.STYLE):
        figure, axes = figures.canvas(*SIZE)
        lying = chart.kind == "bars" and _crowded(chart.series[0].x)
        legend = _bars(chart, axes, lying) if chart.kind == "bars" else _marks(chart, axes)
        axes.tick_params(which="both", length=0)
        labels = [axis_label(chart.x_label, chart.x_unit), axis_label(chart.y_label, chart.y_unit)]
        labels = [_literal(textwrap.fill(label, _LINE)) for label in labels]
        figures.finish(axes, "", *(reversed(labels) if lying else labels))
        if chart.kind == "points" or lying:
            axes.grid(axis="x", color="#e5e7eb", lw=0.8)
        if lying:
            axes.grid(visible=False, axis="y")
            height = 0.09 * len(legend) + 0.12
            figure.set_figheight(0.8 + height * len(chart.series[0].x))
        if chart.y_range is not None:
            (axes.set_xlim if lying else axes.set_ylim)(*(_factor(chart.y_unit) * end for end in chart.y_range))
        _ticks(axes.yaxis if not lying else axes.xaxis, chart.y_scale)
        if not lying:
            _ticks(axes.xaxis, chart.x_scale)
        if len(legend) > 1 or chart.series[0].target:
            names = [_name(series.name) for series in chart.series]
            columns = max(1, min(4, int(SIZE[0] * _LETTERS / (max(map(len, names)) + 6))))
            figure.set_figheight(figure.get_figheight() + 0.19 * math.ceil(len(names) / columns))
            figure.legend(
                legend, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=8, handlelength=2.4
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
        values = [y for y in series.y if y is not None]
        in_order = chart.kind == "lines" and not any(isinstance(x, str) for x in series.x)
        values = values if in_order else sorted(values)
        ends = dict.fromkeys(map(scale.text, values[:1] + values[-1:]))
        parts.append(f"{series.name} {' to '.join(ends) or 'none'}")
    by = " by ".join(name for name in reversed(axes) if name)
    unit = f" in {scale.unit}" if scale.unit else ""
    return f"{drawn}: {chart.title}{f' ({by})' if by else ''}. Values{unit}: {'; '.join(parts)}."


def _marks(chart: Chart, axes: Axes) -> list[Any]:
    """Lines or points, each series in a colour and with a mark of its own; the target as a star or a dashed line.

    Gives the legend's handles, in the order of the series.
    """
    legend = []
    texts = list(dict.fromkeys(x for series in chart.series for x in series.x if isinstance(x, str)))
    looks = itertools.cycle((*look, dash) for dash in DASHES for look in zip(COLOURS, MARKS, strict=True))
    across, upwards = (1.0 if texts else _factor(chart.x_unit)), _factor(chart.y_unit)
    for series in chart.series:
        x = np.array([texts.index(x) if isinstance(x, str) else across * x for x in series.x], dtype=float)
        y, low, high = (upwards * _floats(values) for values in (series.y, series.low, series.high))
        if series.target:
            single = np.isfinite(y).sum() == 1
            look: dict[str, Any] = {"color": INK, "zorder": 4}
            look |= {"marker": "*", "ms": 13, "ls": ""} if single else {"ls": (0, (5, 3)), "lw": 1.3}
        else:
            colour, mark, dash = next(looks)
            look = {"color": colour, "marker": mark, "ms": 5.0 if chart.kind == "points" else 4.0, "zorder": 3}
            look |= {"ls": ""} if chart.kind == "points" else {"ls": dash, "lw": 1.8}
            look |= {} if dash == DASHES[0] else {"markerfacecolor": "white"}
        if low.size and chart.kind == "lines" and not series.target:
            axes.fill_between(x, low, high, color=look["color"], alpha=0.14, lw=0)
        elif low.size:
            axes.vlines(x, low, high, color=look["color"], lw=1.1)
        legend += axes.plot(x, y, **look)
        for at, height, label in zip(x, y, series.labels, strict=False):
            if np.isfinite(height):
                axes.annotate(
                    _name(label), (at, height), xytext=(4, 4), textcoords="offset points", fontsize=7,
                    color=look["color"],
                )  # fmt: skip
    axes.set_xscale(chart.x_scale)
    axes.set_yscale(chart.y_scale)
    axes.margins(x=0.06, y=0.09)
    if texts:
        _categories(axes, texts)
    return legend


def _bars(chart: Chart, axes: Axes, lying: bool) -> list[Any]:
    """Groups of bars, one bar per series, upright or lying; the target as a dash across its group.

    Gives the legend's handles, in the order of the series.
    """
    bar, along, across = (axes.barh, axes.hlines, axes.vlines) if lying else (axes.bar, axes.vlines, axes.hlines)
    groups = np.arange(len(chart.series[0].x), dtype=float)
    count = sum(not series.target for series in chart.series)
    width, factor = 0.8 / max(1, count), _factor(chart.y_unit)
    places = iter([groups + (number - (count - 1) / 2) * width for number in range(count)])
    colours = itertools.cycle(COLOURS)
    legend: list[Any] = []
    for series in chart.series:
        y, low, high = (factor * _floats(values) for values in (series.y, series.low, series.high))
        if series.target:
            look: dict[str, Any] = {"color": INK, "lw": 1.4, "ls": (0, (4, 2)), "zorder": 4}
            legend.append(across(y, groups - 0.45, groups + 0.45, **look))
            continue
        place = next(places)
        legend.append(bar(place, y, 0.92 * width, color=next(colours), zorder=2))
        if low.size:
            along(place, low, high, color=INK, lw=0.9, zorder=3)
    (axes.set_xscale if lying else axes.set_yscale)(chart.y_scale)
    if chart.y_scale == "linear":
        (axes.axvline if lying else axes.axhline)(0, color="#9ca3af", lw=0.8, zorder=1)
    names = [_name(str(x)) for x in chart.series[0].x]
    if lying:
        axes.set_yticks(groups, names)
        axes.set_ylim(len(names) - 0.5, -0.5)
    else:
        axes.set_xticks(groups, names)
    return legend


def _heat(chart: Chart) -> Figure:
    rows, columns = [_name(series.name) for series in chart.series], [_name(str(x)) for x in chart.series[0].x]
    across, down = _literal(chart.x_label), _literal(chart.y_label)
    scale = _scale(chart)
    cell = Scale(1.0, min(scale.digits, 2 if scale.factor == 1 else 1), "")  # there is no room for more
    values = np.array([_floats(series.y) for series in chart.series]) * scale.factor
    low, high = (scale.factor * end for end in chart.y_range) if chart.y_range else _ends(values)
    look: dict[str, Any] = {"colours": "RdBu_r" if low < 0 < high else "Blues", "low": low, "high": high}
    if len(columns) > ROOM[0] or len(rows) > ROOM[1]:
        figure = figures.shades(
            values, row_label=down, column_label=across, bar_label=scale.unit, size=(5.2, 4.6), **look
        )
        axes = figure.axes[0]
        for set_ticks, names in ((axes.set_xticks, columns), (axes.set_yticks, rows)):
            every = math.ceil(len(names) / ROOM[0])
            set_ticks(range(0, len(names), every), names[::every], fontsize=7)
        axes.tick_params(axis="x", rotation=90 if max(map(len, columns)) > 2 else 0)
        return figure
    width = max(0.44, max(map(len, columns)) / 11)
    turned = width > 0.62  # labels that would run into each other stand upright
    figure = figures.heat_map(
        values, rows, columns, row_label=down, text=cell.brief, cell=(0.46 if turned else width, 0.32),
        column_label=f"{across} (cells: {scale.unit})" if scale.unit else across, **look,
    )  # fmt: skip
    if turned:
        figure.axes[0].tick_params(axis="x", rotation=90)
        figure.set_size_inches(figure.get_figwidth(), figure.get_figheight() + max(map(len, columns)) / 13)
    return figure


def _ends(values: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    """Ends of the colours: from 0 where nothing is below it, the same to both sides where something is."""
    largest = float(np.nanmax(np.abs(values))) or 1.0
    return (-largest if np.nanmin(values) < 0 else 0.0), largest


def _categories(axes: Axes, texts: Sequence[str]) -> None:
    axes.set_xticks(range(len(texts)), [_name(text) for text in texts])
    if _crowded(texts):
        axes.tick_params(axis="x", rotation=40)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
            label.set_rotation_mode("anchor")


def _crowded(names: Sequence[float | str]) -> bool:
    """Whether names do not fit beside each other."""
    return sum(len(_name(str(name))) + 1 for name in names) > SIZE[0] * _LETTERS * 0.8


def _ticks(axis: Axis, scale: str) -> None:
    """Plain numbers at a logarithmic axis whose ends are near: 0.02 and 5, not powers of ten with factors."""
    low, high = axis.get_view_interval()
    if scale == "log" and high / low < 1e4:
        axis.set_major_formatter(FuncFormatter(_shortest))
        axis.set_minor_formatter(FuncFormatter(_shortest if high / low < 300 else lambda value, place: ""))


def _shortest(value: float, place: int) -> str:
    first = f"{value:.0e}"[0]
    return f"{value:g}" if first in "125" else ""


def _name(text: str) -> str:
    """A name as it fits into a figure: of a long one both ends, because layers differ in the last part of theirs."""
    return _literal(text if len(text) <= _LONGEST else f"{text[: _LONGEST // 3]}\u2026{text[1 - 2 * _LONGEST // 3 :]}")


def _literal(text: str) -> str:
    """The text as it is: between two dollar signs matplotlib would read a formula."""
    return text.replace("$", r"\$")


def _scale(chart: Chart) -> Scale:
    return scale_of(chart.y_unit, [y for series in chart.series for y in series.y if y is not None])


def _factor(unit: str | None) -> float:
    return 100.0 if unit in ("share", "points") else 1.0


def _floats(values: Iterable[float | None]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([np.nan if value is None else value for value in values], dtype=float)
