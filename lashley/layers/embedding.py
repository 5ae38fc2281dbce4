"""`torch.nn.Embedding`: a linear layer that reads one-hot rows, whose moment is a diagonal of counts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lashley.errors import ModelError
from lashley.layers.base import Layer
from lashley.moments import Counts

__all__ = ["EmbeddingLayer"]


@dataclass(frozen=True)
class EmbeddingLayer(Layer, speaks_for=nn.Embedding):
    """``nn.Embedding``: weight ``[V, O]``, acting as ``W^T`` on the one-hot row of an index.

    Recorded only when it is asked for by name: taking a concept's tokens out of the embedding removes access to a
    memory rather than the memory.
    """

    by_default = False

    @classmethod
    def of(cls, name: str, module: nn.Module) -> EmbeddingLayer:
        assert isinstance(module, nn.Embedding)
        if module.max_norm is not None:
            raise ModelError(
                f"Expected embedding {name!r} without max_norm, which rescales its rows at every pass and would undo "
                "an edit. Set it to None, or leave the layer out with exclude_modules."
            )
        size, out = module.weight.shape
        return cls(name, type(module).__name__, out, size, 1, False, (size, out))

    def tensor(self, module: nn.Module, which: str) -> Tensor | None:
        return super().tensor(module, which) if which == "weight" else None

    def output_of(self, output: object) -> None:
        """Nothing to compare: with one-hot rows the output is ``W x`` by construction."""
        return

    def batched(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0) if x.dim() == 0 else x

    def rows(self, x: Tensor) -> Tensor:
        """One-hot rows, written out: for looking at, not for counting."""
        return F.one_hot(self.batched(x).long(), self.dim).to(torch.get_default_dtype()).unsqueeze(0)

    def responses(self, output: Tensor) -> Tensor:
        return (output.unsqueeze(0) if output.dim() == 1 else output).unsqueeze(0)

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.T.unsqueeze(0)

    def weight(self, matrix: Tensor) -> Tensor:
        return matrix.squeeze(0).T

    def lead(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(shape) or (1,)

    def accumulator(self, dtype: torch.dtype | None = None) -> Counts:
        return Counts(self.dim)

    @property
    def moment_bytes(self) -> int:
        return 8 * self.dim
