"""Convolution moments from shifted products equal those of unfolded rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import lashley
from lashley.layers import describe
from lashley.moments import Accumulator
from lashley.shifts import Shifts
from tests.helpers import assert_close, assert_near, gaussian


def accumulator_of(layer) -> Shifts:
    made = layer.accumulator()
    assert isinstance(made, Shifts)
    return made


@given(
    axes=st.sampled_from([1, 2]),
    kernel=st.lists(st.sampled_from([1, 3, 5]), min_size=2, max_size=2).filter(lambda k: k[0] > 1),
    dilation=st.sampled_from([1, 2]),
    groups=st.sampled_from([1, 2, 6]),
    channels=st.sampled_from([6, 12, 198]),
    images=st.sampled_from([1, 3, 30]),
    sizes=st.lists(st.integers(1, 7), min_size=2, max_size=2),
    at_once=st.sampled_from([1, 4, 100]),
)
def test_the_moment_is_that_of_the_rows(axes, kernel, dilation, groups, channels, images, sizes, at_once):
    cls, kernel, sizes = (nn.Conv1d, nn.Conv2d)[axes - 1], kernel[:axes], sizes[:axes]
    channels = channels if max(kernel) < 5 else min(channels, 12)  # the oracle's rows would be large, no case more
    margin = [dilation * (k - 1) // 2 for k in kernel]
    module = cls(channels, channels, kernel, padding=margin, dilation=dilation, groups=groups).double()
    layer, x = describe("conv", module), gaussian(images, channels, *sizes)
    shifts = accumulator_of(layer)
    for part in x.split(at_once):
        shifts.add_images(layer.images(part))
    rows = layer.rows(x).flatten(1, -2)
    moments = shifts.moments()
    assert len(moments) == groups
    for moment, mine in zip(moments, rows, strict=True):
        assert moment.count == len(mine)
        assert_near(moment.square, mine.T @ mine, rel=1e-13)
        assert_close(moment.sum, mine.sum(0), atol=1e-10)


@pytest.mark.parametrize(
    "settings",
    [{"stride": 2}, {"padding": 0}, {"padding_mode": "reflect"}, {"kernel_size": 2}, {"kernel_size": 1, "padding": 0}],
    ids=str,
)
def test_other_convolutions_are_unfolded(settings):
    module = nn.Conv2d(**{"in_channels": 3, "out_channels": 4, "kernel_size": 3, "padding": 1, **settings})
    assert isinstance(describe("conv", module).accumulator(), Accumulator)


def test_a_small_concept_keeps_its_rows_and_its_engram_is_low_rank():
    model = nn.Sequential(nn.Conv2d(8, 20, 3, padding=1)).double()
    few, many = gaussian(1, 8, 4, 4), gaussian(60, 8, 4, 4, seed=1)
    recording = lashley.record(model, {"few": [few], "many": many.split(7)})
    assert recording.moment("few", "0").thin and not recording.moment("many", "0").thin
    delta = recording.engram(model, "few")["0"]
    assert delta.factors is not None and delta.factors[0].shape == (20, 16)


def test_products_in_float32_agree_to_its_rounding():
    module = nn.Conv2d(64, 8, 3, padding=1)
    layer, x = describe("conv", module), gaussian(12, 64, 9, 9).float()
    shifts = accumulator_of(layer)
    shifts.add_images(x)
    (moment,), rows = shifts.moments(), layer.rows(x).flatten(1, -2)[0].double()
    assert moment.product == torch.float32
    assert_near(moment.square, rows.T @ rows, rel=1e-6)


def test_a_mask_over_positions_is_unfolded_beside_the_rest():
    """Where a user's mask picks positions the patches of those alone count; both kinds of rows add."""
    model = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1)).double()
    x = gaussian(40, 3, 5, 5)
    mask = torch.zeros(40, 5, 5, dtype=torch.bool)
    mask[:, 1:3] = True
    masks = {20: mask[:20], 40: None}
    recording = lashley.record(
        model,
        {"a": [x[:20], x]},
        rows=lambda batch, site: mask[:20] if len(batch) == 20 else torch.ones(40, dtype=torch.bool),
    )
    layer = describe("0", model[0])
    rows = torch.cat([layer.rows(x[:20])[0][masks[20]], layer.rows(x)[0].flatten(0, 2)])
    moment = recording.moment("a", "0")
    assert moment.count == len(rows)
    assert_near(moment.square, rows.T @ rows, rel=1e-12)


def test_wrong_twin_without_the_borders_disagrees():
    """The full products alone, without what lies at the borders, are another moment: the test above can see."""
    layer, x = describe("conv", nn.Conv2d(2, 2, 3, padding=1).double()), gaussian(30, 2, 4, 4)
    shifts = accumulator_of(layer)
    shifts.add_images(x)
    for window in list(shifts._sums):
        if window.rows or window.columns:
            shifts._sums[window].zero_()
    rows = layer.rows(x).flatten(1, -2)[0]
    square = shifts.moments()[0].square
    assert (square - rows.T @ rows).norm() > 0.05 * (rows.T @ rows).norm()
