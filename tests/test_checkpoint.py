"""Recordings that survive: killed at any point and gone on with, they are what they would have been, to the bit."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

import killing
import lashley
from helpers import assert_near, gaussian
from lashley import Recording, checkpoint, record, store
from lashley.errors import DataError, LashleyError, LashleyWarning, StoreError
from lashley.layers import describe
from lashley.moments import Accumulator, Counts, Moment
from lashley.products import Product, Products

ROOT = Path(__file__).resolve().parent.parent
FORMS = ["mapping", "labels", "overlap"]
KEEPS = ["moments", "products"]


class Stopped(Exception):
    """What the data raise in place of a kill, where one process is enough."""


class Stopping:
    """Batches that raise after so many, once; and count how often they were read."""

    def __init__(self, batches: list[Any], after: int | None = None) -> None:
        self.batches, self.after, self.read = batches, after, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self.batches):
            if number == self.after:
                self.after = None
                raise Stopped
            self.read += 1
            yield batch


@pytest.fixture(autouse=True)
def after_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_EVERY", 0)
    monkeypatch.setattr(checkpoint, "_SHARE", 0)


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()


def data(rows: int = 12) -> dict[str, list[Tensor]]:
    return {name: list(gaussian(rows, 6, seed=seed).split(4)) for seed, name in enumerate("abc")}


def stopped(folder: Path, concept: str = "b", after: int = 2, **how: Any) -> None:
    """Leaves a run in the folder that came so far in that concept."""
    with pytest.raises(Stopped):
        record(mlp(), {**data(), concept: Stopping(data()[concept], after)}, checkpoint=folder, **how)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def assert_same(one: Recording, two: Recording) -> None:
    """To the bit."""
    __tracebackhide__ = True
    assert (one.concepts, one.sites, one.keep, one.overlapping) == (two.concepts, two.sites, two.keep, two.overlapping)
    assert (one._shards, one._folds) == (two._shards, two._folds)
    for site in range(len(one.sites)):
        for mine, theirs in zip(kept(one, site), kept(two, site), strict=True):
            assert mine.count == theirs.count
            assert mine.product == theirs.product
            a, b = mine.pack(), theirs.pack()
            assert a.keys() == b.keys()
            assert all(torch.equal(a[name], b[name]) for name in a)


def kept(recording: Recording, site: int) -> list[Any]:
    held = recording._moments[site]
    return [*(part for concept in recording.concepts for part in held[concept]), *recording._all(site)]


# Sums go on exactly where they were.


def fill(total: Any, number: int) -> None:
    seeded = torch.Generator().manual_seed(number)
    if isinstance(total, Counts):
        total.add_indices(torch.randint(0, 5, (7,), generator=seeded))
    elif isinstance(total, Accumulator):
        rows = torch.randn(total.matrices, 90, total.dim, generator=seeded)
        total.add(rows.double() if number == 2 else rows)
    else:
        total.add_images(torch.randn(3, 4, 5, 5, generator=seeded))
        total.add(torch.randn(2, 3, total.dim, generator=seeded))


CONV = describe("", nn.Conv2d(4, 4, 3, padding=1, groups=2))
SUMS: dict[str, Callable[[], Any]] = {
    "thin": lambda: Accumulator(2000),
    "square": lambda: Accumulator(9, 2),
    "wide": lambda: Accumulator(300),
    "float32": lambda: Accumulator(9, 1, torch.float32),
    "shifts": CONV.accumulator,
    "products": lambda: Products(gaussian(2, 3, 7), torch.float32),
    "counts": lambda: Counts(5),
}


def test_a_system_that_keeps_files_in_memory_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("os.posix_fadvise", refuse, raising=False)
    monkeypatch.setattr("os.POSIX_FADV_DONTNEED", 4, raising=False)
    net, batches = nn.Sequential(nn.Linear(3, 2)), {name: [gaussian(9, 3).float()] for name in "ab"}
    recording = record(net, batches, checkpoint=tmp_path / "folder", progress=False)
    assert Recording.load(tmp_path / "folder").concepts == recording.concepts == ("a", "b")


def test_sums_in_blocks_of_other_widths_go_on() -> None:
    """As states of before have them."""
    rows = torch.randn(2, 900, 200, generator=torch.Generator().manual_seed(0))
    whole, part = Accumulator(200, 2, torch.float64), Accumulator(200, 2, torch.float64)
    whole.add(rows)
    part.add(rows[:, :500])
    state = {name: tensor for name, tensor in part.state().items() if not name.startswith(("block", "pending"))}
    square = rows[:, :500].double().mT @ rows[:, :500].double()
    state |= {f"block.{k}": square[:, 50 * k :, 50 * k : 50 * k + 50] for k in range(4)}
    begun = Accumulator(200, 2, torch.float64)
    begun.restore(state, torch.device("cpu"))
    begun.add(rows[:, 500:])
    for mine, theirs in zip(begun.moments(), whole.moments(), strict=True):
        assert mine.count == theirs.count
        assert_near(mine.square, theirs.square, rel=1e-14)


def test_sums_go_on_to_the_bit_where_many_rows_wait_beside_blocks() -> None:
    """More than are gathered for a product: they came as a thin moment, and a square one after them."""
    many, few = gaussian(1035, 1040), gaussian(1200, 1040, seed=1)
    whole, part = Accumulator(1040), Accumulator(1040)
    for total in (whole, part):
        total.add(many.unsqueeze(0))
        total.include([Moment.of(few)])
    begun = Accumulator(1040)
    begun.restore(part.state(), torch.device("cpu"))
    for total in (whole, begun):
        total.add(few[:300].unsqueeze(0))
    assert torch.equal(begun.moments()[0].square, whole.moments()[0].square)


@pytest.mark.parametrize("make", SUMS.values(), ids=SUMS)
@pytest.mark.parametrize("every", [1, 3, 16])
def test_sums_go_on_to_the_bit(make: Callable[[], Any], every: int, tmp_path: Path) -> None:
    whole, part = make(), make()
    for number in range(18):
        if number % every == 0:
            save_file({k: v.clone().contiguous() for k, v in part.state().items()}, tmp_path / "state")
            part = make()
            part.restore(load_file(tmp_path / "state"), torch.device("cpu"))
        fill(whole, number)
        fill(part, number)
        assert part.count == whole.count
    results = [t.products() if isinstance(t, Products) else t.moments() for t in (whole, part)]
    for mine, theirs in zip(*results, strict=True):
        assert (mine.count, mine.product) == (theirs.count, theirs.product)
        a, b = mine.pack(), theirs.pack()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_sum_that_went_on_does_not_share_memory_with_what_it_was_read_from() -> None:
    total, other = Accumulator(3), Accumulator(3)
    total.add(gaussian(1, 2000, 3))
    state = total.state()
    before = {name: tensor.clone() for name, tensor in state.items()}
    other.restore(state, torch.device("cpu"))
    other.add(gaussian(1, 2000, 3, seed=1))
    assert all(torch.equal(before[name], state[name]) for name in state)


# With a checkpoint, without one, and after a stop.


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_changes_no_bit(form: str, keep: str, tmp_path: Path) -> None:
    plain = killing.run(form, 20, keep=keep)
    saved = killing.run(form, 20, keep=keep, checkpoint=tmp_path / "run")
    assert_same(saved, plain)
    assert_same(Recording.load(tmp_path / "run"), plain)
    assert_same(killing.run(form, 20, keep=keep, checkpoint=tmp_path / "run"), plain)
    saved.save(tmp_path / "copy")
    assert_same(Recording.load(tmp_path / "copy"), plain)
    model = killing.Net()
    with pytest.warns(LashleyWarning) if form == "overlap" else nothing():
        engrams = [r.engram(model, list(plain.concepts[:2])) for r in (plain, saved)]
    for name, delta in engrams[0].items():
        assert_near(delta.weight, engrams[1][name].weight, rel=1e-6)


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize(("concept", "after"), [("a", 0), ("a", 1), ("b", 0), ("b", 2), ("c", 3)])
def test_it_goes_on_where_it_stopped(concept: str, after: int, keep: str, tmp_path: Path) -> None:
    plain = record(mlp(), data(), keep=keep)
    batches: dict[str, Any] = {name: Stopping(b) for name, b in data(rows=14).items()}
    expected = record(mlp(), batches, keep=keep)
    batches[concept].after = after
    calls = []
    how: dict[str, Any] = {"checkpoint": tmp_path, "keep": keep, "forward": lambda m, x: calls.append(x) or m(x)}
    with pytest.raises(Stopped):
        record(mlp(), batches, **how)
    before = len(calls)
    again = record(mlp(), batches, **how)
    assert before == "abc".index(concept) * 4 + after
    assert len(calls) == 12  # no batch was counted twice
    assert_same(again, expected)
    assert again._shards != plain._shards


def test_a_run_that_is_stopped_again_and_again(tmp_path: Path) -> None:
    batches = {name: Stopping(b) for name, b in data().items()}
    for concept in "abc":
        for after in range(3):
            batches[concept].after = after
            with pytest.raises(Stopped):
                record(mlp(), batches, checkpoint=tmp_path)
    assert_same(record(mlp(), batches, checkpoint=tmp_path), record(mlp(), data()))


def test_steps_are_seldom_where_batches_are_quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(checkpoint, "_SHARE", 0)
    steps = []
    step = checkpoint.Checkpoint.step
    monkeypatch.setattr(checkpoint.Checkpoint, "step", lambda self, *args: steps.append(1) or step(self, *args))
    record(mlp(), data(rows=400), checkpoint=tmp_path)
    assert len(steps) == 3  # at the start, and where one concept follows another


class AtOnce:
    """In place of the thread."""

    def do(self, work: Callable[[], None]) -> None:
        work()

    def wait(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("concepts", "expected"),
    [
        (1, [1, 32, 63, 94, 125, 156]),  # every half minute
        (6, [1, 28, 54, 80, 106, 132]),  # where a concept is over, every 25 seconds
        (15, [1, 23, 44, 65, 86, 107, 128, 149]),  # every second time, as it would take more than a twentieth of it
    ],
    ids=["one concept", "long ones", "short ones"],
)
def test_steps_take_a_small_part_of_the_time(
    concepts: int, expected: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(checkpoint, "_Behind", AtOnce)
    clock = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])
    steps = []
    switch = store.Growing.switch

    def slow(self: Any, kind: str, *args: Any) -> None:
        clock[0] += 1
        switch(self, kind, *args)
        if kind == checkpoint.UNFINISHED:
            steps.append(clock[0])

    class Batches:
        def __iter__(self) -> Iterator[Tensor]:
            for batch in gaussian(150 // concepts, 1, 6):
                clock[0] += 1
                yield batch

    monkeypatch.setattr(store.Growing, "switch", slow)
    record(mlp(), {str(number): Batches() for number in range(concepts)}, checkpoint=tmp_path)
    assert steps == expected


def test_concepts_are_written_while_the_next_is_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun, counted = threading.Event(), threading.Event()
    write = store._write_tensors

    def slow(path: Path, tensors: Any) -> int:
        if path.name == "concept-0000.safetensors":
            begun.set()
            assert counted.wait(30)
        return write(path, tensors)

    def forward(model: nn.Module, batch: Tensor) -> object:
        if begun.is_set():
            counted.set()  # a batch of the next concept
        return model(batch)

    monkeypatch.setattr(store, "_write_tensors", slow)
    monkeypatch.setattr(checkpoint, "_EVERY", 30)
    batches = data()
    found = record(mlp(), {**batches, "b": Awaiting(batches["b"], begun)}, forward=forward, checkpoint=tmp_path)
    assert counted.is_set()
    assert_same(found, record(mlp(), data()))


class Awaiting(Stopping):
    """Batches of which the second comes after an event."""

    def __init__(self, batches: list[Any], event: threading.Event) -> None:
        super().__init__(batches)
        self.event = event

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(super().__iter__()):
            assert number == 0 or self.event.wait(30)
            yield batch


def test_what_fails_behind_is_raised_by_the_next_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(path: Path, tensors: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    batches = {name: Stopping(b) for name, b in data().items()}
    with monkeypatch.context() as patch:
        patch.setattr(store, "_write_tensors", full)
        patch.setattr(checkpoint, "_EVERY", 30)
        with pytest.raises(StoreError, match="No space left on device"):
            record(mlp(), batches, checkpoint=tmp_path)
    assert [b.read for b in batches.values()] == [3, 3, 1]  # "a" failed during "b", and "b" had to wait for it
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lashley")]
    assert_same(record(mlp(), batches, checkpoint=tmp_path), record(mlp(), data()))


def test_concepts_that_are_over_leave_the_memory(tmp_path: Path) -> None:
    most = []

    def rows(batch: Tensor, site: Any) -> Tensor:
        most.append(sum(len(sums) for sums in runs[-1].tally.sums.values()))
        return torch.ones(len(batch), dtype=torch.bool)

    runs: list[Any] = []
    made = lashley.run.Run.__init__

    def keep_it(self: Any, *args: Any) -> None:
        runs.append(self)
        made(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lashley.run.Run, "__init__", keep_it)
        found = record(mlp(), data(), rows=rows, checkpoint=tmp_path)
    assert max(most) == 2  # the two sites of the concept under way
    assert not runs[-1].tally._kept
    path = tmp_path / "concept-0001.safetensors"
    moved = path.rename(tmp_path / "elsewhere")
    assert found.moment("a", "0").count == 12
    with pytest.raises(StoreError, match="concept-0001.safetensors, a part of the recording; it is missing"):
        found.moment("b", "0")
    moved.rename(path)
    assert found.moment("b", "0").count == 12


def test_all_rows_have_a_file_of_their_own(tmp_path: Path) -> None:
    """So that an engram reads the files of its own concepts only."""
    plain, saved = record(mlp(), data()), record(mlp(), data(), checkpoint=tmp_path)
    for name in "ac":
        (tmp_path / f"concept-000{'abc'.index(name)}.safetensors").rename(tmp_path / name)
    engram = saved.engram(mlp(), "b")
    for name, delta in plain.engram(mlp(), "b").items():
        assert torch.equal(engram[name].weight, delta.weight)
    with pytest.raises(StoreError, match="concept-0000.safetensors"):
        saved.engram(mlp(), "b", reference=["a", "b"])


@pytest.mark.parametrize("keep", KEEPS)
def test_what_is_loaded_is_not_what_lies_in_the_files(keep: str, tmp_path: Path) -> None:
    """Somebody may write over them."""
    plain = killing.run("mapping", 20, keep=keep)
    killing.run("mapping", 20, keep=keep, checkpoint=tmp_path)
    found = Recording.load(tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(bytes(path.stat().st_size))
    assert_same(found, plain)


def test_merged_recordings_add_up_their_concepts(tmp_path: Path) -> None:
    one = record(mlp(), {"a": data()["a"]}, checkpoint=tmp_path / "one")
    two = record(mlp(), {"b": data()["b"]})
    for merged in (lashley.merge(one, two), lashley.merge(two, one)):
        x = torch.cat([*data()["a"], *data()["b"]])
        assert_near(merged.moment(None, "0").square, x.T @ x, rel=1e-14)


# Folders of version 1, with triangles in place of blocks and no file of all rows.


def as_version_1(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    tally = manifest.get("progress", {}).get("tally", {})
    for entries in [tally.get("over", {}), *(site["kept"] for site in manifest.get("sites", ()))]:
        entries.pop("all", None)
    files = {}
    for path in sorted(folder.glob("*.safetensors")):
        if path.stem == "concept-all":
            path.unlink()
            continue
        tensors = load_file(path)
        if not path.stem.startswith("state"):
            for name in [name for name in tensors if name.endswith(".block.0")]:
                prefix = name.removesuffix("block.0")
                dim = len(tensors[f"{prefix}sum"])
                parts = {n.removeprefix(prefix): tensors.pop(n) for n in list(tensors) if n.startswith(prefix)}
                lower = Moment.unpack(parts, 1).square[torch.ones(dim, dim, dtype=torch.bool).tril()]
                tensors |= {f"{prefix}sum": parts["sum"], f"{prefix}triangle": lower}
            path.unlink()
            save_file(tensors, path)
        files[path.name] = store.checksum_of(path)
    values = {k: v for k, v in manifest.items() if k not in ("kind", "version", "files", "checksum")}
    (folder / "manifest.json").write_text(store._manifest_text(manifest["kind"], 1, values, files))


def test_a_recording_of_version_1(tmp_path: Path) -> None:
    plain = record(mlp(), data())
    record(mlp(), data(), checkpoint=tmp_path)
    as_version_1(tmp_path)
    assert "2" in json.loads((tmp_path / "manifest.json").read_text())["sites"][0]["kept"]
    for found in (Recording.load(tmp_path), record(mlp(), data(), checkpoint=tmp_path)):
        for site in range(2):
            for mine, theirs in zip(kept(found, site), kept(plain, site), strict=True):
                assert torch.equal(mine.augmented, theirs.augmented)


@pytest.mark.parametrize("keep", KEEPS)
def test_a_run_of_version_1_goes_on(keep: str, tmp_path: Path) -> None:
    plain = record(mlp(), data(), keep=keep)
    stopped(tmp_path, "c", keep=keep)
    as_version_1(tmp_path)
    found = record(mlp(), data(), keep=keep, checkpoint=tmp_path)
    for site in range(2):
        for mine, theirs in zip(kept(found, site), kept(plain, site), strict=True):
            a, b = (part.matrix if isinstance(part, Product) else part.augmented for part in (mine, theirs))
            assert torch.equal(a, b)


# Killed.


def killed(how: str, seed: int, folder: Path) -> int:
    command = [sys.executable, str(ROOT / "tests" / "killing.py"), how, str(seed), str(folder)]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_random(seed: int, tmp_path: Path) -> None:
    assert killed("random", seed, tmp_path / "run") > 0


@pytest.mark.parametrize("seed", range(3), ids=["mapping", "labels", "behind"])
def test_killed_before_every_change_of_a_file(seed: int, tmp_path: Path) -> None:
    assert killed("every", seed, tmp_path / "run") > 15


# One process at a time.

HOLD = """
import os, sys, time
from lashley.checkpoint import opened
with opened(sys.argv[1], {}):
    worker = os.fork()  # as a data loader has them, who outlive their parent for a while
    if worker:
        print(worker, flush=True)
    time.sleep(60)
"""


def test_two_processes_and_the_lock_of_a_dead_one(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as other:
        assert other.stdout is not None
        worker = int(other.stdout.readline())
        before = contents(tmp_path)
        with pytest.raises(StoreError, match=rf"nobody to write to .*, but process {other.pid} on .* does"):
            record(mlp(), data(), checkpoint=tmp_path)
        assert contents(tmp_path) == before
        other.send_signal(signal.SIGKILL)
        other.wait()
        try:
            assert (tmp_path / "lock").exists()
            with checkpoint.opened(tmp_path, {}) as saved:
                assert saved.progress == {}
            os.kill(worker, 0)  # it is still there
        finally:
            os.kill(worker, signal.SIGKILL)
    assert not (tmp_path / "lock").exists()


def test_one_process_twice(tmp_path: Path) -> None:
    told: list[BaseException] = []

    def second() -> None:
        try:
            record(mlp(), data(), checkpoint=tmp_path / "." / "run", progress=False)
        except StoreError as error:
            told.append(error)

    def forward(model: nn.Module, batch: Tensor) -> object:
        if not told:
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()
        return model(batch)

    first = record(mlp(), data(), forward=forward, checkpoint=tmp_path / "run")
    assert "but this process does" in str(told[0])
    assert_same(first, record(mlp(), data()))


@pytest.mark.parametrize("anew", [False, True], ids=["gone", "made anew"])
def test_a_folder_that_is_taken_away(anew: bool, tmp_path: Path) -> None:
    run, calls, later = tmp_path / "run", [], {}

    def forward(model: nn.Module, batch: Tensor) -> object:
        calls.append(batch)
        if len(calls) == 5:
            shutil.rmtree(run)
            if anew:
                checkpoint._HELD.clear()  # as another process has it
                stopped(run)
                later.update(contents(run))
        return model(batch)

    with pytest.raises(StoreError, match="to stay as it was while this process records into it; it was deleted, moved"):
        record(mlp(), data(), forward=forward, checkpoint=run)
    assert contents(run) == later if anew else not run.exists()


# A disk that fills up, at any of the writes.


@pytest.mark.parametrize("function", ["_write_tensors", "_durable", "_manifest_text", "replace"])
def test_a_full_disk(function: str, tmp_path: Path) -> None:
    expected = record(mlp(), data())
    owner, name = (store.os, "replace") if function == "replace" else (store, function)
    work = getattr(owner, name)
    refusals = 0
    for number in range(100):
        with pytest.MonkeyPatch.context() as patch:
            left = [number]

            def full(*args: Any, left: list[int] = left) -> Any:
                left[0] -= 1
                if left[0] == -1:
                    if function == "_write_tensors":
                        args[0].write_bytes(b"half of it")
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return work(*args)

            patch.setattr(owner, name, full)
            try:
                found = record(mlp(), data(), checkpoint=tmp_path / "run")
            except LashleyError as error:
                assert isinstance(error, StoreError) and "No space left on device. What was there before" in str(error)
                refusals += 1
            else:
                break
        if (tmp_path / "run" / "manifest.json").exists():  # not before the very first step
            assert store._not_ours(tmp_path / "run") == []
        if number % 2:  # going on from there ends well
            shutil.copytree(tmp_path / "run", tmp_path / f"later{number}")
            assert_same(record(mlp(), data(), checkpoint=tmp_path / f"later{number}"), expected)
            shutil.rmtree(tmp_path / f"later{number}")
            shutil.rmtree(tmp_path / "run")
    assert refusals > 5
    assert_same(found, expected)


# Damage.


def flipped(content: bytes) -> bytes:
    return content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]


DAMAGES = {"flipped": flipped, "truncated": lambda content: content[:-3], "empty": lambda content: b"", "gone": None}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_left_alone(damage: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped(run)
    good = contents(run)
    assert {name.split("-")[0] for name in good} == {"concept", "manifest.json", "state"}
    for name, content in good.items():
        if damage is None and name == "manifest.json":
            continue  # a folder with files and no manifest: another test
        (run / name).unlink() if damage is None else (run / name).write_bytes(damage(content))
        before = contents(run)
        with pytest.raises(StoreError, match=name):
            record(mlp(), data(), checkpoint=run)
        assert contents(run) == before
        (run / name).write_bytes(content)
    assert_same(record(mlp(), data(), checkpoint=run), record(mlp(), data()))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_recording_is_refused_when_it_is_read(damage: Any, tmp_path: Path) -> None:
    found = record(mlp(), data(), checkpoint=tmp_path)
    path = tmp_path / "concept-0002.safetensors"
    time.sleep(0.05)  # file systems tell times apart from the next tick on
    path.unlink() if damage is None else path.write_bytes(damage(path.read_bytes()))
    for read in (lambda: found.moment("c", "0"), lambda: Recording.load(tmp_path)):
        with pytest.raises(StoreError, match="concept-0002.safetensors"):
            read()
    with pytest.raises(StoreError, match="concept-0002.safetensors"):
        record(mlp(), data(), checkpoint=tmp_path).moment("c", "0")
    assert found.moment("a", "0").count == 12


def test_a_manifest_that_was_edited(tmp_path: Path) -> None:
    stopped(tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["progress"]["tally"]["rows"]["0"] += 1
    path.write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=r"manifest.json is damaged or was edited"):
        record(mlp(), data(), checkpoint=tmp_path)


# Another run, other data.

OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "weights": ({"model": mlp(1)}, r"weights: {'0.weight': '\w{24}', .*} there, {'0.weight': '\w{24}', .*} now"),
    "concepts": ({"data": {**data(), "d": data()["a"]}}, r"concepts: {no 3} there, {3: 'd'} now"),
    "order": ({"data": dict(reversed(data().items()))}, r"concepts: {0: 'a', 2: 'c'} there, {0: 'c', 2: 'a'} now"),
    "selection": ({"target_modules": ["0"]}, r"layers: {'2': {.*} there, {no '2'} now"),
    "dtype": ({"dtype": torch.float32}, r"dtype: None there, 'torch.float32' now"),
    "keep": ({"keep": "products"}, r"keep: 'moments' there, 'products' now"),
    "rows": ({"rows": lambda batch, site: batch[:, 0] > 0}, r"rows: None there, '<lambda> \w{24}' now"),
    "forward": ({"forward": lambda model, batch: model(batch)}, r"forward: None there, '<lambda> \w{24}' now"),
    "form": (
        {"data": data()["a"], "concept_of": lambda batch: [0] * len(batch)},
        r"data: '{concept: batches}' there, 'batches with concept_of' now; concepts: .* there, None now",
    ),
}


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize(("changes", "says"), OTHERS.values(), ids=OTHERS)
def test_a_checkpoint_of_another_run(changes: dict[str, Any], says: str, complete: bool, tmp_path: Path) -> None:
    if complete:
        record(mlp(), data(), checkpoint=tmp_path)
    else:
        stopped(tmp_path)
    before = contents(tmp_path)
    asked = {"model": mlp(), "data": data(), **changes}
    with pytest.raises(StoreError, match=f"to be of this run, got one of another: {says}.*Nothing there was changed"):
        record(asked.pop("model"), asked.pop("data"), **asked, checkpoint=tmp_path)
    assert contents(tmp_path) == before


class Scaled(nn.Module):
    """A number that no state dict shows."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def normed(mean: float) -> nn.Module:
    norm = nn.BatchNorm1d(6)
    norm.running_mean.fill_(mean)
    return norm


@pytest.mark.parametrize(
    ("one", "two", "says"),
    [
        (normed(0), normed(1), "weights: {'0.running_mean': "),
        (Scaled(1), Scaled(2), "weights: {'0.scale': "),
        (nn.ReLU(), nn.GELU(), r"modules: {'0': 'ReLU\(\)'} there, {'0': \"GELU\(approximate='none'\)\"} now"),
        (nn.LayerNorm(6, eps=1e-5), nn.LayerNorm(6, eps=1e-3), r"modules: {'0': .*eps=1e-05.*} there, .*eps=0.001"),
    ],
    ids=["norm", "buffer", "activation", "setting"],
)
def test_parts_of_the_model_that_are_not_recorded_count_too(
    one: nn.Module, two: nn.Module, says: str, tmp_path: Path
) -> None:
    """They change what the layers after them read."""
    with pytest.raises(Stopped):
        record(nn.Sequential(one, mlp()).double(), {"a": Stopping(data()["a"], 2)}, checkpoint=tmp_path)
    with pytest.raises(StoreError, match=says):
        record(nn.Sequential(two, mlp()).double(), {"a": data()["a"]}, checkpoint=tmp_path)


def test_functions_are_told_by_what_they_do(tmp_path: Path) -> None:
    def how(sign: float) -> dict[str, Any]:
        seen: list[object] = []  # state, which another run does not share
        return {
            "rows": lambda batch, site: sign * batch[:, 0] > 0,
            "forward": lambda model, batch: seen.append(batch) or model(batch),
        }

    stopped(tmp_path, **how(1))
    with pytest.raises(
        StoreError, match=r"run, got one of another: rows: '.*<lambda> \w+' there, '.*<lambda> \w+' now"
    ):
        record(mlp(), data(), checkpoint=tmp_path, **how(-1))
    assert_same(record(mlp(), data(), checkpoint=tmp_path, **how(1)), record(mlp(), data(), **how(1)))


class Labelled:
    """A batch of a class of its own, without a text of its own."""

    def __init__(self, x: Tensor) -> None:
        self.x = x


def test_batches_that_are_objects_are_told_by_their_content(tmp_path: Path) -> None:
    def batches(shift: float = 0) -> dict[str, list[Any]]:
        return {name: [Labelled(x + shift) for x in given] for name, given in data().items()}

    def forward(model: nn.Module, batch: Labelled) -> object:
        return model(batch.x)

    keep = batches()  # so that addresses differ
    with pytest.raises(Stopped):
        record(mlp(), {**keep, "b": Stopping(keep["b"], 2)}, forward=forward, checkpoint=tmp_path)
    with pytest.raises(DataError, match="got others: batch 0 of 'a'"):
        record(mlp(), batches(1), forward=forward, checkpoint=tmp_path)
    found = record(mlp(), batches(), forward=forward, checkpoint=tmp_path)
    assert_same(found, record(mlp(), batches(), forward=forward))


def test_data_that_are_not_what_they_were(tmp_path: Path) -> None:
    stopped(tmp_path)
    before = contents(tmp_path)
    for concept, number, name in (("a", 1, "batch 1 of 'a'"), ("b", 1, "batch 4 of 'b'")):
        changed = data()
        changed[concept][number] = changed[concept][number] + 1
        with pytest.raises(
            DataError, match=rf"got others: {name} was \w{{24}} there and is \w{{24}} now.*in the same order"
        ):
            record(mlp(), changed, checkpoint=tmp_path)
    with pytest.raises(DataError, match="the number of batches was at least 5 there and is 4 now"):
        record(mlp(), {"a": data()["a"], "b": data()["b"][:1], "c": []}, checkpoint=tmp_path)
    assert contents(tmp_path) == before
    later = data()
    later["b"][2] = later["b"][2] + 1  # not counted yet: as good as any
    assert_same(record(mlp(), later, checkpoint=tmp_path), record(mlp(), later))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_that_shuffles_needs_its_seed(workers: int, tmp_path: Path) -> None:
    model, x = mlp(), gaussian(12, 6)

    def loader() -> DataLoader[Tensor]:
        return DataLoader(x, batch_size=4, shuffle=True, num_workers=workers)  # type: ignore[arg-type]

    def stop(model: nn.Module, batch: Tensor) -> object:
        left.append(batch)
        if len(left) == 3:
            raise Stopped
        return model(batch)

    left: list[Tensor] = []
    torch.manual_seed(3)
    with pytest.raises(Stopped):
        record(model, {"a": loader()}, forward=stop, checkpoint=tmp_path)
    torch.manual_seed(4)
    with pytest.raises(DataError, match="batch 0 of 'a' was .* Are they shuffled anew"):
        record(model, {"a": loader()}, forward=stop, checkpoint=tmp_path)
    torch.manual_seed(3)
    found = record(model, {"a": loader()}, forward=stop, checkpoint=tmp_path)
    assert_near(found.moment("a", "0").square, x.T @ x, rel=1e-14)


def test_labels_that_are_not_what_they_were(tmp_path: Path) -> None:
    batches = data()["a"]
    how: dict[str, Any] = {"concept_names": ["x", "y"], "checkpoint": tmp_path}
    with pytest.raises(Stopped):
        record(mlp(), Stopping(batches, 2), lambda batch: [0, 1, 1, 0], **how)
    with pytest.raises(DataError, match=r"got others: batch 0 was \w+ there and is \w+ now"):
        record(mlp(), batches, lambda batch: [1, 0, 1, 0], **how)
    with pytest.raises(DataError, match=r"got others: batch 0 was"):
        record(mlp(), [batch.float() for batch in batches], lambda batch: [0, 1, 1, 0], **how)


def test_a_complete_run_is_given_back_at_once(tmp_path: Path) -> None:
    record(mlp(), data(), checkpoint=tmp_path)

    def never(model: nn.Module, args: Any) -> None:
        raise AssertionError("the model was run")

    model = mlp()
    model.register_forward_pre_hook(never)
    batches = {name: Stopping(b) for name, b in data().items()}
    before = contents(tmp_path)
    assert_same(record(model, batches, checkpoint=tmp_path), record(mlp(), data()))
    assert [b.read for b in batches.values()] == [1, 1, 1]
    assert contents(tmp_path) == before
    changed = data()
    changed["c"][0] = changed["c"][0] + 1
    with pytest.raises(DataError, match="the first batch of 'c' was"):
        record(model, changed, checkpoint=tmp_path)
    with pytest.raises(DataError, match="the number of batches of 'b' was 3 there and is 2 now"):
        record(model, {**data(), "b": data()["b"][:2]}, checkpoint=tmp_path)


def test_saving_where_it_is_already(tmp_path: Path) -> None:
    found = record(mlp(), data(), checkpoint=tmp_path)
    before = contents(tmp_path)
    found.save(tmp_path / ".")
    assert contents(tmp_path) == before
    assert_same(found, record(mlp(), data()))
    (tmp_path / "concept-0001.safetensors").write_bytes(b"damaged")
    with pytest.raises(StoreError, match="concept-0001.safetensors is damaged"):
        found.save(tmp_path)


def test_a_complete_run_with_labels(tmp_path: Path) -> None:
    for _ in range(2):
        found = killing.run("labels", 20, checkpoint=tmp_path)
    assert_same(found, killing.run("labels", 20))
    with pytest.raises(DataError, match="the first batch was"):
        killing.run("labels", 30, checkpoint=tmp_path)


def test_what_can_be_read_once_only_is_refused(tmp_path: Path) -> None:
    batches = iter(data()["a"])
    for given in ({"a": batches}, {"b": data()["b"], "a": batches}):
        with pytest.raises(DataError, match="can be read again beside checkpoint=, got an iterator"):
            record(mlp(), given, checkpoint=tmp_path / "run")
    with pytest.raises(DataError, match="can be read again"):
        record(mlp(), batches, lambda batch: [0] * 4, checkpoint=tmp_path / "run")
    assert len(list(batches)) == 3
    assert not (tmp_path / "run").exists()


# Folders of other kinds.


def test_folders_that_are_no_checkpoint(tmp_path: Path) -> None:
    recording = record(mlp(), data())
    recording.save(tmp_path / "saved")
    recording.engram(mlp(), "a").save(tmp_path / "engram")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    (tmp_path / "mine" / "concept-0000.safetensors").write_text("keep")
    (tmp_path / "file").write_text("keep")
    for name, says in {
        "saved": "got a recording that was made without checkpoint=. Load it with lashley.Recording.load",
        "engram": "a folder with an unfinished recording, got one with engram",
        "mine": "empty, absent or a checkpoint, got a folder with other files: concept-0000.safetensors and 1 more",
        "file": "Could not write to .*file",
        "file/below": "Could not write to .*below",
    }.items():
        place = tmp_path / name
        before = contents(place) if place.is_dir() else None
        with pytest.raises(StoreError, match=says):
            record(mlp(), data(), checkpoint=place)
        assert before is None or contents(place) == before


def test_an_unfinished_recording_is_none_yet(tmp_path: Path) -> None:
    stopped(tmp_path)
    with pytest.raises(StoreError, match="a folder with a recording, got one with unfinished recording"):
        Recording.load(tmp_path)


def test_a_checkpoint_of_a_newer_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkpoint, "VERSION", 9)
    stopped(tmp_path)
    monkeypatch.undo()
    with pytest.raises(StoreError, match=r"an unfinished recording of version 2 or older, got version 9"):
        record(mlp(), data(), checkpoint=tmp_path)


def test_files_are_for_whom_the_folder_is_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        stopped(tmp_path / "run")
        record(mlp(), data(), checkpoint=tmp_path / "done")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for place in ("run", "done") for path in (tmp_path / place).iterdir()}
    assert modes == {0o640}


# What a checkpointed run has in common with any other.


class Turning(nn.Module):
    """Two layers that read one tensor, but for batches that begin with a large number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x) + self.right(x.clone() if x[0, 0] > 50 else x)


@pytest.mark.parametrize("after", [None, 1, 2])
def test_sharing_that_ends(after: int | None, tmp_path: Path) -> None:
    batches = data()
    batches["b"][1] = batches["b"][1] + 100
    plain = record(Turning().double(), batches, exclude_modules=["left"])
    given: dict[str, Any] = {**batches, "c": Stopping(batches["c"], after)}
    with pytest.warns(LashleyWarning, match="recording again, with a moment for each layer"):
        if after is None:
            found = record(Turning().double(), given, checkpoint=tmp_path)
        else:
            with pytest.raises(Stopped):
                record(Turning().double(), given, checkpoint=tmp_path)
    if after is not None:
        found = record(Turning().double(), given, checkpoint=tmp_path)  # without sharing from the start, and no warning
    assert [site.layers for site in found.sites] == [("left",), ("right",)]
    for layer in found.layers:
        assert torch.equal(found.moment("b", layer).augmented, plain.moment("b", "right").augmented)
    assert store._not_ours(tmp_path) == []


def test_where_constants_could_go_is_known_after_a_stop(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    with pytest.raises(Stopped):
        record(net, {"a": Stopping(data()["a"], 2)}, checkpoint=tmp_path)
    found = record(net, {"a": data()["a"]}, checkpoint=tmp_path)
    assert found._folds["0"].norm == "1"
    assert_same(found, record(net, {"a": data()["a"]}))


def test_a_compiled_model_goes_on_as_the_module_that_was_written(tmp_path: Path) -> None:
    model = mlp()
    whole = torch.compile(model, backend="eager")
    with pytest.raises(Stopped):
        record(whole, {"a": Stopping(data()["a"], 2)}, checkpoint=tmp_path)
    found = record(model, {"a": data()["a"]}, checkpoint=tmp_path)
    assert_same(found, record(whole, {"a": data()["a"]}))


@pytest.mark.parametrize("keep", KEEPS)
def test_autocast_reaches_the_forward_and_no_product(keep: str, tmp_path: Path) -> None:
    """The second layer reads bfloat16 numbers, which are then multiplied as they are, in float64."""
    model, batches = mlp().float(), [batch.float() for batch in data()["a"]]

    def forward(model: nn.Module, batch: Tensor) -> object:
        with torch.autocast("cpu", torch.bfloat16):
            return model(batch)

    with pytest.raises(Stopped):
        record(model, {"a": Stopping(batches, 2)}, forward=forward, keep=keep, checkpoint=tmp_path)
    with torch.autocast("cpu", torch.bfloat16):  # around the whole call: it is the forward's alone
        found = record(model, {"a": batches}, forward=forward, keep=keep, checkpoint=tmp_path)
    with torch.no_grad():
        inside = torch.cat([torch.relu(forward(model[0], batch)) for batch in batches]).double()
    square = inside.T @ inside
    assert (found.moment(None, "2").square - square).norm() < 1e-14 * square.norm()
    if keep == "products":
        product = model[2].weight.detach().double() @ square
        assert (found._moments[1]["a"][0].matrix - product).norm() < 1e-14 * product.norm()


class nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no alarms on this system")
def test_an_interrupted_end_leaves_no_thread_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock goes when it is over: a thread that still wrote then would write into somebody else's recording."""
    behind, go, done = checkpoint._Behind(), threading.Event(), []

    def first() -> None:
        assert go.wait(20)
        done.append("first")

    behind.do(first)
    behind.do(lambda: done.append("second"))
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    release = threading.Timer(0.5, go.set)
    release.start()
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            behind.close()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert done == ["first"]
    time.sleep(0.1)
    assert done == ["first"]
