"""A bar on a terminal, plain lines in a pipe, silence where nobody asked."""

from __future__ import annotations

import io
import sys

import pytest

from lashley import progress
from lashley.progress import track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Time passes when an item is taken."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock.monotonic)
    return clock


def ticking(clock, count, seconds):
    for number in range(count):
        clock.now += seconds
        yield number


@pytest.mark.parametrize("show", [None, True, False])
@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_every_item_comes_through(monkeypatch, show, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    assert list(track(iter("abc"), 3, "recording", "batches", show)) == ["a", "b", "c"]
    assert list(track([], 0, "recording", "batches", show)) == []


@pytest.mark.parametrize(
    ("stream", "show", "speaks"),
    [
        (Terminal, None, True),
        (Terminal, True, True),
        (Terminal, False, False),
        (io.StringIO, None, False),
        (io.StringIO, True, True),
        (io.StringIO, False, False),
    ],
)
def test_who_is_told(monkeypatch, stream, show, speaks):
    out = stream()
    monkeypatch.setattr(sys, "stderr", out)
    list(track(range(3), 3, "recording", "batches", show))
    assert bool(out.getvalue()) == speaks


def test_a_terminal_gets_a_bar(monkeypatch):
    out = Terminal()
    monkeypatch.setattr(sys, "stderr", out)
    list(track(range(3), 3, "recording", "batches", None))
    assert "recording:   0%" in out.getvalue()
    assert "0/3" in out.getvalue()
    assert "? batches/s" in out.getvalue()
    assert "\r" in out.getvalue()


def test_a_pipe_gets_a_line_now_and_then(capsys, clock):
    list(track(ticking(clock, 10, 2.0), 10, "recording", "batches", True))
    assert capsys.readouterr().err.splitlines() == [
        "recording: 3/10 batches, 0.5 batches/s, 14 s left",
        "recording: 6/10 batches, 0.5 batches/s, 8 s left",
        "recording: 9/10 batches, 0.5 batches/s, 2 s left",
        "recording: 10 batches in 20.0 s",
    ]


def test_without_a_total_there_is_no_time_left(capsys, clock):
    list(track(ticking(clock, 3, 3.0), None, "recording", "batches", True))
    assert capsys.readouterr().err.splitlines() == [
        "recording: 2 batches, 0.3 batches/s",
        "recording: 3 batches in 9.0 s",
    ]


def test_work_that_breaks_off_claims_no_end(capsys, clock):
    def breaks():
        yield from ticking(clock, 4, 3.0)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        list(track(breaks(), 9, "recording", "batches", True))
    assert "in 12" not in capsys.readouterr().err
