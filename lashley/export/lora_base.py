"""The model that a LoRA adapter is for: its name, its ties, and whether the engram fits it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from lashley.edit.ties import sharers
from lashley.engram import Engram
from lashley.errors import EditError, nearest
from lashley.export.architecture import config_of, skeleton
from lashley.export.source import Source, recognised
from lashley.layers import layer_type, places, unwrap

__all__ = ["Base"]

_TASKS = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
}


class Base:
    """What is known of the model that an adapter is for.

    Attributes:
        name: by which PEFT finds it.
        task: PEFT's word for what it is for, where that changes nothing but the methods it has.
        shared: for every layer whose tensors have other names too, those.
        matches: whether it has the weights the engram was solved for; None where that is not known.
    """

    def __init__(self, base: str | os.PathLike[str] | nn.Module | None, name: str | None, engram: Engram) -> None:
        self.name = name
        self.task: str | None = None
        self.shared: Mapping[str, tuple[str, ...]] = {}
        self.matches: bool | None = None
        if isinstance(base, nn.Module):
            model: nn.Module | None = unwrap(base)
            self.name = name or getattr(model, "name_or_path", None) or None
            state: Mapping[str, Tensor] | None = unwrap(base).state_dict()
        elif base is not None and Path(base).is_dir():
            self.name = name or os.fspath(base)
            model, state = skeleton(Path(base)), None
            if config_of(Path(base)).get("quantization_config") is None:
                state = Source(base)
        else:
            self.name = name or (None if base is None else os.fspath(base))
            return
        if model is not None:
            _check_base(model, engram)
            self.shared = sharers(model, engram)
            self.task = next((task for end, task in _TASKS.items() if type(model).__name__.endswith(end)), None)
        if state is not None and all(delta.base for delta in engram.values()):
            weights = ((delta.layer.in_state(state, "weight")[1], delta.base) for delta in engram.values())
            self.matches = all(weight is not None and recognised(weight, base) for weight, base in weights)


def _check_base(model: nn.Module, engram: Engram) -> None:
    modules = places(model)
    for name, delta in engram.items():
        if name not in modules:
            raise EditError(f"Expected the base to have layer {name!r} of the engram. {nearest(name, modules)}")
        weight = delta.layer.tensor(modules[name], "weight")
        if layer_type(modules[name]) is not type(delta.layer) or weight is None or weight.shape != delta.layer.shape:
            got = "none" if weight is None else list(weight.shape)
            raise EditError(
                f"Expected layer {name!r} to be {delta.layer.type} {list(delta.layer.shape)} as in the engram, got "
                f"{type(modules[name]).__name__} {got}. The engram is of another model."
            )
