"""The function `record`: one forward pass over the data, in which moments come of every selected layer's input, one
per concept and site.

What it takes for that: a `Subject` (the model), a `Stream` (the data), a `Tally` (what was counted), an `Observer` (who
reads what in a forward pass), and a `Run` that brings one batch after another from the stream to the observer.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lashley import identity
from lashley.checkpoint import Checkpoint, opened
from lashley.data.concepts import Stream, check_data
from lashley.errors import DataError, LashleyWarning, RecordingError
from lashley.hooks import Diverged, at_rest
from lashley.layers import unwrap
from lashley.ledger import check_beginning
from lashley.observer import Forward, Observer, Rows
from lashley.progress import track
from lashley.recording import Recording, from_folder
from lashley.run import Run
from lashley.select import Indices, Patterns, select
from lashley.subject import Subject
from lashley.tally import Tally

__all__ = ["record"]


def record(
    model: nn.Module,
    data: Mapping[str, Iterable[Any]] | Iterable[Any],
    concept_of: Callable[[Any], Any] | None = None,
    *,
    concept_names: Sequence[str] | None = None,
    target_modules: Patterns = None,
    exclude_modules: Patterns = None,
    layers_to_transform: Indices = None,
    layers_pattern: Patterns = None,
    rows: Rows | None = None,
    forward: Forward | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    dtype: torch.dtype | None = None,
    keep: str = "moments",
    progress: bool | None = None,
) -> Recording:
    """Record the moments of every concept at every site, in one forward pass over the data.

    Args:
        model: any module. It is used in evaluation mode without gradients and given back as it was.
        data: a mapping ``{concept: batches}``, or one iterable of batches with ``concept_of``. A batch is a tensor, a
            tuple or list (its first item is the input) or a mapping (keyword arguments). Tensors are moved to the
            model's device. Concepts of a mapping are taken to be disjoint sets of samples.
        concept_of: ``f(batch) -> labels``: ``[N]`` integers or texts, or bool ``[N, K]`` when concepts may overlap or
            leave samples out; the total then still counts every sample once.
        concept_names: names for integer labels or bool columns; default: the numbers as texts.
        target_modules, exclude_modules, layers_to_transform, layers_pattern: which layers, with PEFT's meaning
            (`lashley.select`). Default: every layer of a known type.
        rows: ``f(batch, site) -> bool`` mask over the first of the leading dims of the site's rows; the batch is as the
            data gave it. Default: ``labels != -100`` at decoder sites of a mapping with token labels, else
            ``attention_mask``, else every row.
        forward: ``f(model, batch)`` in place of the default call; the batch is as the data gave it, and the forward is
            never stopped early. The default call, with the default ``rows``, runs a padded batch of a model of
            transformers in parts of like length, if on one batch run both ways padding meant nothing to the model
            (`lashley.division`). ``forward=lambda model, batch: model(**batch)`` runs every batch whole.
        checkpoint: a folder. What was counted is written there every half minute and when a concept of a mapping is
            over, both more seldom where it would take more than a twentieth of the time. Killed, the same call goes on
            from there, and comes to the same numbers to the bit; the data are read from the start, without the forward
            pass, and must be the same. At the end the folder is a recording for `Recording.load`, and the same call
            returns it after a look at the first batch of every concept. What is returned reads concepts from the folder
            when they are needed: of a mapping, only the concept under way, the one that is being written and the sum of
            all take memory.
        dtype: of the products; default float64 up to 256 columns (and for float64 rows), float32 above. Sums are
            float64; the square of a concept that is over is kept in the dtype of its products.
        keep: "moments", or "products": of each concept only ``W S_c``, and the moment of all rows once. That is O x D
            numbers for every layer in place of D x D / 2 for every site: less where the layers that read a site have
            fewer than D / 2 outputs together, as in most convolutions, and more elsewhere. It serves the paper's
            estimator against all rows, and nothing else.
        progress: None: a bar on a terminal, silence elsewhere. True and False force it.

    Raises:
        DataError: no batches, a bare tensor, labels out of range, a mask of no rows or of the wrong shape.
        SelectionError, ModelError: a pattern that matches nothing, a layer that cannot be recorded.
        RecordingError: a layer that never fires, an input that is not finite; layer and batch are named.
        StoreError: a checkpoint of another run, one that is damaged or that another process works on, a full disk; what
            is in the folder stays as it is.
    """
    check_data(data, concept_of, concept_names)
    if keep not in ("moments", "products"):
        raise DataError(f'Expected keep to be "moments" or "products", got {keep!r}.')
    if dtype not in (None, torch.float32, torch.float64):
        raise DataError(f"Expected dtype to be torch.float32, torch.float64 or None, got {dtype}.")
    selected = select(unwrap(model), target_modules, exclude_modules, layers_to_transform, layers_pattern)
    stream = Stream(data, concept_of, concept_names)
    asked = _Asked(Subject(model, selected), stream, rows, forward, dtype, keep, progress)
    if checkpoint is None:
        return asked.recording(None)
    if stream.once:
        raise DataError(
            "Expected data that can be read again beside checkpoint=, got an iterator: a run that goes on starts with "
            "the first batch, to see that the data are the same. Give lists or DataLoaders."
        )
    with opened(checkpoint, asked.identity()) as saved:
        if saved.complete is None:
            return asked.recording(saved)
        asked.check_beginnings(saved.complete.manifest["batches"])
        return from_folder(saved.complete)


@dataclass
class _Asked:
    """What `record` was asked for, checked."""

    subject: Subject
    stream: Stream
    rows: Rows | None
    forward: Forward | None
    dtype: torch.dtype | None
    keep: str
    progress: bool | None

    def identity(self) -> dict[str, Any]:
        """What a checkpoint is the checkpoint of: what must be the same when it goes on."""
        return {
            "data": "{concept: batches}" if self.stream.mapping else "batches with concept_of",
            "concepts": self.stream.concepts,
            "layers": {name: layer.to_json() for name, layer in self.subject.layers.items()},
            "weights": identity.of_tensors(self.subject.model),
            "modules": identity.of_modules(self.subject.model),
            "rows": identity.of_function(self.rows),
            "forward": identity.of_function(self.forward),
            "dtype": None if self.dtype is None else str(self.dtype),
            "keep": self.keep,
        }

    def check_beginnings(self, batches: Mapping[str, Sequence[str]]) -> None:
        """Are the data still those of a complete recording?

        Args:
            batches: digests, by concept; under "" where the data are one iterable.
        """
        for concept, known in batches.items():
            with at_rest(self.subject.given):
                check_beginning(self.stream.only(concept) if self.stream.mapping else self.stream, concept, known)

    def recording(self, saved: Checkpoint | None) -> Recording:
        """Read all of the data. Where sharing of sites ends on the way, start over without."""
        share = saved is None or saved.progress.get("share", True)
        try:
            return self._read(saved, share)
        except Diverged as split:
            both = (
                f"Layers {split.leader!r} and {split.follower!r} read one tensor in the first batch and different ones"
            )
            if self.stream.once:
                raise RecordingError(
                    f"{both} later; the recording has to start over without sharing, but the data is an iterator that "
                    "cannot be read again. Give lists or DataLoaders."
                ) from None
            warnings.warn(f"{both} later; recording again, with a moment for each layer.", LashleyWarning, stacklevel=3)
        if saved is not None:
            saved.restart()
        return self._read(saved, share=False)

    def _read(self, saved: Checkpoint | None, share: bool) -> Recording:
        """All of the data once.

        Raises:
            Diverged: they have to be read again, without sharing.
        """
        subject, stream = self.subject, self.stream
        tally = Tally(subject.layers, subject.weights, self.dtype, self.keep, stream.mapping, saved)
        run = Run(subject, stream, Observer(subject, tally, self.rows, self.forward, share), tally, saved)
        with at_rest(subject.given):
            for batch, members in track(stream, stream.total, "recording", "batches", self.progress):
                run.take(batch, members)
            return run.finish()
