"""The study of all closed forms: its parts on small cases, the whole on scikit-learn's digits, stopped and gone on."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lashley
from benchmarks.closed_forms.__main__ import main
from helpers import assert_close
from lashley.data import cifar
from lashley.data.cifar import cifar10
from lashley.errors import DataError, SolveError
from lashley.report import markdown
from lashley.result import Result, value_of
from lashley.studies.closed_forms import edits, study
from lashley.studies.closed_forms.edits import Way, accuracies, masked, random_like, readable
from lashley.studies.closed_forms.judge import Judge
from lashley.studies.closed_forms.material import Images, Material, first_per_class
from lashley.studies.closed_forms.networks import ARCHITECTURES, Autoencoder
from lashley.studies.closed_forms.pieces import Pieces
from lashley.studies.closed_forms.subject import Subject, guarded, outputs
from lashley.studies.closed_forms.training import Recipe, shifted, train

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "closed_forms"
CONFIG, QUICK = (json.loads((FOLDER / f"{name}.json").read_text()) for name in ("config", "quick"))
IMAGES = QUICK["subjects"]["digits, conv net"]["images"]

pytestmark = pytest.mark.filterwarnings("ignore::lashley.errors.LashleyWarning")  # few rows: the images are small


def small(work: Path) -> dict:
    """The quick config with fewer rows."""
    config = copy.deepcopy(QUICK)
    config["work"] = str(work)
    kept = ("paper", "sharpened + BatchNorm", "random, norms of the paper's", "Kodge", "LEACE, module")
    config["ways"] = {name: config["ways"][name] for name in (*kept, "mixture, last block")}
    config["subjects"]["digits, conv net"]["recipe"]["epochs"] = 2
    config["subjects"]["digits, conv net"]["targets"] = ["3", "8"]
    config["autoencoder"]["training"]["epochs"] = 1
    return config


def untimed(result: Result) -> list:
    """The tables without seconds, and the charts."""
    timed = ("seconds", "training_seconds")
    tables = [
        (table.name, table.row_notes, [{k: v for k, v in row.items() if k not in timed} for row in table.rows])
        for table in result.tables
    ]
    return [tables, result.charts, result.summary]


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> tuple[dict, Result]:
    config = small(tmp_path_factory.mktemp("work"))
    return config, study.run(config)


@pytest.fixture(scope="module")
def subject(tmp_path_factory) -> Subject:
    material = Material.load("digits", IMAGES)
    model = train(Recipe("convnet", epochs=3, batch=64), material.train.pixels, material.train.labels, 10, seed=0)
    groups = {"all": ["features.conv1", "features.conv2", "features.conv3", "readout"], "module": ["eraser"]}
    groups |= {"first": ["features.conv1"], "last": ["readout"]}
    return Subject(guarded(model), material, 3, groups, tmp_path_factory.mktemp("recording") / "folder", norms=40)


# The whole.


def test_every_row_is_there_with_the_retrained_network_as_the_target(quick):
    config, result = quick
    tables = {table.name: table for table in result.tables}
    assert set(tables) == {
        "networks", "digits-conv-net-mean", "digits-conv-net-gates", "digits-conv-net-3", "digits-conv-net-8",
        "autoencoder",
    }  # fmt: skip
    fixed = ["untouched", "retrained", "retrained, seed 1", "logit mask"]
    for name in ("digits-conv-net-mean", "digits-conv-net-3", "digits-conv-net-8"):
        table = tables[name]
        rows = {row["edit"]: row for row in table.rows}
        assert list(rows) == [*fixed, *config["ways"]]
        assert table.target_row == "retrained"
        measured = [column for column in table.columns if column.better == "target"]
        assert len(measured) == 10
        for column in measured:
            assert all(value_of(row[column.key]) is not None for row in rows.values())
        target = {column.key: value_of(rows["retrained"][column.key]) for column in measured}
        gaps = {key: target[key] for key in ("ridge_gap", "mlp_gap", "centre_gap", "relearned_gap")}
        assert gaps == dict.fromkeys(gaps, 0) and (target["tow"], target["agreement"], target["target"]) == (1, 1, 0)
        assert value_of(rows["untouched"]["others_fall"]) == 0
        assert value_of(rows["logit mask"]["target"]) == 0
        for probe in ("ridge_gap", "mlp_gap", "centre_gap", "nmi"):  # a mask leaves the features as they were
            assert value_of(rows["logit mask"][probe]) == value_of(rows["untouched"][probe])
    drawn = {chart.name: chart for chart in result.charts}
    assert set(drawn) == {
        "autoencoder-paper", "autoencoder-sharpened",
        *(f"digits-conv-net-{digit}-{group}" for digit in (3, 8) for group in ("features", "filters", "directions")),
    }  # fmt: skip
    front = {series.name: series for series in drawn["digits-conv-net-3-filters"].series}
    assert front["paper"].labels[0] == "0.5" and front["retrained"].target
    assert all(x <= 0.15 for series in front.values() if not series.target for x in series.x)


def test_the_means_are_those_of_the_classes(quick):
    tables = {table.name: table for table in quick[1].tables}
    for mean, three, eight in zip(*(tables[f"digits-conv-net-{n}"].rows for n in ("mean", "3", "8")), strict=True):
        assert value_of(mean["tow"]) == pytest.approx((three["tow"] + eight["tow"]) / 2)
        assert mean["target"] == pytest.approx((value_of(three["target"]) + value_of(eight["target"])) / 2)
        sizes = [abs(value_of(row["relearned_gap"])) for row in (three, eight)]  # two misses of opposite signs are none
        assert mean["relearned_gap"] == pytest.approx(sum(sizes) / 2)


def test_the_summary_says_what_is_in_the_tables(quick):
    table = next(table for table in quick[1].tables if table.name == "digits-conv-net-mean")
    rows = {row["edit"]: row for row in table.rows}
    edits = [rows[name] for name in quick[0]["ways"] if name != "random, norms of the paper's"]
    edits = [row for row in edits if row["others_fall"] <= 0.02]
    best = max(edits, key=lambda row: row["tow"])
    assert f"has ToW {rows['logit mask']['tow']:.3f}" in quick[1].summary
    assert f"by ToW {best['edit']} ({best['tow']:.3f})" in quick[1].summary
    closest = min(edits, key=lambda row: row["mlp_gap"])
    assert f"by the MLP probe {closest['edit']} ({100 * closest['mlp_gap']:.1f} points)" in quick[1].summary


@pytest.mark.parametrize("after", [4, 15])
def test_a_run_that_was_stopped_goes_on_and_comes_to_the_same(tmp_path, quick, after):
    class Stopped(BaseException):
        pass

    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if len(lines) == after:
            raise Stopped

    config = {**quick[0], "work": str(tmp_path)}
    with pytest.raises(Stopped):
        study.run(config, say=say)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/manifest.json")}
    result = study.run(config)
    assert kept and all(path.stat().st_mtime_ns == time for path, time in kept.items())  # nothing was made twice
    assert untimed(result) == untimed(quick[1])


def test_finished_pieces_are_used_and_damaged_ones_made_again(quick):
    config, result = quick
    said: list[str] = []
    assert untimed(study.run(config, say=said.append)) == untimed(result)
    assert not any("epoch" in line for line in said)
    row = next(path for path in Path(config["work"]).glob("*-3-Kodge*/manifest.json"))
    row.write_text(re.sub('"alpha": [^,]*', '"alpha": 7', row.read_text(), count=1))
    network = next(Path(config["work"]).glob("digits-convnet-without-3-0*/network.safetensors"))
    network.write_bytes(network.read_bytes()[:-4])
    assert untimed(study.run(config, say=said.append)) == untimed(result)
    assert sum("It is made again" in line for line in said) == 2


def test_the_command_writes_the_result(tmp_path, quick, capsys):
    (tmp_path / "config.json").write_text(json.dumps(quick[0]))
    main(["--config", str(tmp_path / "config.json"), "--out", str(tmp_path / "out")])
    found = Result.load(tmp_path / "out" / "closed_forms.json")
    assert untimed(found) == untimed(quick[1])
    pictures = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"closed_forms.json", "README.md"} <= pictures
    assert "README.md" in capsys.readouterr().out


def test_the_committed_config_asks_for_what_there_is():
    ways = study.ways_of(CONFIG)
    assert {"paper", "random, norms of the paper's"} <= {way.name for way in ways}
    named = {*CONFIG["ways"], "untouched", "retrained", "logit mask"}
    assert set(CONFIG["notes"]) == named and all(set(group) <= named for group in CONFIG["drawn"].values())
    for settings in CONFIG["subjects"].values():
        shape = (3, 32, 32) if settings["data"] == "cifar10" else (1, 28, 28)
        model = ARCHITECTURES[settings["recipe"]["architecture"]](shape, 10)
        assert set(settings["last_block"]) <= dict(model.named_modules()).keys()


# Its parts.


def test_the_guarded_network_is_the_network(subject):
    pixels = subject.material.test.pixels[:50]
    bare = nn.Sequential(subject.model[0], subject.model[2])
    with torch.no_grad():
        assert torch.equal(subject.model(pixels), bare(pixels))
    features, logits = outputs(subject.model, subject.material.test)
    assert features.shape == (599, 64)
    assert logits.shape == (599, 10)


def test_a_mask_takes_only_the_class(subject):
    features, logits = outputs(subject.model, subject.material.test)
    same, hidden = outputs(masked(subject), subject.material.test)
    assert torch.equal(features, same)
    assert not (hidden.argmax(1) == 3).any()
    hidden[:, 3] = logits[:, 3]
    assert torch.equal(hidden, logits)


def test_random_numbers_have_the_norms_of_the_engram(subject):
    engram = subject.recording().engram(subject.model, "3")
    found = random_like(engram, seed=1)
    assert found.weight_norms() == pytest.approx(engram.weight_norms(), rel=1e-5)
    assert_close(found["readout"].bias.norm(), engram["readout"].bias.norm(), rtol=1e-5)
    overlap = (found["readout"].weight * engram["readout"].weight).sum() / engram["readout"].norm ** 2
    assert abs(overlap.item()) < 0.2
    assert not torch.equal(found["readout"].weight, random_like(engram, seed=2)["readout"].weight)


def test_what_is_chosen_has_the_best_score_and_of_equals_the_weakest_strength(subject):
    way = Way("kodge", "kodge", "all", {"retain": [10, 100], "forget": [3, 30]}, (0.0, 0.5, 1.0))
    chosen = way.choose(subject)
    assert len(chosen.tried) == 12
    scores = [(1 - tried["target"]) * tried["others"] for tried in chosen.tried]
    best = chosen.tried[scores.index(max(scores))]
    assert {**chosen.settings, "alpha": chosen.alpha} == {k: best[k] for k in ("retain", "forget", "alpha")}
    target, others = accuracies(chosen.edited(subject), subject)
    assert (target, others) == (best["target"], best["others"])
    nothing = Way("nothing", "projection", "all", {}, (0.0, 0.0)).choose(subject)  # two equals
    assert nothing.tried[0] == nothing.tried[1] and nothing.alpha == 0.0


def test_what_is_timed_is_what_was_chosen(subject):
    chosen = Way("sharpened", "projection", "all", {"sharpness": [2], "rtol": [1e-3]}, (1.0,), batchnorm=True).choose(
        subject
    )
    model, seconds = chosen.timed(subject)
    assert seconds > 0
    for name, value in chosen.edited(subject).state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_ridge_is_damped_by_a_share_of_each_site(subject):
    engram = Way("ridge", "ridge", "all").engram(subject, {"damping": 0.1})
    recording = subject.recording()
    square = recording.moment(None, "features.conv2").square
    lam = 0.1 * square.trace().item() / len(square)
    alone = recording.engram(subject.model, "3", estimator=lashley.Ridge(lam), layers=["features.conv2"])
    assert torch.equal(engram["features.conv2"].weight, alone["features.conv2"].weight)


def test_a_mixture_is_made_where_the_class_is_readable_and_refused_where_it_is_not(subject):
    both = Way("mixture", "mixture", "all").engram(subject, {})
    gates = {name: delta.solutions[0].gate for name, delta in both.items()}
    assert "features.conv1" not in gates and min(gates.values()) >= 0.2
    with pytest.raises(SolveError, match=r"R\^2 of at least 0.2"):
        Way("mixture", "mixture", "first").engram(subject, {})


def test_how_readable_the_class_is_grows_with_depth(subject, monkeypatch):
    gates = readable(subject)
    assert list(gates) == subject.groups["all"]
    assert gates["features.conv1"] < 0.01 < gates["features.conv2"]
    assert gates["features.conv2"] < gates["features.conv3"] < gates["readout"]
    direct = subject.recording().engram(
        subject.model, "3", estimator=lashley.MixtureShift(missing_bias="fold"), layers=["readout"]
    )
    assert gates["readout"] == pytest.approx(direct["readout"].solutions[0].gate)
    whole = lashley.Recording.engram

    def engram(recording, *arguments, layers, **settings):
        if layers == ["features.conv1"]:
            raise SolveError("no gate")
        return whole(recording, *arguments, layers=layers, **settings)

    monkeypatch.setattr(lashley.Recording, "engram", engram)
    assert readable(subject) == {**gates, "features.conv1": None}


def test_a_module_leaves_the_weights_alone(subject):
    edited = Way("LEACE", "leace", "module").choose(subject).edited(subject)
    changed = [n for n, value in edited.state_dict().items() if not torch.equal(value, subject.model.state_dict()[n])]
    assert changed == ["eraser.weight", "eraser.bias"]


def test_an_unknown_group_of_layers_is_refused(subject):
    with pytest.raises(DataError, match="Expected a group of layers, got 'lost'. Did you mean 'last'"):
        Way("mixture", "mixture", "lost").engram(subject, {})


def test_a_row_whose_estimator_has_no_answer_says_so(tmp_path, monkeypatch):
    config = small(tmp_path)
    config["ways"] = {name: config["ways"][name] for name in ("paper", "mixture, last block")}
    config["subjects"]["digits, conv net"]["targets"] = ["3"]
    config["autoencoder"] = None

    def refuse(*_: object) -> None:
        raise SolveError("no gate")

    monkeypatch.setitem(edits._KINDS, "mixture", refuse)
    [_, _, table] = study.run(config).tables
    row = next(row for row in table.rows if row["edit"] == "mixture, last block")
    assert row == {"edit": "mixture, last block", **dict.fromkeys(list(row)[1:])}
    assert table.row_notes["mixture, last block"] == "No answer here. no gate"


def test_random_numbers_need_a_row_to_be_like():
    ways = {"random": {"estimator": "projection", "layers": "all", "random_like": "paper"}}
    with pytest.raises(DataError, match="'random' to be like a row before it, got random_like 'paper'"):
        study.ways_of({"ways": ways, "alphas": [1]})


def test_an_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(DataError, match="got 'leaces'"):
        Way("x", "leaces", "all")


def test_relearning_teaches_and_leaves_the_network_alone(subject):
    settings = {"images": 40, "steps": 30, "batch": [16, 16], "learning_rate": 0.05, "momentum": 0.9, "seeds": 2}
    judge = Judge(subject, {"resamples": 20, "relearn": settings})
    blind = copy.deepcopy(subject.model)
    with torch.no_grad():
        blind[-1].bias[3] = -30
    before = copy.deepcopy(blind.state_dict())
    found = judge.found(blind)
    assert not (found.answers == 3).any()
    assert found.relearned.double().mean() > 0.5
    assert all(torch.equal(value, before[name]) for name, value in blind.state_dict().items())
    row = judge.compared(found, found, judge.found(subject.model))
    assert row["tow"] == 1 and row["agreement"]["value"] == 1 and row["relearned_gap"]["value"] == 0
    falls = [a - b for a, b in zip(judge.found(subject.model).per_class, found.per_class, strict=True)]
    kept = [fall for k, fall in enumerate(falls) if k != 3]
    assert row["others_fall"]["value"] == pytest.approx(sum(kept) / 9)
    assert row["worst_fall"] == max(kept) and falls[int(row["worst_class"])] == max(kept)


def test_the_parts_of_a_data_set_do_not_meet():
    material = Material.load("digits", {"train": None, "record": 50, "choose": 10, "test": 20})
    assert len(material.record) == 500 and len(material.choose) == 100 and len(material.test) == 200
    rows = [{image.numpy().tobytes() for image in part.stored} for part in (material.record, material.choose)]
    assert not rows[0] & rows[1]
    assert torch.bincount(material.choose.labels).tolist() == [10] * 10
    assert len(material.train.of(3)) + len(material.train.without(3)) == len(material.train)
    with pytest.raises(DataError, match="Lower record"):
        Material.load("digits", {"train": 200, "record": 50, "choose": 10, "test": 20})
    with pytest.raises(DataError, match="got 'digit'"):
        Material.load("digit", IMAGES)


def test_first_per_class():
    labels = torch.tensor([1, 0, 1, 1, 0, 2])
    assert first_per_class(labels, 1).tolist() == [0, 1, 5]
    assert first_per_class(labels, 2).tolist() == [0, 1, 2, 4, 5]
    assert first_per_class(labels, None).tolist() == list(range(6))


def test_pixels_are_standardised_by_channel():
    stored = torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    pixels = Images(stored, torch.tensor([0]), (0.5, 0.25), (0.5, 0.5)).pixels
    assert pixels[0, :, 0, 0].tolist() == [-1, 1.5]


def test_images_are_shifted_and_mirrored():
    images = torch.arange(1.0, 17).view(1, 1, 4, 4).expand(64, 1, 4, 4)
    torch.manual_seed(0)
    moved = shifted(images, 1, flip=False)
    padded = nn.functional.pad(images[0, 0], (1, 1, 1, 1))
    windows = [padded[i : i + 4, j : j + 4] for i in range(3) for j in range(3)]
    assert all(any(torch.equal(image[0], window) for window in windows) for image in moved)
    assert len({tuple(image.flatten().tolist()) for image in moved}) == 9
    mirrored = shifted(images, 0, flip=True)
    both = {tuple(image.flatten().tolist()) for image in mirrored}
    assert both == {tuple(images[0].flatten().tolist()), tuple(images[0].flip(2).flatten().tolist())}
    assert torch.equal(shifted(images, 0, flip=False), images)


def test_training_is_the_same_for_a_seed_and_leaves_the_callers_random_numbers():
    pixels, labels = torch.rand(64, 1, 8, 8), torch.arange(64) % 10
    recipe = Recipe("convnet", epochs=1, batch=32, crop=1, flip=True)
    state = torch.random.get_rng_state()
    one, two, other = (train(recipe, pixels, labels, 10, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["readout.weight"], other["readout.weight"])


def test_networks_are_kept_in_half_precision_and_found_again(tmp_path):
    def make() -> tuple[nn.Module, dict]:
        made.append(1)
        return nn.Linear(3, 2), {"seconds": 1.5}

    made: list[int] = []
    pieces = Pieces(tmp_path / "work")
    first, values = pieces.network("line", {"seed": 0}, lambda: nn.Linear(3, 2), make)
    again, _ = pieces.network("line", {"seed": 0}, lambda: nn.Linear(3, 2), make)
    assert values == {"seconds": 1.5} and made == [1]
    assert torch.equal(first.weight, again.weight) and torch.equal(first.weight, first.weight.half().float())
    pieces.network("line", {"seed": 1}, lambda: nn.Linear(3, 2), make)
    assert made == [1, 1]
    (tmp_path / "work").rename(tmp_path / "shelf")
    shelved, _ = Pieces(tmp_path / "new", [tmp_path / "shelf"]).network(
        "line", {"seed": 0}, lambda: nn.Linear(3, 2), make
    )
    assert made == [1, 1] and torch.equal(shelved.weight, first.weight)


def test_values_are_made_once_for_a_key(tmp_path):
    pieces = Pieces(tmp_path)
    assert pieces.values("a", {"x": (1, 2)}, lambda: {"y": (0.1, None)}) == {"y": [0.1, None]}
    assert pieces.values("a", {"x": (1, 2)}, lambda: {}) == {"y": [0.1, None]}
    assert pieces.values("a", {"x": (1, 3)}, lambda: {"y": 2}) == {"y": 2}


def test_the_autoencoder_gives_back_what_has_the_shape_of_its_input():
    images = torch.rand(2, 1, 28, 28)
    model = Autoencoder((1, 28, 28))
    assert model(images).shape == images.shape
    assert any(isinstance(module, nn.ConvTranspose2d) for module in model.modules())
    with pytest.raises(DataError, match="divide by 4, got 30 x 28"):
        Autoencoder((1, 30, 28))


def test_the_autoencoders_table_says_what_its_heat_map_shows(quick):
    table = next(table for table in quick[1].tables if table.name == "autoencoder")
    chart = next(chart for chart in quick[1].charts if chart.name == "autoencoder-paper")
    rows = {row["digit"]: row for row in table.rows}
    before, *after = chart.series
    assert [series.name for series in chart.series] == ["before", *(f"without {digit}" for digit in range(10))]
    for place, series in enumerate(after):
        row = rows[str(place)]
        assert (before.y[place], series.y[place]) == (1000 * row["before"], 1000 * row["paper own"])
    assert rows["3"]["retrained"] is not None and rows["4"]["retrained"] is None


# CIFAR-10.


def test_cifar10_is_read_from_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "SIZES", {"train": 4, "test": 2})
    monkeypatch.setenv("LASHLEY_DATA", str(tmp_path))
    (tmp_path / "cifar").mkdir()
    images = np.arange(6 * 3072, dtype=np.uint8).reshape(6, 32, 32, 3)
    labels = np.array([0, 1, 2, 1, 0, 1])
    arrays = {"train_images": images[:4], "train_labels": labels[:4], "test_images": images[4:]}
    np.savez(tmp_path / "cifar" / "cifar10.npz", **arrays, test_labels=labels[4:])
    found, given = cifar10("train")
    assert np.array_equal(found, images[:4]) and given.tolist() == [0, 1, 2, 1] and given.dtype == np.uint8
    assert cifar10("test")[1].tolist() == [0, 1]
    monkeypatch.setattr(cifar, "SIZES", {"train": 5, "test": 2})
    with pytest.raises(DataError, match="Expected 5 images of 32 x 32 x 3"):
        cifar10("train")


def test_cifar10_says_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LASHLEY_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"cifar/cifar10.npz"):
        cifar10("test")
    with pytest.raises(DataError, match="got 'validation'"):
        cifar10("validation")


def test_cifar10_from_the_hub(monkeypatch):
    asked = []

    def pictures_of(*arguments: str) -> tuple[np.ndarray, np.ndarray]:
        asked.append(arguments[:4])
        return np.zeros((2, 32, 32, 3), np.uint8), np.array([3, 9])

    monkeypatch.delenv("LASHLEY_DATA", raising=False)
    monkeypatch.setattr(cifar, "SIZES", {"train": 4, "test": 2})
    monkeypatch.setattr(cifar, "pictures_of", pictures_of)
    assert cifar10("test")[1].tolist() == [3, 9]
    assert asked == [("CIFAR-10", "uoft-cs/cifar10", "plain_text/test-00000-of-00001.parquet", "img")]


# What is committed.


@pytest.mark.parametrize("name", ["whole-0", "without-truck-0", "without-truck-1"])
def test_the_committed_networks_are_of_the_committed_recipe(name):
    [folder] = (FOLDER / "networks").glob(f"cifar10-resnet-{name}-*")
    settings = CONFIG["subjects"]["CIFAR-10, ResNet-10"]
    key = json.loads((folder / "manifest.json").read_text())["key"]
    recipe = Recipe(**settings["recipe"]).to_json()
    missing, seed = (None if name == "whole-0" else "truck"), int(name[-1])
    assert key == {"data": key["data"], "recipe": recipe, "without": missing, "seed": seed}
    assert (folder / "network.safetensors").stat().st_size < 2**20
    pieces = Pieces(FOLDER / "nowhere", [FOLDER / "networks"])
    network, facts = pieces.network(
        f"cifar10-resnet-{name}", key, lambda: ARCHITECTURES["resnet"]((3, 32, 32), 10), None
    )
    assert facts["test"] > (0.85 if name == "whole-0" else 0.76)
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert not (FOLDER / "nowhere").exists()


def test_the_committed_result_is_of_the_committed_config_and_is_drawn_as_it_is(tmp_path):
    result = Result.load(FOLDER / "results" / "closed_forms.json")
    assert result.settings == json.loads(json.dumps(CONFIG))
    assert result.provenance["command"] == "python -m benchmarks.closed_forms"
    means = {"mnist-mlp-mean", "mnist-conv-net-mean", "cifar-10-resnet-10-mean"}
    assert means <= {table.name for table in result.tables}
    drawn = markdown.write(result.save(tmp_path / "closed_forms.json"))
    assert (FOLDER / "results" / "README.md").read_text() == drawn[0].read_text()
    assert {path.name for path in (FOLDER / "results").iterdir()} == {path.name for path in tmp_path.iterdir()}


def test_the_numbers_of_the_page_are_those_of_the_result():
    result = Result.load(FOLDER / "results" / "closed_forms.json")
    tables = {table.title.split(":")[0]: table for table in result.tables if table.name.endswith("-mean")}
    page = (ROOT / "docs" / "closed_forms.md").read_text(encoding="utf-8").replace("\N{MINUS SIGN}", "-")
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith(("| MNIST", "| CIFAR"))]
    assert len(lines) > 20
    for network, edit, *numbers in lines:
        row = next(row for row in tables[network].rows if row["edit"] == edit)
        keys = ("target", "others_fall", "tow", "agreement", "ridge_gap", "mlp_gap", "relearned_gap")
        shown = ("{:.1f}", "{:.1f}", "{:.3f}", "{:.0f}", "{:.1f}", "{:.1f}", "{:.0f}")
        expected = [form.format(row[key] * (1 if key == "tow" else 100)) for key, form in zip(keys, shown, strict=True)]
        assert numbers == expected, (network, edit)
