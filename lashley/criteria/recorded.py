"""The criteria in Z-space from moments alone: no pass, no sample.

With ``D = W - W0``, E the engram and ``S+``, ``S-`` the moments of the target's rows and of all others, the inputs
being those of the learned network (AI Engram, arXiv 2606.14997, table 1):

    rho+ = ||(D - E) X+|| / ||D X+||,    rho+^2 = tr((D - E) S+ (D - E)^T) / tr(D S+ D^T)
    rho- = ||E X-|| / ||D X-||,          rho-^2 = tr(E S- E^T) / tr(D S- D^T)

At alpha = 1 sufficiency and necessity are the same number, rho+, and so are the two specificities, rho-: they part only
where the edited network runs as a whole.

Legend: M matrices of a layer, O outputs, D columns (one more where the engram carries a share of the bias).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lashley.engram import Delta, Engram
from lashley.errors import DataError
from lashley.layers import unwrap
from lashley.moments import Diagonal, Moment, pool_all, wide
from lashley.parameters import Parameters, matrices_of, parameters_of
from lashley.recording import Recording

__all__ = ["Recorded", "change_of", "energies_of", "engram_matrices", "from_moments", "root"]


@dataclass(frozen=True)
class Recorded:
    """The two numbers of a layer; 0 is a perfect engram. None where the denominator is 0.

    Attributes:
        rho_plus: reactivation error: what the engram misses of the target's responses.
        rho_minus: leak: what it does to everybody else's.
        necessity: ``||(D - alpha E) X+|| / ||D X+||``; rho_plus at alpha 1.
        specificity: ``alpha ||E X-|| / ||D X-||``; rho_minus at alpha 1.
    """

    rho_plus: float | None
    rho_minus: float | None
    necessity: float | None
    specificity: float | None


def from_moments(
    recording: Recording,
    engrams: Mapping[str, Engram],
    changes: Mapping[str, Tensor],
    targets: Sequence[str],
    alphas: Mapping[str, float],
) -> dict[str, dict[str, Recorded]]:
    """For each engram ``{layer: Recorded}``; the moments of a layer are read once for all of them.

    Args:
        engrams: of the same layers, with biases in the same ones.
        changes: ``W - W0`` by layer (`change_of`).
        targets: the concepts whose rows are ``X+``; all other recorded rows are ``X-``.
        alphas: strength of the ablation, by layer.
    """
    found: dict[str, dict[str, Recorded]] = {name: {} for name in engrams}
    for layer, change in changes.items():
        alpha = alphas[layer]
        parts = {name: engram_matrices(engram[layer]) for name, engram in engrams.items()}
        target, rest = _sides(recording, layer, targets)
        missed = energies_of(target, [change, *(change - part for part in parts.values())])
        spared = energies_of(rest, [change, *parts.values()])
        left = missed if alpha == 1 else energies_of(target, [change, *(change - alpha * p for p in parts.values())])
        for place, name in enumerate(parts, 1):
            found[name][layer] = Recorded(
                rho_plus=root(missed[place], missed[0]),
                rho_minus=root(spared[place], spared[0]),
                necessity=root(left[place], left[0]),
                specificity=root(alpha**2 * spared[place], spared[0]),
            )
    return found


def change_of(engram: Engram, model: nn.Module, null: nn.Module) -> dict[str, Tensor]:
    """``W - W0`` of every layer, ``[M, O, D]`` in float64 on the host; with the biases where the engram has some."""
    layers = {name: delta.layer for name, delta in engram.items()}
    now, before = parameters_of(unwrap(model), layers), parameters_of(unwrap(null), layers)
    host = torch.device("cpu")

    def matrices(name: str, parameters: Mapping[str, Parameters]) -> Tensor:
        return matrices_of(layers[name], parameters[name], engram[name].bias is not None, host, torch.float64)

    return {name: matrices(name, now) - matrices(name, before) for name in layers}


def engram_matrices(delta: Delta) -> Tensor:
    """E of a layer, ``[M, O, D]`` in float64 on the host."""
    matrices = wide(delta.layer.matrix(delta.weight)).cpu()
    if delta.bias is None:
        return matrices
    return torch.cat([matrices, wide(delta.layer.biases(delta.bias)).cpu().unsqueeze(-1)], dim=-1)


def energies_of(moments: Iterable[Moment], matrices: Sequence[Tensor]) -> list[float]:
    """``||A X||_F^2 = tr(A S A^T)`` for each A, over the matrices of a layer ``[M, O, D]``."""
    stacked = torch.stack(list(matrices))  # [K, M, O, D]
    total = torch.zeros(len(stacked), dtype=torch.float64)
    for number, moment in enumerate(moments):
        a = stacked[:, number]
        augmented = a.shape[-1] > moment.dim
        if isinstance(moment, Diagonal):
            parts = a.square() * moment.sum.to(a.device)
        elif moment.thin:
            parts = (a @ moment.design(augmented).to(a.device).T).square()
        else:
            parts = a @ moment.matrix(augmented).to(a.device) * a
        total += parts.sum(dim=(1, 2)).cpu()
    return total.clamp(min=0).tolist()


def root(part: float, whole: float) -> float | None:
    """``sqrt(part / whole)``; None of nothing."""
    return (part / whole) ** 0.5 if whole > 0 else None


def _sides(recording: Recording, layer: str, targets: Sequence[str]) -> tuple[list[Moment], list[Moment]]:
    """The moments of the target's rows and of all others, for every matrix of a layer.

    Sums of the concepts' moments, and no differences: where nothing is shared, the leak is to come out as 0.
    """
    if not recording.overlapping:
        rest = [name for name in recording.concepts if name not in targets]
        sides = (pool_all(recording.moments(name, layer) for name in names) for names in (targets, rest))
        return next(sides), next(sides)
    if len(targets) > 1:
        raise DataError(
            f"Expected one target where recorded concepts may overlap, got {list(targets)}, whose common rows would "
            "count twice. Record their union as a concept of its own."
        )
    target, everything = recording.moments(targets[0], layer), recording.moments(None, layer)
    return target, [whole.without(part) for whole, part in zip(everything, target, strict=True)]
