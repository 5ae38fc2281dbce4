"""The MNIST benchmark on a part of the data; and the committed result: complete, drawn as it is, targets met."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.mnist import page
from benchmarks.mnist.__main__ import main

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "mnist"
CONFIG = json.loads((FOLDER / "config.json").read_text())
COMMITTED = json.loads((FOLDER / "results" / "mnist.json").read_text())

QUICK = {
    **CONFIG,
    "seeds": [0],
    "train_images": 6000,
    "test_images": 2000,
    "recipe": {**CONFIG["recipe"], "epochs": 3},
    "edits": {name: CONFIG["edits"][name] for name in ("paper", "sharpened")},
    "probe_images": 1000,
    "retrained_seeds": [],
    "timed": 1,
    "recipes": None,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory, data_folder):
    """The folder that a quick run of the command wrote."""
    folder = tmp_path_factory.mktemp("mnist")
    (folder / "config.json").write_text(json.dumps(QUICK))
    main(["--config", str(folder / "config.json"), "--out", str(folder / "out")])
    return folder / "out"


@pytest.fixture(scope="module")
def quick(written):
    return json.loads((written / "mnist.json").read_text())


def others(matrix):
    return np.array(matrix)[~np.eye(10, dtype=bool)]


@pytest.mark.data
def test_an_ablated_digit_is_gone_and_the_others_stay(quick):
    means = quick["over_seeds"]
    assert means["test"] > 0.85
    for name in QUICK["edits"]:
        assert means["edits"][name]["ablated"] < 0.05, name
        assert abs(means["edits"][name]["others_fall"]) < 0.02, name


@pytest.mark.data
def test_the_controls_tell_an_engram_from_damage_and_from_a_mask(quick):
    edits = quick["over_seeds"]["edits"]
    before = quick["over_seeds"]["per_digit"]
    # An engram of random images takes out no digit; a mask takes out its digit, costs nothing and leaves the features.
    assert min(np.array(edits["shuffled labels"]["accuracy"]).ravel()) > 0.6
    assert edits["mask"]["ablated"] == 0.0
    assert (others(edits["mask"]["accuracy"]) >= others(np.tile(before, (10, 1)))).all()
    assert edits["mask"]["probe"] == pytest.approx(quick["over_seeds"]["probe"], abs=1e-6)


@pytest.mark.data
def test_one_engram_makes_a_network_of_one_word_and_all_ten_make_the_network(quick):
    alone = quick["networks"][0]["injection"]["paper"]
    assert min(alone["accuracy"]) > 0.9
    assert np.mean(alone["false_induction"]) > 0.5
    assert min(alone["ranking"]) > 0.8
    assert alone["all_ten"] == pytest.approx(quick["networks"][0]["accuracy"]["test"], abs=2e-3)


@pytest.mark.data
def test_every_edit_is_undone_to_the_byte(quick):
    assert quick["over_seeds"]["restored"] is True


@pytest.mark.data
def test_the_seed_fixes_the_network(data_folder):
    from benchmarks.mnist.study import checksum, load, train

    recipe, data = {**QUICK["recipe"], "epochs": 1}, load("train", 512)
    first, again, other = (checksum(train(recipe, data, seed)) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.data
def test_the_command_writes_a_result_that_can_be_drawn_again(written):
    before = {path.name: path.read_bytes() for path in written.iterdir()}
    assert sorted(before) == ["README.md", "collateral.png", "heatmap.png", "injection.png", "mnist.json"]
    main(["--draw", "--out", str(written)])
    assert {path.name: path.read_bytes() for path in written.iterdir()} == before


@pytest.mark.parametrize(("higher", "lower"), [([3.0, 1.0, 2.0], [0.0, 1.0, 2.0, 2.0]), ([0.0], [0.0, 0.0])])
def test_the_area_under_the_curve_counts_pairs(higher, lower):
    from benchmarks.mnist.study import area_under_the_curve

    pairs = [float(a > b) + 0.5 * (a == b) for a in higher for b in lower]
    assert area_under_the_curve(torch.tensor(higher), torch.tensor(lower)) == pytest.approx(np.mean(pairs))


# The committed result.


def test_the_committed_result_is_of_the_committed_config():
    assert COMMITTED["config"] == CONFIG
    assert COMMITTED["command"] == "python -m benchmarks.mnist"
    assert COMMITTED["data"]["train"]["images"] == 60_000
    assert [one["seed"] for one in COMMITTED["networks"]] == CONFIG["seeds"]
    assert {"python", "versions", "threads"} <= set(COMMITTED["environment"])


def test_the_committed_page_shows_the_committed_numbers():
    assert (FOLDER / "results" / "README.md").read_text(encoding="utf-8") == page.markdown(COMMITTED)


def test_the_committed_means_follow_from_the_committed_matrices():
    for name, row in COMMITTED["over_seeds"]["edits"].items():
        networks = [one for one in COMMITTED["networks"] if name in one["edits"]]
        after = np.array([one["edits"][name]["accuracy"] for one in networks])
        falls = np.array([one["accuracy"]["per_digit"] for one in networks])[:, None, :] - after
        assert row["seeds"] == len(networks)
        assert row["ablated"] == pytest.approx(after[:, range(10), range(10)].mean(), abs=1e-5)
        assert row["others_fall"] == pytest.approx(np.mean([others(fall).mean() for fall in falls]), abs=1e-5)
        assert row["worst_fall"] == pytest.approx(max(others(fall).max() for fall in falls), abs=1e-5)


def test_the_committed_result_reaches_the_targets():
    paper, targets = COMMITTED["over_seeds"]["edits"]["paper"], CONFIG["targets"]
    assert paper["ablated"] <= targets["ablated_at_most"]
    assert paper["others_fall"] <= targets["others_fall_at_most"]
    assert COMMITTED["over_seeds"]["reached"] == {"ablated": True, "others_fall": True}
    assert COMMITTED["over_seeds"]["restored"] is True


def test_a_missed_target_is_said_aloud():
    missed = copy.deepcopy(COMMITTED)
    missed["over_seeds"]["reached"]["ablated"] = False
    missed["over_seeds"]["restored"] = False
    text = page.markdown(missed)
    assert "(**missed**)" in text and "**their bytes were not those of before**" in text


def test_drawing_needs_no_torch():
    code = "import sys, benchmarks.mnist.__main__; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["heatmap", "collateral", "injection"])
def test_the_figures_show_the_committed_numbers(name):
    figure = page.pictures(COMMITTED)[name]
    assert (FOLDER / "results" / f"{name}.png").is_file()
    shown = [float(text.get_text()) for text in figure.axes[0].texts]
    means = COMMITTED["over_seeds"]
    if name == "heatmap":
        assert len(shown) == 10 + 10 * 11
        assert shown[:10] == [round(100 * value) for value in means["per_digit"]]
    elif name == "collateral":
        assert len(shown) == 90
        assert max(shown) == pytest.approx(
            100 * others(np.array(means["per_digit"]) - np.array(means["edits"]["paper"]["accuracy"])).max(), abs=0.051
        )
    else:
        assert shown[0] == round(100 * means["injection"]["paper"]["called"][0][0])
