"""The weights and biases of recorded layers, in a model or in a state dict, as the matrices that are solved for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lashley.errors import ModelError, SelectionError, nearest
from lashley.layers import Layer, describe, named_modules, places, unwrap

__all__ = ["Parameters", "matrices_of", "parameters_in", "parameters_of"]


class Parameters(NamedTuple):
    """What a layer computes with."""

    weight: Tensor
    bias: Tensor | None


def parameters_of(model: nn.Module, layers: Mapping[str, Layer]) -> dict[str, Parameters]:
    """Of a model that has these layers in the recorded form.

    Raises:
        SelectionError: a layer that it lacks.
        ModelError: one of another type, shape or setting.
    """
    modules = named_modules(model)
    found = {}
    for name, layer in layers.items():
        if name not in modules:
            raise SelectionError(
                f"Expected the model to have layer {name!r}, which was recorded. {nearest(name, places(model))}"
            )
        module = modules[name]
        if (here := describe(name, module)) != layer:
            raise ModelError(
                f"Expected layer {name!r} to be {layer.type} {list(layer.shape)} as recorded, got {here.type} "
                f"{list(here.shape)}" + (", with other settings" if here.shape == layer.shape else "") + "."
            )
        weight, bias = layer.effective(module), layer.tensor(module, "bias") if layer.bias else None
        assert weight is not None
        found[name] = Parameters(weight.detach(), None if bias is None else bias.detach())
    return found


def parameters_in(
    base: nn.Module | Mapping[str, Tensor], layers: Mapping[str, Layer], bias: bool
) -> dict[str, Parameters]:
    """Of another model of the same architecture, or of its state dict: weights of these names and shapes.

    Args:
        bias: whether the layers' biases are asked for too.

    Raises:
        SelectionError: a name that it lacks.
        ModelError: another shape.
    """
    state = unwrap(base).state_dict() if isinstance(base, nn.Module) else base

    def take(layer: Layer, which: str, shape: tuple[int, ...]) -> Tensor:
        key, tensor = layer.in_state(state, which)
        if tensor is None:
            raise SelectionError(f"Expected base to have {key}. {nearest(key, state)}")
        if tuple(tensor.shape) != shape:
            raise ModelError(
                f"Expected base to have {key} of shape {list(shape)}, got {list(tensor.shape)}: it is another "
                "architecture."
            )
        return tensor.detach()

    found = {}
    for name, layer in layers.items():
        absorbed = take(layer, "bias", (layer.matrices * layer.out,)) if bias and layer.bias else None
        found[name] = Parameters(take(layer, "weight", layer.shape), absorbed)
    return found


def matrices_of(
    layer: Layer, parameters: Parameters, augmented: bool, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """W or W~ of every matrix, ``[M, O, D]`` or ``[M, O, D + 1]``."""
    matrices = layer.matrix(parameters.weight).to(device, dtype)
    if not augmented:
        return matrices
    biases = matrices.new_zeros(matrices.shape[:2])  # where there is none and an estimator needs a place for its offset
    if parameters.bias is not None:
        biases = layer.biases(parameters.bias).to(device, dtype)
    return torch.cat([matrices, biases.unsqueeze(-1)], dim=-1)
