"""The networks of the study, trained or found among the kept pieces, and everything that is asked of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lashley.errors import DataError
from lashley.provenance import digest
from lashley.studies.planted.compared import ANOTHER_NETWORK, ANOTHER_ORDER, compared, subsets_of
from lashley.studies.planted.damage import damaged
from lashley.studies.planted.images import DIGITS, Data, Images
from lashley.studies.planted.localising import localised
from lashley.studies.planted.masks import Mask, masks_of
from lashley.studies.planted.memories import Memory, plant
from lashley.studies.planted.networks import Network, Stack, build, logits, one_of, with_weights
from lashley.studies.planted.pieces import Pieces
from lashley.studies.planted.subject import Subject
from lashley.studies.planted.writing import trained, write

__all__ = ["MASKED", "WAYS", "Bench", "learned"]

MASKED = "masked"
WAYS = (MASKED, "in sequence")


class Bench:
    """Trains and measures, one setting after another: a kind of memories, written in one of two ways."""

    def __init__(self, config: Mapping[str, Any], data: Data, pieces: Pieces) -> None:
        _check(config)
        self.config, self.data, self.pieces = config, data, pieces
        self.model = build(config["network"], data.side, DIGITS, 0)
        self.shapes = {name: value.shape for name, value in self.model.state_dict().items()}
        self.subsets = subsets_of(config["subsets"], config["memories"])
        self.masks = masks_of(config["masks"]["plan"], self.shapes, config["masks"]["seed"])
        self.bases = {seed: pieces.tensors(f"base {seed}", partial(self._base, seed)) for seed in config["seeds"]}

    def setting(self, kind: str, way: str) -> dict[str, Any]:
        """Everything that is asked of one setting, as JSON."""
        name, seeds = f"{kind}, {way}", self.config["seeds"]
        memories = plant(kind, self.config["memories"], self.config["kinds"][kind], self.data.planted)
        masks = self.masks if way == MASKED else None
        written = partial(self._written, name, memories, masks)
        count = len(memories)
        without = [[k not in out for k in range(count)] for out in self.subsets]
        all_but_one = [[k != out for k in range(count)] for out in range(count)]
        never = {
            seed: written(without + all_but_one if seed in seeds[:2] else all_but_one, seed, seed)[-1] for seed in seeds
        }
        subjects = {}
        for seed in seeds:
            after = [one_of(stack, 0) for stack in written([[True] * count], seed, seed)]
            rest = {key: value[-count:] for key, value in never[seed].items()}
            subjects[seed] = self._subject(seed, after, [one_of(rest, k) for k in range(count)], masks, memories)
        first, second = seeds[:2]
        ceilings = {ANOTHER_ORDER: written(without, first, first + 1000)[-1], ANOTHER_NETWORK: never[second]}
        held_out, alphas = self.data.held_out, self.config["alphas"]
        measured: dict[str, Callable[[], Any]] = {
            "learned": lambda: [learned(one, held_out) for one in subjects.values()],
            "localised": lambda: [localised(one, seed) for seed, one in subjects.items()],
            "damaged": lambda: [damaged(one) for one in subjects.values()],
            "compared": lambda: compared(
                subjects[first], self.subsets, never[first], ceilings, held_out, alphas, first
            ),
        }
        if masks:
            one_each = [[k == own for k in range(count)] for own in range(count)]
            alone = {seed: written(one_each, seed, seed)[-1] for seed in seeds}
            measured["alone"] = lambda: [self._alone(seed, stack, masks, memories) for seed, stack in alone.items()]
        values = {what: self.pieces.values(f"{name}, {what}", make) for what, make in measured.items()}
        return {**values, "layers": subjects[first].layers}

    def _base(self, seed: int) -> Network:
        model = build(self.config["network"], self.data.side, DIGITS, seed)
        return trained(model, self.config["base"], self.data.train, seed).state_dict()

    def _written(
        self,
        name: str,
        memories: Sequence[Memory],
        masks: Sequence[Mask] | None,
        taught: Sequence[Sequence[bool]],
        base: int,
        seed: int,
    ) -> list[Stack]:
        """Networks that start from a base and are taught these memories: the last stack, or, of one, each stage's."""

        def make() -> dict[str, Tensor]:
            which, digits = torch.tensor(taught), self.data.train
            stages = write(self.model, self.bases[base], memories, which, masks, digits, self.config["writing"], seed)
            kept = stages if len(taught) == 1 else stages[-1:]
            return {f"{number}/{key}": value for number, stack in enumerate(kept) for key, value in stack.items()}

        which = digest(taught)[:6]
        kept = self.pieces.tensors(f"{name}, {len(taught)} networks {which}, base {base}, seed {seed}", make)
        stages = len(kept) // len(self.shapes)
        return [{key: kept[f"{number}/{key}"] for key in self.shapes} for number in range(stages)]

    def _subject(
        self,
        seed: int,
        after: Sequence[Network],
        without: Sequence[Network],
        masks: Sequence[Mask] | None,
        memories: Sequence[Memory],
    ) -> Subject:
        digits = self.data.train.part(0, self.config["images"]["recorded"])
        model = with_weights(self.model, after[-1])
        return Subject(model, self.bases[seed], after, without, masks, memories, digits)

    def _alone(
        self, seed: int, stack: Stack, masks: Sequence[Mask], memories: Sequence[Memory]
    ) -> dict[str, list[dict[str, Any]]]:
        """`localised` in networks that were taught one memory each, which is in its mask and nowhere else."""
        found: dict[str, list[dict[str, Any]]] = {}
        for number, memory in enumerate(memories):
            weights, base = one_of(stack, number), self.bases[seed]
            subject = self._subject(seed, [weights], [base], [masks[number]], [memory])
            for name, rows in localised(subject, 100 * seed + number).items():
                found.setdefault(name, []).extend(rows)
        return found


def _check(config: Mapping[str, Any]) -> None:
    """Refuse what would end in the middle of a long run.

    Raises:
        DataError: too few seeds or memories, masks for other memories, more or larger subsets than there are.
    """
    count, sizes = config["memories"], config["subsets"]["sizes"]
    if len(set(config["seeds"])) < 2 or count < 2:
        raise DataError(
            f"Expected at least two seeds and two memories, got {config['seeds']} and {count}: the second seed is the "
            "ceiling, and intervals need more than one memory."
        )
    if len(config["masks"]["plan"]) != count:
        raise DataError(f"Expected a mask for each of {count} memories, got {len(config['masks']['plan'])}.")
    if not sizes or not all(0 < size < count for size in sizes):
        raise DataError(
            f"Expected subsets of 1 to {count - 1} memories, so that some go and some stay; got sizes {sizes}."
        )
    possible = sum(math.comb(count, size) for size in set(sizes))
    if config["subsets"]["count"] > possible or config["subsets"]["count"] < 2:
        raise DataError(f"Expected 2 to {possible} different subsets, got {config['subsets']['count']}.")


def learned(subject: Subject, held_out: Images) -> dict[str, Any]:
    """Shares of right answers on every memory and on held-out digits.

    Returns:
        lists over memories: "before" any was written, "written" (when this one just was), "end", "back" (at the end,
        with what its own stage added subtracted), "without" (of the network that was taught all others); and
        "digits before", "digits".
    """
    back = [{key: value - change[key] for key, value in subject.weights.items()} for change in subject.changes]
    networks = [subject.base, subject.weights, *subject.after, *back, *subject.without]
    stack = {name: torch.stack([one[name] for one in networks]) for name in subject.base}

    def right(images: Images) -> list[float]:
        with torch.no_grad():
            answers = logits(subject.model, stack, images.rows).argmax(-1)
        shares: list[float] = (answers == images.labels).double().mean(1).tolist()
        return shares

    count = len(subject.memories)
    each = [right(memory.images) for memory in subject.memories]
    of_digits = right(held_out)
    return {
        "before": [shares[0] for shares in each],
        "end": [shares[1] for shares in each],
        **{
            name: [shares[2 + place * count + number] for number, shares in enumerate(each)]
            for place, name in enumerate(("written", "back", "without"))
        },
        "digits before": of_digits[0],
        "digits": of_digits[1],
    }
