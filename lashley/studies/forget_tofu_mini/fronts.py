"""What each way of forgetting costs: curves over the strength, and edits compared at equal forgetting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

import lashley
from lashley.forgetting import choose, front
from lashley.studies.forget_tofu_mini.subject import FORGET, RETAIN, Edit, Judge, spread, spread_of

__all__ = ["curve", "ruled"]

_STEPS = 3  # halvings, in the logarithm, of the interval of strengths in which a level is reached
_BROKEN = 5.0  # nats a token: beyond this nothing of the model is left to measure


def curve(
    edit: Edit, judge: Judge, alphas: Sequence[float], levels: Sequence[float], base: nn.Module | None = None
) -> dict[str, Any]:
    """Points over the strength, and for each level the weakest strength that was found to reach it.

    The strengths of the config come first, up to the first that reaches the lowest level or breaks the model. Then the
    interval in which each level is crossed is halved a few times, which adds points. A level is compared only where it
    was reached, by a point that was measured: nothing is interpolated.
    """
    model, engram = judge.task.subject.model, judge.task.engram(edit, base=base)
    points: dict[float, dict[str, float]] = {}
    for alpha in sorted(alphas):
        points[alpha] = _measured(model, engram, edit, alpha, judge)
        if points[alpha]["forget"] <= min(levels) or points[alpha]["kl"] > _BROKEN:
            break
    at: dict[str, Any] = {}
    for level in sorted(levels, reverse=True):
        weakest = _weakest(model, engram, edit, judge, points, level)
        if weakest is not None and weakest not in points:
            points[weakest] = _measured(model, engram, edit, weakest, judge)
        at[f"{level:g}"] = None if weakest is None else {"alpha": weakest, **points[weakest]}
    return {"points": [{"alpha": alpha, **points[alpha]} for alpha in sorted(points)], "at": at}


def _weakest(
    model: nn.Module,
    engram: lashley.Engram,
    edit: Edit,
    judge: Judge,
    points: Mapping[float, Mapping[str, float]],
    level: float,
) -> float | None:
    reached = [alpha for alpha in sorted(points) if points[alpha]["forget"] <= level]
    if not reached:
        return None
    above = reached[0]
    below = max((alpha for alpha in points if alpha < above), default=above / 4)
    for _ in range(_STEPS):
        middle = float(f"{math.sqrt(below * above):.3g}")
        with lashley.ablated(model, engram, spread_of(edit, middle), tied=edit.tied):
            low = judge.probability(model) <= level
        below, above = (below, middle) if low else (middle, above)
    return above


def _measured(model: nn.Module, engram: lashley.Engram, edit: Edit, alpha: float, judge: Judge) -> dict[str, float]:
    with lashley.ablated(model, engram, spread_of(edit, alpha), tied=edit.tied):
        return judge.edited(model)


def ruled(
    edit: Edit, judge: Judge, levels: Mapping[str, float], alphas: Sequence[float], probes: int
) -> dict[str, Any]:
    """A strength chosen on held-out rows, and what the edit made of all rows does at it.

    Args:
        levels: ``{name: probability}``: the rule takes the weakest strength at which held-out rows, of which the engram
            is not made, are no more probable.
        alphas: strengths to choose from.
        probes: rows to be kept that judge.

    Returns:
        the front on held-out rows (the rows to be kept are not in the reference either), and per level which of its
        points was chosen, whether that reached the level, and every measure of the edit at its strength.
    """
    task = judge.task
    subject, batches = task.subject, task.subject.batches
    points = front(
        subject.model,
        task.engram(edit, whole=False),
        batches(task.judging(FORGET)),
        batches(spread(task.judging(RETAIN), probes)),
        alphas,
        strength=edit.strength,
        tied=edit.tied,
    )
    engram, chosen = task.engram(edit), {}
    for name, level in levels.items():
        point, reached = choose(points, level)
        with lashley.ablated(subject.model, engram, spread_of(edit, point.alpha), tied=edit.tied):
            after = judge.edited(subject.model)
        chosen[name] = {"level": level, "point": point.number, "alpha": point.alpha, "reached": reached, **after}
    return {"front": [point.to_dict() for point in points], "chosen": chosen}
