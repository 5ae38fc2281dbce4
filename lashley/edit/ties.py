"""Weights with more than one name, and what an edit may do to them.

    skip    (default) the layer is left alone, and the receipt says so
    untie   the layer gets a copy of its own, which is edited; a config that promises the tie is corrected
    both    the shared tensor is edited, and everything that reads it changes with it
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from lashley.errors import EditError

__all__ = ["POLICIES", "check_policy", "untie"]

POLICIES = ("skip", "untie", "both")


def check_policy(tied: str) -> None:
    if tied not in POLICIES:
        raise EditError(f"Expected tied to be one of {', '.join(map(repr, POLICIES))}, got {tied!r}.")


def untie(model: nn.Module, modules: dict[str, nn.Module]) -> Callable[[], None]:
    """Give each of ``modules`` a weight of its own, and return the function that ties them again."""
    shared = {name: module.weight for name, module in modules.items()}
    config = getattr(model, "config", None)
    promised = getattr(config, "tie_word_embeddings", None)
    for module in modules.values():
        weight = module.weight
        assert isinstance(weight, nn.Parameter)
        module.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    if promised:
        config.tie_word_embeddings = False  # type: ignore[union-attr]

    def again() -> None:
        for name, module in modules.items():
            module.weight = shared[name]
        if promised:
            config.tie_word_embeddings = promised  # type: ignore[union-attr]

    return again
