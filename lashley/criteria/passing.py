"""The criteria from a pass over samples: in Z-space with the inputs of the learned network, with the whole network
edited, and at its output.

Four networks see every batch: the learned one ``mu``, its null state ``mu_0``, the ablated ``mu - alpha E`` and the
injected ``mu_0 + E``. Responses of the first two are held for the batch, those of the others are compared as they come;
a batch leaves numbers per sample in a `Sheet` and nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lashley.criteria.samples import Samples, Sheet
from lashley.criteria.speaking import Classes, Speech
from lashley.criteria.watching import Watched, by_sample, counted, energies, of_samples, squares
from lashley.errors import RecordingError
from lashley.hooks import at_rest
from lashley.layers import Layer
from lashley.stats.cka import spreads

__all__ = ["Matrices", "Propagated", "Quartet", "masked", "propagate", "resting", "said"]

Matrices = Mapping[str, Mapping[str, tuple[Tensor, Tensor | None]]]
"""``{layer: {name: (matrix [M, O, D], bias [M, O] or None)}}``"""

_TOGETHER = 64  # samples whose responses are compared by CKA at a time
_LEAST = 4  # that its unbiased form needs


@dataclass(frozen=True)
class Quartet:
    """The networks of one edit: the learned one, its null state, and both with the edit."""

    own: Watched
    null: Watched
    ablated: Watched
    injected: Watched


@dataclass(frozen=True)
class Propagated:
    """Numbers of samples, and by layer the CKA of the injected network's responses with the learned one's."""

    sheet: Sheet
    cka: dict[str, float]


def propagate(
    four: Quartet, samples: Samples, matrices: Matrices, speech: Speech | None, targets: Sequence[str], cka: bool
) -> Propagated:
    """What the learned network's inputs make of an edit, layer by layer, and what becomes of responses and outputs when
    the whole network is edited.

    Under ``(layer, key)`` squared norms, of every sample: of the rows times each of the matrices, by its name; ``size``
    of Z(mu), ``gap`` of Z(mu) - Z(mu_0), and of both edited networks the distances to ``own`` and ``null``. And what
    `said` has, of the four.
    """
    sheet, similar = Sheet(), defaultdict[str, list[Tensor]](list)
    with resting(four.own, four.null, four.ablated, four.injected):
        for number, (batch, concepts) in enumerate(samples):
            sheet.begin(len(concepts))
            chosen = [place for place, name in enumerate(concepts) if name in targets] if cka else []
            at = _Batch(four.own.subject.layers, matrices, sheet, len(concepts), chosen, similar)
            outputs = {"own": four.own.run_with_masks(batch, at.own, at.read)}
            for which in ("null", "ablated", "injected"):
                outputs[which] = getattr(four, which).run(batch, partial(at.other, which))
                at.check_calls(which)
            if speech is not None:
                _say(sheet, speech, {name: getattr(four, name) for name in outputs}, outputs, batch, concepts, number)
    return Propagated(sheet, {name: value for name, parts in similar.items() if (value := _cka(parts)) is not None})


def said(networks: Mapping[str, Watched], samples: Samples, speech: Speech) -> Sheet:
    """What networks say of every sample, as ``name/hit`` and the like (`lashley.criteria.speaking`); where there is one
    called "own", also as ``ablated/kl`` and the like what another says beside it.
    """
    sheet = Sheet()
    with resting(*networks.values()):
        for number, (batch, concepts) in enumerate(samples):
            sheet.begin(len(concepts))
            outputs = {name: network.plain(batch) for name, network in networks.items()}
            _say(sheet, speech, networks, outputs, batch, concepts, number)
    return sheet


def masked(own: Watched, samples: Samples, speech: Classes) -> Sheet:
    """The same of the learned network with the target's outputs out of the question, whose divergence is infinite."""
    sheet = Sheet()
    with resting(own):
        for number, (batch, concepts) in enumerate(samples):
            sheet.begin(len(concepts))
            logits = speech.logits(own.title, own.plain(batch), batch, number)
            for key, shown in (("own", logits), ("ablated", speech.masked(logits))):
                for name, values in speech.numbers(shown, batch, concepts).items():
                    sheet.add(f"{key}/{name}", values)
    return sheet


class _Batch:
    """One batch: what the learned network and its null state did, call by call of every layer."""

    def __init__(
        self,
        layers: Mapping[str, Layer],
        matrices: Matrices,
        sheet: Sheet,
        samples: int,
        chosen: Sequence[int],
        similar: dict[str, list[Tensor]],
    ) -> None:
        self._layers, self._matrices, self._sheet, self._samples = layers, matrices, sheet, samples
        self._chosen, self._similar = torch.tensor(chosen, dtype=torch.long), similar
        self._masks = defaultdict[str, list[Tensor | None]](list)
        self._own = defaultdict[str, list[Tensor]](list)
        self._null = defaultdict[str, list[Tensor]](list)
        self._calls = defaultdict[tuple[str, str], int](int)

    def read(self, name: str, x: Tensor, mask: Tensor | None) -> None:
        call = len(self._masks[name])
        self._masks[name].append(mask)
        for key, values in energies(self._layers[name], x, self._matrices[name]).items():
            self._put(name, call, key, values)

    def own(self, name: str, z: Tensor) -> None:
        self._put(name, len(self._own[name]), "size", squares(z))
        self._own[name].append(z)

    def other(self, which: str, name: str, z: Tensor) -> None:
        call = self._calls[which, name]
        self._calls[which, name] += 1
        calls = self._own[name]
        if call >= len(calls) or calls[call].shape != z.shape:
            raise _routed(name, which)
        own = calls[call]
        if which == "null":
            self._put(name, call, "gap", squares(own - z))
            self._null[name].append(z)
            return
        self._put(name, call, f"{which}/own", squares(z - own))
        self._put(name, call, f"{which}/null", squares(z - self._null[name][call]))
        if which == "injected":
            self._put(name, call, "injected/size", squares(z))
            self._put(name, call, "injected/dot", (z * own).sum(dim=(0, -1), dtype=torch.float64))
            self._compare(name, call, own, z)

    def check_calls(self, which: str) -> None:
        """Every layer was called as often as in the learned network."""
        for name, calls in self._own.items():
            if self._calls[which, name] != len(calls):
                raise _routed(name, which)

    def _put(self, name: str, call: int, key: str, values: Tensor) -> None:
        total = by_sample(name, self._layers[name], values, self._masks[name][call], self._samples)
        if not torch.isfinite(total).all():
            raise RecordingError(
                f"Expected finite responses, got nan or inf in layer {name!r} ({key}). Check the batch and the "
                "precision; where a network breaks down in its null state, give another one with null=."
            )
        self._sheet.add((name, key), total)

    def _compare(self, name: str, call: int, own: Tensor, z: Tensor) -> None:
        """CKA of the target's samples, some at a time."""
        mask, layer = self._masks[name][call], self._layers[name]
        for some in self._chosen.split(_TOGETHER):
            if len(some) < _LEAST:
                continue
            a, b = (_features(name, layer, values, mask, self._samples, some) for values in (own, z))
            if all((values != values[0]).any() for values in (a, b)):  # a silent layer resembles nothing
                self._similar[name].append(spreads(a, b))


def _cka(parts: Sequence[Tensor]) -> float | None:
    """The ratio of the parts' means, as in `lashley.metrics.minibatch_cka`; None where they have no spread."""
    xy, xx, yy = torch.stack(list(parts)).mean(0).tolist()
    return float(xy / (xx * yy) ** 0.5) if xx > 0 and yy > 0 else None


def _routed(name: str, which: str) -> RecordingError:
    whose = "the null state" if which == "null" else f"the {which} network"
    return RecordingError(
        f"Expected layer {name!r} of {whose} to be called like the learned network's, got other rows: what is routed "
        "to it depends on the weights. Leave it out with layers=."
    )


def _features(name: str, layer: Layer, responses: Tensor, mask: Tensor | None, samples: int, chosen: Tensor) -> Tensor:
    """The responses of some samples, one long row each: ``[n, M * O * rows]``."""
    rows = counted(responses.movedim(0, -2).flatten(-2), mask)  # [*lead, M * O]
    return of_samples(name, layer, rows, samples, numbers=1)[chosen.to(rows.device)]


def _say(
    sheet: Sheet,
    speech: Speech,
    networks: Mapping[str, Watched],
    outputs: Mapping[str, object],
    batch: Any,
    concepts: Sequence[str],
    number: int,
) -> None:
    logits = {key: speech.logits(networks[key].title, output, batch, number) for key, output in outputs.items()}
    for key, shown in logits.items():
        found = speech.numbers(shown, batch, concepts)
        if key in ("ablated", "injected") and "own" in logits:
            found |= speech.beside(shown, logits["own"], batch)
        for name, values in found.items():
            sheet.add(f"{key}/{name}", values)


@contextmanager
def resting(*networks: Watched) -> Iterator[None]:
    """The networks in evaluation mode and without gradients, given back as they were."""
    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(at_rest(network.subject.given))
        yield
