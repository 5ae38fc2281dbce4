"""Natural-gradient steps computed on networks: the engram to rounding, whatever the layer; G against its definition."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import lashley
from cases import CASES, CONCEPTS, double, mlp, vectors
from helpers import assert_close, assert_near
from lashley.curvature import forgetting_gradients, natural_gradient, output_factors
from lashley.errors import DataError, ModelError, RecordingError, SelectionError
from lashley.geometry import output_step

PLAIN = lashley.Cut.notebook()


def build(name: str):
    model, data = CASES[name].build()
    model, data = double(model), double(data)
    if name == "llama":  # in float64 its attention makes nan of rows that see padding alone
        data = {concept: batches[1:] for concept, batches in data.items()}
    return model, data, lashley.record(model, data, dtype=torch.float64)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["mlp", "mlp_no_bias", "cnn", "llama", "gpt2", "vit"])
def test_the_engram_is_the_natural_gradient_step(name: str, bias: bool) -> None:
    """Corollary 6.3: left by autograd on the network, right in closed form."""
    model, data, recording = build(name)
    steps = natural_gradient(model, recording, data, "b", bias=bias, dampings=())
    assert [(s.layer, s.number) for s in steps] == [
        (n, k) for n, layer in recording.layers.items() for k in range(layer.matrices)
    ]
    for step in steps:
        assert step.natural.error < 1e-8, step.layer
        assert step.natural.cosine == pytest.approx(1) and step.natural.ratio == pytest.approx(1)
        assert step.factor is None and step.outputs == {} and step.output_rank is None
        assert step.hard_rank == 0 and step.hard.ratio == 0


def test_another_networks_gradient_is_another_step() -> None:
    """A twin whose gradient is that of other weights, or of other rows, is told apart."""
    model, data, recording = build("mlp")
    wrong = natural_gradient(model, recording, {"b": data["a"]}, "b", dampings=())
    assert min(step.natural.error for step in wrong) > 0.05
    half = natural_gradient(model, recording, {"b": data["b"][:1]}, "b", dampings=())
    assert min(step.natural.error for step in half) > 0.3


def test_embeddings_and_attention() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(12, 8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 5)

        def forward(self, ids):
            x = self.table(ids)
            return self.head(self.attention(x, x, x)[0].mean(1))

    torch.manual_seed(0)
    model = Reader().double().eval()
    data = {c: [torch.randint(2 * i, 2 * i + 7, (20, 5)) for _ in range(2)] for i, c in enumerate(CONCEPTS)}
    names = ["table", "q_proj", "k_proj", "v_proj", "out_proj", "head"]
    recording = lashley.record(model, data, target_modules=names, dtype=torch.float64)
    steps = natural_gradient(model, recording, data, "a")
    assert [step.layer for step in steps] == ["table", "attention.out_proj", "head"]  # the others show no outputs
    assert max(step.natural.error for step in steps) < 1e-8
    assert all(step.factor.shape == (len(step.engram),) * 2 for step in steps)
    assert steps[0].hard_rank == 2 and 0 < steps[0].hard.ratio < 1  # tokens 0 and 1 are of a alone
    with pytest.raises(RecordingError, match=r"shows its output, got 'attention.q_proj'"):
        natural_gradient(model, recording, data, "a", layers=["q_proj"])


def test_labels_in_one_loader_and_rows_of_ones_own() -> None:
    torch.manual_seed(0)
    model = double(mlp(6, 5, 4))
    batches = [(torch.randn(30, 6).double(), torch.randint(0, 3, (30,))) for _ in range(2)]

    def rows(batch, site):
        return batch[0][:, 0] > -0.5

    settings = {"concept_of": lambda batch: batch[1], "rows": rows}
    recording = lashley.record(model, batches, dtype=torch.float64, concept_names=["x", "y", "z"], **settings)
    steps = natural_gradient(model, recording, batches, ["x", "z"], **settings)
    assert [(s.concept, s.layer) for s in steps] == [("x", "0"), ("x", "2"), ("z", "0"), ("z", "2")]
    assert max(step.natural.error for step in steps) < 1e-9
    everything = natural_gradient(model, recording, batches, "x", lambda batch: batch[1])
    assert min(step.natural.error for step in everything) > 0.01  # without the mask these are other rows


def test_a_name_that_others_end_in_is_that_layer_alone() -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(6, 5), nn.Tanh())
    model = nn.ModuleDict({"0": nn.Linear(5, 4), "first": inner}).double()
    model.forward = lambda x: model["0"](inner(x))
    data = double(vectors(6))
    recording = lashley.record(model, data, dtype=torch.float64)
    assert list(recording.layers) == ["0", "first.0"]
    steps = natural_gradient(model, recording, data, "a", layers="0", dampings=())
    assert [step.layer for step in steps] == ["0"] and steps[0].natural.error < 1e-9


def test_the_gradient_is_that_of_the_loss() -> None:
    model, data, recording = build("mlp")
    found = forgetting_gradients(model, recording, data, "c", layers=["2"])["2"]
    inputs = torch.cat([model[:2](x) for x in data["c"]]).detach()
    z = model[2](inputs)
    weight, bias = torch.autograd.grad(z.square().sum() / 2, [model[2].weight, model[2].bias])
    assert_near(found[0], torch.cat([weight, bias[:, None]], 1), rel=1e-12)


def test_a_layer_that_is_called_twice_has_the_gradient_of_both_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(torch.tanh(self.mix(torch.tanh(self.mix(x)))))

    torch.manual_seed(0)
    model = Twice().double()
    data = double(vectors(6))
    recording = lashley.record(model, data, dtype=torch.float64)
    assert max(s.natural.error for s in natural_gradient(model, recording, data, "a", dampings=())) < 1e-9


def test_the_curvature_of_a_softmax_head() -> None:
    """Over many draws G is the mean of ``diag(p) - p p^T``; draws are those of the seed."""
    torch.manual_seed(0)
    model = double(nn.Sequential(nn.Linear(5, 4)))
    data = {"a": [torch.randn(3000, 5).double()], "b": [torch.randn(3000, 5).double() + 0.5]}
    recording = lashley.record(model, data, dtype=torch.float64)
    [factor] = output_factors(model, recording, data)["0"]
    p = torch.cat([model(x).detach().softmax(1) for c in data for x in data[c]])
    expected = (torch.diag_embed(p) - p[:, :, None] * p[:, None]).mean(0)
    assert_near(factor, expected, rel=0.05)
    assert_close(factor, output_factors(model, recording, data)["0"][0])
    assert not torch.equal(factor, output_factors(model, recording, data, seed=1)["0"][0])


def test_the_curvature_below_the_head_by_the_chain_rule() -> None:
    """In-place activations behind a layer do not change the gradient at its output."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)).double()
    data = {"a": [torch.randn(200, 5).double()]}
    recording = lashley.record(model, data, dtype=torch.float64)
    found = output_factors(model, recording, data)
    z = (data["a"][0] @ model[0].weight.T + model[0].bias).detach().requires_grad_()
    logits = model[2](z.clamp(min=0))
    labels = torch.multinomial(logits.detach().softmax(1), 1, generator=torch.Generator().manual_seed(0))
    [g] = torch.autograd.grad(-logits.log_softmax(1).gather(1, labels).sum(), z)
    assert_near(found["0"][0], g.T @ g / len(g), rel=1e-10)


def test_a_step_with_the_curvature_of_the_outputs() -> None:
    model, data, recording = build("mlp")
    steps = natural_gradient(model, recording, data, "a", dampings=(1e6, 0.1))
    for step in steps:
        assert list(step.outputs) == [1e6, 0.1]
        assert step.outputs[1e6].cosine == pytest.approx(1) and step.outputs[1e6].error < 1e-4
        assert 0 < step.outputs[0.1].cosine < 0.999
        expected = output_step(step.engram, step.factor, 0.1)
        assert step.outputs[0.1].ratio == pytest.approx((expected.norm() / step.engram.norm()).item())
        assert 0 < step.output_rank < 1


def test_tokens_that_do_not_count_have_no_part_in_the_curvature() -> None:
    model, data, recording = build("llama")
    factors = output_factors(model, recording, data, layers=["o_proj"])
    bare = copy.deepcopy(data)
    for batches in bare.values():
        for batch in batches:
            batch["input_ids"] = torch.where(batch["attention_mask"] == 1, batch["input_ids"], 7)
    other = output_factors(model, recording, bare, layers=["o_proj"])
    for name in factors:
        assert_close(other[name], factors[name], atol=1e-12)


def test_the_network_comes_back_as_it_was() -> None:
    model, data, recording = build("cnn")
    model.train()
    for parameter in list(model.parameters())[::2]:
        parameter.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    state = copy.deepcopy(model.state_dict())
    natural_gradient(model, recording, data, "a")
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters()) and model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])
    with pytest.raises(RecordingError):
        natural_gradient(model, recording, data, "a", forward=lambda model, batch: None)
    assert [p.requires_grad for p in model.parameters()] == flags and model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_is_refused() -> None:
    model, data, recording = build("mlp")
    with pytest.raises(DataError, match="batches of the concept 'a', got only those of"):
        natural_gradient(model, recording, {"b": data["b"]}, "a", dampings=())
    with pytest.raises(SelectionError, match="a recorded concept, got 'd'"):
        natural_gradient(model, recording, data, "d", dampings=())
    with pytest.raises(SelectionError, match="no module's name"):
        natural_gradient(model, recording, data, "a", layers=["9"])
    with pytest.raises(RecordingError, match=r"logits \[..., K\].* got NoneType"):
        natural_gradient(model, recording, data, "a", forward=lambda model, batch: (model(batch), None)[1])
    with pytest.raises(RecordingError, match="Expected rows of 'a' in layer '0', got none"):
        natural_gradient(model, recording, data, "a", dampings=(), forward=lambda model, batch: None)
    with pytest.raises(DataError, match="bare Tensor"):
        natural_gradient(model, recording, {"a": data["a"][0]}, "a")
    other = double(CASES["mlp"].build(seed=5)[0])
    with pytest.raises(ModelError, match="Expected the weights that were recorded"):
        natural_gradient(other, recording, data, "a", dampings=())
