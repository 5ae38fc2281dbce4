"""Small networks without biases, and many of one architecture at once.

A **stack** is ``{name: weights [B, ...]}``: the weights of B networks of one architecture, side by side. What is done
with a stack is done with each of its networks on its own, to rounding; only the time is shared.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lashley.errors import DataError

__all__ = ["Network", "Stack", "build", "layers_of", "logits", "one_of", "repeated", "with_weights"]

Network = Mapping[str, Tensor]  # the weights of one
Stack = dict[str, Tensor]


def build(settings: Mapping[str, Any], side: int, classes: int, seed: int) -> nn.Sequential:
    """An untrained network for images of ``side * side`` pixels, given as rows.

    Args:
        settings: "kind" and "hidden": widths of a "mlp", channels of a "convnet" (3 x 3, all but the first with stride
            2).

    Raises:
        DataError: another kind.
    """
    kind, widths = settings["kind"], list(settings["hidden"])
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "mlp":
            for number, (dim, out) in enumerate(zip([side * side, *widths], widths, strict=False), 1):
                parts[f"hidden{number}"] = nn.Linear(dim, out, bias=False)
                parts[f"relu{number}"] = nn.ReLU()
            features = widths[-1]
        elif kind == "convnet":
            parts["image"] = nn.Unflatten(1, (1, side, side))
            for number, (dim, out) in enumerate(zip([1, *widths], widths, strict=False), 1):
                parts[f"conv{number}"] = nn.Conv2d(dim, out, 3, stride=1 if number == 1 else 2, padding=1, bias=False)
                parts[f"relu{number}"] = nn.ReLU()
                side = side if number == 1 else -(-side // 2)
            parts["flat"] = nn.Flatten()
            features = widths[-1] * side * side
        else:
            raise DataError(f"Expected a network of the kind 'mlp' or 'convnet', got {kind!r}.")
        parts["readout"] = nn.Linear(features, classes, bias=False)
        for name, part in parts.items():
            if isinstance(part, nn.Linear | nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="linear" if name == "readout" else "relu")
    return nn.Sequential(parts)


def layers_of(stack: Network) -> list[str]:
    """The names of the layers, in order."""
    return [name.removesuffix(".weight") for name in stack]


def repeated(stack: Stack, which: Sequence[int]) -> Stack:
    """A stack of copies of those networks, in that order."""
    return {name: weights[list(which)].clone() for name, weights in stack.items()}


def one_of(stack: Stack, number: int) -> Network:
    """The weights of one network of a stack."""
    return {name: weights[number] for name, weights in stack.items()}


def with_weights(model: nn.Sequential, weights: Network) -> nn.Sequential:
    """A copy of ``model`` with these weights, in evaluation mode."""
    found = copy.deepcopy(model)
    found.load_state_dict(dict(weights))
    return found.eval()


def logits(model: nn.Module, stack: Stack, rows: Tensor) -> Tensor:
    """What every network of the stack says of the same rows ``[N, D]``: ``[B, N, classes]``."""

    def of_one(weights: dict[str, Tensor]) -> Tensor:
        answers: Tensor = functional_call(model, weights, (rows,))
        return answers

    found: Tensor = torch.vmap(of_one)(dict(stack))
    return found
