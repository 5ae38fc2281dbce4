"""What a recording knows of its model before the first batch: where the layers are, and how the model is called."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lashley.data.batches import call, moved
from lashley.data.masks import Part
from lashley.hooks import Identities
from lashley.layers import Layer, places, unwrap
from lashley.provenance import fingerprint

__all__ = ["Encoder", "Subject"]


class Subject:
    """A model that is recorded.

    Args:
        given: the model in the wrappers that it came in.
        layers: that are recorded.

    Attributes:
        model: the one inside the wrappers.
        modules: of the layers, by their names.
        weights: their parameters.
        last: the layer that is called once and after all others, where the model's class promises one.
    """

    def __init__(self, given: nn.Module, layers: Mapping[str, Layer]) -> None:
        self.given, self.model, self.layers = given, unwrap(given), dict(layers)
        found = places(self.model)
        self.modules = {name: found[name] for name in self.layers}
        self.weights = {name: self._weight(name) for name in self.layers}
        self.last = _head(self.model, self.modules)
        self._device = _single_device(self.model)
        self._keywords = _extra_keywords(self.model)

    def call(self, batch: Any) -> object:
        """The default forward, where the model is and without work that a recording has no use for."""
        if self._device is not None:
            batch = moved(batch, self._device)
        return call(self.model, {**self._keywords, **batch} if isinstance(batch, Mapping) else batch)

    def fingerprints(self) -> dict[str, str]:
        """Of the layers' weights, by which an engram's model is compared with the recorded one."""
        return {name: fingerprint(weight) for name, weight in self.weights.items()}

    def _weight(self, name: str) -> Tensor:
        weight = self.layers[name].effective(self.modules[name])
        assert weight is not None  # `select` let it through
        return weight.detach()


class Encoder:
    """Tells the encoder's rows from the decoder's, in the encoder-decoder models of transformers.

    Cross-attention reads the encoder's output from inside the decoder, so names alone would not do.
    """

    def __init__(self, subject: Subject) -> None:
        has_parts = getattr(getattr(subject.model, "config", None), "is_encoder_decoder", False)
        find = getattr(subject.model, "get_encoder", None)
        found = find() if has_parts and callable(find) else None
        self._module = found if isinstance(found, nn.Module) else None
        inside = {id(m) for m in self._module.modules()} if self._module is not None else set()
        self._layers = {name for name, module in subject.modules.items() if id(module) in inside}
        self._outputs: set[int] = set()

    @contextmanager
    def watched(self, identities: Identities) -> Iterator[None]:
        """For one pass: keep the numbers of the tensors that the encoder puts out."""
        self._outputs = set()
        if self._module is None:
            yield
            return

        def keep(_: nn.Module, args: object, output: Any) -> None:
            values = output.values() if isinstance(output, Mapping) else output
            values = [values] if isinstance(values, Tensor) else values
            self._outputs |= {identities.number(t) for t in values if isinstance(t, Tensor)}

        handle = self._module.register_forward_hook(keep)
        try:
            yield
        finally:
            handle.remove()

    def part(self, layer: str, number: int) -> Part:
        """Where the tensor with this number, which the layer reads, comes from."""
        if self._module is None:
            return "whole"
        return "encoder" if layer in self._layers or number in self._outputs else "decoder"


def _single_device(model: nn.Module) -> torch.device | None:
    devices = {p.device for p in model.parameters()}
    return devices.pop() if len(devices) == 1 else None


def _head(model: nn.Module, modules: Mapping[str, nn.Module]) -> str | None:
    """The head of a causal language model of transformers, which its class calls once and last; None of others."""
    embeddings: Any = getattr(model, "get_output_embeddings", None)
    if embeddings is None or not type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")):
        return None
    head = embeddings()
    return next((name for name, module in modules.items() if module is head and type(head) is nn.Linear), None)


def _extra_keywords(model: nn.Module) -> dict[str, Any]:
    """Keywords that spare work a recording has no use for."""
    takes = inspect.signature(model.forward).parameters
    return {"use_cache": False} if "use_cache" in takes else {}
