"""Finished pieces of a study in a folder: trained networks and rows of a table, each complete or absent.

A piece is found again by the settings that made it, so a study that was interrupted goes on where it stopped, one whose
settings changed makes anew what depends on them, and both come to the numbers of a run that went through.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lashley.provenance import digest
from lashley.store import Reader, writing
from lashley.studies.kept import KIND, VERSION, sound

__all__ = ["Pieces"]

_FILE = "network.safetensors"

Values = dict[str, Any]


class Pieces:
    """A folder of pieces.

    Args:
        folder: where they are written.
        shelves: other folders where networks are looked for first, such as committed checkpoints; only read.
        say: called with a line of text when a piece is found damaged.
    """

    def __init__(self, folder: Path, shelves: Sequence[Path] = (), say: Callable[[str], None] = lambda line: None):
        self._folder = folder
        self._shelves = shelves
        self._say = say

    def values(self, name: str, key: Mapping[str, Any], make: Callable[[], Values]) -> Values:
        """What ``make()`` returned when it was called for this name and key first; plain values for JSON.

        Args:
            name: a word for the file name.
            key: everything that can change the values.
        """
        key = json.loads(json.dumps(key))
        place = self._place(self._folder, name, key)
        found = self._read(place, key)
        if found is not None:
            values: Values = found.manifest["values"]
            return values
        values = json.loads(json.dumps(make()))
        with writing(place) as folder:
            folder.manifest(KIND, VERSION, {"name": name, "key": key, "values": values})
        return values

    def network(
        self,
        name: str,
        key: Mapping[str, Any],
        build: Callable[[], nn.Module],
        make: Callable[[], tuple[nn.Module, Values]],
    ) -> tuple[nn.Module, Values]:
        """The network that ``make()`` returned with its facts when it was called for this name and key first.

        Its tensors are kept in float16, and what comes back is always what was kept.

        Args:
            build: the architecture, with any weights.
        """
        key = json.loads(json.dumps(key))
        for home in (*self._shelves, self._folder):
            found = self._read(self._place(home, name, key), key)
            if found is not None:
                return self._filled(build(), found), found.manifest["values"]
        model, values = make()
        place = self._place(self._folder, name, key)
        with writing(place) as folder:
            folder.tensors(_FILE, {k: _narrow(v) for k, v in model.state_dict().items()})
            folder.manifest(KIND, VERSION, {"name": name, "key": key, "values": json.loads(json.dumps(values))})
        found = Reader(place, KIND, VERSION)
        return self._filled(build(), found), found.manifest["values"]

    @staticmethod
    def _place(home: Path, name: str, key: Mapping[str, Any]) -> Path:
        return home / f"{name}-{digest(json.dumps(key, sort_keys=True))[:10]}"

    def _read(self, place: Path, key: Mapping[str, Any]) -> Reader | None:
        found = sound(place, self._say)
        return found if found is not None and found.manifest["key"] == key else None

    @staticmethod
    def _filled(model: nn.Module, found: Reader) -> nn.Module:
        model.load_state_dict(found.tensors(_FILE))  # float16 into float32: exact
        return model.eval()


def _narrow(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float16) if tensor.is_floating_point() else tensor
