"""``lashley export``: an edit as others can load it, an adapter or a checkpoint, with a model card."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lashley.cli.common import UsageError, add_json, add_verb, emit, positive
from lashley.cli.strengths import add_strength, strength

if TYPE_CHECKING:
    from lashley.edit import Receipt
    from lashley.engram import Engram
    from lashley.export import LoraReport

TEXT = """\
Ship the edit of a checkpoint folder: as a LoRA adapter that PEFT loads, or as a whole checkpoint, rewritten file by
file without loading the model. Both come with a model card.

An adapter is without loss where the concept had fewer rows than the layers have columns. Any other engram is cut to the
directions that hold --energy of it, and the error is stated. All layers have one rank, of those that vLLM takes.
"""
EXAMPLE = """\
  lashley export authors.engram --base ./checkpoint --lora ./adapter
  lashley export authors.engram --base ./checkpoint --alpha 1.5 --tied untie --checkpoint ./forgotten
"""
DTYPES = ("float32", "bfloat16", "float16")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_verb(subparsers, "export", "write an adapter or a checkpoint to ship", text=TEXT, example=EXAMPLE)
    parser.add_argument("engram", metavar="ENGRAM", help="a folder that lashley engram wrote")
    parser.add_argument("--base", required=True, metavar="DIR", help="the checkpoint folder that it is an edit of")
    parser.add_argument("--base-model", metavar="NAME", help="the name of the base on the Hub, for others to find it")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--lora", metavar="OUT", help="write a LoRA adapter to this folder")
    what.add_argument("--checkpoint", metavar="OUT", help="write a checkpoint to this folder, which does not exist yet")
    add_strength(parser)
    parser.add_argument(
        "--tied",
        choices=("skip", "untie", "both"),
        default="skip",
        help="a weight with another name too, such as a head tied to the embedding: leave it (default), give the layer "
        "one of its own, or change both (checkpoints only)",
    )
    group = parser.add_argument_group("the adapter")
    group.add_argument(
        "--rank", type=positive, metavar="R", help="keep so many directions at most, instead of --energy"
    )
    group.add_argument(
        "--energy", type=float, metavar="SHARE", help="of what cannot be had without loss, keep this (default: 0.999)"
    )
    group.add_argument(
        "--max-rank", type=positive, metavar="R", help="refuse a larger rank (default: 512, vLLM's limit)"
    )
    group.add_argument("--dtype", choices=DTYPES, help="of the stored matrices (default: float32)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    import lashley
    from lashley.export import model_card

    options = {"--rank": args.rank, "--energy": args.energy, "--max-rank": args.max_rank, "--dtype": args.dtype}
    given = [name for name, value in options.items() if value is not None]
    if args.checkpoint and given:
        raise UsageError(f"{given[0]} is for an adapter: it goes with --lora, not with --checkpoint.")
    engram = lashley.Engram.load(args.engram)
    report = _lora(args, engram) if args.lora else _checkpoint(args, engram)
    out = args.lora or args.checkpoint
    model_card(out, base=args.base, base_model=args.base_model)
    document = {"out": out, "base": args.base, "engram": args.engram, "concepts": engram.concepts}
    emit(args, {**document, "report": report.to_dict()}, lambda: f"{report}\n\nwritten to {out}")
    return 0


def _lora(args: argparse.Namespace, engram: Engram) -> LoraReport:
    import torch

    from lashley.export import save_lora

    options: dict[str, Any] = {"energy": args.energy, "max_rank": args.max_rank}
    if args.dtype:
        options["dtype"] = getattr(torch, args.dtype)
    return save_lora(
        engram,
        args.lora,
        alpha=strength(args),
        inject=args.inject,
        base=args.base,
        base_name=args.base_model,
        tied=args.tied,
        rank=args.rank,
        **{name: value for name, value in options.items() if value is not None},
    )


def _checkpoint(args: argparse.Namespace, engram: Engram) -> Receipt:
    from lashley.export import rewrite_checkpoint

    facts = {"engram": args.engram, "alpha": args.alpha, "strength": args.strength}
    return rewrite_checkpoint(
        args.base,
        engram,
        args.checkpoint,
        alpha=strength(args),
        inject=args.inject,
        tied=args.tied,
        notes=facts,
    )
