"""Where the constant part of an edit goes when a layer has no bias: into a new one, or into BatchNorm's running mean.

A BatchNorm that alone reads ``z = W x`` takes its running mean off it: ``z + c`` or a running mean smaller by c is all
the same to it. In training mode neither makes a difference: batch statistics swallow any constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lashley.engram import Delta, Engram
from lashley.errors import EditError, SolveError
from lashley.estimators import Estimator, OffsetEstimator
from lashley.hooks import Identities, Readers
from lashley.layers import Layer, describe, places

__all__ = ["Fold", "FoldSearch", "add_biases", "norms_of", "offsets"]


class Fold(NamedTuple):
    """A place for the constant part of a layer's output, found while recording.

    Attributes:
        norm: a BatchNorm that reads the output.
        obstacle: why its running mean cannot take the constant; "" if it can.
    """

    norm: str
    obstacle: str = ""


_NOTHING = Fold("", "no BatchNorm reads its output")


class FoldSearch:
    """Finds the places for the constants of layers without a bias, in one forward pass of a model."""

    def __init__(self, model: nn.Module, layers: Mapping[str, Layer]) -> None:
        self._layers = {name: layer for name, layer in layers.items() if not layer.bias}
        self._norms = {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm)}
        self._readers: Readers | None = None
        self._by_channel: set[str] = set()  # layers whose outputs a BatchNorm takes for its channels

    @contextmanager
    def watching(self, identities: Identities) -> Iterator[None]:
        """For the length of the pass."""
        if not (self._layers and self._norms):
            yield
            return
        self._readers = Readers(identities, self._norms)
        with self._readers.watching():
            yield

    def wrote(self, name: str, output: Tensor) -> None:
        """The layer put this out."""
        if self._readers is not None and name in self._layers:
            if _by_channel(self._layers[name], output):
                self._by_channel.add(name)
            self._readers.wrote(name, output)

    def found(self) -> dict[str, Fold]:
        """For every layer that a BatchNorm reads: the place, or what is in the way."""
        readers = self._readers
        if readers is None:
            return {}
        norms = {name: sorted(of - {""}) for name, of in readers.of.items()}
        return {name: Fold(its[0], self._obstacle(name, *its)) for name, its in norms.items() if its}

    def _obstacle(self, name: str, norm: str, *more: str) -> str:
        assert self._readers is not None
        if more:
            return f"several read its output: {norm}, {', '.join(more)}"
        if "" in self._readers.of[name]:
            return f"{norm!r} reads its output, and so does something else"
        if self._readers.sources[norm] != {name}:
            return f"{norm!r} reads its output, and other tensors too"
        if self._norms[norm].running_mean is None:
            return f"{norm!r} reads its output and keeps no running statistics"
        if name not in self._by_channel:
            return f"{norm!r} reads its output along another dim than that of its channels"
        return ""


def _by_channel(layer: Layer, output: Tensor) -> bool:
    """Whether dim 1, along which a BatchNorm has its channels, runs over the layer's outputs in their order."""
    count = layer.matrices * layer.out
    if output.dim() < 2 or output.shape[1] != count:
        return False
    index = torch.arange(count, device=output.device)
    spread = index.reshape(-1, *[1] * (output.dim() - 2)).expand(output.shape)
    responses = layer.responses(spread)  # [M, *lead, O]
    return bool((responses == index.reshape(layer.matrices, *[1] * (responses.dim() - 2), layer.out)).all())


def offsets(
    estimator: Estimator, model: nn.Module, layers: Mapping[str, Layer], folds: Mapping[str, Fold], bias: bool
) -> dict[str, str]:
    """For the layers without a bias whose constant is folded: into which BatchNorm. Without an offset there are none.

    Args:
        folds: the places that were found while recording.
        bias: whether biases may be touched at all.

    Raises:
        SolveError: they may not, or a layer without a bias cannot do what ``estimator.missing_bias`` asks.
    """
    if not isinstance(estimator, OffsetEstimator):
        return {}
    kind, missing = type(estimator).__name__, estimator.missing_bias
    if not bias:
        raise SolveError(
            f"Expected bias=True with {kind}, got False: it moves every layer's output by a constant, which only a "
            "bias can take. Leave bias= out, or choose an estimator without an offset, such as Kodge."
        )
    bare = [name for name, layer in layers.items() if not layer.bias]
    others = [name for name in layers if name not in bare]
    leave = f"leave them out with layers={others}" if others else "choose another estimator"
    if bare and missing == "refuse":
        raise SolveError(
            f"Expected a bias in every layer, to take the constant by which {kind} moves its output; there is none in "
            f'{", ".join(map(repr, bare))}. Pass missing_bias="add" to give such layers a bias when the edit is made, '
            f'missing_bias="fold" to change the running mean of the BatchNorm that reads them, or {leave}.'
        )
    if missing == "add":
        modules = places(model)
        if stuck := [repr(n) for n in bare if n in modules and layers[n].zero_bias(modules[n]) is None]:
            raise SolveError(
                f"Expected layers that could have a bias, to add one for {kind}; the forward knows of none in "
                f'{", ".join(stuck)}. Pass missing_bias="fold" where BatchNorm follows, or {leave}.'
            )
        return {}
    places_of = {name: folds.get(name, _NOTHING) for name in bare}
    if problems := [f"of {name!r}, {fold.obstacle}" for name, fold in places_of.items() if fold.obstacle]:
        raise SolveError(
            "Expected a BatchNorm that alone reads the output of every layer without a bias, to fold the constant of "
            f'{kind} into its running mean; but {"; ".join(problems)}. Pass missing_bias="add", or {leave}.'
        )
    return {name: fold.norm for name, fold in places_of.items()}


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
    if not isinstance(norm, _BatchNorm) or mean is None or len(mean) != channels:
        got = "none" if norm is None else f"{type(norm).__name__} with {0 if mean is None else len(mean)}"
        raise EditError(
            f"Expected {delta.fold!r} to be a BatchNorm with running statistics of {channels} channels, for the "
            f"constant of layer {delta.layer.name!r}; got {got}. The engram is of another model."
        )
    return norm


def add_biases(undo: ExitStack, deltas: Mapping[str, Delta], modules: Mapping[str, nn.Module]) -> list[str]:
    """Give the layers that need a bias and have none one of zeros; ``undo`` takes it away. Returns their names."""
    bare = [name for name, d in deltas.items() if "bias" in d.touches and d.layer.tensor(modules[name], "bias") is None]
    for name in bare:
        layer, module = deltas[name].layer, modules[name]
        if layer.tensor(module, "bias") is not None:
            continue  # it shares one with a layer before it: the projections of an attention
        zeros, weight = layer.zero_bias(module), layer.tensor(module, "weight")
        assert zeros is not None and weight is not None  # norms_of() refuses a layer without a place for it
        path, _, attribute = layer.where(layer.name, module, "bias").rpartition(".")
        holder = module.get_submodule(path)
        undo.callback(setattr, holder, attribute, None)
        setattr(holder, attribute, nn.Parameter(zeros, requires_grad=weight.requires_grad))
    return bare
