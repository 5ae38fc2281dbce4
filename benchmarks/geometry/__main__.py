"""``python -m benchmarks.geometry``: run, write the result, draw it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks import command


def main(arguments: Sequence[str]) -> None:
    command.main("geometry", "Spectra, overlaps, complement and natural-gradient steps of engrams.", arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
