"""The whole study: networks, rows, tables. Finished pieces are kept, and a run that was stopped goes on with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lashley.errors import DataError, SolveError
from lashley.provenance import digest, fingerprint
from lashley.result import Result, made_by
from lashley.studies.closed_forms import tables
from lashley.studies.closed_forms.autoencoder import reconstructions
from lashley.studies.closed_forms.edits import Chosen, Way, masked, readable
from lashley.studies.closed_forms.judge import Found, Judge
from lashley.studies.closed_forms.material import Images, Material, first_per_class
from lashley.studies.closed_forms.networks import ARCHITECTURES
from lashley.studies.closed_forms.pieces import Pieces
from lashley.studies.closed_forms.subject import ERASER, READOUT, Subject, guarded, outputs
from lashley.studies.closed_forms.training import Recipe, train
from lashley.studies.threads import threads

__all__ = ["run", "ways_of"]

# Of rows that are kept: another number makes them anew. To be raised when what a row holds or means changes.
ROWS = 1

Say = Callable[[str], None]
Values = dict[str, Any]


def run(config: Mapping[str, Any], say: Say = lambda line: None) -> Result:
    """The study as one result.

    Args:
        config: as in ``benchmarks/closed_forms/config.json``.
        say: called with one line of text as each piece is there.
    """
    with threads(config["threads"]):
        pieces = Pieces(Path(config["work"]), [Path(shelf) for shelf in config["checkpoints"]], say)
        ways = ways_of(config)
        found: dict[str, Values] = {}
        data: dict[str, str] = {}
        for name, settings in config["subjects"].items():
            network = Trained(name, settings, config, pieces, say)
            data[network.material.name] = network.data
            found[name] = network.table(ways)
        autoencoder = None
        if asked := config["autoencoder"]:
            autoencoder = reconstructions(asked, pieces, Path(config["work"]), say)
            data[asked["data"]] = autoencoder["data"]
        seeds = sorted({seed for settings in config["subjects"].values() for seed in [0, *settings["retrained"]]})
        provenance = made_by(seeds=seeds, data=data)
    return tables.result(config, found, autoencoder, provenance)


def ways_of(config: Mapping[str, Any]) -> list[Way]:
    """The closed forms that a config describes, in its order.

    Raises:
        DataError: random numbers that are to be like a way that does not come before them.
    """
    ways: list[Way] = []
    for name, settings in config["ways"].items():
        like = settings.get("random_like", "")
        if like and like not in [way.name for way in ways]:
            raise DataError(f"Expected {name!r} to be like a row before it, got random_like {like!r}.")
        ways.append(
            Way(
                name,
                settings["estimator"],
                settings["layers"],
                settings.get("grid", {}),
                tuple(settings.get("alphas", config["alphas"])),
                settings.get("batchnorm", False),
                like,
            )
        )
    return ways


@dataclass(eq=False)
class Trained:
    """One architecture on one data set: the network, its retrained counterparts, and the rows for every class.

    Args:
        settings: of this subject in the config.
        config: the whole.
    """

    name: str
    settings: Mapping[str, Any]
    config: Mapping[str, Any]
    pieces: Pieces
    say: Say
    material: Material = field(init=False)
    recipe: Recipe = field(init=False)

    def __post_init__(self) -> None:
        self.material = Material.load(self.settings["data"], self.settings["images"])
        self.recipe = Recipe(**self.settings["recipe"])

    @cached_property
    def data(self) -> str:
        """A fingerprint of the training images and labels."""
        return digest(fingerprint(self.material.train.stored), fingerprint(self.material.train.labels))

    def key(self, without: int | None, seed: int) -> Values:
        """What makes a network."""
        missing = None if without is None else self.material.classes[without]
        return {"data": self.data, "recipe": self.recipe.to_json(), "without": missing, "seed": seed}

    def network(self, without: int | None = None, seed: int = 0) -> tuple[nn.Sequential, Values]:
        """A network trained on all classes but one, or on all, and its accuracy and seconds."""
        missing = "whole" if without is None else f"without-{self.material.classes[without]}"
        name = f"{self.material.name}-{self.recipe.architecture}-{missing}-{seed}"
        images = self.material.train
        shape = images.stored.shape[1], images.stored.shape[2], images.stored.shape[3]

        def build() -> nn.Sequential:
            return ARCHITECTURES[self.recipe.architecture](shape, len(self.material.classes))

        def make() -> tuple[nn.Module, Values]:
            start = time.perf_counter()
            kept = images if without is None else images.without(without)
            model = train(
                self.recipe, kept.pixels, kept.labels, len(self.material.classes), seed,
                lambda line: self.say(f"{name}: {line}"),
            )  # fmt: skip
            seconds = time.perf_counter() - start
            facts = {"seconds": round(seconds, 1), "threads": torch.get_num_threads()}
            return model, {**facts, "test": self._accuracy(guarded(model.half().float()))}  # as it is kept

        model, values = self.pieces.network(name, self.key(without, seed), build, make)
        assert isinstance(model, nn.Sequential)
        return guarded(model), values

    def table(self, ways: list[Way]) -> Values:
        """``{"classes": {class: {row: values}}, "gates": {class: {layer: R^2}}, "facts": ...}``."""
        model, values = self.network()
        facts = {
            "test": self._accuracy(model),
            "parameters": sum(p.numel() for n, p in model.named_parameters() if not n.startswith(ERASER)),
            "training_seconds": values["seconds"],
        }
        self.say(f"{self.name}: {facts['test']:.2%} of the test images right")
        classes, gates = {}, {}
        for name in self.settings["targets"]:
            rows = self._rows(model, self.material.classes.index(name))
            classes[name], gates[name] = rows.table(ways), rows.gates()
        return {"facts": facts, "classes": classes, "gates": gates}

    def _accuracy(self, model: nn.Sequential) -> float:
        """On the test images."""
        right = outputs(model, self.material.test)[1].argmax(1) == self.material.test.labels
        return right.double().mean().item()

    def _rows(self, model: nn.Sequential, target: int) -> Rows:
        measure = {**self.config["measure"], "relearn": self.settings["relearn"]}
        key = digest(ROWS, repr(self.key(None, 0)), repr(self.settings["images"]))[:10]
        folder = Path(self.config["work"]) / f"recording-{self.material.name}-{self.recipe.architecture}-{key}"
        subject = Subject(model, self.material, target, self._groups(model), folder, measure["norms"])
        return Rows(self, subject, Judge(subject, measure), measure)

    def _groups(self, model: nn.Module) -> dict[str, list[str]]:
        layers = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d) and n != ERASER]
        return {
            "all": layers,
            "last": [READOUT],
            "last block": [*self.settings["last_block"], READOUT],
            "module": [ERASER],
        }


@dataclass(eq=False)
class Rows:
    """The rows of one table. Networks that the others are compared with are measured once, when first needed."""

    trained: Trained
    subject: Subject
    judge: Judge
    measure: Values

    def table(self, ways: list[Way]) -> dict[str, Values]:
        """Every row by its name."""
        table = {"untouched": self.row("untouched", {}, self.untouched_row)}
        for place, seed in enumerate(self.trained.settings["retrained"]):
            name = "retrained" if place == 0 else f"retrained, seed {seed}"
            table[name] = self.row(name, {"seed": seed}, partial(self.retrained_row, seed))
        table["logit mask"] = self.row("logit mask", {}, self.masked_row)
        for way in ways:
            if way.fits(self.subject.model):
                like = table[way.random_like] if way.random_like else None
                borrowed = {} if like is None else {"settings": like["settings"], "alpha": like["alpha"]}
                settings = {**self.trained.config["ways"][way.name], "alphas": list(way.alphas), **borrowed}
                table[way.name] = self.row(way.name, settings, partial(self.edited_row, way, borrowed))
        return table

    def gates(self) -> dict[str, float | None]:
        """How linearly readable the class is at the input of every layer."""
        return self._piece("gates", {}, lambda: readable(self.subject))

    def row(self, name: str, settings: Values, make: Callable[[], Values]) -> Values:
        """A row, made or found."""
        values = self._piece(name, settings, make)
        self.trained.say(f"{self.trained.name}, {self.subject.name}, {name}: {_sentence(values)}")
        return values

    def _piece(self, name: str, settings: Values, make: Callable[[], Values]) -> Values:
        trained = self.trained
        key = {
            "rows": ROWS,
            "network": trained.key(None, 0),
            "images": trained.settings["images"],
            "last_block": trained.settings["last_block"],
            "retrained": trained.settings["retrained"][0],
            "class": self.subject.name,
            "row": name,
            "settings": settings,
            "measure": self.measure,
        }
        word = "".join(letter if letter.isalnum() else "-" for letter in f"{trained.name} {self.subject.name} {name}")
        return trained.pieces.values(word, key, make)

    @cached_property
    def untouched(self) -> Found:
        return self.judge.found(self.subject.model)

    @cached_property
    def retrained(self) -> Found:
        return self.judge.found(self._retrained_network(self.trained.settings["retrained"][0])[0])

    def untouched_row(self) -> Values:
        return self.judge.compared(self.untouched, self.retrained, self.untouched)

    def retrained_row(self, seed: int) -> Values:
        model, values = self._retrained_network(seed)
        first = seed == self.trained.settings["retrained"][0]
        found = self.retrained if first else self.judge.found(model)
        row = self.judge.compared(found, self.retrained, self.untouched)
        return {**row, "seconds": values["seconds"], "point": self._point(model)}

    def masked_row(self) -> Values:
        start = time.perf_counter()
        model = masked(self.subject)
        seconds = time.perf_counter() - start
        found = self.judge.found(model, relearn_from=self.subject.model)
        row = self.judge.compared(found, self.retrained, self.untouched)
        return {**row, "seconds": seconds, "point": self._point(model)}

    def edited_row(self, way: Way, borrowed: Values) -> Values:
        """Of a closed form; where its estimator has no answer, why."""
        try:
            chosen = self._chosen(way, borrowed)
        except SolveError as error:
            return {"refused": str(error)}
        model, seconds = chosen.timed(self.subject)
        return {
            **self.judge.compared(self.judge.found(model), self.retrained, self.untouched),
            "seconds": seconds,
            "settings": chosen.settings,
            "alpha": chosen.alpha,
            "tried": chosen.tried,
            "gates": chosen.gates,
            "curve": [
                {"alpha": a, **self._point(chosen.edited(self.subject, a))} for a in self.measure["curve_alphas"]
            ],
        }

    def _chosen(self, way: Way, borrowed: Values) -> Chosen:
        if not borrowed:
            return way.choose(self.subject)
        engram = way.engram(self.subject, borrowed["settings"])
        return Chosen(way, borrowed["settings"], borrowed["alpha"], engram, [])

    def _retrained_network(self, seed: int) -> tuple[nn.Sequential, Values]:
        return self.trained.network(self.subject.target, seed)

    def _point(self, model: nn.Sequential) -> Values:
        """Where a network lies in the figure of costs, on the first test images of every class."""
        after = self._per_class(model)
        falls = [self._before[k] - after[k] for k in self.subject.others]
        return {"target": after[self.subject.target], "others_fall": sum(falls) / len(falls)}

    def _per_class(self, model: nn.Sequential) -> list[float]:
        images = self._curve_images
        right = outputs(model, images)[1].argmax(1) == images.labels
        return [right[images.labels == k].double().mean().item() for k in range(len(self.subject.material.classes))]

    @cached_property
    def _before(self) -> list[float]:
        return self._per_class(self.subject.model)

    @cached_property
    def _curve_images(self) -> Images:
        test = self.subject.material.test
        return test[first_per_class(test.labels, self.measure["curve_images"])]


def _sentence(row: Values) -> str:
    if "refused" in row:
        return row["refused"]
    return (
        f"the class {row['target']['value']:.3f}, others fall {100 * row['others_fall']['value']:.2f} points, "
        f"ToW {row['tow']:.3f}, agreement {row['agreement']['value']:.2f}"
    )
