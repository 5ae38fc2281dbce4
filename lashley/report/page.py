"""One HTML file around a study's figures: every image inside it, nothing loaded from anywhere.

Templates lie in ``templates/``; ``page.html`` is the frame (typography, figure and table macros) that a study's own
template extends. Numbers are formatted here and nowhere else, so that a page and its tables agree.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from lashley.report import figures

__all__ = ["Picture", "render", "write"]


@dataclass(frozen=True)
class Picture:
    """A figure with what a page needs to show it.

    Attributes:
        name: stem of its file, and its key in the template.
        figure: the drawing.
        alt: what is in it, for a reader who cannot see it.
    """

    name: str
    figure: Figure
    alt: str


@dataclass(frozen=True)
class _Inlined:
    """A picture as the template sees it: a data URI and its size in CSS pixels."""

    name: str
    uri: str
    alt: str
    width: int
    height: int


def write(folder: str | Path, template: str, pictures: Sequence[Picture], **values: Any) -> Path:
    """Write every picture as ``<name>.png`` and the page as ``index.html``, last; return the page's path.

    Args:
        folder: exists.
        template: a file name in ``templates/``.
        values: what the template speaks about.
    """
    folder = Path(folder)
    drawn = {picture.name: figures.png(picture.figure) for picture in pictures}
    for name, content in drawn.items():
        (folder / f"{name}.png").write_bytes(content)
    page = folder / "index.html"
    page.write_text(_fill(template, pictures, drawn, values), encoding="utf-8")
    return page


def render(template: str, pictures: Sequence[Picture], **values: Any) -> str:
    """The page as a text, without writing anything."""
    return _fill(template, pictures, {picture.name: figures.png(picture.figure) for picture in pictures}, values)


def _fill(template: str, pictures: Sequence[Picture], drawn: dict[str, bytes], values: dict[str, Any]) -> str:
    inlined = {}
    for picture in pictures:
        width, height = (round(96 * inches) for inches in picture.figure.get_size_inches())
        inlined[picture.name] = _Inlined(picture.name, _uri(drawn[picture.name]), picture.alt, width, height)
    return _environment().get_template(template).render(pictures=inlined, **values)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lashley.report"),
        autoescape=True,
        undefined=StrictUndefined,  # a number that is missing must not become an empty place on the page
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "points": points,
        "seconds": seconds,
        "mean": mean,
        "cosine": cosine,
        "number": number,
        "sentence": sentence,
        "thumbnail": lambda pixels: _uri(figures.thumbnail(pixels)),
    }
    return environment


def percent(share: float, digits: int = 1) -> str:
    """A share in [0, 1]: 0.0259 -> "2.6 %", with a space that does not break."""
    return f"{_unsigned_zero(100 * share, digits):.{digits}f}\u00a0%"


def points(difference: float, digits: int = 1) -> str:
    """A difference of shares in percentage points: 0.0155 -> "1.6"."""
    return f"{_unsigned_zero(100 * difference, digits):.{digits}f}".replace("-", "\u2212")


def seconds(value: float) -> str:
    """A duration: 0.0321 -> "0.03 s", 12.3 -> "12.3 s"."""
    return f"{value:.{2 if value < 1 else 1}f}\u00a0s"


def number(value: float | None) -> str:
    """A measure of any size: 0.98312 -> "0.983", 0.00042 -> "0.00042", None -> nothing."""
    if value is None:
        return ""
    return f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"


def cosine(value: float) -> str:
    """A number in [-1, 1]: -0.123 -> "−0.12"."""
    return f"{_unsigned_zero(value, 2):.2f}".replace("-", "\u2212")


def sentence(text: str) -> str:
    """The text as the first of a sentence: "conv net" -> "Conv net", "MLP" as it is."""
    return text[:1].upper() + text[1:]


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _unsigned_zero(value: float, digits: int) -> float:
    return value if round(value, digits) else 0.0


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
