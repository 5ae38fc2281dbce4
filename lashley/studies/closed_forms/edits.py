"""The ways of taking a class out, each up to what is chosen on training images.

The choice is the same for every way: of its settings and strengths, the one with the highest ``(1 - accuracy on the
class) * (mean accuracy on the others)`` on ``Material.choose``, which are training images that were not recorded; of
equals the first, that is of strengths the weakest. No test image and no retrained network has a part in it.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import lashley
from lashley.engram import Delta, Engram
from lashley.errors import DataError, SolveError, nearest
from lashley.estimators import Estimator, MixtureShift
from lashley.studies.closed_forms.subject import Subject, has_batchnorm, outputs

__all__ = ["Chosen", "Way", "accuracies", "masked", "projection", "random_like", "readable"]

Settings = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """One closed form with what may be chosen about it.

    Attributes:
        name: in tables.
        estimator: its kind: "paper", "ridge" and so on, a key of `_KINDS`.
        group: which layers it edits, a key of ``Subject.groups``.
        grid: ``{setting: values}``; every combination is tried.
        alphas: strengths, rising.
        batchnorm: whether BatchNorm is re-estimated on the other classes after the edit.
        random_like: put random numbers of the same norm in every layer in place of the engram, with the settings and
            the strength that were chosen for the way of this name; "": do not.
    """

    name: str
    estimator: str
    group: str
    grid: Mapping[str, list[float]] = field(default_factory=dict)
    alphas: tuple[float, ...] = (1.0,)
    batchnorm: bool = False
    random_like: str = ""

    def __post_init__(self) -> None:
        if self.estimator not in _KINDS:
            raise DataError(f"Expected a kind of estimator, got {self.estimator!r}. {nearest(self.estimator, _KINDS)}")

    def fits(self, model: nn.Module) -> bool:
        """Whether the model has what the way needs."""
        return not self.batchnorm or has_batchnorm(model)

    def settings(self) -> Iterator[Settings]:
        """Every combination of the grid."""
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))

    def engram(self, subject: Subject, settings: Settings, recording: lashley.Recording | None = None) -> Engram:
        """Of the subject's class.

        Raises:
            DataError: an unknown group of layers.
            SolveError: the estimator has no answer in any of the layers.
        """
        if self.group not in subject.groups:
            raise DataError(f"Expected a group of layers, got {self.group!r}. {nearest(self.group, subject.groups)}")
        recording = subject.recording() if recording is None else recording
        found = _KINDS[self.estimator](recording, subject, subject.groups[self.group], settings)
        return random_like(found, seed=subject.target) if self.random_like else found

    def edited(self, subject: Subject, engram: Engram, alpha: float) -> nn.Sequential:
        """The network after the edit."""
        model = lashley.ablate(subject.model, engram, alpha)
        if self.batchnorm:
            lashley.recalibrate_batchnorm_(model, subject.kept)
        return model

    def choose(self, subject: Subject) -> Chosen:
        """The settings and strength that training images speak for; everything tried is kept.

        Raises:
            SolveError: none of the settings has an answer.
        """
        tried: list[Settings] = []
        best: tuple[float, Engram, Settings, float] | None = None
        for settings in self.settings():
            engram = self.engram(subject, settings)
            for alpha in self.alphas:
                target, others = accuracies(self.edited(subject, engram, alpha), subject)
                score = (1 - target) * others
                tried.append({**settings, "alpha": alpha, "target": target, "others": others})
                if best is None or score > best[0]:
                    best = score, engram, settings, alpha
        assert best is not None  # a grid without settings has one combination: none
        _, engram, settings, alpha = best
        return Chosen(self, settings, alpha, engram, tried)


@dataclass(frozen=True)
class Chosen:
    """A way with settings and strength.

    Attributes:
        tried: a row per candidate: its settings, "alpha", and the accuracies on the images it was chosen by.
    """

    way: Way
    settings: Settings
    alpha: float
    engram: Engram
    tried: list[Settings]

    def edited(self, subject: Subject, alpha: float | None = None) -> nn.Sequential:
        """The network after the edit, also at another strength."""
        return self.way.edited(subject, self.engram, self.alpha if alpha is None else alpha)

    def timed(self, subject: Subject) -> tuple[nn.Sequential, float]:
        """The network after the edit, and the seconds from a recording that has solved nothing yet to that network."""
        recording = subject.recording(fresh=True)
        start = time.perf_counter()
        model = self.way.edited(subject, self.way.engram(subject, self.settings, recording), self.alpha)
        return model, time.perf_counter() - start

    @property
    def gates(self) -> dict[str, float]:
        """R^2 of the gates, for a mixture shift; else empty."""
        return gates_of(self.engram)


def accuracies(model: nn.Sequential, subject: Subject) -> tuple[float, float]:
    """On the images to choose by: of the class, and the mean over the other classes."""
    images = subject.material.choose
    right = outputs(model, images)[1].argmax(1) == images.labels
    of = [right[images.labels == k].double().mean().item() for k in range(len(subject.material.classes))]
    return of[subject.target], sum(of[k] for k in subject.others) / len(subject.others)


class _Mask(nn.Module):
    """A readout that never answers one class."""

    def __init__(self, readout: nn.Module, target: int) -> None:
        super().__init__()
        self.readout = readout
        self.target = target

    def forward(self, x: Tensor) -> Tensor:
        logits = self.readout(x).clone()
        logits[:, self.target] = -math.inf
        return logits


def masked(subject: Subject) -> nn.Sequential:
    """The trivial rival: nothing is forgotten, the class is not answered."""
    model = copy.deepcopy(subject.model)
    model.readout = _Mask(model[-1], subject.target)
    return model


def random_like(engram: Engram, seed: int) -> Engram:
    """Normal random numbers with the norm of the engram in every layer, biases included."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(tensor: Tensor) -> Tensor:
        noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        return noise * (tensor.norm() / noise.norm())

    deltas = {
        name: Delta(
            delta.layer,
            weight=drawn(delta.weight),
            bias=None if delta.bias is None else drawn(delta.bias),
            fold=delta.fold,
            base=delta.base,
            base_norm=delta.base_norm,
        )
        for name, delta in engram.items()
    }
    return Engram(deltas, engram.concepts, None)


def projection(settings: Mapping[str, Any]) -> lashley.Projection:
    """The paper's estimator or a sharpened one; "rtol" among the settings is its spectral cut."""
    rest = dict(settings)
    cut = lashley.Cut(rtol=rest.pop("rtol")) if "rtol" in rest else lashley.Cut()
    return lashley.Projection(cut=cut, **rest)


# How each kind is made of the grid's settings.


def _plain(kind: type[Estimator]) -> Any:
    def solve(recording: lashley.Recording, subject: Subject, layers: list[str], settings: Settings) -> Engram:
        return recording.engram(subject.model, subject.name, estimator=kind(**settings), layers=layers)

    return solve


def _projection(recording: lashley.Recording, subject: Subject, layers: list[str], settings: Settings) -> Engram:
    return recording.engram(subject.model, subject.name, estimator=projection(settings), layers=layers)


def _ridge(recording: lashley.Recording, subject: Subject, layers: list[str], settings: Settings) -> Engram:
    """Damped by a share of each site's mean eigenvalue: one absolute number would mean another thing everywhere."""
    parts = []
    for layer in layers:
        moment = recording.moment(None, layer)
        lam = settings["damping"] * moment.square.diagonal().mean().item()
        parts.append(recording.engram(subject.model, subject.name, estimator=lashley.Ridge(lam), layers=[layer]))
    return sum(parts[1:], parts[0])


def gates_of(engram: Engram) -> dict[str, float]:
    """R^2 of the gate in every layer that has one."""
    gates = {name: delta.solutions[0].gate for name, delta in engram.items() if delta.solutions}
    return {name: gate for name, gate in gates.items() if gate is not None}


def readable(subject: Subject) -> dict[str, float | None]:
    """How linearly readable the class is at the input of every layer: R^2 of the gate of a mixture shift there.

    None where there is no gate, because the means of the classes differ in too few directions.
    """
    estimator = lashley.MixtureShift(min_r2=0.0, missing_bias=_missing_bias(subject))
    recording = subject.recording()
    found: dict[str, float | None] = {}
    for layer in subject.groups["all"]:
        try:
            engram = recording.engram(subject.model, subject.name, estimator=estimator, layers=[layer])
        except SolveError:
            found[layer] = None
        else:
            found |= gates_of(engram)
    return found


def _leace(recording: lashley.Recording, subject: Subject, layers: list[str], settings: Settings) -> Engram:
    estimator = lashley.Leace(missing_bias=_missing_bias(subject), **settings)
    return recording.engram(subject.model, subject.name, estimator=estimator, layers=layers)


def _mixture(recording: lashley.Recording, subject: Subject, layers: list[str], settings: Settings) -> Engram:
    """In those of the layers in which the class is linearly readable, by the estimator's own bound."""
    bound = MixtureShift().min_r2
    estimator = lashley.MixtureShift(subject.lookalikes, min_r2=0.0, missing_bias=_missing_bias(subject), **settings)
    engram = recording.engram(subject.model, subject.name, estimator=estimator, layers=layers)
    gates = gates_of(engram)
    if chosen := [name for name, gate in gates.items() if gate >= bound]:
        return engram.select(chosen)
    raise SolveError(f"Expected a gate with an R^2 of at least {bound} in one of the layers, got {gates}.")


def _missing_bias(subject: Subject) -> str:
    return "fold" if has_batchnorm(subject.model) else "add"


_KINDS: dict[str, Any] = {
    "projection": _projection,
    "ridge": _ridge,
    "kodge": _plain(lashley.Kodge),
    "leace": _leace,
    "mean direction": _plain(lashley.MeanDirection),
    "null space": _plain(lashley.NullSpace),
    "mixture": _mixture,
}
