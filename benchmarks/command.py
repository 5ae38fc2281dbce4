"""The command line of a benchmark: run, write the result, draw it."""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]


def main(name: str, description: str, arguments: Sequence[str]) -> None:
    """``python -m benchmarks.<name>``: ``study.run`` makes a result of ``config.json``, ``page.write`` draws it."""
    package, here = f"benchmarks.{name}", Path(__file__).parent / name
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=description)
    parser.add_argument("--config", type=Path, default=here / "config.json", help="what to run")
    parser.add_argument("--out", type=Path, default=here / "results", help=f"where {name}.json and its page go")
    parser.add_argument("--draw", action="store_true", help=f"only draw the {name}.json that is there already")
    given = parser.parse_args(arguments)
    file = given.out / f"{name}.json"
    if given.draw:
        result = json.loads(file.read_text())
    else:
        study = importlib.import_module(f"{package}.study")  # drawing needs no torch
        config = json.loads(given.config.read_text())
        command = shlex.join(["python", "-m", package, *arguments])
        result = {"command": command, **study.run(config, say=lambda line: print(line, flush=True))}
        given.out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=1) + "\n")
    for path in importlib.import_module(f"{package}.page").write(result, given.out):
        print(path)
