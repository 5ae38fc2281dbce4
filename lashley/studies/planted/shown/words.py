"""The result in words: the question, what came out, the limits. Every number is one of the tables'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lashley.result import Table, value_of
from lashley.studies.planted.bench import WAYS
from lashley.studies.planted.compared import ANOTHER_ORDER, OTHER, RANDOM, UNTOUCHED
from lashley.studies.planted.localising import ORACLE
from lashley.studies.planted.shown.numbers import slug

__all__ = ["summary"]

PAPER, CHANGE = "paper", "paper, of the change"


def summary(config: Mapping[str, Any], settings: Sequence[str], tables: Sequence[Table]) -> str:
    """Paragraphs for somebody who knows nothing of the study."""
    cells = _Cells(tables)
    paragraphs = [_asked(config), _where(config, cells), _undone(config, cells), _damage(settings, cells)]
    return "\n\n".join([*paragraphs, _limits(config)])


class _Cells:
    """Cells of the tables as text."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._cells: dict[tuple[str, ...], Any] = {
            (t.name, t.label(row), c.key): row[c.key] for t in tables for row in t.rows for c in t.columns
        }

    def number(self, *place: str) -> str:
        value = value_of(self._cells[place])
        return "no number" if value is None else f"{value:.2f}"

    def share(self, *place: str) -> str:
        value = value_of(self._cells[place])
        return "no number" if value is None else f"{100 * value:.0f} %"

    def interval(self, *place: str) -> str:
        cell = self._cells[place]
        return "no number" if cell is None else f"{cell['value']:.2f} ({cell['low']:.2f} to {cell['high']:.2f})"

    def beside(self, level: float, *place: str) -> str:
        """Where an interval lies beside a level."""
        cell = self._cells[place]
        if cell is None or cell["low"] <= level <= cell["high"]:
            return "not to be told from"
        return "above" if cell["low"] > level else "below"


def _asked(config: Mapping[str, Any]) -> str:
    return (
        f"A small network that reads digits is taught {config['memories']} memories: sets of images with labels that "
        "nothing but having seen them gives away. They are written one after another, each into a mask of weights of "
        "its own, so that its place is known, or in sequence into all weights. Beside it stand networks that were "
        "never taught some of them. Is a memory where its engram is large? Is a network without the engram of some "
        "memories the one that was never taught them? Does the size of an engram say which layer does the damage?"
    )


def _where(config: Mapping[str, Any], cells: _Cells) -> str:
    found = []
    for kind in config["kinds"]:
        paper, key = "engram, paper", slug(f"{kind} entries")
        found.append(
            f"for {kind} memories the paper's engram finds the mask at {cells.interval('place-masked', paper, key)}, "
            f"{cells.beside(0.5, 'place-masked', paper, key)} chance, the engram of what writing changed at "
            f"{cells.interval('place-masked', 'engram of the change, paper', key)}, and the oracle, by construction, "
            f"at {cells.number('place-masked', ORACLE, key)}"
        )
    return f"Where it is. As an area under the ROC curve over all weights, chance being 0.5, {'; '.join(found)}."


def _undone(config: Mapping[str, Any], cells: _Cells) -> str:
    """One sentence per kind, with a number for each way of writing."""
    random = next(name for name, model in RANDOM.items() if model == PAPER)
    sentences = [
        "Whether it is undone. On images of the forgotten memories, an edited network answers as the one never "
        "taught them (masked; in sequence):"
    ]
    for kind in config["kinds"]:

        def shares(name: str, part: str = "forgotten", kind: str = kind) -> str:
            tables = [f"edits-{slug(f'{kind}, {way}')}" for way in WAYS]
            return " and ".join(cells.share(table, name, f"agree_{part}") for table in tables)

        sentences.append(
            f"{kind} memories {shares(PAPER)} without the paper's engram, {shares(CHANGE)} without that of the "
            f"change, {shares(UNTOUCHED)} untouched, {shares(random)} after a random edit as large, {shares(OTHER)} "
            f"without the engram of other memories, {shares(ANOTHER_ORDER)} for a second network never taught (on the "
            f"memories that stay {shares(PAPER, 'kept')} without the paper's engram, {shares(CHANGE, 'kept')} without "
            "that of the change);"
        )
    return " ".join(sentences).removesuffix(";") + "."


def _damage(settings: Sequence[str], cells: _Cells) -> str:
    table, engram, number = "damage-ablated", "engram, paper", "layer index"
    found = [
        f"{setting} {cells.interval(table, engram, slug(setting))}, and of the layer's number alone "
        f"{cells.number(table, number, slug(setting))}"
        for setting in settings
    ]
    return (
        "What it says of a layer. The rank correlation, over layers, of the paper's engram norm relative to the weight "
        f"with the damage of taking that layer's engram out alone: {'; '.join(found)}."
    )


def _limits(config: Mapping[str, Any]) -> str:
    network = config["network"]
    return (
        f"Limits: one network ({network['kind']}, hidden layers of {', '.join(map(str, network['hidden']))}, no "
        f"biases, small images), {config['memories']} memories of a kind, {len(config['seeds'])} seeds, of which one "
        "is compared with networks never taught. Intervals over so few memories are too narrow. Earlier memories are "
        "rehearsed while a later one is written, so a little of a masked memory is outside its mask. Whether single "
        "weights are found is not all that finding a memory can mean: an engram reads it from directions of the "
        "input. A memory is judged on the images it was taught with."
    )
