"""``lashley report``: results as one page, or as tables for a paper."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lashley.cli.common import UsageError, add_json, add_verb, emit, require

TEXT = """\
Show what studies and lashley check measured. Their results are JSON files; this makes one self-contained page of one or
several of them, with tables that sort, figures, notes and what made the numbers, or the tables alone as Markdown or
LaTeX. The same files give the same page.
"""
EXAMPLE = """\
  lashley report results/closed_forms.json
  lashley report seed0.json seed1.json --side-by-side --out seeds.html
  lashley report results/closed_forms.json --markdown - --latex tables.tex
"""
NEEDED = {"matplotlib": "matplotlib", "jinja2": "jinja2"}
PAGE = "report.html"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_verb(subparsers, "report", "results as a page, or as tables for a paper", text=TEXT, example=EXAMPLE)
    parser.add_argument("results", metavar="RESULT.json", nargs="+", help="what a study or lashley check wrote")
    parser.add_argument(
        "--out",
        metavar="FILE.html",
        help=f"the page, or the folder that it goes to as {PAGE} (default: {PAGE}, unless only tables are asked for)",
    )
    parser.add_argument("--markdown", metavar="FILE", help="the tables as Markdown; - is stdout")
    parser.add_argument("--latex", metavar="FILE", help="the tables as LaTeX (booktabs); - is stdout")
    parser.add_argument(
        "--side-by-side", action="store_true", help="first the tables that all results have, a line per result"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    require(NEEDED, "a report")
    from lashley import atomic
    from lashley.report import latex, markdown, results
    from lashley.result import Result

    texts = {"markdown": markdown.document, "latex": latex.document}
    wanted = {form: getattr(args, form) for form in texts if getattr(args, form) is not None}
    printed = [form for form, place in wanted.items() if place == "-"]
    if len(printed) + args.json > 1:
        raise UsageError("expected one document on stdout: of --markdown -, --latex - and --json one.")
    if len(set(args.results)) < len(args.results):
        raise UsageError("expected every result once, got one of them twice.")
    if args.out or not wanted:
        wanted["page"] = args.out or PAGE
    targets = {form: _target(form, place) for form, place in wanted.items() if place != "-"}
    for target in targets.values():
        results.check_target(target)  # refused before anything is drawn or written
    if len(set(targets.values())) < len(targets):
        raise UsageError(f"expected a file for each document, got {next(iter(targets.values()))} twice.")

    loaded = {name: Result.load(name) for name in args.results}
    made = {
        form: make(loaded, side_by_side=args.side_by_side)
        for form, make in {**texts, "page": results.page}.items()
        if form in wanted
    }
    for form, target in targets.items():
        atomic.write(target, made[form])
    if printed:
        sys.stdout.write(made[printed[0]])
        return 0
    document = {"results": args.results, **{form: str(target.resolve()) for form, target in targets.items()}}
    emit(args, document, lambda: "\n".join(str(target.resolve()) for target in targets.values()))
    return 0


def _target(form: str, place: str) -> Path:
    path = Path(place)
    page = form == "page"
    if page and path.is_file() and path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"expected --out to be FILE.html or a folder, got {place}, which is another file.")
    folder = page and (path.is_dir() or path.suffix.lower() not in (".html", ".htm"))
    return path / PAGE if folder else path
