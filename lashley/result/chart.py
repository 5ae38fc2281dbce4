"""Charts of a result: what a figure shows, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lashley.errors import DataError
from lashley.result.checks import all_of, choice, keep, number, plain, texts, unique
from lashley.result.table import UNITS

__all__ = ["KINDS", "Chart", "Series"]

KINDS = ("lines", "points", "bars", "heat")
SCALES = ("linear", "log")


@dataclass(frozen=True)
class Series:
    """Points of a chart: a line, a set of points or of bars, or a row of a heat map.

    Attributes:
        name: what the legend calls it.
        x: numbers, or texts (categories: layers, digits, methods; columns of a heat map).
        y: as many numbers; None where there is none.
        low, high: an interval around every ``y``, as many numbers or nothing at all.
        labels: a text for every point (the alpha it was measured at), or nothing.
        target: this is what the others should come near to: one point becomes a star, more a dashed dark line.
    """

    name: str
    x: Sequence[float | str]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    labels: Sequence[str] = ()
    target: bool = False

    def __post_init__(self) -> None:
        where = f"the series {self.name!r}"
        texts(self, where, "name")
        x = tuple(plain(self.x, f"x of {where}"))
        if not all(isinstance(v, str) for v in x):
            x = tuple(number(v, f"x of {where}", missing=False) for v in x)
        keep(self, x=x, labels=tuple(str(label) for label in self.labels))
        for name in ("y", "low", "high"):
            values = plain(getattr(self, name), f"{name} of {where}")
            keep(self, **{name: tuple(number(v, f"{name} of {where}") for v in values)})
        for name in ("y", "low", "high", "labels"):
            found = len(getattr(self, name))
            if found != len(x) and (found or name == "y"):
                raise DataError(f"Expected {len(x)} values in {name} of {where}, one for each x; got {found}.")
        if bool(self.low) != bool(self.high):
            raise DataError(f"Expected both low and high of {where}, or neither; got one.")
        for low, high in zip(self.low, self.high, strict=True):
            if low is not None and high is not None and low > high:
                raise DataError(f"Expected low of {where} not to lie above high, got {low} and {high}.")


@dataclass(frozen=True)
class Chart:
    """What a figure shows, as data: the report draws it.

    Attributes:
        name: short, unique in the result; part of links and file names.
        title: what is in it.
        series: what is drawn. Of "bars" and "heat" all have the same ``x``, which are texts; a heat map's series are
            its rows from top to bottom, without intervals.
        kind: "lines" (joined, with markers, and a band where there are intervals), "points" (with whiskers), "bars" (in
            groups, one bar per series) or "heat".
        x_label, y_label: of the axes; of a heat map what its columns and rows are.
        x_unit, y_unit: as of a `Column`; of a heat map ``y_unit`` is that of its cells.
        x_scale, y_scale: "linear" or "log". What is 0 or below has no place on "log" and is said to be left out.
        y_range: lowest and highest ``y``, or the ends of the colours of a heat map; None takes those of the data.
        note: how to read it; the caption.
        alt: what a reader who cannot see it should know; the data are described where it is empty.
        table: name of the table that it belongs to and is shown below; the others follow after the tables.
    """

    name: str
    title: str
    series: Sequence[Series] = field(metadata={"parts": Series})
    kind: str = "lines"
    x_label: str = ""
    y_label: str = ""
    x_unit: str | None = None
    y_unit: str | None = None
    x_scale: str = "linear"
    y_scale: str = "linear"
    y_range: tuple[float, float] | None = None
    note: str = ""
    alt: str = ""
    table: str = ""

    def __post_init__(self) -> None:
        where = f"the chart {self.name!r}"
        texts(self, where, "name", "title")
        texts(self, where, "x_label", "y_label", "note", "alt", "table", empty=True)
        choice(self.kind, KINDS, f"kind= of {where}")
        for name, known in (("x_unit", UNITS), ("y_unit", UNITS), ("x_scale", SCALES), ("y_scale", SCALES)):
            choice(getattr(self, name), known, f"{name}= of {where}")
        keep(self, series=all_of(self.series, Series, f"series of {where}"))
        unique([series.name for series in self.series], f"names of the series of {where}")
        if not any(y is not None for series in self.series for y in series.y):
            raise DataError(f"Expected at least one number to draw in {where}, got none. Leave the chart out.")
        self._check_x(where)
        if self.y_range is not None:
            if not isinstance(self.y_range, list | tuple):
                raise DataError(f"Expected y_range= of {where} to be a low and a higher number, got {self.y_range!r}.")
            ends = tuple(number(end, f"y_range= of {where}", missing=False) for end in self.y_range)
            if len(ends) != 2 or not ends[0] < ends[1]:
                raise DataError(f"Expected y_range= of {where} to be a low and a higher number, got {self.y_range!r}.")
            keep(self, y_range=ends)

    def _check_x(self, where: str) -> None:
        texts = {isinstance(x, str) for series in self.series for x in series.x}
        if self.kind in ("bars", "heat"):
            if len({series.x for series in self.series}) > 1 or texts != {True}:
                raise DataError(
                    f"Expected texts as x of {where}, the same for all series, as its kind is {self.kind!r}; "
                    'got numbers or different ones. Give x=["...", ...], and None in y where there is no number.'
                )
        elif len(texts) > 1:
            raise DataError(f"Expected x of {where} to be numbers or texts, got both. One axis shows one of them.")
        elif texts == {True} and self.x_scale == "log":
            raise DataError(f"Expected numbers as x of {where}, whose x_scale is 'log'; got texts.")
