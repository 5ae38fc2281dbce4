"""``lashley engram``: what concepts are responsible for in a model's weights."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from lashley.cli.common import UsageError, add_json, add_verb, emit, positive, table
from lashley.cli.models import MODEL_HELP, add_weights, load_model, load_side, moved

if TYPE_CHECKING:
    from lashley.engram import Delta, Engram
    from lashley.estimators import Estimator
    from lashley.spectrum import Cut

TEXT = """\
Solve the engram of one or more recorded concepts in the weights of a model. The default is the formula of the paper,
W S_c S^+; a sharpness of 2 spares most of what the concept shares with others.

Several --concepts are pooled into one concept; --weighted-sum adds their separate engrams with weights. The two agree
for the paper's formula only.
"""
EXAMPLE = """\
  lashley engram digits.rec --model mynet:build --concepts 3 --out three.engram
  lashley engram digits.rec --model mynet:build --weighted-sum 3=1.0 8=-0.5 --sharpness 2 --out contrast.engram
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
        "--weighted-sum", nargs="+", type=_weighted, metavar="NAME=WEIGHT", help="the sum of separate engrams"
    )
    parser.add_argument("--reference", nargs="+", metavar="NAME", help="concepts whose rows make S (default: all rows)")
    parser.add_argument(
        "--base",
        metavar="MODEL",
        help="a model, checkpoint folder or file of weights W0: the engram of W - W0 instead of W",
    )
    parser.add_argument("--no-bias", action="store_true", help="leave biases out (default: absorbed)")
    parser.add_argument("--no-check", action="store_true", help="accept weights that are not the recorded ones")
    parser.add_argument("--device", metavar="DEVICE", help="where to solve, such as cuda (default: where the model is)")
    parser.add_argument("--out", metavar="ENGRAM", help="the folder to write; complete or absent")
    parser.add_argument("--sensitivity", action="store_true", help="show how the engram depends on the spectral cut")
    estimator = parser.add_argument_group("estimator")
    estimator.add_argument(
        "--estimator",
        choices=("projection", "ridge"),
        default="projection",
        help="the closed form (default: projection)",
    )
    estimator.add_argument("--sharpness", type=float, metavar="P", help="projection: at least 1 (default: 1)")
    estimator.add_argument(
        "--threshold",
        type=float,
        metavar="T",
        help="projection: the share that counts half (default: 0.5)",
    )
    estimator.add_argument("--lam", type=float, metavar="LAMBDA", help="ridge: the damping, in the units of S")
    cuts = parser.add_argument_group("spectral cut of the projection (default: --rtol of D * 2^-23)")
    cut = cuts.add_mutually_exclusive_group()
    cut.add_argument("--rtol", type=float, metavar="X", help="keep eigenvalues above X times the largest")
    cut.add_argument("--rank", type=positive, metavar="K", help="keep the K largest")
    cut.add_argument("--energy", type=float, metavar="X", help="keep the fewest that hold this share of the trace")
    cut.add_argument("--condition", type=float, metavar="X", help="keep eigenvalues above the largest / X")
    cut.add_argument("--preset", choices=("paper", "notebook"), help="1e-6, or D * 2^-52")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    import lashley
    from lashley.store import check_target

    if not (args.out or args.sensitivity):
        raise UsageError("expected --out ENGRAM to write the engram, or --sensitivity to see the cuts; got neither.")
    estimator = _estimator(args)
    if args.out:
        check_target(args.out)  # before the work rather than after it
    recording = lashley.Recording.load(args.recording)
    model = load_model(args.model, args.weights)
    if args.device:
        model = moved(model, args.device)
    concepts = args.concepts if args.weighted_sum is None else _mapping(args.weighted_sum)
    options: dict[str, Any] = {
        "reference": args.reference,
        "base": load_side(args.base) if args.base else None,
        "bias": not args.no_bias,
        "check": not args.no_check,
        "estimator": estimator,
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


def _estimator(args: argparse.Namespace) -> Estimator:
    import lashley

    projection = {"--sharpness": args.sharpness, "--threshold": args.threshold}
    cut = {"--rtol": args.rtol, "--rank": args.rank, "--energy": args.energy, "--condition": args.condition}
    if args.estimator == "ridge":
        given = [name for name, value in {**projection, **cut, "--preset": args.preset}.items() if value is not None]
        if given or args.sensitivity:
            raise UsageError(f"{(given or ['--sensitivity'])[0]} is for the projection; a ridge has --lam and no cut.")
        if args.lam is None:
            raise UsageError("expected --lam with --estimator ridge.")
        return lashley.Ridge(args.lam)
    if args.lam is not None:
        raise UsageError("--lam is for --estimator ridge.")
    settings = {name.removeprefix("--"): value for name, value in projection.items() if value is not None}
    return lashley.Projection(**settings, cut=_cut(args.preset, {k.removeprefix("--"): v for k, v in cut.items()}))


def _cut(preset: str | None, values: dict[str, Any]) -> Cut:
    import lashley

    if preset is not None:
        return lashley.Cut.paper() if preset == "paper" else lashley.Cut.notebook()
    return lashley.Cut(**values)


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
    rows = [
        (
            delta.layer.name,
            f"{norm:.4f}",
            _span([s.rank for s in delta.solutions]),
            _span([s.dim for s in delta.solutions]),
            _span([s.condition for s in delta.solutions]),
            _span([s.eigengap for s in delta.solutions]),
            _span([s.solver for s in delta.solutions]),
        )
        for delta, norm in _with_norms(engram)
    ]
    head = ("layer", "||E||/||W||", "kept rank", "of", "condition", "eigengap", "solver")
    concepts = ", ".join(f"{name} x {weight:g}" if weight != 1 else name for name, weight in engram.concepts.items())
    return f"engram of {concepts}\n{_spoken(estimator)}\n\n{table(head, rows)}\n\nwritten to {out}"


def _spoken(estimator: Estimator) -> str:
    """The estimator with its cut: a norm without its cut means nothing."""
    values = {key: value for key, value in estimator.to_json().items() if key not in ("name", "cut")}
    settings = ", ".join(f"{key} {value:g}" for key, value in values.items())
    cut = getattr(estimator, "cut", None)
    return f"{type(estimator).__name__.lower()}: {settings}" + (f", cut {cut}" if cut is not None else ", no cut")


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


def _weighted(text: str) -> tuple[str, float]:
    name, _, weight = text.rpartition("=")  # without a sign the name is empty
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not name or not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected NAME=WEIGHT, such as cat=1.0, got {text}")
    return name, value


def _mapping(pairs: list[tuple[str, float]]) -> dict[str, float]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise UsageError(f"expected each concept once in --weighted-sum, got {' '.join(names)}.")
    return dict(pairs)
