"""``lashley compare``: what differs between two models, tensor by tensor."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lashley.cli.common import UsageError, add_json, add_verb, emit
from lashley.cli.models import is_adapter, is_checkpoint, load_side

if TYPE_CHECKING:
    from torch import Tensor, nn

TEXT = """\
Compare the weights of two models, tensor by tensor: by how much each changed, and which share of its numbers moved. A
and B are MODULE:FUNCTION, checkpoint folders, folders of lashley edit, or .safetensors or .pt files of weights; B may
be a LoRA adapter, which stands for A with the adapter added. Of checkpoint folders two tensors at a time are read.
"""
EXAMPLE = """\
  lashley compare mynet:build without-three
  lashley compare ./checkpoint ./forgotten --json
  lashley compare ./checkpoint ./adapter
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_verb(subparsers, "compare", "show what differs between two models", text=TEXT, example=EXAMPLE)
    parser.add_argument("before", metavar="A", help="the model before")
    parser.add_argument("after", metavar="B", help="the model after")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    import lashley

    receipt = lashley.compare(_side(args.before), _side(args.after, args.before))
    document = {"before": args.before, "after": args.after, "changed": receipt.changed, **receipt.to_dict()}
    changed = f"{len(receipt.changed)} of {len(receipt.layers)} tensors differ"
    emit(args, document, lambda: f"{receipt}\n\n{changed}")
    return 0


def _side(spec: str, base: str | None = None) -> nn.Module | Mapping[str, Tensor]:
    """What a side stands for; of a checkpoint folder the tensors are read one by one."""
    from lashley.export import Adapted, Source

    if is_checkpoint(spec):
        return Source(spec)
    if is_adapter(spec):
        if base is None:
            raise UsageError(f"expected a model as A, got the adapter {spec}. Give it as B, and its base as A.")
        if not is_checkpoint(base):
            raise UsageError(f"expected a checkpoint folder as A, to add the adapter {spec} to; got {base}.")
        return Adapted(Source(base), spec)
    return load_side(spec)
