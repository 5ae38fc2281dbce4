"""The criteria in Z-space from moments alone: no pass, no sample.

With ``D = W - W0``, E the engram and ``S+``, ``S-`` the moments of the target's rows and of all others, the inputs
being those of the learned network (vision.md 4, and table 1 of arXiv 2606.14997):

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
from lashley.moments import Diagonal, Moment, wide
from lashley.parameters import matrices_of, parameters_of
from lashley.recording import Recording

__all__ = ["Recorded", "change_of", "energy", "engram_matrices", "from_moments", "root"]


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
    model: nn.Module,
    null: nn.Module,
    targets: Sequence[str],
    alphas: Mapping[str, float],
) -> dict[str, dict[str, Recorded]]:
    """For each engram ``{layer: Recorded}``; the moments of a layer are read once for all of them.

    Args:
        engrams: of the same layers, with biases in the same ones.
        model, null: the networks with ``W`` and ``W0``.
        targets: the concepts whose rows are ``X+``; all other recorded rows are ``X-``.
        alphas: strength of the ablation, by layer.
    """
    first = next(iter(engrams.values()))
    found: dict[str, dict[str, Recorded]] = {name: {} for name in engrams}
    changes = change_of(first, model, null)
    for layer, change in changes.items():
        matrices = {"change": change}
        for name, engram in engrams.items():
            part = engram_matrices(engram[layer])
            matrices |= {name: part, f"{name}/rest": change - part, f"{name}/alpha": change - alphas[layer] * part}
        own, others = _energies(recording, layer, targets, matrices)
        for name in engrams:
            found[name][layer] = Recorded(
                rho_plus=root(own[f"{name}/rest"], own["change"]),
                rho_minus=root(others[name], others["change"]),
                necessity=root(own[f"{name}/alpha"], own["change"]),
                specificity=root(alphas[layer] ** 2 * others[name], others["change"]),
            )
    return found


def change_of(engram: Engram, model: nn.Module, null: nn.Module) -> dict[str, Tensor]:
    """``W - W0`` of every layer, ``[M, O, D]`` in float64 on the host; with the biases where the engram has some."""
    layers = {name: delta.layer for name, delta in engram.items()}
    now, before = parameters_of(unwrap(model), layers), parameters_of(unwrap(null), layers)
    host = torch.device("cpu")

    def matrices(name: str, parameters: Mapping[str, object]) -> Tensor:
        absorbed = engram[name].bias is not None
        return matrices_of(layers[name], parameters[name], absorbed, host, torch.float64)  # type: ignore[arg-type]

    return {name: matrices(name, now) - matrices(name, before) for name in layers}


def engram_matrices(delta: Delta) -> Tensor:
    """E of a layer, ``[M, O, D]`` in float64 on the host."""
    matrices = wide(delta.layer.matrix(delta.weight)).cpu()
    if delta.bias is None:
        return matrices
    return torch.cat([matrices, wide(delta.layer.biases(delta.bias)).cpu().unsqueeze(-1)], dim=-1)


def energy(moments: Iterable[Moment], matrices: Tensor) -> float:
    """``||A X||_F^2 = tr(A S A^T)``, over the matrices of a layer ``[M, O, D]``."""
    total = 0.0
    for moment, matrix in zip(moments, matrices, strict=True):
        augmented = matrix.shape[1] > moment.dim
        if isinstance(moment, Diagonal):
            total += (matrix.square() * moment.sum.to(matrix.device)).sum().item()
        elif moment.thin:
            total += (moment.design(augmented).to(matrix.device) @ matrix.T).square().sum().item()
        else:
            total += (matrix @ moment.matrix(augmented).to(matrix.device) * matrix).sum().item()
    return max(total, 0.0)


def root(part: float, whole: float) -> float | None:
    """``sqrt(part / whole)``; None of nothing."""
    return (part / whole) ** 0.5 if whole > 0 else None


def _energies(
    recording: Recording, layer: str, targets: Sequence[str], matrices: Mapping[str, Tensor]
) -> tuple[dict[str, float], dict[str, float]]:
    """Of each of the matrices, on the target's rows and on all others."""
    if not recording.overlapping:
        own, others = dict.fromkeys(matrices, 0.0), dict.fromkeys(matrices, 0.0)
        for concept in recording.concepts:
            moments, side = recording.moments(concept, layer), own if concept in targets else others
            for key, matrix in matrices.items():
                side[key] += energy(moments, matrix)
        return own, others
    if len(targets) > 1:
        raise DataError(
            f"Expected one target where recorded concepts may overlap, got {list(targets)}, whose common rows would "
            "count twice. Record their union as a concept of its own."
        )
    everything, target = recording.moments(None, layer), recording.moments(targets[0], layer)
    own = {key: energy(target, matrix) for key, matrix in matrices.items()}
    return own, {key: max(energy(everything, matrix) - own[key], 0.0) for key, matrix in matrices.items()}
