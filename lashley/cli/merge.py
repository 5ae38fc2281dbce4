"""``lashley merge``: recordings of parts of the data into one."""

from __future__ import annotations

import argparse

from lashley.cli.common import add_json, add_verb, emit, table

TEXT = """\
Add recordings of one model, made of different parts of the data, into one. The result is what a single run over all the
data would have given. Recordings of other layers or weights are refused, and so is a part that is there twice.
"""
EXAMPLE = """\
  lashley merge part1.rec part2.rec part3.rec --out all.rec
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_verb(subparsers, "merge", "add recordings of parts of the data", text=TEXT, example=EXAMPLE)
    parser.add_argument("recordings", nargs="+", metavar="REC", help="folders that lashley record wrote")
    parser.add_argument("--out", required=True, metavar="REC", help="the folder to write; complete or absent")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    import lashley

    merged = lashley.merge(*(lashley.Recording.load(path) for path in args.recordings))
    merged.save(args.out)
    document = {
        "out": args.out,
        "merged": args.recordings,
        "concepts": list(merged.concepts),
        "sites": [{"name": s.name, "dim": s.dim, "rows": s.rows, "layers": s.layers} for s in merged.sites],
    }
    rows = [(site.name, site.dim, site.rows, ", ".join(site.layers)) for site in merged.sites]
    emit(
        args,
        document,
        lambda: (
            f"{table(('site', 'D', 'rows', 'layers'), rows)}\n\n"
            f"{len(args.recordings)} recordings, {len(merged.concepts)} concepts ({', '.join(merged.concepts)}) "
            f"in {args.out}"
        ),
    )
    return 0
