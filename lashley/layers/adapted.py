"""Layers that PEFT wrapped: ``z = (W + s B A) x + b`` is one layer, whatever parts compute it.

An engram is that of the weight the layer computes with, adapters included. What an edit writes to is the base weight,
so that the sum changes by exactly the engram and the adapter stays what it was. Recorded under the wrapper's name, as
PEFT's own patterns have it. The pieces inside (``base_layer``, ``lora_A``, ``lora_B``) are no layers of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lashley.layers.base import layer_type, unusable
from lashley.layers.linear import LinearLayer, TransposedLinearLayer

__all__ = ["AdaptedLayer"]


@dataclass(frozen=True)
class AdaptedLayer(LinearLayer, speaks_for="peft.tuners.tuners_utils.BaseTunerLayer"):
    """A linear layer with LoRA adapters, of which those that are switched on count. Other wrappers are refused.

    Attributes:
        transposed: whether the base layer is a Hugging Face ``Conv1D``, whose weight is ``[D, O]``.
    """

    transposed: bool

    encloses = True

    @classmethod
    def of(cls, name: str, module: nn.Module) -> AdaptedLayer:
        base: Any = module.get_submodule("base_layer")
        transposed = layer_type(base) is TransposedLinearLayer
        shape = tuple(base.weight.shape)
        dim, out = shape if transposed else reversed(shape)
        return cls(name, type(module).__name__, out, dim, 1, base.bias is not None, shape, transposed)

    @classmethod
    def where(cls, name: str, module: nn.Module, which: str) -> str:
        return f"base_layer.{which}"

    @classmethod
    def obstacle(cls, module: nn.Module) -> str | None:
        base: Any = module._modules.get("base_layer")
        if not hasattr(module, "lora_A") or layer_type(base) not in (LinearLayer, TransposedLinearLayer):
            kind = type(base).__name__ if base is not None else "nothing"
            return f"expected LoRA around a linear layer, got {type(module).__name__} around {kind}. {_MERGE}"
        peculiar = [name for name in _active(module) if name in getattr(module, "lora_variant", {})]
        if peculiar or any(getattr(module, "lora_bias", {}).get(name) for name in _active(module)):
            return f"expected plain LoRA, got a variant of it (DoRA, a bias of its own, or alike). {_MERGE}"
        return unusable(base)

    def effective(self, module: nn.Module) -> Tensor | None:
        weight = self.tensor(module, "weight")
        adapters = _active(module)
        if weight is None or not adapters:
            return weight
        added: Any = module.get_delta_weight
        wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
        with torch.no_grad():
            for name in adapters:
                wide = wide + added(name).to(wide)
        return wide

    def in_state(self, state: Any, which: str) -> tuple[str, Tensor | None]:
        inside, alone = f"{self.name}.base_layer.{which}", f"{self.name}.{which}"
        return (inside, state[inside]) if inside in state else (alone, state.get(alone))

    def matrix(self, weight: Tensor) -> Tensor:
        return (weight.T if self.transposed else weight).unsqueeze(0)

    def weight(self, matrix: Tensor) -> Tensor:
        return matrix.squeeze(0).T if self.transposed else matrix.squeeze(0)

    @property
    def rows_key(self) -> tuple[Any, ...]:
        # The rows are the input's, as those of a bare linear layer are: one moment for both.
        return (TransposedLinearLayer if self.transposed else LinearLayer, self.dim, self.matrices)


_MERGE = "Merge the adapter first (model.merge_and_unload()), or leave the layer out with exclude_modules."


def _active(module: Any) -> list[str]:
    """The adapters whose product the layer adds to its base: switched on, and not merged into the base already."""
    if module.disable_adapters or module.merged:
        return []
    return [name for name in module.active_adapters if name in module.lora_A]
