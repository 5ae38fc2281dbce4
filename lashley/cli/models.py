"""What a command line calls a model: ``module:function`` or a checkpoint folder.

No code comes along with data here: files of weights are safetensors or are loaded as tensors alone, and a checkpoint
that brings its own classes is refused.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lashley.cli.weights import EDITED, WEIGHT_FILES, fill, first_line, load_state
from lashley.errors import LashleyWarning, ModelError, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "MODEL_HELP",
    "add_selection",
    "add_weights",
    "is_adapter",
    "is_checkpoint",
    "load_model",
    "load_side",
    "moved",
    "selection",
    "without_bars",
]

MODEL_HELP = "MODULE:FUNCTION, called without arguments, or a checkpoint folder"
REGULAR = set("*+?()[]{}|^$\\")  # what makes a single --target-modules a regular expression


def add_weights(parser: argparse.ArgumentParser) -> None:
    """``--weights``, beside a model."""
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="weights for MODULE:FUNCTION: .safetensors, .pt (loaded as tensors alone), or a folder of lashley edit; "
        "every name must fit",
    )


def add_selection(parser: argparse.ArgumentParser) -> None:
    """PEFT's four options."""
    group = parser.add_argument_group("which layers (PEFT's names and meaning; default: every layer of a known type)")
    group.add_argument(
        "--target-modules",
        nargs="+",
        metavar="NAME",
        help="names, or the ends of names; a single value with any of *+?()[]{}|^$\\ is a regular expression for the "
        "full name; all-linear: every linear layer but the head",
    )
    group.add_argument("--exclude-modules", nargs="+", metavar="NAME", help="the same, for layers to leave out")
    group.add_argument("--layers-to-transform", nargs="+", type=int, metavar="INDEX", help="blocks of a layer list")
    group.add_argument("--layers-pattern", nargs="+", metavar="NAME", help="the name of that list, such as layers")


def selection(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `lashley.record` and `lashley.select.survey`."""
    return {
        "target_modules": patterns(args.target_modules),
        "exclude_modules": patterns(args.exclude_modules),
        "layers_to_transform": args.layers_to_transform,
        "layers_pattern": args.layers_pattern,
    }


def is_checkpoint(spec: str) -> bool:
    """Whether this is a folder in the layout of transformers."""
    return (Path(spec) / "config.json").is_file()


def is_adapter(spec: str) -> bool:
    """Whether this is a folder with a LoRA adapter in the layout of PEFT."""
    return (Path(spec) / "adapter_config.json").is_file()


def load_model(spec: str, weights: str | None = None) -> nn.Module:
    """The model that ``spec`` names, with ``weights`` in it.

    Raises:
        ModelError: no such module, function or folder; something else comes back; weights that do not fit.
    """
    if Path(spec).is_dir():
        if not is_checkpoint(spec):
            raise ModelError(
                f"Expected a checkpoint folder with config.json, got {spec} without one. Weights alone are given "
                "beside the function that builds the network: MODULE:FUNCTION --weights FILE."
            )
        if weights is not None:
            raise ModelError(f"A checkpoint folder has its own weights: leave out --weights, or edit a copy of {spec}.")
        return _from_checkpoint(Path(spec))
    if ":" not in spec:
        raise ModelError(f"Expected MODULE:FUNCTION or a checkpoint folder, got {spec!r}, which is neither.")
    model = _from_function(spec)
    if weights is not None:
        fill(model, load_state(weights), weights)
    return model


def load_side(spec: str) -> nn.Module | dict[str, Tensor]:
    """A model, or the state dict in a file of weights or in a folder of `lashley edit`."""
    path = Path(spec)
    if path.suffix in WEIGHT_FILES or (path.is_dir() and not is_checkpoint(spec) and (path / EDITED).is_file()):
        return load_state(spec)
    return load_model(spec)


def moved(model: nn.Module, device: str) -> nn.Module:
    """The model on a device."""
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without the device
        raise ModelError(f"Expected a device that torch can use here, got {device!r}: {first_line(error)}") from error


@contextmanager
def without_bars() -> Iterator[None]:
    """transformers without its progress bars, which also write into pipes."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def patterns(values: list[str] | None) -> list[str] | str | None:
    """What the patterns of a command line mean to the library: one value may be a regular expression."""
    if values is not None and len(values) == 1 and (values[0] == "all-linear" or REGULAR & set(values[0])):
        return values[0]
    return values


def _from_function(spec: str) -> nn.Module:
    from torch import nn

    name, _, attribute = spec.partition(":")
    if not name or not attribute:
        raise ModelError(f"Expected MODULE:FUNCTION, got {spec!r}.")
    found: Any = _imported(name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [n for n in vars(found) if not n.startswith("_")]
            raise ModelError(f"Module {name!r} has no {attribute!r}. {nearest(part, public)}")
        found = getattr(found, part)
    if isinstance(found, nn.Module):  # callable, but calling it would run its forward
        return found
    if not callable(found):
        raise ModelError(f"Expected {spec} to be a function that returns a model, got {type(found).__name__}.")
    try:
        model = found()
    except Exception as error:
        raise ModelError(
            f"Calling {spec} without arguments raised {type(error).__name__}: {error} ({_place(error)})."
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"Expected {spec}() to return a torch.nn.Module, got {type(model).__name__}.")
    return model


def _imported(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # stays: the model's code may import its neighbours only when it runs
    try:
        return importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            neighbours = sorted(path.stem for path in Path.cwd().glob("*.py"))
            raise ModelError(
                f"No module is called {error.name!r}, neither here ({here}) nor among the installed packages. "
                f"{nearest(name, neighbours)}"
            ) from error
        raise ModelError(f"Importing {name!r} raised {type(error).__name__}: {error} ({_place(error)}).") from error


def _from_checkpoint(folder: Path) -> nn.Module:
    try:
        import transformers
    except ImportError as error:
        raise ModelError(
            f"{folder} is a checkpoint folder, which takes transformers ({error}): pip install 'lashley[hf]'."
        ) from error
    from safetensors import SafetensorError

    cls = _architecture(folder, transformers)
    try:
        with without_bars():
            model, report = cls.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype="auto", output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"transformers could not load {folder} as {cls.__name__}: {first_line(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{folder} lacks {len(missing)} weights of {cls.__name__}, such as {missing[0]}: they would be random. "
            "Correct 'architectures' in its config.json, or complete the checkpoint."
        )
    if unused := sorted(report["unexpected_keys"]):
        warnings.warn(
            f"{cls.__name__} has no place for {len(unused)} tensors of {folder}, such as {unused[0]}; a model saved "
            "from it will not have them.",
            LashleyWarning,
            stacklevel=2,
        )
    loaded: nn.Module = model
    return loaded


def _architecture(folder: Path, transformers: ModuleType) -> Any:
    """The class that config.json names. Code inside the folder is never run."""
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        architectures = config.get("architectures") or ["AutoModel"]
        name = str(architectures[0])
    except (ValueError, AttributeError) as error:
        raise ModelError(f"Expected {file} to be a JSON object: {error}.") from error
    cls = getattr(transformers, name, None)
    if isinstance(cls, type) and (name == "AutoModel" or issubclass(cls, transformers.PreTrainedModel)):
        return cls
    if "auto_map" in config:
        raise ModelError(
            f"{folder} brings its own code for {name}, which lashley does not run. If you trust it, load it in a "
            "function of yours and give MODULE:FUNCTION."
        )
    raise ModelError(
        f"transformers {transformers.__version__} has no model class {name!r}, which {file} asks for. Upgrade "
        "transformers, or load it in a function of yours and give MODULE:FUNCTION."
    )


def _place(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}:{last.lineno}"
