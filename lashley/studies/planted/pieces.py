"""Finished pieces of a long study, kept in a folder so that a run that was stopped goes on where it was.

Every piece is a folder of `lashley.store`, complete or absent. All of them lie under a name made of the settings, so
that a run with other settings, other data or another version of a library never reads them.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lashley.provenance import digest, environment
from lashley.store import Reader, check_target, writing
from lashley.studies.kept import KIND, VERSION, sound

__all__ = ["Pieces"]

_FILE = "tensors.safetensors"

Say = Callable[[str], None]


class Pieces:
    """The kept pieces of one study with these settings.

    Attributes:
        folder: where they are.
        seconds: ``{piece: how long it took}``, of those made here and of those found.

    Raises:
        StoreError: nothing can be written there.
    """

    def __init__(self, work: str | os.PathLike[str], settings: Mapping[str, Any], say: Say = lambda line: None) -> None:
        versions = environment()["versions"]
        self.folder = Path(work) / digest(json.dumps(settings, sort_keys=True), sorted(versions.items()))
        check_target(self.folder / "piece")
        self.seconds: dict[str, float] = {}
        self._say = say

    def tensors(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors that were kept under ``name``, or those that ``make`` makes, which are kept from now on."""
        found = self._kept(name)
        if found is not None:
            return found.tensors(_FILE)
        started = time.perf_counter()
        made = {key: value.detach().contiguous() for key, value in make().items()}
        self._keep(name, started, made, None)
        return made

    def values(self, name: str, make: Callable[[], Any]) -> Any:
        """The JSON that was kept under ``name``, or what ``make`` makes; what is returned has been through JSON."""
        found = self._kept(name)
        if found is not None:
            return found.manifest["values"]
        started = time.perf_counter()
        made = json.loads(json.dumps(make()))
        self._keep(name, started, {}, made)
        return made

    def forget(self) -> None:
        """Delete them, once what they are pieces of is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _kept(self, name: str) -> Reader | None:
        found = sound(self.folder / name, self._say)
        if found is None:
            return None
        self.seconds[name] = found.manifest["seconds"]
        self._say(f"{name}: kept from an earlier run")
        return found

    def _keep(self, name: str, started: float, tensors: Mapping[str, Tensor], values: Any) -> None:
        self.seconds[name] = time.perf_counter() - started
        with writing(self.folder / name) as folder:
            if tensors:
                folder.tensors(_FILE, tensors)
            folder.manifest(KIND, VERSION, {"seconds": self.seconds[name], "values": values})
        self._say(f"{name}: {self.seconds[name]:.1f} s")
