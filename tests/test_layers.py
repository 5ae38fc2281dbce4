"""Every layer type says the truth about its module: rows times matrix plus bias is what the module computed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune
from transformers.pytorch_utils import Conv1D

from helpers import assert_close, gaussian
from lashley.errors import LashleyError, ModelError, RecordingError, StoreError
from lashley.layers import ConvLayer, Layer, LinearLayer, TransposedLinearLayer, describe, deviation, layer_type, unwrap
from lashley.layers.base import unusable

DOCS = Path(__file__).resolve().parent.parent / "docs" / "layers.md"
SIZES = st.integers(1, 5)
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def randomised(module: nn.Module) -> nn.Module:
    """The module in float64, its bias away from the zeros that some classes start with."""
    module = module.double()
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter.copy_(gaussian(*parameter.shape, seed=seed))
    return module


def assert_truthful(module: nn.Module, x: torch.Tensor) -> Layer:
    """The identity of `Layer`, and everything else its docstring promises."""
    layer = describe("some.layer", module)
    with torch.no_grad():
        output = module(x)
    rows, responses = layer.rows(x), layer.responses(output)
    assert rows.shape == (layer.matrices, *layer.lead(tuple(x.shape)), layer.dim)
    assert rows.shape == layer.rows(layer.batched(x)).shape
    assert responses.shape == (*rows.shape[:-1], layer.out)
    expected = torch.einsum("m...d,mod->m...o", rows, layer.matrix(module.weight.detach()))
    if layer.bias:
        biases = layer.biases(module.bias.detach())
        assert_close(biases.reshape(-1), module.bias)
        expected += biases.reshape(layer.matrices, *[1] * (expected.dim() - 2), layer.out)
    assert_close(responses, expected, atol=1e-11)
    assert layer.matrix(module.weight).shape == (layer.matrices, layer.out, layer.dim)
    assert_close(layer.weight(layer.matrix(module.weight)), module.weight)
    assert layer.bias == (module.bias is not None)
    assert layer.shape == tuple(module.weight.shape)
    assert Layer.from_json(json.loads(json.dumps(layer.to_json()))) == layer
    assert deviation(layer, module, layer.batched(x), output) < 1e-11
    return layer


# The property, per layer type.


@given(dim=SIZES, out=SIZES, lead=st.lists(st.integers(0, 3), max_size=3), bias=st.booleans())
def test_linear_is_rows_times_matrix(dim, out, lead, bias):
    layer = assert_truthful(randomised(nn.Linear(dim, out, bias=bias)), gaussian(*lead, dim, seed=9))
    assert isinstance(layer, LinearLayer)
    assert (layer.dim, layer.out, layer.matrices) == (dim, out, 1)


@given(dim=SIZES, out=SIZES, lead=st.lists(st.integers(0, 3), min_size=1, max_size=3))
def test_hugging_face_conv1d_is_rows_times_matrix(dim, out, lead):
    layer = assert_truthful(randomised(Conv1D(out, dim)), gaussian(*lead, dim, seed=9))
    assert isinstance(layer, TransposedLinearLayer)
    assert (layer.dim, layer.out, layer.matrices) == (dim, out, 1)


@st.composite
def convolutions(draw: st.DrawFn, axes: int) -> tuple[nn.Module, torch.Tensor]:
    """A convolution with any settings that torch allows, and an input for it."""

    def per_axis(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    groups, inputs, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel, dilation = per_axis(1, 3), per_axis(1, 2)
    padding = draw(st.sampled_from(["same", "valid", "numbers"]))
    stride = (1,) * axes if padding == "same" else per_axis(1, 3)  # torch refuses strides beside "same"
    mode = draw(st.sampled_from(PADDING_MODES))
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    numbers = per_axis(0, 2)
    # Larger than any padding, because reflect and circular take the padding from inside.
    size = [max(r + 1, p + 1, r) + extra for r, p, extra in zip(reach, numbers, per_axis(0, 2), strict=True)]
    module = CONVOLUTIONS[axes](
        groups * inputs,
        groups * outputs,
        kernel,
        stride=stride,
        dilation=dilation,
        groups=groups,
        padding=numbers if padding == "numbers" else padding,
        padding_mode=mode,
        bias=draw(st.booleans()),
    )
    samples = draw(st.sampled_from([(), (1,), (2,)]))
    x = gaussian(*samples, groups * inputs, *size, seed=9)
    if samples and draw(st.booleans()):
        x = x.transpose(0, 1).contiguous().transpose(0, 1)  # a view with its strides in another order
    return randomised(module), x


@pytest.mark.parametrize("axes", [1, 2, 3])
@settings(max_examples=200)
@given(data=st.data())
def test_convolutions_are_rows_times_matrix(axes, data):
    module, x = data.draw(convolutions(axes))
    layer = assert_truthful(module, x)
    assert isinstance(layer, ConvLayer)
    assert layer.matrices == module.groups
    assert layer.dim == module.weight[0].numel()


@pytest.mark.parametrize("mode", PADDING_MODES)
@pytest.mark.parametrize("padding", ["same", "valid", 2])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_every_padding_of_every_convolution(axes, padding, mode):
    """Even kernels and dilation, where "same" pads one more column after the input than before it."""
    kernel, dilation = (4, 3, 2)[:axes], (1, 2, 3)[:axes]
    module = CONVOLUTIONS[axes](2, 3, kernel, dilation=dilation, padding=padding, padding_mode=mode)
    assert_truthful(randomised(module), gaussian(2, 2, *(6, 5, 7)[:axes]))


@pytest.mark.parametrize("multiplier", [1, 2])
def test_a_depthwise_convolution_has_a_matrix_per_channel(multiplier):
    module = randomised(nn.Conv2d(4, 4 * multiplier, 3, groups=4, stride=2))
    layer = assert_truthful(module, gaussian(2, 4, 7, 8))
    assert (layer.matrices, layer.dim, layer.out) == (4, 9, multiplier)


def test_a_patch_is_laid_out_like_the_weight():
    """Channel by channel, then along the kernel's axes, against `unfold`, which has that order."""
    x = gaussian(2, 3, 6, 5)
    module = nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
    patches = nn.functional.unfold(x, (3, 2), dilation=(1, 2), padding=(1, 0), stride=(2, 1))
    assert_close(describe("", module).rows(x).flatten(1, 3)[0], patches.mT.flatten(0, 1))


def test_linear_rows_are_a_view():
    x = gaussian(2, 3, 4)
    rows = describe("", nn.Linear(4, 4)).rows(x)
    assert rows.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


def test_the_orientation_comes_from_the_type_and_not_from_the_shape():
    square, transposed = randomised(nn.Linear(3, 3)), randomised(Conv1D(3, 3))
    weight = square.weight.detach()
    assert_close(describe("", square).matrix(weight)[0], weight)
    assert_close(describe("", transposed).matrix(weight)[0], weight.T)


# Who speaks for whom.


class MyLinear(nn.Linear):
    pass


class MyConv(nn.Conv2d):
    pass


def test_subclasses_count_as_their_base():
    layer = assert_truthful(randomised(MyLinear(3, 2)), gaussian(4, 3))
    assert isinstance(layer, LinearLayer)
    assert layer.type == "MyLinear"
    assert isinstance(assert_truthful(randomised(MyConv(1, 2, 2)), gaussian(2, 1, 3, 3)), ConvLayer)
    assert layer_type(nn.MultiheadAttention(4, 2).out_proj) is LinearLayer


def test_lazy_modules_count_once_they_have_a_weight():
    lazy = nn.LazyConv1d(3, 2)
    with pytest.raises(ModelError, match=r"'c' \(LazyConv1d\).*lazy and has no weight yet. Run one batch"):
        describe("c", lazy)
    lazy(torch.zeros(1, 2, 5))
    assert_truthful(randomised(lazy), gaussian(2, 2, 5))


def test_a_module_that_nobody_speaks_for_is_refused_by_name():
    assert layer_type(nn.LayerNorm(3)) is None
    with pytest.raises(ModelError, match=r"Expected 'norm' .* got LayerNorm. Known are .*Conv2d.*Linear.*subclass"):
        describe("norm", nn.LayerNorm(3))


class Scaled(nn.Linear):
    """Multiplies its input by a fixed number before the weight."""

    def __init__(self, *sizes: int, scale: float) -> None:
        super().__init__(*sizes)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.scale * x)


@dataclass(frozen=True)
class ScaledLayer(LinearLayer, speaks_for=Scaled):
    scale: float = 1.0

    @classmethod
    def of(cls, name: str, module: nn.Module) -> ScaledLayer:
        return replace(super().of(name, module), scale=module.scale)

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        return super().rows(self.scale * x)

    def responses(self, output: torch.Tensor) -> torch.Tensor:
        return super().rows(output)


def test_the_nearest_registered_class_speaks():
    class ScaledFurther(Scaled):
        pass

    assert layer_type(Scaled(2, 2, scale=2.0)) is ScaledLayer
    assert layer_type(ScaledFurther(2, 2, scale=2.0)) is ScaledLayer
    assert layer_type(nn.Linear(2, 2)) is LinearLayer
    assert_truthful(randomised(Scaled(3, 2, scale=3.0)), gaussian(4, 5, 3))


def test_layers_with_other_settings_make_other_rows():
    """Or they would share a moment where they read the same tensor."""
    one, same, other = (describe(n, Scaled(4, 2, scale=s)) for n, s in [("a", 2.0), ("b", 2.0), ("c", 3.0)])
    assert one.rows_key == same.rows_key
    assert one.rows_key != other.rows_key
    assert one.rows_key != describe("d", nn.Linear(4, 2)).rows_key
    assert describe("d", nn.Linear(4, 2)).rows_key == describe("e", MyLinear(4, 7, bias=False)).rows_key
    keys = {
        describe("f", nn.Conv2d(2, 2, 3, **options)).rows_key
        for options in [{}, {"stride": 2}, {"dilation": 2}, {"padding": 1}, {"padding": 1, "padding_mode": "reflect"}]
    }
    assert len(keys) == 5
    assert (
        describe("g", nn.Conv2d(2, 2, 3, padding="same")).rows_key
        == describe("h", nn.Conv2d(2, 5, 3, padding=1)).rows_key
    )


def test_the_documented_layer_type_works():
    """Every Python block of docs/layers.md, in one namespace, as a reader would run them."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    namespace = {"__name__": "docs_layers"}
    for block in blocks:
        exec(compile(block, str(DOCS), "exec"), namespace)
    assert_truthful(randomised(namespace["BlockLinear"](3, 2, 4)), gaussian(5, 2, 6))


# Weights that cannot be recorded and edited.


def parametrized() -> nn.Module:
    return torch.nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))


def parametrized_bias() -> nn.Module:
    module = nn.Linear(3, 3)
    torch.nn.utils.parametrize.register_parametrization(module, "bias", nn.Tanh())
    return module


def int8() -> nn.Module:
    module = nn.Linear(3, 3)
    module.weight = nn.Parameter(torch.zeros(3, 3, dtype=torch.int8), requires_grad=False)
    return module


def float8_bias() -> nn.Module:
    module = nn.Linear(3, 3)
    module.bias = nn.Parameter(torch.zeros(3).to(torch.float8_e4m3fn), requires_grad=False)
    return module


def pruned() -> nn.Module:
    return prune.l1_unstructured(nn.Linear(3, 3), "weight", amount=0.3)


def buffer() -> nn.Module:
    module = nn.Linear(3, 3)
    del module.weight
    module.register_buffer("weight", torch.zeros(3, 3))
    return module


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (parametrized, "its weight is parametrized.*remove_parametrizations"),
        (parametrized_bias, r"its bias is parametrized.*remove_parametrizations\(module, 'bias'\)"),
        (lambda: nn.LazyLinear(3), "lazy and has no weight yet"),
        (int8, "floating point numbers of 16 bits or more, got torch.int8. Dequantise"),
        (float8_bias, "a bias of floating point numbers of 16 bits or more, got torch.float8"),
        (pruned, "expected a weight that is a parameter, got Tensor.*prune.remove"),
        (buffer, "expected a weight that is a parameter, got Tensor"),
        (lambda: nn.Linear(3, 3, device="meta"), "expected a weight in memory, got one on the meta device"),
    ],
)
def test_a_weight_that_cannot_be_edited_is_refused(make, says):
    module = make()
    with pytest.raises(ModelError, match=r"Layer 'head' \(\w+\) cannot be recorded: .*" + says):
        describe("head", module)
    assert re.search(says, unusable(module))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_point_weights_are_fine(dtype):
    assert unusable(nn.Conv1d(2, 2, 2, dtype=dtype)) is None


# Odd inputs and files.


@pytest.mark.parametrize("shape", [(2, 3, 5, 5), (2, 4, 5), (4,), (1, 2, 4, 5, 5)])
def test_an_input_that_a_convolution_cannot_read_is_refused(shape):
    with pytest.raises(RecordingError, match=r"layer 'c' to read 4 dims with 4 channels, got \["):
        describe("c", nn.Conv2d(4, 2, 3)).rows(torch.zeros(shape))


def test_an_input_smaller_than_the_kernel_makes_no_rows():
    """The module itself then says what is wrong."""
    layer = describe("c", nn.Conv2d(1, 2, 5))
    assert layer.lead((2, 1, 3, 8)) == (2, 0, 4)
    assert layer.rows(torch.zeros(2, 1, 3, 8)).shape == (1, 2, 0, 4, 25)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layer": "LinearLayr"}, "Expected a known layer type, got 'LinearLayr'. Did you mean 'LinearLayer'"),
        ({"layer": None}, "Expected a known layer type, got None"),
        ({"groups": 2}, r"Expected a LinearLayer with the fields \[.*\], got \[.*'groups'.*another version"),
    ],
)
def test_a_description_that_cannot_be_read_is_refused(change, says):
    values = describe("a", nn.Linear(2, 2)).to_json() | change
    with pytest.raises(StoreError, match=says):
        Layer.from_json(values)


def test_the_bytes_of_a_moment():
    """Block columns in the dtype of the products, float64 up to 256 columns, and a row sum for each matrix."""
    assert describe("", nn.Linear(10, 3)).moment_bytes == 8 * (100 + 10)
    assert describe("", nn.Linear(512, 3)).moment_bytes == 4 * 512 * 512 * 9 // 16 + 8 * 512
    assert describe("", nn.Conv2d(4, 4, 3, groups=2)).moment_bytes == 2 * 8 * (18 * 18 + 18)


# The check of a module against its layer type.


class Standardised(nn.Conv2d):
    """A convolution that standardises its weight on the way."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


def test_deviation_sees_another_formula():
    module, x = Standardised(3, 4, 3, padding=1), torch.randn(2, 3, 5, 5)
    layer = describe("c", module)
    assert deviation(layer, module, x, module(x)) > 0.1
    assert deviation(layer, module, x, nn.Conv2d.forward(module, x)) < 1e-6
    assert deviation(layer, module, x[:1], nn.Conv2d.forward(module, x)) < 1e-6  # the first samples are enough


def test_deviation_of_nothing():
    module = nn.Linear(2, 2, bias=False)
    layer, zeros = describe("l", module), torch.zeros(3, 2)
    assert deviation(layer, module, zeros, zeros) == 0.0
    assert deviation(layer, module, zeros, torch.ones(3, 2)) == 1.0
    assert deviation(layer, module, zeros[:0], zeros[:0]) == 0.0


def test_deviation_of_an_output_that_overflowed():
    module, x = nn.Linear(2, 2, bias=False).half(), torch.full((1, 2), 2.0).half()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[60000.0, 60000.0], [1.0, 2.0]]))
    layer, output = describe("l", module), module(x)
    assert torch.isinf(output[0, 0])
    assert deviation(layer, module, x, output) < 1e-3
    assert deviation(layer, module, x, output + 1) > 0.1
    assert deviation(layer, module, x, torch.full_like(output, float("nan"))) == 0.0


# Wrappers.


def test_unwrap_finds_the_module_that_was_written():
    inner = nn.Sequential(nn.Linear(2, 2))
    assert unwrap(inner) is inner
    assert unwrap(torch.compile(inner, backend="eager")) is inner
    assert unwrap(nn.DataParallel(inner)) is inner
    assert unwrap(nn.DataParallel(torch.compile(inner, backend="eager"))) is inner


def test_unwrap_data_parallel_of_several_processes(tmp_path):
    inner = nn.Linear(2, 2)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert unwrap(nn.parallel.DistributedDataParallel(inner)) is inner
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("what", [None, "model", {"weight": torch.zeros(2)}])
def test_what_is_no_module_is_refused(what):
    with pytest.raises(LashleyError, match="Expected a torch.nn.Module, got"):
        unwrap(what)
