"""How strong an edit is: the options, and what they mean to the library."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lashley.strength import Strength

__all__ = ["add_strength", "strength"]


def add_strength(parser: argparse.ArgumentParser) -> None:
    """``--alpha``, ``--strength`` and ``--inject``."""
    parser.add_argument("--alpha", type=float, default=1.0, metavar="X", help="how strong (default: 1)")
    parser.add_argument(
        "--strength",
        choices=("uniform", "weight-norm", "effective-rank"),
        default="uniform",
        help="how alpha is spread over layers: the same everywhere, or in proportion, the largest getting alpha",
    )
    parser.add_argument("--inject", action="store_true", help="add the engram instead of subtracting it")


def strength(args: argparse.Namespace) -> Strength:
    """What they say, as ``alpha`` of the library."""
    import lashley

    made: Strength = getattr(lashley.strength, args.strength.replace("-", "_"))(args.alpha)
    return made
