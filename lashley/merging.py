"""Recordings of several runs as one: moments add."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lashley.errors import DataError, MomentError
from lashley.recording import Recording, Site, together
from lashley.shelf import compact

__all__ = ["merge"]


def merge(*recordings: Recording) -> Recording:
    """One recording of all rows: moments add. Layers, weights and sites must agree; concepts may differ.

    Raises:
        MomentError: a shard that is there twice, other layers or sites, other weights; both sides are printed.
    """
    if not recordings:
        raise DataError("Expected at least one recording, got none.")
    first = recordings[0]
    shards: list[str] = []
    for recording in recordings:
        if twice := set(recording._shards) & set(shards):
            raise MomentError(
                f"Expected every shard once, got shard {min(twice)} twice: its rows would count double. "
                "Drop one of them."
            )
        shards += recording._shards
        _same("layers", first.layers, recording.layers)
        _same("weights", first._weights, recording._weights)
        _same("sites", [s.layers for s in first.sites], [s.layers for s in recording.sites])
        _same("overlap of concepts", first.overlapping, recording.overlapping)
        _same("things kept", first.keep, recording.keep)
    concepts = tuple(dict.fromkeys(c for r in recordings for c in r.concepts))
    sites, kept, pooled = [], [], []
    for number, site in enumerate(first.sites):
        held = {}
        for concept in concepts:
            parts = (r._moments[number][concept] for r in recordings if concept in r.concepts)
            held[concept] = compact(together(parts, torch.float64))
        kept.append(held)
        if first.overlapping or first.keep == "products":  # else the concepts say
            pooled.append(together((r._all(number) for r in recordings), torch.float64))
        sites.append(Site(site.name, site.dim, site.layers, sum(r.sites[number].rows for r in recordings)))
    return Recording(
        concepts=concepts,
        layers=first.layers,
        sites=tuple(sites),
        kept=kept,
        pooled=pooled or None,
        keep=first.keep,
        dtype=first._dtype if all(r._dtype == first._dtype for r in recordings) else torch.float64,
        overlapping=first.overlapping,
        weights=first._weights,
        shards=tuple(shards),
        folds={n: fold for n, fold in first._folds.items() if all(r._folds.get(n) == fold for r in recordings)},
    )


def _same(what: str, ours: Any, theirs: Any) -> None:
    if ours == theirs:
        return
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        names = [n for n in {**ours, **theirs} if ours.get(n) != theirs.get(n)]
        ours, theirs = ({n: side.get(n) for n in names[:3]} for side in (ours, theirs))
    raise MomentError(
        f"Expected recordings with the same {what}, got {ours} and {theirs}. Record them with one set-up."
    )
