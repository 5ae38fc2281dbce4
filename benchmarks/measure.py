"""Measuring on a machine that others use too: alternating repeats, the best of each step, what a step is made of."""

from __future__ import annotations

import functools
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

__all__ = ["Stopwatch", "calls_of", "parts_of", "peak_bytes", "rounded"]


class Stopwatch:
    """Seconds per step, over several rounds in which every step has its turn, so that a busy machine slows all alike.

    Attributes:
        wall: ``{step: [seconds, one per round]}``.
        cpu: the same in seconds of this process's processor time, which waiting for others does not count in.
    """

    def __init__(self) -> None:
        self.wall: dict[str, list[float]] = {}
        self.cpu: dict[str, list[float]] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall.setdefault(step, []).append(time.perf_counter() - wall)
        self.cpu.setdefault(step, []).append(time.process_time() - cpu)

    @property
    def best(self) -> dict[str, float]:
        """The fastest round of each step: what the machine does when nobody is in the way."""
        return {step: min(rounds) for step, rounds in self.wall.items()}

    @property
    def best_cpu(self) -> dict[str, float]:
        return {step: min(rounds) for step, rounds in self.cpu.items()}


@contextmanager
def parts_of(parts: Mapping[str, Iterable[tuple[Any, str]]]) -> Iterator[dict[str, float]]:
    """Processor seconds in named functions while the block runs, each without what others of them took inside it.

    Args:
        parts: ``{part: [(owner, name of its function), ...]}``; the owner is a module or a class.

    Yields:
        ``{part: seconds}`` with one more, "rest", for the time that was spent in none of them.
    """
    spent = dict.fromkeys([*parts, "rest"], 0.0)
    running = ["rest"]
    since = time.process_time()

    def switch() -> None:
        nonlocal since
        now = time.process_time()
        spent[running[-1]] += now - since
        since = now

    def counted(function: Any, part: str) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            switch()
            running.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                switch()
                running.pop()

        return wrapper

    originals = [(owner, name, vars(owner)[name], part) for part, where in parts.items() for owner, name in where]
    try:
        for owner, name, function, part in originals:
            setattr(owner, name, counted(function, part))
        yield spent
    finally:
        switch()
        for owner, name, function, _ in originals:
            setattr(owner, name, function)


@contextmanager
def calls_of(names: Iterable[str]) -> Iterator[dict[str, int]]:
    """How often functions of `torch.linalg` are called while the block runs: ``{name: calls}``."""
    counts = dict.fromkeys(names, 0)
    originals = {name: getattr(torch.linalg, name) for name in counts}

    def counted(name: str) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return originals[name](*args, **kwargs)

        return wrapper

    try:
        for name in counts:
            setattr(torch.linalg, name, counted(name))
        yield counts
    finally:
        for name, function in originals.items():
            setattr(torch.linalg, name, function)


def peak_bytes() -> int:
    """The most memory this process had at any time."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux counts what the parent had into the child's ru_maxrss
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def rounded(value: Any) -> Any:
    """Floats to six significant digits: more would be noise in a file that people read."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
