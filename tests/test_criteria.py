"""The criteria against what theory says of them, against dense rows, and against each other."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lashley
from cases import CASES, double, mlp
from editing import state
from helpers import assert_close, assert_near, gaussian
from lashley.criteria import CONTROLS, Recorded
from lashley.criteria.recorded import energies_of, root
from lashley.criteria.table import _axis
from lashley.engram import Engram
from lashley.errors import LashleyWarning
from lashley.layers import unwrap
from lashley.metrics import minibatch_cka
from lashley.moments import Moment

QUICK = {"resamples": 20, "progress": False}
EXACT = lashley.Projection(cut=lashley.Cut(rtol=1e-10))


def build(name: str) -> tuple[nn.Module, dict[str, list[Any]]]:
    model, data = CASES[name].build()
    if name in ("llama", "gpt2"):  # whose padding is nan in float64
        return model, data
    return double(model), {concept: double(batches) for concept, batches in data.items()}


def recorded(model: nn.Module, data: Mapping[str, Any], **settings: Any) -> lashley.Recording:
    return lashley.record(model, data, dtype=torch.float64, progress=False, **settings)


def two_rows(plus: Any, minus: Any, weight: Any, bias: Any = None) -> tuple[nn.Sequential, dict[str, list[Tensor]]]:
    """A layer with these weights, and its inputs as the columns of two matrices."""
    matrix = torch.tensor(weight, dtype=torch.float64)
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias is not None, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(matrix)
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias, dtype=torch.float64))
    columns = {"+": plus, "-": minus}
    data = {name: [torch.tensor(rows, dtype=torch.float64).T.contiguous()] for name, rows in columns.items()}
    return nn.Sequential(layer), data


def one_layer(plus: Any, minus: Any, weight: Any, **settings: Any) -> Recorded:
    model, data = two_rows(plus, minus, weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LashleyWarning)  # of few rows: that is what these are about
        found = lashley.check(model, recorded(model, data), "+", controls=(), estimator=EXACT, **settings)
    return found.engram.layers["0"].recorded


# Vectors: rows that can be checked by hand.


def test_the_linear_vector():
    found = one_layer([[1, 1], [0, 1]], [[0], [2]], [[1, 2], [0, 3]])
    assert found.rho_plus == pytest.approx(0.519909023880535, abs=1e-9)
    assert found.rho_minus == pytest.approx(1 / 9, abs=1e-9)


def test_orthogonal_inputs_leave_no_error():
    found = one_layer([[1, 2], [0, 0], [0, 0]], [[0, 0], [1, 0], [0, 3]], [[1, 2, 3], [4, 5, 6]])
    assert (found.rho_plus, found.rho_minus) == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))


def test_a_shared_input_is_shared_by_how_often_it_comes():
    found = one_layer([[1, 1, 1]], [[1]], [[8]])
    assert found.rho_plus == pytest.approx(1 / 4, abs=1e-12)
    assert found.rho_minus == pytest.approx(3 / 4, abs=1e-12)


def test_an_input_that_is_never_active_has_no_share():
    found = one_layer([[1, 0], [1, 0], [0, 0]], [[0], [1], [0]], [[1, 2, 3], [4, 5, 6]])
    assert (found.rho_plus, found.rho_minus) == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))


def test_with_the_bias_absorbed_independent_rows_leave_no_error():
    """The rows of the linear vector with a 1 appended are independent: the hard constraint holds."""
    model, data = two_rows([[1, 1], [0, 1]], [[0], [2]], [[1, 2], [0, 3]], [1, -1])
    recording = recorded(model, data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LashleyWarning)
        found = lashley.check(model, recording, "+", controls=(), estimator=EXACT).engram.layers["0"].recorded
        delta = recording.engram(model, "+", estimator=EXACT)["0"]
        without = lashley.check(model, recording, "+", controls=(), estimator=EXACT, bias=False).engram.layers["0"]
    assert_close(delta.weight, [[6, 2], [5, 3]], atol=1e-8)
    assert_close(delta.bias, [-4, -6], atol=1e-8)
    assert (found.rho_plus, found.rho_minus) == (pytest.approx(0, abs=1e-7), pytest.approx(0, abs=1e-7))
    assert without.recorded.rho_plus == pytest.approx(0.519909023880535, abs=1e-9)


def test_fewer_rows_than_columns_leave_no_error():
    found = one_layer(gaussian(9, 3).tolist(), gaussian(9, 4, seed=1).tolist(), gaussian(2, 9, seed=2).tolist())
    assert (found.rho_plus, found.rho_minus) == (pytest.approx(0, abs=1e-8), pytest.approx(0, abs=1e-8))


# Identities of Z-space.


def spectrum(model: nn.Module, data: Mapping[str, list[Tensor]], target: str) -> tuple[Tensor, Tensor]:
    """``p`` and ``w`` of the first layer: shares of directions, and how strongly the layer responds along them."""
    rows = {name: torch.cat(batches) for name, batches in data.items()}
    rows = {name: torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1) for name, x in rows.items()}
    whole = torch.cat(list(rows.values()))
    values, vectors = torch.linalg.eigh(whole.T @ whole)
    root_of = vectors * values.sqrt() @ vectors.T
    inverse = vectors / values.sqrt() @ vectors.T
    p, v = torch.linalg.eigh(inverse @ (rows[target].T @ rows[target]) @ inverse)
    weight = torch.cat([model[0].weight, model[0].bias[:, None]], 1).detach()
    return p, (weight @ root_of @ v).square().sum(0)


def test_the_eigen_form_gives_the_same_numbers():
    model, data = build("mlp")
    found = lashley.check(model, recorded(model, data), "a", controls=(), estimator=EXACT).engram.layers["0"].recorded
    p, w = spectrum(model, data, "a")
    assert found.rho_plus**2 == pytest.approx(((w * p * (1 - p) ** 2).sum() / (w * p).sum()).item(), rel=1e-8)
    assert found.rho_minus**2 == pytest.approx(((w * p**2 * (1 - p)).sum() / (w * (1 - p)).sum()).item(), rel=1e-8)
    assert found.rho_plus > 0.01 and found.rho_minus > 0.01  # neither all 0 nor all 1


def test_the_objective_of_the_paper_is_the_sum_of_both():
    """Eq. 2: ``2 ||(E - D) X+||^2 + 2 ||E X-||^2``; and the estimator minimises it."""
    model, data = build("mlp_no_bias")
    recording = recorded(model, data)
    found = lashley.check(model, recording, "a", controls=(), estimator=EXACT).engram.layers["0"].recorded
    weight, rows = model[0].weight.detach(), {name: torch.cat(batches) for name, batches in data.items()}
    rest = torch.cat([rows["b"], rows["c"]])
    engram = recording.engram(model, "a", estimator=EXACT)["0"].weight.double()

    def loss(e: Tensor) -> Tensor:
        return 2 * ((e - weight) @ rows["a"].T).square().sum() + 2 * (e @ rest.T).square().sum()

    parts = (
        found.rho_plus**2 * (weight @ rows["a"].T).square().sum(),
        found.rho_minus**2 * (weight @ rest.T).square().sum(),
    )
    assert_near(2 * sum(parts), loss(engram), rel=1e-8)
    for seed in range(5):
        assert loss(engram + 1e-3 * gaussian(*engram.shape, seed=seed)) > loss(engram)


def test_at_strength_one_the_four_are_two_and_strength_scales_the_leak():
    model, data = build("mlp")
    recording = recorded(model, data)
    for alpha in (1.0, 0.5, 1.7):
        for layer in lashley.check(model, recording, "a", alpha=alpha, controls=()).engram.layers.values():
            found = layer.recorded
            assert found.specificity == pytest.approx(alpha * found.rho_minus)
            assert (found.necessity == pytest.approx(found.rho_plus)) == (alpha == 1)


def test_all_concepts_together_are_what_was_learned():
    """``sum_c E_c = D Pi``: what they miss together of the target is what lies outside of the range of S."""
    model, data = build("mlp_no_bias")
    recording = recorded(model, data)
    total = sum(recording.engram(model, name, estimator=EXACT) for name in recording.concepts)
    for name in recording.layers:
        weight = model.get_submodule(name).weight.detach()
        moments = recording.moments(None, name)
        left = (weight - total[name].weight.double()).unsqueeze(0)
        missed, whole = energies_of(moments, [left, weight.unsqueeze(0)])
        assert missed == pytest.approx(0, abs=1e-12 * whole)


def test_nothing_learned_is_no_number():
    model, data = build("mlp")
    same = lashley.check(model, recorded(model, data), "a", null=model, controls=(), estimator=EXACT)
    assert {layer.recorded for layer in same.engram.layers.values()} == {Recorded(None, None, None, None)}
    assert root(1.0, 0.0) is None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["mlp", "cnn", "llama", "gpt2", "vit"])
def test_every_layer_type_gives_the_same_from_moments_and_from_samples(name, bias):
    """Two ways that share little: sums of squares of moments, and norms of responses of every sample."""
    model, data = build(name)
    recording = recorded(model, data)
    found = lashley.check(model, recording, "a", data, bias=bias, outputs="none", controls=(), **QUICK)
    tied = {"lm_head"} if name == "gpt2" else set()
    assert set(found.engram.layers) == set(recording.layers) - tied
    assert any("lm_head" in note for note in found.notes) == bool(tied)
    for layer in found.engram.layers.values():
        assert layer.reactivation.value == pytest.approx(layer.recorded.rho_plus, rel=1e-5)
        assert layer.leak.value == pytest.approx(layer.recorded.rho_minus, rel=1e-5)
        assert layer.reactivation.low <= layer.reactivation.value <= layer.reactivation.high


class Attending(nn.Module):
    """An embedding that is asked for by name, and attention with its parameters in one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.head(self.attend(x, x, x, need_weights=False)[0].mean(1))


def attending() -> tuple[nn.Module, dict[str, list[Tensor]]]:
    model = Attending().double().eval()
    spans = {"0": (0, 12), "1": (4, 16), "2": (8, 20)}
    return model, {name: [torch.randint(*span, (15, 6)) for _ in range(2)] for name, span in spans.items()}


def test_embeddings_and_attention_too():
    model, data = attending()
    names = ["embed", "q_proj", "k_proj", "v_proj", "out_proj", "head"]
    recording = recorded(model, data, target_modules=names)
    with pytest.warns(LashleyWarning, match="no better than chance"):  # nobody trained it
        found = lashley.check(model, recording, "0", data, **QUICK)
    assert set(found.engram.layers) == {"embed", *(f"attend.{part}" for part in names[1:-1]), "head"}
    for name, layer in found.engram.layers.items():
        assert layer.reactivation.value == pytest.approx(layer.recorded.rho_plus, rel=1e-6), name
        assert layer.leak.value == pytest.approx(layer.recorded.rho_minus, rel=1e-6), name
    first = found.engram.layers["embed"]
    assert first.necessity.value == pytest.approx(first.reactivation.value)
    assert set(found.controls) == {*CONTROLS[:4], "engram of 1", "logit mask"}


class Turned(nn.Module):
    """Attention that takes positions first."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        return self.head(self.attend(x, x, x, key_padding_mask=attention_mask == 0, need_weights=False)[0].mean(0))


@pytest.mark.parametrize("length", [15, 6], ids=["as many positions as samples", "fewer"])
@pytest.mark.parametrize("padded", [False, True])
def test_attention_with_positions_first(length, padded):
    model = Turned().double().eval()
    labels = torch.arange(45) % 3
    x = gaussian(45 * length, 8, seed=1).reshape(45, length, 8) + gaussian(3, 8, seed=9)[labels, None]
    counts = torch.ones(45, length, dtype=torch.long)
    if padded:
        counts[::2, -2:] = 0
    data = [
        {"x": x[place], "attention_mask": counts[place], "labels": labels[place]}
        for place in torch.arange(45).split(15)
    ]
    names = ["q_proj", "k_proj", "v_proj", "out_proj"]
    recording = lashley.record(model, data, lambda batch: batch["labels"], target_modules=names, progress=False)
    found = lashley.check(
        model, recording, "0", data, lambda batch: batch["labels"], outputs="none", controls=(), **QUICK
    )
    for name, layer in found.engram.layers.items():
        assert layer.reactivation.value == pytest.approx(layer.recorded.rho_plus, rel=1e-6), name
        assert layer.leak.value == pytest.approx(layer.recorded.rho_minus, rel=1e-6), name


# The whole network edited, against a network written out.


def written_out(weights: list[tuple[Tensor, Tensor]], x: Tensor) -> list[Tensor]:
    found = []
    for number, (weight, bias) in enumerate(weights):
        x = (x.relu() if number else x) @ weight.T + bias
        found.append(x)
    return found


@pytest.mark.parametrize("alpha", [1.0, 0.6])
def test_propagated_numbers_are_those_of_networks_written_out(alpha):
    model, data = build("mlp")
    recording = recorded(model, data)
    found = lashley.check(model, recording, "b", data, alpha=alpha, outputs="none", controls=(), **QUICK)
    engram = recording.engram(model, "b")
    own = [(m.weight.detach(), m.bias.detach()) for m in model if isinstance(m, nn.Linear)]
    parts = [(delta.weight.double(), delta.bias.double()) for delta in engram.values()]
    ablated = [(w - alpha * e, b - alpha * f) for (w, b), (e, f) in zip(own, parts, strict=True)]
    null = [(torch.zeros_like(w), torch.zeros_like(b)) for w, b in own]
    rows = {name: torch.cat(batches) for name, batches in data.items()}
    target, others = rows["b"], torch.cat([rows["a"], rows["c"]])
    for number, layer in enumerate(found.engram.layers.values()):
        on = {
            (which, who): written_out(network, x)[number]
            for which, network in (("own", own), ("null", null), ("ablated", ablated), ("injected", parts))
            for who, x in (("target", target), ("others", others))
        }

        def error(which: str, to: str, who: str, over: Tensor, on: Any = on) -> float:
            return ((on[which, who] - on[to, who]).norm() / over.norm()).item()

        gap = on["own", "target"] - on["null", "target"]
        size = on["own", "others"]
        assert layer.necessity.value == pytest.approx(error("ablated", "null", "target", gap))
        assert layer.sufficiency.value == pytest.approx(error("injected", "own", "target", gap))
        assert layer.specificity_ablated.value == pytest.approx(error("ablated", "own", "others", size))
        assert layer.specificity_injected.value == pytest.approx(error("injected", "null", "others", size))
        cosine = torch.cosine_similarity(on["injected", "target"], on["own", "target"]).mean()
        assert layer.cosine.value == pytest.approx(cosine.item())


def test_in_the_first_layer_propagated_is_local():
    model, data = build("mlp")
    found = lashley.check(model, recorded(model, data), "a", data, outputs="none", controls=(), **QUICK)
    first, *later = found.engram.layers.values()
    assert first.necessity.value == first.sufficiency.value == pytest.approx(first.reactivation.value)
    assert first.specificity_ablated.value == first.specificity_injected.value == pytest.approx(first.leak.value)
    assert all(layer.necessity.value != pytest.approx(layer.reactivation.value, rel=1e-3) for layer in later)


def test_with_all_of_what_was_learned_every_error_is_zero_but_the_leak():
    """An engram of everything: nothing is missed, and nothing is spared."""
    model, data = build("mlp")
    recording = recorded(model, data)
    everything = recording.engram(model, list(recording.concepts), estimator=EXACT)
    whole = Engram(everything, {"a": 1.0}, everything.estimator, everything.made_by)
    found = lashley.check(model, recording, whole, data, outputs="none", controls=(), **QUICK)
    for layer in found.engram.layers.values():
        assert layer.necessity.value == pytest.approx(0, abs=1e-6)
        assert layer.sufficiency.value == pytest.approx(0, abs=1e-6)
        assert layer.cosine.value == pytest.approx(1)
        assert layer.cka == pytest.approx(1)
        assert layer.leak.value == pytest.approx(1)


# The output.


def classifier() -> tuple[nn.Module, dict[str, list[Tensor]]]:
    """Four classes that lie apart, and a network that knows them."""
    torch.manual_seed(3)
    centres = 2.5 * gaussian(4, 12, seed=5)
    data = {
        str(c): [(centres[c] + gaussian(20, 12, seed=10 * c + b)).float().double() for b in range(3)] for c in range(4)
    }
    model = mlp(12, 16, 4).double()
    x, y = torch.cat([torch.cat(v) for v in data.values()]), torch.arange(4).repeat_interleave(60)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval(), data


@pytest.fixture(scope="module")
def known() -> tuple[nn.Module, dict[str, list[Tensor]], lashley.Recording]:
    model, data = classifier()
    return model, data, recorded(model, data)


@torch.no_grad()
def answers(model: nn.Module, data: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
    return {name: model(torch.cat(batches)).argmax(1) for name, batches in data.items()}


def test_numbers_at_the_output_are_shares_of_answers(known):
    model, data, recording = known
    found = lashley.check(model, recording, "2", data, **QUICK)
    engram = recording.engram(model, "2")
    blank = lashley.criteria.null_state(model, engram, "zero", 0).model
    own, ablated = answers(model, data), answers(lashley.ablate(model, engram), data)
    injected = answers(lashley.inject(blank, engram), data)
    share = {
        key: {n: (a == int(n)).double().mean().item() for n, a in some.items()}
        for key, some in (("own", own), ("ablated", ablated), ("injected", injected))
    }
    out = found.engram.output
    assert share["own"]["2"] > 0.9 > 0.5 > share["ablated"]["2"]
    assert out["own"].value == pytest.approx(share["own"]["2"])
    assert out["necessity"].value == pytest.approx(1 - share["ablated"]["2"] / share["own"]["2"])
    falls = {n: share["own"][n] - share["ablated"][n] for n in "013"}
    assert out["fall_mean"].value == pytest.approx(np.mean(list(falls.values())))
    assert out["fall_worst"].value == pytest.approx(max(falls.values()))
    assert found.engram.worst == max(falls, key=falls.__getitem__)
    assert out["injected"].value == pytest.approx(share["injected"]["2"])
    taken = torch.cat([injected[n] == 2 for n in "013"]).double().mean().item()
    assert out["false_induction"].value == pytest.approx(taken)
    assert out["agree"].value == pytest.approx((injected["2"] == own["2"]).double().mean().item())


def test_the_divergence_is_that_of_the_predictions(known):
    model, data, recording = known
    found = lashley.check(model, recording, "2", data, **QUICK)
    others = torch.cat([torch.cat(data[n]) for n in "013"])
    with torch.no_grad():
        before = model(others).log_softmax(1)
        after = lashley.ablate(model, recording.engram(model, "2"))(others).log_softmax(1)
    kl = (before.exp() * (before - after)).sum(1).mean().item()
    assert found.engram.output["kl"].value == pytest.approx(kl, rel=1e-5)


def test_a_silent_network_knows_nothing():
    """All outputs equal: the first class is no answer."""
    model, data = classifier()
    found = lashley.check(model, recorded(model, data), "0", data, **QUICK)
    assert found.engram.output["null"].value == pytest.approx(1 / 4)
    assert found.engram.output["null_induction"].value == pytest.approx(1 / 4)


def test_the_engram_does_what_no_control_does(known):
    model, data, recording = known
    found = lashley.check(model, recording, "2", data, **QUICK)

    def selectivity(edit: Any) -> float:
        out = edit.output
        return out["own"].value - out["ablated"].value - out["fall_mean"].value

    controls = {title: edit for title, edit in found.controls.items() if edit.layers}
    assert set(controls) == {*CONTROLS[:4], "engram of 3"}
    assert all(selectivity(found.engram) > selectivity(edit) + 0.3 for edit in controls.values())
    assert found.engram.monotony > 0.8


def test_a_logit_mask_silences_and_leaves_the_features(known):
    model, data, recording = known
    found = lashley.check(model, recording, "2", data, **QUICK)
    mask = found.controls["logit mask"]
    assert mask.output["ablated"].value == 0 and mask.output["fall_worst"].value <= 0
    assert mask.readers == found.original.readers and mask.readers["ridge probe"].value > 0.9
    assert "kl" not in mask.output and "injected" not in mask.output


def test_a_retrained_network_is_the_measure(known):
    model, data, recording = known
    retrained = lashley.ablate(model, recording.engram(model, "2"))  # a stand-in: it answers what the ablated one does
    found = lashley.check(model, recording, "2", data, retrained=retrained, **QUICK)
    assert found.engram.output["like_retrained"].value == 1
    assert found.retrained.output["ablated"].value == found.engram.output["ablated"].value
    assert found.retrained.readers == found.engram.readers
    mine = answers(lashley.ablate(model, recording.engram(model, "2")), data)["2"]
    other = answers(lashley.ablate(model, recording.engram(model, "3")), data)["2"]
    assert found.controls["engram of 3"].output["like_retrained"].value == pytest.approx(
        (mine == other).double().mean().item()
    )


def test_layers_on_an_axis():
    names = [f"model.layers.{n}.{part}" for n in range(2) for part in ("attn.q_proj", "mlp.up_proj")]
    ends = ["0.attn.q_proj", "0.mlp.up_proj", "1.attn.q_proj", "1.mlp.up_proj", "lm_head"]
    assert _axis([*names, "lm_head"]) == (ends, "layer")
    assert _axis(["0", "2"]) == (["0", "2"], "layer") and _axis(["a.0", "b.0"]) == (["a.0", "b.0"], "layer")
    assert _axis([str(n) for n in range(40)]) == (list(range(1, 41)), "layer, in the order of the table")


def test_doses(known):
    model, data, recording = known
    found = lashley.check(model, recording, "2", data, doses=(0, 0.5, 1, 2), **QUICK)
    engram = recording.engram(model, "2")
    for dose in found.engram.doses:
        given = answers(lashley.ablate(model, engram, dose.factor), data)
        assert dose.target.value == pytest.approx((given["2"] == 2).double().mean().item())
    assert [dose.factor for dose in found.controls["random, rescaled"].doses] == [0, 0.5, 1, 2]
    assert found.controls["random direction"].doses == ()


# What must not matter, and what must.


def same(a: Any, b: Any) -> None:
    """Equal criteria, intervals apart, which draw other samples."""
    for name, layer in a.engram.layers.items():
        other = b.engram.layers[name]
        for key in ("reactivation", "leak", "necessity", "specificity_ablated", "sufficiency", "cosine"):
            assert getattr(layer, key).value == pytest.approx(getattr(other, key).value, rel=1e-9), (name, key)
    assert {k: v.value for k, v in a.engram.output.items()} == pytest.approx(
        {k: v.value for k, v in b.engram.output.items()}
    )


def test_batches_and_their_order_do_not_matter(known):
    model, data, recording = known
    whole = lashley.check(model, recording, "1", data, controls=(), **QUICK)
    rows = {name: torch.cat(batches) for name, batches in data.items()}
    small = {name: list(rows[name].flip(0).split(7)) for name in reversed(rows)}
    same(whole, lashley.check(model, recording, "1", small, controls=(), **QUICK))
    order = torch.randperm(240)
    mixed = list(
        zip(
            torch.cat(list(rows.values()))[order].split(50),
            torch.arange(4).repeat_interleave(60)[order].split(50),
            strict=True,
        )
    )
    same(whole, lashley.check(model, recording, "1", mixed, lambda batch: batch[1], controls=(), **QUICK))


def test_padding_does_not_matter():
    model, data = build("llama")
    recording = recorded(model, data)
    found = lashley.check(model, recording, "a", data, outputs="none", controls=(), **QUICK)
    padded = {
        name: [{**b, "input_ids": b["input_ids"].masked_fill(b["attention_mask"] == 0, 7)} for b in batches]
        for name, batches in data.items()
    }
    same(found, lashley.check(model, recording, "a", padded, outputs="none", controls=(), **QUICK))


def test_a_wrong_twin_is_told_from_the_engram(known):
    """The test can see: the engram of another concept fails every criterion."""
    model, data, recording = known
    right = lashley.check(model, recording, "2", data, controls=(), **QUICK)
    other = recording.engram(model, "1")
    twin = lashley.check(model, recording, Engram(other, {"2": 1.0}, other.estimator), data, controls=(), **QUICK)
    assert twin.engram.output["necessity"].value < 0.3 < 0.7 < right.engram.output["necessity"].value
    assert twin.engram.output["injected"].value < 0.5 < right.engram.output["injected"].value
    for name, layer in right.engram.layers.items():
        assert twin.engram.layers[name].recorded.rho_plus > 1.5 * layer.recorded.rho_plus
        assert twin.engram.layers[name].necessity.value > layer.necessity.value


def test_a_seed_is_a_seed_and_intervals_hold_the_value(known):
    model, data, recording = known
    one, two = (lashley.check(model, recording, "1", data, seed=4, resamples=200, progress=False) for _ in range(2))
    assert one.result(command="-").to_json() == two.result(command="-").to_json()
    other = lashley.check(model, recording, "1", data, seed=5, resamples=200, progress=False)
    assert other.controls["random direction"] != one.controls["random direction"]
    for number in one.engram.output.values():
        assert number.low <= number.value <= number.high
    assert one.engram.output["kl"].low < one.engram.output["kl"].high


def test_an_engram_that_is_given_is_taken_as_it_is(known):
    model, data, recording = known
    solved = lashley.check(model, recording, "1", data, **QUICK)
    given = lashley.check(model, recording, recording.engram(model, "1"), data, **QUICK)
    assert solved.engram == given.engram


def test_the_resemblance_of_few_samples_that_are_nearly_alike():
    """One of four that differs has no spread by the unbiased estimate: other batches tell."""
    model = double(mlp(6, 8, 3))
    x = torch.zeros(48, 6, dtype=torch.float64)
    labels = torch.arange(2).repeat_interleave(4).repeat(6)
    x[labels == 1] = gaussian(24, 6, seed=1)
    x[::8] = gaussian(6, 6, seed=2)
    alike = [(part, own) for part, own in zip(x.split(8), labels.split(8), strict=True)]
    other = (gaussian(12, 6, seed=3), torch.zeros(12, dtype=torch.long))
    for data, known in ((alike, False), ([*alike, other], True)):

        def run(network: nn.Module, batch: Any) -> Tensor:
            found: Tensor = network(batch[0])
            return found

        settings: dict[str, Any] = {"forward": run, "progress": False}
        recording = lashley.record(model, data, lambda batch: batch[1], **settings)
        found = lashley.check(
            model, recording, "0", data, lambda batch: batch[1], outputs="none", controls=(), resamples=0, **settings
        )
        assert (found.engram.layers["0"].cka is not None) == known


def test_the_resemblance_of_batches_is_a_ratio_of_means():
    """As the minibatch form of CKA has it, not a mean of ratios."""
    model = double(nn.Sequential(nn.Linear(6, 8, bias=False)))
    data = {"0": list(gaussian(24, 6, seed=1).split(6)), "1": [gaussian(24, 6, seed=2) + 1]}
    recording = lashley.record(model, data, progress=False)
    engram = recording.engram(model, "0")
    found = lashley.check(model, recording, engram, data, outputs="none", controls=(), **QUICK).engram.layers["0"]
    pairs = [(x @ model[0].weight.detach().T, x @ engram["0"].weight.double().T) for x in data["0"]]
    assert found.cka == pytest.approx(minibatch_cka(pairs), rel=1e-5)


# Null states.


def test_a_random_null_state_is_the_modules_own_initialisation():
    model, data = build("mlp")
    engram = recorded(model, data).engram(model, "a")
    one, two = (lashley.criteria.null_state(model, engram, "random", seed) for seed in (7, 8))
    torch.manual_seed(7)
    fresh = nn.Linear(24, 20).double()
    assert one.model[0].weight.std().item() == pytest.approx(fresh.weight.std().item(), rel=0.2)
    assert not torch.equal(one.model[0].weight, two.model[0].weight)
    assert torch.equal(one.model[0].weight, lashley.criteria.null_state(model, engram, "random", 7).model[0].weight)
    before = torch.get_rng_state()
    lashley.criteria.null_state(model, engram, "random", 7)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_random_null_state_leaves_nothing_of_what_attention_learned():
    """`nn.MultiheadAttention` does not initialise the projection of its output: that is a module of its own."""
    model, data = attending()
    with torch.no_grad():
        for parameter in model.attend.parameters():
            parameter.copy_(torch.full_like(parameter, 3.0))
    names = ["q_proj", "k_proj", "v_proj", "out_proj"]
    engram = lashley.record(model, data, target_modules=names, progress=False).engram(model, "0")
    blank = lashley.criteria.null_state(model, engram, "random", 7).model
    for name, parameter in blank.attend.named_parameters():
        assert not (parameter == 3).any(), name
    assert blank.attend.out_proj.weight.unique().numel() > 1


def test_from_a_null_state_that_is_not_zero_the_engram_is_of_the_difference():
    model, data = build("mlp")
    recording = recorded(model, data)
    base, _ = CASES["mlp"].build(seed=9)
    base = base.double()
    found = lashley.check(model, recording, "a", data, null=base, outputs="none", controls=(), **QUICK)
    as_state = lashley.check(model, recording, "a", data, null=base.state_dict(), outputs="none", controls=(), **QUICK)
    assert found.engram == as_state.engram
    by_hand = recording.engram(model, "a", base=base)
    given = lashley.check(model, recording, by_hand, data, null=base, outputs="none", controls=(), **QUICK)
    assert given.engram == found.engram
    for layer in found.engram.layers.values():
        assert layer.reactivation.value == pytest.approx(layer.recorded.rho_plus, rel=1e-6)


def test_a_random_null_state_beside_shared_weights():
    """A tied layer is left out before the state is drawn: the engram is of the weights that it is measured with."""
    model = nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 6)).double()
    model[2].weight = model[0].weight
    _, data = build("mlp")
    recording = recorded(model, data)
    found = lashley.check(model, recording, "a", data, null="random", outputs="none", controls=(), **QUICK)
    assert list(found.engram.layers) == ["4"]
    head = found.engram.layers["4"]
    state = lashley.criteria.null_state(model, recording.engram(model, "a", layers=["4"]), "random", 0)
    by_hand = recording.engram(model, "a", layers=["4"], base=state.model)
    given = lashley.check(model, recording, by_hand, data, null=state.model, outputs="none", controls=(), **QUICK)
    assert given.engram.layers["4"].recorded == head.recorded


def test_in_the_zero_state_everything_else_stays():
    model, data = build("cnn")
    engram = recorded(model, data).engram(model, "a", bias=False)
    blank = lashley.criteria.null_state(model, engram, "zero", 0).model.state_dict()
    for name, tensor in model.state_dict().items():
        assert_close(blank[name], torch.zeros_like(tensor) if name.endswith("weight") else tensor)


# The model comes back.


@pytest.mark.parametrize("name", ["mlp", "cnn", "gpt2"])
def test_the_model_is_given_back_to_the_byte(name):
    model, data = build(name)
    model.train()
    before = state(model)
    recording = recorded(model, data)
    lashley.check(model, recording, "a", data, null="zero", outputs="none", **QUICK)
    assert state(model) == before


def test_also_after_an_exception(known):
    model, data, recording = known
    before, calls = state(model), []

    def forward(network: nn.Module, batch: Tensor) -> Tensor:
        calls.append(network)
        if len(calls) == 60:
            raise KeyboardInterrupt
        return network(batch)

    with pytest.raises(KeyboardInterrupt):
        lashley.check(model, recording, "2", data, forward=forward, **QUICK)
    assert state(unwrap(model)) == before


def test_the_energy_of_a_moment_is_that_of_its_rows():
    rows = gaussian(7, 3)
    matrix = gaussian(2, 3, seed=1)
    for moment in (Moment.of(rows), Moment.of(torch.cat([rows] * 500))):
        wanted = (matrix @ rows.T).square().sum().item() * moment.count / 7
        assert energies_of([moment], [matrix.unsqueeze(0), 2 * matrix.unsqueeze(0)]) == pytest.approx(
            [wanted, 4 * wanted]
        )
