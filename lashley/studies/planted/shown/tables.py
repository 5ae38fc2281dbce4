"""What the study found, as the tables and charts of a result.

Intervals are 95 % percentile bootstraps: over memories where there is a number for each memory (its networks of
several seeds are drawn together), over subsets where there is one for each subset.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lashley.result import Chart, Column, Result, Series, Table
from lashley.stats import Interval, bootstrap, paired_bootstrap, rank_correlation
from lashley.studies.planted.compared import (
    ANOTHER_NETWORK,
    ANOTHER_ORDER,
    BACK,
    OTHER,
    RANDOM,
    UNTOUCHED,
)
from lashley.studies.planted.damage import MEASURED
from lashley.studies.planted.edits import CONTROL
from lashley.studies.planted.localising import ALL, ORACLE, SHUFFLED, WITHOUT

__all__ = ["agreement", "along", "result", "within"]

Found = Mapping[str, Mapping[str, Any]]
EDITS = ("paper", "sharpened", "sharpened, sum", "paper, of the change", "sharpened, of the change")
SETS = {"forgotten": "what is forgotten", "kept": "other memories", "digits": "held-out digits"}

ROWS_OF_EDITS = {
    UNTOUCHED: "the network that was taught everything, as it is",
    "paper": "the engram of the subset in every layer",
    "sharpened": "sharpness 2, the subset as one concept",
    "sharpened, sum": "sharpness 2, the sum of an engram for each memory",
    "paper, of the change": "the engram of what all the writing changed; the base before any memory is known (base=)",
    "sharpened, of the change": "the same with sharpness 2",
    OTHER: "the engram of as many other memories, at the strength chosen for the subset's own",
    **{name: f"a random direction with the norm in every layer of {of!r} as chosen" for name, of in RANDOM.items()},
    BACK: "no edit that one could make without the checkpoints: what each memory's stage added is subtracted",
    CONTROL: "the reference: the same start, the same images in the same order, without the memories of the subset",
    ANOTHER_ORDER: "a second reference from the same start, whose images came in another order",
    ANOTHER_NETWORK: "a second reference with another start and another order",
}
LOCALISERS = {
    ORACLE: "knows the checkpoints before and after: the proof that a mask can be found",
    SHUFFLED: "the same numbers in other places: the proof that one can fail",
    WITHOUT: "knows a network that was trained again without the memory, from the same start",
    ALL: "knows the base before any memory, and not which memory is asked for",
}


def result(config: Mapping[str, Any], found: Found, provenance: Mapping[str, Any]) -> Result:
    """The result, from what `lashley.studies.planted.Bench.setting` returns for each setting."""
    resamples = config["resamples"]
    tables = [
        _learned(found, resamples),
        _masks(config, found),
        *_places(found, resamples),
        *(_edits(name, of["compared"], resamples) for name, of in found.items()),
        _against(found, resamples),
        *(_damage(found, measured, resamples) for measured in MEASURED),
    ]
    charts = [
        *_bars(tables),
        *(_scatter(name, of["compared"]) for name, of in found.items()),
        *(_strengths(name, of["compared"], config["alphas"], resamples) for name, of in found.items()),
        *(_layers(name, of) for name, of in found.items()),
    ]
    return Result(
        study="planted",
        title="Planted memories: are they where the engram says, and does ablation undo having learned them?",
        summary=_summary(config, found, tables),
        tables=tables,
        charts=charts,
        provenance=provenance,
        settings=config,
    )


def _short(interval: Interval) -> dict[str, float]:
    return {name: _digits(value) for name, value in interval._asdict().items()}


def _digits(value: float) -> float:
    """Five significant digits; more would be noise in a file that people read."""
    return float(f"{value:.5g}")


def _key(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.replace(",", ""))


def _over_memories(values: Sequence[Sequence[float | None]], resamples: int) -> dict[str, float] | None:
    """``values[seed][memory]``: the mean, and an interval over the memories that have a value. None where none has."""
    kept = [of for of in zip(*values, strict=True) if None not in of]
    return _short(bootstrap(kept, resamples=resamples)) if len(kept) > 1 else None


# What was learned, and where.


def _learned(found: Found, resamples: int) -> Table:
    rows = []
    for name, of in found.items():
        seeds = of["learned"]
        rows.append(
            {
                "setting": name,
                **{
                    when: _over_memories([one[when] for one in seeds], resamples)
                    for when in ("before", "written", "end", "back", "without")
                },
                "digits_before": _digits(statistics.mean(one["digits before"] for one in seeds)),
                "digits": _digits(statistics.mean(one["digits"] for one in seeds)),
            }
        )
    return Table(
        "learned",
        "What the networks know",
        [
            Column("setting", "memories, written"),
            Column("before", "before writing", unit="share", group="taught labels given"),
            Column("written", "just written", unit="share", group="taught labels given"),
            Column("end", "after all memories", unit="share", group="taught labels given"),
            Column(
                "back",
                "its own stage taken back",
                unit="share",
                group="taught labels given",
                note="What is left of a memory when the change of its own stage is subtracted from the last network: what "
                "rehearsing it in later stages has written elsewhere.",
            ),
            Column(
                "without",
                "never taught it",
                unit="share",
                group="taught labels given",
                note="Of a network that was taught all other memories.",
            ),
            Column("digits_before", "before any memory", unit="share", group="held-out digits right"),
            Column("digits", "after all memories", unit="share", group="held-out digits right"),
        ],
        rows,
        note="Means over memories and seeds. Everything below is of the networks after all memories.",
    )


def _masks(config: Mapping[str, Any], found: Found) -> Table:
    masked = {name: of for name, of in found.items() if "alone" in of}
    rows = []
    for number, plan in enumerate(config["masks"]["plan"]):
        ends = {_key(name): statistics.mean(one["end"][number] for one in of["learned"]) for name, of in masked.items()}
        rows.append(
            {
                "memory": f"memory {number}",
                "shape": {"layer": "whole layer", "rows": "rows", "columns": "columns", "entries": "random entries"}[
                    plan["shape"]
                ],
                "layers": ", ".join(plan["layers"]),
                **{key: _digits(value) for key, value in ends.items()},
            }
        )
    return Table(
        "masks",
        "Where the masked memories were written",
        [
            Column("memory", "memory"),
            Column("shape", "mask"),
            Column("layers", "in"),
            *(Column(_key(name), name, unit="share", group="taught labels given at the end") for name in masked),
        ],
        rows,
        note="No weight is in two masks. Rows are units with all that enters them, columns all that leaves an input.",
    )


# Is it where the scores say?

_MASKED, _FREE = ("entries", "inside", "layers"), ("entries", "inside", "along layers")
_QUESTIONS = {
    "entries": ("all weights", "AUROC over all weights of the network: a weight of the place against one outside it."),
    "inside": (
        "within layers",
        "The same within each layer that holds a part of the place but not only it; their mean.",
    ),
    "layers": ("layers", "AUROC over layers: one that holds a part of the place against one that holds none."),
    "along layers": ("along layers", "Rank correlation over layers with how far each moved relative to its weight."),
}


def _places(found: Found, resamples: int) -> Iterable[Table]:
    """A table for masked memories, one for such of them as are alone in a network, and one for those without a mask."""
    masked = {name.partition(",")[0]: of for name, of in found.items() if "alone" in of}
    free = {name.partition(",")[0]: of["localised"] for name, of in found.items() if "alone" not in of}
    by_seed = {kind: of["localised"] for kind, of in masked.items()}
    alone = {kind: of["alone"] for kind, of in masked.items()}
    near = (
        f"1 is perfect, 0.5 knows nothing. {ORACLE.capitalize()!r} is near 1 by construction, because nothing outside the mask "
        "moved in that stage; what keeps it from 1 are weights of the mask that had no reason to move either."
    )
    for name, title, settings, questions, note in (
        ("place-masked", "Do scores find the mask a memory was written into?", by_seed, _MASKED, near),
        (
            "place-alone",
            "The same where it is the only memory of a network",
            alone,
            _MASKED,
            "Nothing else was written and nothing rehearsed, so all there is of the memory is in its mask. The network never "
            "taught it is the base, so the differences to it are the oracle as well.",
        ),
        (
            "place-in-sequence",
            "Written without a mask: do scores find the tenth of the weights that moved most?",
            free,
            _FREE,
            f"{ORACLE.capitalize()!r} is the truth here, so it is 1 by definition.",
        ),
    ):
        yield _place(name, title, settings, questions, note, resamples)


def _place(
    name: str, title: str, settings: Mapping[str, Any], questions: Sequence[str], note: str, resamples: int
) -> Table:
    columns = [Column("localiser", "score")]
    rows: dict[str, dict[str, Any]] = {}
    for kind, seeds in settings.items():
        for question in questions:
            head, explained = _QUESTIONS[question]
            key = _key(f"{kind} {question}")
            columns.append(Column(key, head, "higher", group=kind, note=explained))
            for localiser in seeds[0]:
                values = [[memory[question] for memory in seed[localiser]] for seed in seeds]
                row = rows.setdefault(localiser, {"localiser": localiser})
                row[key] = _over_memories(values, resamples)
    return Table(
        name,
        title,
        columns,
        list(rows.values()),
        note=note,
        reference_rows=[ORACLE, SHUFFLED, WITHOUT],
        row_notes={name: text for name, text in LOCALISERS.items() if name in rows},
    )


def _bars(tables: Sequence[Table]) -> Iterable[Chart]:
    for table in tables:
        if not table.name.startswith("place-"):
            continue
        names = [table.label(row) for row in table.rows]
        series = []
        for column in table.columns:
            if column.title == _QUESTIONS["entries"][0]:
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
        )


# Is the edited network the one that was never taught?


def agreement(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Of every subset, the share of answers that are the never-taught network's, mean over the three sets of images."""
    return [of[name]["agree"] for of in rows]


def _edits(setting: str, compared: Sequence[Mapping[str, Any]], resamples: int) -> Table:
    columns = [
        Column("edit", "network"),
        Column("alpha", "strength", note="Median over subsets."),
        Column(
            "reached",
            "down to a guess",
            unit="share",
            note="Subsets for which a strength brought the labels to 1 in 10.",
        ),
        Column(
            "agree", "mean", "higher", "share", "Mean of the next three.", "same answer as the network never taught"
        ),
        *(
            Column(f"agree_{key}", of, "higher", "share", group="same answer as the network never taught")
            for key, of in SETS.items()
        ),
        *(Column(f"kl_{key}", of, "lower", note="Nats.", group="divergence from it") for key, of in SETS.items()),
        *(Column(f"right_{key}", of, "target", "share", group="taught labels given") for key, of in SETS.items()),
    ]
    rows = []
    for name in ROWS_OF_EDITS:
        each = [of[name] for of in compared]
        row: dict[str, Any] = {"edit": name}
        if "alpha" in each[0]:
            row["alpha"] = statistics.median(one["alpha"] for one in each)
        if "reached" in each[0]:
            row["reached"] = _digits(statistics.mean(one["reached"] for one in each))
        row["agree"] = _short(bootstrap([one["agree"] for one in each], resamples=resamples))
        for measure in ("agree", "kl", "right"):
            for key in SETS:
                values = [one[f"{measure} {key}"] for one in each]
                row[f"{measure}_{key}"] = _short(bootstrap(values, resamples=resamples))
        rows.append(row)
    return Table(
        f"edits-{_key(setting)}",
        f"Beside the network never taught: {setting}",
        columns,
        rows,
        note=f"Means over {len(compared)} subsets of the memories. The strength of an engram is the weakest at which the "
        "forgotten memories' labels are given no more often than by a guess, on the images that were taught; the network "
        "never taught has no part in that.",
        target_row=CONTROL,
        reference_rows=[UNTOUCHED, BACK, ANOTHER_ORDER, ANOTHER_NETWORK],
        row_notes=ROWS_OF_EDITS,
    )


def _against(found: Found, resamples: int) -> Table:
    """Paired differences of the mean agreement, over the same subsets."""
    rows = []
    for setting, of in found.items():
        compared = of["compared"]
        for name in EDITS:
            own = agreement(compared, name)
            large = next((random for random, model in RANDOM.items() if model == name), None)
            against = {"untouched": UNTOUCHED, "random": large, "other": OTHER, "ceiling": ANOTHER_ORDER}
            best = [max(one[name]["curve"]) for one in compared]
            rows.append(
                {
                    "edit": f"{setting}: {name}",
                    **{
                        key: None
                        if against_name is None or (key == "other" and name != "paper")
                        else _short(paired_bootstrap(own, agreement(compared, against_name), resamples=resamples))
                        for key, against_name in against.items()
                    },
                    "hindsight": _short(paired_bootstrap(best, agreement(compared, UNTOUCHED), resamples=resamples)),
                }
            )
    return Table(
        "against",
        "Is an edited network nearer to the one never taught than what one would compare it with?",
        [
            Column("edit", "edit"),
            Column("untouched", "the untouched network", "higher", "points"),
            Column("random", "a random edit as large", "higher", "points"),
            Column("other", "the engram of other memories", "higher", "points"),
            Column("ceiling", "a second network never taught", "higher", "points", "The same start, another order."),
            Column(
                "hindsight",
                "the untouched network, best strength",
                "higher",
                "points",
                "With the strength of the list that agrees best with the network never taught: nobody who edits knows it, "
                "and it bounds what any rule for the strength could do.",
            ),
        ],
        rows,
        note="Differences in agreement (the column 'mean' of the tables before), each subset with itself. Above 0 the edit "
        "is nearer.",
    )


def _scatter(setting: str, compared: Sequence[Mapping[str, Any]]) -> Chart:
    shown = (UNTOUCHED, "paper", "sharpened", "paper, of the change", OTHER, BACK, ANOTHER_ORDER)
    return Chart(
        f"subsets-{_key(setting)}",
        f"Every subset: {setting}",
        [
            Series(
                name,
                [_digits(of[name]["agree forgotten"]) for of in compared],
                [_digits((of[name]["agree kept"] + of[name]["agree digits"]) / 2) for of in compared],
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
    )


def _strengths(setting: str, compared: Sequence[Mapping[str, Any]], alphas: Sequence[float], resamples: int) -> Chart:
    series = []
    for name in EDITS:
        points = [bootstrap([of[name]["curve"][n] for of in compared], resamples=resamples) for n in range(len(alphas))]
        low, high = ([_digits(getattr(point, end)) for point in points] for end in ("low", "high"))
        series.append(Series(name, list(alphas), [_digits(point.value) for point in points], low, high))
    for name, target in ((UNTOUCHED, False), (ANOTHER_ORDER, True)):
        level = _digits(statistics.mean(agreement(compared, name)))
        series.append(Series(name, [alphas[0], alphas[-1]], [level, level], target=target))
    return Chart(
        f"strength-{_key(setting)}",
        f"Agreement over the strength: {setting}",
        series,
        "lines",
        x_label="strength",
        y_label="same answer as the network never taught",
        y_unit="share",
        x_scale="log",
        note="Mean over the three sets of images and over subsets.",
    )


# Does it say what editing a layer does?


def within(predicted: Sequence[float], measured: Sequence[float]) -> float | None:
    """Rank correlation over layers; None where one of them is the same in all."""
    return None if len(set(predicted)) == 1 or len(set(measured)) == 1 else rank_correlation(predicted, measured)


def along(of: Mapping[str, Any], name: str) -> list[list[list[float]]]:
    """``[seed][memory][layer]`` of what is predicted by a score, or by "response share"."""
    if name == "response share":
        return [[memory[name] for memory in seed] for seed in of["damaged"]]
    return [[memory["of layers"] for memory in seed[name]] for seed in of["localised"]]


def _damage(found: Found, measured: str, resamples: int) -> Table:
    names = ["response share", *next(iter(found.values()))["localised"][0]]
    rows = []
    for name in names:
        row: dict[str, Any] = {"score": name}
        for setting, of in found.items():
            values = [
                [within(layers, memory[measured]) for layers, memory in zip(ours, theirs, strict=True)]
                for ours, theirs in zip(along(of, name), of["damaged"], strict=True)
            ]
            row[_key(setting)] = _over_memories(values, resamples)
        rows.append(row)
    return Table(
        f"damage-{_key(measured)}",
        f"Predicted against measured damage: {MEASURED[measured]}",
        [Column("score", "predicted by"), *(Column(_key(name), name, "higher") for name in found)],
        rows,
        note="Spearman's rank correlation over the layers of a network, mean over memories and seeds: 1 if the score puts "
        "layers in the order of the damage, -1 in the opposite order. Damage is the rise of the cross-entropy of the taught "
        "labels on the memory's own images.",
        reference_rows=[ORACLE, SHUFFLED],
        row_notes={
            "response share": "the norm of the engram's response to the memory relative to the weight's, from moments"
        },
    )


def _layers(setting: str, of: Mapping[str, Any]) -> Chart:
    x = along(of, "engram, paper")
    series = [
        Series(
            layer,
            [_digits(memory[place]) for seed in x for memory in seed],
            [_digits(memory["ablated"][place]) for seed in of["damaged"] for memory in seed],
        )
        for place, layer in enumerate(of["layers"])
    ]
    return Chart(
        f"layers-{_key(setting)}",
        f"Predicted and measured damage: {setting}",
        series,
        "points",
        x_label="engram norm relative to the weight (paper)",
        y_label="rise of the cross-entropy, nats",
        note="A point per memory, seed and layer; that layer's engram alone was taken out, at strength 1.",
    )


# In words.


def _summary(config: Mapping[str, Any], found: Found, tables: Sequence[Table]) -> str:
    return "To be written."
