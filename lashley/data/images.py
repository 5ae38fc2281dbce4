"""A folder of pictures, one sub-folder per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lashley.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImageFiles", "image_folder"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
GREY_MODES = frozenset({"1", "L", "LA"})
COLOUR_MODES = frozenset({"P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV"})


class ImageFiles:
    """Picture files as samples ``[H, W]`` (all grey) or ``[H, W, 3]`` uint8, decoded when asked for.

    Only the headers are read at first, so pictures of several sizes are noticed before any work is done. When a single
    picture has colour, all become RGB; transparency is dropped.

    Args:
        paths: the files, in order.
        size: ``(height, width)`` to scale every picture to (bilinear, no crop); None: they must agree.

    Raises:
        DataError: a file that is not a picture, one with more than 8 bits per channel, or sizes that differ without
            ``size``.
    """

    def __init__(self, paths: Sequence[Path], size: tuple[int, int] | None = None) -> None:
        self.paths = tuple(paths)
        sizes: dict[tuple[int, int], Path] = {}
        modes = set()
        for path in self.paths:
            with _opened(path) as picture:
                sizes.setdefault((picture.height, picture.width), path)
                modes.add(_mode(picture, path))
        if size is None and len(sizes) > 1:
            (first, one), (second, other), *_ = sizes.items()
            raise DataError(
                f"Expected pictures of one size, got {len(sizes)} sizes: {one} is {_text(first)} and {other} is "
                f"{_text(second)} (height x width). Give a size to scale them to (size=(H, W), --size HxW)."
            )
        self.size = size or next(iter(sizes))
        self.mode = "RGB" if "RGB" in modes else "L"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Tensor) -> Tensor:
        return torch.stack([self._pixels(self.paths[i]) for i in index.tolist()])

    def _pixels(self, path: Path) -> Tensor:
        from PIL import Image

        height, width = self.size
        with _opened(path) as picture:
            try:
                pixels = picture.convert(self.mode)
            except (OSError, SyntaxError) as error:  # pillow raises either for a file that ends too early
                raise DataError(f"{path} cannot be decoded ({error}). Fetch it again or take it away.") from error
        if pixels.size != (width, height):
            pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(pixels))


def image_folder(folder: str | Path, size: tuple[int, int] | None = None) -> tuple[ImageFiles, Tensor, tuple[str, ...]]:
    """Pictures, labels ``[N]`` and class names of a folder with a sub-folder per class.

    Classes are the sub-folders in the order of their sorted names, pictures come in the order of theirs. Hidden files
    and files that are not pictures (by suffix) are left out.

    Raises:
        DataError: no sub-folder, a sub-folder without a picture, or what `ImageFiles` refuses.
    """
    folder = Path(folder)
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise DataError(f"Expected a sub-folder of pictures per class in {folder}, found none.")
    paths: list[Path] = []
    labels: list[int] = []
    for label, sub in enumerate(classes):
        found = sorted(p for p in sub.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        if not found:
            present = sorted({p.suffix.lower() or p.name for p in sub.iterdir()})
            raise DataError(
                f"The class folder {sub} holds no picture ({', '.join(sorted(SUFFIXES))}); it holds "
                f"{', '.join(present[:5]) or 'nothing'}. Fill it or take it away."
            )
        paths += found
        labels += [label] * len(found)
    return ImageFiles(paths, size), torch.tensor(labels), tuple(c.name for c in classes)


def _opened(path: Path) -> Image:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise DataError(f"Reading pictures takes pillow ({error}): pip install pillow.") from error
    try:
        return Image.open(path)
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is named like a picture and is none that pillow can read.") from error


def _mode(picture: Image, path: Path) -> str:
    if picture.mode in GREY_MODES:
        return "L"
    if picture.mode in COLOUR_MODES:
        return "RGB"
    raise DataError(
        f"Expected a picture with 8 bits per channel, {path} has pillow's mode {picture.mode!r}. Store deeper "
        "pixels as an array in an .npz file."
    )


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
