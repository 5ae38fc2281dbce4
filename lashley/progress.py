"""Progress on long work: a bar on a terminal, a plain line now and then in a pipe, nothing unless asked elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

__all__ = ["track"]

T = TypeVar("T")
_EVERY = 5.0  # seconds between plain lines


def track(items: Iterable[T], total: int | None, what: str, unit: str, show: bool | None) -> Iterator[T]:
    """Yield ``items``, reporting rate and time left on stderr.

    Args:
        show: True and False force it; None shows a bar when stderr is a terminal and is silent otherwise.
    """
    terminal = sys.stderr.isatty()
    if show is None:
        show = terminal
    if not show:
        yield from items
    elif terminal:
        yield from tqdm(items, total=total, desc=what, unit=f" {unit}", dynamic_ncols=True, leave=False)
    else:
        yield from _lines(items, total, what, unit)


def _lines(items: Iterable[T], total: int | None, what: str, unit: str) -> Iterator[T]:
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= _EVERY:
            last = now
            rate = done / (now - start)
            left = f", {(total - done) / rate:.0f} s left" if total else ""
            print(f"{what}: {done}{f'/{total}' if total else ''} {unit}, {rate:.1f} {unit}/s{left}", file=sys.stderr)
    print(f"{what}: {done} {unit} in {time.monotonic() - start:.1f} s", file=sys.stderr)
