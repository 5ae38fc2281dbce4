"""What the geometry suggests, tried: a threshold read off the spectrum, and a step with the outputs' curvature.

Every digit is taken out of the network by each edit, at the smallest strength that leaves at most the given part of its
training images read correctly (the largest tried where none does), and everything is then measured on test images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import nn

import lashley
from lashley.anatomy import spectrum
from lashley.curvature import natural_gradient
from lashley.engram import Delta, Engram
from lashley.geometry import output_step
from lashley.recording import Recording
from lashley.result import Column, Table, value_of
from lashley.studies import digits

__all__ = ["summary", "table"]

Say = Callable[[str], None]
PAPER, HALF, READ = "paper", "sharpened, t = 0.5", "sharpened, t from the spectrum"


def table(
    model: nn.Module, recording: Recording, data: digits.Digits, config: Mapping[str, Any], seed: int, say: Say
) -> Table:
    """A row per edit, over all digits."""
    rows = []
    before = digits.per_digit(model, data)
    for name, engrams in _edits(model, recording, data, config, seed).items():
        found = [_taken_out(model, engram, data, digit, before, config) for digit, engram in enumerate(engrams)]
        rows.append(
            {
                "edit": name,
                "alpha": _interval([one["alpha"] for one in found]),
                "missed": sum(one["missed"] for one in found),
                "digit": _interval([one["digit"] for one in found]),
                "fall": _interval([one["fall"] for one in found]),
                "worst": max(one["worst"] for one in found),
            }
        )
        say(f"{name}: others fall by {100 * fmean(one['fall'] for one in found):.2f} points")
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
        note=f"Ten digits, one at a time; strengths tried: {', '.join(f'{a:g}' for a in config['alphas'])}; enough is "
        f"at most {config['forgotten']:.0%} of the digit's training images. Means, from the smallest to the largest.",
        row_notes={
            HALF: f"sharpness {config['sharpness']:g}",
            READ: f"in each layer and for each digit the threshold at which a direction owned as the median is leaks "
            f"{config['leak']:.0%}",
        },
    )


def summary(found: Table, config: Mapping[str, Any]) -> str:
    """What the table says, in a sentence."""
    falls = {found.label(row): value_of(row["fall"]) for row in found.rows}
    kfac = {name: fall for name, fall in falls.items() if name not in (PAPER, HALF, READ)}
    best = min(kfac, key=lambda name: kfac[name] or 0.0)
    said = (f"{100 * (fall or 0.0):.1f}" for fall in (falls[PAPER], falls[HALF], falls[READ], falls[best]))
    paper, half, read, other = said
    return (
        f"At equal forgetting on the training images the other digits fall by {paper} points with the paper's engram, "
        f"{half} with the sharpened one at t = 0.5, {read} with t read off the spectrum, and {other} with the best of "
        f"the steps that use the outputs' curvature ({best})."
    )


def _edits(
    model: nn.Module, recording: Recording, data: digits.Digits, config: Mapping[str, Any], seed: int
) -> dict[str, list[Engram]]:
    p, names = config["sharpness"], recording.concepts
    found = {
        PAPER: [recording.engram(model, name) for name in names],
        HALF: [recording.engram(model, name, estimator=lashley.Projection(p, 0.5)) for name in names],
        READ: [_read(model, recording, name, p, config["leak"]) for name in names],
    }
    batches = data.batches()
    steps = natural_gradient(model, recording, batches, names, lambda batch: batch[1], seed=seed)
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
    model: nn.Module,
    engram: Engram,
    data: digits.Digits,
    digit: int,
    before: Sequence[float],
    config: Mapping[str, Any],
) -> dict[str, float]:
    """The digit at the smallest strength that is enough on training images; measured on test images."""
    images = data.train_images[data.train_labels == digit]
    alpha, enough = config["alphas"][-1], False
    for tried in config["alphas"]:
        with lashley.ablated(model, engram, tried):
            left = (digits.scores(model, images).argmax(1) == digit).double().mean().item()
        if left <= config["forgotten"]:
            alpha, enough = tried, True
            break
    with lashley.ablated(model, engram, alpha), torch.no_grad():
        after = digits.per_digit(model, data)
    falls = [before[other] - after[other] for other in digits.DIGITS if other != digit]
    return {"alpha": alpha, "missed": not enough, "digit": after[digit], "fall": fmean(falls), "worst": max(falls)}


def _interval(values: Sequence[float]) -> dict[str, float] | float:
    if min(values) == max(values):
        return values[0]
    return {"value": fmean(values), "low": min(values), "high": max(values)}
