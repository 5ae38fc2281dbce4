"""What the geometry suggests, tried: a threshold read off the spectrum, and a step with the outputs' curvature.

Every digit is taken out of the network by each edit, at the smallest strength that leaves at most the given part of its
training images read correctly (the largest tried where none does), and everything is then measured on test images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles
from typing import Any

from torch import nn

import lashley
from lashley.anatomy import spectrum
from lashley.curvature import natural_gradient
from lashley.engram import Delta, Engram
from lashley.geometry import output_step
from lashley.recording import Recording
from lashley.result import Column, Table, value_of
from lashley.studies import digits

__all__ = ["Subject", "summary", "table"]

Say = Callable[[str], None]
PAPER, READ = "paper", "sharpened, t from the spectrum"


@dataclass(frozen=True)
class Subject:
    """A trained network, its recording and its data."""

    model: nn.Module
    recording: Recording
    data: digits.Digits
    seed: int


def table(subjects: Iterable[Subject], config: Mapping[str, Any], say: Say) -> Table:
    """A row per edit, over all digits of all networks."""
    found: dict[str, list[dict[str, float]]] = {}
    seeds = []
    for subject in subjects:
        seeds.append(subject.seed)
        before = digits.per_digit(subject.model, subject.data)
        for name, engrams in _edits(subject, config).items():
            for digit, engram in enumerate(engrams):
                found.setdefault(name, []).append(_taken_out(subject, engram, digit, before, config))
        say(f"seed {subject.seed}: " + ", ".join(f"{n} {100 * _mean(all_, 'fall'):.1f}" for n, all_ in found.items()))
    rows = [
        {
            "edit": name,
            "alpha": _mean(of_edit, "alpha"),
            "missed": sum(one["missed"] for one in of_edit),
            "digit": _interval(of_edit, "digit"),
            "fall": _interval(of_edit, "fall"),
            "worst": max(one["worst"] for one in of_edit),
        }
        for name, of_edit in found.items()
    ]
    return Table(
        "edits",
        "Taken out of the network, at equal forgetting on the training images",
        [
            Column("edit", "edit"),
            Column("alpha", "strength", note="The smallest of those tried that is enough on the training images."),
            Column("missed", "not enough", better="lower", unit="count", note="Digits for which no strength was."),
            Column(
                "digit", "the digit", better="lower", unit="share", note="Test images of it that are read correctly."
            ),
            Column("fall", "others fall", better="lower", unit="points", note="Mean over the nine other digits."),
            Column("worst", "worst fall", better="lower", unit="points", note="Of any other digit, for any digit."),
        ],
        rows,
        note=f"Ten digits, one at a time, in {len(seeds)} networks (seeds {', '.join(map(str, seeds))}); strengths "
        f"tried: {', '.join(f'{a:g}' for a in config['alphas'])}; enough is at most {config['forgotten']:.0%} of the "
        "digit's training images. Means over digits and networks, from the 10th to the 90th percentile.",
        row_notes={
            READ: f"In each layer and for each digit the threshold at which a direction owned as the median is leaks "
            f"{config['leak']:.0%}; sharpness {config['sharpness']:g}, as in the other sharpened rows.",
        },
    )


def summary(found: Table) -> str:
    """What the table says, in a sentence."""
    rows = {found.label(row): row for row in found.rows}
    falls = {name: value_of(row["fall"]) or 0.0 for name, row in rows.items()}
    fixed = min((name for name in rows if name.startswith("sharpened") and name != READ), key=falls.__getitem__)
    curved = min((name for name in rows if name.startswith("K-FAC")), key=falls.__getitem__)
    said = {name: f"{100 * falls[name]:.1f} ({rows[name]['missed']})" for name in (PAPER, fixed, READ, curved)}
    return (
        "At equal forgetting on the training images, as far as the strengths tried reach it (in brackets: how often "
        f"they do not), the other digits fall by {said[PAPER]} points with the paper's engram, {said[READ]} with the "
        f"sharpened one whose threshold is read off each layer's spectrum, {said[fixed]} with the best of the fixed "
        f"thresholds ({fixed}), and {said[curved]} with the best of the steps that use the outputs' curvature "
        f"({curved})."
    )


def _edits(subject: Subject, config: Mapping[str, Any]) -> dict[str, list[Engram]]:
    model, recording, p = subject.model, subject.recording, config["sharpness"]
    names = recording.concepts
    found = {PAPER: [recording.engram(model, name) for name in names]}
    for t in config["thresholds"]:
        estimator = lashley.Projection(p, t)
        found[f"sharpened, t = {t:g}"] = [recording.engram(model, name, estimator=estimator) for name in names]
    found[READ] = [_read(model, recording, name, p, config["leak"]) for name in names]
    batches = subject.data.batches()
    steps = natural_gradient(model, recording, batches, names, lambda batch: batch[1], seed=subject.seed)
    for damping in steps[0].outputs:
        found[f"K-FAC's step, damping {damping:g}"] = [
            _bent(engram, {step.layer: step for step in steps if step.concept == name}, damping)
            for name, engram in zip(names, found[PAPER], strict=True)
        ]
    return found


def _read(model: nn.Module, recording: Recording, concept: str, p: float, leak: float) -> Engram:
    """Sharpened, in each layer with the threshold that its spectrum suggests."""
    deltas: dict[str, Delta] = {}
    for layer, [shares] in spectrum(recording, concept).items():
        estimator = lashley.Projection(p, shares.sparing(leak, p))
        deltas |= recording.engram(model, concept, estimator=estimator, layers=[layer])
    return Engram(deltas, {concept: 1.0}, lashley.Projection(p))


def _bent(engram: Engram, steps: Mapping[str, Any], damping: float) -> Engram:
    """With the outputs' curvature, every layer at the norm it had."""
    deltas = {}
    for name, delta in engram.items():
        step = steps[name]
        matrix = output_step(step.engram, step.factor, damping)
        matrix = matrix * (step.engram.norm() / matrix.norm())
        bias = None if delta.bias is None else matrix[:, -1].contiguous()
        weight = delta.layer.weight(matrix[None, :, : delta.layer.dim])
        deltas[name] = Delta(delta.layer, weight=weight, bias=bias, base=delta.base, base_norm=delta.base_norm)
    return Engram(deltas, engram.concepts, engram.estimator)


def _taken_out(
    subject: Subject, engram: Engram, digit: int, before: Sequence[float], config: Mapping[str, Any]
) -> dict[str, float]:
    """The digit at the smallest strength that is enough on training images; measured on test images."""
    model, data = subject.model, subject.data
    images = data.train_images[data.train_labels == digit]
    alpha, enough = config["alphas"][-1], False
    for tried in config["alphas"]:
        with lashley.ablated(model, engram, tried):
            left = (digits.scores(model, images).argmax(1) == digit).double().mean().item()
        if left <= config["forgotten"]:
            alpha, enough = tried, True
            break
    with lashley.ablated(model, engram, alpha):
        after = digits.per_digit(model, data)
    falls = [before[other] - after[other] for other in digits.DIGITS if other != digit]
    return {"alpha": alpha, "missed": not enough, "digit": after[digit], "fall": fmean(falls), "worst": max(falls)}


def _mean(found: Sequence[Mapping[str, float]], key: str) -> float:
    return fmean(one[key] for one in found)


def _interval(found: Sequence[Mapping[str, float]], key: str) -> dict[str, float]:
    low, *_, high = quantiles([one[key] for one in found], n=10, method="inclusive")
    value = _mean(found, key)
    return {"value": value, "low": min(low, value), "high": max(high, value)}
