"""From the name of a set to its rows: one way of naming, used everywhere."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lashley.data.text.files import read_file
from lashley.data.text.hub import PREFIX, read_hub
from lashley.data.text.rows import check_iterable
from lashley.errors import DataError

__all__ = ["load_texts"]

_RANGES = re.compile(r"#(\d*:\d*(?:,\d*:\d*)*)$")


def load_texts(source: str | os.PathLike[str] | Iterable[Any]) -> list[Any]:
    """The rows of a set.

    ============================================  ======================================================================
    ``source``                                    what it is
    ============================================  ======================================================================
    ``FILE``                                      ``.jsonl .json .csv .parquet .txt`` (`lashley.data.text.files`)
    ``hf:OWNER/NAME[:CONFIG][@REV][#SPLIT]``      a data set of the Hugging Face Hub (`lashley.data.text.hub`)
    any other iterable                            its items, read once
    ============================================  ======================================================================

    A name may end in ``#A:B`` for the rows from A up to and without B, or in several such ranges:
    ``full.json#100:120``, ``full.json#0:20,40:60``, ``hf:locuslab/TOFU:full#train#:100``. Rows count from 0; an open
    end is the end of the set.

    Raises:
        DataError: no such set, one that cannot be read, or a range that it does not have.
    """
    if not isinstance(source, (str, os.PathLike)):
        check_iterable(source)
        return list(source)
    name = os.fspath(source)
    ranges = _RANGES.search(name)
    bare = name[: ranges.start()] if ranges else name
    rows = read_hub(bare) if bare.startswith(PREFIX) else read_file(Path(bare))
    if not rows:
        raise DataError(f"Expected rows in {bare}, got none.")
    return _chosen(rows, ranges[1], name) if ranges else rows


def _chosen(rows: list[Any], ranges: str, name: str) -> list[Any]:
    chosen = []
    for part in ranges.split(","):
        first, _, last = part.partition(":")
        start, stop = int(first or 0), int(last or len(rows))
        if not start < stop <= len(rows):
            raise DataError(f"{name} asks for rows {part}, expected a range within 0:{len(rows)} that is not empty.")
        chosen += rows[start:stop]
    return chosen
