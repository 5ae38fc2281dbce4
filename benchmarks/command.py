"""The command line of a benchmark: run, write the result, draw it."""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lashley.result import KIND, Result

__all__ = ["main"]


def main(name: str, description: str, arguments: Sequence[str]) -> None:
    """``python -m benchmarks.<name>``: ``study.run`` makes a result of ``config.json``, and its page is drawn.

    A `lashley.result.Result` has the page of all results. Another mapping is drawn by ``page.write`` of the benchmark.
    """
    package, here = f"benchmarks.{name}", Path(__file__).parent / name
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=description)
    parser.add_argument("--config", type=Path, default=here / "config.json", help="what to run")
    parser.add_argument("--out", type=Path, default=here / "results", help=f"where {name}.json and its page go")
    parser.add_argument("--draw", action="store_true", help=f"only draw the {name}.json that is there already")
    given = parser.parse_args(arguments)
    file = given.out / f"{name}.json"
    if not given.draw:
        study = importlib.import_module(f"{package}.study")  # drawing needs no torch
        config = json.loads(given.config.read_text())
        result = study.run(config, say=lambda line: print(line, flush=True))
        if isinstance(result, Result):
            result.save(file)
        else:
            given.out.mkdir(parents=True, exist_ok=True)
            command = shlex.join(["python", "-m", package, *arguments])
            file.write_text(json.dumps({"command": command, **result}, indent=1) + "\n")
    for path in _draw(package, file):
        print(path)


def _draw(package: str, file: Path) -> list[Path]:
    content = json.loads(file.read_text())
    if content.get("kind") == KIND:
        from lashley.report import markdown

        return markdown.write(file)
    write: Callable[[Mapping[str, Any], Path], list[Path]] = importlib.import_module(f"{package}.page").write
    return write(content, file.parent)
