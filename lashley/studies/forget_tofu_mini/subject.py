"""What the study edits and how it judges it: a model, rows by number, and the measures of a task.

Rows are named by their number in one set of texts, so that what is forgotten, kept or was never seen is a list of
numbers; ``[[100, 120], [520, 540]]`` in a config are the rows from 100 up to and without 120, and from 520 to 540.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import lashley
from lashley.data.text import TextBatches
from lashley.errors import DataError
from lashley.estimators import Estimator, Projection, Ridge
from lashley.forgetting import STRENGTHS, held_out
from lashley.metrics import answers, reference
from lashley.recording import Recording

__all__ = ["Edit", "Judge", "Subject", "Task", "edits_of", "estimators_of", "rows_in", "spread"]

FORGET, RETAIN = "forget", "retain"
_ESTIMATORS: dict[str, type[Estimator]] = {"Projection": Projection, "Ridge": Ridge}


def rows_in(ranges: Iterable[Sequence[int]]) -> list[int]:
    """The numbers in several ranges, each a first and a last that is not in it."""
    return [row for first, last in ranges for row in range(first, last)]


def spread(rows: Sequence[int], count: int) -> list[int]:
    """So many of the rows at most, from everywhere among them."""
    return list(rows) if len(rows) <= count else [rows[k * len(rows) // count] for k in range(count)]


@dataclass(frozen=True)
class Subject:
    """A language model with the texts it may know.

    Attributes:
        model: as it was trained.
        tokenizer: of the model.
        texts: every row of the set.
        batch: rows per batch.
    """

    model: nn.Module
    tokenizer: Any
    texts: Sequence[Any]
    batch: int

    def batches(self, rows: Sequence[int]) -> TextBatches:
        """The rows of these numbers."""
        if wrong := [row for row in rows if not 0 <= row < len(self.texts)]:
            raise DataError(f"Expected numbers of rows below {len(self.texts)}, got {wrong[:3]}.")
        return lashley.text_batches([self.texts[row] for row in rows], self.tokenizer, self.batch)

    def embedding(self) -> nn.Embedding:
        """What the model looks its tokens up in."""
        model: Any = self.model
        found: nn.Embedding = model.get_input_embeddings()
        return found

    def name_of(self, module: nn.Module) -> str:
        """Its dotted name."""
        return next(name for name, other in self.model.named_modules() if other is module)


@dataclass(frozen=True)
class Edit:
    """One way of forgetting, up to its strength.

    Attributes:
        name: in the config and in the result.
        estimator: of the engram.
        layers: patterns of the layers that are edited.
        strength: how alpha is spread over them.
        tied: "skip", "untie" or "both", as in `lashley.ablate_`.
    """

    name: str
    estimator: Estimator
    layers: tuple[str, ...]
    strength: str = "uniform"
    tied: str = "skip"


def estimators_of(config: Mapping[str, Any]) -> dict[str, Estimator]:
    """The estimators that a config names, by the names it gives them."""
    found = {}
    for name, settings in config["estimators"].items():
        rest = dict(settings)
        found[name] = _ESTIMATORS[rest.pop("name")](**rest)
    return found


def edits_of(config: Mapping[str, Any], key: str = "edits") -> list[Edit]:
    """The edits that a config describes."""
    estimators = estimators_of(config)
    return [
        Edit(
            name,
            estimators[settings["estimator"]],
            tuple(config["groups"][settings["layers"]]),
            settings.get("strength", "uniform"),
            settings.get("tied", "skip"),
        )
        for name, settings in config[key].items()
    ]


@dataclass(frozen=True)
class Task:
    """Rows to forget, rows to keep, and the recording of both, each in two parts: one that makes and one that judges.

    Attributes:
        forget, retain: numbers of rows.
        recording: of four concepts, "forget", "retain" and the fifth of each that is held out.
    """

    name: str
    subject: Subject
    forget: list[int]
    retain: list[int]
    recording: Recording

    @classmethod
    def of(
        cls, name: str, subject: Subject, forget: Sequence[int], known: Sequence[int], layers: Sequence[str]
    ) -> Task:
        """Recorded in one pass; what is known and not to be forgotten is to be kept.

        Linear layers count the tokens of answers, the embedding every token: a name is looked up wherever it stands.
        """
        gone = set(forget)
        task = {FORGET: list(forget), RETAIN: [row for row in known if row not in gone]}
        concepts = {}
        for part, rows in task.items():
            makes, judges = held_out(len(rows))
            concepts[part] = subject.batches([rows[k] for k in makes])
            concepts[f"{part}, held out"] = subject.batches([rows[k] for k in judges])
        table = subject.name_of(subject.embedding())

        def counted(batch: Mapping[str, Tensor], site: Any) -> Tensor:
            return batch["attention_mask"].bool() if site.name == table else batch["labels"] != -100

        recording = lashley.record(subject.model, concepts, target_modules=layers, rows=counted, progress=False)
        return cls(name, subject, task[FORGET], task[RETAIN], recording)

    def judging(self, part: str) -> list[int]:
        """The rows of a part that are held out."""
        rows = self.forget if part == FORGET else self.retain
        return [rows[k] for k in held_out(len(rows))[1]]

    def engram(self, edit: Edit, *, whole: bool = True, base: nn.Module | None = None) -> lashley.Engram:
        """Of everything that is to be forgotten; or of the part that makes, against the parts that make."""
        concepts = [FORGET, f"{FORGET}, held out"] if whole else [FORGET]
        return self.recording.engram(
            self.subject.model,
            concepts,
            reference=None if whole else [FORGET, RETAIN],
            base=base,
            estimator=edit.estimator,
            layers=edit.layers,
        )


@dataclass
class Judge:
    """Measures an edited model on a task's rows.

    Attributes:
        probes: rows to be kept that are measured, spread over those held out.
    """

    task: Task
    probes: int
    forget: TextBatches = field(init=False)
    retain: TextBatches = field(init=False)

    def __post_init__(self) -> None:
        subject = self.task.subject
        self.forget = subject.batches(self.task.forget)
        self.retain = subject.batches(spread(self.task.judging(RETAIN), self.probes))
        self._before = reference(subject.model, self.retain)
        self._rows = subject.embedding().weight.detach().clone()

    def probability(self, model: nn.Module) -> float:
        """Of the answers to be forgotten."""
        return answers(model, self.forget).means()["probability"]

    def all(self, model: nn.Module) -> dict[str, float]:
        """Probability and exact memorisation of what is to be forgotten and of the rest, and the divergence there."""
        gone, kept = answers(model, self.forget).means(), answers(model, self.retain, self._before).means()
        return {
            "forget": gone["probability"],
            "forget_exact": gone["exact"],
            "retain": kept["probability"],
            "retain_exact": kept["exact"],
            "kl": kept["kl"],
        }

    def edited(self, model: nn.Module) -> dict[str, float]:
        """The same of an edited model, and "restored": what is to be forgotten once the embedding is as it was."""
        found = self.all(model)
        return {**found, "restored": self.restored(model, found["forget"])}

    def restored(self, model: nn.Module, now: float) -> float:
        """The probability of what is to be forgotten with the embedding's original rows put back: what an edit of the
        embedding alone has hidden and not removed.
        """
        table: Any = model
        weight = table.get_input_embeddings().weight
        if torch.equal(weight, self._rows):
            return now
        with _holding(weight, self._rows):
            return self.probability(model)


@contextmanager
def _holding(parameter: nn.Parameter, values: Tensor) -> Iterator[None]:
    """The parameter with other values inside the block."""
    own = parameter.detach().clone()
    with torch.no_grad():
        parameter.copy_(values)
        try:
            yield
        finally:
            parameter.copy_(own)


def spread_of(edit: Edit, alpha: float) -> Any:
    """What `lashley.ablate_` takes as the strength of this edit."""
    return STRENGTHS[edit.strength](alpha)
