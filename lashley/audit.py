"""What the first batch has to show: that every layer is called, that it computes ``W x + b``, and who reads that."""

from __future__ import annotations

import warnings
from collections import Counter
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from lashley.edit.offsets import Fold, FoldSearch
from lashley.errors import LashleyWarning, RecordingError
from lashley.hooks import Identities
from lashley.layers import deviation
from lashley.subject import Subject

__all__ = ["Audit"]

# How far outputs of W x + b may be off in each dtype, as a share of the largest, before it is called another formula.
_OFF_BY = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 8e-2}


class Audit:
    """Looks at the inputs and outputs of the layers in one forward pass."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._calls: Counter[str] = Counter()
        self._first_samples: dict[str, Tensor] = {}
        self._search = FoldSearch(subject.model, subject.layers)

    def watching(self, identities: Identities) -> AbstractContextManager[None]:
        """For the length of the pass: who reads what the layers put out."""
        return self._search.watching(identities)

    def read(self, name: str, x: Tensor) -> None:
        """The layer reads this, samples first."""
        self._calls[name] += 1
        if name not in self._first_samples:
            self._first_samples[name] = x[:1].clone()

    def wrote(self, name: str, output: Tensor) -> None:
        """The layer put this out."""
        if self._calls[name] == 1:
            self._check_formula(name, output)
        self._search.wrote(name, output)

    def cut_short(self, name: str) -> None:
        """The layer was called and will not compute: look at one sample of what it would put out."""
        self._check_formula(name, self._subject.modules[name].forward(self._first_samples[name]))

    def check_all_called(self) -> None:
        """After the pass.

        Raises:
            RecordingError: a layer was not called.
        """
        if silent := [name for name in self._subject.layers if not self._calls[name]]:
            shown = ", ".join(map(repr, silent[:5])) + (f" and {len(silent) - 5} more" if len(silent) > 5 else "")
            raise RecordingError(
                f"Expected every selected layer to fire in the first batch, got no call of {shown}. Likely causes: the "
                "forward pass does not use it in evaluation mode, another module calls its weight as a function "
                "(F.linear, nn.MultiheadAttention), it sits in a part compiled on its own, or an expert got no tokens. "
                "Leave it out with exclude_modules, or pass a forward= that reaches it."
            )

    def folds(self) -> dict[str, Fold]:
        """After the pass: where the constant part of an edit could go that a layer without a bias cannot take."""
        return self._search.found()

    def _check_formula(self, name: str, output: Tensor) -> None:
        """Compare an output with ``W x + b`` of the first sample."""
        layer, x = self._subject.layers[name], self._first_samples[name]
        off = deviation(layer, self._subject.modules[name], x, output)
        if off > max(_OFF_BY.get(t.dtype, 8e-2) for t in (x, self._subject.weights[name], output)):
            warnings.warn(
                f"Layer {name!r} ({layer.type}) does not compute W x + b of its input: it is off by {off:.2g} times "
                "its largest output. Its class changes the weight or the input on the way, so an engram of the bare "
                "weight may not be what you expect. Exclude it, or register a layer type for its class.",
                LashleyWarning,
                stacklevel=2,
            )
