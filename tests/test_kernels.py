"""`lashley.kernels`: faster products are the same to rounding, and only taken where torch means the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lashley
from helpers import assert_near
from lashley import kernels
from lashley.moments import Moment

HAS_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """As on a processor whose units MKL leaves idle: shapes of what oneDNN was given. Without oneDNN it never is."""
    seen: list[tuple[int, ...]] = []
    onednn = kernels._onednn

    def spy(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        seen.append((*x.shape, len(weight)))
        assert weight.is_contiguous() or weight.mT.is_contiguous()
        return onednn(x, weight, bias)

    monkeypatch.setattr(kernels, "idle_units", lambda: HAS_ONEDNN)
    monkeypatch.setattr(kernels, "_onednn", spy)
    yield seen


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("lead", [(), (1,)])
def test_a_product_is_that_of_torch(lead: tuple[int, ...], transposed: bool, taken: list[tuple[int, ...]]) -> None:
    a = gaussian(*lead, 130, 120)
    b = gaussian(*lead, 90, 120, seed=1).mT if transposed else gaussian(*lead, 120, 90, seed=1)
    found = kernels.matmul(a, b)
    assert found.shape == (*lead, 130, 90)
    assert_near(found.double(), a.double() @ b.double(), rel=1e-6)
    assert taken == [(130, 120, 90)] * HAS_ONEDNN


def test_a_matrix_with_gaps_is_copied_first(taken: list[tuple[int, ...]]) -> None:
    """oneDNN would take a hundred times as long; the spy looks."""
    wide = gaussian(200, 400)
    assert_near(kernels.matmul(wide[:, ::2], wide[:, 1::2].mT), wide[:, ::2] @ wide[:, 1::2].mT, rel=1e-6)
    assert len(taken) == HAS_ONEDNN


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (gaussian(300, 200).double(), gaussian(200, 300).double()),
        (gaussian(300, 200).bfloat16(), gaussian(200, 300).bfloat16()),
        (gaussian(2, 300, 200), gaussian(2, 200, 300)),
        (gaussian(3, 2), gaussian(2, 3)),
        (gaussian(0, 200), gaussian(200, 30000)),
    ],
    ids=["float64", "bfloat16", "two matrices", "small", "empty"],
)
def test_what_torch_does_as_well_is_left_to_it(a: Tensor, b: Tensor, taken: list[tuple[int, ...]]) -> None:
    assert torch.equal(kernels.matmul(a, b), a @ b)
    assert not taken


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # that `flags` sets too, for GPUs
def test_the_switch_of_torch_turns_it_off(taken: list[tuple[int, ...]]) -> None:
    a, b = gaussian(300, 200), gaussian(200, 300)
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(kernels.matmul(a, b), a @ b)
    assert not taken


def test_linear_layers_inside_swift(taken: list[tuple[int, ...]]) -> None:
    model = nn.Sequential(nn.Linear(200, 150), nn.ReLU(), nn.Linear(150, 120, bias=False))
    x = gaussian(4, 50, 200)
    with torch.no_grad():
        expected = model(x)
        assert not taken
        with kernels.swift():
            assert_near(model(x), expected, rel=1e-6)
            assert_near(
                F.linear(input=x, weight=model[2].weight @ model[0].weight),
                x @ model[0].weight.mT @ model[2].weight.mT,
                rel=1e-5,
            )
        assert len(taken) == 3 * HAS_ONEDNN
        model(x)
        assert len(taken) == 3 * HAS_ONEDNN


def test_the_layers_of_gpt2_inside_swift(taken: list[tuple[int, ...]]) -> None:
    """Theirs are ``addmm(bias, x, weight)`` with a weight ``[in, out]``; another addmm is not meant."""
    x, weight, bias, square = gaussian(200, 150), gaussian(150, 120), gaussian(120), gaussian(200, 120)
    with torch.no_grad(), kernels.swift():
        assert_near(torch.addmm(bias, x, weight), x @ weight + bias, rel=1e-6)
        assert len(taken) == HAS_ONEDNN
        assert_near(torch.addmm(square, x, weight), x @ weight + square, rel=1e-6)
        assert_near(torch.addmm(bias, x, weight, beta=2), x @ weight + 2 * bias, rel=1e-6)
        assert_near(torch.addmm(gaussian(1), x, weight), x @ weight + gaussian(1), rel=1e-6)
    assert len(taken) == HAS_ONEDNN


def test_shapes_repeat_however_long_texts_are(taken: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every shape oneDNN keeps a kernel of half a megabyte: texts of any length, and batches of any size, must not
    bring new ones without end.
    """
    monkeypatch.setattr(kernels, "_WORTH_IT", 0)
    layer = nn.Linear(40, 30)
    with torch.no_grad():
        for length in range(3, 90, 7):
            x = gaussian(2, length, 40, seed=length)
            expected = layer(x)
            with kernels.swift():
                assert_near(layer(x), expected, rel=1e-6)
    assert len(set(taken)) == 3 * HAS_ONEDNN  # 64, 128 and 192 rows
    lengths = {rows: rows + kernels.missing(torch.ones(rows, 2)) for rows in (1, 300, 1023, 1025, 2047, 9000)}
    meant = {1: 64, 300: 320, 1023: 1024, 1025: 1152, 2047: 2048, 9000: 9216}
    assert lengths == (meant if HAS_ONEDNN else {rows: rows for rows in meant})
    assert kernels.missing(torch.ones(300, 2).double()) == 0
    taken.clear()
    for seed, size in enumerate((100, 250, 399, 700, 1033, 1500, 2222)):
        rows = gaussian(size, 40, seed=seed)
        moment = Moment.of(rows, torch.float32)
        assert moment.count == size
        assert_near(moment.square, rows.double().T @ rows.double(), rel=1e-6)
    assert {rows for _, rows, _ in taken} <= {512, 1024, 1536, 2048}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rows_are_filled_up_whatever_they_were_before_they_were_multiplied(
    dtype: torch.dtype, taken: list[tuple[int, ...]]
) -> None:
    columns = gaussian(3, 300).to(dtype)
    found = kernels.filled(columns, 120, torch.float32)
    assert found.dtype == torch.float32 and found.shape == (3, 512 if HAS_ONEDNN else 120)
    assert torch.equal(found[:, :120], columns[:, :120].float()) and not found[:, 120:].any()
    assert kernels.filled(columns, 120, torch.float64).shape == (3, 120)


def test_gradients_need_torch(taken: list[tuple[int, ...]]) -> None:
    layer, x = nn.Linear(200, 150), gaussian(100, 200)
    with kernels.swift():
        layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert not taken


def test_autocast_inside_a_forward_is_respected(taken: list[tuple[int, ...]]) -> None:
    layer, x = nn.Linear(200, 150), gaussian(100, 200)
    with torch.no_grad(), kernels.swift(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert not taken


def test_what_does_not_fit_gets_torchs_own_message(taken: list[tuple[int, ...]]) -> None:
    with torch.no_grad(), kernels.swift():
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            F.linear(gaussian(100, 200), gaussian(150, 100))
        with pytest.raises(RuntimeError):
            F.linear(gaussian(100, 200), gaussian(150, 200), gaussian(7))
    assert not taken


@pytest.mark.parametrize("kind", ["a column", "one number for all"])
def test_a_bias_with_gaps(kind: str, taken: list[tuple[int, ...]]) -> None:
    """oneDNN reads on from its first number, whatever its strides say."""
    x, weight = gaussian(300, 200), gaussian(150, 200)
    bias = gaussian(150, 3)[:, 1] if kind == "a column" else torch.ones(1).expand(150)
    with torch.no_grad(), kernels.swift():
        assert_near(F.linear(x, weight, bias), x @ weight.mT + bias, rel=1e-6)
    assert len(taken) == HAS_ONEDNN


@pytest.mark.filterwarnings("ignore")  # torch calls its sparse and nested tensors a prototype
def test_tensors_of_other_layouts_stay_with_torch(taken: list[tuple[int, ...]]) -> None:
    x, weight, bias = gaussian(300, 200), gaussian(150, 200), gaussian(150)
    with torch.no_grad(), kernels.swift():
        expected = x @ weight.mT
        assert_near(F.linear(x.to_sparse(), weight), expected, rel=1e-6)
        assert_near(F.linear(x, weight.to_sparse_csr(), bias), expected + bias, rel=1e-6)
        assert_near(torch.addmm(bias, x.to_sparse(), weight.mT), expected + bias, rel=1e-6)
        nested = F.linear(torch.nested.nested_tensor([x[:100], x[100:]]), weight, bias)
        assert_near(torch.cat(nested.unbind()), expected + bias, rel=1e-6)
        if torch.backends.mkldnn.is_available():
            assert_near(F.linear(x.to_mkldnn(), weight.to_mkldnn()).to_dense(), expected, rel=1e-6)
    assert not taken


def test_classes_of_tensors_stay_with_torch(taken: list[tuple[int, ...]]) -> None:
    class Mine(Tensor):
        __torch_function__ = torch._C._disabled_torch_function_impl

    x, weight = gaussian(300, 200), gaussian(150, 200)
    with torch.no_grad(), kernels.swift():
        assert_near(F.linear(x.as_subclass(Mine), weight), x @ weight.mT, rel=1e-6)
    assert not taken


def test_a_weight_with_gaps_stays_with_torch(taken: list[tuple[int, ...]]) -> None:
    wide, x = gaussian(150, 400), gaussian(100, 200)
    with torch.no_grad(), kernels.swift():
        assert torch.equal(F.linear(x, wide[:, ::2]), x @ wide[:, ::2].mT)
    assert not taken


def test_a_recording_and_its_engrams_are_the_same_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without, on a network wide enough; without first, so that nothing is left over from one to the other."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 300)).eval()
    data = {name: [gaussian(700, 300, seed=seed), gaussian(500, 300, seed=seed + 2)] for seed, name in enumerate("ab")}
    found = []
    for usable in (False, HAS_ONEDNN):
        monkeypatch.setattr(kernels, "idle_units", lambda usable=usable: usable)
        recording = lashley.record(model, data, progress=False)
        found.append((recording.moment("a", "2").square, recording.engram(model, "a")))
    (square, engram), (other, again) = found
    assert_near(other, square, rel=1e-6)
    for name in engram:
        assert_near(again[name].weight, engram[name].weight, rel=1e-4)


def test_the_maker_is_asked_of_the_system() -> None:
    """A fact and no measurement: two runs on a machine must multiply alike."""
    assert kernels._maker()
    assert kernels.idle_units() is kernels.idle_units()
