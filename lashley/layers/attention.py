"""`torch.nn.MultiheadAttention`: four layers in one module, none of which is ever called.

Its query, key and value projections are slices of one weight (or three weights, where key and value have widths of
their own), and they and the output projection's weight are handed to a function. So their inputs are taken from the
call of the module itself; the output projection's is computed again, with an identity in its place.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lashley.layers.base import Layer

__all__ = ["AttentionLayer"]

_READS = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}
_OUT = "out_proj"


@dataclass(frozen=True)
class AttentionLayer(Layer, speaks_for=nn.MultiheadAttention):
    """One projection of ``nn.MultiheadAttention``: ``name.q_proj``, ``.k_proj``, ``.v_proj`` or ``.out_proj``.

    Attributes:
        batch_first: whether the module's inputs have samples first.
    """

    batch_first: bool

    @classmethod
    def parts(cls, module: nn.Module) -> tuple[str, ...]:
        return (*_READS, _OUT)

    @classmethod
    def of(cls, name: str, module: nn.Module) -> AttentionLayer:
        assert isinstance(module, nn.MultiheadAttention)
        part = name.rpartition(".")[2]
        out = module.embed_dim
        dim = {"k_proj": module.kdim, "v_proj": module.vdim}.get(part, out)
        bias = (module.out_proj.bias if part == _OUT else module.in_proj_bias) is not None
        return cls(name, type(module).__name__, out, dim, 1, bias, (out, dim), module.batch_first)

    @property
    def part(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def module_name(self) -> str:
        return self.name.rpartition(".")[0]

    @classmethod
    def where(cls, name: str, module: nn.Module, which: str) -> str:
        part = name.rpartition(".")[2]
        if part == _OUT:
            return f"{_OUT}.{which}"
        if which == "bias":
            return "in_proj_bias"
        return f"{part}_weight" if module.in_proj_weight is None else "in_proj_weight"

    def tensor(self, module: nn.Module, which: str) -> Tensor | None:
        return self._slice(super().tensor(module, which))

    def zero_bias(self, module: nn.Module) -> Tensor | None:
        zeros = super().zero_bias(module)
        return zeros if zeros is None or self.part == _OUT else zeros.repeat(len(_READS))

    def in_state(self, state: Mapping[str, Tensor], which: str) -> tuple[str, Tensor | None]:
        prefix = f"{self.module_name}." if self.module_name else ""
        alone = f"{prefix}{self.part}_weight"
        key = f"{prefix}{_OUT}.{which}" if self.part == _OUT else f"{prefix}in_proj_{which}"
        if which == "weight" and alone in state:
            key = alone
        return key, self._slice(state.get(key))

    def _slice(self, whole: Tensor | None) -> Tensor | None:
        """This projection's part of what may be the three of them on top of each other."""
        if whole is None or self.part == _OUT or len(whole) == self.out:
            return whole
        start = list(_READS).index(self.part) * self.out
        return whole[start : start + self.out]

    def input_of(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
        if self.part == _OUT:
            return _before_output(module, args, kwargs)
        return inspect.signature(module.forward).bind(*args, **kwargs).arguments[_READS[self.part]]

    def output_of(self, output: object) -> Tensor | None:
        first = output[0] if isinstance(output, tuple) else output
        return first if self.part == _OUT and isinstance(first, Tensor) else None

    def batched(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return x.unsqueeze(0)
        return x if self.batch_first else x.transpose(0, 1)

    def rows(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0)

    def responses(self, output: Tensor) -> Tensor:
        return self.batched(output).unsqueeze(0)

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.unsqueeze(0)

    def weight(self, matrix: Tensor) -> Tensor:
        return matrix.squeeze(0)

    def lead(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(shape[:-1])

    @property
    def rows_key(self) -> tuple[Any, ...]:
        return ("attention", self.dim, self.batch_first)  # whichever input it is: one tensor makes one set of rows


def _before_output(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The heads' outputs side by side, as the output projection reads them, in the layout of the module's output."""
    assert isinstance(module, nn.MultiheadAttention)
    out = module.out_proj.weight
    through = nn.modules.linear.NonDynamicallyQuantizableLinear(module.embed_dim, module.embed_dim, bias=False)
    through.weight = nn.Parameter(torch.eye(module.embed_dim, dtype=out.dtype, device=out.device))
    twin = copy.copy(module)
    twin._modules = {**module._modules, "out_proj": through}
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    if not bound.arguments.get("is_causal", False):  # with it, keys that the module adds are masked in one of two ways
        bound.arguments["need_weights"] = False
    output: Tensor = twin.forward(*bound.args, **bound.kwargs)[0]  # not a call: it would fire the hooks again
    return output
