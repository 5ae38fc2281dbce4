"""Folders that are complete or absent: safetensors and a manifest, no pickle.

A folder is written beside its place and renamed into it, the manifest last, so that a manifest's existence means that
everything it names is there. The manifest holds a checksum of every file and of itself, compared when they are read.

Replacing a folder exchanges the two in one step where the system can (Linux). Elsewhere it takes two renames: should
the machine stop between them, both folders are beside the place under hidden names, the old one ending in ``.old``.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import sys
import uuid
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lashley.errors import StoreError

__all__ = [
    "MANIFEST",
    "NEXT",
    "Files",
    "Growing",
    "Reader",
    "Writer",
    "amend",
    "check_target",
    "kind_of",
    "read_manifest",
    "writing",
]

MANIFEST = "manifest.json"
NEXT = f"{MANIFEST}.next"  # a manifest that does not count yet


class Writer:
    """Tensors and plain files into a folder under construction.

    Attributes:
        folder: where it is being written; other files may be put there before `manifest` is called.

    Args:
        checksums: of files that are there already, where they are known.
    """

    def __init__(self, folder: Path, checksums: Mapping[str, int] | None = None) -> None:
        self.folder = folder
        self._checksums: dict[str, int] = dict(checksums or {})

    def tensors(self, file: str, tensors: Mapping[str, Tensor]) -> None:
        """Write ``tensors`` as a safetensors file named ``file``."""
        self._checksums[file] = _write_tensors(self.folder / file, tensors)

    def manifest(self, kind: str, version: int, values: Mapping[str, Any]) -> None:
        """Write the manifest, which names every file in the folder; call it last."""
        for path in _files(self.folder):
            name = path.relative_to(self.folder).as_posix()
            if name not in self._checksums:
                self._checksums[name] = checksum_of(path)
        text = _manifest_text(kind, version, values, self._checksums)
        (self.folder / MANIFEST).write_text(text, encoding="utf-8")


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[Writer]:
    """A folder that appears at ``path`` when the block ends well, replacing what was there, and not at all otherwise.

    What is replaced is a folder that lashley wrote and nobody added to, or an empty one; see `check_target`.
    """
    target = check_target(path)
    # Not tempfile's: a folder made the plain way has the permissions that the user's umask gives.
    scratch = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    try:
        scratch.mkdir(parents=True)
        yield Writer(scratch)
        if not (scratch / MANIFEST).is_file():
            raise StoreError(f"Expected a manifest to be written to {target} before the end, got none.")
        for file in _files(scratch):
            _durable(file, scratch)
        _sync_folder(scratch)
        _replace(scratch, target)
    except BaseException as error:
        shutil.rmtree(scratch, ignore_errors=True)
        if isinstance(error, OSError | SafetensorError) and not isinstance(error, StoreError):
            raise StoreError(
                f"Could not write {target}: {error}. What was there before is untouched. Is there space on the disk, "
                "and may you write there?"
            ) from error
        raise
    _sync_folder(target.parent)


def amend(path: str | os.PathLike[str], name: str, text: str) -> None:
    """Put a text file into a complete folder, in one step; its manifest names it from then on.

    Raises:
        StoreError: it could not be written; what was there is untouched.
    """
    folder = Path(path)
    manifest = _manifest(folder)
    beside = folder / f".{name}.next"
    try:
        beside.write_text(text, encoding="utf-8")
        checksums = {**manifest.pop("files"), name: checksum_of(beside)}
        values = {key: value for key, value in manifest.items() if key not in ("kind", "version", "checksum")}
        (folder / NEXT).write_text(
            _manifest_text(manifest["kind"], manifest["version"], values, checksums), encoding="utf-8"
        )
        os.replace(beside, folder / name)
        os.replace(folder / NEXT, folder / MANIFEST)
    except OSError as error:
        for left in (beside, folder / NEXT):
            left.unlink(missing_ok=True)
        raise StoreError(f"Could not write {folder / name}: {error}. Is there space on the disk?") from error


def check_target(path: str | os.PathLike[str]) -> Path:
    """Where `writing` would put a folder, or the reason why it would refuse; to be asked before hours of work.

    Raises:
        StoreError: there is a file, or a folder with files that lashley did not write. Those are never deleted.
    """
    target = Path(path).resolve()
    try:
        place = next(folder for folder in (target, *target.parents) if folder.exists())
        others = _not_ours(target) if target.is_dir() else []
    except OSError as error:
        raise StoreError(f"Could not look at {target}: {error}. Choose another place.") from error
    if place == target and not target.is_dir():
        raise StoreError(f"Expected {target} to be a folder or absent, got a file. Choose another name.")
    if others:
        raise StoreError(
            f"Expected {target} to be absent, empty or as lashley wrote it, got a folder with other files: {others[0]}"
            + (f" and {len(others) - 1} more" if len(others) > 1 else "")
            + ". Choose another name, or move them away."
        )
    home = target.parent if place == target else place
    if not home.is_dir() or not os.access(home, os.W_OK):
        raise StoreError(f"Could not write {target}: {home} is no folder that you may write to. Choose another place.")
    return target


class Files:
    """The safetensors files of a folder, each compared with its checksum when it is first read.

    Attributes:
        folder: where they are.
        checksums: of every file.
        kind: what they are parts of.
    """

    def __init__(self, folder: Path, checksums: Mapping[str, int], kind: str) -> None:
        self.folder = folder
        self.checksums: Mapping[str, int] = checksums
        self.kind = kind
        self._sound: dict[str, tuple[int, ...]] = {}  # as they were when their checksum was right

    def tensors(self, file: str, prefix: str = "") -> dict[str, Tensor]:
        """The tensors of one file whose names begin with ``prefix``."""
        path = self.there(file)
        self.check(file)
        with _reading(path), safe_open(str(path), "pt") as content:
            return {name: content.get_tensor(name) for name in content.keys() if name.startswith(prefix)}  # noqa: SIM118

    def there(self, file: str) -> Path:
        """Where a file is, which is a part of this."""
        path = self.folder / file
        if file not in self.checksums or not path.is_file():
            raise StoreError(f"Expected {path}, a part of the {self.kind}; it is missing. Copy the whole folder again.")
        return path

    def check(self, file: str) -> None:
        """Compare a file with its checksum, unless that was done and the file has not changed since."""
        path = self.there(file)
        with _reading(path):
            state = _state_of(path)
            if self._sound.get(file) == state:
                return
            if (got := checksum_of(path)) != (expected := self.checksums[file]):
                raise StoreError(
                    f"{path} is damaged: expected checksum {expected:08x}, got {got:08x}. Copy the folder again, or "
                    "make it anew."
                )
            self._sound[file] = state


def _state_of(path: Path) -> tuple[int, ...]:
    """What is different once a file has been written to."""
    facts = path.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"Expected {path} to be a safetensors file that can be read: {error}.") from error


class Reader(Files):
    """A complete folder of the expected kind and of a version we know.

    Attributes:
        manifest: what `Writer.manifest` was given, with kind, version and files.
    """

    def __init__(self, path: str | os.PathLike[str], kind: str, version: int) -> None:
        self.manifest = read_manifest(path, kind, version)
        super().__init__(Path(path), self.manifest["files"], kind)
        for file in self.checksums:
            self.there(file)


class Growing(Files):
    """A folder that changes in single steps, for as long as one process works on it.

    Files are added beside those that count. Replacing the manifest, by one rename, makes them count and what it no
    longer names not; that is deleted then. Whenever the process ends, the folder is as one of the manifests says.

    Args:
        folder: there already.
        checksums: of the files that count now, by the manifest that is there.
        names: patterns of the files that are added; what else is in the folder is left alone.
        check: called before every change; it raises where the folder is no longer this process's to change.
    """

    def __init__(
        self,
        folder: Path,
        checksums: Mapping[str, int],
        kind: str,
        names: Sequence[str],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._written = dict(checksums)
        super().__init__(folder, self._written, kind)
        self._names = (*names, NEXT, ".tmp??????")  # the last are what safetensors leaves when it is killed
        self._counting = set(checksums)
        self._check = check

    def add(self, file: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a file, under a name that does not count yet; it does from the next `switch` that names it."""
        assert file not in self._counting
        self._check()
        with self._or_as_before():
            checksum = _write_tensors(self.folder / file, tensors)
            _durable(self.folder / file, self.folder)
            _uncached(self.folder / file)
            self._written[file] = checksum
            self._sound[file] = _state_of(self.folder / file)

    def switch(self, kind: str, version: int, values: Mapping[str, Any], files: Collection[str]) -> None:
        """From here on the folder is this and holds these files."""
        beside = self.folder / NEXT
        checksums = {file: self._written[file] for file in files}
        self._check()
        with self._or_as_before():
            beside.write_text(_manifest_text(kind, version, values, checksums), encoding="utf-8")
            _durable(beside, self.folder)
            _sync_folder(self.folder)  # what it names is there before it is
            os.replace(beside, self.folder / MANIFEST)
        _sync_folder(self.folder)
        self._counting, self.kind = set(files), kind
        self.sweep()

    def sweep(self) -> None:
        """Delete what was added and does not count, by this process or by one that was killed."""
        with contextlib.suppress(OSError):  # a later sweep may succeed, and nobody reads it
            for path in self.folder.iterdir():
                if path.name not in self._counting and any(path.match(name) for name in self._names):
                    path.unlink()

    @contextmanager
    def _or_as_before(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError) as error:
            self.sweep()
            raise StoreError(
                f"Could not write to {self.folder}: {error}. What was there before is untouched. Is there space on the "
                "disk, and may you write there?"
            ) from error


def read_manifest(path: str | os.PathLike[str], kind: str, version: int) -> dict[str, Any]:
    """The manifest of a folder, if it is one of the expected kind and of a version we know."""
    folder = Path(path)
    wanted = f"a folder with {'an' if kind[0] in 'aeiou' else 'a'} {kind}"
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise StoreError(f"Expected {wanted}, got {folder}, which {what}.")
    file = folder / MANIFEST
    if not file.is_file():
        raise StoreError(
            f"Expected {wanted}, got {folder}, which has no {MANIFEST}: it is something else, or writing it was "
            "interrupted."
        )
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"Expected {file} to be JSON that can be read: {error}. Copy the folder again.") from error
    found = manifest.get("kind") if isinstance(manifest, dict) else None
    if found != kind:
        raise StoreError(f"Expected {wanted}, got one with {found or 'something else'} in {folder}.")
    if not isinstance(manifest.get("version"), int) or manifest["version"] > version:
        raise StoreError(
            f"Expected {wanted} of version {version} or older, got version {manifest.get('version')} in {folder}. "
            "Upgrade lashley."
        )
    if manifest.pop("checksum", None) != _seal(manifest):
        raise StoreError(
            f"{file} is damaged or was edited: its checksum does not fit. Copy the folder again, or make it anew."
        )
    return manifest


def kind_of(folder: Path) -> str | None:
    """What a folder's manifest says that it is; None where there is none that can be read."""
    try:
        return _manifest(folder).get("kind")
    except OSError as error:
        raise StoreError(f"Could not look at {folder}: {error}. Choose another place.") from error


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest as it is, unchecked; empty where there is none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _not_ours(folder: Path) -> list[str]:
    """The files in a folder that no manifest of ours names."""
    manifest = _manifest(folder)
    complete = {"kind", "version", "files", "checksum"} <= set(manifest)
    ours = {MANIFEST, *manifest["files"]} if complete else set()
    return [name for name in (path.relative_to(folder).as_posix() for path in _files(folder)) if name not in ours]


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> int:
    """Write a safetensors file and return its checksum."""
    held: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if (storage := tensor.untyped_storage().data_ptr()) in storages:
            tensor = tensor.clone()  # the format has no tensors that share memory
        storages.add(storage)
        held[name] = tensor
    save_file(held, str(path))
    return checksum_of(path)


def _manifest_text(kind: str, version: int, values: Mapping[str, Any], checksums: Mapping[str, int]) -> str:
    """A manifest, sealed with its own checksum."""
    document = {"kind": kind, "version": version, **values, "files": checksums}
    document["checksum"] = _seal(document)
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _seal(manifest: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(manifest).encode()):08x}"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


def _replace(scratch: Path, target: Path) -> None:
    """Put ``scratch`` in ``target``'s place; the old folder goes only once the new one stands."""
    if not target.exists():
        os.rename(scratch, target)
        return
    if _exchange(scratch, target):
        shutil.rmtree(scratch, ignore_errors=True)
        return
    old = scratch.with_name(f"{scratch.name}.old")
    os.rename(target, old)
    try:
        os.rename(scratch, target)
    except BaseException:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step. False where the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE, of the kernel's interface
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _durable(file: Path, folder: Path) -> None:
    """Make a file's content last, and let those read it who may read the folder: some writers keep it to themselves."""
    file.chmod(folder.stat().st_mode & 0o666)
    _sync(file)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _uncached(path: Path) -> None:
    """Take a file that is on the disk out of the system's memory, where it would stand in for something that is wanted
    sooner. Writing the next into the same pages is also much faster than into others.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError), path.open("rb") as file:  # a hint: nothing depends on it
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _sync_folder(path: Path) -> None:
    """Make the names in a folder durable, where the file system can; some cannot, and nothing but certainty is lost."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def checksum_of(path: Path) -> int:
    """CRC-32 of a file, as manifests hold it."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            value = zlib.crc32(chunk, value)
    return value
