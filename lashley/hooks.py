"""Looking at a model without leaving a trace: hooks that live in a `with` block, and everything put back after."""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from lashley.errors import RecordingError

__all__ = ["StopForward", "at_rest", "tapped"]


class StopForward(BaseException):
    """Ends a forward pass whose rest is not needed. Not an Exception, so that a model's own handlers let it through."""


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, attention's fast path off; then everything as it was.

    Put back: the training flag of every submodule, the random state of torch (host and devices), Python and NumPy,
    and the fast path's switch. The fast path is switched off because it computes without calling the layers.
    """
    flags = [(module, module.training) for module in model.modules()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    numpy = sys.modules.get("numpy")
    random_state = random.getstate()
    numpy_state = numpy.random.get_state() if numpy is not None else None
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.backends.mha.set_fastpath_enabled(False)
            model.eval()
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        random.setstate(random_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)
        for module, flag in flags:
            module.training = flag


@contextmanager
def tapped(
    modules: Mapping[str, nn.Module],
    on_input: Callable[[str, Tensor], None],
    on_output: Callable[[str, Tensor], None] | None = None,
) -> Iterator[None]:
    """Call ``on_input(name, tensor)`` before each call of a module, and ``on_output`` after it.

    The input is the first argument, also when it is passed by keyword. Hooks are registered on entering, so that a
    failure half-way leaves none behind.
    """
    with ExitStack() as stack:
        for name, module in modules.items():
            first = next(iter(inspect.signature(module.forward).parameters), "input")

            def before(
                _: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], name: str = name, first: str = first
            ) -> None:
                x = args[0] if args else kwargs.get(first)
                if not isinstance(x, Tensor):
                    raise RecordingError(
                        f"Expected layer {name!r} to be called with a tensor, got {type(x).__name__}. "
                        "Leave it out with exclude_modules."
                    )
                on_input(name, x)

            handle = module.register_forward_pre_hook(before, with_kwargs=True)
            stack.callback(handle.remove)
            if on_output is not None:

                def after(_: nn.Module, args: object, output: object, name: str = name) -> None:
                    if isinstance(output, Tensor):
                        on_output(name, output)

                stack.callback(module.register_forward_hook(after).remove)
        yield
