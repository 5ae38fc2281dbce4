"""From members and a mask to rows: every row goes to its concepts and nowhere else."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from helpers import assert_close
from lashley.data import rows as module
from lashley.data.concepts import Members
from lashley.data.rows import pick, rows_of
from lashley.errors import DataError
from lashley.layers import describe

CPU = torch.device("cpu")
LINEAR = describe("fc", nn.Linear(5, 1))


def rows_by_concept(layer, x, members, mask):
    picks = pick(members, mask, layer, layer.lead(tuple(x.shape)), CPU)
    return {p.concept: torch.cat(list(rows_of(layer, x, p)), dim=1) for p in picks}


def expected(layer, x, members, mask):
    """Row by row: unfold everything, then ask of each row whose sample it is of and whether it counts."""
    lead = layer.lead(tuple(x.shape))
    rows = layer.rows(x).flatten(1, -2)
    counts = torch.ones(lead, dtype=torch.bool)
    if mask is not None:
        counts = mask.reshape(*mask.shape, *[1] * (len(lead) - mask.dim())).expand(lead)
    found = {}
    for concept, samples in members.parts:
        belongs = torch.ones(lead[0], dtype=torch.bool)
        if samples is not None:
            block = lead[0] // members.samples
            belongs = torch.isin(torch.arange(lead[0]) // block, samples)
        chosen = counts & belongs.reshape(-1, *[1] * (len(lead) - 1))
        if chosen.any():
            found[concept] = rows[:, chosen.flatten()]
    return found


@st.composite
def situations(draw):
    samples, block = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    convolution = draw(st.booleans())
    x = torch.arange(float(samples * block * 6 * 5)).reshape(samples * block, 6, 5)
    layer = describe("", nn.Conv1d(6, 2, 2, groups=2, padding=1) if convolution else nn.Linear(5, 1))
    lead = layer.lead(tuple(x.shape))
    mask = None
    if (dims := draw(st.integers(0, len(lead)))) > 0:
        bits = draw(st.lists(st.booleans(), min_size=math.prod(lead[:dims]), max_size=math.prod(lead[:dims])))
        mask = torch.tensor(bits).reshape(lead[:dims])
    if draw(st.booleans()):
        return layer, x, Members([("whole", None)]), mask
    chosen = draw(st.lists(st.booleans(), min_size=samples, max_size=samples))
    member = torch.tensor(chosen).nonzero().flatten()
    other = torch.tensor([not c for c in chosen]).nonzero().flatten()
    return layer, x, Members([("one", member), ("other", other), (None, None)], samples), mask


@given(situation=situations(), chunk=st.sampled_from([1, 7, 2**24]))
def test_every_row_goes_to_its_concepts(situation, chunk):
    layer, x, members, mask = situation
    before = module._CHUNK
    module._CHUNK = chunk
    try:
        found = rows_by_concept(layer, x, members, mask)
    finally:
        module._CHUNK = before
    wanted = expected(layer, x, members, mask)
    assert list(found) == list(wanted)
    for concept, rows in found.items():
        assert_close(rows, wanted[concept])


def test_linear_rows_that_all_count_are_not_copied():
    x, mask = torch.zeros(3, 4, 5), torch.ones(3, 4, dtype=torch.bool)
    layer = describe("", nn.Linear(5, 2))
    [chosen] = pick(Members([("a", torch.arange(3))], 3), mask, layer, (3, 4), CPU)
    [rows] = rows_of(layer, x, chosen)
    assert rows.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


def test_unfolding_is_done_in_pieces(monkeypatch):
    """Nine times the activations at once could be more than there is memory for."""
    monkeypatch.setattr(module, "_CHUNK", 100)
    layer, x = describe("", nn.Conv2d(1, 1, 3)), torch.randn(10, 1, 6, 6)
    [chosen] = pick(Members([("a", None)]), None, layer, layer.lead(tuple(x.shape)), CPU)
    pieces = list(rows_of(layer, x, chosen))
    assert len(pieces) == 10
    assert_close(torch.cat(pieces, dim=1), layer.rows(x).flatten(1, -2))


def test_an_input_without_samples_has_no_rows():
    assert pick(Members([("a", None)]), None, LINEAR, (0, 4), CPU) == []
    assert pick(Members([("a", torch.zeros(0, dtype=torch.long))], 4), None, LINEAR, (4,), CPU) == []


@pytest.mark.parametrize(
    ("lead", "says"),
    [
        (
            (6,),
            r"Expected 4 labels to fit layer 'fc', whose rows have leading dims \[6\].* mapping \{concept: batches\}",
        ),
        ((2, 7), "samples come first. Give a mapping"),
        ((8, 4), r"seems to have positions first \(batch_first=False\)"),
        ((7, 4), "positions first"),
    ],
)
def test_labels_that_do_not_fit_the_samples_are_refused(lead, says):
    with pytest.raises(DataError, match=says):
        pick(Members([("a", torch.arange(2))], 4), None, LINEAR, lead, CPU)


def test_samples_flattened_with_their_positions():
    [chosen] = pick(Members([("a", torch.tensor([1, 3]))], 4), None, LINEAR, (8, 5), CPU)
    assert chosen.samples.tolist() == [2, 3, 6, 7]
    frames = describe("conv", nn.Conv2d(1, 1, 1))  # a convolution knows which dim the samples are in
    [chosen] = pick(Members([("a", torch.tensor([1, 3]))], 4), None, frames, (8, 4, 4), CPU)
    assert chosen.samples.tolist() == [2, 3, 6, 7]
