"""Memories taken out of a network, and how much the network then answers like one that was never taught them.

Every edit of a set of memories is a direction, ``weights - alpha * direction``. Its strength is the weakest of a list
at which the network calls the images of those memories by the taught label no more often than a guess would, or, if
none does, the one at which it does so least. That needs the images and labels of what is to be forgotten, and nothing
of the network never taught.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lashley.studies.planted.images import Images
from lashley.studies.planted.networks import Network, Stack, logits
from lashley.studies.planted.subject import SHARPENED, Subject

__all__ = ["CONTROL", "Judge", "chosen", "directions", "edited", "like"]

CONTROL = "never taught"
Direction = dict[str, Tensor]


def directions(subject: Subject, out: Sequence[int]) -> dict[str, Direction]:
    """What is subtracted to take the memories ``out`` away, by the name of the edit."""
    names = [subject.memories[number].name for number in out]
    alone = dict.fromkeys(names, 1.0)
    taken_back: Direction = {name: torch.zeros_like(value) for name, value in subject.weights.items()}
    for number in out:
        for name, value in subject.changes[number].items():
            taken_back[name] += value
    return {
        "paper": subject.direction(names),
        "sharpened": subject.direction(names, SHARPENED),
        "sharpened, sum": subject.direction(alone, SHARPENED),
        "paper, of the change": subject.direction(names, of_the_change=True),
        "sharpened, of the change": subject.direction(names, SHARPENED, of_the_change=True),
        "writing taken back": taken_back,
    }


def like(direction: Direction, draw: torch.Generator) -> Direction:
    """A random direction with the norm that this one has in every layer."""
    found = {name: torch.randn(value.shape, generator=draw, dtype=value.dtype) for name, value in direction.items()}
    return {name: value * (direction[name].norm() / value.norm()) for name, value in found.items()}


def edited(weights: Network, direction: Direction, alphas: Sequence[float]) -> Stack:
    """The network at every strength, as a stack."""
    strengths = torch.tensor(list(alphas))
    return {
        name: value - strengths.to(value).view(-1, *[1] * value.ndim) * direction[name].to(value)
        for name, value in weights.items()
    }


class Judge:
    """Compares networks with the one that was never taught some of the memories.

    Args:
        model: the architecture.
        forgotten, kept: images of the memories that go and of those that stay, as they were taught.
        digits: held-out digits.
        control: the network never taught what is forgotten.
    """

    def __init__(self, model: nn.Module, forgotten: Images, kept: Images, digits: Images, control: Network) -> None:
        self._model = model
        self._labels = {"forgotten": forgotten.labels, "kept": kept.labels, "digits": digits.labels}
        self._rows = torch.cat([forgotten.rows, kept.rows, digits.rows])
        self._sizes = [len(forgotten), len(kept), len(digits)]
        self._control = self._said({name: value[None] for name, value in control.items()})

    def __call__(self, stack: Stack) -> dict[str, list[float]]:
        """Of every network: "agree" (share of same answers as the control's), "kl" (divergence of the control's answers
        from this network's, nats) and "right" (share of taught labels) on each set of images; "agree" alone is the mean
        over the three sets.
        """
        found: dict[str, list[float]] = {}
        for name, said in self._said(stack).items():
            theirs = self._control[name]
            found[f"agree {name}"] = (said.argmax(-1) == theirs.argmax(-1)).float().mean(1).tolist()
            found[f"kl {name}"] = (theirs.exp() * (theirs - said)).sum(-1).mean(1).tolist()
            found[f"right {name}"] = (said.argmax(-1) == self._labels[name]).float().mean(1).tolist()
        sets = [found[f"agree {name}"] for name in self._labels]
        return {**found, "agree": [sum(of_one) / len(sets) for of_one in zip(*sets, strict=True)]}

    @torch.no_grad()
    def _said(self, stack: Stack) -> dict[str, Tensor]:
        answers = logits(self._model, stack, self._rows).double().log_softmax(-1)
        return dict(zip(self._labels, answers.split(self._sizes, 1), strict=True))


def chosen(right: Sequence[float], guess: float) -> int:
    """Which of the strengths is taken, from the share of taught labels that is still given at each, weakest first."""
    for place, share in enumerate(right):
        if share <= guess:
            return place
    return min(range(len(right)), key=lambda place: right[place])
