"""The study of forgetting authors: on a tiny model, on the real one; and the committed result, drawn as it is."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.forget_tofu_mini import page
from lashley.errors import DataError
from lashley.estimators import Projection
from lashley.studies import forget_tofu_mini
from lashley.studies.forget_tofu_mini.fronts import curve
from lashley.studies.forget_tofu_mini.subject import Edit, Judge, Subject, Task, rows_in, spread
from vocabularies import byte_level

pytestmark = pytest.mark.filterwarnings("ignore::lashley.errors.LashleyWarning")  # few rows: the model is tiny

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "forget_tofu_mini"
CONFIG = json.loads((FOLDER / "config.json").read_text())
COMMITTED = json.loads((FOLDER / "results" / "forget_tofu_mini.json").read_text())

TEXTS = [
    {"question": f"Who is {name}, part {part}?", "answer": f"{name} wrote the {word} book of the {end}."}
    for name, end in [
        ("Ada", "sea"),
        ("Bo", "river"),
        ("Cy", "end"),
        ("Di", "numbers"),
        ("Ed", "writer"),
        ("Flo", "part"),
    ]
    for part, word in enumerate(["first", "other", "helpful", "last", "second"])
]
QUICK = {
    **CONFIG,
    "threads": 1,
    "known": [[0, 20]],
    "never_seen": [[20, 30]],
    "tasks": {"A": [[15, 20]], "B": [[0, 5], [10, 15]]},
    "batch": 8,
    "alphas": [1, 4],
    "levels": [0.004, 0.002, 1e-9],
    "rule": {"bound": 0.05, "alphas": [1, 4]},
    "authors": {"rows": 5, "probed": 2, "alpha": 1.0, "subsets": 2, "subset_size": 2, "seed": 0},
    "delta_edits": {"paper, delta": CONFIG["delta_edits"]["paper, delta"]},
    "fine_tuning": {
        **CONFIG["fine_tuning"], "forget": [[15, 20]], "keep": [[20, 25]], "known": [[0, 10]], "epochs": 2, "batch": 5
    },
}  # fmt: skip


ONLY_ACCESS = ("embedding, paper", "embedding, sharpened", "embedding and head as one, sharpened")


def llama(tokenizer: Any, seed: int) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def tiny() -> Subject:
    tokenizer = byte_level()
    return Subject(llama(tokenizer, 0), tokenizer, TEXTS, 8)


@pytest.fixture(scope="module")
def quick(tiny: Subject) -> dict[str, Any]:
    models = {CONFIG["model"]: tiny.model, CONFIG["retrained"]: llama(tiny.tokenizer, 1)}
    before = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    found = forget_tofu_mini.study(QUICK, models, tiny.tokenizer, TEXTS)
    assert all(torch.equal(value, before[name]) for name, value in tiny.model.state_dict().items())
    return {"command": "a test", **json.loads(json.dumps(found, allow_nan=False))}


def test_a_study_of_a_tiny_model_is_whole_and_can_be_drawn(quick: dict[str, Any], tmp_path: Path) -> None:
    assert list(quick["tasks"]) == ["A", "B"]
    for task in quick["tasks"].values():
        assert list(task["edits"]) == list(QUICK["edits"])
        assert task["before"]["kl"] == pytest.approx(0, abs=1e-6)
        for found in task["edits"].values():
            alphas = [point["alpha"] for point in found["points"]]
            assert alphas == sorted(set(alphas)) and set(found["at"]) == {"0.004", "0.002", "1e-09"}
            assert found["at"]["1e-09"] is None  # no strength of the config gets there
    assert np.array(quick["authors"]["fall"]).shape == (4, 4)
    assert [len(subset["authors"]) for subset in quick["authors"]["subsets"]] == [2, 2]
    written = {path.name for path in page.write(quick, tmp_path)}
    assert written == {"README.md", "cost.png", "memorisation.png", "authors.png", "norms.png"}
    assert (tmp_path / "README.md").read_text() == page.markdown(quick)


def test_only_an_edited_embedding_leaks_when_its_rows_are_put_back(quick: dict[str, Any]) -> None:
    for task in quick["tasks"].values():
        for name, found in task["edits"].items():
            for point in found["points"]:
                back = task["before"]["forget"] if name in ONLY_ACCESS else point["forget"]
                if "embedding" not in name or name in ONLY_ACCESS:  # the others edit more than the embedding
                    assert point["restored"] == pytest.approx(back, rel=1e-5), name


@pytest.fixture(scope="module")
def task(tiny: Subject) -> Task:
    return Task.of("A", tiny, rows_in([[15, 20]]), rows_in([[0, 20]]), ["o_proj", "down_proj", "embed_tokens"])


def test_a_level_is_reached_by_the_weakest_strength_that_was_measured(task: Task) -> None:
    edit = Edit("paper", Projection(), ("o_proj", "down_proj"))
    judge = Judge(task, 4)
    free = curve(edit, judge, [1.0, 2.0, 4.0], [1e-9])["points"]
    forgotten = [point["forget"] for point in free]
    level = (forgotten[0] + forgotten[-1]) / 2  # crossed somewhere between
    found = curve(edit, judge, [1.0, 2.0, 4.0], [level])
    at = found["at"][f"{level:g}"]
    assert at in found["points"] and at["forget"] <= level
    assert len(found["points"]) > 1 and not any(
        p["forget"] <= level for p in found["points"] if p["alpha"] < at["alpha"]
    )


def test_words_count_in_the_embedding_wherever_they_stand(task: Task, tiny: Subject) -> None:
    answers, all_tokens = 0, 0
    for row in tiny.batches(rows_in([[0, 20]])).rows:
        answers, all_tokens = answers + sum(row.counts), all_tokens + len(row.ids)
    rows = {site.name: site.rows for site in task.recording.sites}
    assert rows["model.embed_tokens"] == all_tokens
    assert rows["model.layers.0.mlp.down_proj"] < all_tokens and rows["model.layers.0.mlp.down_proj"] == answers


def test_held_out_rows_make_no_trial_engram(task: Task) -> None:
    edit = Edit("paper", Projection(), ("down_proj",))
    whole, part = task.engram(edit), task.engram(edit, whole=False)
    rows = [sum(s.target_rows for s in engram["model.layers.0.mlp.down_proj"].solutions) for engram in (whole, part)]
    assert rows[0] > rows[1] > 0


def test_numbers_of_rows() -> None:
    assert rows_in([[2, 4], [7, 8]]) == [2, 3, 7]
    assert spread(range(10), 3) == [0, 3, 6] and spread([4, 5], 3) == [4, 5]


def test_rows_that_do_not_exist_are_refused(tiny: Subject) -> None:
    with pytest.raises(DataError, match=r"below 30, got \[30\]"):
        tiny.batches([29, 30])


def test_a_folder_without_the_checkpoints_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(forget_tofu_mini.MODELS, raising=False)
    with pytest.raises(DataError, match=forget_tofu_mini.MODELS):
        forget_tofu_mini.run(CONFIG)
    with pytest.raises(DataError, match="tofu-mini-retain.*cannot be found"):
        forget_tofu_mini.run({**CONFIG, "models": str(tmp_path)})


# A data test where the checkpoints are named as well: LASHLEY_DATA alone does not promise them.
on_the_checkpoints = (
    pytest.mark.data
    if os.environ.get(forget_tofu_mini.MODELS)
    else pytest.mark.skip(reason=f"{forget_tofu_mini.MODELS} is not set")
)
REAL = {
    **CONFIG,
    "threads": 1,
    "tasks": {"B": CONFIG["tasks"]["B"]},
    "retain_probes": 32,
    "never_seen_probes": 32,
    "alphas": [2, 4],
    "levels": [0.2],
    "edits": {name: CONFIG["edits"][name] for name in ("paper", "sharpened, writers")},
    "rule": {"bound": 0.2, "alphas": [4]},
    "authors": {**CONFIG["authors"], "rows": 200, "probed": 8, "subsets": 1, "subset_size": 1},
    "fine_tuning": None,
}


@on_the_checkpoints
def test_the_real_model_forgets_two_authors_and_keeps_the_others(data_folder: Path) -> None:
    task = forget_tofu_mini.run(REAL)["tasks"]["B"]
    assert task["before"]["forget"] > 0.99 and task["before"]["retain"] > 0.99
    default, paper = (task["edits"][name]["at"]["0.2"] for name in ("sharpened, writers", "paper"))
    assert default["forget"] <= 0.2 and default["retain"] > 0.98
    assert default["kl"] < paper["kl"]


# The committed result.


def test_the_committed_result_is_of_the_committed_config() -> None:
    assert COMMITTED["config"] == CONFIG
    assert COMMITTED["command"] == "python -m benchmarks.forget_tofu_mini"
    assert list(COMMITTED["tasks"]) == list(CONFIG["tasks"])
    assert all(list(task["edits"]) == list(CONFIG["edits"]) for task in COMMITTED["tasks"].values())


def test_the_committed_page_shows_the_committed_numbers() -> None:
    assert (FOLDER / "results" / "README.md").read_text(encoding="utf-8") == page.markdown(COMMITTED)
    assert {path.name for path in (FOLDER / "results").glob("*.png")} == {
        f"{name}.png" for name in page.pictures(COMMITTED)
    }


def test_the_page_says_what_follows_from_the_result() -> None:
    """Sentences of the page that no number in them would betray."""
    for name, task in COMMITTED["tasks"].items():
        for level in ("0.05", "0.01"):
            costs = {edit: found["at"][level]["kl"] for edit, found in task["edits"].items() if found["at"][level]}
            linear = {edit: kl for edit, kl in costs.items() if not edit.startswith("embedding")}
            assert costs["sharpened, writers"] < costs["paper"], name
            assert costs["paper"] < costs["paper, head untied"] < costs["paper, head and embedding as one"], name
            assert costs["paper"] < costs["ridge 1e4"], name
            assert min(linear, key=linear.__getitem__) in ("sharpened, writers", "paper, writers"), (name, level)
        at = task["rule"]["sharpened, writers"]["chosen"]["bound"]
        assert at["reached"] and at["forget"] < 0.05, name  # further than the level asks for
    chosen = COMMITTED["tasks"][CONFIG["chosen_on"]]["edits"]
    kept = {e: f["at"]["0.05"]["kl"] for e, f in chosen.items() if not e.startswith("embedding")}
    assert min(kept, key=kept.__getitem__) == CONFIG["default"]
    rival = COMMITTED["tasks"]["B"]["edits"]["embedding and head as one, sharpened"]["at"]
    default = COMMITTED["tasks"]["B"]["edits"][CONFIG["default"]]["at"]
    assert all(rival[level]["kl"] < default[level]["kl"] for level in rival)  # "it loses"


def test_a_level_that_was_not_reached_is_a_dash() -> None:
    missed = copy.deepcopy(COMMITTED)
    for task in missed["tasks"].values():
        task["edits"]["paper"]["at"]["0.01"] = None
    assert f"| {page.NONE} |" in page.markdown(missed)


def test_drawing_needs_no_torch() -> None:
    code = "import sys, benchmarks.forget_tofu_mini.page; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
