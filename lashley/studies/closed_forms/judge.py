"""What is measured of a network without a class, and how near that is to the network that was retrained without it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lashley.metrics import Reading, linear_probe, mlp_probe, nearest_centre, nmi, tow
from lashley.stats import bootstrap, paired_bootstrap
from lashley.studies.closed_forms.material import Images, first_per_class
from lashley.studies.closed_forms.subject import ERASER, Subject, outputs

__all__ = ["PROBES", "Found", "Judge"]

PROBES: dict[str, Callable[..., Reading]] = {"ridge": linear_probe, "mlp": mlp_probe, "centre": nearest_centre}


@dataclass(frozen=True, eq=False)
class Found:
    """One network's answers.

    Attributes:
        answers: ``[N]``, the labels it gives to the test images.
        per_class: accuracy on the test images of every class.
        accuracies: "forget" and "retain" on recorded training images, "test" on the test images.
        read: ``{probe: [n] bool}``, which of the class's test images the probe on its features gets right.
        relearned: ``[seeds, n]`` bool, which of them it gets right itself after the steps of relearning.
        nmi: of the features of recorded images, class against rest.
    """

    answers: Tensor
    per_class: list[float]
    accuracies: dict[str, float]
    read: dict[str, Tensor]
    relearned: Tensor
    nmi: float


@dataclass(eq=False)
class Judge:
    """Measures networks on one subject's images.

    Args:
        settings: "resamples" of the bootstrap; "relearn": "images" of every class, "steps", "batch" (images of the
            class and of the others), "learning_rate", "momentum", "seeds".
    """

    subject: Subject
    settings: Mapping[str, Any]

    def found(self, model: nn.Sequential, relearn_from: nn.Sequential | None = None) -> Found:
        """Everything about one network.

        Args:
            relearn_from: where relearning starts, if not from this network: a mask on the logits is simply taken off.
        """
        material, target = self.subject.material, self.subject.target
        features, logits = outputs(model, material.record)
        shown, given = outputs(model, material.test)
        labels, truth = material.record.labels, material.test.labels
        right, answers = logits.argmax(1) == labels, given.argmax(1)
        mine = truth == target
        read = {}
        for name, probe in PROBES.items():
            predicted = probe(features, labels, shown, truth).predicted
            read[name] = predicted[mine] == target
        start = model if relearn_from is None else relearn_from
        seeds = range(self.settings["relearn"]["seeds"])
        return Found(
            answers,
            [(answers[truth == k] == k).double().mean().item() for k in range(len(material.classes))],
            {
                "forget": right[labels == target].double().mean().item(),
                "retain": right[labels != target].double().mean().item(),
                "test": (answers == truth).double().mean().item(),
            },
            read,
            torch.stack([self._relearned(start, seed) for seed in seeds]),
            nmi(features[labels == target], features[labels != target]),
        )

    def compared(self, found: Found, retrained: Found, untouched: Found) -> dict[str, Any]:
        """The row of a table: intervals are bootstraps over test images, and know nothing of another seed."""
        truth, target = self.subject.material.test.labels, self.subject.target
        mine = truth == target
        falls = {k: untouched.per_class[k] - found.per_class[k] for k in self.subject.others}
        worst = max(falls, key=lambda k: falls[k])
        row: dict[str, Any] = {
            "target": self._share(found.answers[mine] == target),
            "others_fall": self._fall(found, untouched),
            "worst_fall": falls[worst],
            "worst_class": self.subject.material.classes[worst],
            "nmi": found.nmi,
            "agreement": self._share(found.answers[mine] == retrained.answers[mine]),
            "tow": tow(found.accuracies, retrained.accuracies),
            "relearned": found.relearned.double().mean().item(),
            "relearned_gap": self._gap(found.relearned.double().mean(0), retrained.relearned.double().mean(0)),
        }
        for name in PROBES:
            row[name] = found.read[name].double().mean().item()
            row[f"{name}_gap"] = self._gap(found.read[name], retrained.read[name])
        return row

    def _share(self, right: Tensor) -> dict[str, float]:
        return bootstrap(right.double(), resamples=self.settings["resamples"])._asdict()

    def _gap(self, first: Tensor, second: Tensor) -> dict[str, float]:
        return paired_bootstrap(first.double(), second.double(), resamples=self.settings["resamples"])._asdict()

    def _fall(self, found: Found, untouched: Found) -> dict[str, float]:
        """Mean over the other classes of their falls in accuracy; every class counts the same."""
        truth = self.subject.material.test.labels
        kept = truth != self.subject.target
        sizes = torch.bincount(truth, minlength=len(self.subject.material.classes)).double()
        weights = (1 / sizes)[truth[kept]]
        lost = (untouched.answers == truth)[kept].double() - (found.answers == truth)[kept].double()

        def mean(rows: Tensor) -> Tensor:
            return (rows[:, 0] * rows[:, 1]).sum() / rows[:, 1].sum()

        sample = torch.stack([lost, weights], dim=1)
        return bootstrap(sample, mean, resamples=self.settings["resamples"])._asdict()

    def _relearned(self, model: nn.Sequential, seed: int) -> Tensor:
        """Which of the class's test images are right after a few steps on some of its training images, among others;
        BatchNorm's statistics stay as they are.
        """
        settings = self.settings["relearn"]
        material, target = self.subject.material, self.subject.target
        generator = torch.Generator().manual_seed(seed)
        rest = material.record.without(target)
        sets = (
            material.record.of(target)[: settings["images"]],
            rest[first_per_class(rest.labels, settings["images"])],
        )
        learner = copy.deepcopy(model).requires_grad_(True)
        learner.get_submodule(ERASER).requires_grad_(False)
        optimiser = torch.optim.SGD(
            [p for p in learner.parameters() if p.requires_grad],
            lr=settings["learning_rate"],
            momentum=settings["momentum"],
        )
        for _ in range(settings["steps"]):
            drawn = [
                part[torch.randint(len(part), (count,), generator=generator)]
                for part, count in zip(sets, settings["batch"], strict=True)
            ]
            pixels = torch.cat([part.pixels for part in drawn]).contiguous(memory_format=torch.channels_last)
            loss = nn.functional.cross_entropy(learner(pixels), torch.cat([part.labels for part in drawn]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        mine: Images = material.test.of(target)
        return outputs(learner, mine)[1].argmax(1) == target
