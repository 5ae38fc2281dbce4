"""Records in processes that are killed, and checks that what comes out is what an undisturbed one gets.

Run as a program of its own, so that it can fork: `python killing.py HOW SEED FOLDER`. A child records with a checkpoint
in FOLDER and is killed; another goes on. HOW is "random", at random times of a slow run until one comes to its end, or
"every": in turn before each change of a file that the run makes, with a fresh folder each. It prints how many died.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lashley
from lashley import checkpoint

CHANGES = {"os.rename", "os.remove", "os.chmod"}  # of Python's audit events, which come before what they name


class Net(nn.Module):
    """A convolution counted by shifts, one in groups, two layers that share a site."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.groups = nn.Conv2d(4, 4, 2, groups=2)
        self.left = nn.Linear(16, 3)
        self.right = nn.Linear(16, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.groups(self.conv(x).relu()).relu().flatten(1)
        return torch.cat([self.left(x), self.right(x)], dim=1)


class Slow:
    """Batches that take their time."""

    def __init__(self, batches: list[Any], seconds: float = 0.0) -> None:
        self.batches, self.seconds = batches, seconds

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            time.sleep(self.seconds)
            yield batch


def images(seed: int, count: int) -> Tensor:
    return torch.randn(count, 2, 3, 3, generator=torch.Generator().manual_seed(seed))


def run(form: str, size: int, seconds: float = 0.0, **how: Any) -> lashley.Recording:
    """Concepts with few and many rows, in a "mapping", by "labels" or with an "overlap", in batches of this size.
    "behind": a mapping of more concepts, with steps at their ends only, which a thread makes during the next.
    """
    checkpoint._EVERY = 30 if form == "behind" else 0
    if form == "behind":
        data: Any = {str(n): Slow(list(images(n, 4 * n).split(size)), seconds) for n in range(1, 9)}
        return lashley.record(Net(), data, progress=False, **how)
    if form == "mapping":
        data = {c: Slow(list(images(n, n).split(size)), seconds) for c, n in {"few": 2, "many": 90}.items()}
        return lashley.record(Net(), data, progress=False, **how)
    numbers = torch.arange(90)
    labels = numbers % 3 if form == "labels" else torch.stack([numbers % k == 0 for k in (2, 3, 40)], dim=1)
    batches = Slow(list(zip(images(90, 90).split(size), labels.split(size), strict=True)), seconds)
    return lashley.record(Net(), batches, lambda batch: batch[1], concept_names=list("abc"), progress=False, **how)


def child(work: Callable[[], object], after: float | None = None) -> bool:
    """Whether ``work`` came to its end in a process of its own, which is killed after so many seconds."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0, "the child failed"
    return True


def kill_before(number: int, folder: Path) -> None:
    """Kill this process before its ``number``-th change of a file in the folder."""
    left = [number]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        change = event in CHANGES or (event == "open" and args[2] & os.O_CREAT)
        if change and str(args[0]).startswith(str(folder)):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def at_random(seed: int, folder: Path) -> int:
    draw = random.Random(seed)
    form, keep = draw.choice(["mapping", "labels", "overlap", "behind"]), draw.choice(["moments", "products"])
    expected = run(form, 7, keep=keep)
    deaths = 0
    # Ever later, because reading the data up to where the last one died takes time as well.
    while not child(lambda: run(form, 7, 0.01, keep=keep, checkpoint=folder), draw.uniform(0.02, 0.1 + deaths / 50)):
        deaths += 1
    check(folder, expected)
    return deaths


def at_every_change(seed: int, folder: Path) -> int:
    form, keep = [("mapping", "products"), ("labels", "moments"), ("behind", "moments")][seed]
    expected = run(form, 60, keep=keep)

    def work(number: int) -> None:
        kill_before(number, folder)
        run(form, 60, keep=keep, checkpoint=folder)

    deaths = 0
    while not child(partial(work, deaths)):
        deaths += 1
        run(form, 60, keep=keep, checkpoint=folder)
        check(folder, expected)
        shutil.rmtree(folder)
    return deaths


def check(folder: Path, expected: lashley.Recording) -> None:
    """The folder is a recording equal to the expected one to the bit, and holds nothing else."""
    found = lashley.Recording.load(folder)
    assert (found.concepts, found.sites, found.overlapping) == (expected.concepts, expected.sites, expected.overlapping)
    assert found._shards == expected._shards
    for site in range(len(expected.sites)):
        pairs = [(found._moments[site][c], expected._moments[site][c]) for c in expected.concepts]
        pairs.append((found._all(site), expected._all(site)))
        for mine, theirs in pairs:
            for a, b in zip(mine, theirs, strict=True):
                a, b = a.pack() | {"count": torch.tensor(a.count)}, b.pack() | {"count": torch.tensor(b.count)}
                assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), (site, a, b)
    assert lashley.store._not_ours(folder) == []


if __name__ == "__main__":
    torch.set_num_threads(1)
    checkpoint._SHARE = 0  # a step after every batch, or after every concept
    os.fsync = lambda handle: None  # it guards against the machine's end, and takes nine tenths of the time
    how, seed, place = sys.argv[1:]
    print({"random": at_random, "every": at_every_change}[how](int(seed), Path(place)))
