"""Watching forward passes without leaving a trace: hooks that live in a `with` block, everything put back after, and
what the passes show: which layers read the same tensors, and when the last of them has been called.
"""

from __future__ import annotations

import random
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lashley.errors import RecordingError
from lashley.layers import Layer
from lashley.layers.base import first_argument

__all__ = ["Diverged", "EarlyStop", "Identities", "Readers", "Sharing", "StopForward", "aside", "at_rest", "tapped"]


class StopForward(BaseException):
    """Ends a forward pass whose rest is not needed. Not an Exception, so that a model's own handlers let it through."""


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, every module called as it was written; then everything as it was.

    Put back: the training flag of every submodule, the random state of torch (host and devices), Python and NumPy,
    and the switch of attention's fast path. The fast path and compiled parts would compute without calling the layers,
    so both are off. Inference mode is left, because its tensors do not say whether they were written to.
    """
    flags = [(module, module.training) for module in model.modules()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    numpy = sys.modules.get("numpy")
    random_state = random.getstate()
    numpy_state = numpy.random.get_state() if numpy is not None else None
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices), torch.inference_mode(False), torch.no_grad(), _as_written():
            torch.backends.mha.set_fastpath_enabled(False)
            for module, _ in flags:
                module.training = False  # not model.eval(): a train() of the model's own may merge or freeze weights
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        random.setstate(random_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)
        for module, flag in flags:
            module.training = flag


def _as_written() -> AbstractContextManager[object]:
    """Runs compiled modules and functions as plain Python: hooks do not fire in compiled code, whoever calls it."""
    some = "torch._dynamo" in sys.modules  # else nothing was compiled, and asking would import the compiler
    return torch.compiler.set_stance("force_eager") if some else nullcontext()


@contextmanager
def tapped(
    modules: Mapping[str, nn.Module],
    on_input: Callable[[str, Tensor], None],
    on_output: Callable[[str, Tensor], None] | None = None,
    *,
    layers: Mapping[str, Layer] | None = None,
) -> Iterator[None]:
    """Call ``on_input(name, tensor)`` before each call of a module, and ``on_output(name, tensor)`` after it.

    Hooks are registered on entering, so that a failure half-way leaves none behind.

    Args:
        layers: by the same names, who say what they read and put out when the module is called; without them that is
            the first argument and the output.
    """
    with ExitStack() as stack:
        for name, module in modules.items():
            layer = None if layers is None else layers[name]
            stack.callback(_before(name, module, layer, on_input))
            if on_output is not None:
                stack.callback(_after(name, module, layer, on_output))
        yield


def _before(
    name: str, module: nn.Module, layer: Layer | None, on_input: Callable[[str, Tensor], None]
) -> Callable[[], None]:
    def hook(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        x = first_argument(module, args, kwargs) if layer is None else layer.input_of(module, args, kwargs)
        if not isinstance(x, Tensor):
            raise RecordingError(
                f"Expected layer {name!r} to be called with a tensor, got {type(x).__name__}. "
                "Leave it out with exclude_modules."
            )
        on_input(name, x)

    return module.register_forward_pre_hook(hook, with_kwargs=True).remove


def _after(
    name: str, module: nn.Module, layer: Layer | None, on_output: Callable[[str, Tensor], None]
) -> Callable[[], None]:
    def hook(module: nn.Module, args: object, output: object) -> None:
        found = output if layer is None else layer.output_of(output)
        if isinstance(found, Tensor):
            on_output(name, found)

    return module.register_forward_hook(hook).remove


@contextmanager
def aside() -> Iterator[None]:
    """For work inside a forward pass that is no part of it: no `TorchFunctionMode` looks at it, which would take longer
    than the work itself, and tensors made here can be written to after the pass, whatever mode it runs in.
    """
    with torch._C.DisableTorchFunction(), torch.inference_mode(False), torch.no_grad():
        yield


class Identities:
    """Numbers for the tensors of one forward pass: the same number for the same live tensor in the same state.

    An address would not do, because freed storage is used again, nor would an object that was written to in between:
    a number stands for an object that is still alive and whose version counter has not moved.
    """

    def __init__(self) -> None:
        self._alive: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}
        self._count = 0

    def number(self, x: Tensor) -> int:
        """The number of this tensor as it is now. One made in inference mode has no version and is new each time."""
        version = -1 if x.is_inference() else x._version
        known = self._alive.get(id(x))
        if known is not None and known[0]() is x and known[1] == version != -1:
            return known[2]
        self._count += 1
        self._alive[id(x)] = (weakref.ref(x), version, self._count)
        return self._count


class Diverged(Exception):
    """Two layers that shared a site no longer read the same tensor."""

    def __init__(self, leader: str, follower: str) -> None:
        super().__init__(leader, follower)
        self.leader, self.follower = leader, follower


class Sharing:
    """Which layers make the same rows: found in the first pass, checked in every later one.

    Attributes:
        leader: for every layer that makes the same rows as an earlier one, that layer.
    """

    def __init__(self) -> None:
        self.leader: dict[str, str] = {}
        self._read: dict[str, list[int]] = {}
        self._facts: dict[str, list[object]] = {}

    def begin(self) -> None:
        """A new pass."""
        self._read = {}

    def saw(self, name: str, number: int) -> None:
        """The layer read the tensor with this number (`Identities`)."""
        self._read.setdefault(name, []).append(number)

    def note(self, name: str, fact: object) -> None:
        """Something else that decides which rows the layer makes, in the first pass."""
        self._facts.setdefault(name, []).append(fact)

    def find(self) -> None:
        """After the first pass: the first layer to read a tensor leads those that make the same rows of it."""
        leaders: dict[object, str] = {}
        for name, numbers in self._read.items():  # in the order they fired
            leader = leaders.setdefault((*numbers, "|", *self._facts[name]), name)
            if leader != name:
                self.leader[name] = leader

    def check(self) -> None:
        """After a later pass.

        Raises:
            Diverged: layers that were found to share read different tensors in this pass.
        """
        for follower, leader in self.leader.items():
            if self._read.get(follower) != self._read.get(leader):
                raise Diverged(leader, follower)


class EarlyStop:
    """Knows when a pass has called every layer, once two whole passes called each exactly once and in one order.

    Args:
        layers: how many there are.
        last: the layer that the model's class promises to call once and after all others, if it does: then every pass
            may end with it that called each other layer exactly once.
    """

    def __init__(self, layers: int, last: str | None = None) -> None:
        self._layers = layers
        self._last = last
        self._whole: list[list[str]] = []
        self._order: list[str] | None = None

    def learn(self, fired: list[str]) -> None:
        """The layers that a whole pass called, in order."""
        if len(self._whole) == 2:
            return
        self._whole.append(fired)
        one, two = self._whole[0], self._whole[-1]
        if len(self._whole) == 2 and one == two and len(set(one)) == len(one) == self._layers:
            self._order = one

    def reached(self, fired: list[str]) -> bool:
        if len(fired) != self._layers:
            return False
        return fired == self._order or (fired[-1] == self._last and len(set(fired)) == self._layers)


class Readers:
    """Who reads the outputs of some layers in one forward pass: some modules by name, and whatever else there is.

    Functions are watched too, because a shortcut that adds a layer's output to something reads it as well. Code that
    torch does not see, such as a scripted module, is not.

    Attributes:
        of: ``{layer: the modules that read its outputs}``, with "" for everything that is none of them.
        sources: ``{module: the layers whose outputs it reads}``, with "" for any other tensor.
    """

    def __init__(self, identities: Identities, modules: Mapping[str, nn.Module]) -> None:
        self.of: dict[str, set[str]] = {}
        self.sources: dict[str, set[str]] = {}
        self._identities = identities
        self._modules = modules
        self._writers: dict[int, str] = {}
        self._inside: list[str] = []  # the watched modules that are being called

    @contextmanager
    def watching(self) -> Iterator[None]:
        """For the length of the pass."""
        with tapped(self._modules, self._enter, self._leave), _Watched(self):
            yield

    def wrote(self, layer: str, output: Tensor) -> None:
        """The layer put this out."""
        self._writers[self._identities.number(output)] = layer
        self.of.setdefault(layer, set())

    def _enter(self, module: str, x: Tensor) -> None:
        writer = self._writers.get(self._identities.number(x), "")
        self.sources.setdefault(module, set()).add(writer)
        if writer:
            self.of[writer].add(module)
        self._inside.append(module)

    def _leave(self, module: str, output: Tensor) -> None:
        self._inside.remove(module)

    def among(self, arguments: object) -> set[str]:
        """The layers that put out one of these arguments, outside of the watched modules."""
        if self._inside:
            return set()
        numbers = (self._identities.number(tensor) for tensor in _tensors(arguments))
        return {self._writers[number] for number in numbers if number in self._writers}


class _Watched(TorchFunctionMode):
    """Tells who reads of every function of torch that makes tensors of its arguments."""

    def __init__(self, readers: Readers) -> None:
        super().__init__()
        self._readers = readers

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        read = self._readers.among((args, given))  # before it may write to them
        result = func(*args, **given)
        if read and next(_tensors(result), None) is not None:  # a shape or a dtype is no reading
            for layer in read:
                self._readers.of[layer].add("")
        return result


def _tensors(value: object) -> Iterator[Tensor]:
    """The tensors in a value, in tuples, lists and mappings too."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list | Mapping):
        inside: Iterable[object] = value.values() if isinstance(value, Mapping) else value
        for item in inside:
            yield from _tensors(item)
