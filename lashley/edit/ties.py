"""Weights with more than one name, and what an edit may do to them.

skip    (default) the layer is left alone, and the receipt says so
untie   the layer gets a copy of its own, which is edited; a config that promises the tie is corrected
both    the shared tensor is edited, and everything that reads it changes with it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from torch import nn

from lashley.engram import Engram
from lashley.errors import EditError
from lashley.select import tied_parameters

__all__ = ["POLICIES", "check_policy", "sharers", "untie"]

POLICIES = ("skip", "untie", "both")
_PROMISE = "tie_word_embeddings"


def check_policy(tied: str) -> None:
    """Refuse what is not one of `POLICIES`."""
    if tied not in POLICIES:
        raise EditError(f"Expected tied to be one of {', '.join(map(repr, POLICIES))}, got {tied!r}.")


def sharers(model: nn.Module, engram: Engram) -> dict[str, tuple[str, ...]]:
    """For every layer of the engram whose edit would change something else too: the other names of its tensors."""
    ties = tied_parameters(model)
    found = {}
    for name, delta in engram.items():
        touched = ("weight", "bias") if delta.bias is not None else ("weight",)
        if others := [other for attribute in touched for other in ties.get(f"{name}.{attribute}", ())]:
            found[name] = tuple(others)
    return found


def untie(undo: ExitStack, model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Give each of ``modules`` a weight and a bias of its own where it shares them; ``undo`` ties them again.

    The bias too, also when it is not edited: a checkpoint whose config promises no tie must hold every tensor.
    """
    ties = tied_parameters(model)
    for name, module in modules.items():
        for attribute in ("weight", "bias"):
            if f"{name}.{attribute}" not in ties:
                continue
            shared = getattr(module, attribute)
            own = nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad)
            undo.callback(setattr, module, attribute, shared)
            setattr(module, attribute, own)
    for config in _promising(model, modules):
        undo.callback(setattr, config, _PROMISE, getattr(config, _PROMISE))
        setattr(config, _PROMISE, False)


def _promising(model: nn.Module, untied: Mapping[str, nn.Module]) -> Iterator[Any]:
    """Configs that say that the output embeddings are tied, where those are among the untied modules.

    Reloading a checkpoint would otherwise tie them again and drop the edit. The config of an encoder-decoder is left as
    it is: some read it in their forward pass, and an edit must not change that.
    """
    heads = {id(module) for module in untied.values()}
    for module in model.modules():
        config = getattr(module, "config", None)
        if not getattr(config, _PROMISE, False) or getattr(config, "is_encoder_decoder", False):
            continue
        head: Callable[[], object] | None = getattr(module, "get_output_embeddings", None)
        if head is not None and id(head()) in heads:
            yield config
