"""Engrams: an algebra of deltas that belong to nobody else, and their file."""

from __future__ import annotations

import errno
import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import lashley
from editing import delta_of, engram_of, mlp, randomised, raw
from helpers import assert_close, assert_near, gaussian
from lashley import Cut, Engram, Projection, Ridge, store
from lashley.engram import Delta, check_finite
from lashley.errors import EditError, SelectionError, SolveError, StoreError
from lashley.layers import describe
from lashley.provenance import fingerprint
from lashley.store import MANIFEST, Reader, writing

FACTORS, DENSE = 2, None
THIN, SQUARE = 2, 400  # rows of the target: its moment stays rows, or becomes a matrix


class Everything(nn.Module):
    """A layer of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 5)
        self.transposed = Conv1D(4, 7)
        self.grouped = nn.Conv2d(4, 6, 3, groups=2)
        self.line = nn.Conv1d(3, 2, 2, bias=False)


def everything(dtype: torch.dtype = torch.float32) -> Everything:
    return randomised(Everything(), dtype)


def tensors(engram: Engram) -> dict[str, object]:
    """The bytes of every tensor of an engram, and how it is held."""
    found: dict[str, object] = {}
    for name, delta in engram.items():
        found[f"{name}.weight"] = raw(delta.weight)
        found[f"{name}.bias"] = raw(delta.bias)
        found[f"{name}.factors"] = None if delta.factors is None else tuple(raw(f) for f in delta.factors)
    return found


def facts(engram: Engram) -> dict[str, object]:
    """Everything else."""
    return {
        "concepts": engram.concepts,
        "estimator": engram.estimator,
        "made_by": engram.made_by,
        "base_fingerprint": engram.base_fingerprint,
        "layers": [delta.layer for delta in engram.values()],
        "solutions": [delta.solutions for delta in engram.values()],
        "base": [(delta.base, delta.base_norm) for delta in engram.values()],
    }


def recorded(
    dtype: torch.dtype = torch.float32, rows: int = SQUARE, layers: int = 1
) -> tuple[nn.Module, lashley.Recording]:
    """A network and a recording of two concepts; ``layers`` read the same input."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.readers = nn.ModuleList(nn.Linear(6, 5) for _ in range(layers))

        def forward(self, x: Tensor) -> Tensor:
            return sum(reader(x) for reader in self.readers)

    model = randomised(Net(), dtype)
    cats, dogs = gaussian(rows, 6, seed=50).to(dtype), gaussian(400, 6, seed=51).to(dtype)
    return model, lashley.record(model, {"cat": [cats], "dog": [dogs + 1]}, progress=False)


# A mapping.


def test_an_engram_is_a_mapping_in_the_models_order():
    engram = engram_of(mlp())
    assert list(engram) == ["0", "2"] and len(engram) == 2
    assert "0" in engram and "1" not in engram and 0 not in engram
    assert engram.get("1") is None
    assert engram["0"].layer.name == "0"
    assert repr(engram).startswith("Engram({'cat': 1}, 2 layers, Projection(")
    assert repr(engram["0"]) == "Delta('0', [5, 6], with bias)"
    assert repr(engram_of(mlp(), rank=2)["2"]) == "Delta('2', [4, 5], rank 2)"


def test_an_unknown_layer_is_refused_and_the_nearest_is_offered():
    engram = engram_of(everything())
    with pytest.raises(SelectionError, match="Expected a layer of this engram, got 'lineer'. Did you mean 'linear'"):
        engram["lineer"]
    with pytest.raises(KeyError):
        engram[3]


def test_select_takes_layers_by_pattern():
    engram = engram_of(everything())
    assert list(engram.select(["linear", "line"])) == ["linear", "line"]
    assert list(engram.select(r"(line|grouped).*")) == ["linear", "grouped", "line"]
    assert facts(engram.select(["linear"]))["concepts"] == engram.concepts
    with pytest.raises(SelectionError, match="nothing"):
        engram.select(["nothing"])


def test_to_moves_every_tensor():
    for engram in (engram_of(mlp()), engram_of(mlp(), rank=2)):
        moved = engram.to("meta")
        held = [t for d in moved.values() for t in (d.weight, d.bias, *(d.factors or ())) if t is not None]
        assert all(t.is_meta for t in held) and not engram["0"].weight.is_meta
        assert facts(moved) == facts(engram)
        assert tensors(engram.to("cpu")) == tensors(engram)


# The algebra.


@pytest.mark.parametrize("rank", [DENSE, FACTORS])
@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda a, b: a + b, lambda a, b: a + b),
        (lambda a, b: a - b, lambda a, b: a - b),
        (lambda a, b: -a, lambda a, b: -a),
        (lambda a, b: 0.5 * a, lambda a, b: 0.5 * a),
        (lambda a, b: a * 3, lambda a, b: 3 * a),
        (lambda a, b: a / 2, lambda a, b: a / 2),
        (lambda a, b: a / -0.1 - 2 * b + a, lambda a, b: -9 * a - 2 * b),
        (lambda a, b: sum([a, b, a]), lambda a, b: 2 * a + b),
        (lambda a, b: a - a, lambda a, b: 0 * a),
        (lambda a, b: np.float32(0.5) * a * np.int64(2), lambda a, b: a),
        (lambda a, b: a / np.float64(4), lambda a, b: a / 4),
    ],
)
def test_the_algebra_of_engrams_is_that_of_their_deltas(work, expected, rank):
    model = everything(torch.float64)
    names = ("linear", "transposed") if rank else ("linear", "transposed", "grouped", "line")
    a, b = (engram_of(model, *names, rank=rank, seed=seed) for seed in (1, 50))
    before = tensors(a), tensors(b)
    result = work(a, b)
    assert isinstance(result, Engram) and list(result) == list(a)
    for name in a:
        assert_close(result[name].weight, expected(a[name].weight, b[name].weight), atol=1e-12)
        if a[name].bias is not None:
            assert_close(result[name].bias, expected(a[name].bias, b[name].bias), atol=1e-12)
    assert (tensors(a), tensors(b)) == before


def test_concepts_and_estimators_follow():
    a = Engram({}, {"cat": 1.0, "dog": 1.0}, Projection())
    b = Engram({}, {"dog": 1.0, "owl": 2.0}, Projection())
    assert (0.5 * a - b).concepts == {"cat": 0.5, "dog": -0.5, "owl": -2.0}
    assert (a + b).estimator == Projection()
    mixed = a + Engram({}, {"cat": 1.0}, Ridge(2.0))
    assert mixed.estimator is None and "of several estimators" in repr(mixed)


def test_factors_stay_factors_while_they_are_smaller():
    model = nn.Sequential(nn.Linear(9, 7))
    a, b, c, d = (engram_of(model, rank=2, seed=seed)["0"] for seed in (1, 10, 20, 30))
    six = a.plus(b).plus(c)
    assert [f.shape for f in six.factors] == [(7, 6), (6, 9)]
    eight = six.plus(d)
    assert eight.factors is None
    assert_near(eight.weight, sum(x.weight for x in (a, b, c, d)), rel=1e-6)
    dense = engram_of(model, seed=40)["0"]
    assert a.plus(dense).factors is None and dense.plus(a).factors is None
    assert a.scaled(-2.0).factors is not None


def test_a_layer_that_one_side_lacks_counts_as_zero_there():
    model = mlp()
    first, last = engram_of(model, "0"), engram_of(model, "2")
    both = first - last
    assert list(both) == ["0", "2"]
    assert_close(both["0"].weight, first["0"].weight)
    assert_close(both["2"].weight, -last["2"].weight)
    without_bias = engram_of(model, "0", bias=False)
    assert_close((without_bias + first)["0"].bias, first["0"].bias)
    assert_close((first + without_bias)["0"].bias, first["0"].bias)
    assert (without_bias + without_bias)["0"].bias is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.Linear(4, 5), nn.Linear(5, 5)),
        (nn.Linear(5, 5), Conv1D(5, 5)),
        (nn.Conv2d(2, 6, 3), nn.Conv2d(4, 6, 3, groups=2)),
        (nn.Linear(3, 2), nn.Conv1d(3, 2, 1)),
    ],
    ids=lambda m: str(m),
)
def test_engrams_of_different_layers_do_not_add(one, other):
    a, b = (Engram({"x": delta_of("x", module)}, {"cat": 1.0}, None) for module in (one, other))
    if isinstance(one, nn.Conv2d):
        assert one.weight.shape == other.weight.shape
    for work in (lambda: a + b, lambda: b - a):
        with pytest.raises(
            EditError, match=r"Expected layer 'x' to be the same in both engrams, got .* and .*select\(\)"
        ):
            work()


def test_a_sum_over_different_weights_forgets_the_weights():
    a, b = engram_of(mlp()), engram_of(randomised(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))), "0")
    assert (a + a).base_fingerprint == a.base_fingerprint != ""
    total = a + 2 * engram_of(mlp().double().float(), "0")
    assert total.base_fingerprint == a.base_fingerprint
    with torch.no_grad():
        other = mlp()
        other[0].weight.add_(1)
    total = a + engram_of(other, "0")
    assert total.base_fingerprint == "" and total["0"].base == "" and total["2"].base == a["2"].base
    norms = total.weight_norms()
    assert math.isnan(norms["0"]) and norms["2"] == a.weight_norms()["2"]
    assert b["0"].base == a["0"].base  # the same numbers are the same weight, whatever stands around them


def test_a_sum_says_how_it_was_solved_where_both_parts_were_solved_alike():
    model, recording = recorded()
    cat, dog = recording.engram(model, "cat"), recording.engram(model, "dog", estimator=Ridge(1.0))
    assert cat["readers.0"].solutions
    assert (cat - 2 * cat)["readers.0"].solutions == cat["readers.0"].solutions
    assert (cat + dog)["readers.0"].solutions == ()


def test_the_base_fingerprint_names_weights_and_layers():
    engram = engram_of(mlp())
    assert engram.base_fingerprint == engram_of(mlp(), "2", "0").base_fingerprint
    assert engram.base_fingerprint != engram.select(["0"]).base_fingerprint
    assert engram_of(mlp(), "0")["0"].base == fingerprint(mlp()[0].weight)


@pytest.mark.parametrize("factor", [math.nan, math.inf, -math.inf])
def test_a_factor_must_be_finite(factor):
    with pytest.raises(EditError, match=f"Expected a finite factor, got {factor}"):
        factor * engram_of(mlp())


def test_division_by_zero_is_refused():
    with pytest.raises(EditError, match="a divisor other than 0"):
        engram_of(mlp()) / 0


@pytest.mark.parametrize("other", ["2", None, True, 1j, [1.0]])
def test_an_engram_is_multiplied_by_numbers_only(other):
    engram = engram_of(mlp())
    for work in (lambda: engram * other, lambda: other * engram, lambda: engram / other, lambda: engram + other):
        with pytest.raises(TypeError):
            work()
    with pytest.raises(TypeError):
        1 + engram


# Norms.


def test_weight_norms_are_ratios_without_biases():
    model = everything()
    engram = engram_of(model)
    norms = engram.weight_norms()
    for name, delta in engram.items():
        weight = model.get_submodule(name).weight
        assert norms[name] == pytest.approx((delta.weight.double().norm() / weight.double().norm()).item(), rel=1e-12)
    assert (3 * engram).weight_norms() == pytest.approx({n: 3 * v for n, v in norms.items()}, rel=1e-6)


def test_the_norm_of_factors_is_that_of_their_product():
    delta = engram_of(everything(torch.float64), "linear", rank=3)["linear"]
    assert delta.norm == pytest.approx(delta.weight.norm().item(), rel=1e-12)
    cancelled = delta.plus(delta.scaled(-1.0))
    assert cancelled.norm < 1e-6 * delta.norm


def test_a_blank_layer_has_norm_zero_not_nan():
    model = mlp()
    with torch.no_grad():
        model[0].weight.zero_()
    engram = engram_of(model)
    assert engram.weight_norms()["0"] == 0.0


# A delta.


def test_a_delta_has_a_weight_or_factors():
    layer = describe("x", nn.Linear(3, 2))
    for parts in ({}, {"weight": torch.zeros(2, 3), "factors": (torch.zeros(2, 1), torch.zeros(1, 3))}):
        with pytest.raises(EditError, match="one of them, got both or neither"):
            Delta(layer, **parts)


def test_factors_give_the_weight_in_the_modules_own_shape():
    model = everything(torch.float64)
    engram = engram_of(model, "linear", "transposed", rank=2)
    for name, delta in engram.items():
        a, b = delta.factors
        product = a @ b
        assert delta.weight.shape == model.get_submodule(name).weight.shape
        assert_close(delta.weight, product.T if name == "transposed" else product, atol=1e-14)


def test_factors_are_multiplied_out_in_full_precision_whatever_autocast_says():
    engram = engram_of(nn.Sequential(nn.Linear(64, 64)), rank=8)
    outside = raw(engram["0"].weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert raw(engram["0"].weight) == outside
    a, b = engram["0"].factors
    assert_near(engram["0"].weight, a.double() @ b.double(), rel=1e-7)


def test_a_delta_that_is_not_finite_is_refused():
    check_finite("x", torch.ones(2), None)
    for bad in (math.nan, math.inf):
        with pytest.raises(SolveError, match="Expected a finite engram in layer 'x', got nan or inf"):
            check_finite("x", torch.ones(2), torch.tensor([bad]))


# Owning its tensors.


def tensors_within(thing: object, seen: set[int]) -> list[Tensor]:
    """Every tensor that can be reached from an object through attributes, lists and dictionaries."""
    if id(thing) in seen:
        return []
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        return [thing]
    parts: list[object] = []
    if isinstance(thing, dict):
        parts += thing.values()
    elif isinstance(thing, list | tuple | set):
        parts += thing
    parts += vars(thing).values() if hasattr(thing, "__dict__") else ()
    parts += [getattr(thing, slot) for slot in getattr(type(thing), "__slots__", ()) if hasattr(thing, slot)]
    return [tensor for part in parts for tensor in tensors_within(part, seen)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [THIN, SQUARE])
def test_nothing_that_happens_to_the_model_or_the_recording_reaches_an_engram(dtype, rows):
    model, recording = recorded(dtype, rows, layers=2)
    engram = recording.engram(model, "cat")
    assert (engram["readers.0"].factors is not None) == (rows == THIN)
    before = tensors(engram), facts(engram)
    spoiled = tensors_within(recording, set())
    assert len(spoiled) > 4  # moments of two concepts, their pool and its factorisation
    with torch.no_grad():
        for tensor in [*spoiled, *model.parameters()]:
            tensor.fill_(math.nan if tensor.is_floating_point() else 0)
    del model, recording
    assert (tensors(engram), facts(engram)) == before


# On disk.


ESTIMATORS = [
    Projection(),
    Projection(sharpness=2.5, threshold=0.3, cut=Cut(rtol=3e-5)),
    Projection(cut=Cut.notebook()),
    Projection(cut=Cut(energy=0.99)),
    Ridge(0.1 + 0.2),
    None,
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_saved_engram_comes_back_bit_by_bit(tmp_path, dtype, estimator):
    model = everything(dtype)
    factors, dense = engram_of(model, "transposed", rank=2), engram_of(model, "linear", "grouped", "line")
    engram = factors + dense
    engram = Engram(engram, {"cat": 1 / 3, "dog": -0.1}, estimator, {"by": "hand", "number": 0.1})
    engram.save(tmp_path / "cat.engram")
    loaded = Engram.load(tmp_path / "cat.engram")
    assert list(loaded) == list(engram)
    assert tensors(loaded) == tensors(engram)
    assert facts(loaded) == facts(engram)
    assert loaded["transposed"].factors is not None and loaded["linear"].factors is None
    assert type(loaded.estimator) is type(estimator)


def test_how_it_was_solved_comes_back(tmp_path):
    model, recording = recorded()
    engram = recording.engram(model, "cat", estimator=Projection(2.0, 0.5, Cut(condition=3.0)))
    solution = engram["readers.0"].solutions[0]
    assert solution.rank < solution.dim and solution.condition and solution.eigengap  # something was cut
    engram.save(tmp_path / "e")
    assert facts(Engram.load(tmp_path / "e")) == facts(engram)


def test_a_loaded_engram_edits_like_the_saved_one(tmp_path):
    model, recording = recorded(rows=THIN)
    engram = recording.engram(model, "cat")
    engram.save(tmp_path / "e")
    a, b = lashley.ablate(model, engram), lashley.ablate(model, Engram.load(tmp_path / "e"))
    assert [raw(p) for p in a.parameters()] == [raw(p) for p in b.parameters()]


def test_layers_that_share_a_factor_are_saved_each_for_itself(tmp_path):
    """In float64, layers at one site may hold the very same tensor; the file format knows no sharing."""
    model, recording = recorded(torch.float64, rows=THIN, layers=3)
    engram = recording.engram(model, "cat")
    assert engram["readers.0"].factors is not None
    engram.save(tmp_path / "e")
    assert tensors(Engram.load(tmp_path / "e")) == tensors(engram)


def test_a_sum_of_unknown_base_is_saved_and_loaded(tmp_path):
    other = mlp()
    with torch.no_grad():
        other[0].weight.add_(1)
    total = engram_of(mlp()) + engram_of(other)
    total.save(tmp_path / "e")
    loaded = Engram.load(tmp_path / "e")
    assert tensors(loaded) == tensors(total)
    assert loaded["0"].base == "" and math.isnan(loaded["0"].base_norm)


def test_saving_again_replaces_and_a_failed_saving_does_not(tmp_path, monkeypatch):
    first, second = engram_of(mlp(), seed=1), engram_of(mlp(), seed=2)
    first.save(tmp_path / "e")
    second.save(tmp_path / "e")
    assert tensors(Engram.load(tmp_path / "e")) == tensors(second)

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "_sync", full)
    with pytest.raises(StoreError, match="No space left on device. What was there before is untouched"):
        first.save(tmp_path / "e")
    monkeypatch.undo()
    assert tensors(Engram.load(tmp_path / "e")) == tensors(second)
    assert [p.name for p in tmp_path.iterdir()] == ["e"]


def test_what_is_no_engram_is_refused(tmp_path):
    model, recording = recorded()
    recording.save(tmp_path / "recording")
    with pytest.raises(StoreError, match="Expected a folder with an engram, got one with recording"):
        Engram.load(tmp_path / "recording")
    with pytest.raises(StoreError, match="does not exist"):
        Engram.load(tmp_path / "nothing")
    recording.engram(model, "cat").save(tmp_path / "e")
    with pytest.raises(StoreError, match="Expected a folder with a recording, got one with engram"):
        lashley.Recording.load(tmp_path / "e")


def test_damage_is_found(tmp_path):
    engram_of(mlp()).save(tmp_path / "e")
    file = tmp_path / "e" / "engram.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(StoreError, match="is damaged"):
        Engram.load(tmp_path / "e")
    file.write_bytes(good[:-3])
    with pytest.raises(StoreError, match="is damaged"):
        Engram.load(tmp_path / "e")
    file.unlink()
    with pytest.raises(StoreError, match="engram.safetensors, a part of the engram; it is missing"):
        Engram.load(tmp_path / "e")
    (tmp_path / "e" / MANIFEST).unlink()
    with pytest.raises(StoreError, match="has no manifest.json"):
        Engram.load(tmp_path / "e")


def rewritten(tmp_path, change) -> None:
    """Save an engram, and write it again with another manifest, all checksums in order."""
    engram_of(mlp()).save(tmp_path / "e")
    reader = Reader(tmp_path / "e", "engram", 1)
    held = reader.tensors("engram.safetensors")
    values = {k: v for k, v in reader.manifest.items() if k not in ("kind", "files")}
    change(values, held)
    with writing(tmp_path / "e") as folder:
        folder.tensors("engram.safetensors", held)
        folder.manifest("engram", values.pop("version"), values)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda values, held: values.update(version=2), "version 1 or older, got version 2"),
        (lambda values, held: held.pop("1.weight"), "Expected the delta of layer '2' in .*, got none"),
        (lambda values, held: values["estimator"].update(name="Projektion"), "Did you mean 'Projection'"),
        (lambda values, held: values["layers"][0]["layer"].update(layer="LinearLaier"), "Did you mean 'LinearLayer'"),
    ],
)
def test_a_folder_from_elsewhere_is_refused(tmp_path, change, says):
    rewritten(tmp_path, change)
    with pytest.raises(StoreError, match=says):
        Engram.load(tmp_path / "e")


def test_the_manifest_is_readable_json(tmp_path):
    engram_of(mlp()).save(tmp_path / "e")
    manifest = json.loads((tmp_path / "e" / MANIFEST).read_text())
    assert manifest["kind"] == "engram" and manifest["concepts"] == {"cat": 1.0}
    assert manifest["estimator"]["name"] == "Projection" and manifest["made_by"]["versions"]["torch"]
    assert [entry["name"] for entry in manifest["layers"]] == ["0", "2"]
