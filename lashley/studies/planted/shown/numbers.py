"""Numbers of the study as the parts of a result take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lashley.stats import Interval, bootstrap, rank_correlation

__all__ = ["EDITS", "SETS", "Found", "agreement", "along", "digits", "over_memories", "short", "slug", "within"]

Found = Mapping[str, Mapping[str, Any]]
EDITS = ("paper", "sharpened", "sharpened, sum", "paper, of the change", "sharpened, of the change")
SETS = {"forgotten": "what is forgotten", "kept": "other memories", "digits": "held-out digits"}


def short(interval: Interval) -> dict[str, float]:
    return {name: digits(value) for name, value in interval._asdict().items()}


def digits(value: float) -> float:
    """Five significant digits; more would be noise in a file that people read."""
    return float(f"{value:.5g}")


def slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.replace(",", ""))


def over_memories(values: Sequence[Sequence[float | None]], resamples: int) -> dict[str, float] | None:
    """``values[seed][memory]``: the mean, and an interval over the memories that have a value. None where none has."""
    kept = [of for of in zip(*values, strict=True) if None not in of]
    return short(bootstrap(kept, resamples=resamples)) if len(kept) > 1 else None


def agreement(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Of every subset, the share of answers that are the never-taught network's, mean over the three sets of images."""
    return [of[name]["agree"] for of in rows]


def within(predicted: Sequence[float], measured: Sequence[float]) -> float | None:
    """Rank correlation over layers; None where one of them is the same in all."""
    return None if len(set(predicted)) == 1 or len(set(measured)) == 1 else rank_correlation(predicted, measured)


def along(of: Mapping[str, Any], name: str) -> list[list[list[float]]]:
    """``[seed][memory][layer]`` of what is predicted by a score, or by "response share"."""
    if name == "response share":
        return [[memory[name] for memory in seed] for seed in of["damaged"]]
    return [[memory["of layers"] for memory in seed[name]] for seed in of["localised"]]
