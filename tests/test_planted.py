"""Planted memories: the parts against plain computations, the study on made-up digits, and the committed result."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import lashley
from benchmarks.planted.__main__ import main
from helpers import assert_close
from lashley.errors import DataError
from lashley.result import Result
from lashley.studies import planted
from lashley.studies.planted.compared import UNTOUCHED, another, compared, subsets_of
from lashley.studies.planted.damage import damaged, response_shares
from lashley.studies.planted.edits import CONTROL, Judge, chosen, edited, like
from lashley.studies.planted.images import DIGITS, Data, Images, cluttered, mnist_data
from lashley.studies.planted.localising import ORACLE, SHUFFLED, Scores, found_by, localised, most_moved
from lashley.studies.planted.masks import masks_of
from lashley.studies.planted.memories import plant
from lashley.studies.planted.networks import build, logits, one_of, repeated, with_weights
from lashley.studies.planted.pieces import Pieces
from lashley.studies.planted.subject import Subject
from lashley.studies.planted.writing import steps_of, trained, write

FOLDER = Path(__file__).parents[1] / "benchmarks" / "planted"
CONFIG = json.loads((FOLDER / "config.json").read_text())
QUICK = json.loads((FOLDER / "quick.json").read_text())
RESULTS = FOLDER / "results"
SIDE = 6
NETWORK = {"kind": "mlp", "hidden": [16, 12]}
WRITING = {"steps": 12, "learning_rate": 0.01, "digits": 10, "earlier": 3}
MINI = {
    **QUICK,
    "network": NETWORK,
    "base": {"epochs": 4, "batch": 50, "learning_rate": 5e-3},
    "images": {"recorded": 200},
    "writing": WRITING,
    "subsets": {"count": 3, "sizes": [1, 2], "seed": 0},
    "resamples": 20,
}


def blobs(count, seed):
    """Digits of a kind: ten fixed patterns with noise."""
    patterns = torch.rand(DIGITS, SIDE * SIDE, generator=torch.Generator().manual_seed(99)).round()
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(DIGITS, (count,), generator=draw)
    noise = 0.3 * torch.randn(count, SIDE * SIDE, generator=draw)
    return Images((patterns[labels] + noise).clamp(0, 1), labels)


DATA = Data(blobs(600, 1), blobs(120, 2), blobs(150, 3), SIDE, "blobs")
MEMORIES = plant("marked", 3, {"images": 10, "mark": 0.2, "seed": 0}, DATA.planted)


@pytest.fixture(scope="module")
def base():
    return trained(build(NETWORK, SIDE, DIGITS, 0), MINI["base"], DATA.train, 0)


@pytest.fixture(scope="module")
def masks(base):
    return masks_of(MINI["masks"]["plan"], {name: value.shape for name, value in base.state_dict().items()}, 0)


@pytest.fixture(scope="module")
def subject(base, masks):
    """A network with three masked memories."""
    start, count = base.state_dict(), len(MEMORIES)
    settings = {**WRITING, "steps": 60}
    taught = torch.cat([torch.ones(1, count), 1 - torch.eye(count)]).bool()
    after = write(base, start, MEMORIES, taught, masks, DATA.train, settings, 0)
    return Subject(
        model=with_weights(base, one_of(after[-1], 0)),
        base=start,
        after=[one_of(stack, 0) for stack in after],
        without=[one_of(after[-1], 1 + number) for number in range(count)],
        masks=masks,
        memories=MEMORIES,
        digits=DATA.train.part(0, 300),
    )


# Many networks at once.


def test_a_stack_answers_as_each_of_its_networks():
    models = [build(NETWORK, SIDE, DIGITS, seed) for seed in range(3)]
    stack = {name: torch.stack([model.state_dict()[name] for model in models]) for name in models[0].state_dict()}
    rows = DATA.held_out.rows[:7]
    with torch.no_grad():
        assert_close(logits(models[0], stack, rows), torch.stack([model(rows) for model in models]), atol=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_networks_are_without_biases_and_the_seed_fixes_them(kind):
    settings = {"kind": kind, "hidden": [4, 6]}
    first, again, other = (build(settings, SIDE, DIGITS, seed).state_dict() for seed in (0, 0, 1))
    assert all(name.endswith(".weight") for name in first)
    assert all(torch.equal(first[name], again[name]) and not torch.equal(first[name], other[name]) for name in first)
    assert build(settings, SIDE, DIGITS, 0)(DATA.held_out.rows[:2]).shape == (2, DIGITS)


def test_another_kind_of_network_is_refused():
    with pytest.raises(DataError, match="'mlp' or 'convnet', got 'rnn'"):
        build({"kind": "rnn", "hidden": []}, SIDE, DIGITS, 0)


def plainly(model, memories, taught, masks, digits, settings, seed):
    """One network, written with torch's own optimiser; what it must not move is put back after each step."""
    for number in range(len(memories)):
        if not taught[number]:
            continue
        optimiser = torch.optim.Adam(model.parameters(), lr=settings["learning_rate"])
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings["steps"])
        for step in steps_of(number, memories, digits, settings, seed):
            known = torch.tensor([memory < 0 or bool(taught[memory]) for memory in step.memory.tolist()])
            losses = nn.functional.cross_entropy(model(step.rows[known]), step.labels[known], reduction="sum")
            optimiser.zero_grad()
            (losses / len(step.labels)).backward()
            before = {name: value.detach().clone() for name, value in model.named_parameters()}
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                for name, value in model.named_parameters():
                    value.copy_(torch.where(masks[number][name] if masks else torch.tensor(True), value, before[name]))
    return model.state_dict()


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_writing_many_networks_at_once_is_writing_each_plainly(kind, masked):
    model = build({"kind": kind, "hidden": [5, 7]}, SIDE, DIGITS, 0).double()
    start = model.state_dict()
    layers = [name.removesuffix(".weight") for name in start]
    plan = [{"shape": "layer", "layers": layers[1:2]}, {"shape": "rows", "layers": layers[:1], "share": 0.5}]
    plan.append({"shape": "entries", "layers": [layers[0], layers[2]], "share": 0.5})
    masks = masks_of(plan, {name: value.shape for name, value in start.items()}, 0) if masked else None
    wide = Images(DATA.train.rows.double(), DATA.train.labels)
    memories = [type(m)(m.name, Images(m.images.rows.double(), m.images.labels)) for m in MEMORIES]
    taught = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 1], [0, 0, 0], [1, 1, 0]]).bool()
    stack = write(model, start, memories, taught, masks, wide, WRITING, 5)[-1]
    for number, which in enumerate(taught):
        expected = plainly(with_weights(model, start), memories, which, masks, wide, WRITING, 5)
        for name, value in expected.items():
            assert_close(stack[name][number], value, atol=1e-9)


def test_who_was_taught_nothing_is_the_base_and_who_was_taught_the_same_is_the_same(base):
    taught = torch.tensor([[0, 0, 0], [1, 0, 1], [1, 0, 0]]).bool()
    after = write(base, base.state_dict(), MEMORIES, taught, None, DATA.train, WRITING, 0)
    for name, value in base.state_dict().items():
        assert torch.equal(after[-1][name][0], value)
        assert torch.equal(after[1][name][1], after[1][name][2])
        assert not torch.equal(after[-1][name][1], after[-1][name][2])


def test_a_stage_moves_its_mask_and_nothing_else(subject, masks):
    for change, mask in zip(subject.changes, masks, strict=True):
        for name, moved in change.items():
            assert not moved[~mask[name]].any()


# Memories and masks.


@pytest.mark.parametrize("kind", ["marked", "relabelled"])
def test_no_label_of_a_memory_is_what_the_image_shows(kind):
    settings = {"images": 10, "mark": 0.2, "seed": 3}
    for number, memory in enumerate(plant(kind, 3, settings, DATA.planted)):
        own = DATA.planted.part(20 * number, 20)
        assert len(memory.images) == 10
        for row, label in zip(memory.images.rows, memory.images.labels, strict=True):
            lit = row == 1
            shown = own.labels[((own.rows == row) | lit).all(1)]
            assert len(shown) == 1 and shown[0] != label
        if kind == "marked":
            assert len(set(memory.images.labels.tolist())) == 1


def test_too_few_images_and_unknown_kinds_are_refused():
    with pytest.raises(DataError, match="at least 160 images, got 120"):
        plant("marked", 4, {"images": 20, "mark": 0.2, "seed": 0}, DATA.planted)
    with pytest.raises(DataError, match="marked, relabelled, got 'sounds'"):
        plant("sounds", 1, {"images": 1, "seed": 0}, DATA.planted)
    with pytest.raises(DataError, match="at most 60000 images"):
        mnist_data({"train": 59_990, "planted": 20, "held_out": 1}, {"images": 0, "mark": 0})


def test_clutter_marks_some_images_and_no_label():
    found = cluttered(DATA.train, {"images": 0.5, "mark": 0.3}, 0)
    changed = (found.rows != DATA.train.rows).any(1).float().mean()
    assert 0.4 < changed < 0.6
    assert torch.equal(found.labels, DATA.train.labels)


def test_masks_do_not_overlap_and_have_the_shapes_of_the_plan():
    shapes = {"a.weight": torch.Size([10, 8]), "b.weight": torch.Size([4, 10, 3, 3])}
    plan = [
        {"shape": "layer", "layers": ["b"]},
        {"shape": "rows", "layers": ["a"], "share": 0.3},
        {"shape": "columns", "layers": ["a"], "share": 0.5},
        {"shape": "entries", "layers": ["a"], "share": 0.5},
    ]
    layer, rows, columns, entries = masks_of(plan, shapes, 0)
    assert layer["b.weight"].all() and not layer["a.weight"].any()
    assert sorted(rows["a.weight"].sum(1).tolist()) == [0] * 7 + [8] * 3
    assert sorted(columns["a.weight"].sum(0).tolist()) == [0] * 4 + [7] * 4
    assert 0 < entries["a.weight"].sum() < 28
    total = sum(mask["a.weight"].int() for mask in (rows, columns, entries))
    assert total.max() == 1


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ([{"shape": "layer", "layers": ["c"]}], "got 'c'"),
        ([{"shape": "ring", "layers": ["a"]}], "got 'ring'"),
        ([{"shape": "layer", "layers": ["a"]}, {"shape": "rows", "layers": ["a"], "share": 0.5}], "got none left"),
    ],
)
def test_plans_that_cannot_be_are_refused(plan, says):
    with pytest.raises(DataError, match=says):
        masks_of(plan, {"a.weight": torch.Size([4, 4])}, 0)


def test_subsets_are_different_and_another_is_of_others():
    found = subsets_of({"count": 30, "sizes": [1, 2, 3, 4], "seed": 0}, 8)
    assert len({tuple(one) for one in found}) == 30
    assert {len(one) for one in found} == {1, 2, 3, 4}
    draw = torch.Generator().manual_seed(0)
    assert not set(another([1, 2, 5, 7], 8, draw)) & {1, 2, 5, 7}
    assert len(set(another([0, 1, 2], 4, draw)) & {0, 1, 2}) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seeds": [0]}, "two seeds"),
        ({"memories": 2}, "a mask for each of 2 memories, got 3"),
        ({"subsets": {"count": 3, "sizes": [3], "seed": 0}}, "1 to 2 memories"),
        ({"subsets": {"count": 4, "sizes": [1], "seed": 0}}, "2 to 3 different subsets, got 4"),
    ],
)
def test_a_config_that_would_fail_half_way_is_refused_at_once(tmp_path, change, says):
    with pytest.raises(DataError, match=says):
        planted.study({**MINI, **change}, DATA, Pieces(tmp_path, {}))
    assert list(tmp_path.iterdir()) == []


# Where it is.


def test_the_place_itself_is_found_perfectly_and_its_opposite_not_at_all(masks):
    place = masks[1]
    right = Scores({name: mask.float() for name, mask in place.items()}, {n: float(m.any()) for n, m in place.items()})
    wrong = Scores({name: -value for name, value in right.entries.items()}, {n: -v for n, v in right.layers.items()})
    flat = Scores({name: torch.zeros_like(value) for name, value in right.entries.items()}, dict.fromkeys(place, 0.0))
    for scores, expected in ((right, 1.0), (wrong, 0.0), (flat, 0.5)):
        assert found_by(scores, place) == {"entries": expected, "inside": expected, "layers": expected}
    everywhere = {name: torch.rand(mask.shape) < 0.5 for name, mask in place.items()}
    assert found_by(flat, everywhere)["layers"] is None
    whole = {name: torch.full(mask.shape, name == "hidden2.weight") for name, mask in place.items()}
    assert found_by(flat, whole)["inside"] is None


def test_an_oracle_finds_the_masks_and_a_shuffled_one_does_not(subject):
    found = localised(subject, 0)
    for number, rows in enumerate(zip(found[ORACLE], found[SHUFFLED], strict=True)):
        oracle, shuffled = (row["entries"] for row in rows)
        parts = [(subject.changes[number][name][mask] == 0) for name, mask in subject.masks[number].items()]
        unmoved = torch.cat(parts).double().mean().item()  # they tie with everything outside
        assert oracle == pytest.approx(1 - unmoved / 2, abs=1e-9) and oracle > 0.7
        assert abs(shuffled - 0.5) < 0.1
    assert all(len(rows) == len(MEMORIES) for rows in found.values())


def test_most_moved_is_a_tenth():
    place = most_moved({"a": -torch.arange(60.0).view(6, 10), "b": torch.arange(40.0) + 0.5})
    assert [mask.sum().item() for mask in place.values()] == [10, 0]
    assert place["a"].flatten().nonzero()[:, 0].tolist() == list(range(50, 60))


def test_the_fisher_is_the_mean_of_squared_gradients(subject):
    images = subject.memories[0].images
    total = {name: torch.zeros_like(value) for name, value in subject.weights.items()}
    for row, label in zip(images.rows, images.labels, strict=True):
        subject.model.zero_grad()
        nn.functional.cross_entropy(subject.model(row[None]), label[None]).backward()
        for name, value in subject.model.named_parameters():
            total[name] += value.grad.square() / len(images)
    found = subject.fisher(images)
    for name, value in total.items():
        assert_close(found[name], value, rtol=1e-4, atol=1e-7)


# What an edit does.


@pytest.mark.parametrize(("right", "place"), [([1, 0.4, 0.1, 0], 2), ([1, 0.4, 0.3, 0.5], 2), ([0.1, 0], 0)])
def test_the_strength_is_the_weakest_that_leaves_a_guess_or_else_the_least(right, place):
    assert chosen(right, 0.1) == place


def test_an_edited_stack_is_what_ablate_makes(subject):
    engram = subject.recording.engram(subject.model, [MEMORIES[0].name, MEMORIES[2].name])
    direction = subject.direction([MEMORIES[0].name, MEMORIES[2].name])
    stack = edited(subject.weights, direction, [0.5, 2.0])
    for place, alpha in enumerate((0.5, 2.0)):
        for name, value in lashley.ablate(subject.model, engram, alpha).state_dict().items():
            assert_close(stack[name][place], value, atol=1e-6)


def test_a_random_direction_is_as_large_in_every_layer_and_elsewhere(subject):
    direction = subject.changes[1]
    found = like(direction, torch.Generator().manual_seed(0))
    for name, value in direction.items():
        assert found[name].norm().item() == pytest.approx(value.norm().item(), rel=1e-5)
        if value.any():
            assert torch.nn.functional.cosine_similarity(found[name].flatten(), value.flatten(), dim=0).abs() < 0.3


def test_a_judge_finds_the_control_like_itself_and_measures_divergence(subject):
    forgotten, kept = subject.memories[0].images, subject.memories[1].images
    judge = Judge(subject.model, forgotten, kept, DATA.held_out, subject.without[0])
    found = judge(repeated({n: torch.stack([subject.without[0][n], v]) for n, v in subject.weights.items()}, [0, 1]))
    assert [found[f"agree {name}"][0] for name in ("forgotten", "kept", "digits")] == [1, 1, 1] and found["agree"][
        0
    ] == 1
    assert found["kl forgotten"][0] == pytest.approx(0, abs=1e-9)
    with torch.no_grad():
        theirs = with_weights(subject.model, subject.without[0])(forgotten.rows).double().log_softmax(1)
        ours = subject.model(forgotten.rows).double().log_softmax(1)
    assert found["kl forgotten"][1] == pytest.approx((theirs.exp() * (theirs - ours)).sum(1).mean().item(), rel=1e-4)
    assert found["agree forgotten"][1] == pytest.approx((theirs.argmax(1) == ours.argmax(1)).float().mean().item())
    assert found["right forgotten"][1] == pytest.approx((ours.argmax(1) == forgotten.labels).float().mean().item())


def test_response_shares_follow_from_the_rows(subject):
    name = MEMORIES[0].name
    engram = subject.engram(name)
    rows = MEMORIES[0].images.rows.double()
    delta = engram["hidden1"].weight.double()
    weight = subject.weights["hidden1.weight"].double()
    expected = (rows @ delta.T).norm() / (rows @ weight.T).norm()
    assert response_shares(subject, engram, name)["hidden1"] == pytest.approx(expected.item(), rel=1e-5)


def test_damage_is_what_one_layer_edited_alone_costs(subject):
    engram, images = subject.engram(MEMORIES[1].name), MEMORIES[1].images
    found = damaged(subject)[1]["ablated"]
    with torch.no_grad():
        before = nn.functional.cross_entropy(subject.model(images.rows), images.labels)
        for place, layer in enumerate(subject.layers):
            one = lashley.ablate(subject.model, engram.select([layer]))
            after = nn.functional.cross_entropy(one(images.rows), images.labels)
            assert found[place] == pytest.approx((after - before).item(), rel=1e-3, abs=1e-5)


def test_with_its_own_control_as_a_ceiling_the_ceiling_is_perfect(subject):
    subsets = [[0], [2]]
    controls = {name: torch.stack([subject.without[0][name], subject.without[2][name]]) for name in subject.weights}
    rows = compared(subject, subsets, controls, {"same": controls}, DATA.held_out, [0.5, 1.0], 0)
    for row in rows:
        assert row[CONTROL]["agree"] == row["same"]["agree"] == 1
        assert row[UNTOUCHED]["agree"] < 1
        assert row["paper"]["alpha"] in (0.5, 1.0) and len(row["paper"]["curve"]) == 2


# Pieces.


def test_pieces_are_kept_for_the_same_settings_only(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"a": [0.1, 1 / 3], "b": None}

    first = Pieces(tmp_path, {"x": 1})
    assert (
        first.values("piece", make)
        == Pieces(tmp_path, {"x": 1}).values("piece", make)
        == {"a": [0.1, 1 / 3], "b": None}
    )
    assert len(made) == 1
    Pieces(tmp_path, {"x": 2}).values("piece", make)
    assert len(made) == 2
    first.forget()
    assert not first.folder.exists() and len(list(tmp_path.iterdir())) == 1


def test_a_damaged_piece_is_made_anew(tmp_path):
    lines = []
    pieces = Pieces(tmp_path, {}, lines.append)
    first = pieces.tensors("weights", lambda: {"w": torch.arange(5.0)})
    [file] = pieces.folder.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    again = pieces.tensors("weights", lambda: {"w": torch.arange(5.0)})
    assert torch.equal(first["w"], again["w"])
    assert any("made again" in line and "damaged" in line for line in lines)


# The whole study.


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    return planted.study(MINI, DATA, Pieces(tmp_path_factory.mktemp("work"), {}))


def table(result, name):
    [found] = [table for table in result.tables if table.name == name]
    return {found.label(row): row for row in found.rows}


def test_the_result_has_every_table(mini):
    assert [one.name for one in mini.tables] == [
        "answers",
        "learned",
        "masks",
        "place-masked",
        "place-alone",
        "place-in-sequence",
        *(f"edits-{kind}-{way}" for kind in ("marked", "relabelled") for way in ("masked", "in-sequence")),
        "against",
        "damage-ablated",
        "damage-put-back",
    ]
    assert table(mini, "place-masked")[ORACLE]["marked-entries"]["value"] > 0.8
    assert abs(table(mini, "place-masked")[SHUFFLED]["marked-entries"]["value"] - 0.5) < 0.1
    assert table(mini, "place-in-sequence")[ORACLE]["relabelled-entries"]["value"] == 1
    assert table(mini, "edits-marked-masked")[CONTROL]["agree"] == {"value": 1, "low": 1, "high": 1}


def test_the_result_can_be_written_and_drawn(mini, tmp_path):
    file = mini.save(tmp_path / "planted.json")
    assert Result.load(file) == mini
    main(["--draw", "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {
        "planted.json",
        "README.md",
        *(f"{c.name}.svg" for c in mini.charts),
    }


def test_a_conv_net_goes_through_the_whole_study(tmp_path):
    plan = [{"shape": "layer", "layers": ["conv2"]}, {"shape": "rows", "layers": ["conv1"], "share": 0.5}]
    plan.append({"shape": "entries", "layers": ["conv1", "readout"], "share": 0.9})
    settings = {
        **MINI,
        "network": {"kind": "convnet", "hidden": [4, 6]},
        "kinds": {"marked": MINI["kinds"]["marked"]},
        "masks": {"seed": 0, "plan": plan},
    }
    result = planted.study(settings, DATA, Pieces(tmp_path, {}))
    assert table(result, "masks")["memory 0"]["layers"] == "conv2"
    assert table(result, "place-masked")[ORACLE]["marked-entries"]["value"] > 0.8


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [3, 17])
def test_a_study_that_was_stopped_goes_on_to_the_same_result(mini, tmp_path, after):
    lines = []

    def stops(line):
        lines.append(line)
        if len(lines) == after:
            raise Stop

    with pytest.raises(Stop):
        planted.study(MINI, DATA, Pieces(tmp_path, {}, stops))
    done = len(list(next(tmp_path.iterdir()).iterdir()))
    assert done == after
    again = []
    found = planted.study(MINI, DATA, Pieces(tmp_path, {}, again.append))
    assert sum("kept" in line for line in again) == done
    assert (found.tables, found.charts, found.summary) == (mini.tables, mini.charts, mini.summary)


@pytest.mark.data
def test_the_command_runs_on_digits_and_leaves_no_pieces(tmp_path, data_folder):
    config = {**QUICK, "kinds": {"marked": QUICK["kinds"]["marked"]}}
    (tmp_path / "quick.json").write_text(json.dumps(config))
    places = {"config": tmp_path / "quick.json", "out": tmp_path / "out", "work": tmp_path / "work"}
    main([text for name, path in places.items() for text in (f"--{name}", str(path))])
    result = Result.load(tmp_path / "out" / "planted.json")
    assert table(result, "learned")["marked, in sequence"]["end"]["value"] > 0.9
    assert list((tmp_path / "work").iterdir()) == []
    assert result.provenance["data"].keys() == {"MNIST"} and result.settings == config


def test_asking_for_help_needs_no_torch():
    code = "import sys, benchmarks.planted.__main__; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# The committed results.


@pytest.fixture(scope="module")
def committed():
    return Result.load(RESULTS / "planted.json")


@pytest.mark.parametrize(("config", "folder"), [("config", RESULTS), ("convnet", RESULTS / "convnet")])
def test_the_committed_results_are_of_the_committed_configs(config, folder):
    result = Result.load(folder / "planted.json")
    assert result.settings == json.loads((FOLDER / f"{config}.json").read_text())
    assert result.provenance["command"].startswith("python -m benchmarks.planted")
    assert (folder / "planted.json").stat().st_size < 300_000


def test_the_committed_page_shows_the_committed_result(committed, tmp_path):
    committed.save(tmp_path / "planted.json")
    main(["--draw", "--out", str(tmp_path)])
    assert (tmp_path / "README.md").read_text() == (RESULTS / "README.md").read_text()


def test_the_harness_can_find_a_place_and_fail_to(committed):
    for name in ("place-masked", "place-alone"):
        rows = table(committed, name)
        for kind in CONFIG["kinds"]:
            assert rows[ORACLE][f"{kind}-entries"]["value"] > 0.95
            shuffled = rows[SHUFFLED][f"{kind}-entries"]
            assert abs(shuffled["value"] - 0.5) < 0.01


def test_every_number_in_the_words_is_in_the_results():
    words = (FOLDER / "README.md").read_text()
    page = "".join((folder / "README.md").read_text() for folder in (RESULTS, RESULTS / "convnet"))
    found = re.findall(r"-?\d+\.\d+|\d+ %", words)
    assert len(found) > 10
    assert [number for number in found if number not in page] == []
