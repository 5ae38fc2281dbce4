"""What a layer type has to say about itself, and who speaks for which module.

A `Layer` is a plain description: names, sizes and settings, no module and no tensor. It turns the module's input into
rows, its output into responses and its weight into matrices, such that for every matrix ``m``

    responses(output)[m] = rows(input)[m] @ matrix(weight)[m].T + bias[m]

Legend: M matrices (groups of a convolution, else 1), O outputs and D columns of each, lead: leading dims of the rows.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lashley.errors import ModelError, StoreError, nearest

__all__ = ["Layer", "describe", "layer_type", "unwrap"]


@dataclass(frozen=True)
class Layer(ABC):
    """One module, seen as ``z = W x + b``. Subclass it to teach lashley a new module type:

        @dataclass(frozen=True)
        class ScaledLinearLayer(Layer, speaks_for="my_package.ScaledLinear"):
            ...

    ``speaks_for`` is the module class or its dotted name (so that a library need not be imported to be supported).
    Subclasses of that class count as it.

    Attributes:
        name: the module's name in the model.
        type: the module's class name.
        out, dim: O and D of each matrix.
        matrices: M.
        bias: whether the module has a bias.
        shape: of the module's weight.
    """

    name: str
    type: str
    out: int
    dim: int
    matrices: int
    bias: bool
    shape: tuple[int, ...]

    _speakers: ClassVar[dict[str, type[Layer]]] = {}

    def __init_subclass__(cls, speaks_for: type[nn.Module] | str | tuple[type[nn.Module] | str, ...] = (), **kw: Any):
        super().__init_subclass__(**kw)
        for spoken in speaks_for if isinstance(speaks_for, tuple) else (speaks_for,):
            Layer._speakers[spoken if isinstance(spoken, str) else _dotted(spoken)] = cls

    @classmethod
    @abstractmethod
    def of(cls, name: str, module: nn.Module) -> Layer:
        """The description of ``module``."""

    @abstractmethod
    def rows(self, x: Tensor) -> Tensor:
        """The rows that an input makes: ``[M, *lead, D]``. A view where possible."""

    @abstractmethod
    def responses(self, output: Tensor) -> Tensor:
        """The module's output in the order of the rows: ``[M, *lead, O]``."""

    @abstractmethod
    def matrix(self, weight: Tensor) -> Tensor:
        """The module's weight as matrices: ``[M, O, D]``."""

    @abstractmethod
    def weight(self, matrix: Tensor) -> Tensor:
        """The inverse of `matrix`: ``[M, O, D]`` back in the module's own shape."""

    @property
    def rows_key(self) -> tuple[Any, ...]:
        """Two layers that read the same tensor and have equal keys make the same rows, and share one moment."""
        return (type(self).__name__, self.dim, self.matrices)

    def biases(self, bias: Tensor) -> Tensor:
        """The module's bias as ``[M, O]``; its inverse is ``reshape(-1)``."""
        return bias.reshape(self.matrices, self.out)

    def lead(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The leading dims of the rows that an input of this shape makes."""
        return tuple(self.rows(torch.empty(shape, device="meta")).shape[1:-1])

    @property
    def moment_bytes(self) -> int:
        """Bytes of one concept's square moments at rest: packed float64 triangles and row sums."""
        return self.matrices * 8 * (self.dim * (self.dim + 1) // 2 + self.dim)

    def to_json(self) -> dict[str, Any]:
        return {"layer": type(self).__name__, **asdict(self)}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Layer:
        known = {cls.__name__: cls for cls in Layer._speakers.values()}
        name = values["layer"]
        if name not in known:
            raise StoreError(
                f"Expected a known layer type, got {name!r}. {nearest(name, known)} "
                "If it is your own class, import its module before loading."
            )
        cls = known[name]
        frozen = {f.name: _freeze(values[f.name]) for f in fields(cls)}
        return cls(**frozen)


def layer_type(module: nn.Module) -> type[Layer] | None:
    """Who speaks for this module: the nearest registered class among its own and its bases, or None."""
    for cls in type(module).__mro__:
        if (speaker := Layer._speakers.get(_dotted(cls))) is not None:
            return speaker
    return None


def describe(name: str, module: nn.Module) -> Layer:
    """The layer description of ``module``.

    Raises:
        ModelError: no type speaks for it, or its weight cannot be recorded and edited; the message says why.
    """
    speaker = layer_type(module)
    if speaker is None:
        raise ModelError(
            f"Expected {name!r} to be of a known layer type, got {type(module).__name__}. "
            f"Known are {', '.join(sorted(k.rsplit('.', 1)[-1] for k in Layer._speakers))}; "
            "subclass lashley.layers.Layer to add one."
        )
    if (reason := unusable(module)) is not None:
        raise ModelError(f"Layer {name!r} ({type(module).__name__}) cannot be recorded: {reason}")
    return speaker.of(name, module)


def unusable(module: nn.Module) -> str | None:
    """Why the weight of a module of a known type cannot be recorded and edited; None if it can."""
    if torch.nn.utils.parametrize.is_parametrized(module, "weight"):
        return (
            "its weight is parametrized, so an edit of it would be overwritten at the next forward pass. Bake it in with "
            "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')."
        )
    weight = getattr(module, "weight", None)
    if isinstance(weight, nn.parameter.UninitializedParameter):
        return "it is lazy and has no weight yet. Run one batch through the model first."
    if not isinstance(weight, nn.Parameter):
        return (
            f"expected a weight that is a parameter, got {type(weight).__name__}. Remove the weight norm, or exclude "
            "the layer with exclude_modules."
        )
    if not weight.dtype.is_floating_point or weight.dtype.itemsize < 2:
        return (
            f"expected floating point weights of 16 bits or more, got {weight.dtype}. Dequantise the model, or exclude "
            "the layer with exclude_modules."
        )
    if weight.is_meta:
        return "expected weights in memory, got a tensor on the meta device. Load the checkpoint's weights first."
    return None


def unwrap(model: nn.Module) -> nn.Module:
    """The module a user wrote, inside torch.compile's and data-parallel wrappers (hooks do not fire on the former)."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"Expected a torch.nn.Module, got {type(model).__name__}.")
    while True:
        if isinstance(inner := model.__dict__.get("_modules", {}).get("_orig_mod"), nn.Module):
            model = inner
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


def _dotted(cls: type) -> str:
    # torch.nn.modules.linear.Linear and a re-export are one class: the defining module names it.
    return f"{cls.__module__}.{cls.__qualname__}"


def _freeze(value: Any) -> Any:
    return tuple(_freeze(v) for v in value) if isinstance(value, list) else value


def window(size: int, kernel: int, stride: int, dilation: int) -> int:
    """How many positions a kernel takes along an axis."""
    return math.floor((size - dilation * (kernel - 1) - 1) / stride) + 1
