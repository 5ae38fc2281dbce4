"""What an autoencoder draws after a digit was taken out of all of its layers: the paper's figure 5, with controls.

Errors are mean squared errors of pixels in 0..1. The reference is an autoencoder that was trained without the digit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lashley
from lashley.provenance import digest, fingerprint
from lashley.studies.closed_forms.edits import projection
from lashley.studies.closed_forms.material import Images, Material
from lashley.studies.closed_forms.networks import Autoencoder
from lashley.studies.closed_forms.pieces import Pieces
from lashley.studies.closed_forms.training import reconstructing

__all__ = ["reconstructions"]

VERSION = 1  # of what is kept

Values = dict[str, Any]


def reconstructions(config: Mapping[str, Any], pieces: Pieces, work: Path, say: Callable[[str], None]) -> Values:
    """``{"before": [K], "edits": {edit: [K][K]}, "retrained": {class: [K]}, ...}``.

    A list of K has an error for every class shown; the rows of a matrix are the classes that were taken out.

    Args:
        config: "data", "images" (see `Material.load`), "training" (see `reconstructing`), "seed", "alpha", "edits":
            ``{name: settings of lashley.Projection}``, "retrained": classes.
        work: the folder that the recording is kept in.
    """
    material = Material.load(config["data"], config["images"])
    data = digest(fingerprint(material.train.stored), fingerprint(material.train.labels))
    key = {"data": data, "training": config["training"], "seed": config["seed"]}
    name = f"{material.name}-autoencoder"
    model, _ = _network(pieces, name, key, material.train)
    before = _errors(model, material)
    say(f"autoencoder: mean squared error {sum(before) / len(before):.5f}")
    key = {**key, "version": VERSION, "images": config["images"]}

    def recorded() -> lashley.Recording:
        return lashley.record(
            model,
            material.record.batches(),
            concept_of=lambda batch: batch[1],
            concept_names=material.classes,
            checkpoint=work / f"recording-{name}-{digest(repr(key))[:10]}",
            dtype=torch.float64,
            progress=False,
        )

    def edited(settings: Values) -> Values:
        recording, rows = recorded(), []
        for concept in material.classes:
            engram = recording.engram(model, concept, estimator=projection(settings))
            with lashley.ablated(model, engram, config["alpha"]):
                rows.append(_errors(model, material))
        return {"errors": rows}

    edits = {}
    for edit, settings in config["edits"].items():
        own = {**key, "edit": settings, "alpha": config["alpha"]}
        edits[edit] = pieces.values(f"{name}-{edit}", own, partial(edited, settings))["errors"]
        say(f"autoencoder, {edit}: {_sentence(before, edits[edit])}")
    retrained = {}
    for concept in config["retrained"]:
        label = material.classes.index(concept)
        own = {**key, "without": concept}
        other, _ = _network(pieces, f"{name}-without-{concept}", own, material.train.without(label))
        retrained[concept] = _errors(other, material)
        say(f"autoencoder trained without {concept}: error on it {retrained[concept][label]:.5f}")
    return {
        "data": data,
        "classes": list(material.classes),
        "layers": [layer for layer, module in model.named_modules() if hasattr(module, "weight")],
        "before": before,
        "edits": edits,
        "retrained": retrained,
    }


def _network(pieces: Pieces, name: str, key: Values, images: Images) -> tuple[Autoencoder, Values]:
    shape = images.stored.shape[1], images.stored.shape[2], images.stored.shape[3]

    def make() -> tuple[nn.Module, Values]:
        return reconstructing(key["training"], images.pixels, key["seed"]), {}

    model, values = pieces.network(name, key, lambda: Autoencoder(shape), make)
    assert isinstance(model, Autoencoder)
    return model, values


@torch.no_grad()
def _errors(model: nn.Module, material: Material) -> list[float]:
    """On the test images of every class."""
    images = material.test
    each = torch.cat([(model(pixels) - pixels).square().mean((1, 2, 3)) for pixels, _ in images.batches()])
    return [each[images.labels == k].double().mean().item() for k in range(len(material.classes))]


def _sentence(before: list[float], after: list[list[float]]) -> str:
    own = [after[k][k] / before[k] for k in range(len(before))]
    others = [after[k][j] / before[j] for k in range(len(before)) for j in range(len(before)) if j != k]
    return f"error on the digit times {sum(own) / len(own):.2f}, on the others times {sum(others) / len(others):.2f}"
