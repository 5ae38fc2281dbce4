"""The benchmark of rewriting, on a small shape; and the committed result: complete, drawn as it is, in its limit."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.shards import page
from benchmarks.shards.__main__ import main

FOLDER = Path(__file__).parents[1] / "benchmarks" / "shards"
CONFIG = json.loads((FOLDER / "config.json").read_text())
COMMITTED = json.loads((FOLDER / "results" / "shards.json").read_text())
SMALL = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}


def test_a_quick_run(tmp_path):
    config = {**CONFIG, "model": {**CONFIG["model"], **SMALL}, "shard_bytes": 50_000, "rank": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    main(["--config", str(tmp_path / "config.json"), "--out", str(tmp_path / "out")])
    result = json.loads((tmp_path / "out" / "shards.json").read_text())
    assert result["edited"] == result["layers"] == 15 and result["files"] > 3
    assert result["base_matches"] and all(result["checked"].values())
    assert 0 < result["peak_bytes"] < config["memory_bytes"]
    assert (tmp_path / "out" / "README.md").read_text() == page.markdown(result)
    assert result.keys() == COMMITTED.keys() and result["checked"].keys() == COMMITTED["checked"].keys()


def test_the_committed_result_is_of_the_committed_config_and_drawn():
    assert COMMITTED["config"] == CONFIG
    assert (FOLDER / "results" / "README.md").read_text() == page.markdown(COMMITTED)


def test_the_committed_result_is_whole_and_within_the_limit():
    assert COMMITTED["bytes"] > 16e9 and COMMITTED["edited"] == COMMITTED["layers"] == 225
    assert COMMITTED["peak_bytes"] < COMMITTED["config"]["memory_bytes"] == 4 * 2**30
    assert COMMITTED["base_matches"] and all(COMMITTED["checked"].values())
