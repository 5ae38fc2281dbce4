"""From the rows of the study to its result: tables, charts, and a summary whose numbers are taken from them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from lashley.result import Chart, Column, Result, Series, Table, value_of
from lashley.studies.rounding import rounded

__all__ = ["result"]

Values = dict[str, Any]
RETRAINED = "retrained"
DRAWN = 0.15  # what it may cost them to be drawn
CHEAP = 0.02  # what an edit may cost the others to be named in the summary

COLUMNS = (
    Column("edit", "edit"),
    Column("target", "the class", "target", "share", "Test images of the class that are still right.", "accuracy"),
    Column(
        "others_fall", "others, mean fall", "target", "points",
        "By how much accuracy on the other classes is below that of the untouched network, mean over classes.",
        "accuracy",
    ),
    Column("worst_fall", "worst fall", "target", "points", "The same of the class that fell most.", "accuracy"),
    Column("worst_class", "fell most", None, None, "That class.", "accuracy"),
    Column(
        "ridge_gap", "ridge probe gap", "target", "points",
        "Recall of the class by a balanced ridge probe on the features, minus that of the same probe on the retrained "
        "network's features. Above 0 more of the class is left than in a network that never saw it, below 0 less.",
        "features",
    ),
    Column("mlp_gap", "MLP probe gap", "target", "points", "The same of a small network.", "features"),
    Column(
        "centre_gap", "nearest centre gap", "target", "points", "The same of the nearest class mean.",
        "features",
    ),
    Column(
        "nmi", "NMI", "target", None,
        "Whether class and rest fall into two clusters of features (k-means on equally many of both, five draws).",
        "features",
    ),
    Column(
        "agreement", "same label", "target", "share",
        "Test images of the class that get the label which the retrained network gives them.", "nearness",
    ),
    Column(
        "tow", "ToW", "target", None,
        "Product of 1 - |difference in accuracy to the retrained network| on the class's training images, on the "
        "others' and on all test images. A mask on the logit, which forgets nothing, scores as high as any edit.",
        "nearness",
    ),
    Column(
        "relearned_gap", "relearning gap", "target", "points",
        "Accuracy on the class after a few steps of training on some of its images, minus that of the retrained "
        "network after the same steps. Above 0 the class comes back sooner than it is learned.",
        "nearness",
    ),
    Column(
        "seconds", "time", "lower", "seconds",
        "From a recording to the edited network: factorisation, solve, edit, BatchNorm. Of a retrained network: its "
        "training. One run on a machine that others used too: an order of magnitude.",
        "cost",
    ),
    Column("chosen", "chosen on training images", None, None, "Settings and strength.", "cost"),
)  # fmt: skip
TEXTS = ("edit", "worst_class", "chosen")


def result(config: Mapping[str, Any], found: Values, autoencoder: Values | None, provenance: Values) -> Result:
    """The tables and charts of what was found."""
    found, autoencoder = rounded(found), rounded(autoencoder)
    tables, charts = [_facts(found)], []
    for name, subject in found.items():
        if len(subject["classes"]) > 1:
            tables.append(_means(config, name, subject))
    for name, subject in found.items():
        tables.append(_gates(name, subject["gates"]))
        for target, rows in subject["classes"].items():
            tables.append(_table(config, name, target, rows))
            charts += [_costs(config, name, target, rows, group) for group in config["drawn"]]
            charts.append(_probes(name, target, rows))
    if autoencoder:
        tables.append(_reconstructions(config["autoencoder"], autoencoder))
        charts += _heat(autoencoder)
    return Result(
        study="closed_forms",
        title="Every closed form beside the network that never learned the class",
        summary=_summary(config, found, autoencoder),
        tables=tables,
        charts=charts,
        provenance=provenance,
        settings=dict(config),
    )


def _word(*parts: str) -> str:
    """A name for links and files."""
    joined = "".join(letter if letter.isalnum() else "-" for letter in "-".join(parts).lower())
    return "-".join(part for part in joined.split("-") if part)


def _facts(found: Values) -> Table:
    columns = [
        Column("network", "network"),
        Column("test", "accuracy", None, "share", "On the test images, before any edit."),
        Column("parameters", "parameters", None, "count"),
        Column("training_seconds", "training", None, "seconds"),
    ]
    rows = [{"network": name, **subject["facts"]} for name, subject in found.items()]
    return Table("networks", "The networks", columns, rows)


def _row(name: str, row: Values) -> Values:
    return {"edit": name, **{column.key: row.get(column.key) for column in COLUMNS[1:]}, "chosen": _chosen(row)}


def _chosen(row: Values) -> str | None:
    if "alpha" not in row:
        return None
    return ", ".join(f"{key} {value:g}" for key, value in [*row["settings"].items(), ("alpha", row["alpha"])])


def _table(config: Mapping[str, Any], name: str, target: str, rows: Mapping[str, Values]) -> Table:
    notes = {row: _note(config, row, values) for row, values in rows.items()}
    return Table(
        _word(name, target),
        f"{name}: {target} taken out",
        COLUMNS,
        [_row(row, values) for row, values in rows.items()],
        "Intervals are 95 % bootstraps over test images; they say nothing of other networks, seeds or classes.",
        RETRAINED,
        _references(rows),
        {row: note for row, note in notes.items() if note},
    )


def _references(rows: Iterable[str]) -> list[str]:
    """Rows that compete with no other; a mask on the logit does."""
    return [row for row in rows if row == "untouched" or row.startswith(f"{RETRAINED}, ")]


def _note(config: Mapping[str, Any], row: str, values: Values) -> str:
    if "refused" in values:
        return f"No answer here. {values['refused']}"
    notes = [config["notes"].get(row, "")]
    if row == RETRAINED:
        notes.append(
            f"On its features the ridge probe recalls {values['ridge']:.1%} of the class, the MLP probe "
            f"{values['mlp']:.1%}, the nearest centre {values['centre']:.1%}; after relearning it gets "
            f"{values['relearned']:.1%} right."
        )
    if values.get("gates"):
        gates = ", ".join(f"{layer} {gate:.2f}" for layer, gate in values["gates"].items())
        notes.append(f"R^2 of the gates: {gates}.")
    return " ".join(note for note in notes if note)


def _means(config: Mapping[str, Any], name: str, subject: Values) -> Table:
    """The mean over classes of every number."""
    classes = list(subject["classes"].values())
    rows, notes = [], {}
    for row in classes[0]:
        parts = [values[row] for values in classes if row in values and "refused" not in values[row]]
        means = {column.key: _over_classes(parts, column.key) for column in COLUMNS if column.key not in TEXTS}
        rows.append({"edit": row, **means})
        notes[row] = config["notes"].get(row, "")
        if len(parts) < len(classes):
            notes[row] = (
                f"{notes[row]} Mean over {len(parts)} of {len(classes)} classes; no answer for the others.".strip()
            )
    targets = ", ".join(subject["classes"])
    return Table(
        _word(name, "mean"),
        f"{name}: means over the classes {targets}",
        [column for column in COLUMNS if column.key == "edit" or column.key not in TEXTS],
        rows,
        "Each class was taken out of the network alone. Gaps are means of their sizes, or two misses of opposite signs "
        "would make a hit. The tables of single classes are below, with signs, intervals and what was chosen.",
        RETRAINED,
        _references(classes[0]),
        {row: note for row, note in notes.items() if note},
    )


def _gates(name: str, gates: Mapping[str, Mapping[str, float | None]]) -> Table:
    columns = [Column("layer", "layer"), *(Column(target, target) for target in gates)]
    layers = next(iter(gates.values()))
    return Table(
        _word(name, "gates"),
        f"{name}: how linearly readable each class is before each layer",
        columns,
        [{"layer": layer, **{target: of[layer] for target, of in gates.items()}} for layer in layers],
        "R^2 of the gate of a mixture shift at the layer's input: the squared correlation with membership of the best "
        "linear reader that is right in the mean of every class. Below .2 the shift is not made there. A dash: there "
        "is no such reader, as the means of the classes differ in too few directions.",
    )


def _over_classes(parts: Iterable[Values], key: str) -> float | None:
    """The mean over classes; of a gap, that of its size."""
    values = [value_of(part.get(key)) for part in parts]
    return _mean(abs(value) if key.endswith("_gap") and value is not None else value for value in values)


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _probes(name: str, target: str, rows: Mapping[str, Values]) -> Chart:
    shown = {row: values for row, values in rows.items() if row != RETRAINED and "refused" not in values}
    return Chart(
        _word(name, target, "features"),
        f"{name}, {target}: what can be read of the class, minus the retrained network",
        [
            Series(title, list(shown), [value_of(values[key]) for values in shown.values()])
            for key, title in (("ridge_gap", "ridge probe"), ("mlp_gap", "MLP probe"), ("centre_gap", "nearest centre"))
        ],
        "bars",
        "",
        "minus retrained",
        y_unit="points",
        note="0 is the network that never saw the class. Above it more of the class is left, below it less: both miss.",
        table=_word(name, target),
    )


def _costs(config: Mapping[str, Any], name: str, target: str, rows: Mapping[str, Values], group: str) -> Chart:
    series = []
    for row, values in rows.items():
        if "curve" in values and row in config["drawn"][group]:
            curve = [point for point in values["curve"] if point["others_fall"] <= DRAWN]
            if not curve:
                continue
            series.append(
                Series(
                    row,
                    [point["others_fall"] for point in curve],
                    [point["target"] for point in curve],
                    labels=[f"{point['alpha']:g}" for point in curve],
                )
            )
        elif "point" in values and row in (RETRAINED, "logit mask"):
            point = values["point"]
            series.append(Series(row, [point["others_fall"]], [point["target"]], target=row == RETRAINED))
    return Chart(
        _word(name, target, group),
        f"{name}, {target}: what forgetting costs the others, over alpha ({group})",
        series,
        "lines",
        "others, mean fall",
        "the class",
        x_unit="points",
        y_unit="share",
        note=f"Test images, the first {config['measure']['curve_images']} of every class; settings as chosen on "
        "training images, alpha "
        + ", ".join(f"{alpha:g}" for alpha in config["measure"]["curve_alphas"])
        + f". The star is the retrained network. Costs above {100 * DRAWN:g} points are not drawn.",
        table=_word(name, target),
    )


def _reconstructions(config: Mapping[str, Any], found: Values) -> Table:
    classes, before = found["classes"], found["before"]
    columns = [
        Column("digit", "digit"),
        Column("before", "before", None, None, "Mean squared error on the digit's test images."),
        Column("retrained", "trained without it", None, None, "The same of an autoencoder that never saw the digit."),
    ]
    for edit in config["edits"]:
        columns += [
            Column(f"{edit} own", f"{edit}: the digit", None, None, "Its error after its own ablation."),
            Column(f"{edit} others", f"{edit}: others, mean", None, None, "Mean error of the other digits then."),
        ]
    rows = []
    for k, name in enumerate(classes):
        row: Values = {"digit": name, "before": before[k]}
        row["retrained"] = found["retrained"][name][k] if name in found["retrained"] else None
        for edit, matrix in found["edits"].items():
            row[f"{edit} own"] = matrix[k][k]
            row[f"{edit} others"] = _mean(matrix[k][j] for j in range(len(classes)) if j != k)
        rows.append(row)
    return Table(
        "autoencoder",
        "A convolutional autoencoder: error before and after each digit was taken out of all layers",
        columns,
        rows,
        f"alpha {config['alpha']:g}; layers {', '.join(found['layers'])}. The paper's figure 5 leaves strides, decoder "
        "and edited layers open; these are ours.",
    )


def _heat(found: Values) -> list[Chart]:
    classes, before = found["classes"], found["before"]
    highest = max(error for matrix in found["edits"].values() for row in [before, *matrix] for error in row)
    return [
        Chart(
            _word("autoencoder", edit),
            f"Autoencoder, {edit}: a thousand times the mean squared error on each digit",
            [
                Series("before", classes, [1000 * error for error in before]),
                *(
                    Series(f"without {name}", classes, [1000 * error for error in row])
                    for name, row in zip(classes, matrix, strict=True)
                ),
            ],
            "heat",
            "digit shown",
            "digit taken out",
            y_range=(0.0, 1000 * highest),
            table="autoencoder",
            note="The diagonal is the digit that was taken out. Both maps have the same scale.",
        )
        for edit, matrix in found["edits"].items()
    ]


# The summary: every number in it is taken from the tables.


def _summary(config: Mapping[str, Any], found: Values, autoencoder: Values | None) -> str:
    parts = [
        "A network that was trained without a class still separates that class in its features, and takes its images "
        "for the classes they resemble. So the target of forgetting is that network, in every column: to erase more "
        "than it does misses, as to erase less. Every closed form that one recording can give is put beside it here.",
        "Settings and strengths were chosen on training images that were not recorded, by one rule for all: the "
        "highest (1 - accuracy on the class) x (mean accuracy on the others). No test image and no retrained network "
        "had a part in it.",
    ]
    control = {name for name, settings in config["ways"].items() if "random_like" in settings}
    for name, subject in found.items():
        parts.append(_finding(name, list(subject["classes"].values()), control))
    if autoencoder:
        parts.append(_drawn(autoencoder))
    parts.append(
        "Limits: small networks, few classes, one network that is edited per architecture; intervals are over test "
        "images only. The second retrained network says how far apart two networks are that never saw the class."
    )
    return "\n\n".join(parts)


def _finding(name: str, classes: Sequence[Mapping[str, Values]], control: Collection[str]) -> str:
    def mean(row: str, key: str) -> float:
        return _over_classes((values[row] for values in classes if "refused" not in values[row]), key) or 0.0

    def told(row: str) -> str:
        return (
            f"leaves {mean(row, 'target'):.1%} of the class right and costs the others "
            f"{100 * mean(row, 'others_fall'):.2f} points (ToW {mean(row, 'tow'):.3f}, same label as the retrained "
            f"network {mean(row, 'agreement'):.0%})"
        )

    def nearest(key: str) -> str:
        return min(cheap, key=lambda row: abs(mean(row, key) - mean(RETRAINED, key)))

    rows = [row for row, values in classes[0].items() if "curve" in values]
    cheap = [row for row in rows if row not in control and mean(row, "others_fall") <= CHEAP]
    seeds = [row for row in classes[0] if row.startswith(f"{RETRAINED}, ")]
    said = [
        f"{name}: a mask on the logit, which forgets nothing, has ToW {mean('logit mask', 'tow'):.3f} and the "
        f"retrained network's label on {mean('logit mask', 'agreement'):.0%} of the class's images; the recall "
        f"of a ridge probe on its features is {_points(mean('logit mask', 'ridge_gap'))} from the retrained network's."
    ]
    if seeds:
        said.append(
            f"Two networks that never saw the class give {mean(seeds[0], 'agreement'):.0%} the same label, and after "
            f"relearning they are {_points(mean(seeds[0], 'relearned_gap'))} apart: what is nearer cannot be told."
        )
    for row, what in (
        ("paper, alpha 1", "The paper's edit at alpha 1"),
        ("sharpened", "Our sharpened filter"),
        ("sharpened + BatchNorm", "With BatchNorm re-estimated it"),
    ):
        if row in rows:
            said.append(f"{what} {told(row)}.")
    found = [
        f"by {what} {nearest(key)} ({shown(mean(nearest(key), key))})"
        for what, key, shown in (
            ("label", "agreement", "{:.0%}".format),
            ("ToW", "tow", "{:.3f}".format),
            ("the ridge probe", "ridge_gap", _points),
            ("the MLP probe", "mlp_gap", _points),
            ("relearning", "relearned_gap", _points),
        )
        if cheap
    ]
    if found:
        said.append(
            f"Of the closed forms that cost the others at most {100 * CHEAP:g} points, nearest to the retrained "
            f"network are: {', '.join(found)}."
        )
    return " ".join(said)


def _points(value: float) -> str:
    return f"{100 * value:.1f} points"


def _drawn(found: Values) -> str:
    classes, before = found["classes"], found["before"]
    count = range(len(classes))
    said = []
    for edit, matrix in found["edits"].items():
        own = sum(matrix[k][k] / before[k] for k in count) / len(classes)
        others = [matrix[k][j] / before[j] for k in count for j in count if j != k]
        said.append(f"{edit}: the digit's error times {own:.2f}, the others' times {sum(others) / len(others):.2f}")
    text = "Autoencoder: " + "; ".join(said) + "."
    if found["retrained"]:
        places = {name: classes.index(name) for name in found["retrained"]}
        gap = [found["retrained"][name][k] / before[k] for name, k in places.items()]
        text += f" One that was trained without the digit draws it with an error times {sum(gap) / len(gap):.2f}."
    return text
