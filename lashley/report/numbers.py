"""Numbers as a reader meets them: formatted here and nowhere else, so that a page, its tables and figures agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "MINUS",
    "Scale",
    "cosine",
    "fixed",
    "mean",
    "number",
    "percent",
    "points",
    "scale_of",
    "seconds",
    "sentence",
]

MINUS = "\u2212"


def percent(share: float, digits: int = 1) -> str:
    """A share in [0, 1]: 0.0259 -> "2.6 %", with a space that does not break."""
    return f"{fixed(100 * share, digits)}\u00a0%"


def points(difference: float, digits: int = 1) -> str:
    """A difference of shares in percentage points: 0.0155 -> "1.6"."""
    return fixed(100 * difference, digits)


def seconds(value: float) -> str:
    """A duration: 0.0321 -> "0.03 s", 12.3 -> "12.3 s"."""
    return f"{fixed(value, 2 if value < 1 else 1)}\u00a0s"


def number(value: float | None) -> str:
    """A measure of any size: 0.98312 -> "0.983", 0.00042 -> "0.00042", None -> nothing."""
    return "" if value is None else Scale(1.0, 3, "").text(value)


def cosine(value: float) -> str:
    """A number in [-1, 1]: -0.123 -> "−0.12"."""
    return fixed(value, 2)


def fixed(value: float, digits: int) -> str:
    """So many digits after the point, and a minus sign that is one: -0.0001 -> "0.00" with two."""
    return f"{value if round(value, digits) else 0.0:.{digits}f}".replace("-", MINUS)


def sentence(text: str) -> str:
    """The text as the first of a sentence: "conv net" -> "Conv net", "MLP" as it is."""
    return text[:1].upper() + text[1:]


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


@dataclass(frozen=True)
class Scale:
    """How the numbers of a column or an axis are written: alike, without their unit.

    Attributes:
        factor: what a value is multiplied by.
        digits: after the point.
        unit: what stands in the head: "%".
    """

    factor: float
    digits: int
    unit: str

    def text(self, value: float) -> str:
        """The number, with more digits where it would have fewer than two: 0.00042 among 0.983; shares stay short."""
        scaled = self.factor * value
        if scaled and self.digits and self.factor != 100 and abs(scaled) < 10.0 ** (1 - self.digits):
            return f"{scaled:.2g}".replace("-", MINUS)
        return self.brief(value)

    def brief(self, value: float) -> str:
        """The number with so many digits and no more: 0.000."""
        return fixed(self.factor * value, self.digits)

    def signed(self, difference: float) -> str:
        """A difference with its sign: "+1.2", "−0.3", "0.0"."""
        text = self.text(difference)
        return f"+{text}" if difference > 0 and text.strip("0.") else text

    def interval(self, low: float, high: float) -> str:
        """Both ends: "1.0-5.0" with a dash, or "−1.0 to 5.0" where that could be misread."""
        ends = self.text(low), self.text(high)
        return (" to " if MINUS in "".join(ends) else "\N{EN DASH}").join(ends)


_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


def scale_of(unit: str | None, values: Sequence[float]) -> Scale:
    """The scale for these values of a unit of `lashley.result.Column`."""
    largest = max(map(abs, values), default=0.0)
    if unit == "share":
        return Scale(100.0, 1 if largest >= 0.01 or not largest else 2, "%")
    if unit == "points":
        return Scale(100.0, 1 if largest >= 0.1 or not largest else 2, "points")
    if unit == "bytes":
        size, name = next(((size, name) for size, name in _BYTES if largest >= size), _BYTES[-1])
        return Scale(1 / size, 0 if name == "B" else 1, name)
    if all(float(value).is_integer() for value in values):
        return Scale(1.0, 0, "s" if unit == "seconds" else "")
    digits = next((digits for bound, digits in ((1000, 0), (100, 1), (10, 2)) if largest >= bound), 3)
    return Scale(1.0, min(digits, 2) if unit == "seconds" else digits, "s" if unit == "seconds" else "")
