"""The memory of one recording, in a process of its own: ``python -m benchmarks.peer.memory``.

Settings come in and numbers go out as JSON, on standard input and output. The peak is the most the process ever had,
with the model, the libraries and the batches in it; compare it with the peak of the bare pass.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import peak_bytes
from benchmarks.peer.cases import build
from benchmarks.peer.rivals import Formula, Lashley, Peer, bare

RIVALS = {rival.name: rival for rival in (Lashley, Peer, Formula)}


def measure(asked: Mapping[str, Any]) -> dict[str, int]:
    """Bytes: the peak of the recording, the peak after solving, and what the tensors take that the recording holds.

    From lashley also what the squares ``S`` of all concepts would take: triangles in float64, or whole in float32.
    """
    torch.set_num_threads(asked["threads"])
    case = build(asked["settings"], asked["models"])
    if asked["who"] is None:
        bare(case)
        return {"peak": peak_bytes()}
    rival = RIVALS[asked["who"]]()
    kept = rival.record(case)
    recorded = peak_bytes()
    found = {"held": _bytes(rival.held(case, kept))}
    if isinstance(rival, Lashley):
        found["squares"] = 4 * sum(site.dim * (site.dim + 1) for site in kept.sites) * len(case.concepts)
    for _ in rival.solve(case, kept):
        pass
    return {"peak": recorded, "peak_after_solving": peak_bytes(), **found}


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Of the storages of all tensors, each counted once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


if __name__ == "__main__":
    print(json.dumps(measure(json.load(sys.stdin))))
