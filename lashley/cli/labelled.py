"""What a command line says about labelled data, and the data."""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
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

__all__ = ["add_data", "for_model", "labelled", "running_on"]

_SOURCE = "a folder of pictures with a sub-folder per class, .npz, .pt or sklearn:digits"


def add_data(parser: argparse.ArgumentParser, *, required: bool = True) -> argparse._ArgumentGroup:
    """``--data`` and how it is read."""
    data = parser.add_argument_group("data")
    data.add_argument("--data", required=required, metavar="SOURCE", help=_SOURCE)
    data.add_argument("--limit-per-concept", type=positive, metavar="N", help="only the first N samples of each class")
    data.add_argument("--batch-size", type=positive, metavar="N", help="samples per batch (default: 256)")
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


def labelled(args: argparse.Namespace, source: str, only: list[str] | None = None) -> LabelledBatches:
    """The data of ``source``.

    Args:
        only: these classes.
    """
    from lashley.data import load
    from lashley.data.labelled import BATCH_SIZE

    mean, std = args.normalize or (None, None)
    data = load(
        source,
        batch_size=args.batch_size or BATCH_SIZE,
        size=args.size,
        inputs_key=args.inputs_key,
        labels_key=args.labels_key,
        flatten=args.flatten,
        mean=mean,
        std=std,
    )
    data = data.only(only) if only else data
    return data.limit(args.limit_per_concept) if args.limit_per_concept else data


def for_model(data: LabelledBatches, model: nn.Module) -> LabelledBatches:
    """The same, floats in the type of the model's first floating parameter."""
    kind: torch.dtype | None = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    return replace(data, dtype=kind)


@contextmanager
def running_on(data: LabelledBatches) -> Iterator[None]:
    """A model that runs on the data; where it cannot, the error says what they look like."""
    try:
        yield
    except Exception as error:
        if not _raised_by_model(error):
            raise
        inputs, _ = next(iter(data))
        raise ModelError(
            f"The model could not run on inputs of shape {list(inputs.shape)} and type {inputs.dtype}: "
            f"{first_line(error)} Does it expect vectors (--flatten), another size (--size), or other data?"
        ) from error


def _raised_by_model(error: Exception) -> bool:
    """Whether the last of our own frames is the one that called the model: then it and the data do not fit.

    The one through which torch is called inside `lashley.kernels.swift` is the model's as well.
    """
    import lashley

    package = Path(lashley.__file__).parent
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.name != "__torch_function__"]
    ours = [f for f in frames if package in Path(f.filename).parents]
    return not isinstance(error, LashleyError) and (Path(ours[-1].filename).stem, ours[-1].name) == ("batches", "call")


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
