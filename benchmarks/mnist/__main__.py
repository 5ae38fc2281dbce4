"""``python -m benchmarks.mnist``: run, write the result, draw it."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.mnist import page

HERE = Path(__file__).parent


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mnist", description="Ten engrams in the paper's network on MNIST."
    )
    parser.add_argument("--config", type=Path, default=HERE / "config.json", help="what to run")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="where mnist.json and its page go")
    parser.add_argument("--draw", action="store_true", help="only draw the mnist.json that is there already")
    given = parser.parse_args(arguments)
    file = given.out / "mnist.json"
    if given.draw:
        result = json.loads(file.read_text())
    else:
        from benchmarks.mnist.study import run  # drawing needs no torch

        config = json.loads(given.config.read_text())
        command = shlex.join(["python", "-m", "benchmarks.mnist", *arguments])
        result = {"command": command, **run(config, say=lambda line: print(line, flush=True))}
        given.out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=1) + "\n")
    for path in page.write(result, given.out):
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
