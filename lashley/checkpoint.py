"""A recording that survives being killed: a folder that one process at a time works on.

While the recording goes on, the folder's manifest is that of an unfinished recording: what the run is (``run``), how
far it has come (``progress``), the sums that are still growing (one file) and the concepts that are over (a file each).
Every change is one step (`lashley.store.Growing`), so that the process may end at any moment: the next one goes on from
the last complete step. At the end one more step turns the folder into a recording.

Concepts that are over do not change any more: a thread writes their files and the steps that name them, while the next
batches are counted. One thread does one thing after another, so that the folder changes as it would without.

A run that is not the same in every field is refused, with both sides shown, and so is a second process. The lock is the
operating system's: it goes with its process, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from lashley.errors import StoreError
from lashley.recording import KIND, VERSION
from lashley.store import MANIFEST, NEXT, Growing, Reader, kind_of

__all__ = ["Checkpoint", "alone", "opened"]

UNFINISHED = "unfinished recording"
_EVERY = 30.0  # seconds between two steps, but for those at the end of a concept, ...
_SHARE = 20  # ... and for all of them at least so many times what a step takes
_NAMES = ("state-*.safetensors", "concept-*.safetensors")
_LOCK = "lock"
_HELD: set[Path] = set()  # by this process: the system tells processes apart, not threads


class Checkpoint:
    """One process's hold on a folder; made by `opened`.

    Args:
        handle: of the lock.

    Attributes:
        progress: what the last step said; empty where there was none.
        files: what the folder holds; read it before the first and after the last change.
        complete: the recording, where the run has come to its end before.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any], handle: int) -> None:
        self._handle = handle
        self.run = json.loads(json.dumps(run))  # as it will be read
        self.progress: Mapping[str, Any] = {}
        self.complete: Reader | None = None
        self._steps = 0
        self._behind = _Behind()
        self._last, self._took = time.monotonic(), 0.0  # when the last step ended, and what it took
        found = kind_of(folder)
        if found is None:
            _check_empty(folder)
            self.files = Growing(folder, {}, UNFINISHED, _NAMES, self._check_held)
            self.restart()  # whether the folder can be written shows now rather than after an hour
            return
        reader = Reader(folder, KIND, VERSION) if found == KIND else Reader(folder, UNFINISHED, VERSION)
        _check_run(folder, reader.manifest.get("run"), self.run)
        if found == KIND:
            self.complete = reader
        else:
            for file in reader.checksums:  # damage shows now rather than at the end
                reader.check(file)
            self.progress, self._steps = reader.manifest["progress"], reader.manifest["steps"]
        self.files = Growing(folder, reader.checksums, found, _NAMES, self._check_held)
        self.files.sweep()

    @property
    def due(self) -> bool:
        """Whether it is time for a step."""
        return time.monotonic() >= self._last + max(_EVERY, _SHARE * self._took)

    @property
    def due_early(self) -> bool:
        """Whether a step may be made where it is a good place for one."""
        return time.monotonic() >= self._last + _SHARE * self._took

    def keep(self, file: str, tensors: Mapping[str, Tensor]) -> None:
        """Begin to write the file of a concept that is over. At most one is on its way: its tensors stay in memory.

        Raises:
            StoreError: it, or what was begun before, could not be written; the last complete step still counts.
        """
        self._behind.wait()
        self._behind.do(partial(self.files.add, file, tensors))

    def state(self) -> dict[str, Tensor]:
        """The growing sums as of the last step."""
        file = self._state_file()
        return self.files.tensors(file) if file in self.files.checksums else {}

    def step(self, progress: Mapping[str, Any], state: Mapping[str, Tensor], concepts: Collection[str]) -> None:
        """Write how far the run has come: it goes on from here if the process ends. Where no sum grows, the step is
        begun, and counts once it is complete.

        Args:
            progress: JSON.
            state: the growing sums.
            concepts: the files of concepts that are over; `keep` began them.

        Raises:
            StoreError: it, or what was begun before, could not be written; the last complete step still counts.
        """
        self.progress = json.loads(json.dumps(progress))  # as it is now, and as it will be read
        self._steps += 1
        values = {"run": self.run, "steps": self._steps, "progress": self.progress}
        work = partial(self._step, values, state, self._state_file(), list(concepts))
        if state:  # it changes with the next batch
            self._behind.wait()
            work()
        else:
            self._behind.do(work)

    def restart(self) -> None:
        """Forget what was counted so far."""
        self.step({}, {}, ())
        self._behind.wait()

    def finish(self, manifest: Mapping[str, Any], concepts: Collection[str]) -> None:
        """Turn the folder into a recording, of the files of its concepts."""
        self._behind.wait()
        self.files.switch(KIND, VERSION, {**manifest, "run": self.run}, concepts)

    def close(self) -> None:
        """Let what was begun come to its end."""
        self._behind.close()

    def _step(self, values: Mapping[str, Any], state: Mapping[str, Tensor], file: str, concepts: list[str]) -> None:
        start = time.monotonic()
        if state:
            self.files.add(file, state)
        self.files.switch(UNFINISHED, VERSION, values, [*concepts, file] if state else concepts)
        self._last = time.monotonic()
        self._took = self._last - start

    def _check_held(self) -> None:
        """Somebody may have deleted the folder under a running process, and another may have made it anew."""
        if not _still_there(self.files.folder / _LOCK, self._handle):
            raise StoreError(
                f"Expected {self.files.folder} to stay as it was while this process records into it; it was deleted, "
                "moved or made anew. What is there now is left alone. Record again, into a folder of its own."
            )

    def _state_file(self) -> str:
        return f"state-{self._steps:08d}.safetensors"


class _Behind:
    """A thread that does one piece of work after another. After an error it does no more of them."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "lashley-checkpoint")
        self._begun: list[Future[None]] = []

    def do(self, work: Callable[[], None]) -> None:
        """Begin it when the work before is done."""
        last = self._begun[-1] if self._begun else None
        self._begun = [*(one for one in self._begun if not one.done()), self._thread.submit(_after, last, work)]

    def wait(self) -> None:
        """Until all of it is done; raises the error that it met."""
        if self._begun:
            self._begun[-1].result()

    def close(self) -> None:
        """Until what was begun is done, for good; who cares for errors has waited before. An interruption drops what
        was not begun, and waits too: the lock goes next, and nobody may write to the folder after that.
        """
        self._thread.shutdown(wait=False)
        interrupted: KeyboardInterrupt | None = None
        while not all(one.done() for one in self._begun):
            try:
                wait(self._begun)  # and not for the thread: interrupted once, `join` takes it for dead (Python 3.11)
            except KeyboardInterrupt as error:
                interrupted = error
                for one in self._begun:
                    one.cancel()
        if interrupted is not None:
            raise interrupted


def _after(before: Future[None] | None, work: Callable[[], None]) -> None:
    if before is not None:
        before.result()
    work()


@contextmanager
def opened(path: str | os.PathLike[str], run: Mapping[str, Any]) -> Iterator[Checkpoint]:
    """The checkpoint in a folder, made where there is none, for this process alone until the block ends.

    Args:
        run: what identifies the run, as JSON: field by field the same when it goes on.

    Raises:
        StoreError: another process works on it, another run made it, it is damaged, or it holds other files.
    """
    folder = Path(path).resolve()
    with alone(folder) as handle, contextlib.closing(Checkpoint(folder, run, handle)) as checkpoint:
        yield checkpoint


@contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Nobody else works on the folder, which is made where there is none, until the block ends. Gives the lock.

    Raises:
        StoreError: another process works on it, or another thread of this one.
    """
    if folder in _HELD:
        raise _busy(folder, "this process")
    _HELD.add(folder)
    try:
        handle = _acquire(folder)
        try:
            yield handle
        finally:
            _release(folder, handle)
    finally:
        _HELD.discard(folder)


def _acquire(folder: Path) -> int:
    """Lock the folder for this process."""
    path = folder / _LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            if not _lock(handle):
                holder = os.read(handle, 200).decode(errors="replace")
                os.close(handle)
                raise _busy(folder, holder or "another process")
            if _still_there(path, handle):
                with contextlib.suppress(OSError):  # for others to read; a full disk is found out soon enough
                    os.ftruncate(handle, 0)
                    os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return handle
            os.close(handle)  # its last owner deleted it between our two lines
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"Could not write to {folder}: {error}. Choose another place.") from error


def _release(folder: Path, handle: int) -> None:
    if _still_there(folder / _LOCK, handle):  # else it is another's
        with contextlib.suppress(OSError):  # a lock file that stays locks nobody out
            (folder / _LOCK).unlink()
    os.close(handle)


def _still_there(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except (FileNotFoundError, NotADirectoryError):
        return False


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> bool:
        os.lseek(handle, 1 << 20, os.SEEK_SET)  # past the text, which others may read
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
        return True
else:
    import fcntl

    def _lock(handle: int) -> bool:
        # Not flock: the workers of a data loader would hold on to it after their parent was killed.
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True


def _busy(folder: Path, holder: str) -> StoreError:
    return StoreError(
        f"Expected nobody to write to {folder}, but {holder} does. Wait for it to end, or choose another folder."
    )


def _check_empty(folder: Path) -> None:
    if (folder / MANIFEST).exists():
        raise StoreError(
            f"{folder / MANIFEST} is damaged: it does not say what the folder is. Copy the folder again, or delete it "
            "to start anew."
        )
    others = sorted(path.name for path in folder.iterdir() if path.name not in (_LOCK, NEXT))
    if others:
        raise StoreError(
            f"Expected {folder} to be empty, absent or a checkpoint, got a folder with other files: {others[0]}"
            + (f" and {len(others) - 1} more" if len(others) > 1 else "")
            + ". Choose another folder."
        )


def _check_run(folder: Path, there: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    if there is None:
        raise StoreError(
            f"Expected {folder} to be a checkpoint of this run, got a recording that was made without checkpoint=. "
            "Load it with lashley.Recording.load, or choose another folder."
        )
    differ = [field for field in {**there, **now} if there.get(field) != now.get(field)]
    if differ:
        lines = [f"{field}: {_side(there, now, field)} there, {_side(now, there, field)} now" for field in differ]
        raise StoreError(
            f"Expected the checkpoint in {folder} to be of this run, got one of another: {'; '.join(lines)}. Nothing "
            "there was changed. Record as then, choose another folder, or delete this one to start anew."
        )


def _side(mine: Mapping[str, Any], other: Mapping[str, Any], field: str) -> str:
    """One side of a difference; of long values what differs first."""
    ours, theirs = (_entries(side.get(field)) for side in (mine, other))
    if ours is None or theirs is None:
        return repr(mine.get(field))
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    shown = ", ".join(f"{name!r}: {ours[name]!r}" if name in ours else f"no {name!r}" for name in names[:3])
    return f"{{{shown}{', ...' if len(names) > 3 else ''}}}"


def _entries(value: Any) -> Mapping[Any, Any] | None:
    if isinstance(value, list):
        return dict(enumerate(value))
    return value if isinstance(value, dict) else None
