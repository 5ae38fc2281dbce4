"""What ``python -m benchmarks.geometry`` runs: a network recorded in float64, and `lashley.studies.geometry` of it.

In float64, so that an identity that holds is seen to hold to rounding. The networks are those of ``lashley demo``
(scikit-learn's digits), and the language model that knows the authors of TOFU by heart.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lashley
from benchmarks.geometry.edits import Subject, summary, table
from lashley.errors import DataError
from lashley.provenance import digest
from lashley.result import Result, made_by
from lashley.studies import digits, geometry
from lashley.studies.forget_tofu_mini import MODELS
from lashley.studies.forget_tofu_mini.subject import Subject as Reader
from lashley.studies.forget_tofu_mini.subject import rows_in

__all__ = ["run"]

Say = Callable[[str], None]


def run(config: Mapping[str, Any], say: Say = lambda line: None) -> Result:
    """The result of a config."""
    torch.set_num_threads(1)  # sums in one order, whatever the machine
    started = time.perf_counter()
    result = {"digits": _digits, "tofu": _tofu}[config["subject"]](config, say)
    seconds = {**result.provenance, "seconds": round(time.perf_counter() - started, 1)}
    return dataclasses.replace(result, provenance=seconds)


def _digits(config: Mapping[str, Any], say: Say) -> Result:
    first = _trained(config, config["seed"])
    say("trained and recorded")
    result = geometry.run(
        first.recording,
        first.model,
        threshold=config["threshold"],
        data=first.data.batches(),
        concept_of=_labels,
        checked=config["checked"],
        dampings=config["dampings"],
        seed=config["seed"],
        title=config["title"],
        provenance=made_by(
            seeds=sorted({config["seed"], *config["edits"]["seeds"]}),
            data={"scikit-learn, load_digits": _print(first.data)},
        ),
        settings=config,
    )
    say("geometry read")
    edits = table((_trained(config, seed) for seed in config["edits"]["seeds"]), config["edits"], say)
    said = result.summary.removesuffix(geometry.LIMIT) + summary(edits)
    return dataclasses.replace(result, tables=[*result.tables, edits], summary=said)


def _trained(config: Mapping[str, Any], seed: int) -> Subject:
    """A network of ``lashley demo`` and its recording, in float64."""
    network = next(n for n in digits.NETWORKS if n.key == config["network"])
    data = digits.load(seed).shaped(network.image)
    model = digits.train(network, data, config["epochs"], seed).double()
    data = dataclasses.replace(data, train_images=data.train_images.double(), test_images=data.test_images.double())
    recording = lashley.record(
        model,
        data.batches(),
        concept_of=_labels,
        concept_names=[str(digit) for digit in digits.DIGITS],
        dtype=torch.float64,
        progress=False,
    )
    return Subject(model, recording, data, seed)


def _tofu(config: Mapping[str, Any], say: Say) -> Result:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lashley.data.text import load_texts

    folder = config.get("models") or os.environ.get(MODELS)
    if not folder or not (Path(folder) / config["model"] / "config.json").is_file():
        raise DataError(f"Expected the checkpoint {config['model']} in the folder that {MODELS} names; got {folder!r}.")
    path = Path(folder) / config["model"]
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()
    texts = load_texts(config["texts"])
    reader = Reader(model, AutoTokenizer.from_pretrained(path), texts, config["batch"])
    data = {name: reader.batches(rows_in(ranges)) for name, ranges in config["concepts"].items()}
    recording = lashley.record(model, data, target_modules=config["layers"], dtype=torch.float64, progress=False)
    say(f"recorded {len(recording.layers)} layers")
    rows = [row for ranges in config["concepts"].values() for row in rows_in(ranges)]
    return geometry.run(
        recording,
        model,
        threshold=config["threshold"],
        beside=config["beside"],
        data=data,
        checked=config["checked"],
        checked_layers=config["checked_layers"],
        dampings=config["dampings"],
        seed=config["seed"],
        title=config["title"],
        provenance=made_by(seeds=[config["seed"]], data={"TOFU, full": digest(*(str(texts[row]) for row in rows))}),
        settings=config,
    )


def _labels(batch: tuple[Tensor, Tensor]) -> Tensor:
    return batch[1]


def _print(data: digits.Digits) -> str:
    return digest(data.train_images.numpy().tobytes(), data.train_labels.numpy().tobytes())
