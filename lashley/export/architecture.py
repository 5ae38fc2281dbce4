"""What transformers makes of a checkpoint folder: the names that the model gives to the tensors, and the shared ones.

The model is built from its config without memory for numbers. Code that a folder brings along is never run; of a model
that transformers does not know, the names are those in the files and nothing is known to be shared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lashley.errors import ModelError

__all__ = ["config_of", "model_names", "skeleton"]


def config_of(folder: Path) -> dict[str, Any]:
    """What ``config.json`` says.

    Raises:
        ModelError: there is none, or it is no JSON object.
    """
    file = folder / "config.json"
    if not file.is_file():
        what = "a folder without one" if folder.is_dir() else "no folder"
        if (folder / "adapter_config.json").is_file():
            what = "a LoRA adapter; give the folder of its base"
        raise ModelError(f"Expected a checkpoint folder with config.json, got {folder}, {what}.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"Expected {file} to be a JSON object: {error}.") from error
    if not isinstance(config, dict):
        raise ModelError(f"Expected {file} to be a JSON object, got {type(config).__name__}.")
    return config


def skeleton(folder: Path) -> nn.Module | None:
    """The model of a folder, on the meta device; None where transformers is not there or does not know it."""
    config = config_of(folder)
    try:
        import transformers
    except ImportError:
        return None
    name = next(iter(config.get("architectures") or ["AutoModel"]))
    cls = getattr(transformers, str(name), None)
    if not isinstance(cls, type):
        return None
    if name == "AutoModel":
        settings = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        build: Any = transformers.AutoModel.from_config
    elif issubclass(cls, transformers.PreTrainedModel):
        settings_class: Any = cls.config_class
        settings = settings_class.from_pretrained(folder, local_files_only=True)
        build = cls
    else:
        return None
    with torch.device("meta"):
        model: nn.Module = build(settings)
    return model


def model_names(model: nn.Module | None, stored: Iterable[str]) -> tuple[dict[str, str], set[str]]:
    """The names that a model gives to tensors of a checkpoint as it loads them.

    Returns:
        ``{model's name: name in the file}``, and the names of those that the model makes from stored ones in another
        way than by renaming (experts put together, halves exchanged). What they are made of keeps its name.
    """
    if model is None:
        return {name: name for name in stored}, set()
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    transforms = get_model_conversion_mapping(model)  # type: ignore[arg-type]
    known = set(model.state_dict())
    prefix = str(getattr(model, "base_model_prefix", ""))
    names: dict[str, str] = {}
    made: set[str] = set()
    for file_name in stored:
        name, converted = file_name, False
        for transform in transforms:
            if not isinstance(transform, WeightConverter):
                name, _ = transform.rename_source_key(name)
        for transform in transforms:
            if isinstance(transform, WeightConverter) and not converted:
                name, pattern = transform.rename_source_key(name)
                converted = pattern is not None
        name = _with_prefix(name, prefix, known)
        if converted:
            made.add(name)
        names[file_name if converted else name] = file_name
    return names, made


def _with_prefix(name: str, prefix: str, known: set[str]) -> str:
    """The name with or without the prefix of the base model, whichever the model knows."""
    for candidate in (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}"):
        if candidate in known:
            return candidate
    return name
