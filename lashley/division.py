"""Whether the batches of a recording may be run in parts of like length (`lashley.data.parts`), and the proof.

It takes a model to which trailing padding means nothing. Models of transformers promise that, and most keep it. So the
first batch that can be divided is run both ways: whole, as it is recorded, and in those parts that padding was cut off
from, with two `Witness`es who add up the rows of every sample. Only where they agree are later batches divided.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lashley.data.concepts import Members
from lashley.data.parts import Portion, parts_of
from lashley.data.rows import Pick, indices_of, rows_of
from lashley.errors import LashleyWarning
from lashley.layers import Layer
from lashley.moments import Counts, column_sums, wide
from lashley.subject import Subject

__all__ = ["Division", "Witness"]

# What a forward pass costs beyond its positions, in positions. On a processor a part is worth it from few on; other
# devices need thousands of positions to be busy at all. The second number is a guess, not a measurement.
_OVERHEAD = {"cpu": 64}
_OVERHEAD_ELSEWHERE = 4096

# How far the sum of a sample's rows may move, as a share of the sum of their norms. Rounding in float32 stays well
# below; half precision does not, so such models are not divided.
_AGREE = 1e-3
_PRECISE = (torch.float32, torch.float64)

# Of a configuration: what makes a model compute another function of shorter batches, though it masks what it should.
_BY_LENGTH = {
    "rope_type": ("dynamic", "longrope"),
    "type": ("dynamic", "longrope"),
    "attention_type": ("block_sparse",),
}


@dataclass
class _Seen:
    """Of one sample's rows at one layer: how many, their sum in float64, and the sum of their norms."""

    rows: int = 0
    total: Tensor | float = 0.0
    norms: Tensor | float = 0.0

    def add(self, rows: Tensor) -> None:
        self.rows += rows.shape[1]
        self.total = self.total + column_sums(rows)
        self.norms = self.norms + wide(rows.norm(dim=-1)).sum()

    def moved(self, other: _Seen) -> float:
        """How far apart the two sums are, as a share of the norms. Infinite where one of them is not finite, and where
        they are not of as many rows.
        """
        apart, norms = torch.as_tensor(self.total - other.total).norm().item(), float(self.norms)
        if self.rows != other.rows or not math.isfinite(apart):
            return math.inf
        return apart / norms if norms else apart


class Witness:
    """What the rows of every sample add up to at every layer, however the samples are spread over passes."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, _Seen]] = {}  # by layer and sample

    @staticmethod
    def members(samples: Iterable[int]) -> Members:
        """Every sample of a batch as a concept of its own, named by its number in the whole one."""
        parts: list[tuple[str | None, Tensor | None]] = [(str(n), torch.tensor([k])) for k, n in enumerate(samples)]
        return Members(parts, len(parts))

    def saw(self, layer: Layer, x: Tensor, picks: Iterable[Pick]) -> None:
        """A layer reads this, in which these rows are of these samples."""
        indices = isinstance(layer.accumulator(), Counts)
        for chosen in picks:
            seen = self._seen.setdefault(layer.name, {}).setdefault(str(chosen.concept), _Seen())
            for rows in [wide(indices_of(x, chosen))[None, :, None]] if indices else rows_of(layer, x, chosen):
                seen.add(rows)

    def furthest(self, other: Witness, layers: Iterable[str], samples: Sequence[int]) -> tuple[float, str] | None:
        """By how much the rows of one of these samples differ at most between the two, and at which of these layers:
        their sum, as a share of the sum of their norms. Infinite where their numbers differ; None where none has rows.
        """
        found: list[tuple[float, str]] = []
        for layer in layers:
            ours, theirs = self._seen.get(layer, {}), other._seen.get(layer, {})
            both = [(ours.get(str(n), _Seen()), theirs.get(str(n), _Seen())) for n in samples]
            found += [(one.moved(two), layer) for one, two in both if one.rows or two.rows]
        return max(found, default=None)


class Division:
    """Whether to run batches in parts, for one recording.

    Attributes:
        agreed: whether parts gave the rows that the whole batch gives; None as long as none was run both ways.
    """

    def __init__(self, subject: Subject) -> None:
        self.agreed: bool | None = None
        self._possible = _promised(subject.model)
        self._devices = {parameter.device.type for parameter in subject.model.parameters()}
        self._overhead = max((_OVERHEAD.get(kind, _OVERHEAD_ELSEWHERE) for kind in self._devices), default=0)

    def portions(self, batch: Any, labels: int | None) -> list[Portion] | None:
        """The parts of a batch; None where it is to be run whole.

        Args:
            labels: how many there are, where there are some.
        """
        if not self._possible or self.agreed is False or any(map(torch.is_autocast_enabled, self._devices)):
            return None
        portions = parts_of(batch, self._overhead)
        if portions is not None and labels not in (None, sum(len(portion.samples) for portion in portions)):
            return None  # an error, for whoever runs the whole batch to tell
        return portions

    def compare(self, whole: Witness, parts: Witness, layers: Iterable[str], samples: Sequence[int]) -> None:
        """Decide by a batch that was run both ways, and by what these layers read of these samples in it. Where no row
        of theirs counts, it says nothing, and the next one has to.
        """
        furthest = whole.furthest(parts, layers, samples)
        if furthest is None:
            return
        moved, layer = furthest
        self.agreed = moved <= _AGREE
        if not self.agreed:
            how = f"by {moved:.2g} of their norms" if math.isfinite(moved) else "in number, or to nan,"
            _warn(f"the rows of a sample at layer {layer!r} changed {how} when the padding behind it was cut off")

    def fail(self, error: Exception) -> None:
        """Decide by a batch that runs whole and not in parts."""
        self.agreed = False
        _warn(f"its forward pass fails on shorter batches ({type(error).__name__}: {error})")


def _warn(what: str) -> None:
    warnings.warn(
        f"This model's rows depend on trailing padding: {what}. Expected of a model of transformers is that "
        "attention_mask hides it. Batches are recorded whole, as they came, so what is recorded depends on which "
        "samples share a batch. Pass forward=lambda model, batch: model(**batch) to record so without this comparison.",
        LashleyWarning,
        stacklevel=2,
    )


def _promised(model: nn.Module) -> bool:
    """Whether this is a model that should not see trailing padding, computed precisely enough to check it, by this
    process alone: others would wait for passes that this one does not make.
    """
    config = getattr(model, "config", None)
    parameters = list(model.parameters())
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    return (
        getattr(config, "is_encoder_decoder", None) is False
        and "attention_mask" in inspect.signature(model.forward).parameters
        and all(parameter.dtype in _PRECISE and not parameter.is_meta for parameter in parameters)
        and (alone or torch.distributed.get_world_size() == 1)
        and not any(value in _BY_LENGTH.get(key, ()) for key, value in _settings(_as_mapping(config)))
    )


def _as_mapping(config: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = config.to_dict() if callable(getattr(config, "to_dict", None)) else vars(config)
    return found


def _settings(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings of a configuration and of those in it."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _settings(value)
        elif isinstance(value, str):
            yield key, value
