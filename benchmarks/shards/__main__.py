"""``python -m benchmarks.shards``: run, write the result, draw it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks import command


def main(arguments: Sequence[str]) -> None:
    command.main("shards", "A checkpoint of 16 GB rewritten within 4 GiB.", arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
