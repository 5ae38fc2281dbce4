"""The comparison with the authors' package, small and without that package, and what it measures with."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.measure import Stopwatch, calls_of, parts_of
from benchmarks.peer import page
from benchmarks.peer.__main__ import main

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "peer"
QUICK = json.loads((FOLDER / "quick.json").read_text())
CASES = ("convolutions", "all classes")  # the others need ai-engram, which the tests do not install


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder that a quick run of the command wrote."""
    folder = tmp_path_factory.mktemp("peer")
    (folder / "config.json").write_text(json.dumps({**QUICK, "cases": {name: QUICK["cases"][name] for name in CASES}}))
    threads = torch.get_num_threads()
    try:
        main(["--config", str(folder / "config.json"), "--out", str(folder / "out")])
    finally:
        torch.set_num_threads(threads)
    return folder / "out"


@pytest.fixture(scope="module")
def quick(written):
    return json.loads((written / "peer.json").read_text())


def test_both_arrive_at_the_same_engrams(quick):
    agreement = quick["cases"]["convolutions"]["agreement"]
    assert agreement["ours_to_other"]["worst"] < 1e-3
    assert agreement["ours_to_exact"]["worst"] < 1e-3 > agreement["other_to_exact"]["worst"]


def test_every_site_is_factorised_once_whatever_the_concepts(quick):
    one, all_classes = (quick["cases"][name] for name in CASES)
    assert one["sites"] == all_classes["sites"] == 21
    for case in (one, all_classes):
        assert case["calls"]["cholesky_ex"] <= 2 * case["sites"] >= 2 * case["calls"]["eigh"]


def test_the_parts_make_up_the_time(quick):
    for case in quick["cases"].values():
        assert case["ratios"]["record_to_bare"] == pytest.approx(
            case["seconds"]["ours"]["record"] / case["seconds"]["bare"], rel=1e-4
        )
        for step in ("record", "solve"):
            assert min(case["parts"][step].values()) >= 0
            assert sum(case["parts"][step].values()) > 0.2 * case["processor_seconds"]["ours"][step]


def test_memory_is_of_a_process_of_its_own(quick):
    memory = quick["cases"]["all classes"]["memory"]
    assert memory["ours"]["peak_after_solving"] >= memory["ours"]["peak"] > memory["bare"]["peak"] / 2 > 0
    assert memory["ours"]["above_bare"] == max(0, memory["ours"]["peak_after_solving"] - memory["bare"]["peak"])
    # 21 sites of 3 concepts: triangles of float64.
    assert memory["squares"] == 3 * sum(4 * d * (d + 1) for d in _widths(8, 10))


def _widths(width: int, classes: int) -> list[int]:
    from benchmarks.peer.cases import residual_network

    layers = [m for m in residual_network(width, classes).modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    return [layer.weight[0].numel() for layer in layers]


def test_the_command_writes_a_result_that_can_be_drawn_again(written):
    before = {path.name: path.read_bytes() for path in written.iterdir()}
    assert sorted(before) == ["README.md", "peer.json", "time.png"]
    main(["--draw", "--out", str(written)])
    assert {path.name: path.read_bytes() for path in written.iterdir()} == before


def test_without_the_package_one_is_told_to_install_it(monkeypatch):
    from benchmarks.peer.rivals import Peer

    monkeypatch.setitem(sys.modules, "engram", None)
    with pytest.raises(SystemExit, match="pip install ai-engram"):
        Peer()


def test_a_stopwatch_keeps_every_round_and_tells_the_best():
    watch = Stopwatch()
    for seconds in (0.02, 0.0):
        with watch("step"):
            time.sleep(seconds)
    assert len(watch.wall["step"]) == len(watch.cpu["step"]) == 2
    assert watch.best["step"] == min(watch.wall["step"]) < 0.02 <= max(watch.wall["step"])


class Steps:
    @staticmethod
    def burn(seconds: float) -> None:
        start = time.process_time()
        while time.process_time() - start < seconds:
            pass

    def outer(self) -> None:
        self.burn(0.02)
        self.inner()

    def inner(self) -> None:
        self.burn(0.06)


def test_a_part_does_not_count_the_parts_inside_it():
    steps, own = Steps(), dict(vars(Steps))
    with parts_of({"outer": [(Steps, "outer")], "inner": [(Steps, "inner")]}) as parts:
        steps.outer()
        steps.burn(0.02)
    assert dict(vars(Steps)) == own
    assert parts["inner"] > parts["outer"] > 0.015 and parts["rest"] > 0.015


def test_calls_are_counted_while_the_block_runs_and_not_after():
    original = torch.linalg.eigh
    with calls_of(["eigh"]) as calls:
        torch.linalg.eigh(torch.eye(2))
    torch.linalg.eigh(torch.eye(2))
    assert calls == {"eigh": 1} and torch.linalg.eigh is original


def test_a_missed_target_is_said_aloud(quick):
    missed = copy.deepcopy(quick)
    missed["config"]["cases"]["convolutions"]["targets"] = {"total": {"at_least": 99}}
    missed["cases"]["convolutions"]["reached"] = {"total": False}
    assert "| at least 99 | **missed** |" in page.markdown(missed)


def test_drawing_needs_no_torch():
    code = "import sys, benchmarks.peer.__main__, benchmarks.peer.page; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# The committed result.

CONFIG = json.loads((FOLDER / "config.json").read_text())


def committed() -> Any:
    return json.loads((FOLDER / "results" / "peer.json").read_text())


def test_the_committed_result_is_of_the_committed_config() -> None:
    found = committed()
    assert found["config"] == CONFIG
    assert found["command"] == "python -m benchmarks.peer"
    assert list(found["cases"]) == list(CONFIG["cases"])
    for name, case in found["cases"].items():
        for key, target in CONFIG["cases"][name]["targets"].items():
            ratio = case["ratios"][key]
            met = ratio >= target["at_least"] if "at_least" in target else ratio <= target["at_most"]
            assert case["reached"][key] == met, (name, key)


def test_the_committed_page_shows_the_committed_numbers() -> None:
    assert (FOLDER / "results" / "README.md").read_text(encoding="utf-8") == page.markdown(committed())
    assert (FOLDER / "results" / "time.png").is_file()


def test_both_agree_in_the_committed_result() -> None:
    """Of the trained model every layer; of random weights, all but those whose moment has an eigenvalue at the cut."""
    for name, case in committed()["cases"].items():
        apart = case["agreement"]["ours_to_other"]
        assert apart["worst"] < (1e-4 if committed()["config"]["cases"][name]["kind"] == "texts" else 5e-3)
        assert apart["median"] < 2e-5
