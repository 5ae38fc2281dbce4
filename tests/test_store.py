"""Folders are complete or absent, whatever goes wrong, and nothing damaged is read."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
import stat
from pathlib import Path

import pytest
import safetensors.torch
import torch

from editing import raw
from helpers import gaussian
from lashley import store
from lashley.errors import StoreError
from lashley.store import MANIFEST, Reader, check_target, read_manifest, writing

KIND, VERSION, FILE = "egg", 2, "white.safetensors"


def write(path, number=1.0, **values):
    with writing(path) as folder:
        folder.tensors(FILE, {"yolk": torch.full((3,), number)})
        folder.manifest(KIND, VERSION, {"number": number, **values})


def read(path):
    return Reader(path, KIND, VERSION).tensors(FILE)["yolk"][0].item()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones included."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def egg(tmp_path):
    """A good folder beside nothing else."""
    write(tmp_path / "egg")
    return tmp_path / "egg"


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([0.0, -0.0, float("nan"), float("inf"), 1e-45]),
        gaussian(4, 3).float().mT,
        gaussian(2, 3).bfloat16(),
        gaussian(2),
        torch.zeros(0, 7),
        torch.tensor(3.5),
        torch.tensor([True, False]),
        torch.arange(6)[::2],
    ],
    ids=lambda t: f"{t.dtype}{list(t.shape)}",
)
def test_tensors_come_back_bit_by_bit(tmp_path, tensor):
    with writing(tmp_path / "x") as folder:
        folder.tensors("a.safetensors", {"t": tensor})
        folder.manifest(KIND, VERSION, {})
    assert raw(Reader(tmp_path / "x", KIND, VERSION).tensors("a.safetensors")["t"]) == raw(tensor)


def test_tensors_that_share_memory_are_written_each_for_itself(tmp_path):
    base = torch.randn(4, 4)
    shared = {"all": base, "again": base, "row": base[1], "flipped": base.mT, "nothing": base[:0], "none": base[:0]}
    with writing(tmp_path / "x") as folder:
        folder.tensors("a.safetensors", shared)
        folder.manifest(KIND, VERSION, {})
    found = Reader(tmp_path / "x", KIND, VERSION).tensors("a.safetensors")
    assert {name: raw(t) for name, t in found.items()} == {name: raw(t) for name, t in shared.items()}


def test_the_manifest_comes_back_and_names_every_file(tmp_path):
    with writing(tmp_path / "deep" / "er" / "egg") as folder:
        folder.tensors(FILE, {"yolk": torch.zeros(1)})
        (folder.folder / "sub").mkdir()
        (folder.folder / "sub" / "note.txt").write_text("hello")
        folder.manifest(KIND, 1, {"text": "Grüße", "number": 0.1 + 0.2, "none": None, "list": (1, 2)})
    manifest = read_manifest(tmp_path / "deep" / "er" / "egg", KIND, VERSION)
    assert set(manifest.pop("files")) == {FILE, "sub/note.txt"}
    assert manifest == {
        "kind": KIND, "version": 1, "text": "Grüße", "number": 0.1 + 0.2, "none": None, "list": [1, 2]
    }  # fmt: skip


def test_files_have_the_permissions_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "egg")
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in [tmp_path / "egg", *(tmp_path / "egg").iterdir()]}
    assert modes == {"egg": 0o750, FILE: 0o640, MANIFEST: 0o640}


# Replacing.


def test_a_folder_of_ours_and_an_empty_one_are_replaced(tmp_path, egg):
    write(egg, 2.0)
    assert read(egg) == 2.0
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", 3.0)
    assert read(tmp_path / "empty") == 3.0
    assert {p.name for p in tmp_path.iterdir()} == {"egg", "empty"}


def test_a_link_is_followed(tmp_path, egg):
    (tmp_path / "link").symlink_to(egg)
    write(tmp_path / "link", 2.0)
    assert (tmp_path / "link").is_symlink() and read(egg) == 2.0


def test_at_every_moment_there_is_a_complete_folder(tmp_path, egg, monkeypatch):
    """Where folders can be exchanged in one step, nothing is renamed away. (Where not: the next tests.)"""
    (tmp_path / "a").mkdir()
    (tmp_path / "b" / "inside").mkdir(parents=True)
    if not store._exchange(tmp_path / "a", tmp_path / "b"):
        return
    assert (tmp_path / "a" / "inside").is_dir() and not (tmp_path / "b" / "inside").exists()
    monkeypatch.setattr(os, "rename", _forbidden)
    write(egg, 2.0)
    assert read(egg) == 2.0


def _forbidden(*args):
    raise AssertionError("two renames where one exchange would do")


def test_where_folders_cannot_be_exchanged_two_renames_do(tmp_path, egg, monkeypatch):
    monkeypatch.setattr(store, "_exchange", lambda one, other: False)
    write(egg, 2.0)
    assert read(egg) == 2.0
    assert [p.name for p in tmp_path.iterdir()] == ["egg"]


@pytest.mark.parametrize("error", [OSError(errno.EXDEV, "no"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_second_rename_that_fails_is_undone(tmp_path, egg, monkeypatch, error):
    before, rename = contents(tmp_path), os.rename

    def fails(source, target):
        if Path(target) == egg and not str(source).endswith(".old"):
            raise error
        rename(source, target)

    monkeypatch.setattr(store, "_exchange", lambda one, other: False)
    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises((StoreError, KeyboardInterrupt)):
        write(egg, 2.0)
    assert contents(tmp_path) == before


# Refusing to write.


@pytest.mark.parametrize("strange", ["notes.txt", "sub/notes.txt", ".hidden"])
def test_a_folder_with_a_file_of_somebody_else_is_not_replaced(tmp_path, egg, strange):
    (egg / strange).parent.mkdir(exist_ok=True)
    (egg / strange).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(StoreError, match=f"got a folder with other files: {strange}. Choose another name, or move"):
        write(egg, 2.0)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("text", ["", "not JSON", "[1]", '{"name": "a web page", "version": "1"}'])
def test_a_manifest_that_is_not_ours_protects_its_folder(tmp_path, text):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / MANIFEST).write_text(text)
    (tmp_path / "site" / "index.html").write_text("mine")
    with pytest.raises(StoreError, match="other files: index.html and 1 more"):
        check_target(tmp_path / "site")
    assert (tmp_path / "site" / "index.html").read_text() == "mine"


def test_a_file_is_not_replaced(tmp_path):
    (tmp_path / "egg").write_text("mine")
    with pytest.raises(StoreError, match="to be a folder or absent, got a file"):
        write(tmp_path / "egg")
    with pytest.raises(StoreError, match="egg is no folder that you may write to"):
        write(tmp_path / "egg" / "below")
    assert contents(tmp_path) == {"egg": b"mine"}


def test_a_place_nobody_may_write_to_is_refused_beforehand(tmp_path, egg, monkeypatch):
    before = contents(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for place in (tmp_path / "a" / "b", egg):
        with pytest.raises(StoreError, match="is no folder that you may write to. Choose another place"):
            check_target(place)
    assert contents(tmp_path) == before and not (tmp_path / "a").exists()


def test_a_place_that_cannot_be_looked_at_is_refused(egg, monkeypatch):
    def closed(path, **kw):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", closed)
    with pytest.raises(StoreError, match="Could not look at .*egg: .*Permission denied. Choose another place"):
        check_target(egg)


def test_asking_for_a_place_writes_nothing(tmp_path, egg):
    assert check_target(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert check_target(egg) == egg
    assert not (tmp_path / "a").exists() and read(egg) == 1.0


# Failing half-way.


class Sudden(BaseException):
    """Neither an Exception nor ours."""


@pytest.mark.parametrize("there", [False, True], ids=["new", "replacing"])
@pytest.mark.parametrize(
    "error", [ValueError("x"), OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), Sudden()], ids=repr
)
def test_a_block_that_fails_leaves_no_trace(tmp_path, there, error):
    if there:
        write(tmp_path / "egg")
    before = contents(tmp_path)
    with pytest.raises(StoreError if isinstance(error, OSError) else type(error)), writing(tmp_path / "egg") as folder:
        folder.tensors(FILE, {"yolk": torch.zeros(3)})
        raise error
    assert contents(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["egg"] * there


@pytest.mark.parametrize("step", ["_sync", "_replace", "checksum_of"])
def test_a_disk_that_fails_at_any_step_leaves_the_old_folder(tmp_path, egg, monkeypatch, step):
    before = contents(tmp_path)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, step, full)
    with pytest.raises(StoreError, match="Could not write .*egg: .*No space left.* What was there before is untouched"):
        write(egg, 2.0)
    monkeypatch.undo()
    assert contents(tmp_path) == before and read(egg) == 1.0


def test_a_disk_that_is_really_full(tmp_path, egg):
    """The limit on file sizes makes the writer of tensors itself fail, in its own language."""
    before = contents(tmp_path)
    with limited(100_000), pytest.raises(StoreError, match="Could not write") as caught, writing(egg) as folder:
        folder.tensors(FILE, {"yolk": torch.zeros(1_000_000)})
    assert isinstance(caught.value.__cause__, safetensors.SafetensorError)
    assert contents(tmp_path) == before and read(egg) == 1.0


@contextlib.contextmanager
def limited(size: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_folder_without_a_manifest_never_appears(tmp_path):
    with pytest.raises(StoreError, match="Expected a manifest to be written"), writing(tmp_path / "egg") as folder:
        folder.tensors(FILE, {"yolk": torch.zeros(3)})
    assert list(tmp_path.iterdir()) == []


def test_every_file_and_folder_is_on_the_disk_before_the_old_one_goes(tmp_path, egg, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_ino), fsync(handle)))
    write(egg, 2.0)
    assert synced[-1] == tmp_path.stat().st_ino
    assert set(synced) == {place.stat().st_ino for place in (tmp_path, egg, egg / FILE, egg / MANIFEST)}


def test_a_folder_that_cannot_be_synced_is_written_all_the_same(tmp_path, monkeypatch):
    fsync = os.fsync

    def files_only(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not here")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", files_only)
    write(tmp_path / "egg")
    assert read(tmp_path / "egg") == 1.0


# Reading.


@pytest.mark.parametrize("place", [0, 9, 40, -1])
def test_a_flipped_bit_is_found(egg, place):
    data = bytearray((egg / FILE).read_bytes())
    data[place] ^= 1
    (egg / FILE).write_bytes(data)
    with pytest.raises(StoreError, match=f"{FILE} is damaged: expected checksum .*, got .*. Copy the folder again"):
        read(egg)


@pytest.mark.parametrize("kept", [0, 10, -1])
def test_a_truncated_file_is_found(egg, kept):
    (egg / FILE).write_bytes((egg / FILE).read_bytes()[:kept])
    with pytest.raises(StoreError, match="is damaged"):
        read(egg)


def test_a_flipped_bit_of_the_manifest_is_found(egg):
    text = (egg / MANIFEST).read_text()
    assert '"number": 1.0' in text
    (egg / MANIFEST).write_text(text.replace('"number": 1.0', '"number": 1.5'))
    with pytest.raises(StoreError, match="manifest.json is damaged or was edited: its checksum does not fit"):
        read(egg)


@pytest.mark.parametrize("kept", [0, 1, 20, -5])
def test_a_truncated_manifest_is_found(egg, kept):
    (egg / MANIFEST).write_bytes((egg / MANIFEST).read_bytes()[:kept])
    with pytest.raises(StoreError, match="to be JSON that can be read"):
        read(egg)


def test_a_manifest_that_is_no_text_is_refused(egg):
    (egg / MANIFEST).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StoreError, match="to be JSON that can be read"):
        read(egg)


def test_a_missing_file_is_found_when_the_folder_is_opened(egg):
    (egg / FILE).unlink()
    with pytest.raises(StoreError, match=f"Expected .*{FILE}, a part of the egg; it is missing"):
        Reader(egg, KIND, VERSION)


def test_a_file_the_manifest_does_not_name_is_not_read(egg):
    safetensors.torch.save_file({"yolk": torch.zeros(1)}, str(egg / "other.safetensors"))
    with pytest.raises(StoreError, match="other.safetensors, a part of the egg"):
        Reader(egg, KIND, VERSION).tensors("other.safetensors")


def test_a_file_in_another_format_is_refused(tmp_path):
    with writing(tmp_path / "egg") as folder:
        (folder.folder / FILE).write_text("no tensors here")
        folder.manifest(KIND, VERSION, {})
    with pytest.raises(StoreError, match="to be a safetensors file that can be read"):
        read(tmp_path / "egg")


def test_no_pickle_is_read(tmp_path):
    with writing(tmp_path / "egg") as folder:
        torch.save({"yolk": torch.zeros(1)}, folder.folder / FILE)
        folder.manifest(KIND, VERSION, {})
    with pytest.raises(StoreError, match="to be a safetensors file"):
        read(tmp_path / "egg")


def test_what_is_not_a_folder_of_the_kind_is_refused(tmp_path, egg):
    with pytest.raises(StoreError, match="Expected a folder with an egg, got .*/none, which does not exist"):
        read(tmp_path / "none")
    with pytest.raises(StoreError, match="which is a file"):
        read(egg / FILE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        StoreError, match="which has no manifest.json: it is something else, or writing it was interrupt"
    ):
        read(tmp_path / "empty")
    with pytest.raises(StoreError, match="Expected a folder with a recording, got one with egg"):
        read_manifest(egg, "recording", 1)
    (egg / MANIFEST).write_text("[]")
    with pytest.raises(StoreError, match="got one with something else"):
        read(egg)


@pytest.mark.parametrize("version", [VERSION + 1, "2", None])
def test_a_newer_version_is_refused_and_says_to_upgrade(egg, version):
    manifest = json.loads((egg / MANIFEST).read_text()) | {"version": version}
    (egg / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=f"of version {VERSION} or older, got version {version} in .*Upgrade lashley"):
        read(egg)


def test_reading_writes_nothing(tmp_path, egg):
    before = contents(tmp_path)
    read(egg)
    assert contents(tmp_path) == before
