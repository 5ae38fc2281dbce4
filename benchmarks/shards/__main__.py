"""``python -m benchmarks.shards``: run, write the result, draw it."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.shards import page

HERE = Path(__file__).parent


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shards", description="An 8B-shaped checkpoint rewritten within 4 GiB."
    )
    parser.add_argument("--config", type=Path, default=HERE / "config.json", help="what to run")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="where shards.json and its page go")
    parser.add_argument("--draw", action="store_true", help="only draw the shards.json that is there already")
    given = parser.parse_args(arguments)
    file = given.out / "shards.json"
    if given.draw:
        result = json.loads(file.read_text())
    else:
        from benchmarks.shards.study import run  # drawing needs no torch

        config = json.loads(given.config.read_text())
        command = shlex.join(["python", "-m", "benchmarks.shards", *arguments])
        result = {"command": command, **run(config, say=lambda line: print(line, flush=True))}
        given.out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=1) + "\n")
    for path in page.write(result, given.out):
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
