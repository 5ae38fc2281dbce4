"""``lashley engram``: what concepts are responsible for in a model's weights."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lashley.cli.common import UsageError, add_json, add_verb, emit, table
from lashley.cli.estimators import add_estimators, chosen, pairs, spoken, weighted
from lashley.cli.models import MODEL_HELP, add_weights, load_model, load_side, moved, patterns

if TYPE_CHECKING:
    from lashley.engram import Delta, Engram
    from lashley.estimators import Estimator

TEXT = """\
Solve the engram of one or more recorded concepts in the weights of a model. The default is the formula of the paper,
W S_c S^+; a sharpness of 2 spares most of what the concept shares with others. Other closed forms are chosen with
--estimator; the README and the docstrings say what each of them promises.

Several --concepts are pooled into one concept; --weighted-sum adds their separate engrams with weights. The two agree
for the paper's formula only.
"""
EXAMPLE = """\
  lashley engram digits.rec --model mynet:build --concepts 3 --out three.engram
  lashley engram digits.rec --model mynet:build --weighted-sum 3=1.0 8=-0.5 --sharpness 2 --out contrast.engram
  lashley engram digits.rec --model mynet:build --concepts 3 --estimator mixture-shift --layers head --out moved.engram
  lashley engram digits.rec --model mynet:build --concepts 3 --sensitivity
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_verb(subparsers, "engram", "solve the engram of recorded concepts", text=TEXT, example=EXAMPLE)
    parser.add_argument("recording", metavar="REC", help="a folder that lashley record or merge wrote")
    parser.add_argument("--model", required=True, metavar="MODEL", help=MODEL_HELP)
    add_weights(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--concepts", nargs="+", metavar="NAME", help="one concept, or several pooled into one")
    what.add_argument(
        "--weighted-sum", nargs="+", type=weighted, metavar="NAME=WEIGHT", help="the sum of separate engrams"
    )
    parser.add_argument("--reference", nargs="+", metavar="NAME", help="concepts whose rows make S (default: all rows)")
    parser.add_argument(
        "--base",
        metavar="MODEL",
        help="a model, checkpoint folder or file of weights W0: the engram of W - W0 instead of W",
    )
    parser.add_argument(
        "--layers",
        nargs="+",
        metavar="PATTERN",
        help="solve for these of the recorded layers only: names that equal a pattern or end in .PATTERN, or one "
        "regular expression (default: all)",
    )
    parser.add_argument("--no-bias", action="store_true", help="leave biases out (default: absorbed)")
    parser.add_argument("--no-check", action="store_true", help="accept weights that are not the recorded ones")
    parser.add_argument("--device", metavar="DEVICE", help="where to solve, such as cuda (default: where the model is)")
    parser.add_argument("--out", metavar="ENGRAM", help="the folder to write; complete or absent")
    parser.add_argument("--sensitivity", action="store_true", help="show how the engram depends on the spectral cut")
    add_estimators(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    import lashley
    from lashley.store import check_target

    if not (args.out or args.sensitivity):
        raise UsageError("expected --out ENGRAM to write the engram, or --sensitivity to see the cuts; got neither.")
    estimator = chosen(args)
    if args.out:
        check_target(args.out)  # before the work rather than after it
    recording = lashley.Recording.load(args.recording)
    model = load_model(args.model, args.weights)
    if args.device:
        model = moved(model, args.device)
    concepts = args.concepts if args.weighted_sum is None else pairs(args.weighted_sum, "--weighted-sum")
    options: dict[str, Any] = {
        "reference": args.reference,
        "base": load_side(args.base) if args.base else None,
        "bias": not args.no_bias,
        "check": not args.no_check,
        "estimator": estimator,
        "layers": patterns(args.layers),
    }
    document: dict[str, Any] = {"recording": args.recording, "model": args.model, "estimator": estimator.to_json()}
    texts = []
    if args.out:
        engram = recording.engram(model, concepts, **options)
        engram.save(args.out)
        document |= {
            "out": args.out,
            "concepts": engram.concepts,
            "layers": [_row(d, n) for d, n in _with_norms(engram)],
        }
        texts.append(_text(args.out, engram, estimator))
    if args.sensitivity:
        rows = recording.sensitivity(model, concepts, **options)
        document["sensitivity"] = rows
        texts.append(_sensitivity(rows))
    emit(args, document, lambda: "\n\n".join(texts))
    return 0


def _with_norms(engram: Engram) -> list[tuple[Delta, float]]:
    norms = engram.weight_norms()
    return [(delta, norms[name]) for name, delta in engram.items()]


def _row(delta: Delta, norm: float) -> dict[str, Any]:
    return {
        "layer": delta.layer.name,
        "norm": norm,
        "factors": None if delta.factors is None else delta.factors[0].shape[1],
        "solutions": [solution.to_json() for solution in delta.solutions],
    }


def _text(out: str, engram: Engram, estimator: Estimator) -> str:
    rows: list[tuple[object, ...]] = [
        (
            delta.layer.name,
            f"{norm:.4f}",
            _span([s.rank for s in delta.solutions]),
            _span([s.dim for s in delta.solutions]),
            _span([s.condition for s in delta.solutions]),
            _span([s.eigengap for s in delta.solutions]),
            _span([s.solver for s in delta.solutions]),
            _span([s.gate for s in delta.solutions]),
        )
        for delta, norm in _with_norms(engram)
    ]
    head: tuple[str, ...] = (
        "layer",
        "||E||/||W||",
        "kept rank",
        "of",
        "condition",
        "eigengap",
        "solver",
        "R^2 of the gate",
    )
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    concepts = ", ".join(f"{name} x {weight:g}" if weight != 1 else name for name, weight in engram.concepts.items())
    return f"engram of {concepts}\n{spoken(estimator)}\n\n{table(head, rows)}\n\nwritten to {out}"


def _sensitivity(rows: list[dict[str, Any]]) -> str:
    head = ("layer", "cut", "kept rank", "of", "||E||/||W||", "effective rank", "condition", "eigengap")
    cells = [
        (
            row["layer"],
            row["cut"],
            row["kept"],
            row["dim"],
            f"{row['norm']:.4f}",
            f"{row['rank']:.1f}",
            row["condition"],
            row["eigengap"],
        )
        for row in rows
    ]
    return f"how the engram depends on the cut\n\n{table(head, cells)}"


def _span(values: list[Any]) -> str | int | float | None:
    """One value for all matrices of a layer, else from the smallest to the largest."""
    known = sorted({value for value in values if value is not None})
    if len(known) < 2:
        return known[0] if known else None
    low, high = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in (known[0], known[-1]))
    return f"{low}..{high}"
