"""Reading a recording: every layer type against the dense operator, what is reused, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lashley
from cases import CASES, CONCEPTS, count_calls, double, vectors
from helpers import assert_close, assert_near
from lashley.anatomy import places, spectrum
from lashley.errors import DataError, LashleyWarning, ModelError, MomentError, SelectionError
from lashley.recording import Recording

PLAIN = lashley.Cut.notebook()


def recorded(name: str) -> tuple[nn.Module, Recording]:
    model, data = CASES[name].build()
    model = double(model)
    return model, lashley.record(model, double(data), dtype=torch.float64)


def with_embedding() -> tuple[nn.Module, Recording]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(12, 6), nn.Linear(6, 3)).double().eval()
    data = {c: [torch.randint(2 * i, 2 * i + 7, (30, 5))] for i, c in enumerate(CONCEPTS)}
    return model, lashley.record(model, data, target_modules=["0", "1"], dtype=torch.float64)


@pytest.mark.filterwarnings("ignore::lashley.errors.LashleyWarning")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["mlp", "cnn", "gpt2", "vit", "embedding"])
def test_every_matrix_of_every_layer_is_read(name: str, bias: bool) -> None:
    model, recording = with_embedding() if name == "embedding" else recorded(name)
    engram = recording.engram(model, "a", bias=bias, estimator=lashley.Projection(cut=PLAIN))
    found = spectrum(recording, "a", bias=bias, cut=PLAIN)
    assert list(found) == list(recording.layers)
    assert {n: len(parts) for n, parts in found.items()} == {n: la.matrices for n, la in recording.layers.items()}
    seen = set()
    for place in places(recording, model, bias=bias, cut=PLAIN):
        for layer in place.layers:
            seen.add((layer, place.number))
            augmented = bias and recording.layers[layer].bias
            assert place.augmented == augmented
            s_c, s = (recording.moments(c, layer)[place.number].matrix(augmented) for c in ("a", None))
            operator = s_c @ torch.linalg.pinv(s, hermitian=True)
            values = torch.linalg.eigvals(operator).real.sort(descending=True).values
            assert_close(found[layer][place.number].values, values[: place.kept], atol=1e-6)
            assert_close(place.spectrum("a").values, found[layer][place.number].values, atol=1e-12)
            expected = engram[layer].layer.matrix(engram[layer].weight)[place.number]
            if augmented:
                own_bias = engram[layer].layer.biases(engram[layer].bias)[place.number]
                expected = torch.cat([expected, own_bias[:, None]], 1)
            assert_near(place.engram(layer, "a"), expected, rel=1e-8)
            q = place.complement(layer)
            assert (q.dim, q.kept) == (len(s), place.kept)
            assert q.least == pytest.approx(1, abs=1e-6) and q.most == pytest.approx(1, abs=1e-6)
            assert_close(place.sharing.sum(1), torch.ones(3), atol=1e-6)
    assert seen == {(n, k) for n, layer in recording.layers.items() for k in range(layer.matrices)}


def test_the_defaults_are_those_of_the_engram() -> None:
    model, data = CASES["mlp_wide"].build()
    recording = lashley.record(model, data)
    engram = recording.engram(model, "b")
    for place in places(recording, model):
        [layer] = place.layers
        assert place.kept == engram[layer].solutions[0].rank
        weight = place.engram(layer, "b")[:, :-1]
        assert_near(weight, engram[layer].weight, rel=1e-4)  # the engram of a float32 network is kept in float32


def test_one_factorisation_serves_the_engrams_and_every_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    model, recording = recorded("mlp")
    calls = count_calls(monkeypatch, "cholesky_ex", "eigh")
    for name in CONCEPTS:
        recording.engram(model, name)
    before = dict(calls)
    assert before["cholesky_ex"] == len(recording.sites)
    for place in places(recording, model):
        for name in CONCEPTS:
            place.spectrum(name)
            place.cosines(name, "a")
        _ = place.sharing
        place.energy(place.layers[0])
    assert calls["cholesky_ex"] == before["cholesky_ex"]
    assert calls["eigh"] == before["eigh"] + len(CONCEPTS) * len(recording.sites)


def test_some_concepts_layers_and_references() -> None:
    model, recording = recorded("mlp")
    [place] = places(recording, model, ["b", "a"], layers=["2"])
    assert place.layers == ("2",) and place.concepts == ("b", "a") and place.sharing.shape == (2, 2)
    assert place.complement("2").most < 1  # what c owns is left out
    [alone] = places(recording, model, ["a"], layers=["2"], reference=["a"])
    assert_close(alone.spectrum("a").values, torch.ones(alone.kept), atol=1e-9)
    [without] = places(recording, None, ["a"], layers=["2"], reference=["b", "c"])
    assert without.spectrum("a").excess > 0
    assert "layer '2', matrix 1 of 1" in repr(place)


def test_overlapping_concepts_come_to_more_than_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3)).double()
    x = torch.randn(60, 4).double()
    labels = torch.rand(60, 2) < 0.6
    recording = lashley.record(model, [(x, labels)], lambda batch: batch[1], dtype=torch.float64)
    [place] = places(recording, model)
    q = place.complement("0")
    assert q.most > 1.05 and q.least < 1
    assert q.weight == 0


def test_a_concept_without_rows_owns_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 3)).double()
    labels = torch.zeros(20, dtype=torch.long)
    recording = lashley.record(
        model, [(torch.randn(20, 4).double(), labels)], lambda batch: batch[1], concept_names=["full", "empty"]
    )
    with pytest.warns(LashleyWarning, match="Concept 'empty' has no rows at layer '0'"):
        [place] = places(recording, model)
    assert place.spectrum("empty").trace == 0
    assert place.sharing[0, 1] == 0 and place.sharing[1].isnan().all()
    assert torch.isnan(place.energy("0").own[1])


def test_what_is_refused() -> None:
    model, recording = recorded("mlp")
    with pytest.raises(SelectionError, match="a recorded concept, got 'd'"):
        spectrum(recording, "d")
    with pytest.raises(SelectionError, match="'4' or ends|names '9'"):
        spectrum(recording, "a", layers=["9"])
    with pytest.raises(DataError, match="at least one concept"):
        next(places(recording, model, []))
    with pytest.raises(SelectionError, match="a recorded concept, got 'd'"):
        next(places(recording, model, reference=["d"]))
    place = next(places(recording))
    with pytest.raises(SelectionError, match="give places\\(\\) the model"):
        place.energy("0")
    place = next(places(recording, model, ["a"]))
    with pytest.raises(SelectionError, match="got 'missing'; known is of layer '0'"):
        place.weight("missing")
    with pytest.raises(SelectionError, match="concepts that were asked for, got 'b'"):
        place.spectrum("b")


def test_another_model_is_refused_unless_it_is_meant() -> None:
    _, recording = recorded("mlp")
    other = double(CASES["mlp"].build(seed=5)[0])
    with pytest.raises(ModelError, match="Expected the weights that were recorded"):
        next(places(recording, other))
    assert next(places(recording, other, check=False)).energy("0").of.min() > 0
    with pytest.raises(SelectionError, match="Expected the model to have layer"):
        next(places(recording, nn.Sequential(nn.Linear(24, 20)).double()))
    with pytest.raises(ModelError, match="Expected layer '0' to be Linear"):
        next(places(recording, nn.Sequential(nn.Linear(3, 20)).double(), check=False))


def test_products_alone_are_refused() -> None:
    model, data = CASES["mlp"].build()
    recording = lashley.record(model, data, keep="products")
    with pytest.raises(MomentError, match="no moment of 'a'"):
        spectrum(recording, "a")


def test_a_loaded_recording_says_the_same(tmp_path) -> None:
    _, recording = recorded("mlp")
    recording.save(tmp_path / "rec")
    before, after = spectrum(recording, "a"), spectrum(Recording.load(tmp_path / "rec"), "a")
    for name in before:
        assert_close(after[name][0].values, before[name][0].values, atol=1e-12)


def test_layers_that_read_one_tensor_are_one_place() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.up = nn.Linear(24, 5), nn.Linear(24, 5)
            self.plain = nn.Linear(24, 4, bias=False)

        def forward(self, x):
            return self.gate(x) * self.up(x), self.plain(x)

    torch.manual_seed(0)
    model = Two().double()
    recording = lashley.record(model, double(vectors(24)), dtype=torch.float64)
    found = {place.layers: place.augmented for place in places(recording, model)}
    assert found == {("gate", "up"): True, ("plain",): False}
