"""``python -m benchmarks.forget_tofu_mini``: run, write the result, draw it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks import command


def main(arguments: Sequence[str]) -> None:
    command.main("forget_tofu_mini", "Authors forgotten by a small language model.", arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
