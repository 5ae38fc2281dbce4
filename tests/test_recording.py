"""Recordings: engrams that do not depend on how the data came, one factorisation for all of them, and the disk."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lashley
from cases import CASES, CONCEPTS, count_calls, double, mlp, token_batch, vectors
from helpers import assert_near, gaussian, relative_error
from lashley.errors import (
    DataError,
    LashleyWarning,
    ModelError,
    MomentError,
    SelectionError,
    SolveError,
    StoreError,
)
from lashley.estimators import Solution
from lashley.moments import Moment

PAPER = lashley.Projection(cut=lashley.Cut(rtol=1e-6))
SHARP = lashley.Projection(2, 0.5, lashley.Cut(rtol=1e-6))


def network(bias: bool = True, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return mlp(12, 10, 5, bias=bias).double()


def data(seed: int = 1, rows: int = 40) -> dict[str, list[Tensor]]:
    torch.manual_seed(seed)
    return double(vectors(12, rows=rows, batches=2))


@pytest.fixture(scope="module")
def model() -> nn.Sequential:
    return network()


@pytest.fixture(scope="module")
def recording(model: nn.Sequential) -> lashley.Recording:
    return lashley.record(model, data())


def labelled(batches: list[tuple[Tensor, Tensor]], model: nn.Module, **how: Any) -> lashley.Recording:
    return lashley.record(model, batches, concept_of=lambda batch: batch[1], **how)


def same(a: lashley.Engram, b: lashley.Engram, rel: float = 0.0) -> None:
    __tracebackhide__ = True
    assert list(a) == list(b)
    for name in a:
        assert_near(a[name].weight, b[name].weight, rel=rel)
        assert (a[name].bias is None) == (b[name].bias is None)
        if a[name].bias is not None:
            assert_near(a[name].bias, b[name].bias, rel=rel)


def same_moments(a: lashley.Recording, b: lashley.Recording, rel: float = 0.0) -> None:
    __tracebackhide__ = True
    assert set(a.concepts) == set(b.concepts)
    assert [(s.name, s.dim, s.layers, s.rows) for s in a.sites] == [(s.name, s.dim, s.layers, s.rows) for s in b.sites]
    for concept in (*a.concepts, None):
        for layer in a.layers:
            for mine, theirs in zip(a.moments(concept, layer), b.moments(concept, layer), strict=True):
                assert mine.count == theirs.count
                assert_near(mine.augmented, theirs.augmented, rel=rel)


def whole(layer: str, model: nn.Module) -> Tensor:
    """W~ of a linear layer."""
    module = model.get_submodule(layer)
    weight = module.weight.detach().double()
    return weight if module.bias is None else torch.cat([weight, module.bias.detach().double()[:, None]], dim=1)


def tilde(delta: Any) -> Tensor:
    return delta.weight if delta.bias is None else torch.cat([delta.weight, delta.bias[:, None]], dim=1)


# What a recording holds


def test_contents(recording: lashley.Recording) -> None:
    assert recording.concepts == CONCEPTS
    assert list(recording.layers) == ["0", "2"]
    assert [(s.name, s.dim, s.layers, s.rows) for s in recording.sites] == [
        ("0", 12, ("0",), 240),
        ("2", 10, ("2",), 240),
    ]
    assert repr(recording) == "Recording(3 concepts, 2 layers at 2 sites, 240 rows)"
    assert not recording.overlapping
    for concept in CONCEPTS:
        rows = torch.cat(data()[concept])
        moment = recording.moment(concept, "0")
        assert moment.count == 80
        assert_near(moment.square, rows.T @ rows, rel=1e-14)
        assert_near(moment.sum, rows.sum(0), rel=1e-13)
    everything = recording.moment(None, "2")
    assert everything.count == 240
    assert_near(everything.augmented, sum(recording.moment(c, "2").augmented for c in CONCEPTS), rel=1e-14)
    assert recording.moment(None, "2") is everything  # pooled once


def test_layers_of_several_matrices() -> None:
    model, batches = CASES["cnn"].build()
    recording = lashley.record(model, batches)
    assert len(recording.moments("a", "0")) == 2
    with pytest.raises(MomentError, match=r"layer '0' to have one matrix, got 2. Use recording.moments\("):
        recording.moment("a", "0")


def test_unknown_names(recording: lashley.Recording, model: nn.Module) -> None:
    with pytest.raises(SelectionError, match="a recorded layer, got '1'"):
        recording.moment("a", "1")
    with pytest.raises(SelectionError, match="a recorded concept, got 'd'. Known are 'a', 'b', 'c'"):
        recording.moment("d", "0")
    for concepts in ("d", ["a", "d"], {"a": 1.0, "d": 2.0}):
        with pytest.raises(SelectionError, match="a recorded concept, got 'd'"):
            recording.engram(model, concepts)
    with pytest.raises(SelectionError, match="a recorded concept, got 'd'"):
        recording.engram(model, "a", reference=["d"])


@pytest.mark.parametrize(
    ("concepts", "message"),
    [
        ([], "at least one concept, got none"),
        ({}, "at least one concept, got none"),
        (["a", "b", "a"], r"each concept once, got \['a', 'b', 'a'\]"),
        (3, "a concept's name or a list of names, got 3"),
        ({"a": math.nan}, "a finite number as the weight of concept 'a', got nan"),
        ({"a": math.inf}, "a finite number as the weight of concept 'a', got inf"),
        ({"a": "much"}, "a finite number as the weight of concept 'a', got 'much'"),
    ],
)
def test_concepts_that_are_refused(recording: lashley.Recording, model: nn.Module, concepts: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        recording.engram(model, concepts)


# Which engram


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("estimator", [PAPER, SHARP, lashley.Projection(2.5)])
def test_everything_and_nothing(bias: bool, estimator: lashley.Projection) -> None:
    """Target = all gives W~ Pi, for every filter; a concept without rows gives 0, and a warning."""
    model = network(bias)
    x, y = torch.cat([x for b in data().values() for x in b]), torch.arange(240) % 3
    recording = labelled([(x, y)], model, concept_names=["a", "b", "c", "none"])
    everything = recording.engram(model, ["a", "b", "c"], estimator=estimator)
    for name, delta in everything.items():
        values, vectors = torch.linalg.eigh(
            recording.moment(None, name).augmented if bias else recording.moment(None, name).square
        )
        kept = vectors[:, values > 1e-6 * values[-1]]
        assert_near(tilde(delta), whole(name, model) @ kept @ kept.T, rel=1e-8)
    with pytest.warns(LashleyWarning, match="Concept 'none' has no rows in this recording: its engram is zero there"):
        nothing = recording.engram(model, "none", estimator=estimator)
    for delta in nothing.values():
        assert not delta.weight.any()
        assert delta.bias is None or not delta.bias.any()


def test_a_list_is_pooled_and_a_mapping_is_a_weighted_sum(recording: lashley.Recording, model: nn.Module) -> None:
    """They agree for the paper's estimator, and not for the sharpened one."""
    for estimator, linear in ((PAPER, True), (lashley.Ridge(0.1), True), (SHARP, False)):
        a, b = (recording.engram(model, concept, estimator=estimator) for concept in "ab")
        pooled = recording.engram(model, ["a", "b"], estimator=estimator)
        total = recording.engram(model, {"a": 1, "b": 1}, estimator=estimator)
        same(total, a + b, rel=1e-14)
        for name in pooled:
            error = relative_error(total[name].weight, pooled[name].weight)
            assert error < 1e-10 if linear else error > 1e-2
        same(recording.engram(model, ["b", "a"], estimator=estimator), pooled, rel=1e-12)
        weighted = recording.engram(model, {"a": 2.0, "b": -0.5, "c": 0}, estimator=estimator)
        same(weighted, 2.0 * a - 0.5 * b, rel=1e-13)
        for name, delta in weighted.items():  # one reference for all of them: one solution, all their rows
            (solution,) = delta.solutions
            assert solution == replace(a[name].solutions[0], target_rows=240)
        assert weighted.concepts == {"a": 2.0, "b": -0.5, "c": 0.0}
        assert pooled.concepts == {"a": 1.0, "b": 1.0}
        assert weighted.estimator == estimator
        assert weighted.base_fingerprint == a.base_fingerprint != ""


def test_one_name_as_text_list_or_mapping(recording: lashley.Recording, model: nn.Module) -> None:
    a = recording.engram(model, "a")
    same(recording.engram(model, ["a"]), a)
    same(recording.engram(model, {"a": 1.0}), a)
    assert recording.engram(model, {"a": 0.5})["0"].solutions == a["0"].solutions
    assert a.estimator == lashley.Projection()


def test_reference(recording: lashley.Recording, model: nn.Module) -> None:
    """S from some concepts only, against the formula in dense matrices."""
    for names in (["a", "b"], ["b", "a"], ["a"], ["a", "b", "c"]):
        engram = recording.engram(model, "a", reference=names, estimator=PAPER)
        for layer, delta in engram.items():
            s = sum(recording.moment(name, layer).augmented for name in names)
            values, vectors = torch.linalg.eigh(s)
            kept = values > 1e-6 * values[-1]
            s_pinv = vectors[:, kept] / values[kept] @ vectors[:, kept].T
            expected = whole(layer, model) @ recording.moment("a", layer).augmented @ s_pinv
            assert_near(tilde(delta), expected, rel=1e-8)
            assert delta.solutions[0].reference_rows == 80 * len(names)
    all_of_them = recording.engram(model, "a", estimator=PAPER)
    same(recording.engram(model, "a", reference=list(CONCEPTS), estimator=PAPER), all_of_them, rel=1e-10)
    same(
        recording.engram(model, "a", reference="a", estimator=PAPER),
        recording.engram(model, "a", reference=["a"], estimator=PAPER),
    )
    with pytest.raises(DataError, match="at least one concept, got none"):
        recording.engram(model, "a", reference=[])


def test_delta_weights(recording: lashley.Recording, model: nn.Module) -> None:
    """base: the engram of W - W0, from a model or from a state dict."""
    old = network(seed=9)
    new_part = recording.engram(model, "a", estimator=SHARP)
    old_part = recording.engram(old, "a", estimator=SHARP, check=False)
    delta = recording.engram(model, "a", base=old, estimator=SHARP)
    same(delta, new_part - old_part, rel=1e-12)
    same(recording.engram(model, "a", base=old.state_dict(), estimator=SHARP), delta)
    same(recording.engram(model, "a", base=nn.DataParallel(old), estimator=SHARP), delta)
    nothing = recording.engram(model, "a", base=model)
    assert not any(d.weight.any() or d.bias.any() for d in nothing.values())
    without = recording.engram(model, "a", base=network(bias=False, seed=9), bias=False, estimator=SHARP)
    assert all(d.bias is None for d in without.values())


def test_bases_that_are_refused(recording: lashley.Recording, model: nn.Module) -> None:
    state = network(seed=9).state_dict()
    with pytest.raises(SelectionError, match="base to have 0.weight. Did you mean '2.weight'"):
        recording.engram(model, "a", base={k: v for k, v in state.items() if k != "0.weight"})
    with pytest.raises(SelectionError, match="base to have 0.bias"):  # not taken as zero
        recording.engram(model, "a", base=network(bias=False))
    with pytest.raises(ModelError, match=r"base to have 2.weight of shape \[5, 10\], got \[5, 11\]: it is another"):
        recording.engram(model, "a", base={**state, "2.weight": torch.zeros(5, 11)})
    with pytest.raises(ModelError, match=r"base to have 2.bias of shape \[5\], got \[4\]"):
        recording.engram(model, "a", base={**state, "2.bias": torch.zeros(4)})


class Shared(nn.Module):
    """Two layers read one tensor; one of them has a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 6)
        self.with_bias = nn.Linear(6, 4)
        self.without = nn.Linear(6, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return torch.cat([self.with_bias(x), self.without(x)], dim=-1)


def test_two_layers_share_a_site_and_one_has_a_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Shared().double()
    batches = {c: [gaussian(60, 8, seed=i) + i] for i, c in enumerate("ab")}
    shared = lashley.record(model, batches)
    assert [site.layers for site in shared.sites] == [("first",), ("with_bias", "without")]
    calls = count_calls(monkeypatch, "eigh")
    together = shared.engram(model, "a", estimator=lashley.Projection(cut=lashley.Cut(rank=5)))
    assert calls["eigh"] == 3  # the shared site with and without a 1 appended
    for name in model.state_dict():
        layer = name.rpartition(".")[0]
        alone = lashley.record(model, batches, target_modules=[layer])
        same(alone.engram(model, "a", estimator=together.estimator), together.select([layer]), rel=1e-12)
    assert together["with_bias"].bias is not None
    assert together["without"].bias is None
    assert [together[n].solutions[0].dim for n in ("with_bias", "without")] == [7, 6]
    plain = shared.engram(model, "a", bias=False)
    assert [d.solutions[0].dim for d in plain.values()] == [8, 6, 6]
    assert all(d.bias is None for d in plain.values())


def test_few_rows_make_exact_factors(model: nn.Sequential) -> None:
    """As many directions as rows; the dense form of the same engram, from the same moments, is equal."""
    batches = {**data(), "few": [data()["b"][0][:3] + 1]}
    recording = lashley.record(model, batches)
    for estimator in (PAPER, SHARP, lashley.Projection(2.5, 0.3), lashley.Ridge(0.2)):
        thin = recording.engram(model, "few", estimator=estimator)
        squared = lashley.record(model, batches)
        for held in squared._moments:
            held["few"] = [_squared(moment) for moment in held["few"]]
        dense = squared.engram(model, "few", estimator=estimator)
        for name, delta in thin.items():
            assert delta.factors is not None
            assert dense[name].factors is None
            a, b = delta.factors
            module = model.get_submodule(name)
            assert (a.shape, b.shape) == ((module.out_features, 3), (3, module.in_features))
            assert torch.equal(delta.weight, a @ b)
        same(thin, dense, rel=1e-9)


def _squared(moment: Moment) -> Moment:
    lower = torch.ones(moment.dim, moment.dim, dtype=torch.bool).tril()
    return Moment.unpack({"sum": moment.sum, "triangle": moment.square[lower]}, moment.count)


def test_a_recording_with_fewer_rows_than_columns() -> None:
    """Everything stays on the side of the rows, and the engram does exactly what it should on them."""
    model = mlp(30, 4, bias=False).double()
    batches = {"a": [gaussian(4, 30)], "b": [gaussian(5, 30, seed=1)]}
    recording = lashley.record(model, batches)
    with pytest.warns(LashleyWarning, match="Fewer than 2 rows per column in layer '0'") as caught:
        engram = recording.engram(model, "a")
    assert "fewest: 9 rows for 30 columns" in str(caught[0].message)
    assert engram["0"].solutions[0].rank == 9
    weight = model[0].weight.detach()
    assert_near(engram["0"].weight @ batches["a"][0].T, weight @ batches["a"][0].T, rel=1e-9)
    assert (engram["0"].weight @ batches["b"][0].T).norm() < 1e-9


@pytest.mark.parametrize(
    ("weights", "expected"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2]
)
def test_an_engram_is_float32_or_better(weights: torch.dtype, expected: torch.dtype) -> None:
    model = network().to(weights)
    batches = {name: [x.to(weights) for x in part] for name, part in data().items()}
    recording = lashley.record(model, batches)
    engram = recording.engram(model, "a", estimator=PAPER)
    assert {t.dtype for d in engram.values() for t in (d.weight, d.bias)} == {expected}
    s_c, s = recording.moment("a", "0").augmented, recording.moment(None, "0").augmented
    dense = whole("0", model) @ s_c @ torch.linalg.inv(s)
    assert_near(tilde(engram["0"]), dense, rel=1e-6)
    assert engram.weight_norms()["0"] == pytest.approx((dense[:, :-1].norm() / whole("0", model)[:, :-1].norm()).item())


def test_an_engram_owns_its_tensors(recording: lashley.Recording) -> None:
    model = network()
    before = [p.clone() for p in model.parameters()]
    engram = recording.engram(model, "a")
    kept = {name: delta.weight.clone() for name, delta in engram.items()}
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(torch.equal(engram[name].weight, kept[name]) for name in kept)
    assert not any(d.weight.requires_grad or d.bias.requires_grad for d in engram.values())


# Which model


@pytest.mark.parametrize("way", ["data", "numpy"])
def test_an_edit_that_no_version_counts_is_noticed(way: str, recording: lashley.Recording) -> None:
    edited = network()
    recording.engram(edited, "a")
    weight = next(iter(edited.parameters()))
    before = weight._version
    if way == "data":
        weight.data[0, 0] += 1
    else:
        weight.detach().numpy()[0, 0] += 1
    assert weight._version == before
    with pytest.raises(ModelError, match="the weights that were recorded, got others"):
        recording.engram(edited, "a")


def test_a_model_with_other_weights_is_refused(recording: lashley.Recording) -> None:
    changed = network()
    with torch.no_grad():
        changed[2].weight[0, 0] += 1e-9
    with pytest.raises(ModelError, match="the weights that were recorded, got others in layer '2': .*check=False"):
        recording.engram(changed, "a")
    with pytest.raises(ModelError, match="others in layers '0', '2'"):
        recording.engram(network(seed=5), "a")
    blank = recording.engram(network(seed=5), "a", check=False)
    assert blank.base_fingerprint != recording.engram(network(), "a").base_fingerprint


def test_wrapped_models_are_the_model(recording: lashley.Recording, model: nn.Module) -> None:
    same(recording.engram(nn.DataParallel(model), "a"), recording.engram(model, "a"))


def test_models_of_another_form_are_refused(recording: lashley.Recording) -> None:
    with pytest.raises(SelectionError, match="the model to have layer '0', which was recorded"):
        recording.engram(nn.ModuleDict({"fc": nn.Linear(12, 10)}), "a")
    with pytest.raises(ModelError, match=r"layer '2' to be Linear \[5, 10\] as recorded, got Linear \[6, 10\]"):
        recording.engram(mlp(12, 10, 6), "a")
    with pytest.raises(ModelError, match=r"Linear \[10, 12\], with other settings"):
        recording.engram(network(bias=False), "a")
    with pytest.raises(ModelError, match=r"torch.nn.Module, got str"):
        recording.engram("model", "a")  # type: ignore[arg-type]


@pytest.mark.parametrize("estimator", [lashley.Projection, 1e-4, "paper"])
def test_estimators_that_are_none(recording: lashley.Recording, model: nn.Module, estimator: Any) -> None:
    with pytest.raises(SolveError, match=r"an estimator such as Projection\(\) or Ridge\(lam\), got"):
        recording.engram(model, "a", estimator=estimator)


def test_weights_that_are_not_finite_give_no_engram(recording: lashley.Recording) -> None:
    broken = network()
    with torch.no_grad():
        broken[2].weight[0, 0] = math.nan
    with pytest.raises(SolveError, match="a finite engram in layer '2', got nan or inf"):
        recording.engram(broken, "a", check=False)


# Invariance


@pytest.mark.parametrize("size", [1, 7, 80])
def test_batch_size_does_not_matter(recording: lashley.Recording, model: nn.Module, size: int) -> None:
    other = lashley.record(model, {c: list(torch.cat(b).split(size)) for c, b in data().items()})
    same_moments(other, recording, rel=1e-13)
    for estimator in (PAPER, SHARP):
        same(
            other.engram(model, "a", estimator=estimator), recording.engram(model, "a", estimator=estimator), rel=1e-10
        )


def test_order_does_not_matter(recording: lashley.Recording, model: nn.Module) -> None:
    batches = {c: [torch.cat(b).flip(0)[i::3] for i in range(3)] for c, b in reversed(data().items())}
    other = lashley.record(model, batches)
    assert other.concepts == CONCEPTS[::-1]
    same_moments(other, recording, rel=1e-13)
    same(other.engram(model, "a", estimator=SHARP), recording.engram(model, "a", estimator=SHARP), rel=1e-10)


def test_labels_in_one_loader_are_concepts_in_a_mapping(recording: lashley.Recording, model: nn.Module) -> None:
    x = torch.cat([torch.cat(data()[c]) for c in CONCEPTS])
    y = torch.arange(3).repeat_interleave(80)
    mixed = torch.randperm(240, generator=torch.Generator().manual_seed(0))
    other = labelled(list(zip(x[mixed].split(50), y[mixed].split(50), strict=True)), model, concept_names=CONCEPTS)
    same_moments(other, recording, rel=1e-13)
    same(
        other.engram(model, ["a", "c"], estimator=SHARP),
        recording.engram(model, ["a", "c"], estimator=SHARP),
        rel=1e-10,
    )


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_padding_does_not_matter(name: str) -> None:
    model, _ = CASES[name].build()
    ids = {c: torch.randint(0, 64, (14, 9)) for c in "ab"}
    sides = {side: {c: [token_batch(x, side)] for c, x in ids.items()} for side in ("none", "left", "right")}
    bare = lashley.record(model, {c: [{"input_ids": x}] for c, x in ids.items()})
    engrams = {}
    for side, batches in sides.items():
        padded = lashley.record(model, batches)
        same_moments(padded, bare, rel=1e-5)
        engrams[side] = padded.engram(model, "a", estimator=lashley.Projection(2, cut=lashley.Cut(rtol=1e-3)))
    same(engrams["left"], engrams["none"], rel=1e-3)
    same(engrams["right"], engrams["none"], rel=1e-3)
    # The wrong twin: without the mask, padding counts.
    careless = lashley.record(
        model, sides["right"], rows=lambda batch, site: torch.ones_like(batch["input_ids"]).bool()
    )
    layer = next(iter(bare.layers))
    assert careless.moment("a", layer).count == 168 > bare.moment("a", layer).count == 126


# Split and merge


DIM = {"narrow": 12, "wide": 260}  # the wide one begins thin; its products are float64 because we ask for it


@pytest.mark.parametrize("width", DIM)
@given(assignment=st.lists(st.integers(0, 2), min_size=6, max_size=6), named=st.booleans())
@settings(max_examples=25)
def test_merge_equals_the_single_run(width: str, assignment: list[int], named: bool) -> None:
    """Any division of the batches among three shards, one of which may lack a concept, or be missing altogether."""
    torch.manual_seed(0)
    model = mlp(DIM[width], 6, 3)
    batches = []
    for number in range(6):
        x = torch.randn(70 if width == "wide" else 9, DIM[width]) + number
        batches.append((x, torch.full((len(x),), number // 2)))  # two batches of each concept
    how: dict[str, Any] = {"dtype": torch.float64, "concept_names": ["a", "b", "c"] if named else None}
    single = labelled(batches, model, **how)
    shards = [[b for b, shard in zip(batches, assignment, strict=True) if shard == s] for s in range(3)]
    merged = lashley.merge(*(labelled(shard, model, **how) for shard in shards if shard))
    same_moments(merged, single, rel=1e-12)
    for concept in single.concepts:
        engrams = [quiet(r.engram, model, concept, estimator=SHARP) for r in (merged, single)]
        same(*engrams, rel=1e-5)


def quiet(f: Callable[..., Any], *args: Any, **how: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LashleyWarning)
        return f(*args, **how)


def test_merge_through_the_disk_and_in_any_order(
    recording: lashley.Recording, model: nn.Module, tmp_path: Path
) -> None:
    parts = []
    for number in range(2):
        part = lashley.record(model, {c: [b[number]] for c, b in data().items()})
        part.save(tmp_path / str(number))
        parts.append(lashley.Recording.load(tmp_path / str(number)))
    same_moments(lashley.merge(*parts), recording, rel=1e-13)
    same_moments(lashley.merge(*parts[::-1]), recording, rel=1e-13)
    one = lashley.merge(parts[0])
    same_moments(one, parts[0])
    with pytest.raises(MomentError, match="every shard once"):
        lashley.merge(one, parts[0])


def test_merge_of_different_concepts(recording: lashley.Recording, model: nn.Module) -> None:
    merged = lashley.merge(*(lashley.record(model, {c: b}) for c, b in data().items()))
    assert merged.concepts == CONCEPTS
    same_moments(merged, recording, rel=1e-13)


def test_merge_of_overlapping_concepts(model: nn.Module) -> None:
    """All rows are counted once, in the shards and in their sum."""
    x = torch.cat(data()["a"])
    y = torch.stack([torch.arange(80) % 2 == 0, torch.arange(80) % 3 == 0], dim=1)
    single = labelled([(x, y)], model)
    merged = lashley.merge(*(labelled([(x[i : i + 40], y[i : i + 40])], model) for i in (0, 40)))
    assert merged.overlapping
    assert [merged.moment(c, "0").count for c in ("0", "1", None)] == [40, 27, 80]
    same_moments(merged, single, rel=1e-13)


def test_a_duplicate_shard_is_refused(model: nn.Module) -> None:
    a, b = (lashley.record(model, data(seed=s)) for s in (1, 2))
    again = lashley.record(model, data(seed=1))
    for shards in ((a, a), (a, again), (a, b, a), (lashley.merge(a, b), b)):
        with pytest.raises(MomentError, match=r"every shard once, got shard \w+ twice: its rows would count double"):
            lashley.merge(*shards)


def test_recordings_that_do_not_belong_together(recording: lashley.Recording, model: nn.Module) -> None:
    with pytest.raises(DataError, match="at least one recording, got none"):
        lashley.merge()
    with pytest.raises(MomentError, match=r"with the same layers, got .*'2': LinearLayer.* and \{'2': None\}"):
        lashley.merge(recording, lashley.record(model, data(2), target_modules=["0"]))
    with pytest.raises(MomentError, match=r"with the same layers, got .*bias=True.* and .*bias=False"):
        lashley.merge(recording, lashley.record(network(bias=False), data(2)))
    with pytest.raises(
        MomentError, match=r"with the same weights, got \{'0': '\w+', '2': '\w+'\} and .*Record them with"
    ):
        lashley.merge(recording, lashley.record(network(seed=4), data(2)))
    overlapping = labelled([(data(2)["a"][0], torch.ones(40, 1, dtype=torch.bool))], model)
    with pytest.raises(MomentError, match="with the same overlap of concepts, got False and True"):
        lashley.merge(recording, overlapping)


def test_other_sites_are_refused() -> None:
    class Sometimes(Shared):
        """Stops sharing in a later batch, so that the recording starts over with a site per layer."""

        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            x = self.first(x).relu()
            return torch.cat([self.with_bias(x), self.without(x.clone() if self.calls == 4 else x)], dim=-1)

    model = Sometimes()
    shared = lashley.record(model, {"a": [gaussian(9, 8).float()]})
    with pytest.warns(LashleyWarning, match="recording again"):
        apart = lashley.record(model, {"a": [gaussian(9, 8, seed=s).float() for s in (1, 2, 3)]})
    with pytest.raises(MomentError, match=r"the same sites, got .*\('with_bias', 'without'\).* and .*\('with_bias',\)"):
        lashley.merge(shared, apart)


# One factorisation for all


def forty(dim: int = 10, copied: bool = False) -> tuple[nn.Module, lashley.Recording]:
    """Forty concepts at three sites; with a copied column, no site has full rank."""
    torch.manual_seed(0)
    model = mlp(dim, 6, 6, 3).double()
    x = gaussian(800, dim)
    if copied:
        x[:, 1] = x[:, 0]
        with torch.no_grad():
            for layer in (model[0], model[2]):
                layer.weight[1], layer.bias[1] = layer.weight[0], layer.bias[0]
    return model, labelled([(x, torch.arange(800) % 40)], model)


@pytest.mark.parametrize("copied", [False, True])
def test_one_factorisation_of_a_site_serves_everything(copied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, recording = forty(copied=copied)
    calls = count_calls(monkeypatch, "eigh", "eigvalsh")
    # Of each of three Cholesky factors the largest and the smallest eigenvalue are looked for, once.
    expected = {"eigh": 3, "eigvalsh": 0} if copied else {"eigh": 0, "eigvalsh": 6}
    once = sum(expected.values())
    for concept in recording.concepts:
        recording.engram(model, concept)
    assert calls == expected
    for concepts in (["0", "1"], ["3", "4", "5"], {"0": 1.0, "9": -2.0}):
        for estimator in (
            lashley.Projection(),
            SHARP,
            lashley.Projection(3, 0.3),
            lashley.Projection(cut=lashley.Cut.paper()),
        ):
            recording.engram(model, concepts, estimator=estimator)
            recording.engram(model, concepts, estimator=estimator, base=model)
    assert calls == expected
    recording.engram(model, "0", bias=False)
    recording.engram(model, "1", bias=False)
    assert sum(calls.values()) == 2 * once  # the other matrix of each site
    some = [str(k) for k in range(20)]
    for concept in some:
        recording.engram(model, concept, reference=some)
        recording.engram(model, concept)  # does not push out the other
    assert sum(calls.values()) == 3 * once


def test_the_sensitivity_table_needs_one_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    model, recording = forty(copied=True)
    calls = count_calls(monkeypatch, "eigh")
    recording.sensitivity(model, "0")
    recording.sensitivity(model, "1", estimator=SHARP)
    assert calls["eigh"] == 3


def held(thing: object) -> int:
    """Bytes of all tensors that can be reached from an object."""
    seen: dict[int, object] = {}
    sizes: dict[int, int] = {}
    waiting = [thing]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type):
            continue
        seen[id(one)] = one
        if isinstance(one, Tensor):
            sizes[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
        else:
            waiting += [getattr(one, name) for name in getattr(one, "__slots__", ()) if hasattr(one, name)]
            waiting += getattr(one, "__dict__", {}).values()
    return sum(sizes.values())


def test_nothing_is_kept_of_concepts_subsets_references_and_cuts() -> None:
    model, recording = forty()

    def ask(number: int) -> None:
        recording.engram(model, str(number))
        recording.engram(model, [str(number), "39"])
        recording.engram(model, str(number), reference=[str(number), "37", "38"])
        recording.engram(model, str(number), estimator=lashley.Projection(cut=lashley.Cut(rank=number % 5 + 1)))
        recording.engram(model, str(number), estimator=lashley.Ridge(1.0 + number))

    bare = held(recording)
    ask(0)
    before = held(recording)
    assert before > bare  # factors are kept
    for number in range(1, 20):
        ask(number)
    assert held(recording) == before


# Warnings


def test_no_warning_without_a_reason(recording: lashley.Recording, model: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recording.engram(model, {"a": 1.0, "b": 0.5}, reference=["a", "b"], estimator=SHARP)


def test_warnings_come_once_and_point_at_the_caller() -> None:
    model = network()
    recording = lashley.record(model, {c: [b[0][:5]] for c, b in data().items()})
    with pytest.warns(LashleyWarning, match="Fewer than 2 rows per column in layers '0', '2'") as caught:
        recording.engram(model, {"a": 1.0, "b": 1.0, "c": 1.0})
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "Record more data" in str(caught[0].message)


def test_a_cut_near_the_rounding_of_float32_products() -> None:
    model = network()
    recording = lashley.record(model, data(), dtype=torch.float32)
    with pytest.warns(
        LashleyWarning, match=r"In layers '0', '2' the spectral cut lies within ten times.*dtype=torch.float64"
    ):
        recording.engram(model, "a", estimator=lashley.Projection(cut=lashley.Cut(rtol=4e-6)))
    assert recording.engram(model, "a", estimator=lashley.Projection(cut=lashley.Cut(rtol=1e-4)))


@pytest.mark.parametrize("estimator", [PAPER, SHARP])
def test_a_reference_without_the_target(
    recording: lashley.Recording, model: nn.Module, estimator: lashley.Projection
) -> None:
    with pytest.warns(LashleyWarning, match=r"The reference does not contain \['c'\]") as caught:
        engram = recording.engram(model, ["a", "c"], reference=["a", "b"], estimator=estimator)
    message = str(caught[0].message)
    clipped = max(s.clipped for d in engram.values() for s in d.solutions)
    assert (clipped > 0) == (estimator == SHARP)
    assert (f"(by up to {clipped:.3g}, clipped)" in message) == (estimator == SHARP)
    assert "Add the target to reference=" in message


def test_rows_of_several_concepts(model: nn.Module) -> None:
    x = torch.cat(data()["a"])
    y = torch.ones(80, 2, dtype=torch.bool)
    y[:40, 1] = False
    recording = labelled([(x, y)], model, concept_names=["all", "half"])
    recording.engram(model, "all")
    recording.engram(model, {"all": 1.0, "half": 1.0})
    with pytest.warns(
        LashleyWarning, match=r"Concepts may overlap here: rows that belong to several of \['all', 'half'\]"
    ):
        pooled = recording.engram(model, ["all", "half"], estimator=SHARP)
    assert all(s.clipped > 0 for d in pooled.values() for s in d.solutions)
    assert pooled["0"].solutions[0].target_rows == 120
    with pytest.warns(LashleyWarning, match="Record their union as a concept of its own"):
        recording.engram(model, "half", reference=["half", "all"])


def test_a_concept_without_rows_at_some_sites() -> None:
    """Through a mask that differs between sites."""
    model = network()

    def rows(batch: Any, site: Any) -> Tensor:
        labels = batch[1]
        return (labels == 0) | torch.full_like(labels, site.name == "0", dtype=torch.bool)

    x = torch.cat([torch.cat(b) for b in data().values()])
    recording = labelled([(x, (torch.arange(240) > 119).long())], model, concept_names=["a", "b"], rows=rows)
    assert recording.moment("b", "2").count == 0
    with pytest.warns(
        LashleyWarning, match="Concept 'b' has no rows in layer '2': its engram is zero there. Merge the"
    ):
        engram = recording.engram(model, "b")
    assert engram["0"].weight.any()
    assert not engram["2"].weight.any()


# The sensitivity table


def test_sensitivity(recording: lashley.Recording, model: nn.Module) -> None:
    cuts = [lashley.Cut(rtol=1e-8), lashley.Cut(rank=4), lashley.Cut(energy=0.5)]
    table = recording.sensitivity(model, "a", cuts)
    assert [(row["layer"], row["cut"]) for row in table] == [(n, str(c)) for n in ("0", "2") for c in cuts]
    assert set(table[0]) == {"layer", "cut", "kept", "dim", "norm", "rank", "condition", "eigengap"}
    for row, cut in zip(table, cuts * 2, strict=True):
        engram = recording.engram(model, "a", estimator=lashley.Projection(cut=cut))
        solution = engram[row["layer"]].solutions[0]
        assert row["norm"] == engram.weight_norms()[row["layer"]]
        assert (row["kept"], row["dim"]) == (solution.rank, solution.dim)
        assert (row["condition"], row["eigengap"]) == (solution.condition, solution.eigengap)
        assert 1 <= row["rank"] <= min(model.get_submodule(row["layer"]).weight.shape)
    assert [row["kept"] for row in table[1::3]] == [4, 4]
    json.dumps(table, allow_nan=False)


def test_sensitivity_of_the_default_cuts_of_a_sum_and_of_a_sharper_engram(
    recording: lashley.Recording, model: nn.Module
) -> None:
    table = recording.sensitivity(model, {"a": 1.0, "b": -1.0}, estimator=SHARP, reference=["a", "b"])
    assert [row["cut"] for row in table[:5]] == [
        "rtol D x 2^-52",
        "rtol 1e-06",
        "rtol D x 2^-23",
        "rtol 0.0001",
        "rtol 0.01",
    ]
    sharper = recording.engram(model, {"a": 1.0, "b": -1.0}, estimator=SHARP, reference=["a", "b"])
    assert table[1]["norm"] == pytest.approx(sharper.weight_norms()["0"], rel=1e-12)


def test_sensitivity_is_silent_and_takes_groups_together() -> None:
    model, batches = CASES["cnn"].build()
    recording = lashley.record(model, {c: [b[0][:1]] for c, b in batches.items()})
    table = recording.sensitivity(model, "a", [lashley.Cut()])  # too few rows: the table shows it
    assert len(table) == len(recording.layers)


def test_sensitivity_needs_a_cut(recording: lashley.Recording, model: nn.Module) -> None:
    with pytest.raises(SolveError, match=r"an estimator with a cut, such as Projection\(\), got Ridge\(lam=1.0\)"):
        recording.sensitivity(model, "a", estimator=lashley.Ridge(1.0))  # type: ignore[arg-type]


# On disk


@pytest.fixture
def various() -> tuple[nn.Module, lashley.Recording]:
    """Groups, thin and square and empty moments, float32 products, concepts that overlap."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(36, 300), nn.ReLU(), nn.Linear(300, 4))
    x = torch.randn(400, 4, 8)
    y = torch.zeros(400, 3, dtype=torch.bool)
    y[:, 0], y[:7, 1] = True, True
    return model, labelled([(x, y)], model, concept_names=["many", "few", "none"])


def test_a_recording_comes_back_to_the_bit(various: tuple[nn.Module, lashley.Recording], tmp_path: Path) -> None:
    model, recording = various
    recording.save(tmp_path / "r")
    back = lashley.Recording.load(tmp_path / "r")
    assert (back.concepts, back.layers, back.sites) == (recording.concepts, recording.layers, recording.sites)
    assert back.overlapping
    assert back.made_by == recording.made_by
    for concept in (*recording.concepts, None):
        for layer in recording.layers:
            for mine, theirs in zip(recording.moments(concept, layer), back.moments(concept, layer), strict=True):
                assert (mine.thin, mine.count, mine.product) == (theirs.thin, theirs.count, theirs.product)
                assert torch.equal(mine.augmented, theirs.augmented)
                assert mine.rows is None or torch.equal(mine.rows, theirs.rows)
    assert back.moment(None, "4").product == torch.float32
    assert back.moment("few", "4").thin
    for concept in ("many", "few"):
        same(quiet(back.engram, model, concept), quiet(recording.engram, model, concept))
    with pytest.raises(MomentError, match="every shard once"):
        lashley.merge(recording, back)
    with pytest.raises(ModelError, match="the weights that were recorded"):
        quiet(back.engram, model.bfloat16(), "many")


def test_saving_twice_replaces(various: tuple[nn.Module, lashley.Recording], recording: Any, tmp_path: Path) -> None:
    various[1].save(tmp_path / "r")
    recording.save(tmp_path / "r")
    same_moments(lashley.Recording.load(tmp_path / "r"), recording)
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == [
        "manifest.json",
        "site-0000.safetensors",
        "site-0001.safetensors",
    ]


def test_another_kind_of_folder(recording: lashley.Recording, model: nn.Module, tmp_path: Path) -> None:
    recording.engram(model, "a").save(tmp_path / "e")
    with pytest.raises(StoreError, match="a folder with a recording, got one with engram"):
        lashley.Recording.load(tmp_path / "e")
    with pytest.raises(StoreError, match="does not exist"):
        lashley.Recording.load(tmp_path / "nothing")


def test_solutions_travel_with_the_engram(recording: lashley.Recording, model: nn.Module, tmp_path: Path) -> None:
    engram = recording.engram(model, "a", estimator=lashley.Projection(2, cut=lashley.Cut(rank=6)))
    engram.save(tmp_path / "e")
    back = lashley.Engram.load(tmp_path / "e")
    assert back.estimator == engram.estimator
    for name, delta in engram.items():
        assert back[name].solutions == delta.solutions
        (solution,) = delta.solutions
        assert isinstance(solution, Solution)
        assert (solution.rank, solution.solver, solution.rtol) == (6, "eigh", None)
        assert solution.eigengap is not None
        assert solution.condition is not None
        assert (solution.target_rows, solution.reference_rows) == (80, 240)
