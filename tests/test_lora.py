"""LoRA adapters: what peft makes of them is the edit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

import language
import lashley
from helpers import assert_near
from lashley.export import save_lora

# peft asks transformers 5 for a property that has been given another name; nothing of ours is involved.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def adapted(model: nn.Module, *folders: Path) -> Any:
    """A copy of the model with the adapters, as peft loads them; all of them active."""
    from peft import PeftModel

    loaded = PeftModel.from_pretrained(copy.deepcopy(model), folders[0], adapter_name="0")
    for number, folder in enumerate(folders[1:], start=1):
        loaded.load_adapter(folder, adapter_name=str(number))
    loaded.base_model.set_adapter([str(number) for number in range(len(folders))])
    return loaded


def assert_edit(found: Tensor, edited: Tensor, before: Tensor, rel: float = 1e-5) -> None:
    """The change of the logits is that of the edit, and there is one."""
    assert (edited - before).norm() > 0.01 * before.norm()
    assert_near(found - before, edited - before, rel=rel)


def test_a_thin_engram_is_an_adapter_without_loss(tmp_path: Path) -> None:
    model = language.llama()
    engram = language.recorded(model).engram(model, "one")
    report = save_lora(engram, tmp_path / "adapter")
    assert report.lossless and report.rank == 8 and report.error < 1e-6
    edited = language.logits(lashley.ablate(model, engram))
    assert_edit(language.logits(adapted(model, tmp_path / "adapter")), edited, language.logits(model))
