"""LoRA adapters: what peft makes of them is the edit."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import language
import lashley
from editing import engram_of, randomised
from helpers import assert_near, gaussian
from lashley.engram import Delta
from lashley.errors import EditError, LashleyWarning, ModelError, StoreError
from lashley.export import Adapted, Source, lora, save_lora
from lashley.layers import describe

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


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed but the targeted layer")
@pytest.mark.parametrize("make", [language.llama, language.qwen, language.gpt2])
@pytest.mark.parametrize("concept", ["one", "many"])
def test_what_peft_loads_is_the_edit(make: Any, concept: str, tmp_path: Path) -> None:
    model = make()
    engram = language.recorded(model).engram(model, concept)
    report = save_lora(engram, tmp_path / "adapter", base=model, energy=1.0)
    assert report.lossless and report.error < 1e-6
    assert report.bias == (make is not language.llama)
    edited = lashley.ablate(model, engram)
    assert_edit(language.logits(adapted(model, tmp_path / "adapter")), language.logits(edited), language.logits(model))
    tied = make is language.gpt2
    assert [n for n, one in report.layers.items() if one.status == "skipped"] == (["lm_head"] if tied else [])


def test_merging_gives_the_edited_weights(tmp_path: Path) -> None:
    model = language.gpt2()
    engram = language.recorded(model).engram(model, "one")
    save_lora(engram, tmp_path / "adapter", base=model, inject=True)
    merged = adapted(model, tmp_path / "adapter").merge_and_unload().state_dict()
    for name, value in lashley.inject(model, engram).state_dict().items():
        assert_near(merged[name], value, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_in_bfloat16(dtype: torch.dtype, tmp_path: Path) -> None:
    model = language.llama(torch.bfloat16)
    engram = language.recorded(model).engram(model, "one")
    report = save_lora(engram, tmp_path / "adapter", dtype=dtype)
    assert report.lossless and (report.error < 1e-6) == (dtype == torch.float32) and report.error < 2e-2
    exact = model.float()
    found = language.logits(adapted(exact, tmp_path / "adapter"))
    edited = language.logits(lashley.ablate(exact, engram))
    assert_edit(found, edited, language.logits(exact), rel=1e-5 if dtype == torch.float32 else 3e-2)


def test_strengths_go_into_the_adapter_and_lora_alpha_scales_them(tmp_path: Path) -> None:
    model = language.llama()
    engram = language.recorded(model).engram(model, "one")
    alpha = lashley.strength.weight_norm(1.5)
    report = save_lora(engram, tmp_path / "adapter", alpha=alpha)
    assert {name: layer.alpha for name, layer in report.layers.items()} == alpha(engram)
    before = language.logits(model)
    edited = language.logits(lashley.ablate(model, engram, alpha))
    assert_edit(language.logits(adapted(model, tmp_path / "adapter")), edited, before)
    config = tmp_path / "adapter" / "adapter_config.json"
    values = json.loads(config.read_text())
    assert values["lora_alpha"] == values["r"] == report.rank
    config.write_text(json.dumps({**values, "lora_alpha": 2 * values["r"]}))
    edited = language.logits(lashley.ablate(model, engram, lashley.strength.weight_norm(3.0)))
    assert_edit(language.logits(adapted(model, tmp_path / "adapter")), edited, before)


def test_layers_of_strength_zero_are_left_out(tmp_path: Path) -> None:
    model = language.llama()
    engram = language.recorded(model).engram(model, "one")
    alpha = {**dict.fromkeys(engram, 0.0), "lm_head": 1.0}
    report = save_lora(engram, tmp_path / "adapter", alpha=alpha)
    assert {layer.status for layer in report.layers.values()} == {"adapted", "empty"}
    assert set(load_file(tmp_path / "adapter" / "adapter_model.safetensors")) == {
        "base_model.model.lm_head.lora_A.weight",
        "base_model.model.lm_head.lora_B.weight",
    }
    with pytest.raises(EditError, match="Expected a layer to change, got none"):
        save_lora(engram, tmp_path / "nothing", alpha=0.0)


def test_several_adapters_are_the_edit_of_several_concepts(tmp_path: Path) -> None:
    model = language.llama()
    recording = language.recorded(model)
    engrams = [recording.engram(model, concept) for concept in ("one", "two")]
    folders = [tmp_path / "one", tmp_path / "two"]
    for engram, folder in zip(engrams, folders, strict=True):
        save_lora(engram, folder)
    before, edited = language.logits(model), language.logits(lashley.ablate(model, engrams[0] + engrams[1]))
    loaded = adapted(model, *folders)
    assert_edit(language.logits(loaded), edited, before)
    loaded.add_weighted_adapter(["0", "1"], [1.0, 1.0], "both", combination_type="cat")
    loaded.set_adapter("both")
    assert_edit(language.logits(loaded), edited, before)


class Pictures(nn.Module):
    """Convolutions of several kinds and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.point = nn.Conv2d(6, 8, 1, bias=False)
        self.line = nn.Conv1d(8, 5, 3, padding=1)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.point(self.wide(x).relu()).relu()
        return self.head(self.line(x.flatten(2)).relu().mean(2))


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed but the targeted layer")
def test_convolutions(tmp_path: Path) -> None:
    model = randomised(Pictures())
    engram = engram_of(model, scale=0.3)
    report = save_lora(engram, tmp_path / "adapter", base=model, energy=1.0)
    assert report.bias and report.lossless and report.error < 1e-6
    x = gaussian(4, 3, 8, 8).float()
    with torch.no_grad():
        found, edited, before = adapted(model, tmp_path / "adapter")(x), lashley.ablate(model, engram)(x), model(x)
    assert_edit(found, edited, before)


def test_embeddings(tmp_path: Path) -> None:
    model = language.llama()
    batches = {"one": [{"input_ids": language.tokens(1, 5, 1)}], "many": [{"input_ids": language.tokens(20, 16, 3)}]}
    recording = lashley.record(model, batches, target_modules=["embed_tokens", "q_proj"], progress=False)
    engram = recording.engram(model, "one")
    report = save_lora(engram, tmp_path / "adapter", energy=1.0)
    assert report.layers["model.embed_tokens"].rank == 5  # tokens that were seen
    edited = language.logits(lashley.ablate(model, engram))
    assert_edit(language.logits(adapted(model, tmp_path / "adapter")), edited, language.logits(model))


# What is cut.


def test_the_error_of_a_cut_is_stated(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(40, 30, bias=False), nn.Linear(30, 50, bias=False))
    engram = engram_of(model)
    report = save_lora(engram, tmp_path / "adapter", energy=0.6)
    found = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert report.rank == 16 and not report.lossless
    for name, layer in report.layers.items():
        a, b = (found[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "AB")
        assert a.shape[0] == b.shape[1] == report.rank
        delta = engram[name].weight.double()
        error = (b @ a + delta).norm() / delta.norm()
        assert layer.error == pytest.approx(error.item(), rel=1e-5)
        assert 0.1 < layer.error < 0.4**0.5
        values = torch.linalg.svdvals(delta)
        best = (values[layer.rank :].norm() / values.norm()).item()
        assert layer.error == pytest.approx(best, abs=1e-6)
        assert layer.rank == min(delta.shape[0], delta.shape[1], report.rank)


def test_a_rank_of_ones_own(tmp_path: Path) -> None:
    model = language.llama()
    engram = language.recorded(model).engram(model, "one")
    report = save_lora(engram, tmp_path / "adapter", rank=3)
    assert report.rank == 8 and {layer.rank for layer in report.layers.values()} == {3}
    assert not report.lossless and 0.01 < report.error < 1
    found = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(t.norm(dim=1)[3:].max() == 0 for name, t in found.items() if "lora_A" in name)


@pytest.mark.parametrize(("needed", "given"), [(1, 1), (2, 8), (8, 8), (9, 16), (33, 64), (300, 320), (321, 512)])
def test_ranks_are_those_that_engines_take(needed: int, given: int) -> None:
    assert lora._allowed(needed, 512) == given


def test_a_rank_above_the_limit(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(40, 40, bias=False))
    thin, dense = engram_of(model, rank=20), engram_of(model)
    with pytest.raises(EditError, match=r"of rank 16 at most \(max_rank\), got .*'0' [0-9]+ for 0.999 of its energy"):
        save_lora(dense, tmp_path / "adapter", max_rank=16)
    report = save_lora(thin, tmp_path / "adapter", max_rank=16, energy=0.6)
    assert report.rank <= 16 and not report.lossless
    assert save_lora(thin, tmp_path / "adapter", max_rank=20).rank == 20  # no engine's number up to the limit
    assert save_lora(dense, tmp_path / "adapter", rank=16, max_rank=16).error > 0.1


def test_factors_that_repeat_themselves_count_once(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(40, 40, bias=False))
    engram = engram_of(model, rank=6)
    report = save_lora(engram + 0.5 * engram + engram, tmp_path / "adapter")
    assert report.rank == 8 and report.layers["0"].rank == 6 and report.lossless


# The base.


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True` and a tied layer")
@pytest.mark.parametrize("how", ["model", "folder"])
def test_a_tied_head_is_left_out_or_gets_its_own(how: str, tmp_path: Path) -> None:
    model = language.llama(tied=True)
    engram = language.recorded(model).engram(model, "one")
    model.save_pretrained(tmp_path / "base")
    base = model if how == "model" else tmp_path / "base"
    before = language.logits(model)
    for tied in ("skip", "untie"):
        report = save_lora(engram, tmp_path / tied, base=base, tied=tied)
        assert report.base_matches
        assert report.layers["lm_head"].status == ("skipped" if tied == "skip" else "adapted")
        edited = language.logits(lashley.ablate(model, engram, tied=tied))
        assert_edit(language.logits(adapted(model, tmp_path / tied)), edited, before)
        config = json.loads((tmp_path / tied / "adapter_config.json").read_text())
        assert config["task_type"] == "CAUSAL_LM"
        assert config["base_model_name_or_path"] == (str(base) if how == "folder" else None)
    with pytest.raises(EditError, match="all are tied"):
        save_lora(engram.select(["lm_head"]), tmp_path / "none", base=base)
    with pytest.raises(EditError, match="'skip' or 'untie', got 'both'"):
        save_lora(engram, tmp_path / "none", base=base, tied="both")


def test_peft_finds_the_base_by_the_adapter(tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    model = language.llama()
    model.save_pretrained(tmp_path / "base")
    engram = language.recorded(model).engram(model, "one")
    save_lora(engram, tmp_path / "adapter", base=tmp_path / "base")
    found = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert_edit(language.logits(found), language.logits(lashley.ablate(model, engram)), language.logits(model))


def test_a_quantised_base_may_have_an_adapter(tmp_path: Path) -> None:
    model = language.llama()
    model.save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    engram = language.recorded(model).engram(model, "one")
    assert save_lora(engram, tmp_path / "adapter", base=tmp_path / "base").base_matches is None


def test_an_adapter_for_another_base(tmp_path: Path) -> None:
    model = language.llama()
    engram = language.recorded(model).engram(model, "one")
    with pytest.raises(EditError, match="Expected the base to have layer 'model.layers.0.self_attn.q_proj'"):
        save_lora(engram, tmp_path / "adapter", base=language.gpt2())
    wide = nn.ModuleDict({"lm_head": nn.Linear(24, 50, bias=False)})
    with pytest.raises(EditError, match=r"Linear \[48, 24\] as in the engram, got Linear \[50, 24\]"):
        save_lora(engram.select(["lm_head"]), tmp_path / "adapter", base=wide)
    assert not (tmp_path / "adapter").exists()
    other = lashley.ablate(model, engram)
    with pytest.warns(LashleyWarning, match="not those the engram was solved for"):
        assert save_lora(engram, tmp_path / "adapter", base=other).base_matches is False


# What an adapter cannot hold.


FORMS = {
    "groups": (nn.Conv2d(4, 4, 3, groups=2), "a matrix for each"),
    "dilation": (nn.Conv2d(4, 4, 3, dilation=2), "neither dilation"),
    "padding": (nn.Conv2d(4, 4, 3, padding_mode="reflect"), "another padding"),
    "transposed": (nn.ConvTranspose2d(4, 4, 3), "PEFT has no LoRA for a part like this of ConvTranspose2d"),
}


@pytest.mark.parametrize(("module", "says"), FORMS.values(), ids=FORMS)
def test_forms_that_an_adapter_does_not_have(module: nn.Module, says: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), module)
    with pytest.raises(EditError, match=rf"got '1' .*{says}.*engram\.select"):
        save_lora(engram_of(model), tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_a_constant_in_a_running_mean_and_biases_beside_embeddings(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 5))
    with pytest.raises(EditError, match="does not go with embeddings"):
        save_lora(engram_of(model), tmp_path / "adapter")
    layer = describe("0", nn.Linear(4, 3, bias=False))
    delta = Delta(layer, weight=gaussian(3, 4), bias=gaussian(3), fold="norm")
    with pytest.raises(EditError, match="the running mean of 'norm'"):
        save_lora(lashley.Engram({"0": delta}, {}, None), tmp_path / "adapter")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rank": 0}, "rank from 1 to max_rank"),
        ({"rank": 9, "max_rank": 8}, "rank from 1 to max_rank = 8, got 9"),
        ({"max_rank": 0}, "max_rank of at least 1"),
        ({"energy": 0.0}, "a share above 0"),
        ({"energy": 1.5}, "a share above 0"),
        ({"dtype": torch.int8}, "floating point numbers of 16 bits"),
        ({"dtype": torch.float16, "alpha": 1e9}, "to hold the adapter of layer '0', got inf"),
        ({"alpha": float("inf")}, "alpha to be a finite number"),
    ],
)
def test_options_that_do_not_work(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(EditError, match=says):
        save_lora(engram_of(nn.Sequential(nn.Linear(9, 9))), tmp_path / "adapter", **options)
    assert list(tmp_path.iterdir()) == []


def test_the_report_and_the_folder(tmp_path: Path) -> None:
    model = language.llama()
    engram = language.recorded(model).engram(model, "one")
    report = save_lora(engram, tmp_path / "adapter")
    assert "rank 8, float32, lossless" in str(report) and "model.layers.0.mlp.up_proj" in str(report)
    manifest = json.loads((tmp_path / "adapter" / "manifest.json").read_text())
    assert manifest["report"] == report.to_dict() and manifest["concepts"] == {"one": 1.0}
    save_lora(engram, tmp_path / "adapter", rank=1)  # ours may be replaced
    (tmp_path / "adapter" / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="notes.txt"):
        save_lora(engram, tmp_path / "adapter")


# An adapter read by ourselves.


@pytest.mark.parametrize("make", [language.llama, language.qwen, language.gpt2])
def test_a_base_with_an_adapter_added_is_the_edited_model(make: Any, tmp_path: Path) -> None:
    model = make()
    model.save_pretrained(tmp_path / "base")
    engram = language.recorded(model).engram(model, "one")
    save_lora(engram, tmp_path / "adapter", base=model, tied="untie")
    found = Adapted(Source(tmp_path / "base"), tmp_path / "adapter")
    expected = lashley.ablate(model, engram, tied="untie").state_dict()
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert_near(found[name], value, rel=1e-6)


def test_convolutions_and_embeddings_read_back(tmp_path: Path) -> None:
    pictures = randomised(Pictures())
    save_lora(engram_of(pictures, bias=False), tmp_path / "pictures", energy=1.0)
    words = randomised(nn.ModuleDict({"table": nn.Embedding(9, 5), "square": Conv1D(6, 6)}))
    save_lora(engram_of(words, bias=False), tmp_path / "words", energy=1.0)
    for model, name in ((pictures, "pictures"), (words, "words")):
        found = Adapted(model.state_dict(), tmp_path / name)
        for key, value in lashley.ablate(model, engram_of(model, bias=False)).state_dict().items():
            assert_near(found[key], value, rel=1e-6)


def test_adapters_that_are_not_read(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 5))
    save_lora(engram_of(model, bias=False), tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    values = json.loads(config.read_text())
    with pytest.raises(ModelError, match=r"to have '0.weight', which .* changes.*for another base"):
        Adapted(nn.ModuleDict({"head": nn.Linear(6, 5)}).state_dict(), tmp_path / "adapter")
    other = Adapted(nn.Sequential(nn.Linear(7, 5)).state_dict(), tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"of the shape \[5, 6\] of the adapter .*, got \[5, 7\].*for another base"):
        other["0.weight"]
    for change in ({"use_dora": True}, {"rank_pattern": {"0": 4}}, {"peft_type": "LOHA"}):
        config.write_text(json.dumps({**values, **change}))
        with pytest.raises(ModelError, match=f"with {next(iter(change))} "):
            Adapted(model.state_dict(), tmp_path / "adapter")
    config.write_text(json.dumps({**values, "use_rslora": True}))
    scaled = Adapted(model.state_dict(), tmp_path / "adapter")
    config.write_text(json.dumps(values))
    plain = Adapted(model.state_dict(), tmp_path / "adapter")
    before = model.state_dict()["0.weight"]
    assert_near(scaled["0.weight"] - before, (plain["0.weight"] - before) * values["r"] ** 0.5, rel=1e-6)
    save_file({"layer.weight": torch.zeros(2)}, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="named base_model.model.LAYER"):
        Adapted(model.state_dict(), tmp_path / "adapter")
    with pytest.raises(ModelError, match="Expected a LoRA adapter with adapter_config.json"):
        Adapted(model.state_dict(), tmp_path)
