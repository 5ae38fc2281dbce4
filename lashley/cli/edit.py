"""``lashley edit``: a copy of a model without an engram, or with it added."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lashley.cli.common import add_json, add_verb, emit, plain
from lashley.cli.models import MODEL_HELP, add_weights, is_checkpoint, load_model, without_bars
from lashley.cli.weights import EDITED
from lashley.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

TEXT = """\
Subtract alpha times an engram from the weights of MODEL (or add it, with --inject) and write the edited model to a
folder: of MODULE:FUNCTION its weights as model.safetensors, of a checkpoint folder a checkpoint folder with the same
tokenizer. The receipt says what the edit really changed, layer by layer; it is printed and written beside the weights.
"""
EXAMPLE = """\
  lashley edit mynet:build --engram three.engram --out without-three
  lashley edit ./checkpoint --engram authors.engram --alpha 1.5 --strength weight-norm --tied untie --out ./forgotten
"""
RECEIPT = "receipt.json"
# Everything beside the weights that a checkpoint needs: tokenizers, processors, chat templates. Not its model card,
# which describes another model.
COMPANIONS = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".bpe")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_verb(subparsers, "edit", "ablate an engram from a model, or inject it", text=TEXT, example=EXAMPLE)
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    add_weights(parser)
    parser.add_argument("--engram", required=True, metavar="ENGRAM", help="a folder that lashley engram wrote")
    parser.add_argument("--alpha", type=float, default=1.0, metavar="X", help="how strong (default: 1)")
    parser.add_argument(
        "--strength",
        choices=("uniform", "weight-norm", "effective-rank"),
        default="uniform",
        help="how alpha is spread over layers: the same everywhere, or in proportion, the largest getting alpha",
    )
    parser.add_argument("--inject", action="store_true", help="add the engram instead of subtracting it")
    parser.add_argument(
        "--tied",
        choices=("skip", "untie", "both"),
        default="skip",
        help="a weight with another name too, such as a head tied to the embedding: leave it (default), give the layer "
        "a copy of its own, or change both",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write; complete or absent")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    import lashley
    from lashley.provenance import command, environment
    from lashley.store import check_target, writing

    check_target(args.out)  # before the work rather than after it
    engram = lashley.Engram.load(args.engram)
    model = load_model(args.model, args.weights)
    alpha = getattr(lashley.strength, args.strength.replace("-", "_"))(args.alpha)
    apply = lashley.inject_ if args.inject else lashley.ablate_
    receipt = apply(model, engram, alpha, tied=args.tied)
    document: dict[str, Any] = {
        "model": args.model,
        "engram": args.engram,
        "concepts": engram.concepts,
        "estimator": None if engram.estimator is None else engram.estimator.to_json(),
        "direction": "inject" if args.inject else "ablate",
        "alpha": args.alpha,
        "strength": args.strength,
        "tied": args.tied,
        "receipt": receipt.to_dict(),
        "command": command(),
        "made_by": environment(),
    }
    with writing(args.out) as folder:
        if is_checkpoint(args.model):
            _save_checkpoint(model, Path(args.model), folder.folder)
        else:
            folder.tensors(EDITED, _state(model))
        text = json.dumps(plain(document), indent=1, allow_nan=False)
        (folder.folder / RECEIPT).write_text(text + "\n", encoding="utf-8")
        folder.manifest("edited model", 1, {"receipt": RECEIPT})
    emit(args, {"out": args.out, **document}, lambda: f"{receipt}\n\nwritten to {args.out}")
    return 0


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


def _save_checkpoint(model: Any, source: Path, folder: Path) -> None:
    """The edited checkpoint, and the files of the original that go along with any weights."""
    from lashley.store import MANIFEST

    with without_bars():
        model.save_pretrained(folder)
    for file in sorted(source.iterdir()):
        if file.suffix not in COMPANIONS or file.name.endswith(".index.json") or file.name in (RECEIPT, MANIFEST):
            continue  # weights and their index, cards, and what an earlier edit said about itself
        if file.is_file() and not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)
