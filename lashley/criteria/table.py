"""Criteria as text, as tables and as figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from lashley.criteria.findings import EditCriteria, Findings, LayerCriteria, Number
from lashley.result import Chart, Column, Result, Series, Table, made_by

__all__ = ["LAYER", "OUTPUT", "result_of", "text_of"]

OUTPUT = (
    Column(
        "ablated", "target answered", "lower", "share", "The target's samples that are still answered as their own."
    ),
    Column("necessity", "necessity", "higher", None, "1 - share answered after / before; 1: the ability is gone."),
    Column("fall_mean", "others fall", "lower", "points", "The mean fall over the other concepts: specificity."),
    Column("fall_worst", "worst falls", "lower", "points", "The fall of the concept that fell most."),
    Column("kl", "others' KL", "lower", None, "KL of the others' predictions, before || after, in nats."),
    Column(
        "like_retrained", "as retrained", "higher", "share", "The target's samples answered as the retrained one does."
    ),
    Column("injected", "target answered", "higher", "share", "The target's samples that are answered as their own."),
    Column(
        "false_induction",
        "others taken for it",
        "lower",
        "share",
        "Without it sufficiency is empty: a network that only ever says one thing is always right about it.",
    ),
    Column(
        "agree", "same answer", "higher", "share", "Reactivation: the target's samples answered as the network did."
    ),
    Column(
        "cosine", "cosine", "higher", None, "Reactivation: of the logits on the target's samples, with the network's."
    ),
)
"""What is measured at the output. For a language model a sample is a text, and "answered" is the probability of its
answer per token. Also in ``EditCriteria.output``: ``own`` (the untouched network's share), ``necessity_chance`` (the
same as ``necessity`` with chance taken off both), ``null`` and ``null_induction`` (the null state without anything
injected).
"""

LAYER = (
    Column(
        "rho_plus", "rho+", "lower", None, "What the engram misses of the target's responses.", "from moments alone"
    ),
    Column("rho_minus", "rho-", "lower", None, "What it does to the others' responses.", "from moments alone"),
    Column("reactivation", "rho+", "lower", None, "The same on the samples.", "on samples, layer by layer"),
    Column("leak", "rho-", "lower", None, "The same on the samples.", "on samples, layer by layer"),
    Column(
        "necessity",
        "necessity error",
        "lower",
        None,
        "Target: ablated against the null state.",
        "the whole network edited",
    ),
    Column(
        "specificity_ablated",
        "leak, ablated",
        "lower",
        None,
        "Others: against the network.",
        "the whole network edited",
    ),
    Column(
        "sufficiency",
        "sufficiency error",
        "lower",
        None,
        "Target: injected against the network.",
        "the whole network edited",
    ),
    Column(
        "specificity_injected",
        "leak, injected",
        "lower",
        None,
        "Others: against the null state.",
        "the whole network edited",
    ),
    Column("cosine", "cosine", "higher", None, "Target: injected with the network.", "the whole network edited"),
    Column("cka", "CKA", "higher", None, "Target: injected with the network.", "the whole network edited"),
    Column("norm", "||E||/||W||", None, None, "Moves with the spectral cut."),
)
"""What is measured in a layer (`LayerCriteria`): errors, of which 0 is the best, and two resemblances."""

_COMPARED = tuple(column.key for column in LAYER[:2] + LAYER[4:9])
_BEYOND = 1.5  # errors that are drawn: where a random direction goes, the engram would be a line on the floor
_NAMED = 32  # layers whose names an axis has room for
_ABLATION = ("ablated", "necessity", "fall_mean", "fall_worst", "kl", "like_retrained")


def result_of(found: Findings, provenance: Mapping[str, Any]) -> Result:
    """Tables and figures."""
    target = _names(found.concepts)
    tables, charts = [_layers(found)], _layer_charts(found)
    if found.kind:
        tables = [_outputs(found), _falls(found), *tables]
        charts = [_bars(found), *charts]
        if found.engram.doses:
            tables.append(_doses(found))
            charts.append(_dose_chart(found))
    tables += [_means(found), _controls(found)]
    return Result(
        study="check",
        title=f"Is the engram of {target} one? Four criteria, with controls",
        summary=_summary(found),
        tables=tables,
        charts=charts,
        provenance=made_by(**{"seeds": [found.settings["seed"]], "data": found.data, **provenance}),
        settings=found.settings,
    )


def text_of(found: Findings) -> str:
    """What a terminal shows."""
    parts = [_summary(found)]
    if found.kind:
        parts.append(_columns(_outputs(found), ("necessity", "kl", "cosine", "like_retrained")))
    parts += [_columns(_layers(found), ()), _columns(_means(found), ())]
    return "\n\n".join(parts)


# Tables


def _outputs(found: Findings) -> Table:
    readers = list(found.original.readers)
    retrained = found.retrained is not None
    columns = [Column("edit", "edit")]
    for column in OUTPUT:
        if column.key == "like_retrained" and not retrained:
            continue
        if found.kind == "answers" and column.key in ("false_induction", "like_retrained"):  # both are of classes
            continue
        better = "target" if retrained and column.key == "ablated" else column.better
        group = "ablated" if column.key in _ABLATION else "injected into the null state"
        columns.append(Column(column.key, column.title, better, column.unit, column.note, group))
        if column.key == "fall_worst":
            columns.append(Column("worst", "which", group="ablated"))
    columns += [
        Column(
            reader,
            reader,
            "target" if retrained else None,
            "share",
            "The target's samples that a reader recognises, fitted anew to the ablated network's features.",
            "read from the features",
        )
        for reader in readers
    ]
    original = found.engram.output["own"]
    rows: list[dict[str, Any]] = [
        {"edit": "original", "ablated": original, **found.original.readers},
        *(_output_row(edit) for edit in _edits(found)),
        {
            "edit": "null state",
            "injected": found.engram.output.get("null"),
            "false_induction": found.engram.output.get("null_induction"),
        },
    ]
    keys = {column.key for column in columns}
    return Table(
        "output",
        f"At the output: {_names(found.concepts)}",
        columns,
        [{key: value for key, value in row.items() if key in keys} for row in rows],
        note=" ".join(found.notes),
        target_row="retrained" if retrained else None,
        reference_rows=("original", "null state"),
        row_notes={edit.title: _sentence(edit.note) for edit in _edits(found)},
    )


def _output_row(edit: EditCriteria) -> dict[str, Any]:
    shown = {column.key: edit.output.get(column.key) for column in OUTPUT}
    return {"edit": edit.title, **shown, "worst": edit.worst or None, **edit.readers}


def _falls(found: Findings) -> Table:
    edits = _edits(found)
    return Table(
        "falls",
        "Concept by concept: by how much its samples are answered less",
        [
            Column("concept", "samples of"),
            *(Column(f"edit{place}", edit.title, None, "points") for place, edit in enumerate(edits)),
        ],
        [
            {"concept": name, **{f"edit{place}": edit.falls.get(name) for place, edit in enumerate(edits)}}
            for name in (*found.concepts, *found.others)
        ],
        note="By the ablated network. The target should fall and nobody else.",
    )


def _layers(found: Findings) -> Table:
    rows = [{"layer": name, **_layer_row(layer)} for name, layer in found.engram.layers.items()]
    keys = [column.key for column in LAYER if any(row[column.key] is not None for row in rows)]
    return Table(
        "layers",
        "In the layers: the engram",
        [Column("layer", "layer"), *_unranked(keys)],
        [{key: value for key, value in row.items() if key in ("layer", *keys)} for row in rows],
        note="Shares of the norm of what was learned; 0 is the best, but for cosine and CKA. " + " ".join(found.notes),
    )


def _controls(found: Findings) -> Table:
    keys = _COMPARED
    rows = [
        {"where": f"{name}: {edit.title}", **{key: _layer_row(layer)[key] for key in keys}}
        for name in found.engram.layers
        for edit in _layered(found)
        for layer in [edit.layers[name]]
    ]
    kept = [key for key in keys if any(row[key] is not None for row in rows)]
    return Table(
        "controls",
        "In the layers: the engram beside its controls",
        [Column("where", "layer: edit"), *_unranked(kept)],
        [{key: value for key, value in row.items() if key in ("where", *kept)} for row in rows],
    )


def _means(found: Findings) -> Table:
    """Over the layers, so that edits can be compared at a glance."""
    rows = []
    for edit in _layered(found):
        values = {key: [_middle(_layer_row(layer)[key]) for layer in edit.layers.values()] for key in _COMPARED}
        known = {key: [v for v in some if v is not None] for key, some in values.items()}
        rows.append(
            {"edit": edit.title, **{key: sum(some) / len(some) if some else None for key, some in known.items()}}
        )
    kept = [key for key in _COMPARED if any(row[key] is not None for row in rows)]
    return Table(
        "means",
        "In the layers: the mean over them, of every edit",
        [Column("edit", "edit"), *(column for column in LAYER if column.key in kept)],
        [{key: value for key, value in row.items() if key in ("edit", *kept)} for row in rows],
        row_notes={edit.title: _sentence(edit.note) for edit in _layered(found)},
    )


def _unranked(keys: Sequence[str]) -> list[Column]:
    """The columns of layers where rows are of different layers, which do not compete."""
    return [replace(column, better=None) for column in LAYER if column.key in keys]


def _layer_row(layer: LayerCriteria) -> dict[str, Any]:
    row = {column.key: getattr(layer, column.key) for column in LAYER if hasattr(layer, column.key)}
    return {**row, "rho_plus": layer.recorded.rho_plus, "rho_minus": layer.recorded.rho_minus}


def _doses(found: Findings) -> Table:
    edits = [edit for edit in (found.engram, *found.controls.values()) if edit.doses]
    columns, rows = [Column("dose", "dose")], []
    for place, edit in enumerate(edits):
        columns += [
            Column(f"target{place}", "target answered", None, "share", group=edit.title),
            Column(f"others{place}", "others answered", None, "share", group=edit.title),
        ]
    for number, dose in enumerate(found.engram.doses):
        row: dict[str, Any] = {"dose": f"{dose.factor:g}"}
        for place, edit in enumerate(edits):
            row |= {f"target{place}": edit.doses[number].target, f"others{place}": edit.doses[number].others}
        rows.append(row)
    said = [f"{edit.title}: {'nothing moves' if edit.monotony is None else f'{edit.monotony:.2f}'}" for edit in edits]
    return Table(
        "doses",
        "Dose and response",
        columns,
        rows,
        note="The ablation at strengths times that of the check. Spearman's rho of the dose and the target's fall: "
        + "; ".join(said)
        + ".",
    )


# Figures


def _layer_charts(found: Findings) -> list[Chart]:
    edits = _layered(found)
    shown = (
        (
            "rho_plus",
            "What the edit misses of the target's responses (rho+, from moments)",
            "an edit of nothing misses 1",
        ),
        ("rho_minus", "What it does to the others' responses (rho-, from moments)", ""),
        (
            "necessity",
            "Necessity: the ablated network against the null state, on the target",
            "ablating nothing leaves 1",
        ),
        ("specificity_ablated", "Specificity: the ablated network against the network, on the others", ""),
        (
            "sufficiency",
            "Sufficiency: the injected null state against the network, on the target",
            "nothing injected: 1",
        ),
        ("specificity_injected", "Specificity: the injected null state against the null state, on the others", ""),
    )
    axis, label = _axis(list(found.engram.layers))
    charts = []
    for key, title, note in shown:
        lines = [(e.title, axis, [_layer_row(layer)[key] for layer in e.layers.values()]) for e in edits]
        known = [middle for line in lines for v in line[2] if (middle := _middle(v)) is not None]
        if not known:
            continue
        highest = max(known)
        notes = [f"0 is the best; {note}." if note else "0 is the best."]
        if highest > _BEYOND:
            notes.append(f"What lies beyond {_BEYOND:g} is in the table.")
        chart = _lines(
            f"layers_{key}",
            title,
            lines,
            x_label=label,
            y_label="error",
            y_range=(0.0, min(_BEYOND, 1.1 * highest)) if highest > 0 else None,
            note=" ".join(notes),
        )
        charts.append(chart)
    return charts


def _axis(layers: list[str]) -> tuple[list[Any], str]:
    """Places of the layers along an axis: the ends of their names that tell them apart, or numbers of many."""
    if len(layers) > _NAMED:
        return list(range(1, len(layers) + 1)), "layer, in the order of the table"
    parts = [name.split(".") for name in layers]
    for kept in range(1, max(map(len, parts))):
        short = [".".join(some[-kept:]) for some in parts]
        if len(set(short)) == len(short):
            return short, "layer"
    return layers, "layer"


def _dose_chart(found: Findings) -> Chart:
    edits = [edit for edit in (found.engram, *found.controls.values()) if edit.doses]
    lines = [
        (f"{edit.title}: {who}", [dose.factor for dose in edit.doses], [getattr(dose, who) for dose in edit.doses])
        for edit in edits
        for who in ("target", "others")
    ]
    return _lines(
        "dose", "Dose and response", lines, x_label="strength of the ablation", y_label="answered", y_unit="share"
    )


def _bars(found: Findings) -> Chart:
    edits = _edits(found)
    names = [edit.title for edit in edits]
    shown = (
        ("ablated", "target, ablated"),
        ("fall_worst", "worst fall, ablated"),
        ("injected", "target, injected"),
        ("false_induction", "others, injected"),
    )
    return Chart(
        "output_bars",
        "At the output",
        [
            _series(title, names, [edit.output.get(key) for edit in edits])
            for key, title in shown
            if any(edit.output.get(key) is not None for edit in edits)
        ],
        kind="bars",
        y_label="share of samples" if found.kind == "classes" else "probability of the answer",
        y_unit="share",
        note="Ablated: how often the target is still answered, and by how much the concept falls that fell most; a "
        "good engram has low bars. Injected into the null state: how often the target is answered, which should be "
        "often, and how often others are taken for it, which should be seldom.",
    )


def _lines(name: str, title: str, lines: Iterable[tuple[str, Sequence[Any], Sequence[Any]]], **settings: Any) -> Chart:
    """One line for each that has numbers."""
    kept = [line for line in lines if any(value is not None for value in line[2])]
    return Chart(name, title, [_series(*line) for line in kept], **settings)


def _series(name: str, x: Sequence[Any], values: Sequence[Number | float]) -> Series:
    ends = [(v, v, v) if v is None or isinstance(v, float) else tuple(v) for v in values]
    y, low, high = zip(*ends, strict=True)
    banded = any(value is not None and not isinstance(value, float) for value in values)
    return Series(name, tuple(x), y, *((low, high) if banded else ()))


# Words


def _summary(found: Findings) -> str:
    target = _names(found.concepts)
    if not found.counts[0]:
        lines = [
            f"Does the engram of {target} hold what its rows need, and nothing of the others'? From moments alone."
        ]
    else:
        lines = [
            f"Is what was found in the weights the memory of {target}? Measured on {found.counts[0]} of its samples "
            f"and {found.counts[1]} of {len(found.others)} other concept{'s' * (len(found.others) != 1)}."
        ]
    if found.kind:
        engram = found.engram.output
        what = "samples answered as their own" if found.kind == "classes" else "the answer's probability"
        lines.append(
            f"Without the engram ({what}): the target falls from {_share(engram['own'])} to "
            f"{_share(engram['ablated'])}, the others by {_points(engram['fall_mean'])} in the mean, "
            f"{found.engram.worst!r} most, by {_points(engram['fall_worst'])}."
        )
        induced = engram.get("false_induction")
        lines.append(
            f"The engram alone, in the null state: the target {_share(engram['injected'])}"
            + (f", others taken for it {_share(induced)}." if induced is not None else ".")
        )
        lines += [_nearest(found)]
        if found.retrained is not None:
            retrained = found.retrained.output
            lines.append(
                f"The network that was trained without it answers {_share(retrained['ablated'])} of the target: "
                "that is what to come near to, in every column."
            )
    return "\n".join(lines) + "\n\n" + "\n".join(found.notes)


def _nearest(found: Findings) -> str:
    """The control that takes most from the target and least from the others."""

    def selectivity(edit: EditCriteria) -> float:
        own, ablated, fall = (edit.output.get(key) for key in ("own", "ablated", "fall_mean"))
        return -1.0 if own is None or ablated is None or fall is None else own.value - ablated.value - fall.value

    edits = [edit for edit in found.controls.values() if edit.layers]
    if not edits:
        return "There is no control to compare it with."
    best = max(edits, key=selectivity)
    return (
        f"The most selective control ({best.title}): the target falls to {_share(best.output['ablated'])}, the others "
        f"by {_points(best.output['fall_mean'])}."
    )


def _layered(found: Findings) -> list[EditCriteria]:
    return [edit for edit in (found.engram, *found.controls.values()) if edit.layers]


def _middle(number: Number | float) -> float | None:
    return number if number is None or isinstance(number, float) else number.value


def _edits(found: Findings) -> list[EditCriteria]:
    return [edit for edit in (found.retrained, found.engram, *found.controls.values()) if edit is not None]


def _names(concepts: Sequence[str]) -> str:
    return " and ".join(repr(name) for name in concepts)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _share(number: Number) -> str:
    return _said(number, "%")


def _points(number: Number) -> str:
    return _said(number, "points")


def _said(number: Number, unit: str) -> str:
    """In hundredths, with the interval where it is wider than nothing."""
    if number is None:
        return "(undefined)"
    value, low, high = (f"{100 * part + 0.0:.1f}" for part in number)
    return f"{value} {unit}" + (f" ({low} to {high})" if low != high else "")


def _columns(table: Table, left_out: Sequence[str]) -> str:
    """A table in columns, without the ends of intervals."""
    rows = table.rows
    shown = [c for c in table.columns if c.key not in left_out and any(row[c.key] is not None for row in rows)]
    lines = [[c.title for c in shown], *([_cell(row[c.key], c.unit) for c in shown] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(shown))]
    heads = ""
    for group, some in groupby(range(len(shown)), lambda i: shown[i].group):
        place = list(some)
        heads = heads.ljust(sum(widths[: place[0]]) + 2 * place[0])
        heads += group
        widths[place[-1]] += max(0, len(group) - sum(widths[i] for i in place) - 2 * (len(place) - 1))
    body = ["  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([table.title, *([heads.rstrip()] if heads.strip() else []), *body])


def _cell(value: Any, unit: str | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    scale, places = (100, 1) if unit in ("share", "points") else (1, 3)
    number = scale * (value["value"] if isinstance(value, Mapping) else value)
    return f"{number + 0.0:.{places}f}{' %' if unit == 'share' else ''}"
