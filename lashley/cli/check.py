"""``lashley check``: is an engram one? Four criteria, with controls."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lashley.cli.common import UsageError, add_json, add_verb, emit, positive
from lashley.cli.estimators import add_estimators, chosen
from lashley.cli.labelled import add_data, for_model, labelled, running_on
from lashley.cli.models import MODEL_HELP, add_weights, is_checkpoint, load_model, load_side, moved, patterns
from lashley.cli.texts import SET_HELP, add_text_options, load_tokenizer, text_options
from lashley.cli.weights import fill

if TYPE_CHECKING:
    from torch import nn

    from lashley.result import Result

TEXT = """\
Is what was found in the weights the memory of a concept? Take it out, and the ability should go (necessity), the others
should stay (specificity); put it alone into a network that knows nothing, and the ability should come (sufficiency)
with the responses that belong to it (reactivation). All four are measured, in every layer and at the output, beside
edits that
know nothing of the concept: an engram that does no better than they do is none.

REC holds the moments of the layers. The samples to measure on are labelled data as lashley record takes them, best such
as were not recorded, or sets of texts for a language model. Without any, what the moments alone tell is shown.
"""
EXAMPLE = """\
  lashley check digits.rec --model mynet:build --concepts 3 --data held-out.npz --flatten --out check.json
  lashley check digits.rec --model mynet:build --concepts 3 --data held-out.npz --train digits.npz --retrained no3.pt
  lashley check digits.rec --model mynet:build --engram three.engram --null random --data sklearn:digits --flatten
  lashley check authors.rec --model ./checkpoint --concepts forget --texts forget=f.jsonl retain=r.jsonl
  lashley check digits.rec --model mynet:build --concepts 3
"""
_CONTROLS = {
    "direction": "random direction",
    "rescaled": "random, rescaled",
    "subspace": "random subspace",
    "samples": "random samples",
    "another": "another concept",
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_verb(
        subparsers, "check", "measure whether an engram is one, with controls", text=TEXT, example=EXAMPLE
    )
    parser.add_argument("recording", metavar="REC", help="a folder that lashley record or merge wrote")
    parser.add_argument("--model", required=True, metavar="MODEL", help=MODEL_HELP)
    add_weights(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--concepts", nargs="+", metavar="NAME", help="the concept, or several pooled into one")
    what.add_argument("--engram", metavar="ENGRAM", help="a folder that lashley engram wrote")
    parser.add_argument("--out", metavar="FILE.json", help="the result, for lashley report; the page goes beside it")
    data = add_data(parser, required=False)
    data.add_argument("--texts", nargs="+", metavar="NAME=SOURCE", help=f"for a language model, a set each: {SET_HELP}")
    data.add_argument("--tokenizer", metavar="FOLDER", help="of the texts (default: of the checkpoint)")
    data.add_argument(
        "--train", metavar="SOURCE", help="data that readers of the features are fitted on (default: a half)"
    )
    data.add_argument(
        "--classes", nargs="+", metavar="NAME=NUMBER", help="which output of the network is whose, from 0"
    )
    how = parser.add_argument_group("what is compared")
    how.add_argument("--alpha", type=float, default=1.0, metavar="X", help="strength of the ablation (default: 1)")
    how.add_argument(
        "--doses", nargs="*", type=float, metavar="X", help="strengths of the dose-response, times --alpha"
    )
    how.add_argument(
        "--null",
        default="zero",
        metavar="NULL",
        help="the network that knows nothing: zero (edited weights 0; default), random (initialised anew), or a model "
        "or file of weights, such as the pretrained one",
    )
    how.add_argument(
        "--retrained", metavar="MODEL", help="a network trained without the concept, or a file of its weights"
    )
    how.add_argument("--controls", nargs="*", choices=tuple(_CONTROLS), help="which controls (default: all)")
    how.add_argument(
        "--other", metavar="NAME", help="whose engram is the control 'another' (default: the next concept)"
    )
    how.add_argument(
        "--layers",
        nargs="+",
        metavar="PATTERN",
        help="only these of the recorded layers: names that equal a pattern or end in .PATTERN, or one regular "
        "expression",
    )
    how.add_argument("--no-bias", action="store_true", help="leave biases out (default: absorbed)")
    how.add_argument(
        "--features", metavar="LAYER", help="the layer whose inputs are read (default: the last one called)"
    )
    how.add_argument("--resamples", type=positive, default=1000, metavar="N", help="of the intervals (default: 1000)")
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)")
    how.add_argument("--device", metavar="DEVICE", help="where to run, such as cuda (default: where the model is)")
    parser.add_argument("--no-progress", action="store_true", help="no bar on a terminal, no lines in a pipe")
    add_estimators(parser)
    add_text_options(parser)
    add_json(parser)
    parser.set_defaults(sensitivity=False)


def run(args: argparse.Namespace) -> int:
    import lashley
    from lashley.criteria import CONTROLS, DOSES

    if args.data and args.texts:
        raise UsageError("expected --data or --texts, got both.")
    if args.train and not args.data:
        raise UsageError("expected --data beside --train: there are no samples to ask the readers about.")
    if args.engram and (args.layers or args.no_bias):
        raise UsageError("expected --layers and --no-bias beside --concepts; an engram has its own.")
    estimator = chosen(args)
    if args.engram and estimator != lashley.Projection():
        raise UsageError("expected the options of an estimator beside --concepts; an engram has its own.")
    targets = [] if args.out is None else _targets(Path(args.out))
    recording = lashley.Recording.load(args.recording)
    model = load_model(args.model, args.weights)
    if args.device:
        model = moved(model, args.device)
    options: dict[str, Any] = {
        "alpha": args.alpha,
        "doses": DOSES if args.doses is None else tuple(args.doses),
        "null": args.null if args.null in ("zero", "random") else load_side(args.null),
        "retrained": None if args.retrained is None else _retrained(args),
        "controls": CONTROLS if args.controls is None else [_CONTROLS[name] for name in args.controls],
        "other": args.other,
        "classes": None if args.classes is None else _classes(args.classes),
        "features": args.features,
        "resamples": args.resamples,
        "seed": args.seed,
        "progress": not args.no_progress,
    }
    if args.engram:
        asked: Any = lashley.Engram.load(args.engram)
    else:
        asked = args.concepts
        options |= {"estimator": estimator, "bias": not args.no_bias, "layers": patterns(args.layers)}
    if args.data:
        data = for_model(labelled(args, args.data), model)
        if args.train:
            options["train"] = for_model(labelled(args, args.train), model).by_concept()
        with running_on(data):
            criteria = lashley.check(model, recording, asked, data.by_concept(), **options)
    else:
        criteria = lashley.check(model, recording, asked, _texts(args) if args.texts else None, **options)
    result = criteria.result(recording=args.recording, samples=args.data or args.texts)
    written = _write(result, targets)
    text = "\n".join([str(criteria), *(["", *(f"written to {path}" for path in written)] if written else [])])
    document = {"out": [str(path) for path in written], "result": json.loads(result.to_json())}
    emit(args, document, lambda: text)
    return 0


def _texts(args: argparse.Namespace) -> dict[str, Any]:
    import lashley

    folder = args.tokenizer or (args.model if is_checkpoint(args.model) else None)
    if folder is None:
        raise UsageError("expected --tokenizer FOLDER beside --texts where the model is no checkpoint folder.")
    tokenizer = load_tokenizer(folder)
    sets: dict[str, Any] = {}
    for pair in args.texts:
        name, equals, source = pair.partition("=")
        if not name or not equals or not source or name in sets:
            raise UsageError(f"expected NAME=SOURCE after --texts, each name once, got {pair!r}.")
        sets[name] = lashley.text_batches(source, tokenizer, batch_size=args.batch_size or 16, **text_options(args))
    return sets


def _retrained(args: argparse.Namespace) -> nn.Module:
    from torch import nn

    side = load_side(args.retrained)
    if not isinstance(side, nn.Module):
        network = load_model(args.model)
        fill(network, side, args.retrained)
        side = network
    return moved(side, args.device) if args.device else side


def _classes(given: list[str]) -> dict[str, int]:
    found = {}
    for pair in given:
        name, _, number = pair.rpartition("=")
        if not name or not number.isdecimal():
            raise UsageError(f"expected NAME=NUMBER after --classes, such as cat=3, got {pair!r}.")
        found[name] = int(number)
    return found


def _targets(out: Path) -> list[Path]:
    """The files that are written, refused before anything runs: the result and, where it can be drawn, its page."""
    from lashley.result import Result

    if out.suffix != ".json":
        raise UsageError(f"expected --out FILE.json, got {out}.")
    if out.exists():
        Result.load(out)  # a result is replaced, anything else is not
    if any(importlib.util.find_spec(name) is None for name in ("matplotlib", "jinja2")):
        return [out]
    from lashley.report.results import check_target

    return [out, check_target(out.with_suffix(".html"))]


def _write(result: Result, targets: list[Path]) -> list[Path]:
    for target in targets[:1]:
        result.save(target)
    for page in targets[1:]:
        from lashley import atomic
        from lashley.report import results

        atomic.write(page, results.page({targets[0].name: result}))
    return targets
