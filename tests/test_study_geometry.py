"""The geometry as a result: its numbers are those of the readings, and it can be drawn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import lashley
from cases import CASES, CONCEPTS, double, mlp, vectors
from lashley.anatomy import places
from lashley.curvature import natural_gradient
from lashley.errors import DataError, SelectionError
from lashley.report import charts
from lashley.report import results as report
from lashley.result import Result, Table, value_of
from lashley.studies import geometry
from lashley.studies.geometry.readings import POSITIONS, read


@pytest.fixture(scope="module")
def subject():
    model, data = CASES["mlp"].build()
    model, data = double(model), double(data)
    return model, data, lashley.record(model, data, dtype=torch.float64)


@pytest.fixture(scope="module")
def result(subject) -> Result:
    model, data, recording = subject
    return geometry.run(recording, model, data=data, checked=["a", "c"], threshold=0.4, settings={"of": "a test"})


def table(result: Result, name: str) -> Table:
    return next(t for t in result.tables if t.name == name)


def test_tables_say_what_the_readings_say(subject, result):
    model, _, recording = subject
    shares, engrams, complement = (table(result, name) for name in ("shares", "engrams", "complement"))
    for place, row, of_engrams, of_q in zip(
        places(recording, model), shares.rows, engrams.rows, complement.rows, strict=True
    ):
        [layer] = place.layers
        assert row["layer"] == of_engrams["layer"] == of_q["layer"] == layer
        found = [place.spectrum(name) for name in CONCEPTS]
        assert row["dim"] == place.dim and row["kept"] == place.kept
        for key, values in {
            "median": [s.median for s in found],
            "largest": [s.largest for s in found],
            "above": [s.above(0.4) for s in found],
            "own": [s.own for s in found],
            "non_idempotence": [s.non_idempotence for s in found],
            "raw": [s.raw for s in found],
            "sparing": [s.sparing() for s in found],
        }.items():
            assert value_of(row[key]) == pytest.approx(sum(values) / 3), key
            if min(values) != max(values):
                assert (row[key]["low"], row[key]["high"]) == (min(values), max(values))
        energy = place.energy(layer)
        parts = [value_of(of_engrams[key]) for key in ("outputs", "others", "lost")]
        assert parts[0] == pytest.approx(energy.own.mean().item()) and sum(parts) == pytest.approx(1)
        assert value_of(of_engrams["norm"]) == pytest.approx(energy.norms.mean().item())
        off = energy.cosines.abs()[~torch.eye(3, dtype=torch.bool)]
        assert of_engrams["cosine"] == pytest.approx(off.mean().item())
        q = place.complement(layer)
        assert (of_q["rank"], of_q["weight"]) == (q.dim - q.kept, q.weight)


def test_steps_are_the_worst_of_the_concepts(subject, result):
    model, data, recording = subject
    steps = natural_gradient(model, recording, data, ["a", "c"])
    for row in table(result, "steps").rows:
        of_layer = [step for step in steps if step.layer == row["layer"]]
        assert row["error"] == pytest.approx(max(s.natural.error for s in of_layer)) and row["error"] < 1e-9
        cosines = [s.outputs[0.1].cosine for s in of_layer]
        assert row["cosine_0.1"]["low"] == pytest.approx(min(cosines))
    assert "corollary 6.3" in result.summary and "zero in every layer" in result.summary


def test_it_is_saved_drawn_and_says_its_settings(result, tmp_path):
    path = result.save(tmp_path / "g.json")
    assert Result.load(path) == result
    for chart in result.charts:
        assert charts.draw(chart).axes, chart.name
    page = report.page({"g.json": result})
    assert "Shares, sorted" in page and "What a curvature of the outputs would change" in page
    assert result.settings["of"] == "a test" and result.settings["cut"] == "rtol D x 2^-23"
    assert {chart.kind for chart in result.charts} == {"lines", "points", "bars", "heat"}


def test_the_scatter_has_the_engram_on_the_diagonal(result):
    chart = next(c for c in result.charts if c.name == "steps-entries")
    bent, computed, equal = chart.series
    assert computed.y == pytest.approx(computed.x, abs=1e-8) and equal.target
    assert max(abs(a - b) for a, b in zip(bent.y, bent.x, strict=True)) > 0.01


def test_without_data_there_are_no_steps(subject):
    model, _, recording = subject
    found = geometry.run(recording, model, ["a"], layers=["4"])
    assert [t.name for t in found.tables] == ["shares", "engrams", "complement"]
    assert not any(
        c.name.startswith(("steps", "sharing", "overlaps")) for c in found.charts
    )  # nor pairs of one concept
    assert "6.3" not in found.summary and found.settings["concepts"] == ["a"]


def test_many_layers_are_numbered():
    model = double(mlp(*[6] * 15))
    recording = lashley.record(model, double(vectors(6)), dtype=torch.float64)
    result = geometry.run(recording, model)
    by_layer = [c for c in result.charts if "number" in c.x_label]
    assert [c.name for c in by_layer] == ["overlaps", "non-idempotence", "energy", "complement-parts"]
    for chart in by_layer:
        assert chart.kind == "lines" and all(series.x == tuple(range(1, 15)) for series in chart.series)
        assert charts.draw(chart).axes


def test_the_rest_is_in_the_maps_and_in_no_mean(subject):
    model, _, recording = subject
    result = geometry.run(recording, model, beside=["b"])
    [place, *_] = places(recording, model)
    row = table(result, "shares").rows[0]
    assert value_of(row["own"]) == pytest.approx((place.spectrum("a").own + place.spectrum("c").own) / 2)
    assert table(result, "engrams").rows[0]["cosine"] == pytest.approx(place.energy("0").cosines[0, 2].abs().item())
    [sharing] = [c for c in result.charts if c.name == "sharing-0"]
    assert [s.name for s in sharing.series] == list(CONCEPTS)
    with pytest.raises(SelectionError, match="beside= to name some of the concepts, got 'd'"):
        geometry.run(recording, model, beside=["d"])
    with pytest.raises(SelectionError, match="a concept that is not in beside="):
        geometry.run(recording, model, beside=CONCEPTS)


def test_matrices_of_a_layer_are_one_row():
    model, data = CASES["cnn"].build()
    model, data = double(model), double(data)
    recording = lashley.record(model, data, dtype=torch.float64)
    readings = read(recording, model)
    assert [r.name for r in readings] == list(recording.layers)
    assert [r.matrices for r in readings] == [layer.matrices for layer in recording.layers.values()]
    grouped = readings[0]
    parts = [place for place in places(recording, model) if place.layers == ("0",)]
    assert grouped.concepts["a"].median == pytest.approx(sum(p.spectrum("a").median for p in parts) / 2)
    assert grouped.concepts["a"].above == sum(p.spectrum("a").above(0.5) for p in parts)
    assert len(grouped.concepts["a"].curve) == len(POSITIONS)
    result = geometry.run(recording, model, data=data, checked=["b"])
    assert max(row["error"] for row in table(result, "steps").rows) < 1e-9


@pytest.mark.filterwarnings("ignore::lashley.errors.LashleyWarning")
def test_a_concept_without_rows_and_one_without_outputs():
    model = double(mlp(6, 5, 4))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.zero_()
    x = double(vectors(6))["a"][0]
    labels = torch.zeros(len(x), dtype=torch.long)
    recording = lashley.record(
        model, [(x, labels)], lambda b: b[1], concept_names=["full", "empty"], dtype=torch.float64
    )
    result = geometry.run(recording, model)
    first, second = table(result, "engrams").rows
    assert first["outputs"] is None and first["others"] is None
    assert math.isclose(value_of(second["outputs"]), 1)
    assert Result.load is not None and result.to_json()


def test_an_embedding_has_a_geometry():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(12, 6), nn.Linear(6, 3)).double().eval()
    data = {c: [torch.randint(2 * i, 2 * i + 7, (30, 5))] for i, c in enumerate(CONCEPTS)}
    recording = lashley.record(model, data, target_modules=["0", "1"], dtype=torch.float64)
    result = geometry.run(recording, model, data=data)
    [row, _] = table(result, "shares").rows
    assert (row["layer"], row["dim"], row["kept"]) == ("0", 12, 11)
    assert table(result, "complement").rows[0]["rank"] == 1
    assert table(result, "steps").rows[0]["error"] < 1e-12


def test_concepts_are_shares_of_a_reference_that_has_their_rows(subject):
    model, _, recording = subject
    found = geometry.run(recording, model, reference=["a", "b"])
    assert found.settings["concepts"] == ["a", "b"]
    assert all(value_of(row["largest"]) <= 1 + 1e-9 for row in table(found, "shares").rows)
    with pytest.raises(
        DataError, match="rows are in the reference, got 'c' beside reference=.'a', 'b'.: .* or leave it"
    ):
        geometry.run(recording, model, ["a", "c"], reference=["a", "b"])


def test_steps_on_data_that_were_not_recorded_are_not_said_to_be_the_engrams(subject, result):
    model, data, recording = subject
    others = {name: [2 * batch for batch in batches] for name, batches in data.items()}
    summary = geometry.run(recording, model, data=others, checked=["a"]).summary
    assert "other data, or it is another network, than were recorded" in summary
    assert "is the engram to" in result.summary and "than were recorded" not in result.summary
