"""``lashley data check``: sets of texts as the model will meet them, before anything is computed."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from typing import TYPE_CHECKING

from lashley.cli.common import UsageError, add_json, add_verb, emit, table
from lashley.cli.models import is_checkpoint, load_model
from lashley.cli.texts import SET_HELP, add_text_options, load_tokenizer, text_options

if TYPE_CHECKING:
    from lashley.data.text import TextCheck
    from lashley.data.text.check import Shown

TEXT = """\
Show three rows of every set as the model will meet them, with the tokens that count marked (in colour on a terminal, in
[[ ]] elsewhere); who adds BOS and EOS; what is cut, what repeats, how much of one set is in another, exactly and by its
words. With a model also the rows per column of every layer's input. Sets that are the same are refused.
"""
EXAMPLE = """\
  lashley data check --forget forget.jsonl --retain hf:locuslab/TOFU:retain99 --model ./checkpoint
  lashley data check notes.txt full.json#0:20 --tokenizer ./checkpoint --rows-of all
"""
MARKS = ("[[", "]]")
COLOURS = ("\x1b[1;32m", "\x1b[0m")
_LONGEST = 400  # characters of a piece that are shown
_WIDTH = 116


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_verb(subparsers, "data", "look at sets of texts before they are used", text=TEXT, example=EXAMPLE)
    parser.add_argument("what", choices=("check",), help="the one thing to do so far")
    parser.add_argument("sets", nargs="*", metavar="SET", help=SET_HELP)
    parser.add_argument("--forget", metavar="SET", help="what is to be forgotten")
    parser.add_argument("--retain", metavar="SET", help="what is to be kept")
    parser.add_argument("--tokenizer", metavar="DIR", help="the folder of the tokenizer (default: that of the model)")
    parser.add_argument("--model", metavar="MODEL", help="a checkpoint folder or MODULE:FUNCTION, for rows per column")
    add_text_options(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    named = {"forget": args.forget, "retain": args.retain}
    sources = {**{name: source for name, source in named.items() if source}, **{name: name for name in args.sets}}
    if not sources:
        raise UsageError("name at least one set, or --forget and --retain.")
    if len(set(args.sets)) < len(args.sets):
        raise UsageError("a set is named twice.")
    folder = args.tokenizer or (args.model if args.model and is_checkpoint(args.model) else None)
    if folder is None:
        raise UsageError("name the folder of the tokenizer with --tokenizer, or a checkpoint folder with --model.")

    from lashley.data.text import check_texts, text_batches

    tokenizer = load_tokenizer(folder)
    sets = {name: text_batches(source, tokenizer, **text_options(args)) for name, source in sources.items()}
    check = check_texts(sets, load_model(args.model) if args.model else None)
    document = {"sources": sources, **check.to_dict()}
    emit(args, document, lambda: _text(check, sources))
    return 0


def _text(check: TextCheck, sources: dict[str, str]) -> str:
    marks = COLOURS if sys.stdout.isatty() and "NO_COLOR" not in os.environ else MARKS
    parts = []
    for name, report in check.reports.items():
        head = name if name == sources[name] else f"{name}: {sources[name]}"
        shown = [f"row {example.row}\n{_example(example, marks)}" for example in check.examples[name]]
        parts.append(f"{head}\n{textwrap.indent(str(report), '  ')}\n\n" + textwrap.indent("\n".join(shown), "  "))
    if check.overlaps:
        rows = [(o.first, o.second, o.exact, o.near) for o in check.overlaps]
        parts.append(table(("rows of", "also in", "the same", "same words"), rows))
    if check.widths:
        widths = [(w.dim, w.layers, w.example, w.rows, w.ratio) for w in check.widths]
        parts.append(table(("D", "layers", "such as", "rows", "rows / D"), widths))
    if check.remarks:
        parts.append("\n".join(f"look: {remark}" for remark in check.remarks))
    return "\n\n".join(parts)


def _example(shown: Shown, marks: tuple[str, str]) -> str:
    text = "".join(f"{marks[0]}{_short(t)}{marks[1]}" if counts else _short(t) for t, counts in shown.pieces)
    lines = [wrapped for line in text.split("\n") for wrapped in textwrap.wrap(line, _WIDTH) or [""]]
    return textwrap.indent("\n".join(lines), "  ", lambda line: True)


def _short(text: str) -> str:
    """A long text by its beginning and its end."""
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]} ... {len(text) - 2 * half} characters ... {text[-half:]}"
