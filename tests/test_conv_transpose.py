"""Transposed convolutions as convolutions of a stuffed input."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn

import lashley
from lashley.layers import ConvTransposeLayer, describe
from tests.helpers import assert_close, gaussian

CASES = [
    (kernel, stride, padding, dilation, groups, more)
    for kernel, stride, padding, dilation, groups, more in product((1, 2, 3), (1, 2, 3), (0, 2), (1, 2), (1, 2), (0, 1))
    if more < max(stride, dilation) and 3 * stride + dilation * (kernel - 1) + more + 1 > 2 * padding
]


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_times_matrix_plus_bias_is_what_the_layer_computes(axes, case):
    kernel, stride, padding, dilation, groups, more = case
    if axes == 3 and (kernel, groups) != (3, 2):
        kernel, groups = 3, 2  # the largest form is enough
    cls = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[axes - 1]
    module = cls(4, 6, kernel, stride, padding, more, groups, bias=bool(kernel % 2), dilation=dilation).double()
    layer, x = describe("up", module), gaussian(2, 4, *(4, 5, 4)[:axes])
    assert isinstance(layer, ConvTransposeLayer)
    rows = layer.rows(x)
    with torch.no_grad():
        expected = rows.flatten(1, -2) @ layer.matrix(module.weight).mT
        if layer.bias:
            expected = expected + layer.biases(module.bias)[:, None]
        got = layer.responses(module(x))
    assert_close(got.flatten(1, -2), expected, atol=1e-12)
    assert layer.lead(tuple(x.shape)) == tuple(rows.shape[1:-1])
    assert torch.equal(layer.weight(layer.matrix(module.weight)), module.weight)
    assert_close(layer.rows(x[0]), rows[:, :1])  # a lone sample


def test_target_and_rest_make_the_whole_weight_on_the_range():
    model = nn.Sequential(nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1, groups=1)).double()
    a, b = gaussian(20, 2, 4, 4), gaussian(20, 2, 4, 4, seed=1)
    recording = lashley.record(model, {"a": [a], "b": [b]})
    whole = recording.engram(model, "a") + recording.engram(model, "b")
    blank = lashley.ablate(model, whole)
    with torch.no_grad():
        assert_close(blank(a), torch.zeros_like(model(a)), atol=1e-10)
