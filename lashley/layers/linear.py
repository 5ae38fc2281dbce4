"""Layers whose rows are their input's last dimension: `torch.nn.Linear` and Hugging Face's transposed `Conv1D`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from lashley.layers.base import Layer

__all__ = ["LinearLayer", "TransposedLinearLayer"]


@dataclass(frozen=True)
class LinearLayer(Layer, speaks_for=nn.Linear):
    """``nn.Linear``: weight ``[O, D]``; every position of the leading dims is a row."""

    @classmethod
    def of(cls, name: str, module: nn.Module) -> LinearLayer:
        weight = module.weight
        assert isinstance(weight, Tensor)
        out, dim = weight.shape
        return cls(name, type(module).__name__, out, dim, 1, module.bias is not None, (out, dim))

    def batched(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0) if x.dim() == 1 else x

    def rows(self, x: Tensor) -> Tensor:
        return self.batched(x).unsqueeze(0)

    def responses(self, output: Tensor) -> Tensor:
        return self.rows(output)

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.unsqueeze(0)

    def weight(self, matrix: Tensor) -> Tensor:
        return matrix.squeeze(0)

    def lead(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(shape[:-1]) or (1,)


@dataclass(frozen=True)
class TransposedLinearLayer(LinearLayer, speaks_for="transformers.pytorch_utils.Conv1D"):
    """Hugging Face ``Conv1D`` (GPT-2): weight ``[D, O]``, acting as ``x W + b``.

    The orientation comes from the type, never from the shape: a square weight fits both ways.
    """

    @classmethod
    def of(cls, name: str, module: nn.Module) -> TransposedLinearLayer:
        weight = module.weight
        assert isinstance(weight, Tensor)
        dim, out = weight.shape
        return cls(name, type(module).__name__, out, dim, 1, module.bias is not None, (dim, out))

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.T.unsqueeze(0)

    def weight(self, matrix: Tensor) -> Tensor:
        return matrix.squeeze(0).T
