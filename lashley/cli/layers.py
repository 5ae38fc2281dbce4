"""``lashley layers``: what would be recorded, what is skipped and why."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from lashley.cli.common import add_json, add_verb, emit, human_bytes, table
from lashley.cli.models import MODEL_HELP, add_selection, load_model, selection

if TYPE_CHECKING:
    from lashley.select import Entry

TEXT = """\
List what a recording of MODEL would hold: for every layer its matrices, their outputs x columns (O x D), and the bytes
that the moment of one concept takes; and every module with parameters that is left out, with the reason.
"""
EXAMPLE = """\
  lashley layers mynet:build
  lashley layers ./llama-checkpoint --target-modules down_proj --json
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_verb(subparsers, "layers", "list what would be recorded, and what not", text=TEXT, example=EXAMPLE)
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    add_selection(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from lashley.select import survey

    entries = survey(load_model(args.model), **selection(args))
    total = sum(entry.bytes for entry in entries)
    document = {"model": args.model, "layers": [asdict(entry) for entry in entries], "bytes": total}
    emit(args, document, lambda: _text(entries, total))
    return 0


def _text(entries: list[Entry], total: int) -> str:
    recorded = [e for e in entries if e.status == "record"]
    skipped = [e for e in entries if e.status != "record"]
    rows = [
        (e.name, e.type, e.matrices, f"{e.out} x {e.dim}", e.bias, human_bytes(e.bytes), ", ".join(e.tied))
        for e in recorded
    ]
    parts = [table(("recorded", "type", "matrices", "O x D", "bias", "moment", "tied to"), rows)]
    if skipped:
        parts.append(table(("skipped", "type", "reason", "tied to"), [_skipped(e) for e in skipped]))
    parts.append(
        f"{len(recorded)} recorded, {len(skipped)} skipped. A concept takes at most "
        f"{human_bytes(total)}: layers that read the same tensor share a moment, and few rows are kept as rows."
    )
    return "\n\n".join(parts)


def _skipped(entry: Entry) -> tuple[str, ...]:
    return entry.name, entry.type, entry.reason, ", ".join(entry.tied)
