"""``lashley demo``: ten memories found, taken out and put back, on real handwritten digits, as one page."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lashley.cli.common import add_json, add_verb, emit, require, table, tell

TEXT = """\
Train two small networks on scikit-learn's handwritten digits, find the engram of every digit in one recording each,
take each out and put it back, and write a page that shows what happened: index.html (one self-contained file), the
figures as PNG, and result.json with every number and what made it. Takes about half a minute, writes nothing outside
the folder and loads nothing from anywhere.
"""
EXAMPLE = """\
  lashley demo
  lashley demo --out demo-out --seed 1 --json
"""
NEEDED = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "jinja2": "jinja2"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_verb(subparsers, "demo", "ten memories in a small network, as a page", text=TEXT, example=EXAMPLE)
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("lashley-demo"), help="folder to write (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of split, weights and batches (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="shorter training, fewer strengths, no retrained networks")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    require(NEEDED, "the demo")
    from lashley.report import digits as report
    from lashley.store import check_target, writing
    from lashley.studies import digits as study

    check_target(args.out)  # refused before the work, not after
    result = study.run(args.seed, args.quick, tell)
    with writing(args.out) as folder:
        text = json.dumps(result, allow_nan=False)
        (folder.folder / "result.json").write_text(text + "\n", encoding="utf-8")
        report.write(result, folder.folder)
        folder.manifest("demo", 1, {"made_by": result["provenance"]})
    page = args.out.resolve() / "index.html"
    document = {"page": str(page), "seconds": result["seconds"], "networks": [_row(n) for n in result["networks"]]}
    emit(args, document, lambda: _text(document))
    return 0


def _row(network: Mapping[str, Any]) -> dict[str, Any]:
    per_digit, summary = network["accuracy"]["per_digit"], network["edits"]["paper"]["summary"]
    return {
        "network": network["name"],
        "accuracy": round(sum(per_digit) / len(per_digit), 6),
        "ablated": summary["target_mean"],
        "others_fall": summary["others_fall"],
        "put_back": network["restored"]["identical"],
    }


def _text(document: Mapping[str, Any]) -> str:
    rows = [
        (row["network"], *(f"{row[key]:.1%}" for key in ("accuracy", "ablated", "others_fall")), row["put_back"])
        for row in document["networks"]
    ]
    head = ("network", "read correctly", "ablated digit", "others fall by", "same bytes after")
    return f"{table(head, rows)}\n\n{document['seconds']:.0f} s. The page: {document['page']}"
