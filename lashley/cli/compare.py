"""``lashley compare``: what differs between two models, tensor by tensor."""

from __future__ import annotations

import argparse

from lashley.cli.common import add_json, add_verb, emit
from lashley.cli.models import load_side

TEXT = """\
Compare the weights of two models, tensor by tensor: by how much each changed, and which share of its numbers moved. A
and B are MODULE:FUNCTION, checkpoint folders, folders of lashley edit, or .safetensors or .pt files of weights.
"""
EXAMPLE = """\
  lashley compare mynet:build without-three
  lashley compare ./checkpoint ./forgotten --json
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_verb(subparsers, "compare", "show what differs between two models", text=TEXT, example=EXAMPLE)
    parser.add_argument("before", metavar="A", help="the model before")
    parser.add_argument("after", metavar="B", help="the model after")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    import lashley

    receipt = lashley.compare(load_side(args.before), load_side(args.after))
    document = {"before": args.before, "after": args.after, "changed": receipt.changed, **receipt.to_dict()}
    changed = f"{len(receipt.changed)} of {len(receipt.layers)} tensors differ"
    emit(args, document, lambda: f"{receipt}\n\n{changed}")
    return 0
