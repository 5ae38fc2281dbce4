"""Memories whose place is known, planted in a small network: is what an engram finds where they are, and is a network
without its engram the one that was never taught?

A network learns digits (MNIST, pixels averaged in fours). Then it is taught memories one after another: small sets of
images with labels that only having seen them gives away (`memories`). They are written in two ways: each into a mask of
weights of its own, which no other may move, or in sequence into all weights, with a checkpoint after each. Networks
that were never taught a subset of them, from the same start with the same images in the same order, are the reference
of "never learned" (`writing`).

Three questions: do scores of weights and layers find where a memory was written (`localising`); does a network with a
subset's engram taken out answer as the one never taught it (`compared`); does what an engram says of a layer agree
with what editing that layer alone does (`damage`)?
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lashley.data.mnist import mnist
from lashley.errors import DataError
from lashley.provenance import digest
from lashley.result import Result, made_by
from lashley.studies.planted import tables
from lashley.studies.planted.compared import ANOTHER_NETWORK, ANOTHER_ORDER, compared, subsets_of
from lashley.studies.planted.damage import damaged
from lashley.studies.planted.localising import localised
from lashley.studies.planted.masks import Mask, masks_of
from lashley.studies.planted.memories import DIGITS, Images, Memory, cluttered, plant
from lashley.studies.planted.networks import Network, Stack, build, logits, one_of, with_weights
from lashley.studies.planted.pieces import Pieces
from lashley.studies.planted.subject import Subject
from lashley.studies.planted.writing import trained, write

__all__ = ["WAYS", "Bench", "Data", "learned", "pooled", "run", "study"]

MASKED = "masked"
WAYS = (MASKED, "in sequence")

Say = Callable[[str], None]
Place = str | os.PathLike[str]


@dataclass(frozen=True)
class Data:
    """Digits for the base, others for the memories, and held-out ones; none of them in two of these.

    Attributes:
        side: pixels of an image's side.
        name: of the data set.
    """

    train: Images
    planted: Images
    held_out: Images
    side: int
    name: str

    @property
    def fingerprint(self) -> str:
        parts = (self.train, self.planted, self.held_out)
        return digest(*(part.numpy().tobytes() for images in parts for part in (images.rows, images.labels)))


def pooled(split: str, start: int, count: int) -> Images:
    """``count`` images of MNIST from ``start`` on, 14 x 14: the mean of every four pixels."""
    pixels, digits = (torch.from_numpy(array[start : start + count].copy()) for array in mnist(split))
    if len(digits) < count:
        raise DataError(f"Expected {count} images from number {start} of MNIST {split} on, got {len(digits)}.")
    return Images(pixels.float().view(-1, 14, 2, 14, 2).mean((2, 4)).flatten(1) / 255, digits.long())


def run(config: Mapping[str, Any], work: Place, file: Place, say: Say = lambda line: None) -> Result:
    """The study of a config on MNIST, written to ``file``.

    Args:
        config: as in ``benchmarks/planted/config.json``.
        work: a folder for finished pieces, so that a run that was stopped goes on; they are deleted in the end.
        say: called with a line of text as each piece ends.
    """
    sizes, clutter = config["images"], config["clutter"]
    data = Data(
        cluttered(pooled("train", 0, sizes["train"]), clutter, 0),
        pooled("train", 60_000 - sizes["planted"], sizes["planted"]),
        cluttered(pooled("test", 0, sizes["held_out"]), clutter, 1),
        14,
        "MNIST",
    )
    pieces = Pieces(work, {"config": config, "data": data.fingerprint, "code": _code()}, say)
    result = study(config, data, pieces)
    result.save(file)
    pieces.forget()
    return result


def _code() -> str:
    """Of all that trains or measures here: pieces that an older version of it left are not used."""
    files = sorted(path for path in Path(__file__).parent.glob("*.py") if path.name != "tables.py")
    return digest(*(path.read_bytes() for path in files))


def study(config: Mapping[str, Any], data: Data, pieces: Pieces) -> Result:
    """The study of a config on any digits; what was kept of an earlier run changes no number but the seconds."""
    torch.set_num_threads(config["threads"])
    bench = Bench(config, data, pieces)
    found = {f"{kind}, {way}": bench.setting(kind, way) for kind in config["kinds"] for way in WAYS}
    provenance = made_by(
        seeds=config["seeds"], data={data.name: data.fingerprint}, seconds=round(sum(pieces.seconds.values()), 1)
    )
    return tables.result(config, found, provenance)


class Bench:
    """Trains and measures, one setting after another: a kind of memories, written in one of two ways."""

    def __init__(self, config: Mapping[str, Any], data: Data, pieces: Pieces) -> None:
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
        subjects = {
            seed: self._subject(written([[True] * count], seed, seed), never[seed], masks, memories, seed)
            for seed in seeds
        }
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
            one_each = {
                seed: written([[k == own for k in range(count)] for own in range(count)], seed, seed)[-1]
                for seed in seeds
            }
            measured["alone"] = lambda: [
                [self._alone(one_of(stack, number), memories, number, seed) for number in range(count)]
                for seed, stack in one_each.items()
            ]
        values = {what: self.pieces.values(f"{name}, {what}", make) for what, make in measured.items()}
        return {**values, "layers": subjects[first].layers, "subsets": self.subsets}

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
        stages: Sequence[Stack],
        never: Stack,
        masks: Sequence[Mask] | None,
        memories: Sequence[Memory],
        seed: int,
    ) -> Subject:
        """A network that was taught everything; the last of ``never`` were taught all but one memory each."""
        base, after = self.bases[seed], [one_of(stack, 0) for stack in stages]
        both = zip([base, *after], after, strict=False)
        return Subject(
            model=with_weights(self.model, after[-1]),
            base=base,
            weights=after[-1],
            changes=[{key: new[key] - old[key] for key in base} for old, new in both],
            without=[
                {key: value[number - len(memories)] for key, value in never.items()} for number in range(len(memories))
            ],
            written=after,
            masks=masks,
            memories=memories,
            digits=self.data.train.part(0, self.config["images"]["recorded"]),
        )

    def _alone(self, weights: Network, memories: Sequence[Memory], number: int, seed: int) -> dict[str, Any]:
        """What is found in a network that was taught one memory only, which is in its mask and nowhere else."""
        base = self.bases[seed]
        subject = Subject(
            model=with_weights(self.model, weights),
            base=base,
            weights=weights,
            changes=[{key: value - base[key] for key, value in weights.items()}],
            without=[base],
            written=[weights],
            masks=[self.masks[number]],
            memories=[memories[number]],
            digits=self.data.train.part(0, self.config["images"]["recorded"]),
        )
        return {name: of[0] for name, of in localised(subject, 100 * seed + number).items()}


def learned(subject: Subject, held_out: Images) -> dict[str, Any]:
    """Shares of right answers on every memory and on held-out digits.

    Returns:
        lists over memories: "before" any was written, "written" (when this one just was), "end", "back" (at the end,
        with what its own stage added subtracted), "without" (of the network that was taught all others); and
        "digits before", "digits".
    """
    back = [{key: value - change[key] for key, value in subject.weights.items()} for change in subject.changes]
    networks = [subject.base, subject.weights, *subject.written, *back, *subject.without]
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
