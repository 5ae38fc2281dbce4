"""One HTML file around a study's figures: every image inside it, nothing loaded from anywhere.

Templates lie in ``templates/``; ``page.html`` is the frame (typography, figure and table macros) that a study's own
template extends.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from lashley.report import figures, numbers

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


def render(template: str, pictures: Sequence[Picture], *, vector: bool = False, **values: Any) -> str:
    """The page as a text, without writing anything; its figures are pixels, or ``vector`` graphics."""
    drawn = {picture.name: (figures.svg if vector else figures.png)(picture.figure) for picture in pictures}
    return _fill(template, pictures, drawn, values)


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
        "percent": numbers.percent,
        "points": numbers.points,
        "seconds": numbers.seconds,
        "mean": numbers.mean,
        "cosine": numbers.cosine,
        "number": numbers.number,
        "sentence": numbers.sentence,
        "thumbnail": lambda pixels: _uri(figures.thumbnail(pixels)),
    }
    return environment


def _uri(image: bytes) -> str:
    kind = "png" if image.startswith(b"\x89PNG") else "svg+xml"
    return f"data:image/{kind};base64," + base64.b64encode(image).decode("ascii")
