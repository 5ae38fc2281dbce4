"""What a recording says of its concepts before any edit: spectra of operators, overlaps, complement, energies.

    for place in lashley.anatomy.places(recording, model):
        place.layers, place.spectrum("cat").median, place.sharing, place.complement("layer").weight

A *place* is one matrix of one site (a convolution with groups has several). What it says of inputs holds for every
layer that reads the site; what it says of outputs is asked for by the layer's name. Each reading is computed when it is
asked for and kept as long as the place; the factorised reference is the one that `Recording.engram` uses and keeps.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from lashley.errors import LashleyWarning, SelectionError, nearest
from lashley.estimators import SiteMoments
from lashley.geometry import (
    Energy,
    Ownership,
    Share,
    complement_energy,
    cosines,
    energy,
    engram_of,
    raw_non_idempotence,
)
from lashley.layers import Layer, unwrap
from lashley.moments import Diagonal, pool, wide
from lashley.parameters import Parameters, matrices_of, parameters_of
from lashley.provenance import fingerprint
from lashley.recording import Recording
from lashley.select import Patterns
from lashley.solving import some
from lashley.spectrum import Cut

__all__ = ["Complement", "Place", "places", "spectrum"]


@dataclass(frozen=True)
class Complement:
    """``Q = I - sum_c P_c``, what the engrams of all concepts together leave of a layer (the paper's section 6.3).

    Where the concepts divide the reference's rows among them, ``sum P_c = S S^+`` is the orthogonal projector on the
    kept directions whatever the concepts are, and Q the projector on the others: a fact about the data and the cut.

    Attributes:
        dim, kept: D and k; Q has rank D - k.
        weight: ``||W Q||^2 / ||W||^2``, the part of the weight that no engram can change.
        outputs: ``tr(W Q S Q W^T) / tr(W S W^T)``, the part of the outputs' energy that it makes on the recorded rows.
            0 where Q holds only what no row has; more is the price of a cut.
        least, most: extreme eigenvalues of ``sum P_c`` on the kept directions; both 1 for such concepts. Fewer concepts
            than there are rows of leave less, overlapping ones come to more.
    """

    dim: int
    kept: int
    weight: float
    outputs: float
    least: float
    most: float


class Place:
    """One matrix of one site. Made by `places`.

    Attributes:
        layers: the names of those that read it, in one way about the bias.
        number: which of their matrices.
        matrices: how many they have.
        concepts: whose shares can be asked for.
        sites: ``{concept: what an estimator is given}``.
        augmented: whether a 1 is appended to the rows.
    """

    def __init__(
        self,
        layers: Mapping[str, Layer],
        number: int,
        matrices: int,
        sites: Mapping[str, SiteMoments],
        cut: Cut,
        parameters: Mapping[str, Parameters],
    ) -> None:
        self.layers = tuple(layers)
        self.number, self.matrices = number, matrices
        self.concepts = tuple(sites)
        self.sites = dict(sites)
        first = self._first
        self.augmented = first.augmented
        self.white = None if isinstance(first.reference.moment, Diagonal) else first.reference.whiten(cut)
        self._layers, self._parameters = dict(layers), dict(parameters)
        self._shares: dict[str, Share] = {}
        self._spectra: dict[str, Ownership] = {}
        self._energies: dict[str, Energy] = {}

    def __repr__(self) -> str:
        return f"Place({some(self.layers)}, matrix {self.number + 1} of {self.matrices}, {self.kept} of {self.dim})"

    @property
    def diagonal(self) -> bool:
        """Whether each index is a direction of its own, as in an embedding."""
        return self.white is None

    @property
    def dim(self) -> int:
        """D, one more when augmented."""
        return self._first.dim

    @property
    def kept(self) -> int:
        """k, of a diagonal the indices that came."""
        if self.white is not None:
            return self.white.info.rank
        return int((self._first.reference.moment.sum > 0).sum())

    @property
    def rows(self) -> int:
        """Of the reference."""
        return self._first.reference.moment.count

    def share(self, concept: str) -> Share:
        """R of a concept."""
        if concept not in self._shares:
            self._shares[concept] = Share(self._site(concept), self.white)
        return self._shares[concept]

    def spectrum(self, concept: str) -> Ownership:
        """The eigenvalues of a concept's operator, and what is read off them."""
        if concept not in self._spectra:
            site = self._site(concept)
            self._spectra[concept] = Ownership(
                self.share(concept).values.cpu(),
                self.dim,
                site.target.count,
                self.rows,
                raw_non_idempotence(site, self.white),
            )
        return self._spectra[concept]

    @cached_property
    def sharing(self) -> Tensor:
        """``tr(R_a R_b) / tr(R_a)``, ``[K, K]``: which part of what concept a owns belongs to b.

        Where the concepts are all and divide the rows, a row adds to 1, and the matrix is the identity exactly when
        every operator is a projector. A row of nan is a concept without rows.
        """
        shares = [self.share(name) for name in self.concepts]
        found = torch.zeros(len(shares), len(shares), dtype=torch.float64)
        for i, a in enumerate(shares):
            for j, b in enumerate(shares[: i + 1]):
                found[i, j] = found[j, i] = a.inner(b)
        traces = torch.tensor([a.trace for a in shares], dtype=torch.float64)
        return found / traces[:, None]

    def cosines(self, a: str, b: str, threshold: float = 0.5) -> Tensor:
        """Of the principal angles between what two concepts own to more than the threshold (`geometry.cosines`)."""
        return cosines(self.share(a), self.share(b), threshold)

    def energy(self, layer: str) -> Energy:
        """Where the energy of a layer's outputs comes from, and the angles between its engrams."""
        if layer not in self._energies:
            self._energies[layer] = energy(self.weight(layer), self.sites, self.white)
        return self._energies[layer]

    def engram(self, layer: str, concept: str) -> Tensor:
        """The paper's engram of a concept in a layer, ``[O, D]`` in float64, with the bias as the last column."""
        return engram_of(self.weight(layer), self._site(concept), self.white)

    def complement(self, layer: str) -> Complement:
        """What the engrams of all concepts leave of a layer."""
        weight, outputs = complement_energy(self.weight(layer), self._first, self.white)
        return Complement(self.dim, self.kept, weight, outputs, *self._ends)

    def weight(self, layer: str) -> Tensor:
        """``W`` or ``W~ [O, D]`` of a layer in float64."""
        if layer not in self._parameters:
            known = "none: give places() the model" if not self._parameters else f"of {some(self.layers)}"
            raise SelectionError(f"Expected a layer whose weight is known here, got {layer!r}; known is {known}.")
        matrices = matrices_of(
            self._layers[layer],
            self._parameters[layer],
            self.augmented,
            self._first.reference.device,
            torch.float64,
        )
        return wide(matrices[self.number])

    @property
    def _first(self) -> SiteMoments:
        return next(iter(self.sites.values()))

    def _site(self, concept: str) -> SiteMoments:
        if concept not in self.sites:
            raise SelectionError(
                f"Expected one of the concepts that were asked for, got {concept!r}. {nearest(concept, self.sites)}"
            )
        return self.sites[concept]

    @cached_property
    def _ends(self) -> tuple[float, float]:
        """Extreme eigenvalues of the sum of all P: of the rows of all concepts, each as often as it has concepts."""
        pooled = SiteMoments(pool(site.target for site in self.sites.values()), self._first.reference)
        values = Share(pooled, self.white).values
        return (values[-1].item(), values[0].item()) if len(values) else (0.0, 0.0)


def places(
    recording: Recording,
    model: nn.Module | None = None,
    concepts: Sequence[str] | None = None,
    *,
    layers: Patterns = None,
    reference: Sequence[str] | None = None,
    bias: bool = True,
    check: bool = True,
    cut: Cut | None = None,
) -> Iterator[Place]:
    """The places of a recording, one after another: of each, R of every concept fits in memory, not of all.

    Args:
        model: whose weights are looked at, for what is said of outputs; None: of inputs alone.
        concepts: default: all.
        layers, reference, bias, check: as `Recording.engram` takes them.
        cut: which eigenvalues of the reference count as zero; default `Cut()`, that of the default engram.

    Raises:
        DataError, SelectionError: a concept or a layer that was not recorded.
        ModelError: a model without these layers, or with weights that are not the recorded ones.
        MomentError: a recording that keeps products only, which has no moment of a concept.

    Warns:
        LashleyWarning: a concept without rows at a site; its shares are all 0.
    """
    cut = Cut() if cut is None else cut
    inner = None if model is None else unwrap(model)
    if inner is not None and check:
        found = parameters_of(inner, recording.layers)
        recording.check_weights({name: fingerprint(parameters.weight) for name, parameters in found.items()})
    for readers, matrices in recording.site_moments(concepts, reference=reference, bias=bias, layers=layers):
        known = {name: recording.layers[name] for name in readers}
        parameters = {} if inner is None else parameters_of(inner, known)
        if empty := [name for name, site in matrices[0].items() if not site.target.count]:
            warnings.warn(
                f"Concept {empty[0]!r} has no rows at {some(readers)}: its shares are 0 there. Record it, or leave it "
                "out with concepts=.",
                LashleyWarning,
                stacklevel=2,
            )
        for number, sites in enumerate(matrices):
            yield Place(known, number, len(matrices), sites, cut, parameters)


def spectrum(
    recording: Recording,
    concept: str,
    *,
    layers: Patterns = None,
    reference: Sequence[str] | None = None,
    bias: bool = True,
    cut: Cut | None = None,
) -> dict[str, list[Ownership]]:
    """The spectrum of one concept's operator: ``{layer: one for each of its matrices}``, in the recording's order.

    The arguments are those of `places`.
    """
    found: dict[str, list[Ownership]] = {}
    for place in places(recording, None, [concept], layers=layers, reference=reference, bias=bias, cut=cut):
        for layer in place.layers:
            found.setdefault(layer, []).append(place.spectrum(concept))
    return {name: found[name] for name in recording.layers if name in found}
