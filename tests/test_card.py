"""Model cards: what the folder says about itself, and nothing of the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import language
import lashley
from editing import engram_of
from lashley.errors import StoreError
from lashley.export import model_card, rewrite_checkpoint, save_lora
from lashley.store import Reader


@pytest.fixture
def source(tmp_path: Path) -> Path:
    language.llama(torch.bfloat16, True).save_pretrained(tmp_path / "source")
    card = "---\nlicense: other\nlicense_link: LICENSE\nlanguage:\n- en\ntags:\n- chat\n---\n# A model\n"
    (tmp_path / "source" / "README.md").write_text(card)
    return tmp_path / "source"


def engram() -> lashley.Engram:
    return engram_of(language.llama(torch.bfloat16, True), "model.layers.0.mlp.up_proj", "lm_head", rank=2)


def parts(card: Path) -> tuple[dict[str, Any], str]:
    front, _, body = card.read_text().removeprefix("---\n").partition("\n---\n")
    return yaml.safe_load(front), body


def test_the_card_of_a_checkpoint(source: Path, tmp_path: Path) -> None:
    rewrite_checkpoint(source, engram(), tmp_path / "out", alpha=0.5, tied="untie")
    card = model_card(
        tmp_path / "out",
        base_model="owner/name",
        title="A model that forgot",
        data={"forget": {"rows": 40, "fingerprint": "1f2e"}, "retain": {"rows": 400}},
        metrics={"answer probability, forget": {"before": 0.9871, "after": 0.0213}, "KL, retain": {"after": 1e-3}},
        limits=("Tested in English only.",),
    )
    front, body = parts(card)
    assert front == {
        "base_model": "owner/name",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "license": "other",
        "license_link": "LICENSE",
        "tags": ["lashley", "unlearning", "model-editing"],
    }
    for text in (
        "# A model that forgot\n",
        "A copy of its base with the memory of cat taken out, in closed form",
        "`W - alpha E` in 2 layers",
        "- strength: 0.5\n",
        "- estimator: `Projection(sharpness=1.0, threshold=0.5, cut=Cut())`\n",
        "its weights are those the engram was solved for",
        engram().base_fingerprint,
        "but for what untying added: lm_head.weight added",
        f"torch {torch.__version__}",
        "| forget | 40 | 1f2e |\n",
        "| retain | 400 |  |\n",
        "| answer probability, forget | 0.9871 | 0.0213 |\n",
        "| KL, retain |  | 0.001 |\n",
        "- Tested in English only.\n",
        "no guarantee",
    ):
        assert text in body, text
    assert "\n\n\n" not in body


def test_the_card_of_an_adapter(source: Path, tmp_path: Path) -> None:
    save_lora(
        engram(), tmp_path / "out", base=source, inject=True, alpha={"lm_head": 1.0, "model.layers.0.mlp.up_proj": 2.0}
    )
    front, body = parts(model_card(tmp_path / "out"))
    assert front["library_name"] == "peft" and "lora" in front["tags"] and "base_model" not in front
    for text in (
        "# out\n",
        "this adapter puts the memory of cat in once more",
        "`W + alpha E` in 1 layers",
        "rank 8, float32, without loss",
        "- not edited, because the weight is tied to another: lm_head\n",
        "was not measured.",
    ):
        assert text in body, text
    save_lora(engram(), tmp_path / "cut", rank=1, base="owner/name")
    front, body = parts(model_card(tmp_path / "cut"))
    assert front["base_model"] == "owner/name" and front["base_model_relation"] == "adapter"
    assert "cut; the largest error of a layer is" in body


def test_the_folder_stays_whole_and_ours(source: Path, tmp_path: Path) -> None:
    save_lora(engram(), tmp_path / "out")
    before = json.loads((tmp_path / "out" / "manifest.json").read_text())
    for title in ("one", "two"):
        model_card(tmp_path / "out", title=title)
    reader = Reader(tmp_path / "out", "LoRA adapter", 1)
    for file in reader.checksums:
        reader.check(file)
    assert set(reader.checksums) == {*before["files"], "README.md"}
    assert {**reader.manifest, "files": 0} == {k: v for k, v in {**before, "files": 0}.items() if k != "checksum"}
    save_lora(engram(), tmp_path / "out")  # and may be replaced
    assert not (tmp_path / "out" / "README.md").exists()


def test_other_folders_get_no_card(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"with no manifest.json. Ship the edit first"):
        model_card(tmp_path)
    engram().save(tmp_path / "engram")
    with pytest.raises(StoreError, match="got .* with engram"):
        model_card(tmp_path / "engram")
    assert not list(tmp_path.rglob("README.md"))
