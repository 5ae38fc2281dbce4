"""The criteria of a network trained on real digits: beside an independent run, and on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lashley
from lashley.cli import main
from lashley.result import Result

# Digit 0 of a 64-128-64-10 network without biases (SGD at .1, 60 epochs, seed 0; 500 test images), from an independent
# implementation of the formulas: on the training images with a cut of 1e-6, layer by layer and then as a whole net.
# The split is the same. The trained weights are not: momentum and batch size were not written down, and those below
# were chosen because their accuracies and first numbers come nearest.
ANCHOR = {
    "rho_plus": (0.341, 0.147, 0.155),
    "rho_minus": (0.128, 0.078, 0.087),
    "necessity": (0.341, 0.169, 0.150),
    "specificity_ablated": (0.128, 0.120, 0.142),
    "sufficiency": (0.341, 0.320, 0.328),
    "specificity_injected": (0.128, 0.113, 0.114),
}
NEAR = 0.02  # what another order of the batches makes of them


def images() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32)[order], torch.tensor(digits.target)[order]
    return x[:-500], y[:-500], x[-500:], y[-500:]


def by_digit(x: Tensor, y: Tensor) -> dict[str, list[Tensor]]:
    return {str(digit): list(x[y == digit].split(100)) for digit in range(10)}


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, dict[str, list[Tensor]], dict[str, list[Tensor]]]:
    x, y, test_x, test_y = images()
    torch.manual_seed(0)
    parts = [nn.Linear(64, 128, bias=False), nn.ReLU(), nn.Linear(128, 64, bias=False), nn.ReLU()]
    model = nn.Sequential(*parts, nn.Linear(64, 10, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(60):
        for batch in torch.randperm(len(x)).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model.eval(), by_digit(x, y), by_digit(test_x, test_y)


@pytest.fixture(scope="module")
def found(trained: Any) -> Any:
    model, train, test = trained
    recording = lashley.record(model, train, dtype=torch.float64, progress=False)
    estimator = lashley.Projection(cut=lashley.Cut.paper())
    return lashley.check(model, recording, "0", test, train=train, estimator=estimator, resamples=200, progress=False)


def test_the_numbers_are_near_those_of_an_independent_run(trained):
    model, train, _ = trained
    recording = lashley.record(model, train, dtype=torch.float64, progress=False)
    estimator = lashley.Projection(cut=lashley.Cut.paper())
    settings = {"controls": (), "outputs": "none", "resamples": 10, "progress": False}
    layers = lashley.check(model, recording, "0", train, estimator=estimator, **settings).engram.layers.values()
    for key, wanted in ANCHOR.items():
        found = [getattr(layer, key).value if hasattr(layer, key) else getattr(layer.recorded, key) for layer in layers]
        assert found == pytest.approx(wanted, abs=NEAR), key


def test_the_engram_of_a_digit_is_necessary_and_specific_and_its_sufficiency_is_empty(found):
    """What the anchor found too: alone, it says 0 to everything (false induction .85 under this cut)."""
    out = found.engram.output
    assert out["own"].value > 0.93 and out["necessity"].value > 0.95
    assert out["fall_mean"].value < 0.03 and out["fall_worst"].value < 0.1
    assert out["injected"].value > 0.95 and out["agree"].value > 0.9
    assert out["false_induction"].value > 0.5
    for edit in found.controls.values():
        if edit.layers:
            assert edit.output["ablated"].value > 0.8 or edit.output["fall_mean"].value > 0.5, edit.title


def test_what_is_forgotten_can_still_be_read(found):
    assert found.original.readers["ridge probe"].value > 0.95
    assert found.engram.readers["ridge probe"].value > 0.8
    assert found.engram.readers["nearest centre"].value > 0.8


def test_the_result_is_complete_and_reads_well(found, tmp_path):
    result = found.result(command="lashley check", data={"samples": "digits"})
    assert [table.name for table in result.tables] == ["output", "falls", "layers", "doses", "means", "controls"]
    assert {chart.name for chart in result.charts} >= {"output_bars", "dose", "layers_rho_plus", "layers_necessity"}
    path = tmp_path / "check.json"
    result.save(path)
    assert Result.load(path) == result
    [output] = [table for table in result.tables if table.name == "output"]
    assert [row["edit"] for row in output.rows][:2] == ["original", "engram"]
    assert output.rows[-1]["edit"] == "null state"
    assert output.rows[-1]["false_induction"]["value"] == pytest.approx(0.1)
    text = str(found)
    assert "the target falls from 9" in text and "The most selective control" in text
    assert max(map(len, text.split("\n\n", 1)[1].splitlines())) < 160


# The command line.

NETWORK = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network, its weights, data in two halves and a recording."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "networks_to_check.py").write_text(NETWORK)
    x, y, test_x, test_y = images()
    namespace: dict[str, Any] = {}
    exec(NETWORK, namespace)
    for name, keep in (("trained.pt", y >= 0), ("retrained.pt", y != 3)):
        model = namespace["build"]()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[keep]), y[keep]).backward()
            optimizer.step()
        torch.save(model.state_dict(), folder / name)
    np.savez(folder / "train.npz", x=x.numpy(), y=y.numpy())
    np.savez(folder / "test.npz", x=test_x.numpy(), y=test_y.numpy())
    done = lashley_command(
        folder,
        "record",
        "networks_to_check:build",
        "--weights",
        "trained.pt",
        "--data",
        "train.npz",
        "--out",
        "digits.rec",
        "--no-progress",
    )
    assert done.returncode == 0, done.stderr
    return folder


def lashley_command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "lashley", *words]
    root = str(Path(lashley.__file__).parents[1])
    import os

    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)


MODEL = ("--model", "networks_to_check:build", "--weights", "trained.pt")


def test_a_check_prints_writes_and_draws(desk):
    words = (
        "check",
        "digits.rec",
        *MODEL,
        "--concepts",
        "3",
        "--data",
        "test.npz",
        "--train",
        "train.npz",
        "--out",
        "check.json",
        "--retrained",
        "retrained.pt",
        "--resamples",
        "50",
        "--no-progress",
    )
    done = lashley_command(desk, *words)
    assert done.returncode == 0, done.stderr
    assert "Is what was found in the weights the memory of '3'?" in done.stdout
    assert "retrained" in done.stdout and "written to check.html" in done.stdout
    result = Result.load(desk / "check.json")
    assert result.tables[0].target_row == "retrained" and result.study == "check"
    page = (desk / "check.html").read_text(encoding="utf-8")
    assert page.count("<table") >= 6 and "Dose and response" in page
    again = lashley_command(desk, *words, "--json")
    assert again.returncode == 0, again.stderr
    document = json.loads(again.stdout)
    assert document["out"] == ["check.json", "check.html"]
    assert document["result"]["tables"][0]["rows"] == json.loads((desk / "check.json").read_text())["tables"][0]["rows"]


def test_a_check_of_moments_alone(desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    assert main(["check", "digits.rec", *MODEL, "--concepts", "3", "--sharpness", "2", "--controls", "direction"]) == 0
    text = capsys.readouterr().out
    assert "From moments alone" in text and "random direction" in text and "random subspace" not in text


def test_a_check_of_an_engram_from_a_random_state(desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    assert main(["engram", "digits.rec", *MODEL, "--concepts", "3", "--out", "three.engram"]) == 0
    line = [
        "check",
        "digits.rec",
        *MODEL,
        "--engram",
        "three.engram",
        "--null",
        "random",
        "--data",
        "test.npz",
        "--doses",
        "--controls",
        "--resamples",
        "20",
        "--no-progress",
        "--classes",
        *(f"{c}={c}" for c in range(10)),
    ]
    assert main(line) == 0
    text = capsys.readouterr().out
    assert "initialised anew by their modules (seed 0)" in text
    assert main([*line, "--null", "trained.pt"]) == 0
    assert "The null state is the network that was given, whole." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--concepts", "3", "--data", "test.npz", "--texts", "a=b"), 2, "--data or --texts, got both"),
        (("--concepts", "3", "--train", "test.npz"), 2, "expected --data beside --train"),
        (("--engram", "three.engram", "--no-bias"), 2, "an engram has its own"),
        (("--engram", "three.engram", "--sharpness", "2"), 2, "options of an estimator beside --concepts"),
        (("--concepts", "3", "--data", "sklearn:digits"), 1, "could not run on inputs of shape"),
        (("--concepts", "3", "--texts", "a=b.jsonl"), 2, "expected --tokenizer FOLDER"),
        (("--concepts", "3", "--data", "test.npz", "--classes", "3"), 2, "expected NAME=NUMBER after --classes"),
        (("--concepts", "3", "--out", "check.csv"), 2, "expected --out FILE.json"),
        (("--concepts", "3", "--out", "package.json"), 1, "to be a result"),
        (("--concepts", "12"), 1, "Expected a recorded concept, got '12'"),
        (("--concepts", "3", "--data", "test.npz", "--limit-per-concept", "4"), 1, "at least 10 samples of '3', got 4"),
    ],
)
def test_a_command_that_cannot_be_meant(desk, monkeypatch, capsys, words, code, says):
    monkeypatch.chdir(desk)
    Path("package.json").write_text('{"name": "mine"}')
    assert main(["check", "digits.rec", *MODEL, *words]) == code
    assert says in capsys.readouterr().err
    assert Path("package.json").read_text() == '{"name": "mine"}'
