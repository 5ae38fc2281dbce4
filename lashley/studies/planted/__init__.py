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
from lashley.studies.planted.edits import CONTROL
from lashley.studies.planted.localising import localised
from lashley.studies.planted.masks import Mask, everything, masks_of
from lashley.studies.planted.memories import DIGITS, Images, Memory, plant
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
    sizes = config["images"]
    data = Data(
        pooled("train", 0, sizes["train"]),
        pooled("train", 60_000 - sizes["planted"], sizes["planted"]),
        pooled("test", 0, sizes["held_out"]),
        14,
        "MNIST",
    )
    pieces = Pieces(work, {"config": config, "data": data.fingerprint, "code": _code()}, say)
    result = study(config, data, pieces)
    result.save(file)
    pieces.forget()
    return result


def _code() -> str:
    """Of this study: pieces that an older version of it left are not used."""
    return digest(*(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))


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
        self.bases = {seed: pieces.tensors(f"base {seed}", partial(self._base, seed)) for seed in config["seeds"]}

    def setting(self, kind: str, way: str) -> dict[str, Any]:
        """Everything that is asked of one setting, as JSON."""
        memories = plant(kind, self.config["memories"], self.config["kinds"][kind], self.data.planted)
        masks = self._masks(way)
        name = f"{kind}, {way}"
        subjects = {
            seed: self._subject(f"{name}, all taught, seed {seed}", memories, masks, seed) for seed in self.bases
        }
        never = torch.tensor([[k not in out for k in range(len(memories))] for out in self.subsets])

        def controls(of: str, base: int, seed: int) -> Stack:
            make = partial(self._written, memories, masks, never, base, seed)
            return self.pieces.tensors(f"{name}, {of}", lambda: make()[-1])

        first, second = self.config["seeds"][:2]
        subject = subjects[first]
        trained_without = controls(CONTROL, first, first)
        ceilings = {
            ANOTHER_ORDER: controls(ANOTHER_ORDER, first, first + 1000),
            ANOTHER_NETWORK: controls(ANOTHER_NETWORK, second, second),
        }
        measured = {
            "learned": lambda: [learned(one, self.data.held_out) for one in subjects.values()],
            "localised": lambda: [localised(one, way == MASKED, seed) for seed, one in subjects.items()],
            "damaged": lambda: [damaged(one) for one in subjects.values()],
            "compared": lambda: compared(
                subject, self.subsets, trained_without, ceilings, self.data.held_out, self.config["alphas"], first
            ),
        }
        values = {what: self.pieces.values(f"{name}, {what}", make) for what, make in measured.items()}
        return {**values, "layers": subject.layers, "subsets": self.subsets, "sizes": _sizes(masks)}

    def _base(self, seed: int) -> Network:
        model = build(self.config["network"], self.data.side, DIGITS, seed)
        return trained(model, self.config["base"], self.data.train, seed).state_dict()

    def _masks(self, way: str) -> list[Mask]:
        if way == MASKED:
            return masks_of(self.config["masks"]["plan"], self.shapes, self.config["masks"]["seed"])
        return [everything(self.shapes)] * self.config["memories"]

    def _written(
        self, memories: Sequence[Memory], masks: Sequence[Mask], taught: Tensor, base: int, seed: int
    ) -> list[Stack]:
        settings = self.config["writing"]
        return write(self.model, self.bases[base], memories, taught, masks, self.data.train, settings, seed)

    def _subject(self, name: str, memories: Sequence[Memory], masks: Sequence[Mask], seed: int) -> Subject:
        """A network that was taught everything, with its checkpoints."""
        everything_taught = torch.ones(1, len(memories), dtype=torch.bool)

        def make() -> dict[str, Tensor]:
            after = self._written(memories, masks, everything_taught, seed, seed)
            return {key: torch.cat([stack[key] for stack in after]) for key in self.shapes}

        kept = self.pieces.tensors(name, make)
        after = [one_of(kept, number) for number in range(len(memories))]
        digits = self.data.train.part(0, self.config["images"]["recorded"])
        model = with_weights(self.model, after[-1])
        return Subject(model, self.bases[seed], after, masks, memories, digits)


def learned(subject: Subject, held_out: Images) -> dict[str, Any]:
    """Shares of right answers: on every memory before it was written, after that, and at the end; on held-out digits."""
    checkpoints = [subject.base, *subject.after]
    stack = {name: torch.stack([one[name] for one in checkpoints]) for name in subject.base}

    def right(images: Images) -> list[float]:
        with torch.no_grad():
            answers = logits(subject.model, stack, images.rows).argmax(-1)
        return (answers == images.labels).double().mean(1).tolist()

    each = [right(memory.images) for memory in subject.memories]
    return {
        "before": [shares[number] for number, shares in enumerate(each)],
        "written": [shares[number + 1] for number, shares in enumerate(each)],
        "end": [shares[-1] for shares in each],
        "digits before": right(held_out)[0],
        "digits": right(held_out)[-1],
    }


def _sizes(masks: Sequence[Mask]) -> list[int]:
    return [sum(int(part.sum()) for part in mask.values()) for mask in masks]
