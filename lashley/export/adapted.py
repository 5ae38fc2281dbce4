"""A base with a LoRA adapter added, as a state dict whose tensors are made one by one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lashley.engram import widest
from lashley.errors import ModelError, nearest
from lashley.export.shards import Shard

__all__ = ["ADAPTER_CONFIG", "ADAPTER_WEIGHTS", "Adapted"]

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# What changes the meaning of an adapter's tensors, and how it must be for ours.
_PLAIN: dict[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "use_dora": False,
    "target_parameters": None,
}


class Adapted(Mapping[str, Tensor]):
    """``W + B A`` for the layers of the adapter, in float32 or wider; all else as it is in the base.

    Args:
        base: the state dict of the base, such as a `Source`.
        folder: of the adapter, in PEFT's format, at its default strength.

    Raises:
        ModelError: it is no LoRA adapter, of a kind that is more than ``W + B A``, or for another base.
    """

    def __init__(self, base: Mapping[str, Tensor], folder: str | os.PathLike[str]) -> None:
        self.base, self.folder = base, Path(folder)
        try:
            config: dict[str, Any] = json.loads((self.folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"Expected a LoRA adapter with {ADAPTER_CONFIG} in {folder}: {error}.") from error
        for key, plain in _PLAIN.items():
            if config.get(key) and config[key] != plain:
                raise ModelError(
                    f"Expected a LoRA adapter with {key} {plain!r} in {folder}, got {config[key]!r}. Load it with "
                    "peft, merge it, and compare the models."
                )
        rank = config["r"]
        self._scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
        self._transposed = bool(config.get("fan_in_fan_out"))
        self._shard = Shard(self.folder / ADAPTER_WEIGHTS)
        self._layers = {_layer(name) for name in self._shard.stored}
        self._changed = {f"{layer}.weight" for layer in self._layers}
        # lora_bias gives one to every layer; of zeros it is nothing that the base would have to have.
        biased = (layer for layer in self._layers if self._part(layer, "lora_B.bias"))
        self._changed |= {f"{layer}.bias" for layer in biased if self._tensor(layer, "lora_B.bias").any()}
        if strange := sorted(name for name in self._changed if name not in base):
            raise ModelError(
                f"Expected the base to have {strange[0]!r}, which the adapter in {folder} changes. "
                f"{nearest(strange[0], base)} The adapter is for another base."
            )

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.base[name]
        if name not in self._changed:
            return tensor
        layer, _, which = name.rpartition(".")
        tensor = tensor.to(max(tensor.dtype, widest(tensor.device), key=lambda dtype: dtype.itemsize))
        if which == "bias":
            return tensor + self._scale * self._tensor(layer, "lora_B.bias")
        return tensor + self._scale * self._product(layer, tensor)

    def __iter__(self) -> Iterator[str]:
        return iter(self.base)

    def __len__(self) -> int:
        return len(self.base)

    def _product(self, layer: str, weight: Tensor) -> Tensor:
        """``B A`` in the shape of the weight."""
        embedding = bool(self._part(layer, "lora_embedding_A"))
        names = ("lora_embedding_B", "lora_embedding_A") if embedding else ("lora_B.weight", "lora_A.weight")
        b, a = (self._tensor(layer, name).to(weight.dtype).flatten(1) for name in names)
        straight, crossed = (b.shape[0], a.shape[1]), (a.shape[1], b.shape[0])
        shape = (weight.shape[0], weight[0].numel())
        if embedding or (self._transposed and shape == crossed) or shape != straight:
            b, a = a.T, b.T
        if (b.shape[0], a.shape[1]) != shape:
            raise ModelError(
                f"Expected {layer!r} to be of the shape {list(straight)} of the adapter in {self.folder}, got "
                f"{list(shape)}. The adapter is for another base."
            )
        return (b @ a).reshape(weight.shape)

    def _part(self, layer: str, part: str) -> str | None:
        name = f"{_PREFIX}{layer}.{part}"
        return name if name in self._shard.stored else None

    def _tensor(self, layer: str, part: str) -> Tensor:
        return self._shard.tensor(f"{_PREFIX}{layer}.{part}")


def _layer(name: str) -> str:
    """The layer that a tensor of an adapter belongs to."""
    layer, found, _ = name.removeprefix(_PREFIX).rpartition(".lora_")
    if not found or not name.startswith(_PREFIX):
        raise ModelError(f"Expected tensors of a LoRA adapter, named {_PREFIX}LAYER.lora_A.weight, got {name!r}.")
    return layer
