"""``python -m benchmarks.closed_forms``: run, write the result, draw it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks import command


def main(arguments: Sequence[str]) -> None:
    command.main("closed_forms", "Every closed form beside the retrained network.", arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
