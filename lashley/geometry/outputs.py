"""What concepts and their engrams have to do with a layer's outputs: who makes them, and what no engram reaches.

Legend: D size of the matrix solved, O outputs, K concepts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lashley.estimators import SiteMoments
from lashley.moments import Diagonal, Moment, wide
from lashley.spectrum import Whitening

__all__ = ["Energy", "complement_energy", "energy", "engram_of", "times"]

_HELD = 2**23  # elements of engrams that are held at a time: 64 MiB, and as much beside them


@dataclass(frozen=True)
class Energy:
    """Where the squared norm of a layer's outputs comes from, and how its engrams lie to each other.

    Attributes:
        of: ``||W X_c||^2`` of the K concepts, float64 ``[K]``.
        inner: ``tr(E_a S E_b^T)``, ``[K, K]``: inner products of the paper's engrams in the metric of the inputs, which
            is K-FAC's. ``tr(E_c S_c W^T) = inner[c, c]``.
        cosines: of the engrams as vectors of weights, ``[K, K]``; 0 for an engram of zeros.
        norms: ``||E_c|| / ||W||``, ``[K]``, with the bias where it is absorbed.
        outside: ``tr(W S_c Q W^T)`` with ``Q = I - S S^+``, ``[K]``: what the cut leaves in no engram. Small, and of
            either sign.
    """

    of: Tensor
    inner: Tensor
    cosines: Tensor
    norms: Tensor
    outside: Tensor

    @property
    def own(self) -> Tensor:
        """The part of each concept's outputs that its own engram makes, ``[K]``; nan where it has none."""
        return self.inner.diagonal() / self.of

    @property
    def lost(self) -> Tensor:
        """The part in Q, ``[K]``. What remains, 1 - own - lost, is in the engrams of the others."""
        return self.outside / self.of

    @property
    def angles(self) -> Tensor:
        """Cosines of the engrams in the metric of the inputs, ``[K, K]``."""
        norms = self.inner.diagonal().clamp(min=0).sqrt()
        scale = torch.where(norms > 0, 1 / norms, 0.0)
        return scale[:, None] * self.inner * scale


def engram_of(weight: Tensor, site: SiteMoments, white: Whitening | None) -> Tensor:
    """The paper's ``E_c = W S_c S^+`` of one matrix ``W [O, D]``, augmented as the moments are."""
    return _solved(times(wide(weight), site.target, site.augmented), site, white)[1]


def energy(weight: Tensor, sites: Mapping[str, SiteMoments], white: Whitening | None) -> Energy:
    """Of one matrix ``W [O, D]`` (augmented as the moments are) and the concepts at its site."""
    weight = wide(weight)
    count = len(sites)
    of, outside = weight.new_zeros(count), weight.new_zeros(count)
    inner, plain = weight.new_zeros(count, count), weight.new_zeros(count, count)
    # Everything is a sum over outputs.
    for part in weight.split(max(1, _HELD // max(1, count * weight.shape[1]))):
        coordinates, engrams = [], []
        for number, site in enumerate(sites.values()):
            product = times(part, site.target, site.augmented)
            held, engram = _solved(product, site, white)
            coordinates.append(held.flatten())
            engrams.append(engram.flatten())
            whole = (product * part).sum()
            of[number] += whole
            # W S_c S^+ S W^T falls short of W S_c W^T by what lies in Q.
            seen = times(engram, site.reference.moment.to(weight.device), site.augmented)
            outside[number] += whole - (seen * part).sum()
        for gram, vectors in ((inner, torch.stack(coordinates)), (plain, torch.stack(engrams))):
            gram += vectors @ vectors.T
    norms = plain.diagonal().sqrt()
    scale = torch.where(norms > 0, 1 / norms, 0.0)
    return Energy(
        of=of.cpu(),
        inner=inner.cpu(),
        cosines=(scale[:, None] * plain * scale).cpu(),
        norms=(norms / weight.norm()).cpu(),
        outside=outside.cpu(),
    )


def _solved(product: Tensor, site: SiteMoments, white: Whitening | None) -> tuple[Tensor, Tensor]:
    """Of ``W S_c``: ``W S_c B``, the engram in coordinates where the metric of the inputs is the identity, and it."""
    if white is None:
        total = site.reference.moment.sum.to(product.device)
        scale = torch.where(total > 0, total.clamp(min=1).rsqrt(), 0.0)
        return product * scale, product * scale.square()
    held = white.project(product)
    return held, white.back(held)


def complement_energy(weight: Tensor, site: SiteMoments, white: Whitening | None) -> tuple[float, float]:
    """How much of ``W [O, D]`` and of its outputs lies in ``Q = I - S S^+``, as parts of the squared norms.

    The first, ``||W Q||^2 / ||W||^2``, is what no engram can change; the second, ``tr(W Q S Q W^T) / tr(W S W^T)``, is
    what a cut calls nothing although rows have it.
    """
    weight = wide(weight)
    if white is None:
        rest = weight[:, site.reference.moment.sum.to(weight.device) == 0]
        size = weight.square().sum()
        return ((rest.square().sum() / size).item() if size > 0 else 0.0), 0.0
    if white.info.rank == white.info.dim:
        return 0.0, 0.0
    moment = site.reference.moment.to(weight.device)
    product = times(weight, moment, site.augmented)
    rest = weight - white.divide(product)
    size, total = weight.square().sum(), (product * weight).sum()
    left = (times(rest, moment, site.augmented) * rest).sum()
    return (
        (rest.square().sum() / size).item() if size > 0 else 0.0,
        max(0.0, (left / total).item()) if total > 0 else 0.0,
    )


def times(weight: Tensor, moment: Moment, augmented: bool) -> Tensor:
    """``W S_c``, ``[O, D]``, without the square where the moment is thin or diagonal."""
    if isinstance(moment, Diagonal):
        return weight * moment.sum
    if moment.thin:
        rows = moment.design(augmented)
        return weight @ rows.T @ rows
    return weight @ moment.matrix(augmented)
