"""Null states: the network without what it learned, which the criteria are counted from.

zero     every tensor that the engram edits is 0: the weights of its layers, and their biases where it carries a share
         of them. Everything else stays (other biases, norms, layers that were not recorded), so that a network with
         biases or norms does not go silent.
random   the same tensors as their module's ``reset_parameters`` makes them, from a seed; everything else stays.
given    a network of the same architecture or its state dict, whole: the pretrained one before fine-tuning, or one that
         was trained without the concept.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lashley.engram import Delta
from lashley.errors import DataError, ModelError, nearest
from lashley.layers import named_modules, unwrap

__all__ = ["Null", "NullState", "null_state"]

Null = str | nn.Module | Mapping[str, Tensor]


@dataclass(frozen=True)
class NullState:
    """A network in its null state, in a copy of its own.

    Attributes:
        name: "zero", "random" or "given".
        model: the network.
        note: a sentence that says what it is.
    """

    name: str
    model: nn.Module
    note: str


def null_state(model: nn.Module, deltas: Mapping[str, Delta], null: Null, seed: int) -> NullState:
    """The null state of ``model``.

    Args:
        deltas: of an engram, which say which tensors of which layers are edited.
        null: "zero", "random", a network or a state dict.
        seed: of "random".

    Raises:
        DataError: something else.
        ModelError: a module that cannot be initialised anew, or a network of another architecture.
    """
    blank = copy.deepcopy(unwrap(model))
    if not isinstance(null, str):
        _take(blank, null)
        return NullState("given", blank, "The null state is the network that was given, whole.")
    if null not in ("zero", "random"):
        raise DataError(
            f'Expected null to be "zero", "random", a network or a state dict, got {null!r}. A network that was '
            "trained without the concept, or not yet trained on it, is given as it is."
        )
    modules = named_modules(blank)
    fresh = _initialised({name: modules[name] for name in deltas}, seed) if null == "random" else None
    with torch.no_grad():
        for name, delta in deltas.items():
            layer, module = delta.layer, modules[name]
            for which in delta.touches:
                tensor = layer.tensor(module, which)
                if tensor is None:  # an offset in a layer without a bias
                    continue
                if fresh is not None:
                    new = layer.tensor(fresh[name], which)
                    assert new is not None
                    tensor.copy_(new)
                elif which == "weight" and (effective := layer.effective(module)) is not None:
                    tensor.sub_(effective)  # all of it, what adapters add to it too
                else:
                    tensor.zero_()
    which = "weights and biases" if any("bias" in delta.touches for delta in deltas.values()) else "weights"
    made = "0" if null == "zero" else f"initialised anew by their modules (seed {seed})"
    note = (
        f"In the null state the {which} of the {len(deltas)} edited layers are {made}; everything else is as learned."
    )
    return NullState(null, blank, note)


def _initialised(modules: Mapping[str, nn.Module], seed: int) -> dict[str, nn.Module]:
    """Copies of the modules with parameters as before training; layers of one module share a copy."""
    twins: dict[int, nn.Module] = {}
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for name, module in modules.items():
            if id(module) in twins:
                continue
            twin = copy.deepcopy(module)
            # nn.MultiheadAttention has it under a private name.
            reset = getattr(twin, "reset_parameters", None) or getattr(twin, "_reset_parameters", None)
            if not callable(reset):
                raise ModelError(
                    f"Expected the module of layer {name!r} to have reset_parameters(), to initialise it anew; "
                    f"{type(module).__name__} has none. Give null= a network as it was before training, such as "
                    "type(model)(config), or its state dict."
                )
            for part in reversed(list(twin.modules())):  # parts first: nn.MultiheadAttention resets no out_proj.weight
                if part is not twin and callable(own := getattr(part, "reset_parameters", None)):
                    own()
            reset()
            twins[id(module)] = twin
    return {name: twins[id(module)] for name, module in modules.items()}


def _take(blank: nn.Module, given: object) -> None:
    """Fill the copy with the tensors of another network, every one of them."""
    state = unwrap(given).state_dict() if isinstance(given, nn.Module) else given
    if not isinstance(state, Mapping):
        raise DataError(f'Expected null to be "zero", "random", a network or a state dict, got {type(given).__name__}.')
    own = blank.state_dict()
    for name in state:
        if name not in own:
            raise ModelError(f"{_OTHER} its {name!r} is not in the network. {nearest(str(name), own)}")
    for name, tensor in own.items():
        if name not in state:
            raise ModelError(f"{_OTHER} it lacks {name!r}. {nearest(name, state)}")
        if isinstance(tensor, Tensor) and not isinstance(state[name], Tensor):
            raise ModelError(
                f"{_OTHER} {name!r} is of type {type(state[name]).__name__} there. Give a state dict as torch saves it."
            )
        if isinstance(tensor, Tensor) and tensor.shape != state[name].shape:
            raise ModelError(f"{_OTHER} {name!r} is {list(state[name].shape)} there and {list(tensor.shape)} here.")
    blank.load_state_dict(dict(state))


_OTHER = "Expected a null state of the same architecture, with every tensor of the network;"
