"""What has been counted: sums that still grow, and what is kept of concepts that are over.

A concept of a mapping is over when the next one begins. Its sums then become moments (or products) in the host's
memory, or in a file where there is a checkpoint; only the sums of the concept under way, and those of all rows where
they are needed, stay where the model is.

What a concept's rows are added to, what is kept of it, and where the sum of all rows comes from:

    keep      concepts come      added to              kept                      all rows
    moments   in either way      the layer's own sum   its moments               the concepts; rows if they overlap
    products  one after another  the layer's own sum   products of its moments   the concepts' moments
    products  mixed              products of rows      these products            rows

The layer's own sum is an `Accumulator` or `Shifts`; an embedding's `Counts` are small, and always kept as they are.
The moments of concepts in memory are added up when all rows are asked for; those of concepts in files as they are kept,
and the sum gets a file of its own at the end. A run that goes on adds them up again, from the files.
Products need the weights of all layers at a site: until the sites are known, mixed rows too go to the layer's own sum.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lashley.checkpoint import Checkpoint
from lashley.data.rows import Pick, indices_of, rows_of
from lashley.errors import RecordingError
from lashley.layers import Layer
from lashley.layers.base import Gatherer
from lashley.moments import Accumulator, Counts, Moment, Pool, all_finite
from lashley.products import Product, Products
from lashley.recording import Site
from lashley.shelf import ALL, Kept, Shelf, compact, entry, packed
from lashley.shifts import Shifts

__all__ = ["Tally"]


class Tally:
    """Rows in, what a recording keeps out.

    Args:
        layers: that are recorded.
        weights: their parameters.
        dtype: of the products.
        keep: "moments" or "products".
        mapping: whether the concepts come one after another. If not, products are made of the rows themselves, as soon
            as the sites are known; else of a concept's moment when it is over.
        checkpoint: where concepts go that are over; None: into memory.

    Attributes:
        sums: for every layer, or every one that leads a site once they are known: sums by concept. The concept None is
            every row, where the concepts do not say.
        rows: how many rows each of these layers has seen.
        leader: of every layer that makes the same rows as an earlier one, that one; empty until they are known.
        overlapping: whether concepts may overlap.
    """

    def __init__(
        self,
        layers: Mapping[str, Layer],
        weights: Mapping[str, Tensor],
        dtype: torch.dtype | None,
        keep: str,
        mapping: bool,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.layers, self.weights = layers, weights
        self.dtype, self.keep, self.mapping = dtype, keep, mapping
        self.checkpoint = checkpoint
        self.sums: dict[str, dict[str | None, Gatherer]] = {name: {} for name in layers}
        self.rows = dict.fromkeys(layers, 0)
        self.leader: dict[str, str] = {}
        self.overlapping = False
        self._kept: dict[str, list[list[Any]]] = {}  # by key, per site
        self._entries: dict[str, list[dict[str, Any]]] = {}  # the same where it is in files: what the manifest says
        self._pools: dict[int, Pool] = defaultdict(lambda: Pool(dtype))  # per site: of concepts in files, all together
        self._used: dict[str, Accumulator] = {}  # sums of concepts that are over, whose memory serves the next
        self._stacked: dict[str, Tensor] = {}
        self._sites_known = False

    def add(self, name: str, chosen: Pick, x: Tensor) -> list[Tensor]:
        """Count the chosen rows of a layer's input for their concept.

        Returns:
            sums of rows, finite exactly when every row is.
        """
        into = self._sum(name, chosen.concept)
        before = into.count
        totals = _fill(into, self.layers[name], chosen, x)
        if (chosen.concept is None) == self.overlapping:  # every row once
            self.rows[name] += into.count - before
        return totals

    def share(self, leader: Mapping[str, str]) -> None:
        """The sites are known: one of the layers at each keeps its sums."""
        self.leader = dict(leader)
        for follower in leader:
            del self.sums[follower], self.rows[follower]
        self._sites_known = True
        if self._of_rows:
            for name, sums in self.sums.items():
                for concept in sums:
                    self._to_products(name, concept)

    def readers(self, name: str) -> tuple[str, ...]:
        """All layers that read what a layer reads, as far as it is known: itself and those that it leads."""
        return name, *(layer for layer in self.layers if self.leader.get(layer) == name)

    def site(self, name: str) -> Site:
        """The site that a layer leads, as far as it is known."""
        return Site(name, self.layers[name].dim, self.readers(name), self.rows[name])

    def close(self, number: int, concept: str) -> None:
        """A concept is over: nothing more is added to it.

        Args:
            number: among the recording's concepts.
        """
        self._keep(str(number), (self._finished(name, concept) for name in self.sums))

    def close_all(self) -> list[list[Moment]] | None:
        """Everything is over: the moments of all rows, per site; None where those of the concepts add up to them, and
        are at hand for it.
        """
        if self._adds_up:
            if self.checkpoint is None:
                return None
            pooled = [self._pools.pop(site).moments() for site in range(len(self.sums))]
        else:
            pooled = [self._finished(name, None) for name in self.sums]
        if self.checkpoint is not None:
            self._keep(ALL, pooled)
        return pooled

    @property
    def concepts(self) -> set[str]:
        """That were met and are not over."""
        return {concept for sums in self.sums.values() for concept in sums if concept is not None}

    def closed(self, number: int) -> bool:
        """Whether a concept is over."""
        return str(number) in self._entries or str(number) in self._kept

    def kept(self, concepts: Sequence[str]) -> list[Mapping[str, list[Any]]]:
        """What is kept of concepts that are over, per site."""
        return self._kept_under({concept: str(number) for number, concept in enumerate(concepts)})

    @property
    def entries(self) -> list[dict[str, Any]]:
        """Per site, by key: what a manifest says of the files."""
        return [{key: held[site] for key, held in self._entries.items()} for site in range(len(self.sums))]

    @property
    def files(self) -> list[str]:
        """Of concepts that are over."""
        return [held[0]["file"] for held in self._entries.values()]

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """All that later counting depends on, as JSON and as tensors."""
        growing = [(name, concept) for name, sums in self.sums.items() for concept in sums]
        tensors = {
            f"{number}.{key}": tensor
            for number, (name, concept) in enumerate(growing)
            for key, tensor in self.sums[name][concept].state().items()
        }
        facts = {
            "leader": self.leader,
            "rows": self.rows,
            "overlapping": self.overlapping,
            "growing": growing,
            "over": self._entries,
        }
        return facts, tensors

    def restore(self, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken, to the bit."""
        self.share(facts["leader"])
        self.rows, self.overlapping = dict(facts["rows"]), facts["overlapping"]
        self._entries = dict(facts["over"])
        states: list[dict[str, Tensor]] = [{} for _ in facts["growing"]]
        for name, tensor in tensors.items():
            number, _, key = name.partition(".")
            states[int(number)][key] = tensor
        for (name, concept), state in zip(facts["growing"], states, strict=True):
            self._sum(name, concept).restore(state, self.weights[name].device)
        for key in self._entries:
            for site, shelf in enumerate(self._kept_under({key: key})):
                self._pool(site, shelf[key])

    def _sum(self, name: str, concept: str | None) -> Gatherer:
        """What the rows of a concept are added to."""
        sums = self.sums[name]
        if concept not in sums:
            sums[concept] = self._begun(name, concept)
        return sums[concept]

    def _begun(self, name: str, concept: str | None) -> Gatherer:
        layer = self.layers[name]
        own = self._used.pop(name, None) or layer.accumulator(self.dtype)
        if self.keep == "moments" or isinstance(own, Counts):
            return own
        if self.mapping:
            return own if concept is not None else Accumulator(layer.dim, layer.matrices, self.dtype)  # takes moments
        return Products(self._outputs(name), self.dtype) if concept is not None and self._sites_known else own

    def _to_products(self, name: str, concept: str | None) -> None:
        """The sites are known: go on with products of what was added so far."""
        own = self.sums[name][concept]
        if concept is not None and not isinstance(own, Counts):
            self.sums[name][concept] = products = Products(self._outputs(name), self.dtype)
            products.start(own.moments())

    @property
    def counts_all(self) -> bool:
        """Whether the rows of a batch have to be given to the concept None too, which the batch does not have."""
        return self._of_rows and not self.overlapping

    @property
    def _of_rows(self) -> bool:
        return self.keep == "products" and not self.mapping

    def _outputs(self, name: str) -> Tensor:
        """The weights of all layers that read a site, one under another: ``[M, O, D]``."""
        if name not in self._stacked:
            first, *others = (self.layers[reader].matrix(self.weights[reader]) for reader in self.readers(name))
            stacked = torch.cat([first, *(other.to(first.device) for other in others)], dim=1) if others else first
            self._stacked[name] = stacked
        return self._stacked[name]

    def _finished(self, name: str, concept: str | None) -> list[Any]:
        """What is kept of a sum, which is given up, in the host's memory."""
        total = self.sums[name].pop(concept, None) or self.layers[name].accumulator(self.dtype)
        if isinstance(total, Products):
            return _on_host(name, total.products())
        moments = total.moments()
        if concept is None:
            return _on_host(name, moments)
        if self.keep == "moments":
            kept = _on_host(name, compact(moments))
            if isinstance(total, Accumulator):
                total.renew()
                self._used[name] = total
            return kept
        if self.mapping:
            everything = self._sum(name, None)
            assert not isinstance(everything, Shifts)  # `_begun` says so
            everything.include(moments)
        if isinstance(total, Counts):
            return _on_host(name, moments)
        return _on_host(name, [Product.of(m, weight) for m, weight in zip(moments, self._outputs(name), strict=True)])

    def _kept_under(self, keys: Mapping[str, str]) -> list[Mapping[str, list[Any]]]:
        """What is kept under these keys, by other names, per site."""
        sites = range(len(self.sums))
        if self.checkpoint is None:
            return [{name: self._kept[key][site] for name, key in keys.items()} for site in sites]
        files = self.checkpoint.files
        return [Shelf(files, i, {name: (key, self._entries[key][i]) for name, key in keys.items()}) for i in sites]

    @property
    def _adds_up(self) -> bool:
        """Whether the moments of the concepts add up to those of all rows."""
        return self.keep == "moments" and not self.overlapping

    def _pool(self, site: int, kept: list[Any]) -> None:
        """What is kept of a concept, in a file, to the moments of all rows, which one would read every file for."""
        if self._adds_up:
            self._pools[site].add(kept)

    def _keep(self, key: str, parts: Iterable[list[Any]]) -> None:
        """What is kept of a concept, site by site, to where it stays."""
        if self.checkpoint is None:
            self._kept[key] = list(parts)
            return
        file = f"concept-{key if key == ALL else f'{key:0>4}'}.safetensors"
        tensors: dict[str, Tensor] = {}
        self._entries[key] = []
        for site, kept in enumerate(parts):
            if key != ALL:
                self._pool(site, kept)
            tensors |= packed(site, key, kept)
            self._entries[key].append(entry(file, kept))
        self.checkpoint.keep(file, tensors)


def _fill(into: Gatherer, layer: Layer, chosen: Pick, x: Tensor) -> list[Tensor]:
    """The chosen rows of an input into a sum."""
    if isinstance(into, Counts):
        into.add_indices(indices_of(x, chosen))
        return []  # whole numbers are finite
    if isinstance(into, Shifts) and chosen.mask is None:
        part = x if chosen.samples is None else x.index_select(0, chosen.samples)
        return [into.add_images(layer.images(part), owned=part is not x)]
    return [into.add(rows) for rows in rows_of(layer, x, chosen)]


def _on_host(site: str, kept: Sequence[Kept]) -> list[Any]:
    """What is kept of a sum, in the host's memory.

    Raises:
        RecordingError: a product of finite rows overflowed.
    """
    kept = [part.to("cpu") for part in kept]
    squares = (t for part in kept for t in ([part.matrix] if isinstance(part, Product) else part.blocks or ()))
    if not all(all_finite(square) for square in squares):
        raise RecordingError(
            f"Expected finite moments, got inf at site {site!r}: its inputs are finite, but their squares overflow "
            "float32. Pass dtype=torch.float64."
        )
    return kept
