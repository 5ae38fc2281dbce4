"""The result in words: the question, what came out, the limits. Every number is one of the tables'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lashley.result import Table, value_of
from lashley.studies.planted.compared import ANOTHER_NETWORK, ANOTHER_ORDER, BACK, OTHER, RANDOM, UNTOUCHED
from lashley.studies.planted.localising import ALL, ORACLE, SHUFFLED
from lashley.studies.planted.shown.numbers import slug

__all__ = ["summary"]

PAPER, CHANGE = "paper", "paper, of the change"


def summary(config: Mapping[str, Any], settings: Sequence[str], tables: Sequence[Table]) -> str:
    """Paragraphs for somebody who knows nothing of the study."""
    cells = _Cells(tables)
    paragraphs = [_asked(config), _where(config, cells), _undone(settings, cells), _damage(settings, cells)]
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
        f"Asked: a small network that reads digits is taught {config['memories']} memories, sets of images with "
        "labels that nothing but having seen them gives away. Marked memories are digits under a pattern of the "
        "memory's own, all called by one wrong digit; relabelled ones are plain digits, each called by a wrong digit "
        "drawn at random. They are written one after another, either each into a mask of weights of its own, so that "
        "its place is known, or in sequence into all weights, with a checkpoint after each. Beside it stand networks "
        "that were never taught some of them: same start, same images in the same order. Is a memory where its "
        "engram is large? Is a network without the engram of some memories the one that was never taught them? Does "
        "the size of an engram say which layer does the damage?"
    )


def _where(config: Mapping[str, Any], cells: _Cells) -> str:
    sentences = ["Where it is (area under the ROC curve over all weights, 0.5 is chance, intervals over memories)."]
    for kind in config["kinds"]:
        key = slug(f"{kind} entries")
        paper = ("place-masked", "engram, paper", key)
        sentences.append(
            f"{kind.capitalize()} memories: the paper's engram finds the mask at {cells.interval(*paper)}, which is "
            f"{cells.beside(0.5, *paper)} chance; the engram of what writing changed at "
            f"{cells.interval('place-masked', 'engram of the change, paper', key)}; the size of that change, which "
            f"does not ask for the memory, at {cells.number('place-masked', ALL, key)}; the Fisher information at "
            f"{cells.number('place-masked', 'Fisher', key)}. The oracle, the change of the memory's own stage, is at "
            f"{cells.number('place-masked', ORACLE, key)} by construction, and shuffled at "
            f"{cells.number('place-masked', SHUFFLED, key)}."
        )
    alone = "; ".join(
        f"{kind} {cells.number('place-alone', 'engram, paper', slug(f'{kind} entries'))} and "
        f"{cells.number('place-alone', 'engram of the change, paper', slug(f'{kind} entries'))}"
        for kind in config["kinds"]
    )
    sentences.append(
        "In networks with one memory and nothing else written, the paper's engram and that of the change come to: "
        f"{alone}. There the change alone is the oracle, so the second is no merit of the engram."
    )
    return " ".join(sentences)


def _undone(settings: Sequence[str], cells: _Cells) -> str:
    sentences = [
        "Whether it is undone (images of the forgotten memories on which a network answers as the one never taught "
        "them)."
    ]
    for setting in settings:
        table = f"edits-{slug(setting)}"

        def share(name: str, table: str = table) -> str:
            return cells.share(table, name, "agree_forgotten")

        random = next(name for name, model in RANDOM.items() if model == PAPER)
        sentences.append(
            f"{setting.capitalize()}: {share(UNTOUCHED)} untouched, {share(PAPER)} without the paper's engram, "
            f"{share('sharpened')} without the sharpened one, {share(CHANGE)} without that of the change; "
            f"{share(random)} after a random edit as large, {share(OTHER)} without the engram of other memories; "
            f"{share(BACK)} with the writing taken back; {share(ANOTHER_ORDER)} for a second network never taught, "
            f"{share(ANOTHER_NETWORK)} for one with another start. Held-out digits: "
            f"{cells.share(table, PAPER, 'agree_digits')} without the paper's engram, "
            f"{cells.share(table, UNTOUCHED, 'agree_digits')} untouched."
        )
    return " ".join(sentences)


def _damage(settings: Sequence[str], cells: _Cells) -> str:
    rows = [
        f"{setting}: {cells.interval('damage-ablated', 'engram, paper', slug(setting))} and "
        f"{cells.number('damage-ablated', 'response share', slug(setting))}"
        for setting in settings
    ]
    return (
        "What it says of a layer (rank correlation over layers with the damage of ablating that layer alone; 1 is "
        "the same order, -1 the opposite). The norm of the paper's engram relative to the weight, and the share of "
        "the response that follows from the moments: " + "; ".join(rows) + "."
    )


def _limits(config: Mapping[str, Any]) -> str:
    network = config["network"]
    return (
        f"Limits: one kind of network ({network['kind']} with hidden layers of "
        f"{', '.join(map(str, network['hidden']))}, no biases), images of 14 x 14 pixels, {config['memories']} "
        f"memories of each kind in {len(config['seeds'])} networks; the comparison with networks never taught is of "
        "one of these. Intervals over so few memories are narrow. Earlier memories are rehearsed while a later one "
        "is written, so a little of a masked memory is outside its mask: the first table says how much. An AUROC "
        "over weights asks whether single weights are found; a memory that an engram reads from its inputs need not "
        "be where weights were moved. What is edited and what is judged are the same images of a memory; its other "
        "looks were not tried."
    )
