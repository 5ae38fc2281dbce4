"""``lashley geometry``: what each concept owns in each layer, as a result for ``lashley report``."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lashley.cli.common import UsageError, add_json, add_verb, emit, table
from lashley.cli.estimators import add_cut, cut_of
from lashley.cli.labelled import add_data, for_model, labelled, running_on
from lashley.cli.models import MODEL_HELP, add_weights, load_model, moved, patterns
from lashley.errors import StoreError

if TYPE_CHECKING:
    from lashley.data import LabelledBatches
    from lashley.result import Result

TEXT = """\
Read the geometry of a recording: which part of each direction of a layer's input a concept owns (the spectrum of its
operator), how far the operators are from projectors, how much concepts and their engrams overlap, what the complement
of all of them is, and who makes a concept's outputs. It is written as a result, of which lashley report makes a page.

With --data, the data that were recorded, the engrams are also compared with natural-gradient steps whose gradients are
computed on the network itself. Give what was given to lashley record.
"""
EXAMPLE = """\
  lashley geometry digits.rec --model mynet:build --out geometry.json
  lashley geometry digits.rec --model mynet:build --data sklearn:digits --flatten --out geometry.json
  lashley report geometry.json --out geometry.html
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_verb(subparsers, "geometry", "show what concepts own and share", text=TEXT, example=EXAMPLE)
    parser.add_argument("recording", metavar="REC", help="a folder that lashley record or merge wrote")
    parser.add_argument("--model", required=True, metavar="MODEL", help=MODEL_HELP)
    add_weights(parser)
    parser.add_argument("--out", required=True, metavar="RESULT.json", help="the result to write")
    parser.add_argument("--concepts", nargs="+", metavar="NAME", help="only these concepts (default: all)")
    parser.add_argument(
        "--beside", nargs="+", default=[], metavar="NAME", help="concepts that are the rest: no means are over them"
    )
    parser.add_argument(
        "--reference",
        nargs="+",
        metavar="NAME",
        help="concepts whose rows make S, and which alone are read (default: all rows)",
    )
    parser.add_argument(
        "--layers",
        nargs="+",
        metavar="PATTERN",
        help="only these of the recorded layers: names that equal a pattern or end in .PATTERN, or one regular "
        "expression (default: all)",
    )
    parser.add_argument("--no-bias", action="store_true", help="leave biases out (default: absorbed)")
    parser.add_argument(
        "--threshold", type=_inside, default=0.5, metavar="T",
        help="the share above which a direction counts as owned (default: 0.5)",
    )  # fmt: skip
    add_cut(parser)
    group = add_data(parser, required=False)
    group.add_argument("--checked", nargs="+", metavar="NAME", help="concepts to compare (default: the first three)")
    parser.add_argument("--device", metavar="DEVICE", help="where to run, such as cuda (default: where the model is)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    import lashley
    from lashley.studies import geometry

    if args.checked and not args.data:
        raise UsageError("expected --data beside --checked: the steps are computed on the data.")
    if Path(args.out).suffix.lower() in (".html", ".htm"):
        raise UsageError(f"expected --out RESULT.json, got {args.out}. lashley report makes the page of it.")
    _check_target(Path(args.out))  # before the work rather than after it
    recording = lashley.Recording.load(args.recording)
    model = load_model(args.model, args.weights)
    if args.device:
        model = moved(model, args.device)
    options: dict[str, Any] = {
        "layers": patterns(args.layers),
        "reference": args.reference,
        "bias": not args.no_bias,
        "cut": cut_of(args),
        "threshold": args.threshold,
        "beside": args.beside,
        "settings": {"recording": args.recording, "model": args.model},
    }
    data: LabelledBatches | None = None
    if args.data:
        data = for_model(labelled(args, args.data, list(recording.concepts)), model)
        options["checked"] = args.checked
        if data.overlapping:
            options |= {"data": data, "concept_of": lambda batch: batch[1]}
        else:
            options["data"] = data.by_concept()
    with nullcontext() if data is None else running_on(data):
        result = geometry.run(recording, model, args.concepts, **options)
    path = result.save(args.out)
    document = {"out": str(path), "layers": [dict(row) for row in result.tables[0].rows]}
    emit(args, document, lambda: _text(result, str(path)))
    return 0


def _check_target(path: Path) -> None:
    """Nothing is there, or a result."""
    from lashley.result import Result

    if path.is_dir():
        raise StoreError(f"Expected {path} to be a file or absent, got a folder. Name a file in it.")
    if path.exists():
        try:
            Result.load(path)
        except StoreError as error:
            raise StoreError(
                f"Expected {path} to be absent or a result, got another file, which is left alone. Choose another "
                "name, or move it away."
            ) from error


def _text(result: Result, path: str) -> str:
    """The first table in short, and what came out."""
    keys = ("layer", "kept", "median", "largest", "own", "non_idempotence", "sparing")
    heads = {column.key: column.title for column in result.tables[0].columns}
    rows = [[_value(row[key]) for key in keys] for row in result.tables[0].rows]
    return f"{table([heads[key] for key in keys], rows)}\n\n{result.summary}\n\nwritten to {path}"


def _value(cell: Any) -> Any:
    return cell["value"] if isinstance(cell, dict) else cell


def _inside(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number inside (0, 1), got {text}")
    return value
