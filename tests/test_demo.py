"""The demo end to end, as a person would run it, and the parts of its study that could flatter or mislead."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re

import numpy as np
import pytest
import torch
from torch import nn

from lashley.cli import main
from lashley.report import digits as report
from lashley.studies import digits as study

DIAGONAL = np.eye(10, dtype=bool)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """``lashley demo --quick --json`` once: exit code, what went to stdout and stderr, the folder and the result."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    out, err = io.StringIO(), io.StringIO()
    threads, draws = torch.get_num_threads(), torch.random.get_rng_state()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["demo", "--quick", "--json", "--out", str(folder)])
    assert torch.get_num_threads() == threads and torch.equal(torch.random.get_rng_state(), draws)
    assert code == 0, err.getvalue()
    return out.getvalue(), err.getvalue(), folder, json.loads((folder / "result.json").read_text())


def test_it_writes_a_page_figures_and_a_result_and_says_where(demo):
    out, err, folder, result = demo
    document = json.loads(out)
    assert document["page"] == str(folder.resolve() / "index.html")
    names = {path.name for path in folder.iterdir()}
    assert {"index.html", "result.json", "mlp-ablation.png", "convnet-ablation.png"} <= names
    assert [path.name for path in folder.parent.iterdir()] == ["out"]  # nothing is left beside the folder
    assert "MLP: trained in" in err and "put back, weights identical" in err
    assert "warning" not in err.lower()
    for row, network in zip(document["networks"], result["networks"], strict=True):
        assert row["ablated"] == network["edits"]["paper"]["summary"]["target_mean"]
        assert row["put_back"] is True


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("way", ["paper", "sharpened"])
def test_every_ablated_digit_falls_and_the_others_stay(demo, number, way):
    network = demo[3]["networks"][number]
    before = np.array(network["accuracy"]["per_digit"])
    after = np.array(network["edits"][way]["accuracy"])
    assert before.min() > 0.85
    assert after.diagonal().max() < 0.2 and after.diagonal().mean() < 0.06
    assert (before - after)[~DIAGONAL].mean() < 0.04
    summary = network["edits"][way]["summary"]
    assert summary["target_mean"] == pytest.approx(after.diagonal().mean(), abs=1e-5)
    assert summary["others_fall"] == pytest.approx((before - after)[~DIAGONAL].mean(), abs=1e-5)


def test_all_ten_come_back_byte_for_byte(demo):
    for network in demo[3]["networks"]:
        restored = network["restored"]
        assert restored["identical"] is True
        assert restored["back"] == [restored["sha256"]] * 10
        assert len({restored["sha256"], *restored["while_out"]}) == 11  # each was really out


def test_strength_0_is_the_network_and_strength_1_the_ablation(demo):
    for network in demo[3]["networks"]:
        alphas, sweep = demo[3]["settings"]["alphas"], network["sweep"]["paper"]
        assert sweep["target"][alphas.index(0.0)] == network["accuracy"]["per_digit"]
        accuracy = np.array(network["edits"]["paper"]["accuracy"])
        assert sweep["target"][alphas.index(1.0)] == accuracy.diagonal().tolist()
        others = np.where(DIAGONAL, np.nan, accuracy)
        assert sweep["others"][alphas.index(1.0)] == pytest.approx(np.nanmean(others, axis=1), abs=1e-5)


def test_a_subset_is_the_sum_of_its_members_in_what_it_takes(demo):
    for network in demo[3]["networks"]:
        rows, out = network["subset"]["accuracy"], network["subset"]["digits"]
        assert rows["none"] == network["accuracy"]["per_digit"]
        assert max(rows["paper"][digit] for digit in out) < 0.2
    kept = [digit for digit in range(10) if digit not in out]
    shifted, refitted = (np.mean([rows[way][digit] for digit in kept]) for way in ("paper", "paper+batchnorm"))
    assert refitted > shifted  # of the network with BatchNorm


def test_an_engram_alone_recognises_its_digit_and_the_false_alarms_are_counted(demo):
    for network in demo[3]["networks"]:
        whole, blank = network["injection"]["whole"], network["injection"]["blank"]
        assert whole["accuracy"] == network["accuracy"]["per_digit"]
        called, counts = np.array(blank["called"]), np.array(demo[3]["data"]["test_per_digit"])
        for digit in range(10):
            others = np.delete(counts, digit)
            share = np.delete(called[digit], digit) @ others / others.sum()
            assert blank["false_induction"][digit] == pytest.approx(share, abs=1e-5)
    assert min(demo[3]["networks"][0]["injection"]["blank"]["accuracy"]) > 0.9
    assert np.mean(demo[3]["networks"][0]["injection"]["blank"]["ranking"]) > 0.9


def test_the_masked_logit_beats_every_edit_on_accuracy_and_changes_no_feature(demo):
    for network in demo[3]["networks"]:
        mask = network["edits"]["mask"]
        assert mask["summary"]["target_max"] == 0.0 and mask["summary"]["others_fall"] <= 0.0
        assert mask["probe"] == network["features"]["probe"]


def test_norms_come_with_their_cut_and_what_the_engram_answers_is_measured(demo):
    for network in demo[3]["networks"]:
        layers = [layer["name"] for layer in network["layers"]]
        norms = network["norms"]
        assert norms["cut"] and list(norms["ratio"]) == layers
        for row in norms["sensitivity"]:
            if row["cut"] == norms["cut"]:
                assert row["norm"] == pytest.approx(np.mean(norms["ratio"][row["layer"]]), abs=1e-5)
        last = network["responses"]["paper"][layers[-1]]
        assert np.mean(last["own"]) > 0.7 and np.mean(last["others"]) < 0.3
    first = network["responses"]["paper"]["conv1"]  # every digit uses the first layer alike
    assert np.allclose(first["own"], first["others"], atol=0.1)


def test_page_and_result_agree_and_the_result_says_what_made_it(demo):
    _, _, folder, result = demo
    html = (folder / "index.html").read_text(encoding="utf-8")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html))
    for network in result["networks"]:
        for way in ("paper", "sharpened", "mask"):
            assert f"{100 * network['edits'][way]['summary']['target_mean']:.1f} %" in text
        assert network["restored"]["sha256"][:8] in html
    assert result["settings"]["quick"] and "quick run" in text
    provenance = result["provenance"]
    assert provenance["seed"] == 0 and {"lashley", "torch", "scikit-learn"} <= set(provenance["versions"])
    assert provenance["threads"] == 1 and provenance["command"]
    assert json.loads((folder / "manifest.json").read_text())["made_by"] == provenance


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(demo):
    def numbers(result):
        return [{k: v for k, v in network.items() if k != "seconds"} for network in result["networks"]]

    torch.manual_seed(99)
    assert numbers(study.run(seed=0, quick=True)) == numbers(demo[3])
    assert study.load(1).test_labels.tolist() != study.load(0).test_labels.tolist()


def test_a_folder_with_other_files_is_refused_before_the_work(tmp_path, capsys, monkeypatch):
    (tmp_path / "thesis.txt").write_text("mine")
    monkeypatch.setattr(study, "run", lambda *args: pytest.fail("the work began"))
    assert main(["demo", "--out", str(tmp_path)]) == 1
    assert "thesis.txt" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_missing_package_is_named_with_the_command_that_brings_it(tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jinja2" else find(name))
    assert main(["demo", "--out", str(tmp_path / "out")]) == 1
    assert re.search(r"jinja2 cannot be found(.|\n)*pip install 'lashley\[demo\]'", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_the_text_for_a_person_is_a_table_and_the_page(demo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(study, "run", lambda *args: demo[3])
    monkeypatch.setattr(report, "write", lambda result, folder: (folder / "index.html").write_text("drawn above"))
    assert main(["demo", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^MLP +9\d\.\d%", out, re.MULTILINE)
    assert out.rstrip().endswith(str((tmp_path / "out" / "index.html").resolve()))
    assert main(["demo", "--out", str(tmp_path / "out")]) == 0  # a demo replaces a demo


# The parts of the study


def test_the_split_is_disjoint_and_every_digit_is_split_alike():
    data = study.load(0)
    train = {tuple(row) for row in data.train_images.tolist()}
    assert len(data.train_labels) + len(data.test_labels) == 1797
    assert sum(tuple(row) in train for row in data.test_images.tolist()) == 0
    shares = torch.bincount(data.test_labels) / torch.bincount(torch.cat([data.train_labels, data.test_labels]))
    assert shares.min() > 0.28 and shares.max() < 0.32
    assert data.train_images.min() == 0.0 and data.train_images.max() == 1.0


def test_without_takes_digits_from_training_only():
    data = study.load(0)
    less = data.without([3, 7])
    assert set(less.train_labels.tolist()) == {0, 1, 2, 4, 5, 6, 8, 9}
    assert torch.equal(less.test_labels, data.test_labels)


def test_the_summary_keeps_targets_and_others_apart():
    before = [1.0] * 3
    summary = study.summarise(before, [[0.1, 0.9, 1.0], [1.0, 0.3, 1.0], [0.6, 1.0, 0.2]])
    assert summary["target_mean"] == pytest.approx(0.2) and summary["target_max"] == 0.3
    assert summary["others_fall"] == pytest.approx(0.5 / 6)
    assert summary["worst_fall"] == pytest.approx(0.4) and summary["worst_pair"] == [2, 0]


def test_the_checksum_sees_parameters_buffers_and_names():
    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))

    plain, weight, buffer = model(), model(), model()
    with torch.no_grad():
        weight[0].weight[0, 0] = torch.nextafter(weight[0].weight[0, 0], torch.tensor(9.0))
        buffer[1].running_mean[1] = 1e-30
    sums = {study.checksum(m) for m in (plain, weight, buffer, nn.Sequential(*model(), nn.ReLU(), nn.Linear(1, 1)))}
    assert study.checksum(model()) == study.checksum(plain) and len(sums) == 4


def test_the_probe_reads_features_and_not_the_readout():
    data = study.load(0)
    model = study.train(study.NETWORKS[0], data, epochs=2, seed=0)
    found = study.probe(model, data)
    with torch.no_grad():
        model.readout.weight.zero_()
    assert study.probe(model, data) == found and min(found) > 0.5
    with torch.no_grad():
        model.hidden2.weight.zero_()
    assert np.mean(study.probe(model, data)) == pytest.approx(0.1)
