"""``python -m benchmarks.closed_forms``: run, write the result, draw it."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.closed_forms", description=__doc__)
    parser.add_argument("--config", type=Path, default=HERE / "config.json", help="what to run")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="where closed_forms.json goes")
    given = parser.parse_args(arguments)
    from lashley.studies.closed_forms.study import run  # --help needs no torch

    command = shlex.join(["python", "-m", "benchmarks.closed_forms", *arguments])
    result = run(json.loads(given.config.read_text()), say=lambda line: print(line, flush=True), command=command)
    print(result.save(given.out / "closed_forms.json"))


if __name__ == "__main__":
    main(sys.argv[1:])
