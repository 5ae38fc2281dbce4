"""How strong an edit has to be, judged on rows that the engram was not made of.

A set is split in two. The front is made with the engram of the one part and judged on the other: how probable the
held-out rows of what is to be forgotten still are, and how far the model's predictions on held-out rows of what is to
be kept have moved. The final engram is of both parts; since moments add, that takes no second recording.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from lashley.edit import sweep
from lashley.engram import Engram
from lashley.errors import DataError, EditError
from lashley.metrics import answers, reference
from lashley.strength import uniform, weight_norm

__all__ = ["ALPHAS", "FORGET", "HELD_OUT", "RETAIN", "STRENGTHS", "Point", "balance", "choose", "front", "held_out"]

FORGET, RETAIN = "forget", "retain"
HELD_OUT = {FORGET: "forget, held out", RETAIN: "retain, held out"}
STRENGTHS = {"uniform": uniform, "weight-norm": weight_norm}
ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)

Batches = Iterable[Mapping[str, Tensor]]


@dataclass(frozen=True)
class Point:
    """What one strength does to rows that the engram was not made of.

    Attributes:
        number: of the point, from 0, which is the model as it is.
        alpha: the strength; with "weight-norm" that of the layer with the largest ratio.
        forget, forget_exact: answer probability and exact memorisation of held-out rows to be forgotten.
        retain, retain_exact: of held-out rows to be kept.
        kl: mean divergence of the predictions there from those before, in nats a token.
    """

    number: int
    alpha: float
    forget: float
    forget_exact: float
    retain: float
    retain_exact: float
    kl: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def held_out(count: int, every: int = 5) -> tuple[list[int], list[int]]:
    """Which of so many rows make the engram, and which judge it: every fifth judges.

    Rows come in no known order, often one author or one topic after the other, so both parts take from everywhere.

    Raises:
        DataError: fewer than two rows.
    """
    if count < 2:
        raise DataError(f"Expected at least 2 rows, so that one can be held out, got {count}. Name a strength instead.")
    judges = list(range(every - 1, count, every)) or [count - 1]
    taken = set(judges)
    return [row for row in range(count) if row not in taken], judges


def front(
    model: nn.Module,
    engram: Engram,
    forget: Batches,
    retain: Batches,
    alphas: Sequence[float] = ALPHAS,
    *,
    strength: str = "uniform",
    tied: str = "skip",
) -> list[Point]:
    """The model as it is and at every strength, weakest first. The model is given back to the byte.

    Args:
        engram: of rows that are not in ``forget``.
        forget, retain: the rows that judge.
        strength: how alpha is spread over layers, a key of `STRENGTHS`.
        tied: as in `lashley.ablate_`.
    """
    if not all(alpha > 0 for alpha in alphas):
        raise EditError(f"Expected strengths above 0, got {list(alphas)}.")
    before = reference(model, retain)

    def judged(edited: nn.Module) -> dict[str, float]:
        gone, kept = answers(edited, forget).means(), answers(edited, retain, before).means()
        return {
            "forget": gone["probability"],
            "forget_exact": gone["exact"],
            "retain": kept["probability"],
            "retain_exact": kept["exact"],
            "kl": kept["kl"],
        }

    strengths = [0.0, *sorted(alphas)]
    spread = STRENGTHS[strength]
    found = sweep(model, engram, [spread(alpha) for alpha in strengths], judged, tied=tied)
    return [Point(k, alpha, **score) for k, (alpha, (_, score)) in enumerate(zip(strengths, found, strict=True))]


def choose(points: Sequence[Point], level: float | None = None) -> tuple[Point, bool]:
    """A point of the front, and whether it does what was asked for.

    Args:
        level: the weakest point is taken at which what is to be forgotten is no more probable than this; without one,
            the point that comes nearest, and False. None: the best `balance`.
    """
    if level is None:
        return max(points, key=lambda point: (balance(point, points[0]), -point.alpha)), True
    for point in points:
        if point.forget <= level:
            return point, True
    return min(points, key=lambda point: (point.forget, point.alpha)), False


def balance(point: Point, untouched: Point) -> float:
    """The harmonic mean of what was forgotten and what was kept, in [0, 1]: ``1 - forget / forget_0`` and
    ``retain / retain_0`` (at most 1), in answer probabilities. It is small where either of the two is.
    """
    forgotten = max(0.0, 1 - point.forget / untouched.forget)
    kept = min(1.0, point.retain / untouched.retain)
    return 2 * forgotten * kept / (forgotten + kept) if forgotten + kept > 0 else 0.0
