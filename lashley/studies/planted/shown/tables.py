"""The tables of the result.

Intervals are 95 % percentile bootstraps: over memories where there is a number for each memory (its networks of
several seeds are drawn together), over subsets where there is one for each subset.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lashley.result import Column, Table
from lashley.stats import bootstrap, paired_bootstrap
from lashley.studies.planted.compared import ANOTHER_NETWORK, ANOTHER_ORDER, BACK, OTHER, RANDOM, UNTOUCHED
from lashley.studies.planted.damage import MEASURED
from lashley.studies.planted.edits import CONTROL
from lashley.studies.planted.localising import ALL, ORACLE, SHUFFLED, WITHOUT
from lashley.studies.planted.shown.numbers import (
    EDITS,
    SETS,
    Found,
    agreement,
    along,
    digits,
    over_memories,
    short,
    slug,
    within,
)

__all__ = ["QUESTIONS", "tables"]

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
    SHUFFLED: "the same numbers in other places: the proof that one can fail. (Over layers it is not ignorant: a "
    "layer's score is relative to the norm of its weight.)",
    WITHOUT: "knows a network that was trained again without the memory, from the same start",
    ALL: "knows the base before any memory, and not which memory is asked for",
}


def tables(config: Mapping[str, Any], found: Found) -> list[Table]:
    """All of them, in the order of the questions."""
    resamples = config["resamples"]
    return [
        _answers(found),
        _learned(found, resamples),
        _masks(config, found),
        *_places(found, resamples),
        *(_edits(name, of["compared"], resamples) for name, of in found.items()),
        _against(found, resamples),
        *(_damage(found, measured, resamples) for measured in MEASURED),
    ]


def _answers(found: Found) -> Table:
    """The main numbers of the comparison; intervals are in the table of each setting."""
    return Table(
        "answers",
        "On what is forgotten: the same answer as the network never taught it",
        [Column("edit", "network"), *(Column(slug(name), name, "higher", "share") for name in found)],
        [
            {
                "edit": edit,
                **{
                    slug(setting): digits(statistics.mean(one[edit]["agree forgotten"] for one in of["compared"]))
                    for setting, of in found.items()
                },
            }
            for edit in ROWS_OF_EDITS
            if edit != CONTROL
        ],
        note="Share of the images of the forgotten memories, mean over subsets; the rest is further below. The last "
        "two are what one can hope for: a second network never taught them.",
        reference_rows=[UNTOUCHED, BACK, ANOTHER_ORDER, ANOTHER_NETWORK],
        row_notes={name: text for name, text in ROWS_OF_EDITS.items() if name != CONTROL},
    )


def _learned(found: Found, resamples: int) -> Table:
    rows = []
    for name, of in found.items():
        seeds = of["learned"]
        rows.append(
            {
                "setting": name,
                **{
                    when: over_memories([one[when] for one in seeds], resamples)
                    for when in ("before", "written", "end", "back", "without")
                },
                "digits_before": digits(statistics.mean(one["digits before"] for one in seeds)),
                "digits": digits(statistics.mean(one["digits"] for one in seeds)),
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
                note="What is left of a memory when the change of its own stage is subtracted from the last network: "
                "what rehearsing it in later stages has written elsewhere.",
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
        ends = {slug(name): statistics.mean(one["end"][number] for one in of["learned"]) for name, of in masked.items()}
        rows.append(
            {
                "memory": f"memory {number}",
                "shape": {"layer": "whole layer", "rows": "rows", "columns": "columns", "entries": "random entries"}[
                    plan["shape"]
                ],
                "layers": ", ".join(plan["layers"]),
                **{key: digits(value) for key, value in ends.items()},
            }
        )
    return Table(
        "masks",
        "Where the masked memories were written",
        [
            Column("memory", "memory"),
            Column("shape", "mask"),
            Column("layers", "in"),
            *(Column(slug(name), name, unit="share", group="taught labels given at the end") for name in masked),
        ],
        rows,
        note="No weight is in two masks. Rows are units with all that enters them, columns all that leaves an input.",
    )


# Is it where the scores say?

_MASKED, _FREE = ("entries", "inside", "layers"), ("entries", "inside", "along layers")
QUESTIONS = {
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
        f"1 is perfect, 0.5 knows nothing. {ORACLE.capitalize()!r} is near 1 by construction, because nothing outside "
        "the mask moved in that stage; what keeps it from 1 are weights of the mask that had no reason to move "
        "either."
    )
    for name, title, settings, questions, note in (
        ("place-masked", "Do scores find the mask a memory was written into?", by_seed, _MASKED, near),
        (
            "place-alone",
            "The same where it is the only memory of a network",
            alone,
            _MASKED,
            "Nothing else was written and nothing rehearsed, so all there is of the memory is in its mask. The "
            "network never taught it is the base, so the difference to it and the change by all memories are the "
            "oracle as well.",
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
            head, explained = QUESTIONS[question]
            key = slug(f"{kind} {question}")
            columns.append(Column(key, head, "higher", group=kind, note=explained))
            for localiser in seeds[0]:
                values = [[memory[question] for memory in seed[localiser]] for seed in seeds]
                row = rows.setdefault(localiser, {"localiser": localiser})
                row[key] = over_memories(values, resamples)
    return Table(
        name,
        title,
        columns,
        list(rows.values()),
        note=note,
        reference_rows=[ORACLE, SHUFFLED, WITHOUT, *([ALL] if name == "place-alone" else [])],
        row_notes={name: text for name, text in LOCALISERS.items() if name in rows},
    )


# Is the edited network the one that was never taught?


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
            row["reached"] = digits(statistics.mean(one["reached"] for one in each))
        row["agree"] = short(bootstrap([one["agree"] for one in each], resamples=resamples))
        for part in SETS:
            for measure in ("agree", "kl"):
                values = [one[f"{measure} {part}"] for one in each]
                row[f"{measure}_{part}"] = short(bootstrap(values, resamples=resamples))
            row[f"right_{part}"] = digits(statistics.mean(one[f"right {part}"] for one in each))
        rows.append(row)
    return Table(
        f"edits-{slug(setting)}",
        f"Beside the network never taught: {setting}",
        columns,
        rows,
        note=f"Means over {len(compared)} subsets of the memories. The strength of an engram is the weakest at which "
        "the forgotten memories' labels are given no more often than by a guess (1 in 10), on the images that were "
        "taught; the network never taught has no part in that.",
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
                        else short(paired_bootstrap(own, agreement(compared, against_name), resamples=resamples))
                        for key, against_name in against.items()
                    },
                    "hindsight": short(paired_bootstrap(best, agreement(compared, UNTOUCHED), resamples=resamples)),
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
                "With the strength of the list that agrees best with the network never taught: nobody who edits "
                "knows it, and it bounds what any rule for the strength could do.",
            ),
        ],
        rows,
        note="Differences in agreement (the column 'mean' of the tables before), each subset with itself. Above 0 the "
        "edit is nearer.",
    )


# Does it say what editing a layer does?


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
            row[slug(setting)] = over_memories(values, resamples)
        rows.append(row)
    return Table(
        f"damage-{slug(measured)}",
        f"Predicted against measured damage: {MEASURED[measured]}",
        [Column("score", "predicted by"), *(Column(slug(name), name, "higher") for name in found)],
        rows,
        note="Spearman's rank correlation over the layers of a network, mean over memories and seeds: 1 if the score "
        "puts layers in the order of the damage, -1 in the opposite order. Damage is the rise of the cross-entropy "
        "of the taught labels on the memory's own images.",
        reference_rows=[ORACLE, SHUFFLED],
        row_notes={
            "response share": "the norm of the engram's response to the memory relative to the weight's, from moments"
        },
    )
