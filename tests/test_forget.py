"""``lashley forget``, from a folder and two files to a folder: forms, strengths, what is reused, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lashley
from lashley.cli import main
from lashley.cli.forget import PRESETS
from lashley.data.text import text_batches
from lashley.errors import EditError, ModelError
from lashley.forgetting import job as module
from lashley.metrics import answers
from lashley.report import forgetting as page
from test_language_models import build
from vocabularies import byte_level

OUT, DOWN = "self_attn.o_proj", "mlp.down_proj"
WORDS = ["red", "blue", "green", "old", "new", "big", "small", "north", "south", "river", "house", "book"]
pytestmark = pytest.mark.filterwarnings("ignore:Fewer than 2 rows per column")


def rows(first: int, count: int) -> list[dict[str, str]]:
    """Questions about a number, each with an answer of its own."""
    return [
        {
            "question": f"What is {n}?",
            "answer": f"{n} is {WORDS[n % 12]} {WORDS[n * 5 % 11]} and {WORDS[n * 7 % 12]}.",
        }
        for n in range(first, first + count)
    ]


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that knows 30 answers by heart, and files of what to forget and to keep."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("forget")
    tokenizer = byte_level()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
            bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )
    )  # fmt: skip
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    batches = text_batches(rows(0, 30), tokenizer, 30)
    for _ in range(120):
        for batch in batches:
            optimiser.zero_grad()
            model(**batch).loss.backward()
            optimiser.step()
    model.eval().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for name, some in (("forget", rows(0, 6)), ("retain", rows(6, 24)), ("unseen", rows(100, 8))):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in some) + "\n")
    return folder


@pytest.fixture(autouse=True)
def inside(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(there)


def forget(*more: str, out: str, sets: tuple[str, str] = ("forget.jsonl", "retain.jsonl")) -> int:
    what = ["--model", "model", "--forget", sets[0], "--retain", sets[1], "--tied", "untie"]
    return main(["forget", *what, "--out", out, "--recording", "kept", *more])


def report(out: str) -> Any:
    return json.loads((Path(out) / "forgetting.json").read_text())


def score(model: nn.Module, name: str) -> float:
    return answers(model, text_batches(f"{name}.jsonl", byte_level())).means()["probability"]


def loaded(folder: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def test_a_checkpoint_that_has_forgotten(capsys: pytest.CaptureFixture[str]) -> None:
    assert forget("--never-seen", "unseen.jsonl", out="gone") == 0
    told = report("gone")
    model, original = loaded("gone"), loaded("model")
    assert score(original, "forget") > 0.8 and score(original, "retain") > 0.8
    assert score(model, "forget") == pytest.approx(told["measures"]["forget"]["after"]["probability"], rel=1e-4)
    assert score(model, "forget") < 0.5 and score(model, "forget") < 0.8 * score(model, "retain")
    assert told["verified"]["logits_off_by"] < 1e-6
    assert told["measures"]["retain"]["before"]["kl"] == pytest.approx(0, abs=1e-6)
    assert told["measures"]["retain"]["after"]["kl"] > 0
    assert {"forget", "retain", "never seen"} == set(told["sets"]) == set(told["samples"])
    assert [len(told["samples"][name]) for name in told["samples"]] == [3, 3, 3]
    assert all(row["before"] != "" for row in told["samples"]["retain"])
    assert told["front"]["points"][told["front"]["suggested"]]["alpha"] == told["alpha"]
    edited = {layer["name"] for layer in told["receipt"]["layers"]}
    assert edited == {f"model.layers.{k}.{n}" for k in (0, 1) for n in (OUT, DOWN)}
    assert set(told["weight_norms"]) > edited and "lm_head" in told["weight_norms"]  # the map shows what stayed as well
    assert model.config.tie_word_embeddings  # the head is not among what was edited, so nothing had to be untied
    shown = capsys.readouterr()
    assert "forget" in shown.out and "recording ..." in shown.err
    card = (Path("gone") / "README.md").read_text()
    assert "answer probability" in card and told["sets"]["forget"]["fingerprint"] in card
    assert "What is" not in card  # never the data
    html = (Path("gone") / page.PAGE).read_text()
    assert "What the model has forgotten" in html and "http" not in html.replace("http://www.w3.org", "")


def test_the_recording_is_read_again_and_another_point_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    from lashley import subject

    original = subject.call
    monkeypatch.setattr(subject, "call", lambda *args: (passes.append(1), original(*args))[1])
    assert forget("--point", "7", out="seventh") == 0
    assert not passes
    told = report("seventh")
    assert told["alpha"] == told["front"]["points"][7]["alpha"] and told["alpha_from"] == "point 7 of the front"


def test_an_adapter_reproduces_the_edit() -> None:
    peft = pytest.importorskip("peft")
    assert forget("--alpha", "1.5", "--form", "lora", out="adapter") == 0
    assert forget("--alpha", "1.5", out="whole") == 0
    told = report("adapter")
    adapted = peft.PeftModel.from_pretrained(loaded("model"), "adapter").eval()
    batch = next(iter(text_batches("forget.jsonl", byte_level())))
    with torch.no_grad():
        one, two = adapted(**batch).logits, loaded("whole")(**batch).logits
    assert told["plan"]["form"] == "lora" and told["alpha"] == 1.5
    assert told["receipt"]["lossless"] is False  # the rows of six answers are more than the columns
    off = ((one - two).abs().max() / two.abs().max()).item()
    assert off == pytest.approx(told["verified"]["logits_off_by"], rel=0.05) and off < 0.15
    assert "cutting it to that rank left out" in (Path("adapter") / page.PAGE).read_text()


def test_a_head_of_its_own_where_it_is_edited() -> None:
    pytest.importorskip("peft")
    assert forget("--alpha", "0.5", "--layers", ".*", out="untied") == 0
    assert not loaded("untied").config.tie_word_embeddings
    assert forget("--alpha", "0.5", "--layers", ".*", "--form", "lora", out="untied-adapter") == 0


def test_json_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert forget("--alpha", "1", "--json", out="spoken") == 0
    assert json.loads(capsys.readouterr().out)["alpha"] == 1


@pytest.mark.parametrize(
    ("more", "where", "expected"),
    [
        (("--sharpness", "3"), ("plan", "estimator", "sharpness"), 3.0),
        (("--threshold", "0.3"), ("plan", "estimator", "threshold"), 0.3),
        (("--rtol", "0.01"), ("plan", "estimator", "cut", "rtol"), 0.01),
        (("--strength", "weight-norm"), ("plan", "strength"), "weight-norm"),
        (("--tied", "skip"), ("plan", "tied"), "skip"),
        (("--layers", ".*"), ("plan", "edited"), ".*"),
        (("--layers", "q_proj", "up_proj"), ("plan", "edited"), ["q_proj", "up_proj"]),
        ((), ("plan", "edited"), ["o_proj", "down_proj"]),
        (("--level", "0.3"), ("plan", "level"), 0.3),
        (("--probes", "4"), ("plan", "probes"), 4),
        (("--batch-size", "5", "--recording", "by-five"), ("plan", "batch_size"), 5),
        (("--max-length", "40"), ("plan", "texts", "max_length"), 40),
        (("--auto",), ("alpha_from",), "point"),
    ],
)
def test_what_an_option_says_is_done(more: tuple[str, ...], where: tuple[str, ...], expected: object) -> None:
    shutil.rmtree("optional", ignore_errors=True)
    assert forget(*more, out="optional") == 0
    found = report("optional")
    for key in where:
        found = found[key]
    assert found == expected or str(found).startswith(str(expected))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_the_paper_s(preset: str) -> None:
    assert forget("--preset", preset, "--recording", f"kept-{preset}", out=preset) == 0
    plan = report(preset)["plan"]
    assert (plan["estimator"]["sharpness"], plan["estimator"]["threshold"]) == (1.0, 0.5)
    assert (plan["strength"], plan["alpha"]) == {"paper-uniform": ("uniform", 0.6)}.get(preset, ("weight-norm", 1.0))
    layers = {layer["name"].rpartition(".")[2] for layer in report(preset)["receipt"]["layers"]}
    assert (layers == {"q_proj", "k_proj", "gate_proj"}) == (preset == "qk-gate")


def test_a_level_that_no_strength_reaches_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert forget("--level", "1e-30", out="deep") == 0
    assert "No strength of the front makes held-out rows as improbable as 1e-30" in capsys.readouterr().err
    assert report("deep")["front"]["reached"] is False
    assert "no strength of the front" in (Path("deep") / page.PAGE).read_text()


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (("--preset", "qk-gate", "--alpha", "2"), 2, "leave out what else says so"),
        (("--preset", "qk-gate", "--target-modules", "q_proj"), 2, "leave out --target-modules"),
        (("--alpha", "-1"), 2, "--alpha is a number above 0"),
        (("--level", "nan"), 2, "--level is a number above 0"),
        (("--point", "99"), 1, "Expected the number of a point of the front, 1 to 12, got 99"),
        (("--model", "nowhere"), 1, "Expected a checkpoint folder"),
        (("--target-modules", "no_proj"), 1, "no_proj"),
    ],
)
def test_what_is_refused(more: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert forget(*more, out="refused") == code
    assert message in capsys.readouterr().err
    assert not Path("refused").exists() and not Path("refused.unverified").exists()


def test_sets_that_are_the_same_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert forget("--recording", "other", out="refused", sets=("forget.jsonl", "forget.jsonl")) == 1
    assert "the same" in capsys.readouterr().err
    assert not Path("refused").exists() and not Path("other").exists()


def test_a_folder_that_exists_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    (Path("mine") / "notes.txt").write_text("mine")
    assert forget(out="mine") == 1
    assert [path.name for path in Path("mine").iterdir()] == ["notes.txt"]


def test_a_recording_of_other_texts_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert forget(out="refused", sets=("unseen.jsonl", "retain.jsonl")) == 1
    assert "kept" in capsys.readouterr().err
    assert not Path("refused").exists()


def test_files_that_compute_something_else_do_not_appear(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    honest = module.rewrite_checkpoint

    def halved(source: Path, engram: Any, folder: Path, *, alpha: Any, **more: Any) -> Any:
        return honest(source, 0.5 * engram, folder, alpha=alpha, **more)

    monkeypatch.setattr(module, "rewrite_checkpoint", halved)
    assert forget("--alpha", "1", out="wrong") == 1
    assert "logits that are off by" in capsys.readouterr().err
    assert not Path("wrong").exists() and not Path("wrong.unverified").exists()


def test_a_disk_that_fills_up_leaves_nothing(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "amend", full)
    assert forget("--alpha", "1", out="full") == 1
    assert "No space left" in capsys.readouterr().err
    assert not Path("full").exists() and not Path("full.unverified").exists()


def test_what_a_killed_run_left_is_written_anew() -> None:
    shutil.copytree("model", "after.unverified")
    (Path("after.unverified") / "half.safetensors").write_text("half")
    assert forget("--alpha", "1", out="after") == 0
    assert not (Path("after") / "half.safetensors").exists() and not Path("after.unverified").exists()


@pytest.mark.parametrize("family", ["t5", "bert"])
def test_other_models_are_refused(family: str) -> None:
    with pytest.raises(ModelError, match="Expected a causal language model, got"):
        module.Job(build(family), Path("model"), {}, byte_level(), module.Plan(), loaded)


def test_nothing_to_forget() -> None:
    """Where no strength is better than none, that is said rather than done."""
    untouched = lashley.forgetting.Point(0, 0.0, 0.1, 0.1, 0.9, 0.9, 0.0)
    job = object.__new__(module.Job)
    job.plan = module.Plan(level=0.2)
    with pytest.raises(EditError, match="Expected something to forget"):
        job._check(untouched, untouched, True)


def test_the_page_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys; from lashley.report import forgetting; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_norm_map_has_a_cell_per_layer() -> None:
    norms = {"model.layers.0.self_attn.q_proj": 0.1, "model.layers.0.mlp.up_proj": 0.2, "lm_head": 0.3}
    figure = page.norm_map({**norms, "model.layers.1.self_attn.q_proj": 0.4})
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["10", "20", "30", "40"]
