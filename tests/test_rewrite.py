"""Checkpoints rewritten file by file: the bits of an edit in memory, every other byte as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

import language
import lashley
from editing import engram_of
from lashley.export import rewrite_checkpoint

MODELS = {
    "llama": language.llama,
    "llama tied": lambda dtype: language.llama(dtype, True),
    "qwen": language.qwen,
    "gpt2": language.gpt2,
}


def saved(model: Any, folder: Path, size: str = "20kB") -> Path:
    model.save_pretrained(folder, max_shard_size=size)
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "LICENSE").write_text("as is")
    (folder / "README.md").write_text("about the model before")
    return folder


def loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), "pt") as content:
            found |= {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    return found


def linear(model: nn.Module) -> list[str]:
    return [n for n, m in model.named_modules() if type(m).__name__ in ("Linear", "Conv1D") and "lm_head" not in n]


@pytest.mark.parametrize("tied", ["skip", "untie", "both"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_rewritten_checkpoint_is_the_edited_model(make: Any, dtype: torch.dtype, tied: str, tmp_path: Path) -> None:
    model = make(dtype)
    source = saved(model, tmp_path / "source")
    engram = engram_of(model, *linear(model), "lm_head", rank=3, scale=0.02)
    receipt = rewrite_checkpoint(source, engram, tmp_path / "out", alpha=0.5, tied=tied)
    edited = lashley.ablate(model, engram, 0.5, tied=tied)
    found = loaded(tmp_path / "out")
    assert found.state_dict().keys() == edited.state_dict().keys()
    assert all(torch.equal(value, edited.state_dict()[name]) for name, value in found.state_dict().items())
    expected = lashley.ablate_(model, engram, 0.5, tied=tied)
    notes = {name: change.note for name, change in receipt.layers.items() if "added" in change.note}
    assert (notes != {}) == (bool(expected.layers["lm_head"].note) and tied == "untie")
    rows = [{**row, "note": ""} for row in receipt.to_dict()["layers"]]
    assert rows == [{**row, "note": ""} for row in expected.to_dict()["layers"]]
    assert receipt.base_matches
