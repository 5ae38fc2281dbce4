"""``lashley edit``: a copy of a model without an engram, or with it added."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lashley.cli.common import add_json, add_verb, emit, plain
from lashley.cli.models import MODEL_HELP, add_weights, is_checkpoint, load_model
from lashley.cli.strengths import add_strength, strength
from lashley.cli.weights import EDITED
from lashley.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from lashley.edit import Receipt
    from lashley.engram import Engram
    from lashley.strength import Strength

TEXT = """\
Subtract alpha times an engram from the weights of MODEL (or add it, with --inject) and write the edited model to a
folder: of MODULE:FUNCTION its weights as model.safetensors, of a checkpoint folder a checkpoint folder with the same
tokenizer, written file by file without loading the model. The receipt says what the edit really changed, layer by
layer; it is printed and written beside the weights.
"""
EXAMPLE = """\
  lashley edit mynet:build --engram three.engram --out without-three
  lashley edit ./checkpoint --engram authors.engram --alpha 1.5 --strength weight-norm --tied untie --out ./forgotten
"""
RECEIPT = "receipt.json"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_verb(subparsers, "edit", "ablate an engram from a model, or inject it", text=TEXT, example=EXAMPLE)
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    add_weights(parser)
    parser.add_argument("--engram", required=True, metavar="ENGRAM", help="a folder that lashley engram wrote")
    add_strength(parser)
    parser.add_argument(
        "--tied",
        choices=("skip", "untie", "both"),
        default="skip",
        help="a weight with another name too, such as a head tied to the embedding: leave it (default), give the layer "
        "a copy of its own, or change both",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="the folder to write, complete or absent; for a checkpoint one that does not exist yet",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    import lashley

    engram = lashley.Engram.load(args.engram)
    facts = {"engram": args.engram, "alpha": args.alpha, "strength": args.strength}
    write = _checkpoint if is_checkpoint(args.model) else _weights
    receipt = write(args, engram, strength(args), facts)
    document = json.loads((Path(args.out) / RECEIPT).read_text(encoding="utf-8"))
    emit(args, {"out": args.out, **document}, lambda: f"{receipt}\n\nwritten to {args.out}")
    return 0


def _checkpoint(args: argparse.Namespace, engram: Engram, alpha: Strength, facts: dict[str, Any]) -> Receipt:
    """A checkpoint folder, without loading the model."""
    from lashley.export import rewrite_checkpoint

    if args.weights:
        raise ModelError(
            f"A checkpoint folder has its own weights: leave out --weights, or edit a copy of {args.model}."
        )
    return rewrite_checkpoint(
        args.model, engram, args.out, alpha=alpha, inject=args.inject, tied=args.tied, notes=facts
    )


def _weights(args: argparse.Namespace, engram: Engram, alpha: Strength, facts: dict[str, Any]) -> Receipt:
    """A folder with the weights of a model that a function builds."""
    import lashley
    from lashley.provenance import command, environment
    from lashley.store import check_target, writing

    check_target(args.out)  # before the work rather than after it
    model = load_model(args.model, args.weights)
    apply = lashley.inject_ if args.inject else lashley.ablate_
    receipt = apply(model, engram, alpha, tied=args.tied)
    document = {
        "model": args.model,
        "concepts": engram.concepts,
        "estimator": None if engram.estimator is None else engram.estimator.to_json(),
        "direction": "inject" if args.inject else "ablate",
        "base_fingerprint": engram.base_fingerprint,
        "tied": args.tied,
        "receipt": receipt.to_dict(),
        "command": command(),
        "made_by": environment(),
        **facts,
    }
    with writing(args.out) as folder:
        folder.tensors(EDITED, _state(model))
        text = json.dumps(plain(document), indent=1, allow_nan=False)
        (folder.folder / RECEIPT).write_text(text + "\n", encoding="utf-8")
        folder.manifest("edited model", 1, {"receipt": RECEIPT})
    return receipt


def _state(model: nn.Module) -> dict[str, Any]:
    """The named tensors of a model, if they are all that it needs."""
    import torch

    from lashley.layers import unwrap

    state = unwrap(model).state_dict()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ModelError(
                f"Expected the state of the model to be tensors, got {type(value).__name__} under {name!r}, which a "
                "file of weights cannot hold. Edit it in Python with lashley.ablate and save it your way."
            )
    return state
