"""What an engram is compared with: edits of the same layers that know less of the concept, or nothing.

random direction        a Gaussian matrix of the engram's norm, layer by layer, the bias's part apart
random, rescaled        the same, of the norm with which all recorded rows answer as strongly as they do to the engram
random subspace         W - W0 on a random subspace, of as many dimensions as the engram's effective rank
random samples          the engram of as many samples as the concept has, drawn from all that are measured on
another concept         the engram of another concept of the recording
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lashley.criteria.recorded import energies_of, engram_matrices
from lashley.criteria.samples import Samples
from lashley.engram import Delta, Engram
from lashley.errors import DataError, LashleyWarning, SolveError
from lashley.estimators import Estimator
from lashley.geometry import effective_rank
from lashley.layers import Layer
from lashley.moments import Counts
from lashley.observer import Forward, Rows
from lashley.recorder import record
from lashley.recording import Recording

__all__ = [
    "CONTROLS",
    "Control",
    "another",
    "only",
    "random_direction",
    "random_samples",
    "random_subspace",
    "rescaled",
]

CONTROLS = ("random direction", "random, rescaled", "random subspace", "random samples", "another concept")


@dataclass(frozen=True)
class Control:
    """An edit to compare with.

    Attributes:
        title: as in tables.
        engram: of the same layers.
        note: a sentence that says what it is.
    """

    title: str
    engram: Engram
    note: str


def random_direction(engram: Engram, seed: int) -> Control:
    """Gaussian, of the engram's norm in every layer."""
    generator = torch.Generator().manual_seed(seed)

    def draw(delta: Delta) -> Delta:
        parts = {"weight": delta.weight, "bias": delta.bias}
        drawn = {}
        for name, part in parts.items():
            if part is not None:
                noise = torch.randn(part.shape, generator=generator, dtype=torch.float64)
                norm = torch.linalg.vector_norm(part, dtype=torch.float64).cpu()
                drawn[name] = (noise * (norm / noise.norm())).to(part)
        return _like(delta, **drawn)

    return Control(
        "random direction",
        _with(engram, draw),
        f"a random direction of the engram's norm, layer by layer (seed {seed})",
    )


def rescaled(control: Control, engram: Engram, recording: Recording) -> Control:
    """A random direction scaled until the recorded rows answer to it as strongly as to the engram: a norm alone says
    little, because directions in which rows hardly vary take most of it.
    """

    def scale(delta: Delta) -> Delta:
        name = delta.layer.name
        moments = recording.moments(None, name)
        wanted, found = energies_of(moments, [engram_matrices(one[name]) for one in (engram, control.engram)])
        return delta.scaled((wanted / found) ** 0.5 if found > 0 else 0.0)

    return Control(
        "random, rescaled",
        _with(control.engram, scale),
        "the same direction, scaled until all recorded rows respond to it as strongly as to the engram",
    )


def random_subspace(engram: Engram, changes: Mapping[str, Tensor], seed: int) -> Control:
    """``(W - W0) Q Q^T`` with Q a random basis of as many directions as the engram effectively has."""
    generator = torch.Generator().manual_seed(seed)

    def draw(delta: Delta) -> Delta:
        parts = []
        for matrix, change in zip(engram_matrices(delta), changes[delta.layer.name], strict=True):
            dim = matrix.shape[1]
            rank = max(1, min(dim, round(effective_rank(matrix))))
            if isinstance(delta.layer.accumulator(), Counts):  # directions are indices there
                kept = torch.zeros(dim, dtype=torch.float64)
                kept[torch.randperm(dim, generator=generator)[:rank]] = 1
                parts.append(change * kept)
                continue
            basis = torch.linalg.qr(torch.randn(dim, rank, generator=generator, dtype=torch.float64)).Q
            parts.append(change @ basis @ basis.T)
        return _from_matrices(delta, torch.stack(parts))

    return Control(
        "random subspace",
        _with(engram, draw),
        f"what the layers learned on a random subspace of the engram's effective rank (seed {seed})",
    )


def random_samples(
    model: nn.Module,
    engram: Engram,
    samples: Samples,
    targets: Sequence[str],
    estimator: Estimator,
    base: nn.Module,
    seed: int,
    rows: Rows | None,
    forward: Forward | None,
) -> Control:
    """The engram of as many samples as the targets have, whatever they show.

    Raises:
        SolveError: samples of a batch that cannot be told apart in a layer.
    """
    count = sum(name in targets for name in samples.concepts)
    drawn = _Drawn(samples, count, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LashleyWarning)  # of few rows: the note says how many samples there are
        try:
            recording = record(
                model,
                drawn,
                drawn.labels,
                concept_names=["drawn", "rest"],
                target_modules=list(engram),
                rows=rows,
                forward=forward,
                progress=False,
            )
        except DataError as error:  # positions first: which rows of a batch are whose is not known there
            raise SolveError(f"Expected samples to be drawn from within batches, got no way to: {error}") from error
        found = recording.engram(model, "drawn", base=base, estimator=estimator, bias=_biased(engram))
    return Control(
        "random samples",
        only(found, engram),
        f"the engram of {count} of the {len(samples.concepts)} samples, drawn at random (seed {seed})",
    )


class _Drawn:
    """Batches, some of whose samples are drawn at random."""

    def __init__(self, samples: Samples, count: int, seed: int) -> None:
        self._samples = samples
        total = len(samples.concepts)
        self._rest = torch.ones(total, dtype=torch.long)
        self._rest[torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count]] = 0
        self._now = self._rest[:0]

    def __iter__(self) -> Iterator[Any]:
        place = 0
        for batch, concepts in self._samples:
            self._now = self._rest[place : place + len(concepts)]
            place += len(concepts)
            yield batch

    def labels(self, batch: Any) -> Tensor:
        """Of the batch that came last: 0 for the samples that are drawn."""
        return self._now


def another(
    model: nn.Module,
    engram: Engram,
    recording: Recording,
    targets: Sequence[str],
    other: str | None,
    estimator: Estimator,
    base: nn.Module,
) -> Control:
    """The engram of another concept: ``other``, or the next one of the recording."""
    rest = [name for name in recording.concepts if name not in targets]
    if other is None:
        place = recording.concepts.index(targets[-1])
        rest = [name for name in (*recording.concepts[place + 1 :], *recording.concepts[:place]) if name not in targets]
        if not rest:
            raise DataError("Expected a recording with other concepts than the target, to compare with; got none.")
        other = rest[0]
    elif other not in rest:
        raise DataError(f"Expected other= to be a recorded concept beside the target, got {other!r}; there are {rest}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LashleyWarning)  # what there is to say was said of the engram
        found = recording.engram(
            model, other, base=base, estimator=estimator, bias=_biased(engram), check=False, layers=list(engram)
        )
    return Control(
        f"engram of {other}", only(found, engram), f"the engram of the concept {other!r}, by the same formula"
    )


def _biased(engram: Engram) -> bool:
    return any(delta.bias is not None for delta in engram.values())


def only(found: Engram, engram: Engram) -> Engram:
    """The same layers, where patterns may have matched more."""
    return Engram({name: found[name] for name in engram}, found.concepts, found.estimator, found.made_by)


def _with(engram: Engram, made: Callable[[Delta], Delta]) -> Engram:
    return Engram({name: made(delta) for name, delta in engram.items()}, engram.concepts, None, engram.made_by)


def _like(delta: Delta, weight: Tensor, bias: Tensor | None = None) -> Delta:
    return Delta(delta.layer, weight=weight, bias=bias, fold=delta.fold, base=delta.base, base_norm=delta.base_norm)


def _from_matrices(delta: Delta, matrices: Tensor) -> Delta:
    """A delta of the same tensors from ``[M, O, D]``, the bias in the last column where there is one."""
    layer: Layer = delta.layer
    weight = layer.weight(matrices[..., : layer.dim]).to(delta.weight).contiguous()
    bias = None if delta.bias is None else matrices[..., layer.dim].reshape(-1).to(delta.bias)
    return _like(delta, weight, bias)
