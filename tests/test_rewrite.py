"""Checkpoints rewritten file by file: the bits of an edit in memory, every other byte as it was."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

import language
import lashley
from editing import engram_of, randomised
from helpers import gaussian
from lashley.engram import Delta
from lashley.errors import EditError, ModelError, StoreError
from lashley.export import Source, rewrite_checkpoint
from lashley.export.shards import Shard
from lashley.layers import describe
from lashley.provenance import fingerprint

MODELS = {
    "llama": language.llama,
    "llama tied": lambda dtype: language.llama(dtype, True),
    "qwen": language.qwen,
    "gpt2": language.gpt2,
}


def saved(model: Any, folder: Path, size: str = "5kB") -> Path:
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


def spans(file: Path) -> tuple[bytes, dict[str, bytes]]:
    """The header of a safetensors file, and the bytes of each of its tensors."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]
    entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
    return header, {name: data[slice(*entry["data_offsets"])] for name, entry in entries.items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def model() -> Any:
    return language.llama(torch.bfloat16, True)


@pytest.fixture
def source(model: Any, tmp_path: Path) -> Path:
    return saved(model, tmp_path / "source")


@pytest.fixture
def engram(model: Any) -> lashley.Engram:
    return engram_of(model, "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj", rank=2, scale=0.02)


def test_what_is_not_edited_keeps_its_bytes(source: Path, engram: lashley.Engram, tmp_path: Path) -> None:
    rewrite_checkpoint(source, engram, tmp_path / "out")
    files = sorted(source.glob("*.safetensors"))
    assert len(files) > 2
    for file in files:
        (header, before), (again, after) = spans(file), spans(tmp_path / "out" / file.name)
        assert header == again and b"__metadata__" in header
        assert {name for name in before if before[name] != after[name]} == {f"{e}.weight" for e in engram} & set(before)


def test_everything_beside_the_weights_is_copied_but_the_card(
    source: Path, engram: lashley.Engram, tmp_path: Path
) -> None:
    for other in ("pytorch_model.bin", "consolidated.safetensors", "model.gguf", ".gitattributes"):
        (source / other).write_text("another form")
    (source / "original").mkdir()
    rewrite_checkpoint(source, engram, tmp_path / "out")
    before, after = contents(source), contents(tmp_path / "out")
    weights = {file.name for file in (tmp_path / "out").glob("*.safetensors")}
    same = {"config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json", "LICENSE"}
    assert set(after) == weights | same | {"receipt.json", "manifest.json"}
    assert weights == {file.name for file in source.glob("model-*.safetensors")}
    assert all(before[name] == after[name] for name in same)


def test_untying_adds_a_tensor_and_says_so(model: Any, source: Path, tmp_path: Path) -> None:
    engram = engram_of(model, "lm_head", rank=2)
    receipt = rewrite_checkpoint(source, engram, tmp_path / "out", tied="untie")
    assert "lm_head.weight added" in receipt.layers["lm_head"].note
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors(tmp_path / "out").values())
    assert index["weight_map"]["lm_head.weight"] == index["weight_map"]["model.embed_tokens.weight"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    for file in source.glob("*.safetensors"):
        (_, before), (_, after) = spans(file), spans(tmp_path / "out" / file.name)
        assert before == {name: content for name, content in after.items() if name != "lm_head.weight"}


def test_a_head_that_is_stored_twice_is_edited_as_it_is_loaded(model: Any, tmp_path: Path) -> None:
    """transformers ties what is equal and loads apart what differs, whatever the config promises."""
    engram = engram_of(model, "model.layers.0.mlp.up_proj", "lm_head", rank=2)
    for number, factor in enumerate((1.0, 2.0)):
        source = saved(model, tmp_path / f"source{number}", "1GB")
        state = tensors(source)
        state["lm_head.weight"] = factor * state["model.embed_tokens.weight"]
        save_file(state, source / "model.safetensors", {"format": "pt"})
        before = loaded(source)
        assert (before.lm_head.weight is before.model.embed_tokens.weight) == (factor == 1.0)
        for tied in ("skip", "untie", "both"):
            out = tmp_path / f"{number}{tied}"
            rewrite_checkpoint(source, engram, out, tied=tied)
            expected = lashley.ablate(before, engram, tied=tied).state_dict()
            found = loaded(out).state_dict()
            assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_names_without_the_prefix_of_the_body(tmp_path: Path) -> None:
    """As the first GPT-2 checkpoints have them."""
    model = language.gpt2()
    source = saved(model, tmp_path / "source", "1GB")
    state = {name.removeprefix("transformer."): tensor for name, tensor in tensors(source).items()}
    save_file(state, source / "model.safetensors", {"format": "pt"})
    engram = engram_of(model, *linear(model), "lm_head", rank=2, scale=0.02)
    rewrite_checkpoint(source, engram, tmp_path / "out", tied="untie")
    assert tensors(tmp_path / "out").keys() == {*state, "lm_head.weight"}
    expected = lashley.ablate(model, engram, tied="untie").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded(tmp_path / "out").state_dict().items())


def test_experts_that_are_put_together_when_loading_are_told_from_what_is_stored(tmp_path: Path) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(**language.SMALL, **language.shape(), num_local_experts=3)
    model = language.filled(MixtralForCausalLM(config), torch.float32)
    source = saved(model, tmp_path / "source")
    base = Source(source)
    assert "model.layers.1.mlp.experts.gate_up_proj" in base.made
    assert "model.layers.1.mlp.gate.weight" in base and "model.layers.1.block_sparse_moe.gate.weight" not in base
    assert set(base.file_names.values()) == set(tensors(source))
    engram = engram_of(model, "model.layers.1.self_attn.q_proj", rank=2)
    rewrite_checkpoint(source, engram, tmp_path / "out")
    expected = lashley.ablate(model, engram).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded(tmp_path / "out").state_dict().items())


def test_a_layer_that_is_made_when_loading_is_refused(
    source: Path, engram: lashley.Engram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(model: Any, names: Any) -> tuple[dict[str, str], set[str]]:
        wanted = "model.layers.0.mlp.up_proj.weight"
        return {name: name for name in names if name != wanted}, {wanted}

    monkeypatch.setattr("lashley.export.source.model_names", made)
    with pytest.raises(ModelError, match=r"up_proj\.weight' to be stored as it is used.*lashley\.ablate_"):
        rewrite_checkpoint(source, engram, tmp_path / "out")


class Net(nn.Module):
    """An architecture of nobody's, with layers that have their tensors in odd places."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)
        self.conv = nn.Conv2d(2, 4, 3, groups=2)
        self.up = nn.ConvTranspose1d(4, 6, 2, bias=False)
        self.norm = nn.BatchNorm1d(6)
        self.table = nn.Embedding(7, 5)


def test_any_layer_of_an_architecture_that_transformers_does_not_know(tmp_path: Path) -> None:
    model = randomised(Net())
    parts = [f"attention.{part}" for part in ("q_proj", "v_proj", "out_proj")]
    names = [*parts, "conv", "table"]
    modules = {**{n: m for n, m in model.named_modules()}, **dict.fromkeys(parts, model.attention)}
    deltas = {name: part_delta(name, modules[name], 10 * n) for n, name in enumerate(names)}
    deltas["up"] = Delta(describe("up", model.up), weight=gaussian(4, 6, 2), bias=gaussian(6), fold="norm")
    engram = lashley.Engram(deltas, {"cat": 1.0}, None)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "config.json").write_text('{"architectures": ["Net"]}')
    save_file(model.state_dict(), tmp_path / "source" / "model.safetensors")
    receipt = rewrite_checkpoint(tmp_path / "source", engram, tmp_path / "out", inject=True)
    said = lashley.inject_(model, engram)
    found = tensors(tmp_path / "out")
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())
    assert receipt == said


def part_delta(name: str, module: nn.Module, seed: int) -> Delta:
    layer = describe(name, module)
    weight = layer.tensor(module, "weight")
    assert weight is not None
    bias = gaussian(layer.matrices * layer.out, seed=seed + 1).float() if layer.bias else None
    return Delta(layer, weight=gaussian(*weight.shape, seed=seed), bias=bias, base=fingerprint(weight))


def test_the_base_is_recognised_in_the_type_it_was_loaded_in(
    model: Any, source: Path, engram: lashley.Engram, tmp_path: Path
) -> None:
    name = "model.layers.0.mlp.up_proj"
    wide = engram_of(loaded(source).float(), name, rank=2)
    assert rewrite_checkpoint(source, wide, tmp_path / "wide").base_matches
    assert rewrite_checkpoint(source, wide - wide.select([name]) * 0.5, tmp_path / "sum").base_matches
    other = engram_of(language.llama(torch.float32), name, rank=2)
    receipt = rewrite_checkpoint(source, other, tmp_path / "other")
    assert receipt.base_matches is (torch.equal(model.model.layers[0].mlp.up_proj.weight, other_weight(name)))


def other_weight(name: str) -> torch.Tensor:
    return language.llama().get_submodule(name).weight


# What is refused, with nothing left behind.


def refused(kind: type[Exception], says: str, source: Path, engram: Any, out: Path, **how: Any) -> None:
    before = contents(out.parent)
    with pytest.raises(kind, match=says):
        rewrite_checkpoint(source, engram, out, **how)
    assert contents(out.parent) == before
    assert not out.exists() and not list(out.parent.glob(".*"))


def test_checkpoints_that_cannot_be_rewritten(source: Path, engram: lashley.Engram, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shard = sorted(source.glob("*.safetensors"))[1]
    content = shard.read_bytes()
    for damage, says in {
        content[:-1]: "it should have .* bytes and has",
        content[:100]: "its header should have",
        content[:3]: "its header should have",
        content[:8] + b"x" + content[9:]: "its header cannot be read",
        b"": "its header should have",
    }.items():
        shard.write_bytes(damage)
        refused(ModelError, f"{shard.name} is cut off or no safetensors file: {says}", source, engram, out)
    shard.unlink()
    refused(ModelError, f"missing are {shard.name}. Download", source, engram, out)
    shard.write_bytes(sorted(source.glob("*.safetensors"))[0].read_bytes())
    refused(ModelError, "as model.safetensors.index.json says; it is not there", source, engram, out)
    for file in [*source.glob("*.safetensors"), *source.glob("*.index.json")]:
        file.unlink()
    refused(ModelError, "model.safetensors or model.safetensors.index.json; it has neither", source, engram, out)
    (source / "pytorch_model.bin").write_bytes(b"")
    refused(ModelError, "a pickle and can run code.*save_pretrained", source, engram, out)
    (source / "config.json").write_text("[]")
    refused(ModelError, "to be a JSON object, got list", source, engram, out)
    (source / "config.json").unlink()
    refused(ModelError, "a folder without one", source, engram, out)
    (source / "adapter_config.json").write_text("{}")
    refused(ModelError, "a LoRA adapter; give the folder of its base", source, engram, out)
    refused(ModelError, "no folder", tmp_path / "nowhere", engram, out)


def test_an_index_that_leads_elsewhere(source: Path, engram: lashley.Engram, tmp_path: Path) -> None:
    index = source / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"lm_head.weight": "../other.safetensors"}}')
    refused(ModelError, "to name files beside it", source, engram, tmp_path / "out")
    index.write_text("{}")
    refused(ModelError, "to say which tensor is in which file", source, engram, tmp_path / "out")


def test_a_quantised_base(source: Path, model: Any, engram: lashley.Engram, tmp_path: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (source / "config.json").write_text(json.dumps(config))
    refused(ModelError, "quantised by fp8.*LoRA adapter", source, engram, tmp_path / "out")
    del config["quantization_config"]
    (source / "config.json").write_text(json.dumps(config))
    for file in source.glob("*.safetensors"):
        state = {name: t.to(torch.float8_e4m3fn) for name, t in load_file(file).items()}
        save_file(state, file)
    refused(ModelError, "got float8_e4m3fn.*LoRA adapter", source, engram, tmp_path / "out")


def test_an_engram_of_another_model(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    other = language.gpt2()
    refused(EditError, "to have layer 'transformer.h.0.attn.c_attn'", source, engram_of(other, *linear(other)), out)
    wide = nn.ModuleDict({"model": nn.ModuleDict({"norm": nn.Linear(24, 2)})})
    refused(
        EditError, r"Linear with a weight \[2, 24\].*got .* with \[24\]", source, engram_of(wide, "model.norm"), out
    )
    transposed = nn.ModuleDict({"lm_head": Conv1D(48, 24)})
    refused(EditError, "Conv1D", source, engram_of(transposed, "lm_head"), out)
    square = nn.ModuleDict({"model": nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict()])})})
    square["model"]["layers"][0]["self_attn"] = nn.ModuleDict({"q_proj": Conv1D(24, 24)})
    engram = engram_of(square, "model.layers.0.self_attn.q_proj", bias=False)
    refused(EditError, "to be Conv1D .*got Linear", source, engram, out)
    biased = nn.ModuleDict({"lm_head": nn.Linear(24, 48)})
    refused(EditError, "to have a bias", source, engram_of(biased, "lm_head"), out)
    refused(EditError, "Expected an engram, got dict", source, {}, out)
    refused(EditError, "at least one layer", source, lashley.Engram({}, {}, None), out)


def test_numbers_that_would_not_be_finite(source: Path, engram: lashley.Engram, tmp_path: Path) -> None:
    refused(EditError, "finite weights after the edit", source, 1e4 * engram, tmp_path / "out", alpha=1e38)
    refused(EditError, "alpha to be a finite number", source, engram, tmp_path / "out", alpha=float("nan"))
    refused(EditError, "tied to be one of", source, engram, tmp_path / "out", tied="cut")


def test_an_out_that_exists(source: Path, engram: lashley.Engram, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(StoreError, match="to be absent, got something that exists"):
        rewrite_checkpoint(source, engram, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is no folder that you may write to"):
        rewrite_checkpoint(source, engram, tmp_path / "file" / "out")


def test_a_disk_that_is_too_small(
    source: Path, engram: lashley.Engram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    refused(StoreError, "got 0.00 GB where .*Nothing was written", source, engram, tmp_path / "out")


def test_a_disk_that_fills_up_all_the_same(
    source: Path, engram: lashley.Engram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, calls = Shard.copy, []

    def full(shard: Shard, target: Path, *args: Any) -> int:
        calls.append(target)
        if len(calls) == 2:
            target.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return copy(shard, target, *args)

    monkeypatch.setattr(Shard, "copy", full)
    refused(StoreError, "No space left on device. Nothing of it was left", source, engram, tmp_path / "out")


# Going on.


class Stopped(BaseException):
    """What stands for the end of the process."""


def stopped(monkeypatch: pytest.MonkeyPatch, after: int) -> list[str]:
    """Stop before the next file but so many; and the files that are written."""
    written: list[str] = []
    copy = Shard.copy

    def counted(shard: Shard, *args: Any) -> int:
        if len(written) == after:
            raise Stopped
        written.append(shard.path.name)
        return copy(shard, *args)

    monkeypatch.setattr(Shard, "copy", counted)
    return written


def test_a_second_call_goes_on_with_the_next_file(
    source: Path, engram: lashley.Engram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rewrite_checkpoint(source, engram, tmp_path / "expected")
    with monkeypatch.context() as patch:
        first = stopped(patch, after=2)
        with pytest.raises(Stopped):
            rewrite_checkpoint(source, engram, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with monkeypatch.context() as patch:
        second = stopped(patch, after=100)
        assert rewrite_checkpoint(source, engram, tmp_path / "out") == expected
    assert sorted(first + second) == sorted(file.name for file in source.glob("*.safetensors"))
    assert weights(tmp_path / "out") == weights(tmp_path / "expected")
    assert not list(tmp_path.glob(".*"))


def weights(folder: Path) -> dict[str, bytes]:
    """All but what names the time and the place of the call."""
    return {name: c for name, c in contents(folder).items() if name not in ("receipt.json", "manifest.json")}


@pytest.mark.parametrize("change", ["damage", "alpha", "source"])
def test_what_does_not_fit_is_written_anew(
    change: str, source: Path, engram: lashley.Engram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        first = stopped(patch, after=2)
        with pytest.raises(Stopped):
            rewrite_checkpoint(source, engram, tmp_path / "out")
    alpha = 0.5 if change == "alpha" else 1.0
    if change == "damage":
        file = tmp_path / ".out.part" / "folder" / first[0]
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif change == "source":
        os.utime(source / first[0], ns=(1, 1))
    with monkeypatch.context() as patch:
        second = stopped(patch, after=100)
        rewrite_checkpoint(source, engram, tmp_path / "out", alpha=alpha)
    assert set(first) & set(second) == {first[0]} if change == "damage" else set(first) <= set(second)
    monkeypatch.undo()
    rewrite_checkpoint(source, engram, tmp_path / "expected", alpha=alpha)
    assert weights(tmp_path / "out") == weights(tmp_path / "expected")


def test_killed_before_every_change_of_a_file(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).parent / "killing_rewrite.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 12
