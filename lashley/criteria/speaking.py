"""What a network says about a sample, and how that differs from what another says.

classes   a classifier's logits ``[N, C]``; a sample's own class is that of its concept
answers   a language model's logits ``[N, T, V]`` at the labelled tokens of a text: the sample is the text

Of each sample remain: ``hit`` (1 where the own class is the answer; the probability of the own answer per token),
``says`` (1 where the answer is a class of the target; classes only), ``answer`` (which class, or -1), and beside
another network ``kl`` (of the predictions, in nats), ``agree`` (same first choice; share of tokens) and ``cosine`` (of
the logits; mean over tokens). Where several outputs are the highest, as in a network that went silent, each is the
answer to its share: the first one would otherwise seem to be known.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lashley.errors import DataError, RecordingError

__all__ = ["Answers", "Classes", "Speech", "speech_of"]

KINDS = ("auto", "classes", "answers", "none")
_IGNORED = -100


class Speech(ABC):
    """How a network's outputs are read.

    Attributes:
        kind: "classes" or "answers".
    """

    kind: str

    @abstractmethod
    def logits(self, title: str, output: object, batch: Any, number: int) -> Tensor:
        """What is compared: a row per sample, or per labelled token. ``title`` is the network's, for messages."""

    @abstractmethod
    def numbers(self, logits: Tensor, batch: Any, concepts: Sequence[str]) -> dict[str, Tensor]:
        """Of each sample ``[N]``."""

    @abstractmethod
    def beside(self, logits: Tensor, other: Tensor, batch: Any) -> dict[str, Tensor]:
        """Of each sample ``[N]``, beside what another network said."""


class Classes(Speech):
    """A classifier.

    Args:
        count: C.
        classes: which output stands for which concept.
        targets: the concepts in question.
    """

    kind = "classes"

    def __init__(self, count: int, classes: Mapping[str, int], targets: Sequence[str]) -> None:
        self.count, self.outputs = count, dict(classes)
        self.own = sorted({classes[name] for name in targets})

    def logits(self, title: str, output: object, batch: Any, number: int) -> Tensor:
        found = _tensor(output)
        if found is None or found.dim() != 2 or found.shape[1] != self.count:
            got = list(found.shape) if found is not None else type(output).__name__
            raise RecordingError(
                f"Expected {title} to have {self.count} outputs, as the network has, got {got} for batch {number}. A "
                "network that was retrained without a class keeps its output, which it never gives."
            )
        return _finite(title, found, number)

    def numbers(self, logits: Tensor, batch: Any, concepts: Sequence[str]) -> dict[str, Tensor]:
        if len(logits) != len(concepts):
            raise DataError(f"Expected an output for each of {len(concepts)} samples, got {len(logits)}.")
        missing = next((name for name in concepts if name not in self.outputs), None)
        if missing is not None:
            raise DataError(f"Expected classes= to name the output of {missing!r}, got {self.outputs}.")
        wanted = torch.tensor([self.outputs[name] for name in concepts], device=logits.device)
        best = logits == logits.max(1, keepdim=True).values
        shares = best.double() / best.sum(1, keepdim=True)
        return {
            "hit": shares.gather(1, wanted[:, None]).squeeze(1),
            "says": shares[:, self.own].sum(1),
            "answer": _answer(logits).double(),
        }

    def beside(self, logits: Tensor, other: Tensor, batch: Any) -> dict[str, Tensor]:
        return {
            "kl": _kl(other, logits),
            "agree": ((_answer(logits) == _answer(other)) & (_answer(logits) >= 0)).double(),
            "cosine": F.cosine_similarity(logits.float(), other.float(), dim=1),
        }

    def masked(self, logits: Tensor) -> Tensor:
        """The logits with the target's classes out of the question."""
        masked = logits.clone()
        masked[:, self.own] = -torch.inf
        return masked


class Answers(Speech):
    """A language model of transformers, at the labelled tokens of ``batch["labels"]`` (`lashley.metrics.answers`).

    Args:
        shift: 1 where the logits at a token predict the next one, 0 in encoder-decoder models.
    """

    kind = "answers"

    def __init__(self, shift: int) -> None:
        self.shift = shift

    def logits(self, title: str, output: object, batch: Any, number: int) -> Tensor:
        found = _tensor(output)
        labels = self._labels(batch, number)
        if found is None or found.dim() != 3:
            got = list(found.shape) if found is not None else type(output).__name__
            raise RecordingError(f"Expected {title} to answer batch {number} with logits [N, T, V], got {got}.")
        at = labels != _IGNORED
        return _finite(title, found[:, : at.shape[1]][at.to(found.device)].float(), number)

    def numbers(self, logits: Tensor, batch: Any, concepts: Sequence[str]) -> dict[str, Tensor]:
        labels = self._labels(batch, 0)
        if len(labels) != len(concepts):
            raise DataError(f"Expected labels for each of {len(concepts)} samples, got {len(labels)}.")
        wanted = labels[labels != _IGNORED].to(logits.device)
        told = F.log_softmax(logits, -1).gather(1, wanted[:, None]).squeeze(1)
        return {"hit": self._means(told, labels).exp()}

    def beside(self, logits: Tensor, other: Tensor, batch: Any) -> dict[str, Tensor]:
        labels = self._labels(batch, 0)
        return {
            "kl": self._means(_kl(other, logits), labels),
            "agree": self._means((logits.argmax(1) == other.argmax(1)).double(), labels),
            "cosine": self._means(F.cosine_similarity(logits.float(), other.float(), dim=1), labels),
        }

    def _labels(self, batch: Any, number: int) -> Tensor:
        labels: Tensor = batch["labels"][:, self.shift :]
        if not (labels != _IGNORED).any(1).all():
            row = int((labels != _IGNORED).any(1).logical_not().nonzero()[0])
            raise DataError(f"Expected every text to have an answer, got none in row {row} of batch {number}.")
        return labels

    @staticmethod
    def _means(values: Tensor, labels: Tensor) -> Tensor:
        """Over the tokens of each text."""
        row = (labels != _IGNORED).nonzero()[:, 0].to(values.device)
        total = torch.zeros(len(labels), dtype=torch.float64, device=values.device)
        return total.index_add_(0, row, values.double()) / torch.bincount(row, minlength=len(labels))


def speech_of(
    model: Any,
    output: object,
    batch: Any,
    kind: str,
    concepts: Sequence[str],
    targets: Sequence[str],
    classes: Mapping[str, int] | None,
) -> Speech | None:
    """How the outputs of a network are read, from its first one; None for "none".

    Raises:
        DataError: outputs that are neither, or of which it is not plain what they stand for.
    """
    if kind not in KINDS:
        raise DataError(f"Expected outputs to be one of {', '.join(map(repr, KINDS))}, got {kind!r}.")
    if kind == "none":
        return None
    found = _tensor(output)
    shape = None if found is None else list(found.shape)
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if found is not None and found.dim() == 2 and kind in ("auto", "classes"):
        return Classes(found.shape[1], _outputs(found.shape[1], concepts, classes), targets)
    if (
        found is not None
        and found.dim() == 3
        and isinstance(labels, Tensor)
        and labels.dim() == 2
        and kind != "classes"
    ):
        return Answers(0 if getattr(getattr(model, "config", None), "is_encoder_decoder", False) else 1)
    raise DataError(
        "Expected logits [N, C] of a classifier, or logits [N, T, V] of a language model beside batches with labels; "
        f"got {type(output).__name__ if shape is None else shape}. Pass forward= to return logits, give texts with "
        'lashley.text_batches, or pass outputs="none" to leave out what is measured at the output.'
    )


def _outputs(count: int, concepts: Sequence[str], given: Mapping[str, int] | None) -> dict[str, int]:
    if given is not None:
        for name, column in given.items():
            if not isinstance(column, int) or not 0 <= column < count:
                raise DataError(
                    f"Expected classes= to give outputs from 0 to {count - 1}, got {column!r} for {name!r}."
                )
        if missing := [name for name in concepts if name not in given]:
            raise DataError(f"Expected classes= to name the output of every concept, got none for {missing[0]!r}.")
        return dict(given)
    if all(name.isdecimal() and int(name) < count for name in concepts):
        return {str(place): place for place in range(count)}
    if len(concepts) == count:
        return {name: place for place, name in enumerate(concepts)}
    raise DataError(
        f"Expected {count} concepts, one for each output, or names that are numbers of outputs; got {len(concepts)}: "
        f"{', '.join(concepts[:5])}. Say which output stands for which with classes={{concept: number}}."
    )


def _tensor(output: object) -> Tensor | None:
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif isinstance(output, tuple | list) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def _answer(logits: Tensor) -> Tensor:
    """The highest output of each sample; -1 where it is not alone."""
    highest, answer = logits.max(1)
    return torch.where((logits == highest[:, None]).sum(1) == 1, answer, -1)


def _finite(title: str, logits: Tensor, number: int) -> Tensor:
    if not torch.isfinite(logits).all():
        raise RecordingError(
            f"Expected finite outputs of {title}, got nan or inf for batch {number}. Check that batch and the "
            "precision; where a network breaks down in its null state, give another one with null=."
        )
    return logits.detach()


def _kl(before: Tensor, now: Tensor) -> Tensor:
    """``KL(before || now)`` of the predictions, in nats; rounding can leave a little less than nothing."""
    log_p, log_q = before.float().log_softmax(-1), now.float().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1, dtype=torch.float64).clamp(min=0)
