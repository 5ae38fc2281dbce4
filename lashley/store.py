"""Folders that are complete or absent: safetensors and a manifest, no pickle.

A folder is written beside its place and renamed into it, the manifest last, so that a manifest's existence means that
everything it names is there. Each file's checksum is in the manifest and checked when the file is read.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lashley.errors import StoreError

__all__ = ["MANIFEST", "Reader", "Writer", "read_manifest", "writing"]

MANIFEST = "manifest.json"


class Writer:
    """Tensors and plain files into a folder under construction."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checksums: dict[str, int] = {}

    def tensors(self, file: str, tensors: Mapping[str, Tensor]) -> None:
        """Write ``tensors`` as a safetensors file named ``file``."""
        path = self.folder / file
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, str(path))
        self.checksums[file] = _checksum(path)

    def manifest(self, kind: str, version: int, values: Mapping[str, Any]) -> None:
        """Write the manifest; call it last."""
        document = {"kind": kind, "version": version, **values, "files": self.checksums}
        path = self.folder / MANIFEST
        path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[Writer]:
    """A folder that appears at ``path`` when the block ends well, replacing what was there, and not at all otherwise.

    Only an empty folder or one with a manifest (our own) is replaced.
    """
    target = Path(path)
    if target.is_file():
        raise StoreError(f"Expected {target} to be a folder or absent, got a file. Choose another name.")
    if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise StoreError(
            f"Expected {target} to be absent, empty or written by lashley, got a folder with other files. "
            "Choose another name, or empty it yourself."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        scratch.chmod(0o755)
        yield Writer(scratch)
        for file in scratch.iterdir():
            _sync(file)
        _sync(scratch)
        _replace(scratch, target)
    except BaseException as error:
        shutil.rmtree(scratch, ignore_errors=True)
        if isinstance(error, OSError) and not isinstance(error, StoreError):
            raise StoreError(f"Could not write {target}: {error}. What was there before is untouched.") from error
        raise
    _sync(target.parent)


class Reader:
    """A complete folder of the expected kind and of a version we know."""

    def __init__(self, path: str | os.PathLike[str], kind: str, version: int) -> None:
        self.folder = Path(path)
        self.manifest = read_manifest(path, kind, version)

    def tensors(self, file: str) -> dict[str, Tensor]:
        """The tensors of one file, after its checksum was compared."""
        path = self.folder / file
        expected = self.manifest["files"].get(file)
        if not path.is_file() or expected is None:
            raise StoreError(f"Expected {path}, which the manifest needs; it is missing. Copy the whole folder again.")
        if (got := _checksum(path)) != expected:
            raise StoreError(
                f"{path} is damaged: expected checksum {expected:08x}, got {got:08x}. Copy the folder again, or record anew."
            )
        try:
            return load_file(str(path))
        except SafetensorError as error:
            raise StoreError(f"Expected {path} to be a safetensors file: {error}.") from error


def read_manifest(path: str | os.PathLike[str], kind: str, version: int) -> dict[str, Any]:
    """The manifest of a folder, if it is one of the expected kind and of a version we know."""
    folder = Path(path)
    if not folder.is_dir():
        raise StoreError(f"Expected a folder with a {kind}, got {folder}, which {_what(folder)}.")
    file = folder / MANIFEST
    if not file.is_file():
        raise StoreError(
            f"Expected a folder with a {kind}, got {folder}, which has no {MANIFEST}: it is something else, or writing "
            "it was interrupted."
        )
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"Expected {file} to be JSON: {error}. Copy the folder again.") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        found = manifest.get("kind") if isinstance(manifest, dict) else None
        raise StoreError(f"Expected a folder with a {kind}, got one with {found or 'something else'} in {folder}.")
    if not isinstance(manifest.get("version"), int) or manifest["version"] > version:
        raise StoreError(
            f"Expected a {kind} of version {version} or older, got version {manifest.get('version')} in {folder}. "
            "Upgrade lashley."
        )
    return manifest


def _what(path: Path) -> str:
    return "is a file" if path.exists() else "does not exist"


def _replace(scratch: Path, target: Path) -> None:
    """Put ``scratch`` in ``target``'s place; the old folder goes only once the new one stands."""
    if not target.exists():
        os.rename(scratch, target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    os.rename(target, old / "was")
    try:
        os.rename(scratch, target)
    except OSError:
        os.rename(old / "was", target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            value = zlib.crc32(chunk, value)
    return value
