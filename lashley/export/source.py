"""A checkpoint folder as a state dict, of which only headers are read until a tensor is asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lashley.errors import ModelError, SelectionError, nearest
from lashley.export.architecture import config_of, model_names, skeleton
from lashley.export.shards import Shard
from lashley.provenance import fingerprint
from lashley.select import tied_parameters

__all__ = ["INDEX", "SINGLE", "Source", "recognised"]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_WIDTHS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)  # that a model may have been loaded in
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


class Source(Mapping[str, Tensor]):
    """The tensors of a checkpoint folder under the names that the model gives them, read one by one.

    Attributes:
        folder: the checkpoint.
        config: what its ``config.json`` says.
        model: its architecture without numbers (`lashley.export.architecture.skeleton`).
        shards: its files in their order, by name.
        file_names: for every name, the tensor's name in the files; tied names lead to the one that is there.
        shard_of: for every name in the files, its shard.
        direct: the names that the files hold a tensor for.
        made: names of the model that are no tensor of the files but made of several.
        ties: for every name that shares its tensor, the other names of it.

    Raises:
        ModelError: no config, no weights in safetensors, a shard missing or cut off.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.config = config_of(self.folder)
        self.shards = {name: Shard(self.folder / name) for name in _files(self.folder)}
        self.shard_of = {name: shard for shard in self.shards.values() for name in shard.stored}
        if (self.folder / INDEX).is_file():
            _check_index(self.folder, self.shards)
        self.model: nn.Module | None = skeleton(self.folder)
        self.file_names, self.made = model_names(self.model, self.shard_of)
        self.direct = frozenset(self.file_names)
        self.ties = self._ties()
        for name, others in self.ties.items():
            if name not in self.direct:
                self.file_names[name] = next(self.file_names[other] for other in others if other in self.direct)

    def __getitem__(self, name: str) -> Tensor:
        try:
            file_name = self.file_names[name]
        except KeyError:
            raise SelectionError(
                f"Expected a tensor of {self.folder}, got {name!r}. {nearest(str(name), self.file_names)}"
            ) from None
        return self.shard_of[file_name].tensor(file_name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.file_names)

    def __len__(self) -> int:
        return len(self.file_names)

    def __contains__(self, name: object) -> bool:
        return name in self.file_names

    def empty(self) -> dict[str, Tensor]:
        """The state dict without numbers."""
        return {name: self.shard_of[file].stored[file].empty() for name, file in self.file_names.items()}

    def _ties(self) -> dict[str, tuple[str, ...]]:
        """What the model shares. Names that the files hold different tensors for are loaded apart."""
        groups: list[list[str]] = []
        seen: set[str] = set()
        for name, others in ({} if self.model is None else tied_parameters(self.model)).items():
            if name in seen:
                continue
            seen |= {name, *others}
            apart: list[list[str]] = []
            for one in (name, *others):
                if one in self.direct:
                    same = next((group for group in apart if self._same(group[0], one)), None)
                    apart.append([one]) if same is None else same.append(one)
            if apart:
                apart[0] += [one for one in (name, *others) if one not in self.direct]
            groups += apart
        return {name: tuple(n for n in group if n != name) for group in groups for name in group if len(group) > 1}

    def _same(self, one: str, other: str) -> bool:
        a, b = (self.shard_of[self.file_names[name]] for name in (one, other))
        return a.read(self.file_names[one]) == b.read(self.file_names[other])


def recognised(tensor: Tensor, base: str) -> bool:
    """Whether this is the weight with that fingerprint, in the type it is stored in or may have been loaded in."""
    if fingerprint(tensor) == base:
        return True
    return any(fingerprint(tensor, dtype) == base for dtype in _WIDTHS if dtype != tensor.dtype)


def _files(folder: Path) -> list[str]:
    """The names of the files of weights."""
    index = folder / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(f"Expected {index} to say which tensor is in which file: {error!r}.") from error
        if strange := [name for name in names if Path(name).name != name]:
            raise ModelError(f"Expected {index} to name files beside it, got {strange[0]!r}.")
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise ModelError(
                f"Expected {len(names)} files of weights in {folder}, as {INDEX} says; missing are "
                f"{', '.join(missing[:3])}{' and others' if len(missing) > 3 else ''}. Download or copy them again."
            )
        return names
    if (folder / SINGLE).is_file():
        return [SINGLE]
    if pickles := [name for name in _PICKLES if (folder / name).is_file()]:
        raise ModelError(
            f"Expected weights as safetensors in {folder}, got {pickles[0]}, which is a pickle and can run code. "
            "Load it with transformers and write it again: model.save_pretrained(folder)."
        )
    raise ModelError(f"Expected weights in {folder}, {SINGLE} or {INDEX}; it has neither. Is the download complete?")


def _check_index(folder: Path, shards: Mapping[str, Shard]) -> None:
    places = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    if lost := [name for name, file in places.items() if name not in shards[file].stored]:
        raise ModelError(
            f"Expected {lost[0]!r} in {folder / places[lost[0]]}, as {INDEX} says; it is not there. Are the "
            "files of one download?"
        )
