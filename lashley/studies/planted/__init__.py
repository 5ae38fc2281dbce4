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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lashley.provenance import digest
from lashley.result import Result, made_by
from lashley.studies.planted.bench import WAYS, Bench
from lashley.studies.planted.images import Data, mnist_data
from lashley.studies.planted.pieces import Pieces
from lashley.studies.planted.shown import shown
from lashley.studies.threads import threads

__all__ = ["run", "study"]

Say = Callable[[str], None]
Place = str | os.PathLike[str]


def run(config: Mapping[str, Any], work: Place, file: Place, say: Say = lambda line: None) -> Result:
    """The study of a config on MNIST, written to ``file``.

    Args:
        config: as in ``benchmarks/planted/config.json``.
        work: a folder for finished pieces, so that a run that was stopped goes on; they are deleted in the end.
        say: called with a line of text as each piece ends.
    """
    data = mnist_data(config["images"], config["clutter"])
    pieces = Pieces(work, {"config": config, "data": data.fingerprint, "code": _code()}, say)
    result = study(config, data, pieces)
    result.save(file)
    pieces.forget()
    return result


def _code() -> str:
    """Of all that trains or measures here: pieces that an older version of it left are not used."""
    return digest(*(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))


def study(config: Mapping[str, Any], data: Data, pieces: Pieces) -> Result:
    """The study of a config on any digits; what was kept of an earlier run changes no number but the seconds."""
    with threads(config["threads"]):
        bench = Bench(config, data, pieces)
        found = {f"{kind}, {way}": bench.setting(kind, way) for kind in config["kinds"] for way in WAYS}
        seconds = round(sum(pieces.seconds.values()), 1)
        provenance = made_by(seeds=config["seeds"], data={data.name: data.fingerprint}, seconds=seconds)
        return shown(config, found, provenance)
