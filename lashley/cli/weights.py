"""Files of weights: read as named tensors alone, and put into a model strictly."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lashley.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["EDITED", "WEIGHT_FILES", "fill", "first_line", "load_state"]

WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin")
EDITED = "model.safetensors"  # what a folder without config.json holds: the output of `lashley edit`
WRAPPERS = ("state_dict", "model_state_dict")  # keys under which training scripts keep the weights


def load_state(file: str) -> dict[str, Tensor]:
    """The named tensors in a ``.safetensors`` or ``.pt`` file, or in a folder that `lashley edit` wrote."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(file) / EDITED if Path(file).is_dir() else Path(file)
    if not path.is_file():
        raise ModelError(f"Expected a file of weights, got {path}, which does not exist.")
    if path.suffix not in WEIGHT_FILES:
        raise ModelError(f"Expected weights in a {' or '.join(WEIGHT_FILES)} file, got {path}.")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ModelError(
            f"{path} cannot be read as named tensors alone ({first_line(error)}). Save a state dict: "
            "safetensors.torch.save_file(model.state_dict(), path)."
        ) from error
    for key in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        found = ", ".join(map(str, list(state)[:5])) if isinstance(state, Mapping) else type(state).__name__
        raise ModelError(f"Expected named tensors in {path}, got {found or 'nothing'}. Save model.state_dict() alone.")
    return dict(state)


def fill(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load a state dict strictly, also where several names in the model share one tensor."""
    import torch

    from lashley.layers import unwrap

    inner = unwrap(model)
    own = {name: value for name, value in inner.state_dict().items() if isinstance(value, torch.Tensor)}
    state = dict(state)
    for names in _shared(own):
        given = [name for name in names if name in state]
        for other in given[1:]:
            if not torch.equal(state[given[0]], state[other]):
                raise ModelError(
                    f"In the model {given[0]!r} and {other!r} are one tensor, in {source} they differ: one would be "
                    "lost. Let the function build them apart (untied), or save weights that agree."
                )
        if given:
            state |= {name: state[given[0]] for name in names}
    for name, value in own.items():
        kept = value.dtype
        if name in state and value.is_floating_point() and torch.promote_types(state[name].dtype, kept) != kept:
            raise ModelError(
                f"{name!r} is {state[name].dtype} in {source} and {kept} in the model, which would lose digits. Let "
                "the function build the model in the type of the weights."
            )
    try:
        inner.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ModelError(f"The weights in {source} do not fit the model. {error}") from error


def _shared(state: Mapping[str, Tensor]) -> list[list[str]]:
    """Groups of names that share memory."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, value in state.items():
        if value.numel():
            groups.setdefault((value.device, value.data_ptr(), value.shape, value.stride()), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def first_line(error: BaseException) -> str:
    """The first line of a message that may have many."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
