"""One engram per author, all of one recording: what taking out one does to every other, and several at once."""

from __future__ import annotations

import functools
import operator
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import lashley
from lashley.metrics import answers
from lashley.studies.forget_tofu_mini.subject import Edit, Subject, spread, spread_of

__all__ = ["authors"]


def authors(subject: Subject, known: Sequence[int], edit: Edit, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A recording with a concept per author, and the fall of every author's answer probability after each is taken out.

    Args:
        known: rows, one author after the other.
        settings: "rows" per author; "probed" of them, which are measured; "alpha"; "subsets" of "subset_size" authors,
            drawn with "seed", which are taken out at once, as a sum of engrams and pooled as one concept.

    Returns:
        ``fall[i][j]``: by how much author j's answer probability falls when author i is taken out; subsets; seconds.
    """
    size, alpha, model = settings["rows"], settings["alpha"], subject.model
    parts = [list(known[start : start + size]) for start in range(0, len(known), size)]
    names = [f"author {number}" for number in range(len(parts))]
    probes = subject.batches([row for part in parts for row in spread(part, settings["probed"])])

    def by_author() -> torch.Tensor:
        return answers(model, probes).probability.reshape(len(parts), -1).mean(1)

    started = time.perf_counter()
    concepts = {name: subject.batches(part) for name, part in zip(names, parts, strict=True)}
    recording = lashley.record(model, concepts, target_modules=list(edit.layers), progress=False)
    recorded = time.perf_counter()
    engrams = [recording.engram(model, name, estimator=edit.estimator) for name in names]
    solved = time.perf_counter()
    before = by_author()

    def fall(engram: lashley.Engram) -> list[float]:
        with lashley.ablated(model, engram, spread_of(edit, alpha), tied=edit.tied):
            found: list[float] = (before - by_author()).tolist()
        return found

    matrix = [fall(engram) for engram in engrams]
    draw, subsets = random.Random(settings["seed"]), []
    for _ in range(settings["subsets"]):
        out = sorted(draw.sample(range(len(parts)), settings["subset_size"]))
        pooled = recording.engram(model, [names[k] for k in out], estimator=edit.estimator)
        summed = functools.reduce(operator.add, [engrams[k] for k in out])
        subsets.append({"authors": out, "sum": fall(summed), "pooled": fall(pooled)})
    return {
        "authors": len(parts),
        "alpha": alpha,
        "before": before.tolist(),
        "fall": matrix,
        "subsets": subsets,
        "seconds": {"record": recorded - started, "solve all": solved - recorded},
    }
