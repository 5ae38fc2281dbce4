"""Which edits are compared: the engram, at which strength, from which null state, and its controls."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn

from lashley.criteria import controls as against
from lashley.criteria.controls import CONTROLS, Control, only
from lashley.criteria.null import Null, NullState, null_state
from lashley.criteria.recorded import change_of
from lashley.criteria.samples import Samples
from lashley.edit.apply import Alpha, alphas_of
from lashley.edit.ties import sharers
from lashley.engram import Engram
from lashley.errors import DataError, LashleyWarning, ModelError, SolveError
from lashley.estimators import Estimator, Projection
from lashley.layers import named_modules, unwrap
from lashley.observer import Forward, Rows
from lashley.provenance import fingerprint
from lashley.recording import Recording
from lashley.select import Patterns

__all__ = ["ENGRAM", "Edits", "edits_of"]

ENGRAM = "engram"


@dataclass
class Edits:
    """An engram and what it is compared with.

    Attributes:
        engram: in the layers that an edit may touch.
        targets: its concepts.
        estimator: that made it, and makes the engrams of other concepts.
        alphas: of the ablation, by layer.
        null: the null state.
        changes: ``W - W0`` of every layer, with the bias where the engram has a share of it: ``[M, O, D]``.
        controls: by title.
        notes: what a reader should know.
    """

    model: nn.Module
    recording: Recording
    engram: Engram
    targets: tuple[str, ...]
    estimator: Estimator
    alphas: dict[str, float]
    null: NullState
    changes: dict[str, Tensor]
    controls: dict[str, Control] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def engrams(self) -> dict[str, Engram]:
        """By title, the engram in question first."""
        return {ENGRAM: self.engram, **{title: control.engram for title, control in self.controls.items()}}

    def compare(
        self,
        kinds: Sequence[str],
        samples: Samples | None,
        other: str | None,
        seed: int,
        rows: Rows | None,
        forward: Forward | None,
    ) -> None:
        """Make the controls. One that the estimator has no answer for is left out, and a note says why."""
        if unknown := [kind for kind in kinds if kind not in CONTROLS]:
            raise DataError(f"Expected controls among {', '.join(map(repr, CONTROLS))}; got {unknown[0]!r}.")
        direction = against.random_direction(self.engram, seed)
        for kind in kinds:
            try:
                if kind == "random direction":
                    made = direction
                elif kind == "random, rescaled":
                    made = against.rescaled(direction, self.engram, self.recording)
                elif kind == "random subspace":
                    made = against.random_subspace(self.engram, self.changes, seed)
                elif kind == "another concept":
                    base = self.null.model
                    made = against.another(
                        self.model, self.engram, self.recording, self.targets, other, self.estimator, base
                    )
                elif samples is not None:
                    made = against.random_samples(
                        self.model,
                        self.engram,
                        samples,
                        self.targets,
                        self.estimator,
                        self.null.model,
                        seed,
                        rows,
                        forward,
                    )
                else:
                    continue
            except SolveError as error:
                self.notes.append(f"There is no control {kind!r}: {error}")
                continue
            self.controls[made.title] = made


def edits_of(
    model: nn.Module,
    recording: Recording,
    concepts: str | Sequence[str] | Engram,
    null: Null,
    alpha: Alpha,
    estimator: Estimator | None,
    bias: bool,
    layers: Patterns,
    seed: int,
) -> Edits:
    """The engram in question, solved where it is not given.

    Raises:
        DataError: a weighted sum of concepts, which has no rows of its own.
        ModelError: an engram of other weights, or one whose layers were not recorded.
    """
    notes: list[str] = []
    if isinstance(concepts, Engram):
        if estimator is not None or layers is not None:
            raise DataError("Expected estimator= and layers= beside the names of concepts only; an engram has its own.")
        engram = _unshared(_given(concepts, model, recording), model, notes)
        state = null_state(model, engram, null, seed)
        chosen = engram.estimator
        if chosen is None:
            chosen = Projection()
            notes.append("The engram is a sum of different formulas; other concepts' engrams are the paper's.")
    elif isinstance(concepts, Mapping):
        raise DataError(f"Expected a concept or a list of them, got weights {dict(concepts)}. Check them one by one.")
    else:
        chosen = estimator if estimator is not None else Projection()
        solve = partial(recording.engram, model, concepts, estimator=chosen, bias=bias, layers=layers)
        engram = _unshared(solve(), model, notes)
        state = null_state(model, engram, null, seed)
        if state.name != "zero":  # eq. 3: of what was learned since
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LashleyWarning)  # which were given above
                engram = only(solve(base=state.model), engram)
    if set(engram.concepts) == set(recording.concepts):
        raise DataError(
            "Expected recorded concepts beside the target, got none: nothing is left to be specific against."
        )
    changes = change_of(engram, model, state.model)
    strengths = alphas_of(engram, alpha)
    return Edits(model, recording, engram, tuple(engram.concepts), chosen, strengths, state, changes, notes=notes)


def _unshared(engram: Engram, model: nn.Module, notes: list[str]) -> Engram:
    """In the layers whose weights are their own."""
    shared = sharers(unwrap(model), engram)
    if not shared:
        return engram
    kept = {name: delta for name, delta in engram.items() if name not in shared}
    if not kept:
        raise ModelError(f"Expected a layer whose weight is its own, got only shared ones: {', '.join(shared)}.")
    notes.append(f"Left out, because their weights are shared with other modules: {', '.join(shared)}.")
    return Engram(kept, engram.concepts, engram.estimator, engram.made_by)


def _given(engram: Engram, model: nn.Module, recording: Recording) -> Engram:
    """An engram of recorded concepts, each counted once, in this network's weights."""
    for name, weight in engram.concepts.items():
        if name not in recording.concepts or weight != 1:
            raise DataError(
                f"Expected an engram of recorded concepts, each with weight 1, got {engram.concepts}; there are "
                f"{', '.join(recording.concepts)}. A weighted sum has no samples of its own: check its parts."
            )
    if len({delta.bias is not None for delta in engram.values() if delta.layer.bias}) > 1:
        raise DataError(
            "Expected an engram with a share of every bias or of none, got some with and some without: other engrams "
            "could not be compared with it. Solve it in one piece."
        )
    modules = named_modules(unwrap(model))
    for name, delta in engram.items():
        if name not in recording.layers:
            raise ModelError(f"Expected an engram of recorded layers, got {name!r}, which was not recorded.")
        now = delta.layer.effective(modules[name]) if name in modules else None
        if now is None or (delta.base and fingerprint(now.detach()) != delta.base):
            raise ModelError(
                f"Expected the engram of this network, got one of other weights in layer {name!r}. Solve it again with "
                "recording.engram(model, ...), or give the network that it was solved for."
            )
    return engram
