"""``python -m benchmarks.mnist``: run, write the result, draw it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks import command


def main(arguments: Sequence[str]) -> None:
    command.main("mnist", "Ten engrams in the paper's network on MNIST.", arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
