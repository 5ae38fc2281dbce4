"""``python -m benchmarks.peer``: run, write the result, draw it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks import command


def main(arguments: Sequence[str]) -> None:
    command.main("peer", "lashley beside ai-engram, the package of the method's authors.", arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
