"""The benchmark of the geometry on a few epochs; and the committed results, which these configs made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.geometry.__main__ import main
from benchmarks.geometry.study import run
from lashley.errors import DataError
from lashley.result import Result, value_of

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "geometry"
COMMITTED = {"config": "convnet", "mlp": "mlp", "tofu": "tofu"}  # config -> folder of its result


def rows(result: Result, name: str) -> dict[str, dict]:
    table = next(t for t in result.tables if t.name == name)
    return {table.label(row): row for row in table.rows}


def test_a_quick_run(tmp_path):
    config = json.loads((FOLDER / "mlp.json").read_text())
    config |= {"epochs": 6, "checked": ["3"], "edits": {**config["edits"], "alphas": [1, 3], "seeds": [0]}}
    (tmp_path / "quick.json").write_text(json.dumps(config))
    main(["--config", str(tmp_path / "quick.json"), "--out", str(tmp_path / "out")])
    result = Result.load(tmp_path / "out" / "geometry.json")
    assert (tmp_path / "out" / "README.md").is_file()
    assert max(row["error"] for row in rows(result, "steps").values()) < 1e-10
    edits = rows(result, "edits")
    assert list(edits)[:2] == ["paper", "sharpened, t = 0.5"] and len(edits) == 8
    assert "sharpened, t from the spectrum" in edits and "K-FAC's step, damping 0.1" in edits
    assert value_of(edits["paper"]["digit"]) < 0.2
    assert result.settings["epochs"] == 6


def test_a_checkpoint_that_is_not_there(monkeypatch):
    monkeypatch.delenv("LASHLEY_MODELS", raising=False)
    with pytest.raises(DataError, match="Expected the checkpoint tofu-mini-full"):
        run(json.loads((FOLDER / "tofu.json").read_text()))


@pytest.mark.parametrize("config", COMMITTED)
def test_the_committed_results_are_of_these_configs(config):
    result = Result.load(FOLDER / "results" / COMMITTED[config] / "geometry.json")
    settings = json.loads((FOLDER / f"{config}.json").read_text())
    assert {key: result.settings[key] for key in settings if key != "concepts"} == {
        key: value for key, value in settings.items() if key != "concepts"
    }
    assert result.title == settings["title"]
    assert max(row["error"] for row in rows(result, "steps").values()) < 1e-8
    for row in rows(result, "complement").values():
        assert row["least"] == pytest.approx(1, abs=1e-6) and row["most"] == pytest.approx(1, abs=1e-6)
