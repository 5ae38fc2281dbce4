"""The charts of the result."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lashley.result import Chart, Series, Table
from lashley.stats import bootstrap
from lashley.studies.planted.compared import ANOTHER_ORDER, BACK, OTHER, UNTOUCHED
from lashley.studies.planted.shown.numbers import EDITS, Found, agreement, along, digits, slug
from lashley.studies.planted.shown.tables import QUESTIONS

__all__ = ["charts"]


def charts(config: Mapping[str, Any], found: Found, tables: Sequence[Table]) -> list[Chart]:
    """All of them; those of localisation are drawn from its tables."""
    return [
        *_bars(tables),
        *(_scatter(name, of["compared"]) for name, of in found.items()),
        *(_strengths(name, of["compared"], config["alphas"], config["resamples"]) for name, of in found.items()),
        *(_layers(name, of) for name, of in found.items()),
    ]


def _bars(tables: Sequence[Table]) -> Iterable[Chart]:
    for table in tables:
        if not table.name.startswith("place-"):
            continue
        names = [table.label(row) for row in table.rows]
        series = []
        for column in table.columns:
            if column.title == QUESTIONS["entries"][0]:
                cells = [row[column.key] for row in table.rows]
                ends = {end: [cell[end] for cell in cells] for end in ("value", "low", "high")}
                series.append(Series(column.group, names, ends["value"], ends["low"], ends["high"]))
        yield Chart(
            table.name.replace("place", "found"),
            table.title,
            series,
            "bars",
            y_label="AUROC over all weights",
            y_range=(0, 1),
            note="0.5 knows nothing.",
            table=table.name,
        )


def _scatter(setting: str, compared: Sequence[Mapping[str, Any]]) -> Chart:
    shown = (UNTOUCHED, "paper", "sharpened", "paper, of the change", OTHER, BACK, ANOTHER_ORDER)
    return Chart(
        f"subsets-{slug(setting)}",
        f"Every subset: {setting}",
        [
            Series(
                name,
                [digits(of[name]["agree forgotten"]) for of in compared],
                [digits((of[name]["agree kept"] + of[name]["agree digits"]) / 2) for of in compared],
            )
            for name in shown
        ],
        "points",
        x_label="agreement on what is forgotten",
        y_label="agreement on the rest",
        x_unit="share",
        y_unit="share",
        note="A point per subset; same answers as the network never taught it. The rest: other memories and held-out "
        "digits, weighted alike.",
        table=f"edits-{slug(setting)}",
    )


def _strengths(setting: str, compared: Sequence[Mapping[str, Any]], alphas: Sequence[float], resamples: int) -> Chart:
    series = []
    for name in EDITS:
        points = [bootstrap([of[name]["curve"][n] for of in compared], resamples=resamples) for n in range(len(alphas))]
        low, high = ([digits(getattr(point, end)) for point in points] for end in ("low", "high"))
        series.append(Series(name, list(alphas), [digits(point.value) for point in points], low, high))
    for name, target in ((UNTOUCHED, False), (ANOTHER_ORDER, True)):
        level = digits(statistics.mean(agreement(compared, name)))
        series.append(Series(name, [alphas[0], alphas[-1]], [level, level], target=target))
    return Chart(
        f"strength-{slug(setting)}",
        f"Agreement over the strength: {setting}",
        series,
        "lines",
        x_label="strength",
        y_label="agreement",
        y_unit="share",
        x_scale="log",
        note="Same answers as the network never taught, mean over the three sets of images and over subsets.",
        table=f"edits-{slug(setting)}",
    )


def _layers(setting: str, of: Mapping[str, Any]) -> Chart:
    x = along(of, "engram, paper")
    series = [
        Series(
            layer,
            [digits(memory[place]) for seed in x for memory in seed],
            [digits(memory["ablated"][place]) for seed in of["damaged"] for memory in seed],
        )
        for place, layer in enumerate(of["layers"])
    ]
    return Chart(
        f"layers-{slug(setting)}",
        f"Predicted and measured damage: {setting}",
        series,
        "points",
        x_label="engram norm relative to the weight (paper)",
        y_label="rise of the cross-entropy, nats",
        note="A point per memory, seed and layer; that layer's engram alone was taken out, at strength 1.",
        table="damage-ablated",
    )
