"""What a layer type has to say about itself, and who speaks for which module.

A `Layer` is a plain description: names, sizes and settings, no module and no tensor. It turns the module's input into
rows, its output into responses and its weight into matrices, such that for every matrix ``m``

    responses(output)[m] = rows(input)[m] @ matrix(weight)[m].T + biases(bias)[m]

Legend: M matrices (groups of a convolution, else 1), O outputs and D columns of each, lead: leading dims of the rows.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from operator import attrgetter
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lashley.errors import ModelError, StoreError, nearest
from lashley.moments import Accumulator, Counts, edges, product_dtype
from lashley.shifts import Shifts

__all__ = ["Gatherer", "Layer", "describe", "layer_type", "named_modules", "outermost", "places", "unusable", "unwrap"]

Gatherer = Accumulator | Shifts | Counts
Spoken = type[nn.Module] | str  # a module class, or its dotted name
_SPEAKERS: dict[str, type[Layer]] = {}  # dotted name of a module class -> the layer type that speaks for it


@dataclass(frozen=True)
class Layer(ABC):
    """One module, seen as ``z = W x + b``. Subclass it to teach lashley a new module type:

        @dataclass(frozen=True)
        class ScaledLinearLayer(Layer, speaks_for="my_package.ScaledLinear"):
            ...

    ``speaks_for`` is the module class or its dotted name (so that a library need not be imported to be supported), or
    several of them. Subclasses of that class count as it. Fields that a subclass adds hold numbers, texts and tuples of
    them: they are compared, hashed and saved with every recording.

    Attributes:
        name: the module's name in the model.
        type: the module's class name.
        out, dim: O and D of each matrix.
        matrices: M.
        bias: whether the module has a bias, of M times O numbers.
        shape: of the module's weight.
    """

    name: str
    type: str
    out: int
    dim: int
    matrices: int
    bias: bool
    shape: tuple[int, ...]

    samples_first: ClassVar[bool] = False
    """Whether the module itself takes the first dim of its input for samples, as convolutions do. To others all leading
    dims are alike, and a model may put positions first."""

    def __init_subclass__(cls, speaks_for: Spoken | tuple[Spoken, ...] = (), **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for spoken in speaks_for if isinstance(speaks_for, tuple) else (speaks_for,):
            _SPEAKERS[spoken if isinstance(spoken, str) else _dotted(spoken)] = cls

    by_default: ClassVar[bool] = True  # whether a recording takes such layers without being asked for them by name

    encloses: ClassVar[bool] = False
    """Whether the modules inside it are parts of this layer, and no layers of their own."""

    @classmethod
    @abstractmethod
    def of(cls, name: str, module: nn.Module) -> Layer:
        """The description of ``module``, or of the part of it that ``name`` ends in (see `parts`)."""

    @classmethod
    def parts(cls, module: nn.Module) -> tuple[str, ...]:
        """For a module that is several layers: what their names add to its own. None for a module that is one layer."""
        return ()

    @property
    def module_name(self) -> str:
        """The name of the module that is called, and that holds the weight."""
        return self.name

    @classmethod
    def where(cls, name: str, module: nn.Module, which: str) -> str:
        """The attribute in which the module keeps this layer's "weight" or "bias"; dotted where a submodule has it."""
        return which

    def tensor(self, module: nn.Module, which: str) -> Tensor | None:
        """This layer's "weight" or "bias": the module's parameter, or a view of the part of it that is this layer's."""
        found: Tensor | None = attrgetter(self.where(self.name, module, which))(module)
        return found

    def effective(self, module: nn.Module) -> Tensor | None:
        """The weight that the module computes with: its own, with whatever adapters add to it."""
        return self.tensor(module, "weight")

    @classmethod
    def obstacle(cls, module: nn.Module) -> str | None:
        """Why this module, though of the type's class, is none that the type can speak for; None if it is one."""
        return None

    def zero_bias(self, module: nn.Module) -> Tensor | None:
        """A bias of zeros for a module that could have one and does not; None where its forward knows of no bias."""
        path, _, attribute = self.where(self.name, module, "bias").rpartition(".")
        if attribute not in module.get_submodule(path)._parameters:
            return None
        weight = self.tensor(module, "weight")
        assert weight is not None
        return weight.detach().new_zeros(self.matrices * self.out)

    def in_state(self, state: Mapping[str, Tensor], which: str) -> tuple[str, Tensor | None]:
        """This layer's "weight" or "bias" in a state dict, and the key it was looked for under."""
        key = f"{self.module_name}.{which}" if self.module_name else which
        return key, state.get(key)

    def parameter(self, module: nn.Module, which: str) -> str:
        """The name in the model of the parameter behind `tensor`."""
        path = self.where(self.name, module, which)
        return f"{self.module_name}.{path}" if self.module_name else path

    def input_of(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
        """What this layer reads when the module is called so: the first argument."""
        return first_argument(module, args, kwargs)

    def output_of(self, output: object) -> Tensor | None:
        """What this layer put out, if the module's output shows it."""
        return output if isinstance(output, Tensor) else None

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

    def biases(self, bias: Tensor) -> Tensor:
        """The module's bias as ``[M, O]``; its inverse is ``reshape(-1)``."""
        return bias.reshape(self.matrices, self.out)

    def batched(self, x: Tensor) -> Tensor:
        """The input with samples along its first dim. A type whose module takes a lone sample adds that dim here."""
        return x

    def lead(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The leading dims of the rows that an input of this shape makes. The first runs over samples."""
        return tuple(self.rows(torch.empty(shape, device="meta")).shape[1:-1])

    def accumulator(self, dtype: torch.dtype | None = None) -> Gatherer:
        """Where the rows of one concept go. Types whose moments need no rows return `Shifts`, fed with `images`, or
        `Counts`, fed with indices.
        """
        return Accumulator(self.dim, self.matrices, dtype)

    def images(self, x: Tensor) -> Tensor:
        """The input as `Shifts` takes it."""
        return x

    @property
    def rows_key(self) -> tuple[Any, ...]:
        """What decides how an input becomes rows: layers that read one tensor with equal keys share one moment.

        By default the layer type, D, M and every field that the type adds.
        """
        added = [f.name for f in fields(self) if f.name not in _OWN_FIELDS]
        return (self.__class__, self.dim, self.matrices, *(getattr(self, name) for name in added))

    @property
    def moment_bytes(self) -> int:
        """Bytes of one concept's square moments at rest: block columns and row sums, of inputs in float32 or less."""
        blocks = sum((self.dim - start) * (stop - start) for start, stop in edges(self.dim))
        return self.matrices * (product_dtype(self.dim, torch.float32).itemsize * blocks + 8 * self.dim)

    def to_json(self) -> dict[str, Any]:
        return {"layer": self.__class__.__name__, **asdict(self)}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Layer:
        """The inverse of `to_json`.

        Raises:
            StoreError: of a type that is not registered, or whose fields were others when it was written.
        """
        known = {cls.__name__: cls for cls in _SPEAKERS.values()}
        name = values.get("layer")
        if name not in known:
            raise StoreError(
                f"Expected a known layer type, got {name!r}. {nearest(str(name), known)} "
                "If it is your own class, import its module before loading."
            )
        cls = known[name]
        wanted, came = {f.name for f in fields(cls)}, {key for key in values if key != "layer"}
        if wanted != came:
            raise StoreError(
                f"Expected a {name} with the fields {sorted(wanted)}, got {sorted(came)}: it was written by another "
                "version of that class. Use that version, or record again."
            )
        return cls(**{key: _frozen(values[key]) for key in wanted})


_OWN_FIELDS = {f.name for f in fields(Layer)}


def layer_type(module: nn.Module) -> type[Layer] | None:
    """Who speaks for this module: the nearest registered class among its own and its bases, or None."""
    for cls in type(module).__mro__:
        if (speaker := _SPEAKERS.get(_dotted(cls))) is not None:
            return speaker
    return None


def places(model: nn.Module) -> dict[str, nn.Module]:
    """Every name of every layer of a known type, in the model's order, and the module that holds its weight."""
    found: dict[str, nn.Module] = {}
    for name, module in outermost(model, remove_duplicate=False):
        speaker = layer_type(module)
        if speaker is None or name in found:  # a part of a module above it, which is called as a function there
            continue
        parts = speaker.parts(module)
        found |= {f"{name}.{part}" if name else part: module for part in parts} if parts else {name: module}
    return found


def outermost(model: nn.Module, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Module]]:
    """The model's modules as torch names them, without those inside a layer that encloses them."""
    enclosing: str | None = None
    for name, module in model.named_modules(remove_duplicate=remove_duplicate):  # right before all that is in it
        if enclosing is not None and name.startswith(enclosing):
            continue
        speaker = layer_type(module)
        enclosing = (f"{name}." if name else "") if speaker is not None and speaker.encloses else None
        yield name, module


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every name of every module, as torch has them, and of every layer, with the module that holds its weight."""
    return {**dict(model.named_modules(remove_duplicate=False)), **places(model)}


def describe(name: str, module: nn.Module) -> Layer:
    """The layer description of ``module``, under the name that `places` gives it.

    Raises:
        ModelError: no type speaks for it, or its weight cannot be recorded and edited; the message says why.
    """
    speaker = layer_type(module)
    if speaker is None:
        raise ModelError(
            f"Expected {name!r} to be of a known layer type, got {type(module).__name__}. "
            f"Known are {', '.join(sorted(k.rsplit('.', 1)[-1] for k in _SPEAKERS))}; "
            "subclass lashley.layers.Layer to add one."
        )
    if (reason := unusable(module, name)) is not None:
        raise ModelError(f"Layer {name!r} ({type(module).__name__}) cannot be recorded: {reason}")
    return speaker.of(name, module)


def unusable(module: nn.Module, name: str = "") -> str | None:
    """Why a layer of a known type cannot be recorded and edited, as sentences; None if it can."""
    speaker = layer_type(module)
    assert speaker is not None
    if (obstacle := speaker.obstacle(module)) is not None:
        return obstacle
    for which in ("weight", "bias"):
        path = speaker.where(name, module, which)
        holder, _, attribute = path.rpartition(".")
        owner = module.get_submodule(holder)
        if torch.nn.utils.parametrize.is_parametrized(owner, attribute):
            return (
                f"its {attribute} is parametrized, so an edit of it would be overwritten at the next forward pass. "
                f"Bake it in with torch.nn.utils.parametrize.remove_parametrizations(module, {attribute!r})."
            )
        parameter = getattr(owner, attribute, None)
        if which == "bias" and parameter is None:
            continue
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            return f"it is lazy and has no {attribute} yet. Run one batch through the model first."
        if not isinstance(parameter, nn.Parameter):
            return (
                f"expected a {attribute} that is a parameter, got {type(parameter).__name__}. If weight norm, spectral "
                "norm or pruning makes it anew at every pass, make that permanent (torch.nn.utils.remove_weight_norm, "
                "torch.nn.utils.prune.remove); else leave the layer out with exclude_modules."
            )
        if not parameter.dtype.is_floating_point or parameter.dtype.itemsize < 2:
            return (
                f"expected a {attribute} of floating point numbers of 16 bits or more, got {parameter.dtype}. "
                "Dequantise the model, or leave the layer out with exclude_modules."
            )
        if parameter.is_meta:
            return f"expected a {attribute} in memory, got one on the meta device. Load the checkpoint's weights first."
    return None


def first_argument(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
    """The first argument of a call, also when it is passed by keyword; where forward takes only ``**kwargs``, the first
    tensor among them.
    """
    if args:
        return args[0]
    first = next(iter(inspect.signature(module.forward).parameters), "")
    return kwargs[first] if first in kwargs else next((v for v in kwargs.values() if isinstance(v, Tensor)), None)


def unwrap(model: nn.Module) -> nn.Module:
    """The module a user wrote, inside torch.compile's and data-parallel wrappers (hooks do not fire in the former)."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"Expected a torch.nn.Module, got {type(model).__name__}.")
    while True:
        if isinstance(inner := model._modules.get("_orig_mod"), nn.Module):
            model = inner
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


def _dotted(cls: type) -> str:
    # torch.nn.modules.linear.Linear and a re-export are one class: the defining module names it.
    return f"{cls.__module__}.{cls.__qualname__}"


def _frozen(value: Any) -> Any:
    """JSON knows lists only; a layer holds tuples."""
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value
