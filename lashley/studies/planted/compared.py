"""Every edit of every set of memories beside the network that was never taught it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lashley.studies.planted.edits import CONTROL, Judge, chosen, directions, edited, like
from lashley.studies.planted.images import DIGITS, Images
from lashley.studies.planted.memories import Memory
from lashley.studies.planted.networks import Stack, one_of
from lashley.studies.planted.subject import Subject

__all__ = [
    "ANOTHER_NETWORK",
    "ANOTHER_ORDER",
    "BACK",
    "OTHER",
    "RANDOM",
    "UNTOUCHED",
    "another",
    "compared",
    "subsets_of",
]

ANOTHER_ORDER, ANOTHER_NETWORK = "never taught, in another order", "never taught, another network"
UNTOUCHED, OTHER, BACK = "untouched", "paper, of other memories", "writing taken back"
RANDOM = {"random, as large as paper": "paper", "random, as large as paper of the change": "paper, of the change"}


def subsets_of(settings: Mapping[str, Any], count: int) -> list[list[int]]:
    """Different random sets of memories: "count" of them, of sizes drawn from "sizes", with "seed"."""
    draw = torch.Generator().manual_seed(settings["seed"])
    found: list[list[int]] = []
    while len(found) < settings["count"]:
        size = settings["sizes"][int(torch.randint(len(settings["sizes"]), (), generator=draw))]
        one = sorted(torch.randperm(count, generator=draw)[:size].tolist())
        if one not in found:
            found.append(one)
    return found


def another(out: Sequence[int], count: int, draw: torch.Generator) -> list[int]:
    """As many other memories, with as few of ``out`` among them as there have to be."""
    order = torch.randperm(count, generator=draw).tolist()
    return sorted(sorted(order, key=lambda number: number in out)[: len(out)])


def compared(
    subject: Subject,
    subsets: Sequence[Sequence[int]],
    controls: Stack,
    ceilings: Mapping[str, Stack],
    digits: Images,
    alphas: Sequence[float],
    seed: int,
) -> list[dict[str, Any]]:
    """For every subset ``{row: measures}``, a row being an edit at its chosen strength or a network to compare with.

    Args:
        controls: networks of the subject's base and order that were never taught the subsets, one each.
        ceilings: the same under other seeds.
        digits: held out.
        alphas: strengths, weakest first.
    """
    found = []
    for place, out in enumerate(subsets):
        draw = torch.Generator().manual_seed(1000 * seed + place)
        judge = Judge(
            subject.model,
            _images([subject.memories[number] for number in out]),
            _images([memory for number, memory in enumerate(subject.memories) if number not in out]),
            digits,
            one_of(controls, place),
        )
        networks = {UNTOUCHED: subject.weights, CONTROL: one_of(controls, place)}
        networks |= {name: one_of(stack, place) for name, stack in ceilings.items()}
        rows: dict[str, dict[str, Any]] = {
            name: _at(judge({key: value[None] for key, value in net.items()}), 0) for name, net in networks.items()
        }
        every = directions(subject, out)
        back = every.pop(BACK)
        for name, direction in every.items():
            points = judge(edited(subject.weights, direction, alphas))
            taken = chosen(points["right forgotten"], 1 / DIGITS)
            reached = points["right forgotten"][taken] <= 1 / DIGITS
            rows[name] = {**_at(points, taken), "alpha": alphas[taken], "reached": reached, "curve": points["agree"]}
        others = [subject.memories[n].name for n in another(out, len(subject.memories), draw)]
        controls_of = {name: (like(every[model], draw), rows[model]["alpha"]) for name, model in RANDOM.items()}
        controls_of[OTHER] = (subject.direction(others), rows["paper"]["alpha"])
        controls_of[BACK] = (back, 1.0)
        for name, (direction, alpha) in controls_of.items():
            rows[name] = {**_at(judge(edited(subject.weights, direction, [alpha])), 0), "alpha": alpha}
        found.append(rows)
    return found


def _at(points: Mapping[str, Sequence[float]], place: int) -> dict[str, Any]:
    return {name: values[place] for name, values in points.items()}


def _images(memories: Sequence[Memory]) -> Images:
    return Images(
        torch.cat([memory.images.rows for memory in memories]), torch.cat([memory.images.labels for memory in memories])
    )
