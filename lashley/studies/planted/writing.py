"""Training: the base on digits, then memories written one after another, into many networks at once.

A stage writes one memory: Adam from a fresh state, a learning rate that falls to zero as a half cosine, and only the
weights of the memory's mask move. Every step sees all images of the memory, some digits, and a few images of every
earlier memory that the network was taught, without which those would be lost. (What they ask for moves the open mask,
so a little of an earlier memory is written there too.)

Which images a step sees depends on the seed alone, and the loss is a sum over rows divided by a constant. So two
networks that differ in what they are taught see the same rows in the same order, except for those of the missing
memories, whose stages they do without.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lashley.studies.planted.images import Images
from lashley.studies.planted.masks import Mask
from lashley.studies.planted.memories import Memory
from lashley.studies.planted.networks import Network, Stack, logits, repeated

__all__ = ["Adam", "Step", "fit", "steps_of", "trained", "write"]

BETAS, EPSILON = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Step:
    """The rows of one step, with the memory that each belongs to; -1 for digits, which every network sees."""

    rows: Tensor
    labels: Tensor
    memory: Tensor


def trained(model: nn.Sequential, settings: Mapping[str, Any], digits: Images, seed: int) -> nn.Sequential:
    """``model`` trained in place on digits: "epochs", "batch", "learning_rate"."""
    order = torch.Generator().manual_seed(seed)
    steps = settings["epochs"] * -(-len(digits) // settings["batch"])
    optimiser = torch.optim.Adam(model.parameters(), lr=settings["learning_rate"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(settings["epochs"]):
        for chosen in torch.randperm(len(digits), generator=order).split(settings["batch"]):
            loss = nn.functional.cross_entropy(model(digits.rows[chosen]), digits.labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def steps_of(
    number: int, memories: Sequence[Memory], digits: Images, settings: Mapping[str, Any], seed: int
) -> list[Step]:
    """The steps that write memory ``number``: "steps" of them, with "digits" and "earlier" images of each memory."""
    draw = torch.Generator().manual_seed(1000 * seed + number)
    own = memories[number].images
    found = []
    for _ in range(settings["steps"]):
        chosen = torch.randint(len(digits), (settings["digits"],), generator=draw)
        parts = [(own, number), (Images(digits.rows[chosen], digits.labels[chosen]), -1)]
        for earlier in range(number):
            images = memories[earlier].images
            some = torch.randint(len(images), (settings["earlier"],), generator=draw)
            parts.append((Images(images.rows[some], images.labels[some]), earlier))
        found.append(
            Step(
                torch.cat([images.rows for images, _ in parts]),
                torch.cat([images.labels for images, _ in parts]),
                torch.cat([torch.full((len(images),), memory) for images, memory in parts]),
            )
        )
    return found


def write(
    model: nn.Module,
    start: Network,
    memories: Sequence[Memory],
    taught: Tensor,
    masks: Sequence[Mask] | None,
    digits: Images,
    settings: Mapping[str, Any],
    seed: int,
) -> list[Stack]:
    """Copies of one network that are taught different memories, one after another: the stack after each memory.

    Networks that were taught the same so far are the same so far, and are trained once.

    Args:
        model: the architecture.
        start: the weights that all start from.
        taught: bool ``[B, K]``: which copy is taught which memory.
        masks: what each memory may move; None for everything.
        settings: "steps", "learning_rate", "digits", "earlier".
    """
    stack = repeated({name: weights[None] for name, weights in start.items()}, [0] * len(taught))
    after = []
    for number in range(len(memories)):
        active = taught[:, number].nonzero()[:, 0]
        stack = dict(stack)
        if len(active):
            past, same = taught[active, : number + 1].unique(dim=0, return_inverse=True)
            first = [int(active[(same == one).nonzero()[0, 0]]) for one in range(len(past))]
            steps = steps_of(number, memories, digits, settings, seed)
            mask = masks[number] if masks else None
            part = fit(model, repeated(stack, first), steps, past, mask, settings["learning_rate"])
            for name, weights in stack.items():
                stack[name] = weights.index_copy(0, active, part[name][same])
        after.append(stack)
    return after


def fit(model: nn.Module, stack: Stack, steps: Sequence[Step], taught: Tensor, mask: Mask | None, rate: float) -> Stack:
    """The stack after these steps of Adam, each network on the rows of digits and of the memories it is taught.

    Args:
        taught: bool ``[B, K]``; memories beyond K do not occur in the steps.
    """
    weights = {name: value.clone().requires_grad_() for name, value in stack.items()}
    adam = Adam(weights, rate, len(steps))
    seen = torch.cat([taught, torch.ones(len(taught), 1, dtype=torch.bool)], 1)  # column -1: digits
    for step in steps:
        losses = _losses(logits(model, weights, step.rows), step.labels)
        (losses * seen[:, step.memory]).sum().div(len(step.labels)).backward()
        adam.step(mask)
    return {name: value.detach() for name, value in weights.items()}


class Adam:
    """Adam without weight decay on a stack, with a rate that falls to zero as a half cosine over all steps."""

    def __init__(self, weights: Stack, rate: float, steps: int) -> None:
        self._weights, self._rate, self._steps, self._done = weights, rate, steps, 0
        self._first = {name: torch.zeros_like(value) for name, value in weights.items()}
        self._second = {name: torch.zeros_like(value) for name, value in weights.items()}

    @torch.no_grad()
    def step(self, mask: Mask | None = None) -> None:
        """Move the weights of the mask by their gradients, in place, and clear these."""
        now = self._rate * (1 + math.cos(math.pi * self._done / self._steps)) / 2
        self._done += 1
        for name, weights in self._weights.items():
            gradient, first, second = weights.grad, self._first[name], self._second[name]
            assert gradient is not None
            first.lerp_(gradient, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            scale = (second / (1 - BETAS[1] ** self._done)).sqrt_().add_(EPSILON)
            move = first / (1 - BETAS[0] ** self._done) / scale
            weights.sub_(move if mask is None else move * mask[name], alpha=now)
            weights.grad = None


def _losses(answers: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy ``[B, N]`` of answers ``[B, N, classes]`` and labels ``[N]``."""
    wanted = labels.repeat(len(answers))
    return nn.functional.cross_entropy(answers.flatten(0, 1), wanted, reduction="none").view(answers.shape[:2])
