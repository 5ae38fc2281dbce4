"""``python -m benchmarks.planted``: run, write the result and its page. A run that was stopped goes on."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
WORK = HERE.parents[1] / "runs" / "planted"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planted", description=__doc__)
    parser.add_argument("--config", type=Path, default=HERE / "config.json", help="what to run")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="where planted.json and its page go")
    parser.add_argument("--work", type=Path, default=WORK, help="where finished pieces are kept until the run ends")
    parser.add_argument("--draw", action="store_true", help="only draw the planted.json that is there already")
    given = parser.parse_args(arguments)
    from lashley.report import markdown

    file = given.out / "planted.json"
    if not given.draw:
        from lashley.studies import planted  # drawing needs no torch

        config = json.loads(given.config.read_text())
        planted.run(config, given.work, file, lambda line: print(line, flush=True))
    for path in [file, *markdown.write(file)]:
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
