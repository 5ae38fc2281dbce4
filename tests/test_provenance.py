"""Fingerprints change exactly when a tensor does; what made a result is told the same way everywhere."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import gaussian
from lashley.provenance import command, digest, environment, fingerprint

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64]
DTYPES = [*FLOATS, torch.int64, torch.int32, torch.uint8, torch.bool]


def some(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return (10 * gaussian(*shape)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_tensors_have_equal_fingerprints_and_a_change_of_one_number_shows(dtype):
    tensor = some(dtype, 70, 70)  # more than one row of columns, and a rest
    assert fingerprint(tensor) == fingerprint(tensor.clone())
    seen = {fingerprint(tensor)}
    for place in ((0, 0), (58, 33), (69, 69)):
        other = tensor.clone()
        other[place] = other[place] == 0  # 0 becomes 1, everything else 0
        seen.add(fingerprint(other))
    assert len(seen) == 4


@given(size=st.integers(1, 9000), data=st.data())
def test_one_flipped_bit_anywhere_shows(size, data):
    tensor = gaussian(size).float()
    place, bit = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, 31))
    other = tensor.clone()
    other.view(torch.int32)[place] ^= torch.tensor(1).bitwise_left_shift(bit).to(torch.int32)
    assert fingerprint(other) != fingerprint(tensor)


def test_exchanged_rows_and_columns_show():
    tensor = gaussian(8, 4096)
    assert fingerprint(tensor.flip(0)) != fingerprint(tensor)
    assert fingerprint(tensor.roll(1, 1)) != fingerprint(tensor)


def test_the_number_of_threads_does_not_show():
    tensor = gaussian(3000, 500).float()
    threads = torch.get_num_threads()
    try:
        found = set()
        for number in (1, 2, 4):
            torch.set_num_threads(number)
            found.add(fingerprint(tensor))
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1


def test_dtype_and_shape_show_and_layout_does_not():
    zeros = torch.zeros(4, 6)
    assert len({fingerprint(t) for t in (zeros, zeros.reshape(6, 4), zeros.bfloat16(), zeros.int())}) == 4
    tensor = gaussian(4, 3, 5, 5)
    assert fingerprint(tensor.to(memory_format=torch.channels_last)) == fingerprint(tensor)
    assert fingerprint(tensor.mT.contiguous().mT) == fingerprint(tensor)
    assert fingerprint(torch.nn.Parameter(tensor)) == fingerprint(tensor)


def test_nothing_nan_and_conjugates_have_fingerprints():
    assert fingerprint(torch.zeros(0, 3)) == fingerprint(torch.zeros(0, 3)) != fingerprint(torch.zeros(3, 0))
    nan = torch.full((5,), float("nan"))
    assert fingerprint(nan) == fingerprint(nan.clone())
    z = torch.complex(gaussian(5), gaussian(5, seed=1))
    assert fingerprint(z.conj()) == fingerprint(z.conj().resolve_conj()) != fingerprint(z)


def test_the_fingerprint_is_part_of_the_file_format():
    """Recordings on disk hold fingerprints: a change of the algorithm would make all of them refuse their models."""
    assert fingerprint(torch.arange(5000, dtype=torch.float32)) == "6bc4b47f6c7e5921c2cd882e"


def test_a_digest_keeps_its_parts_apart():
    assert len({digest("a", "b"), digest("ab"), digest("b", "a"), digest(b"a", b"b"), digest(), digest("")}) == 6


@pytest.mark.parametrize(
    ("argv", "module", "typed"),
    [
        (["/home/me/.venv/bin/lashley", "demo", "--out", "my demo"], None, "lashley demo --out 'my demo'"),
        (["/x/lashley/__main__.py", "layers"], "lashley.__main__", "python -m lashley layers"),
        (["/x/benchmarks/mnist.py"], "benchmarks.mnist", "python -m benchmarks.mnist"),
        (["/x/my run.py", "3"], None, "python 'my run.py' 3"),
        (["-c"], None, "python -c"),
        ([""], None, "python"),
        ([], None, "python"),
    ],
)
def test_the_command_reads_as_it_was_typed(monkeypatch, argv, module, typed):
    spec = None if module is None else SimpleNamespace(name=module)
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    assert command() == typed


def test_the_environment_is_plain_and_complete():
    facts = environment()
    assert json.loads(json.dumps(facts)) == facts
    assert {"lashley", "torch", "numpy", "safetensors"} <= set(facts["versions"])
    assert facts["threads"] == torch.get_num_threads()
    assert set(facts) == {"versions", "python", "system", "machine", "threads", "devices"}
    facts["versions"].clear()
    assert environment()["versions"]  # nobody can spoil it for the next caller
