"""Labelled data as a command line gives them: where they are, which classes, and how inputs are made of them."""

from __future__ import annotations

import argparse
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lashley.cli.common import positive
from lashley.cli.weights import first_line
from lashley.errors import LashleyError, ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lashley.data import LabelledBatches

__all__ = ["add_data", "load_data", "misfit", "typed"]


def add_data(parser: argparse.ArgumentParser, *, required: bool = True, why: str = "") -> argparse._ArgumentGroup:
    """``--data`` and what belongs to it.

    Args:
        why: what the data are for, where they are not required.
    """
    data = parser.add_argument_group("data")
    source = "a folder, .npz, .pt or sklearn:digits"
    data.add_argument("--data", required=required, metavar="SOURCE", help=f"{source}{why}")
    data.add_argument("--limit-per-concept", type=positive, metavar="N", help="only the first N samples of each class")
    data.add_argument("--batch-size", type=positive, default=256, metavar="N", help="samples per batch (default: 256)")
    data.add_argument("--size", type=_size, metavar="HxW", help="scale pictures to this size; 32 means 32x32")
    data.add_argument("--inputs-key", metavar="KEY", help="the inputs in an .npz or .pt file")
    data.add_argument("--labels-key", metavar="KEY", help="the labels in an .npz or .pt file")
    data.add_argument("--flatten", action="store_true", help="inputs as vectors")
    data.add_argument(
        "--normalize",
        nargs=2,
        type=_numbers,
        metavar=("MEAN", "STD"),
        help="(x - MEAN) / STD after the scaling to 0..1; one number each, or one per channel: 0.5,0.4,0.4 0.2,0.2,0.2",
    )
    return data


def load_data(args: argparse.Namespace) -> LabelledBatches:
    """What ``--data`` and its options stand for."""
    from lashley.data import load

    mean, std = args.normalize or (None, None)
    data = load(
        args.data,
        batch_size=args.batch_size,
        size=args.size,
        inputs_key=args.inputs_key,
        labels_key=args.labels_key,
        flatten=args.flatten,
        mean=mean,
        std=std,
    )
    return data.limit(args.limit_per_concept) if args.limit_per_concept else data


def typed(data: LabelledBatches, model: nn.Module) -> LabelledBatches:
    """With floating inputs in the type of the model's weights."""
    return replace(data, dtype=_float_type(model))


def misfit(error: Exception, data: LabelledBatches) -> ModelError | None:
    """What to say where the model raised this on the data; None if it was something of ours."""
    if not _raised_by_model(error):
        return None
    inputs, _ = next(iter(data))
    return ModelError(
        f"The model could not run on inputs of shape {list(inputs.shape)} and type {inputs.dtype}: "
        f"{first_line(error)} Does it expect vectors (--flatten), another size (--size), or other data?"
    )


def _raised_by_model(error: Exception) -> bool:
    """Whether the last of our own frames is the one that called the model: then it and the data do not fit."""
    import lashley

    package = Path(lashley.__file__).parent
    ours = [f for f in traceback.extract_tb(error.__traceback__) if package in Path(f.filename).parents]
    return not isinstance(error, LashleyError) and (Path(ours[-1].filename).stem, ours[-1].name) == ("batches", "call")


def _float_type(model: nn.Module) -> torch.dtype | None:
    """What floating inputs become: the type of the first floating parameter."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    try:
        return positive(height), positive(width or height)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH in pixels, such as 32x48, got {text}") from None


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, or several as 0.5,0.4,0.4, got {text}") from None
