"""The constant part of an edit where a layer has no bias to take it: a new bias, or BatchNorm's running mean.

A BatchNorm that alone reads ``z = W x`` takes its running mean off it, so that ``z + c`` and a running mean smaller by c
are the same to it. In training mode neither makes a difference: batch statistics swallow any constant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack

from torch import nn

from lashley.engram import Delta, Engram
from lashley.errors import EditError
from lashley.layers import describe

__all__ = ["add_biases", "norms_of"]


def norms_of(model: nn.Module, engram: Engram, modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """For every layer whose constant is folded: the BatchNorm.

    Raises:
        EditError: a constant that has nowhere to go in this model.
    """
    everything = dict(model.named_modules(remove_duplicate=False))
    found = {}
    for name, delta in engram.items():
        if delta.bias is None or (describe(name, modules[name]).bias and not delta.fold):
            continue
        if delta.fold:
            found[name] = _norm(everything, delta)
        elif delta.layer.bias:
            raise EditError(
                f"Expected layer {name!r} to have a bias, because the engram absorbed one; it has none. Solve the "
                "engram with bias=False for this model."
            )
        elif delta.layer.zero_bias(modules[name]) is None:
            raise EditError(
                f"Expected layer {name!r} ({delta.layer.type}) to have a place for a bias, because the engram moves "
                'its output by a constant; it has none. Solve with missing_bias="fold", or leave the layer out.'
            )
    return found


def _norm(modules: Mapping[str, nn.Module], delta: Delta) -> nn.Module:
    norm = modules.get(delta.fold)
    mean = getattr(norm, "running_mean", None)
    channels = delta.layer.matrices * delta.layer.out
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or mean is None or len(mean) != channels:
        got = "none" if norm is None else f"{type(norm).__name__} with {0 if mean is None else len(mean)}"
        raise EditError(
            f"Expected {delta.fold!r} to be a BatchNorm with running statistics of {channels} channels, for the "
            f"constant of layer {delta.layer.name!r}; got {got}. The engram is of another model."
        )
    return norm


def add_biases(undo: ExitStack, deltas: Iterable[Delta], modules: Mapping[str, nn.Module]) -> set[str]:
    """Give the layers that need a bias and have none one of zeros; ``undo`` takes it away. Returns their names."""
    bare = [d.layer for d in deltas if "bias" in d.touches and d.layer.tensor(modules[d.layer.name], "bias") is None]
    for layer in bare:
        module = modules[layer.name]
        if layer.tensor(module, "bias") is not None:
            continue  # it shares one with a layer before it: the projections of an attention
        zeros, weight = layer.zero_bias(module), layer.tensor(module, "weight")
        assert zeros is not None and weight is not None  # norms_of() refuses a layer without a place for it
        path, _, attribute = layer.where(layer.name, module, "bias").rpartition(".")
        holder = module.get_submodule(path)
        undo.callback(setattr, holder, attribute, None)
        setattr(holder, attribute, nn.Parameter(zeros, requires_grad=weight.requires_grad))
    return {layer.name for layer in bare}
