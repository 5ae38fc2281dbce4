"""`lashley.check`: the four criteria of an engram, with controls."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lashley.criteria.controls import CONTROLS
from lashley.criteria.criteria import Criteria
from lashley.criteria.edits import ENGRAM, Edits, edits_of
from lashley.criteria.findings import Dose, EditCriteria, LayerCriteria, Number
from lashley.criteria.null import Null
from lashley.criteria.numbers import falls, layer_criteria, output, shares
from lashley.criteria.passing import Matrices, Quartet, masked, propagate, resting, said
from lashley.criteria.reading import Readers, last_layer
from lashley.criteria.recorded import Recorded, engram_matrices, from_moments
from lashley.criteria.samples import Group, Samples, Sheet, check_counts
from lashley.criteria.speaking import Classes, Speech, speech_of
from lashley.criteria.watching import Watched
from lashley.data.concepts import Stream, check_data
from lashley.edit.apply import Alpha, ablate, inject
from lashley.engram import Engram
from lashley.errors import DataError, LashleyWarning
from lashley.estimators import Estimator
from lashley.observer import Forward, Rows
from lashley.progress import track
from lashley.recording import Recording
from lashley.select import Patterns
from lashley.stats import rank_correlation

__all__ = ["DOSES", "check"]

_SEEN = "The samples are those of the recording: on others the engram may fit worse."
_UNSEEN = "The samples are not, as a whole, those of the recording; single ones may be."
DOSES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)


def check(
    model: nn.Module,
    recording: Recording,
    concepts: str | Sequence[str] | Engram,
    data: Mapping[str, Iterable[Any]] | Iterable[Any] | None = None,
    concept_of: Callable[[Any], Any] | None = None,
    *,
    concept_names: Sequence[str] | None = None,
    alpha: Alpha = 1.0,
    doses: Sequence[float] = DOSES,
    null: Null = "zero",
    retrained: nn.Module | None = None,
    train: Mapping[str, Iterable[Any]] | Iterable[Any] | None = None,
    estimator: Estimator | None = None,
    bias: bool = True,
    layers: Patterns = None,
    controls: Sequence[str] = CONTROLS,
    other: str | None = None,
    outputs: str = "auto",
    classes: Mapping[str, int] | None = None,
    features: str | None = None,
    rows: Rows | None = None,
    forward: Forward | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    progress: bool | None = None,
) -> Criteria:
    """The four criteria of an engram, specificity, reactivation, sufficiency and necessity, with controls.

    They are measured three times: in each layer from the recording's moments alone; in each layer on samples, with the
    learned network's inputs and with the whole network edited; and at the output. Ablation is ``mu - alpha E``,
    injection ``mu_0 + E`` into the null state. docs/criteria.md says how to read them.

    Args:
        model: the network that was recorded; given back as it was, to the byte. Edits are made in copies of it, of
            which three are held at a time, beside what was learned (``W - W0``) in float64 and every edit.
        recording: with its moments (``keep="moments"``).
        concepts: the target: a name, a list that is pooled, or an engram of either.
        data: samples to measure on, held out or not: ``{concept: batches}`` or one iterable with ``concept_of``, as in
            `lashley.record`, to be read several times. None: the criteria from the recording alone.
        concept_of, concept_names: as in `lashley.record`; every sample belongs to one concept.
        alpha: strength of the ablation, as in `lashley.ablate`.
        doses: strengths of the dose-response, times ``alpha``; none: it is left out.
        null: "zero", "random" (`lashley.criteria.null`), a network or a state dict. An engram that is solved here is of
            ``W - W0`` (eq. 3).
        retrained: a network that was trained without the concept: what the ablated one should come near to.
        train: samples that readers of the features are fitted on, in the form of ``data``; default: one half of
            ``data``, and the other half is asked.
        estimator, bias, layers: of an engram that is solved here, as in `recording.engram`.
        controls: which of `CONTROLS`.
        other: whose engram is the control "another concept"; default: the next concept of the recording.
        outputs: "classes" (logits ``[N, C]``), "answers" (a language model, batches with ``labels``), "auto", or
            "none".
        classes: ``{concept: number of its output}``; default: names that are numbers, or the order of the recording.
        features: the layer whose inputs are the features; default: the layer that is called last.
        rows, forward: as in `lashley.record`.
        resamples, level: of the bootstrap over samples, drawn again concept by concept.
        seed: of everything random: null state, controls, halves, bootstrap.
        progress: None: a bar on a terminal, silence elsewhere.

    Raises:
        DataError: a target without samples, too few of them or of others, labels that overlap, data that can be read
            once only, outputs that are neither kind.
        ModelError: an engram of another network, a null state of another architecture.
        RecordingError: a retrained network with another head, outputs or responses that are not finite.
        MomentError: a recording of products.

    Warns:
        LashleyWarning: what `recording.engram` warns of; a network that answers no better than chance.
    """
    samples = None if data is None else _samples("data", data, concept_of, concept_names)
    fitted = None if train is None else _samples("train", train, concept_of, concept_names)
    if samples is None and (fitted is not None or retrained is not None):
        raise DataError("Expected data beside train= and retrained=, got none: there are no samples to ask them about.")
    if not -(2**63) <= seed < 2**63:
        raise DataError(f"Expected seed= to be a whole number of 64 bits, got {seed}. Give a smaller one.")
    edits = edits_of(model, recording, concepts, null, alpha, estimator, bias, layers, seed)
    kinds = [kind for kind in controls if kind != "random samples" or samples is not None]
    settings = {
        "concepts": list(edits.targets),
        "alpha": _one(edits.alphas),
        "null": edits.null.name,
        "estimator": edits.estimator.to_json(),
        "bias": any(delta.bias is not None for delta in edits.engram.values()),
        "layers": list(edits.engram),
        "controls": kinds,
        "other": other,
        "doses": list(dict.fromkeys(doses)),
        "classes": None if classes is None else dict(classes),
        "features": features,
        "outputs": outputs,
        "resamples": resamples,
        "level": level,
        "seed": seed,
    }
    if samples is not None:
        check_counts(samples.concepts, edits.targets)
        edits.notes.append(_SEEN if samples.shard in recording._shards else _UNSEEN)
    edits.compare(kinds, samples, other, seed, rows, forward)
    moments = from_moments(recording, edits.engrams, edits.changes, edits.targets, edits.alphas)
    norms = {title: engram.weight_norms() for title, engram in edits.engrams.items()}
    if samples is None:
        return _from_recording(edits, moments, norms, settings)
    group = Group(samples.concepts, edits.targets, resamples, level, seed)
    run = _OnSamples(edits, samples, fitted, group, moments, norms, rows, forward, seed)
    run.listen(outputs, classes, features)
    return run.criteria(tuple(dict.fromkeys(doses)), retrained, settings, progress)


class _OnSamples:
    """The check on samples, edit by edit."""

    def __init__(
        self,
        edits: Edits,
        samples: Samples,
        train: Samples | None,
        group: Group,
        moments: Mapping[str, Mapping[str, Recorded]],
        norms: Mapping[str, Mapping[str, float]],
        rows: Rows | None,
        forward: Forward | None,
        seed: int,
    ) -> None:
        self.edits, self.samples, self.train, self.group = edits, samples, train, group
        self._moments, self._norms, self._seed = moments, norms, seed
        layers = {name: delta.layer for name, delta in edits.engram.items()}
        sites = {name: site for site in edits.recording.sites for name in site.layers}
        self._watch = partial(Watched, layers=layers, sites=sites, rows=rows, forward=forward)
        self.own = self._watch("the network", edits.model)
        self.null = self._watch("the null state", edits.null.model)
        self.speech: Speech | None = None
        self._reader: Readers | None = None
        self._reference: Sheet | None = None  # what the retrained network says

    def listen(self, outputs: str, classes: Mapping[str, int] | None, features: str | None) -> None:
        """Find out from the first batch what the network's outputs are, and which layer reads its features."""
        batch, _ = next(iter(self.samples))
        with resting(self.own):
            output = self.own.plain(batch)
        concepts = self.edits.recording.concepts
        model = self.own.subject.model
        self.speech = speech_of(model, output, batch, outputs, concepts, self.edits.targets, classes)
        if isinstance(self.speech, Classes):
            layer = features if features is not None else last_layer(self.own, batch)
            self._reader = Readers(layer, self.samples, self.train, self.group, self._seed)
        elif features is not None:
            raise DataError("Expected features= beside a classifier only: readers recognise classes.")

    def criteria(
        self,
        doses: tuple[float, ...],
        retrained: nn.Module | None,
        settings: dict[str, Any],
        progress: bool | None,
    ) -> Criteria:
        """Everything, in the order of the tables."""
        original = EditCriteria("original", "the network as it is", readers=self._read(self.own))
        target = None if retrained is None else self._retrained(retrained)
        edits = [(ENGRAM, self.edits.engram, "the engram"), *_of_controls(self.edits)]
        found = {
            title: self._edit(title, engram, note, doses)
            for title, engram, note in track(edits, len(edits), "checking", "edits", progress)
        }
        engram = found.pop(ENGRAM)
        if isinstance(self.speech, Classes):
            found["logit mask"] = self._masked(self.speech, original.readers)
        if self.speech is not None:
            self._warn_of_chance(self.speech, engram)
        return Criteria(
            concepts=self.edits.targets,
            others=tuple(self.group.names[place] for place in self.group.others),
            engram=engram,
            controls=found,
            retrained=target,
            original=original,
            kind="" if self.speech is None else self.speech.kind,
            counts=(_count(self.group, self.group.target), _count(self.group, self.group.others)),
            notes=(self.edits.null.note, *self.edits.notes),
            settings=settings,
            data={"weights": self.edits.engram.base_fingerprint, "samples": self.samples.shard},
        )

    def _edit(self, title: str, engram: Engram, note: str, doses: tuple[float, ...]) -> EditCriteria:
        mine = title == ENGRAM
        with warnings.catch_warnings():
            if not mine:
                warnings.simplefilter("ignore", LashleyWarning)  # of rounding: the engram's own says enough
            ablated = self._watch("the ablated network", ablate(self.edits.model, engram, self.edits.alphas))
            injected = self._watch("the injected network", inject(self.edits.null.model, engram))
        four = Quartet(self.own, self.null, ablated, injected)
        matrices = self._matrices(engram)
        whole = propagate(four, self.samples, matrices, self.speech, self.edits.targets, cka=mine)
        layers = layer_criteria(self.group, self._moments[title], self._norms[title], whole)
        if self.speech is None:
            return EditCriteria(title, note, layers)
        fell, worst = falls(self.group, whole.sheet)
        dosed = self._doses(engram, whole.sheet, doses) if doses and (mine or title == self._dosed) else ()
        return EditCriteria(
            title,
            note,
            layers=layers,
            output=output(self.group, whole.sheet, self._chance, self._reference),
            falls=fell,
            worst=worst,
            readers=self._read(ablated),
            doses=dosed,
            monotony=_monotony(dosed),
        )

    def _doses(self, engram: Engram, known: Sheet, factors: tuple[float, ...]) -> tuple[Dose, ...]:
        """The ablation at several strengths; what is known of strengths 0 and 1 is not measured again."""
        assert self.speech is not None
        hits: dict[Hashable, Tensor] = {}
        for factor in factors:
            if factor in (0, 1):
                hits[factor] = known["ablated/hit" if factor else "own/hit"]
                continue
            strengths = {name: factor * alpha for name, alpha in self.edits.alphas.items()}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LashleyWarning)
                edited = self._watch(
                    f"the network ablated {factor:g} times", ablate(self.edits.model, engram, strengths)
                )
            hits[factor] = said({"ablated": edited}, self.samples, self.speech)["ablated/hit"]
        target, others = (shares(self.group, hits, some) for some in (self.group.target, self.group.others))
        return tuple(Dose(factor, target[factor], others[factor]) for factor in factors)

    def _retrained(self, network: nn.Module) -> EditCriteria:
        """The same numbers of a network that never saw the target, where the ablated one's would stand."""
        if self.speech is None:
            raise DataError('Expected outputs to compare with the retrained network, got outputs="none".')
        watched = Watched("the retrained network", network, {}, {}, forward=self.own.forward)
        sheet = said({"own": self.own, "ablated": watched}, self.samples, self.speech)
        fell, worst = falls(self.group, sheet)
        found = output(self.group, sheet, self._chance, None)
        self._reference = sheet
        return EditCriteria(
            "retrained",
            "a network trained without the target",
            output=found,
            falls=fell,
            worst=worst,
            readers=self._read(watched),
        )

    def _masked(self, speech: Classes, readers: Mapping[str, Number]) -> EditCriteria:
        sheet = masked(self.own, self.samples, speech)
        fell, worst = falls(self.group, sheet)
        found = output(self.group, sheet, self._chance, self._reference)
        note = "the network as it is, its answers among the other classes only"
        return EditCriteria("logit mask", note, output=found, falls=fell, worst=worst, readers=readers)

    def _read(self, network: Watched) -> dict[str, Number]:
        return {} if self._reader is None else self._reader.recall(network)

    def _matrices(self, engram: Engram) -> Matrices:
        """What is multiplied with the rows of every layer, in the type of its weights: W - W0, E, and what it
        misses.
        """
        found: dict[str, dict[str, tuple[Tensor, Tensor | None]]] = {}
        for layer, change in self.edits.changes.items():
            edit = engram_matrices(engram[layer])
            weight, dim = self.own.subject.weights[layer], self.edits.engram[layer].layer.dim
            kind = weight.dtype if weight.dtype.itemsize > 4 else torch.float32
            found[layer] = {}
            for key, matrix in (("change", change), ("edit", edit), ("missed", change - edit)):
                m = matrix.to(weight.device, kind)
                found[layer][key] = m[..., :dim], m[..., dim] if m.shape[-1] > dim else None
        return found

    @property
    def _chance(self) -> float | None:
        return 1 / self.speech.count if isinstance(self.speech, Classes) else None

    @property
    def _dosed(self) -> str:
        """The control whose dose-response is shown beside the engram's: a random direction."""
        return next((title for title in ("random, rescaled", "random direction") if title in self.edits.controls), "")

    def _warn_of_chance(self, speech: Speech, engram: EditCriteria) -> None:
        own = engram.output["own"]
        if isinstance(speech, Classes) and own is not None and own.value <= 1 / speech.count:
            warnings.warn(
                f"The network answers {own.value:.1%} of the target's samples as their own, no better than chance: "
                f"what is not known cannot be forgotten. Does classes= say which output is whose? Now "
                f"{speech.outputs}.",
                LashleyWarning,
                stacklevel=4,
            )


def _samples(what: str, data: Any, concept_of: Callable[[Any], Any] | None, names: Sequence[str] | None) -> Samples:
    """Data to measure on, which are read several times."""
    mapping = isinstance(data, Mapping)
    check_data(data, None if mapping else concept_of, None if mapping else names)
    stream = Stream(data, None if mapping else concept_of, None if mapping else names)
    if stream.once:
        raise DataError(
            f"Expected {what} that can be read again and again, got an iterator: every edit is measured on the same "
            "samples. Give lists or DataLoaders."
        )
    return Samples(stream)


def _from_recording(
    edits: Edits,
    moments: Mapping[str, Mapping[str, Recorded]],
    norms: Mapping[str, Mapping[str, float]],
    settings: dict[str, Any],
) -> Criteria:
    """The check without samples."""

    def made(title: str, note: str) -> EditCriteria:
        layers = {name: LayerCriteria(found, norm=norms[title][name]) for name, found in moments[title].items()}
        return EditCriteria(title, note, layers)

    return Criteria(
        concepts=edits.targets,
        others=tuple(name for name in edits.recording.concepts if name not in edits.targets),
        engram=made(ENGRAM, "the engram"),
        controls={title: made(title, note) for title, _, note in _of_controls(edits)},
        retrained=None,
        original=EditCriteria("original", "the network as it is"),
        kind="",
        counts=(0, 0),
        notes=(edits.null.note, "From the moments of the recording alone: nothing was run.", *edits.notes),
        settings=settings,
        data={"weights": edits.engram.base_fingerprint},
    )


def _of_controls(edits: Edits) -> list[tuple[str, Engram, str]]:
    return [(title, control.engram, control.note) for title, control in edits.controls.items()]


def _monotony(doses: Sequence[Dose]) -> float | None:
    """Spearman's rho of strength and how often the target is no longer answered; None where nothing moves."""
    points = [(dose.factor, -dose.target.value) for dose in doses if dose.target is not None]
    factors, fallen = zip(*points, strict=True) if points else ((), ())
    return rank_correlation(factors, fallen) if len(set(fallen)) > 1 else None


def _count(group: Group, concepts: Sequence[int]) -> int:
    return int(group.counts[list(concepts)].sum())


def _one(alphas: Mapping[str, float]) -> float | dict[str, float]:
    """One strength for all layers as a number."""
    values = set(alphas.values())
    return values.pop() if len(values) == 1 else dict(alphas)
