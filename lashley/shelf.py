"""What a recording keeps of its concepts, as tensors in files, and a site's share of it read when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lashley.moments import Moment
from lashley.products import Product
from lashley.store import Files

__all__ = ["ALL", "Kept", "Shelf", "compact", "entry", "packed", "rows_in"]

Kept = Moment | Product
ALL = "all"  # the key of all rows; concepts have numbers

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def compact(kept: Sequence[Kept]) -> list[Any]:
    """What is kept of a concept that is over, in the room that it needs."""
    return [part.compact() if isinstance(part, Moment) else part for part in kept]


def packed(site: int, key: str, kept: Sequence[Kept]) -> dict[str, Tensor]:
    """What is kept of one concept at one site, one part per matrix, as tensors whose names say all that."""
    return {f"{site}.{key}.{m}.{name}": t for m, part in enumerate(kept) for name, t in part.pack().items()}


def entry(file: str, kept: Sequence[Kept]) -> dict[str, Any]:
    """What a manifest says of them: their file, and count and dtype of the products of each."""
    return {"file": file, "parts": [[part.count, str(part.product).removeprefix("torch.")] for part in kept]}


class Shelf(Mapping[str, list[Any]]):
    """What is kept at one site, ``{concept: one part per matrix}``, read from files at every request.

    Args:
        files: the folder's.
        site: its number.
        entries: ``{concept: (key, entry)}``, as `packed` and `entry` made them.
    """

    def __init__(self, files: Files, site: int, entries: Mapping[str, tuple[str, Mapping[str, Any]]]) -> None:
        self._files = files
        self._site = site
        self._entries = dict(entries)

    def __getitem__(self, concept: str) -> list[Any]:
        return self._read(concept, copy=False)

    def copied(self, concept: str) -> list[Any]:
        """The same in memory of its own: what is read at a request lies in the file for as long as it is held."""
        return self._read(concept, copy=True)

    def _read(self, concept: str, copy: bool) -> list[Any]:
        key, facts = self._entries[concept]
        tensors = self._files.tensors(facts["file"], f"{self._site}.{key}.")
        kept: list[Any] = []
        for number, (count, product) in enumerate(facts["parts"]):
            prefix = f"{self._site}.{key}.{number}."
            parts = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            parts = {name: t.clone() for name, t in parts.items()} if copy else parts
            kind = Product if "matrix" in parts else Moment
            kept.append(kind.unpack(parts, count, _DTYPES[product]))
        return kept

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def is_in(self, folder: Path) -> bool:
        """Whether it reads from this folder."""
        return self._files.folder.resolve() == folder.resolve()

    def check(self) -> None:
        """Compare all of its files with their checksums."""
        for file in {facts["file"] for _, facts in self._entries.values()}:
            self._files.check(file)

    def rows(self, concept: str) -> int:
        """How many rows a concept has, without a look at the file."""
        return int(self._entries[concept][1]["parts"][0][0])


def rows_in(held: Mapping[str, list[Any]], concept: str) -> int:
    """How many rows a concept has at a site."""
    return held.rows(concept) if isinstance(held, Shelf) else held[concept][0].count
